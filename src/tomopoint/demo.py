"""The whole road on simulated tomograms, through the same commands a user types.

Every line that it shows can be copied and run on the competition's data instead.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tomopoint.command import CommandResult
from tomopoint.data.project import TRUTH_FOLDER
from tomopoint.extras import require_module
from tomopoint.inference.engines.graph_metadata import GRAPH_NAME
from tomopoint.inference.folder import SUBMISSION_NAME
from tomopoint.kaggle.inputs import WORKING
from tomopoint.road import Road, Step


@dataclass(frozen=True)
class DemoSize:
    """How much is simulated and trained.

    Attributes
    ----------
    train_runs, test_runs
        Numbers of simulated tomograms.
    shape
        Voxels along z, y, x of each, as ``D,H,W``.
    window
        Window of validation and submission, voxels; as large as these volumes allow with little overlap.
    recipe
        Training recipe; it has two folds, which are trained side by side.
    """

    train_runs: int
    test_runs: int
    shape: str
    window: str
    recipe: str


FULL = DemoSize(train_runs=16, test_runs=4, shape="128,320,320", window="128,192,192", recipe="demo")
SCRATCH = replace(FULL, recipe="demo-scratch")
QUICK = DemoSize(train_runs=2, test_runs=2, shape="96,160,160", window="96,96,96", recipe="demo-quick")


def demo(*, out: Path = Path("work/demo"), seed: int = 0, scratch: bool = False, quick: bool = False) -> CommandResult:
    """Walk the whole road on simulated tomograms.

    Simulate, train, validate, export, stage, rehearse, score, report.

    Parameters
    ----------
    out
        Folder for everything that is made; tomograms, networks and picks that are there already are not made again.
    seed
        Seed of the simulated tomograms.
    scratch
        Train from random weights, not from the model `small` that comes with the package.
    quick
        Small volumes and a few training steps, about two minutes: shows that everything runs, not how well.
    """
    from tomopoint.evaluation.command import REPORT_NAME

    for module in ("torch", "onnxruntime", "nbclient", "wheel"):
        require_module(module)  # better said now than after the training
    start = time.monotonic()
    size = QUICK if quick else SCRATCH if scratch else FULL
    out = out.resolve()
    road = Road("demo", out, {"seed": seed, "scratch": scratch, "quick": quick})
    paths = {
        "data": out / "data",
        "trained": out / "trained",
        "model": out / GRAPH_NAME,
        "dataset": out / "kaggle-dataset",
        "rehearsal": out / "kaggle",
        "submission": out / "kaggle" / WORKING / SUBMISSION_NAME,
        "truth": out / "data" / TRUTH_FOLDER,
        "report": out / REPORT_NAME,
    }
    for step in _steps(size, seed, paths):
        road.walk(step)
    figures = _figures(paths, dict(road.seconds), time.monotonic() - start)
    return CommandResult(_text(figures), figures)


def _steps(size: DemoSize, seed: int, paths: dict[str, Path]) -> list[Step]:
    """Return the steps; each is run every time, for its command leaves what is there already as it is."""
    p = {name: str(path) for name, path in paths.items()}
    runs = ("--train-runs", str(size.train_runs), "--test-runs", str(size.test_runs))
    sources = ("--data", p["data"], "--submission", p["submission"], "--truth", p["truth"])
    train = ("train", "--data", p["data"], "--recipe", size.recipe, "--out", p["trained"])
    rehearse = ("rehearse", "--dataset", p["dataset"], "--data", p["data"], "--out", p["rehearsal"])
    report = ("report", *sources, "--trained", p["trained"], "--model", p["model"], "--out", p["report"])
    return [
        Step("simulate", (("simulate", p["data"], *runs, "--shape", size.shape, "--seed", str(seed)),)),
        Step("train", tuple((*train, "--folds", fold) for fold in ("0", "1"))),
        Step("validate", (("validate", p["trained"], "--window", size.window),)),
        Step("export", (("export", p["trained"], "-o", p["model"]),)),
        Step("stage", (("stage", "--model", p["model"], "--out", p["dataset"]),)),
        Step("rehearse", (rehearse,)),
        Step("report", (report,)),
    ]


def _figures(paths: dict[str, Path], step_seconds: dict[str, float], seconds: float) -> dict[str, Any]:
    """Score the submission as `tomopoint score` does and gather what the demo made."""
    from tomopoint.evaluation.command import score

    scored = score(paths["submission"], truth=paths["truth"]).figures
    return {
        "score": scored["score"],
        "per_class": {name: values["f_beta"] for name, values in scored["per_class"].items()},
        "simulated": True,
        "seconds": round(seconds, 1),
        "step_seconds": step_seconds,
        **{name: str(paths[name]) for name in ("data", "model", "submission", "truth", "report")},
    }


def _text(figures: dict[str, Any]) -> str:
    rows = "\n".join(f"  {name:20} {value:.3f}" for name, value in figures["per_class"].items())
    return (
        f"Official F4 of the simulated test runs: {figures['score']:.4f}\n{rows}\n"
        f"Open {figures['report']} to look at it.\n{json.dumps(figures)}"
    )
