"""How many hours a kit will take on Kaggle, known before it is uploaded: its graph, with the runtime that it holds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from tomopoint.export.advice import advice
from tomopoint.export.cost import (
    COMPETITION,
    HOURS_TO_WARN,
    ONNX_RUNTIME,
    TENSORRT,
    TITLES,
    Projection,
    format_projections,
    project,
)
from tomopoint.inference.cost import read_cost
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.kaggle.wheels import RTX_LIBS, TENSORRT_LIBS
from tomopoint.pipeline import Pipeline


@dataclass(frozen=True)
class KitHours:
    """Estimated hours of the competition's hidden test set.

    Attributes
    ----------
    runtime
        The one that counts: classic TensorRT where its libraries are in the kit, else ONNX Runtime's CUDA provider.
        TensorRT-RTX is tried on the card, but nobody is known to have run it on a T4, so it is not relied on.
    projections
        Of every runtime.
    text
        All of it in words.
    advice
        In words, what would make it faster: window, precision, views, runtime, networks.
    """

    runtime: str
    projections: tuple[Projection, ...]
    text: str
    advice: str

    @property
    def hours(self) -> float:
        """Hours with the runtime that counts."""
        return next(p.hours for p in self.projections if p.runtime == self.runtime)

    @property
    def warning(self) -> str | None:
        """What is wrong where it takes too long, with what would help; None where it does not."""
        if self.hours <= HOURS_TO_WARN:
            return None
        return (
            f"{self.hours:.1f} h are estimated for {COMPETITION.n_tomograms} tomograms with {TITLES[self.runtime]}, "
            f"above {HOURS_TO_WARN:g} h, and the notebook's limit is 12 h; {self.advice}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "runtime": self.runtime,
            "hours": round(self.hours, 2),
            "projections": {p.runtime: {"hours": round(p.hours, 2), "basis": p.basis} for p in self.projections},
        }


def kit_runtime(install: Collection[str]) -> str:
    """Return the runtime that counts for a kit with these distributions (``name==version``), see :class:`KitHours`."""
    return TENSORRT if _holds(install, TENSORRT_LIBS) else ONNX_RUNTIME


def _holds(install: Collection[str], distribution: str) -> bool:
    return distribution in {canonicalize_name(entry.partition("==")[0]) for entry in install}


def what_would_help(model_path: Path, install: Collection[str], measured: Projection, limit_hours: float) -> str | None:
    """Return what would take fewer hours than were measured; None where the graph does not say what it costs."""
    cost = read_cost(model_path)
    if cost is None:
        return None
    limit = min(limit_hours, HOURS_TO_WARN)
    pipeline, in_kit = read_pipeline(model_path), kit_runtime(install)
    return advice(cost, pipeline, kit_runtime=in_kit, measured=measured, limit_hours=limit)


def kit_hours(model_path: Path, pipeline: Pipeline, install: Collection[str]) -> KitHours | None:
    """Project the hours of a graph in a kit.

    Parameters
    ----------
    model_path
        The graph.
    pipeline
        Its Pipeline.
    install
        The kit's distributions, as ``name==version``.

    Returns
    -------
    KitHours or None
        None: the graph is of an earlier version, which did not count its cost.

    Raises
    ------
    EngineError
        No graph there, or a damaged one.
    """
    cost = read_cost(model_path)
    if cost is None:
        return None
    runtime, projections = kit_runtime(install), project(cost, pipeline)
    hours = {p.runtime: p.hours for p in projections}
    lines = [format_projections(cost, pipeline)]
    if runtime == TENSORRT:
        lines.append(
            f"this kit: {hours[TENSORRT]:.1f} h, TensorRT's libraries are in it; should TensorRT not do on the card, "
            f"ONNX Runtime takes {hours[ONNX_RUNTIME]:.1f} h"
        )
    else:
        lines.append(
            f"this kit: {hours[ONNX_RUNTIME]:.1f} h, for TensorRT's libraries are not in it, which costs "
            f"{hours[ONNX_RUNTIME] - hours[TENSORRT]:.1f} h (`tomopoint wheels` where NVIDIA's index answers)"
        )
        lines.append(
            "TensorRT-RTX is in it and is tried on the card, but was never run on a T4, so it is not relied on"
            if _holds(install, RTX_LIBS)
            else "TensorRT-RTX is not in it either (`tomopoint wheels`)"
        )
    return KitHours(runtime, projections, "\n".join(lines), advice(cost, pipeline, kit_runtime=runtime))
