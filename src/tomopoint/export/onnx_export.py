"""From training folders to one averaged ONNX graph, which is written once it computes what PyTorch computes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from tomopoint.data.normalisation import normalise
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import EngineError, TomopointError
from tomopoint.export.graph import OPSET, Graph
from tomopoint.export.graph_cost import cost_of
from tomopoint.export.graph_form import graph_form
from tomopoint.export.metadata import graph_metadata
from tomopoint.files import check_output, put_in_place, sha256_of
from tomopoint.inference.cost import GraphCost
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.inference.parity import (
    CPU_PROVIDER,
    PRECISIONS,
    Array,
    Outputs,
    ParityRow,
    compare,
    format_table,
    tolerance_for,
)
from tomopoint.inference.reference import REFERENCE_NAME, Reference, synthetic_windows
from tomopoint.networks.config import check_size
from tomopoint.networks.ensemble import Ensemble
from tomopoint.networks.graph_weights import GraphNetworks
from tomopoint.pipeline import Pipeline
from tomopoint.validation.validated import ValidatedEnsemble, load_validated

WHOLE = "whole graph"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportOptions:
    """How a graph is made. What it computes (members, weights, views, window) is the validated Pipeline's alone.

    Attributes
    ----------
    batch
        Static number of windows per call.
    precision
        ``"fp16"``: networks in float16, sigmoid, averages and ports in float32; or ``"fp32"`` throughout.
    tomogram_path
        Store to take the reference windows from; None for synthetic ones.
    """

    batch: int = 1
    precision: str = "fp16"
    tomogram_path: Path | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise TomopointError(f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.batch < 1:
            raise TomopointError(f"--batch must be at least 1, got {self.batch}")


@dataclass(frozen=True)
class ExportReport:
    """What was written, how well it agrees with PyTorch, and what it costs."""

    path: Path
    reference_path: Path
    onnx_sha256: str
    n_bytes: int
    pipeline: Pipeline
    rows: tuple[ParityRow, ...]
    cost: GraphCost
    seconds: float


def export_ensemble(training_folders: Sequence[Path], out: Path, options: ExportOptions) -> ExportReport:
    """Merge the networks of validated training folders into ``out``, with ``reference.npz`` beside it.

    Raises
    ------
    PipelineError
        Run folders that were not validated, or not together.
    EngineError
        ONNX Runtime and PyTorch disagree; nothing is written then.
    TomopointError
        A window or view that the networks cannot take, weights larger than one file holds, or an `out` that may not
        be replaced, see :func:`~tomopoint.files.check_output`.
    """
    if not training_folders:
        raise TomopointError("name one or more training folders, e.g. `tomopoint export trained/demo -o ensemble.onnx`")
    read = [path for run in training_folders for kind in ("json", "safetensors") for path in run.rglob(f"*.{kind}")]
    for path in (out, out.with_name(REFERENCE_NAME)):
        check_output(path, read)
    return export_merged(load_validated(training_folders), out, options)


def export_merged(merged: ValidatedEnsemble, out: Path, options: ExportOptions) -> ExportReport:
    """Export networks that are in memory already; see :func:`export_ensemble`."""
    start = time.monotonic()
    pipeline = merged.pipeline
    ensemble = Ensemble.of_pipeline(merged.networks, pipeline).eval()
    check_size((options.batch, 1, *pipeline.tiling.window_zyx), ensemble.divisor, ensemble.needs_context)
    windows = reference_windows(pipeline, options)
    how_made = {"precision": options.precision, "batch": options.batch, "opset": OPSET}
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        path = Path(folder) / "graph.onnx"
        # Each architecture alone, then the whole; a single network in a single view is the whole graph already.
        parts = merged.architectures if len(merged.networks) * len(pipeline.views) > 1 else {}
        rows = []
        for subject, module in {**parts, WHOLE: ensemble}.items():
            logger.info("export %s, %s, and compare it with PyTorch", subject, options.precision)
            form = graph_form(module, options.precision)
            graph = Graph(form, pipeline.tiling.window_zyx, options.batch)
            graph.save(path, graph_metadata(pipeline, [], how_made))
            with torch.inference_mode():
                scores, offsets = module(torch.from_numpy(windows))
            expected = Outputs(scores.numpy(), offsets.numpy())
            with closing(OnnxEngine(path, provider="cpu")) as engine:
                got = Outputs(*engine.infer(windows))
            tolerance = tolerance_for(options.precision, pipeline.tiling.window_zyx, CPU_PROVIDER)
            rows.append(compare(subject, CPU_PROVIDER, expected, got, tolerance, pipeline.stride))
        if not all(row.ok for row in rows):
            failed = ", ".join(row.subject for row in rows if not row.ok)
            raise EngineError(
                f"ONNX Runtime and PyTorch disagree ({failed}), so {out} was not written:\n{format_table(rows)}\n"
                "Where --precision is fp16, try fp32; in fp32 the exporter is at fault: try another torch and "
                "onnxscript"
            )
        _warn_of_blind_classes(pipeline, expected, rows[-1])
        # The whole graph again, with the parity table, its cost, and what training needs to go on from it.
        cost = cost_of(graph.model, pipeline, options.precision, options.batch)
        networks = GraphNetworks.of_graph(merged.configs, form.state_dict(), graph.weights)
        graph.save(path, graph_metadata(pipeline, rows, how_made, cost, networks.to_json()))
        reference = Reference(windows, expected, options.precision, sha256_of(path))
        reference_path = out.with_name(REFERENCE_NAME)
        reference.save(reference_path)
        put_in_place(path, out)
    return ExportReport(
        path=out,
        reference_path=reference_path,
        onnx_sha256=reference.onnx_sha256,
        n_bytes=out.stat().st_size,
        pipeline=pipeline,
        rows=tuple(rows),
        cost=cost,
        seconds=time.monotonic() - start,
    )


def reference_windows(pipeline: Pipeline, options: ExportOptions) -> Array:
    """Return the windows on which the graph is compared with PyTorch: from a tomogram, or synthetic."""
    window_zyx = pipeline.tiling.window_zyx
    if options.tomogram_path is None:
        return synthetic_windows(pipeline, window_zyx, options.batch)
    tomogram = read_tomogram(options.tomogram_path)
    volume = normalise(tomogram.volume_zyx, pipeline.normalisation)
    missing = [max(0, size - have) for size, have in zip(window_zyx, volume.shape, strict=True)]
    volume = np.pad(volume, [(n // 2, n - n // 2) for n in missing], mode="reflect") if any(missing) else volume
    room_zyx = np.subtract(volume.shape, window_zyx)
    shares = np.linspace(0, 1, options.batch + 2)[1:-1]
    starts = [tuple((room_zyx * share).astype(int)) for share in shares]
    crops = [volume[tuple(slice(s, s + n) for s, n in zip(start, window_zyx, strict=True))] for start in starts]
    return np.ascontiguousarray(np.stack(crops)[:, None])


def _warn_of_blind_classes(pipeline: Pipeline, outputs: Outputs, row: ParityRow) -> None:
    """Say where the windows hold nothing that a class answers to: an error of its scores could not show."""
    highest = outputs.scores.max(axis=(0, 2, 3, 4))
    blind = [
        name for name, score in zip(pipeline.particle_names, highest, strict=True) if score < 2 * row.tolerance.scores
    ]
    if blind:
        logger.warning(
            "the comparison says little of %s, whose scores stay below %.2f on these windows; "
            "give a tomogram that holds some: --tomogram DATA/train/static/ExperimentRuns/RUN/.../denoised.zarr",
            *(", ".join(blind), 2 * row.tolerance.scores),
        )
