"""What the submit notebook calls: every test run, shared between the GPUs, into a submission that is always valid."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd

from tomopoint.data.project import Project, Run
from tomopoint.data.tables import empty_pick_table, read_pick_table, write_submission
from tomopoint.errors import EngineError
from tomopoint.export.cost import COMPETITION, Projection
from tomopoint.inference.budget import Budget
from tomopoint.inference.engines.engine_record import EngineRecord, Expected, check_engine_record
from tomopoint.inference.engines.gpus import Gpu, find_gpus
from tomopoint.inference.engines.load import TENSORRT_RUNTIMES
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.predict_runs import PredictOptions, WorkersLost, predict_runs
from tomopoint.inference.summary import PredictionSummary
from tomopoint.kaggle.inputs import WORKING, find_competition, find_engine_record, find_kit
from tomopoint.kaggle.kit_hours import what_would_help
from tomopoint.kaggle.manifest import MODEL, Manifest
from tomopoint.pipeline import PIPELINE_NAME, Pipeline

LIMIT_HOURS = 11.5
"""Kaggle ends a GPU notebook after 12 hours; the rest is for installing, starting and joining."""

CPU_WORKERS = 2
SECONDS_FOR_A_FALLBACK = 300.0
"""With less than this left, a slower engine would hardly finish a run."""

_SLOWER = {"tensorrt": "cuda", "cuda": "cpu"}
_INSTEAD = {
    "cuda": "ONNX Runtime on CUDA instead, which is slower",
    "cpu": "ONNX Runtime on the CPU instead: only a small graph ends there, runs that it does not reach are missing",
}

_PROVIDERS = {
    "onnxruntime-cuda": "cuda",
    "onnxruntime-cpu": "cpu",
    **dict.fromkeys(TENSORRT_RUNTIMES, "tensorrt"),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubmitResult:
    """What the notebook shows.

    Attributes
    ----------
    text
        Which engine was taken and why, times, and runs that failed.
    table
        One row per run: status, seconds, submitted picks per particle, notes (missing chunks).
    submission_path
        ``submission.csv``.
    ok
        Whether every run is in it.
    """

    text: str
    table: pd.DataFrame
    submission_path: Path
    ok: bool


def run(root: Path, limit_hours: float = LIMIT_HOURS) -> SubmitResult:
    """Predict all test runs of the attached competition; leave ``<root>/working/submission.csv``.

    A submission without picks is written first, so that there is one whatever happens. Runs that fail are reported
    and the others come out; an engine that does not start, or breaks down on every GPU, is replaced by the next
    slower one, which gets the time that is left; whether that is enough for a single run depends on the graph.

    Parameters
    ----------
    root
        ``/kaggle``, or the root of a rehearsal.
    limit_hours
        Time after this call at which no further run is started.

    Raises
    ------
    DataError
        An input is not attached, or the kit is damaged.
    EngineError
        Not even the CPU can run the graph.
    """
    started = time.monotonic()
    out = PredictionFolder(root / WORKING)
    write_submission(empty_pick_table(), out.submission_path)
    kit = find_kit(root)
    manifest = Manifest.load(kit)
    manifest.verify(kit)
    runs = Project(find_competition(root)).runs("test")
    pipeline = Pipeline.load(kit / PIPELINE_NAME)
    gpus = find_gpus()
    record_path = find_engine_record(root)
    provider, why = choose_provider(record_path, manifest, gpus)
    lines = [why]
    n_earlier_events = len(out.events())
    options = PredictOptions(
        workers=len(gpus) or CPU_WORKERS,
        provider=provider,
        limit_hours=limit_hours,
        record_path=record_path if provider == "tensorrt" else None,
        started=started,
    )
    summary = _predict(runs, kit / MODEL, out, options, lines)
    table = _table(summary, pipeline.particle_names)
    events = out.events()[n_earlier_events:]
    lines += _report(summary, events)
    lines += _hidden_runs(summary, limit_hours, kit / MODEL, events, manifest.install, provider != "cpu")
    return SubmitResult("\n".join(lines), table, out.submission_path, summary.ok)


def choose_provider(record_path: Path | None, manifest: Manifest, gpus: Sequence[Gpu]) -> tuple[str, str]:
    """Return what computes the graph, and why, in one line.

    An ``engine.json`` that does not belong to the kit or to this machine is not used: the graph is then run by ONNX
    Runtime, on CUDA where there are GPUs, which is slower at worst.
    """
    plain = "cuda" if gpus else "cpu"
    fallback = f"plain ONNX Runtime on {gpus[0].name if gpus else 'the CPU'}"
    if record_path is None:
        return plain, f"no engine.json attached (the output of tomopoint build engine): {fallback}"
    capability = gpus[0].compute_capability if gpus else None
    try:
        record = EngineRecord.load(record_path)
        expected = Expected(manifest.onnx_sha256, manifest.pipeline_digest, compute_capability=capability)
        check_engine_record(record, record_path.parent, expected)
    except EngineError as error:
        return plain, f"engine.json not used: {' '.join(str(error).split())}: {fallback}"
    if bool(gpus) != (record.compute_capability is not None):
        return plain, f"engine.json not used: it was made on {record.device}, this machine differs: {fallback}"
    if record.runtime not in _PROVIDERS:
        return plain, f"engine.json not used: unknown runtime {record.runtime}: {fallback}"
    provider = _PROVIDERS[record.runtime]
    if gpus and provider == "cpu":
        return plain, f"engine.json not used: it names the CPU though there is a GPU: {fallback}"
    return provider, f"engine.json fits: {record.runtime} on {record.device}"


def _predict(
    runs: Sequence[Run], model: Path, out: PredictionFolder, options: PredictOptions, lines: list[str]
) -> PredictionSummary:
    """Predict with what was chosen; where no worker is left over it, with the next slower engine, and say so.

    Parts stay, and so does the clock: a slower engine does what is left, in the time that is left.
    """
    try:
        return predict_runs(runs, model, out.path, options)
    except WorkersLost as error:
        slower = _SLOWER.get(options.provider)
        if slower is None and error.summary.n_done == 0:
            raise
        left = inf
        if options.limit_hours is not None and options.started is not None:
            left = options.started + options.limit_hours * 3600 - time.monotonic()
        if slower is None or left < SECONDS_FOR_A_FALLBACK:
            lines.append(f"{options.provider} broke down ({error}): what is done is submitted")
            logger.error(lines[-1])
            return error.summary
        verb = "broke down" if error.summary.n_done else "did not start"
        lines.append(f"{options.provider} {verb} ({error}): {_INSTEAD[slower]}")
        logger.warning(lines[-1])
        options = replace(options, provider=slower, record_path=None)
        return _predict(runs, model, out, options, lines)


def _table(summary: PredictionSummary, particles: Sequence[str]) -> pd.DataFrame:
    """Return status, seconds, counts and notes per run."""
    submitted = read_pick_table(summary.folder.submission_path)
    seconds = {event["run"]: event["seconds"] for event in summary.folder.events() if event["event"] == "done"}
    rows = []
    for outcome in summary.outcomes:
        found = submitted.loc[submitted["experiment"] == outcome.run, "particle_type"]
        counts = {name: int((found == name).sum()) for name in particles}
        row = {"run": outcome.run, "status": outcome.status, "seconds": seconds.get(outcome.run), **counts}
        rows.append(row | {"notes": "; ".join(outcome.notes)})
    return pd.DataFrame(rows).set_index("run")


def _report(summary: PredictionSummary, events: Sequence[dict[str, Any]]) -> list[str]:
    """Say how many runs are done, by whom and on what, what the first of them foretold, and what is missing."""
    workers = f"{summary.n_workers} worker{'s' * (summary.n_workers != 1)}"
    lines = [f"{summary.n_done} of {len(summary.outcomes)} runs in {summary.seconds:.0f} s by {workers}"]
    if summary.n_workers:
        lines[0] += f", {summary.mean_run_seconds:.1f} s per run and worker"
    lines += [f"after the first runs: {event['message']}" for event in events if event["event"] == "projection"]
    lines += [f"worker {worker} ran on {', then '.join(names)}" for worker, names in sorted(_engines(events).items())]
    lines += summary.lost
    lines.append(f"{summary.n_submitted} picks submitted, of {summary.n_picks} above the floor")
    lines += summary.remarks
    return lines + [f"{outcome.run}: {outcome.status}, {outcome.message}" for outcome in summary.failed]


def _hidden_runs(
    summary: PredictionSummary,
    limit_hours: float,
    model: Path,
    events: Sequence[dict[str, Any]],
    install: Sequence[str],
    on_gpu: bool,
) -> list[str]:
    """Project the speed of these runs to the hidden test set, and say it clearly where that does not fit."""
    if not summary.n_workers:
        return []
    # Without the workers' start, which all runs share.
    budget = Budget(limit_hours * 3600, summary.n_workers, [summary.mean_run_seconds])
    n_hidden, n_fitting = COMPETITION.n_tomograms, budget.fitting()
    line = f"{n_hidden} such runs would take {budget.projected(n_hidden) / 3600:.1f} h of {limit_hours:g} h"
    if not on_gpu:
        return [f"{line}; on this CPU, which tells nothing of Kaggle's GPUs and stops nothing"]
    if n_fitting is None or n_fitting >= n_hidden:
        return [line]
    too_slow = f"TOO SLOW: {line}: only {n_fitting} of them would be in the submission"
    runtimes = {names[-1] for names in _engines(events).values()}
    if any(_PROVIDERS.get(name) == "cpu" for name in runtimes):
        return [too_slow, "they ran on the CPU beside a GPU: what helps is what the lines above say of the GPU"]
    # A time of several runtimes is of no single one.
    measured = Projection.of_engine(runtimes.pop(), budget.projected(n_hidden) / 3600) if len(runtimes) == 1 else None
    ways = measured and what_would_help(model, install, measured, limit_hours)
    return [too_slow, ways] if ways else [too_slow]


def _engines(events: Sequence[dict[str, Any]]) -> dict[int, list[str]]:
    """Return the engines that each worker really got, in order."""
    got: dict[int, list[str]] = {}
    for event in events:
        if event["event"] == "engine":
            names = got.setdefault(event["worker"], [])
            if event["runtime"] not in names[-1:]:
                names.append(event["runtime"])
    return got
