"""The commands ``kernels``, ``stage``, ``rehearse`` and ``push``."""

from __future__ import annotations

import logging
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError

if TYPE_CHECKING:
    from tomopoint.kaggle.manifest import Manifest

logger = logging.getLogger(__name__)


def kernels() -> CommandResult:
    """Write both notebooks and their metadata from their sources.

    These are the .py files and kernels.toml in kernels/, of the checkout or of the current folder. Outside of a
    checkout kernels/ and wheels/ are put there first, once.
    """
    from tomopoint.kaggle.home import PACKAGED, kaggle_home, start_home
    from tomopoint.kaggle.metadata import KERNELS_FOLDER
    from tomopoint.kaggle.notebooks import write_kernels

    home = kaggle_home(or_packaged=True)
    if home == PACKAGED:
        home = Path.cwd()
        files = start_home(home)
        start = [
            *(f"wrote {path.relative_to(home)}" for path in files),
            f"next: put your Kaggle name into {KERNELS_FOLDER}/kernels.toml, then run this again",
        ]
        return CommandResult("\n".join(start), {"changed": [str(path.relative_to(home)) for path in files]})
    changed = [str(path.relative_to(home)) for path in write_kernels(home / KERNELS_FOLDER)]
    text = "\n".join(f"wrote {name}" for name in changed) or "notebooks are up to date"
    return CommandResult(text, {"changed": changed})


def stage(
    *,
    model: Path | None = None,
    out: Path = Path("dist/kaggle-dataset"),
    check: Path | None = None,
    push: Path | None = None,
    dry_run: bool = False,
    over_time: bool = False,
) -> CommandResult:
    """Stage the Kaggle dataset, or check or upload a staged one.

    It holds the package's wheel, third-party wheels, graph, reference and manifest.

    Parameters
    ----------
    model
        Graph that `tomopoint export` wrote, with reference.npz beside it; or a model's name, see tomopoint models.
    out
        Folder to make; an earlier kit there is replaced.
    check
        Stage nothing, verify this staged folder instead.
    push
        Stage nothing, verify this staged folder and upload it, as a new dataset or a new version of it.
    dry_run
        With --push: check everything and print the commands, send nothing.
    over_time
        With --push: upload a kit that is projected to need more than 10 h.
    """
    from tomopoint.export.rebuilt import reference_of
    from tomopoint.kaggle.dataset import check_dataset, stage_dataset
    from tomopoint.kaggle.home import kaggle_home
    from tomopoint.models.box import NEVER_SEEN_A_REAL_ONE, find_model, is_in_box

    if sum(choice is not None for choice in (model, check, push)) != 1:
        raise TomopointError("give one of --model ensemble.onnx to stage a dataset, --check DIR or --push DIR")
    if push is not None:
        return _push_dataset(push, dry_run, over_time)
    if dry_run or over_time:
        raise TomopointError("--dry-run and --over-time go with --push DIR")
    if model is not None:
        home, model = kaggle_home(or_packaged=True), find_model(model)
        if is_in_box(model):
            logger.warning("%s: %s", model.name, NEVER_SEEN_A_REAL_ONE)
        with reference_of(model) as reference:
            manifest, folder = stage_dataset(model, out, home, reference), out
    else:
        assert check is not None
        manifest, folder = check_dataset(check), check
    return _show_kit(folder, manifest, "verified" if model is None else "staged and verified")


def _show_kit(folder: Path, manifest: Manifest, verb: str) -> CommandResult:
    from tomopoint.kaggle.push import hours_of

    n_bytes = sum(file.bytes for file in manifest.files.values())
    rows = "\n".join(f"  {file.bytes / 1e6:9.2f} MB  {name}" for name, file in manifest.files.items())
    hours = hours_of(folder)
    if hours is None:
        time = "time: this graph does not say what it costs; export it again\n"
    else:
        time = f"{hours.text}\n" + (f"warning: {hours.warning}\n" if hours.warning else "")
    text = (
        f"{verb} {folder}: {len(manifest.files)} files, {n_bytes / 1e6:.1f} MB, to install: "
        f"{', '.join(manifest.install)}\n{rows}\n{_missing_wheels(manifest.install)}{time}"
        f"next: tomopoint rehearse --dataset {folder} --data ROOT --out work/rehearsal, then tomopoint push {folder}"
    )
    figures = {
        "dataset": str(folder),
        "n_bytes": n_bytes,
        "install": list(manifest.install),
        "onnx_sha256": manifest.onnx_sha256,
        "pipeline_digest": manifest.pipeline_digest,
        "time": None if hours is None else hours.to_dict(),
    }
    return CommandResult(text, figures)


