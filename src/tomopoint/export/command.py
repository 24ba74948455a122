"""``export_onnx.py``: trained folds as one averaged graph."""

from __future__ import annotations

from pathlib import Path

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError


def export_onnx(  # noqa: PLR0913 - the options of a command
    runs: list[Path],
    out: Path = Path("ensemble.onnx"),
    window: str | None = None,
    batch: int = 1,
    precision: str = "fp32",
    views: str | None = None,
    offset_average: str = "mean",
    tomogram: Path | None = None,
) -> CommandResult:
    """Merge the networks of all folds into one ONNX graph that averages them, and prove that it equals PyTorch.

    Parameters
    ----------
    runs
        Run folders that `tomopoint train` filled and `tomopoint validate` scored.
    out
        File to write (also -o); reference.npz is written beside it.
    window
        Input size in voxels as D,H,W, e.g. 192,128,128; the Pipeline's unless given.
    batch
        Windows per call, fixed in the graph.
    precision
        fp32, or fp16: convolutions in float16, everything else in float32.
    views
        Views averaged inside the graph, e.g. identity,flip_x; costs one run of every network each.
    offset_average
        mean, or score: offsets of the more certain networks count more.
    tomogram
        Store whose middle serves for the comparison with PyTorch; synthetic noise with dips unless given.
    """
    from tomopoint.export.onnx_export import ExportOptions, export_ensemble
    from tomopoint.export.parity import format_table

    options = ExportOptions(
        window_zyx=None if window is None else parse_window(window),
        batch=batch,
        precision=precision,
        views=None if views is None else tuple(view.strip() for view in views.split(",")),
        offset_average=offset_average,
        tomogram_path=tomogram,
    )
    report = export_ensemble(runs, out, options)
    members = ", ".join(f"{member.fold}/{member.network}" for member in report.pipeline.members)
    text = (
        f"{report.path}: {len(report.pipeline.members)} networks averaged ({members}), {precision}, "
        f"{report.n_bytes / 1e6:.1f} MB, {report.seconds:.0f} s\n{format_table(report.rows)}\n"
        f"next: python build_dataset.py --model {report.path} --out dist/kaggle-dataset"
    )
    figures = {
        "model": str(report.path),
        "reference": str(report.reference_path),
        "onnx_sha256": report.onnx_sha256,
        "pipeline_digest": report.pipeline.digest,
        "n_bytes": report.n_bytes,
        "n_networks": len(report.pipeline.members),
        "parity": [row.to_dict() for row in report.rows],
    }
    return CommandResult(text, figures)


def parse_window(text: str) -> tuple[int, int, int]:
    """Read ``D,H,W``."""
    try:
        depth, height, width = (int(part) for part in text.split(","))
    except ValueError as error:
        raise TomopointError(f"--window takes three numbers D,H,W, e.g. 192,128,128; got {text!r}") from error
    return depth, height, width
