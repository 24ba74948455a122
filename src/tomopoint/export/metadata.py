"""Keys of what an exported graph says of itself, and the versions it was made with. Imports nothing heavy."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tomopoint import __version__
from tomopoint.inference.cost import GraphCost
from tomopoint.inference.engines.graph_metadata import COST_KEY, EXPORT_KEY, NETWORKS_KEY, PARITY_KEY, PIPELINE_KEY
from tomopoint.inference.parity import ParityRow
from tomopoint.pipeline import Pipeline

VERSION_KEY = "tomopoint.version"

EXPORT_TOOLS = ("torch", "monai", "onnx", "onnxscript", "onnxruntime", "numpy")


def tool_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python, tomopoint and those of `packages` that are installed."""
    found = {"python": platform.python_version(), "tomopoint": __version__}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def graph_metadata(
    pipeline: Pipeline,
    rows: Sequence[ParityRow],
    export: Mapping[str, Any],
    cost: GraphCost | None = None,
    networks: str | None = None,
) -> dict[str, str]:
    """Return the metadata of a graph: its Pipeline, its parity table, how it was made; cost and networks where known.

    The Pipeline's members carry the hash of every fold's weights.
    """
    costs = {} if cost is None else {COST_KEY: cost.to_json()}
    return {
        **costs,
        **({} if networks is None else {NETWORKS_KEY: networks}),
        PIPELINE_KEY: pipeline.to_json(indent=None),
        PARITY_KEY: json.dumps([row.to_dict() for row in rows], sort_keys=True),
        VERSION_KEY: __version__,
        EXPORT_KEY: json.dumps({**export, "versions": tool_versions(EXPORT_TOOLS)}, sort_keys=True),
    }