def _push_dataset(folder: Path, dry_run: bool, over_time: bool) -> CommandResult:
    from tomopoint.kaggle.cli import KaggleCli
    from tomopoint.kaggle.home import kaggle_home
    from tomopoint.kaggle.push import check_kit, push_dataset

    cli = KaggleCli(dry_run)
    kit = check_kit(folder, kaggle_home(), cli, over_time, with_kernels=False)
    push_dataset(kit, cli)
    dataset = kit.config.dataset_address
    end = "dry run, nothing was sent" if dry_run else f"{dataset} is ready on Kaggle"
    text = "\n".join([*cli.lines, f"{end}: {kit.n_bytes / 1e6:.1f} MB"])
    return CommandResult(text, {"dataset": dataset, "n_bytes": kit.n_bytes, "commands": cli.lines})


def push(
    dataset: Path,
    /,
    *,
    dry_run: bool = False,
    over_time: bool = False,
    wait_minutes: float | None = None,
    poll_seconds: float = 30.0,
    only: Literal["submit"] | None = None,
) -> CommandResult:
    """Upload the kit and both notebooks to Kaggle.

    In this order: dataset, engine notebook, wait until it has run, submit notebook. Calls the kaggle command, which
    must be installed and logged in. Pushing a notebook runs it, on your GPU quota.

    Parameters
    ----------
    dataset
        Kit that `tomopoint stage` made.
    dry_run
        Check everything, list all that is in the way at once, and print the commands; send nothing.
    over_time
        Push a kit that is projected to need more than 10 h.
    wait_minutes
        Longest wait for the dataset, and for the engine notebook with Kaggle's queue; by default 12 hours, which
        covers the longest run of that notebook.
    poll_seconds
        Time between two questions.
    only
        submit: push the submit notebook alone, once the engine notebook is complete; nothing is uploaded or built
        again.
    """
    from tomopoint.kaggle.cli import KaggleCli, Waiting
    from tomopoint.kaggle.home import kaggle_home
    from tomopoint.kaggle.metadata import ENGINE_KERNEL, SUBMIT_KERNEL
    from tomopoint.kaggle.push import WAIT_MINUTES, check_kit, push_all, push_submit

    wait_minutes = WAIT_MINUTES if wait_minutes is None else wait_minutes
    if not (0 < wait_minutes < inf and 0 <= poll_seconds < inf):
        raise TomopointError(
            f"--wait-minutes must be positive and --poll-seconds not negative, got {wait_minutes} and {poll_seconds}"
        )
    home = kaggle_home()
    cli = KaggleCli(dry_run, Waiting(wait_minutes, poll_seconds))
    kit = check_kit(dataset, home, cli, over_time)
    version = (push_all if only is None else push_submit)(kit, home, cli)
    engine, submit = kit.config.kernel_address(ENGINE_KERNEL), kit.config.kernel_address(SUBMIT_KERNEL)
    next_step = (
        f"next: once `kaggle kernels status {submit}` says complete, look at its table, then\n"
        f"kaggle competitions submit {kit.config.competition} -k {submit} -v {version or 'VERSION'} "
        "-f submission.csv -m MESSAGE"
    )
    lines = ["dry run, nothing was sent:"] if dry_run else []
    lines += [*cli.lines, next_step]
    if kit.hours is not None:
        lines.append(kit.hours.text)
    if not kit.config.image:
        lines.append(
            f"once it ran well, pin the image of both notebooks: `kaggle kernels pull {engine} -m "
            "-p DIR`, copy docker_image from DIR/kernel-metadata.json to image in kernels/kernels.toml, "
            "`tomopoint kernels`"
        )
    figures = {
        "dataset": kit.config.dataset_address,
        "n_bytes": kit.n_bytes,
        "time": None if kit.hours is None else kit.hours.to_dict(),
        "commands": cli.lines,
        "submit_version": version,
    }
    return CommandResult("\n".join(lines), figures)


def _missing_wheels(install: tuple[str, ...]) -> str:
    """Say that a kit without third-party wheels serves here, where the packages are installed, but not on Kaggle."""
    if len(install) > 1:
        return ""
    return "no third-party wheels: enough for a rehearsal here, Kaggle needs those of wheels/README.md\n"


def rehearse(*, dataset: Path, data: Path, out: Path, layout: Literal["flat", "nested"] = "flat") -> CommandResult:
    """Run both notebooks here, in a copy of Kaggle's folders.

    They run unchanged, the first one's output attached to the second.

    Parameters
    ----------
    dataset
        Kit that `tomopoint stage` made.
    data
        Project with test/static, standing for the competition's data.
    out
        Folder to make; out/working/submission.csv is the result, executed notebooks stay in out/executed.
    layout
        flat: input/SLUG; nested: input/datasets/OWNER/SLUG. Kaggle mounts inputs in either way.
    """
    from tomopoint.kaggle.home import kaggle_home
    from tomopoint.kaggle.metadata import KERNELS_FOLDER
    from tomopoint.kaggle.rehearsal import rehearse as run_rehearsal

    result = run_rehearsal(dataset, data, out, layout, kaggle_home(or_packaged=True) / KERNELS_FOLDER)
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
