"""The whole road on simulated tomograms, through the same commands a user types.

Nothing here knows how a step works: each is a command of its own process, shown before it runs, so that every line
can be copied and run on the competition's data instead.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomopoint.command import CommandResult
from tomopoint.data.project import TRUTH_FOLDER
from tomopoint.errors import TomopointError
from tomopoint.inference.engines.graph_metadata import GRAPH_NAME
from tomopoint.inference.folder import SUBMISSION_NAME
from tomopoint.kaggle.checkout import checkout_root
from tomopoint.kaggle.inputs import WORKING
from tomopoint.strict_json import read

logger = logging.getLogger(__name__)


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
QUICK = DemoSize(train_runs=2, test_runs=2, shape="96,160,160", window="96,96,96", recipe="demo-quick")


def demo(*, out: Path = Path("work/demo"), seed: int = 0, quick: bool = False) -> CommandResult:
    """Walk the whole road on simulated tomograms.

    Simulate, train, validate, export, stage, rehearse, score, report.

    Parameters
    ----------
    out
        Folder for everything that is made; tomograms, networks and picks that are there already are not made again.
    seed
        Seed of the simulated tomograms.
    quick
        Small volumes and a few training steps, about two minutes: shows that everything runs, not how well.
    """
    from tomopoint.evaluation.command import REPORT_NAME

    checkout_root()  # staging needs it: better said now than after the training
    start = time.monotonic()
    size = QUICK if quick else FULL
    out = out.resolve()
    _refuse_other_demo(out, {"seed": seed, "quick": quick})
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
    seconds: dict[str, float] = {}
    for name, commands in _steps(size, seed, paths):
        seconds[name] = _run_step(name, commands)
    figures = _figures(paths, seconds, time.monotonic() - start)
    return CommandResult(_text(figures), figures)


def _steps(size: DemoSize, seed: int, paths: dict[str, Path]) -> list[tuple[str, list[list[str]]]]:
    """Return each step's name and its command lines, which run side by side."""
    tomopoint = [sys.executable, "-m", "tomopoint"]
    p = {name: str(path) for name, path in paths.items()}
    runs = ["--train-runs", str(size.train_runs), "--test-runs", str(size.test_runs)]
    sources = ["--data", p["data"], "--submission", p["submission"], "--truth", p["truth"]]
    train = [*tomopoint, "train", "--data", p["data"], "--recipe", size.recipe, "--out", p["trained"]]
    rehearse = [*tomopoint, "rehearse", "--dataset", p["dataset"], "--data", p["data"], "--out", p["rehearsal"]]
    report = [*tomopoint, "report", *sources, "--trained", p["trained"], "--model", p["model"], "--out", p["report"]]
    return [
        ("simulate", [[*tomopoint, "simulate", p["data"], *runs, "--shape", size.shape, "--seed", str(seed)]]),
        ("train", [[*train, "--folds", fold] for fold in ("0", "1")]),
        ("validate", [[*tomopoint, "validate", p["trained"], "--window", size.window]]),
        ("export", [[*tomopoint, "export", p["trained"], "-o", p["model"]]]),
        ("stage", [[*tomopoint, "stage", "--model", p["model"], "--out", p["dataset"]]]),
        ("rehearse", [rehearse]),
        ("report", [report]),
    ]


def _run_step(name: str, commands: Sequence[Sequence[str]]) -> float:
    """Run a step's commands, their output passing through; return its seconds."""
    environment = dict(os.environ)
    if len(commands) > 1:  # threads that wait for each other's cores cost more than the cores give
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // len(commands)))
    start = time.monotonic()
    processes = []
    for words in commands:
        logger.info("demo, step %s: %s", name, _shown(words))
        processes.append(subprocess.Popen(words, stdout=sys.stderr, env=environment))
    try:
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()
    for words, status in zip(commands, statuses, strict=True):
        if status != 0:
            raise TomopointError(f"the demo stopped at step {name!r} (status {status}), see above: {_shown(words)}")
    return round(time.monotonic() - start, 1)


def _shown(words: Sequence[str]) -> str:
    return shlex.join(["python", *words[1:]])


def _refuse_other_demo(out: Path, options: dict[str, Any]) -> None:
    """A folder belongs to one set of options, so that no step mixes files of two demos."""
    record = out / "demo.json"
    if record.exists():
        earlier = read(record)
        if earlier != options:
            raise TomopointError(f"{out} holds a demo made with {earlier}, not {options}; choose another --out")
        return
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(options))


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
