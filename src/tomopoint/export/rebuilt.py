"""The reference of a model of the box: computed by PyTorch from the graph's own weights.

``reference.npz`` is tens of megabytes, more than the networks of the box, so they come without. It is made where one is
needed: beside an engine that is built, in a kit that is staged. What it shows is that a runtime computes what PyTorch
computes with these weights; how they differ from those that were trained, by rounding, the graph's own table says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tomopoint.errors import EngineError
from tomopoint.extras import how_to_install
from tomopoint.files import sha256_of
from tomopoint.inference.engines.graph_metadata import EXPORT_KEY, NETWORKS_KEY, pipeline_in, read_metadata
from tomopoint.inference.parity import CPU_PROVIDER, Outputs, compare, format_table, tolerance_for
from tomopoint.inference.reference import REFERENCE_NAME, Reference, synthetic_windows
from tomopoint.models.box import is_in_box
from tomopoint.strict_json import parse, reading

if TYPE_CHECKING:
    from tomopoint.networks.ensemble import Ensemble
    from tomopoint.validation.validated import ValidatedEnsemble

logger = logging.getLogger(__name__)


@contextmanager
def reference_of(model_path: Path) -> Iterator[Path]:
    """Yield the path of a graph's reference: beside it, or for a model of the box made for as long as it is needed.

    Raises
    ------
    EngineError
        No PyTorch to make it with, or ONNX Runtime does not compute what PyTorch computes.
    """
    beside = model_path.with_name(REFERENCE_NAME)
    if beside.is_file() or not is_in_box(model_path):
        yield beside
        return
    with TemporaryDirectory(prefix="tomopoint.") as folder:
        logger.info("make the reference of %s: PyTorch's answers to synthetic windows", model_path.name)
        path = Path(folder) / REFERENCE_NAME
        rebuild_reference(model_path).save(path)
        yield path


def rebuilt_networks(model_path: Path) -> ValidatedEnsemble:
    """Return the networks of a graph, with its weights, and its Pipeline: what it can be exported from again.

    Needs PyTorch.

    Raises
    ------
    EngineError, TomopointError
        As :func:`rebuild_reference`.
    """
    from tomopoint.networks.build import build_network
    from tomopoint.networks.graph_weights import GraphNetworks, GraphWeights
    from tomopoint.validation.validated import ValidatedEnsemble

    metadata = read_metadata(model_path)
    pipeline = pipeline_in(metadata, model_path)
    if NETWORKS_KEY not in metadata or EXPORT_KEY not in metadata:
        raise EngineError(
            f"{model_path} does not say which networks it holds; where it was merged of several graphs "
            "(`tomopoint merge-graph`), change those and merge them again, otherwise export it again"
        )
    stored = GraphWeights(
        model_path,
        GraphNetworks.from_json(metadata[NETWORKS_KEY], model_path),
        pipeline.particle_names,
        pipeline.stride,
    )
    networks = []
    for index, config in enumerate(stored.networks.architectures):
        network = build_network(config, len(pipeline.particles), pipeline.stride)
        network.load_state_dict(dict(stored.read(index).weights))
        networks.append(network)
    return ValidatedEnsemble(tuple(networks), pipeline, stored.networks.architectures)


def how_exported(model_path: Path) -> dict[str, Any]:
    """Return precision and batch of a graph, as `tomopoint export` was asked for them."""
    metadata = read_metadata(model_path)
    with reading(model_path, EngineError, "does not say how it was exported", "export it again"):
        how = parse(metadata.get(EXPORT_KEY, ""))
        return {name: how[name] for name in ("precision", "batch")}


def rebuild_ensemble(model_path: Path) -> Ensemble:
    """Return the networks of a graph as the module that it computes; see :func:`rebuilt_networks`."""
    from tomopoint.networks.ensemble import Ensemble

    rebuilt = rebuilt_networks(model_path)
    return Ensemble.of_pipeline(rebuilt.networks, rebuilt.pipeline).eval()


def rebuild_reference(model_path: Path) -> Reference:
    """Compute a graph's answers with PyTorch, in float32, from the weights in it; compare ONNX Runtime's.

    Raises
    ------
    EngineError
        As :func:`reference_of`.
    TomopointError
        The graph does not hold its networks, see :class:`~tomopoint.networks.graph_weights.GraphWeights`.
    """
    try:
        import torch
    except ImportError as error:
        raise EngineError(
            f"a model of the box comes without {REFERENCE_NAME}, and making it {how_to_install('torch')}"
        ) from error
    from tomopoint.inference.engines.onnx import OnnxEngine

    ensemble = rebuild_ensemble(model_path)
    pipeline, how = pipeline_in(read_metadata(model_path), model_path), how_exported(model_path)
    precision, batch = how["precision"], how["batch"]
    windows = synthetic_windows(pipeline, pipeline.tiling.window_zyx, batch)
    with torch.inference_mode():
        scores, offsets = ensemble(torch.from_numpy(windows))
    expected = Outputs(scores.numpy(), offsets.numpy())
    with closing(OnnxEngine(model_path, provider="cpu")) as engine:
        got = Outputs(*engine.infer(windows))
    tolerance = tolerance_for(precision, pipeline.tiling.window_zyx, CPU_PROVIDER)
    row = compare(model_path.stem, CPU_PROVIDER, expected, got, tolerance, pipeline.stride)
    if not row.ok:
        raise EngineError(
            f"{model_path} does not compute here what PyTorch computes with its weights:\n{format_table([row])}"
        )
    return Reference(windows, expected, precision, sha256_of(model_path))
