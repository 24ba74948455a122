"""``build_dataset.py`` and ``tomopoint rehearse``."""

from __future__ import annotations

from pathlib import Path

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError


def build_dataset(
    model: Path | None = None, out: Path = Path("dist/kaggle-dataset"), check: Path | None = None
) -> CommandResult:
    """Stage the Kaggle dataset: package wheel, third-party wheels, graph, reference, manifest.

    Parameters
    ----------
    model
        Graph that export_onnx.py wrote, with reference.npz beside it.
    out
        Folder to make; an earlier kit there is replaced.
    check
        Stage nothing, verify this staged folder instead.
    """
    from tomopoint.kaggle.checkout import checkout_root
    from tomopoint.kaggle.dataset import check_dataset, stage_dataset

    if (model is None) == (check is None):
        raise TomopointError("give --model ensemble.onnx to stage a dataset, or --check DIR to verify a staged one")
    if model is not None:
        manifest, folder = stage_dataset(model, out, checkout_root()), out
    else:
        assert check is not None
        manifest, folder = check_dataset(check), check
    n_bytes = sum(file.bytes for file in manifest.files.values())
    rows = "\n".join(f"  {file.bytes / 1e6:9.2f} MB  {name}" for name, file in manifest.files.items())
    verb = "verified" if model is None else "staged and verified"
    text = (
        f"{verb} {folder}: {len(manifest.files)} files, {n_bytes / 1e6:.1f} MB, to install: "
        f"{', '.join(manifest.install)}\n{rows}\n{_missing_wheels(manifest.install)}"
        f"next: tomopoint rehearse --dataset {folder} --data ROOT --out work/rehearsal, then "
        f"kaggle datasets create -p {folder}"
    )
    figures = {
        "dataset": str(folder),
        "n_bytes": n_bytes,
        "install": list(manifest.install),
        "onnx_sha256": manifest.onnx_sha256,
        "pipeline_digest": manifest.pipeline_digest,
    }
    return CommandResult(text, figures)


def _missing_wheels(install: tuple[str, ...]) -> str:
    """Say that a kit without third-party wheels serves here, where the packages are installed, but not on Kaggle."""
    if len(install) > 1:
        return ""
    return "no third-party wheels: enough for a rehearsal here, Kaggle needs those of wheels/README.md\n"


def rehearse(dataset: Path, data: Path, out: Path, layout: str = "flat") -> CommandResult:
    """Execute both notebooks unchanged in a copy of Kaggle's folders, the first one's output attached to the second.

    Parameters
    ----------
    dataset
        Kit that build_dataset.py staged.
    data
        Project with test/static, standing for the competition's data.
    out
        Folder to make; out/working/submission.csv is the result, executed notebooks stay in out/executed.
    layout
        flat (input/SLUG) or nested (input/datasets/OWNER/SLUG): Kaggle mounts inputs in either way.
    """
    from tomopoint.kaggle.checkout import checkout_root
    from tomopoint.kaggle.rehearsal import rehearse as run_rehearsal

    result = run_rehearsal(dataset, data, out, layout, checkout_root() / "kernels")
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
    notebooks = ", ".join(str(path) for path in result.notebooks)
    text = f"both notebooks ran ({seconds})\nsubmission: {result.submission_path}\nexecuted notebooks: {notebooks}"
    figures = {
        "submission": str(result.submission_path),
        "engine": str(result.engine_path),
        "notebooks": [str(path) for path in result.notebooks],
        "layout": layout,
        "notebook_seconds": {name: round(value, 1) for name, value in result.seconds.items()},
    }
    return CommandResult(text, figures)
