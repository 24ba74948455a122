"""What the build_engine notebook calls: find the fastest runtime that reproduces PyTorch's outputs on this machine."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

from tomopoint.errors import EngineError
from tomopoint.export.cost import COMPETITION, HOURS_TO_STOP, Projection
from tomopoint.export.engine_build import BuildOptions
from tomopoint.export.engine_trial import (
    Bench,
    Candidate,
    attempt,
    build_with_onnxruntime,
    load_as_submitted,
    native,
)
from tomopoint.inference.engines.engine import Engine
from tomopoint.inference.engines.engine_record import RECORD_NAME, EngineRecord
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.engines.load import ORT_TENSORRT
from tomopoint.inference.engines.onnx import VERSION, OnnxEngine
from tomopoint.inference.engines.tensorrt_module import CLASSIC, RTX, why_no_gpu
from tomopoint.inference.isolation import call_in_child
from tomopoint.inference.parity import ParityRow, format_table
from tomopoint.inference.reference import REFERENCE_NAME, Reference
from tomopoint.kaggle.inputs import SCRATCH, WORKING, find_kit
from tomopoint.kaggle.kit_hours import what_would_help
from tomopoint.kaggle.manifest import MODEL, Manifest

BUILD = BuildOptions()
NORM_PLUGIN = replace(BUILD, native_norms=False)
SECOND_LEVEL = 3
"""Of a second try: level 4 compiles kernels for the graph, 3 takes ready ones where there are any."""

TRIAL_SECONDS = 1.5 * 3600
"""A candidate that has not answered by then hangs: the builder times each kernel of two architectures once."""
NOTEBOOK_SECONDS = 10 * 3600
"""Kaggle ends a GPU notebook after 12 hours; nothing is begun after these."""

logger = logging.getLogger(__name__)


def _build_nothing(bench: Bench, folder: Path) -> str:
    return VERSION


def _load_graph(bench: Bench, record: EngineRecord, provider: str) -> Engine:
    return OnnxEngine(bench.model, provider)


def _twice(name: str, options: BuildOptions) -> Candidate:
    """Return classic TensorRT, tried once more with other tactics where its outputs are wrong."""
    again = native(
        f"{name}-other-tactics", CLASSIC, replace(options, optimization_level=SECOND_LEVEL, other_tactics=True)
    )
    return native(name, CLASSIC, options, again)


CANDIDATES: tuple[Candidate, ...] = (
    Candidate(
        "onnxruntime-cuda",
        "onnxruntime-cuda",
        "CUDAExecutionProvider",
        True,
        _build_nothing,
        partial(_load_graph, provider="cuda"),
    ),
    native("tensorrt-rtx", RTX, BUILD),
    _twice("tensorrt", BUILD),
    _twice("tensorrt-norm-plugin", NORM_PLUGIN),
    Candidate(
        ORT_TENSORRT,
        ORT_TENSORRT,
        "TensorrtExecutionProvider",
        True,
        partial(build_with_onnxruntime, options=BUILD),
        load_as_submitted,
        {"workspace_gib": BUILD.workspace_gib, "optimization_level": BUILD.optimization_level},
    ),
    Candidate(
        "onnxruntime-cpu",
        "onnxruntime-cpu",
        "CPUExecutionProvider",
        False,
        _build_nothing,
        partial(_load_graph, provider="cpu"),
    ),
)
"""In the order they are tried: what needs no long build first, so that there is an engine early, whatever follows."""


@dataclass(frozen=True)
class EngineReport:
    """What the notebook shows.

    Attributes
    ----------
    text
        Every candidate with its time, or why it was passed over, what was taken, and the parity table.
    record
        As written to ``engine.json``, or None where no candidate may be trusted.
    why_not
        Why the notebook should end in an error; None: it should not.
    """

    text: str
    record: EngineRecord | None
    why_not: str | None

    @property
    def ok(self) -> bool:
        """Whether there is an ``engine.json``, and time enough to use it."""
        return self.why_not is None


def run(
    root: Path, candidates: Sequence[Candidate] = CANDIDATES, max_hours: float | None = HOURS_TO_STOP
) -> EngineReport:
    """Try all candidates on the attached kit; write ``<root>/working/engine.json`` for the fastest that may be trusted.

    Each is tried in a process of its own: one that crashes or hangs is passed over like one that fails. The record is
    there from the first candidate on that reproduces PyTorch, and replaced by each that is faster.

    Where there is a GPU, a runtime that does not use it is compared with PyTorch only if none on the GPU can be
    trusted, which tells whether the graph or the GPU is at fault, and never recorded: a submission on the CPU would not
    end in time. ONNX Runtime's TensorRT is tried only if no plan of classic TensorRT can be trusted.

    Parameters
    ----------
    root
        ``/kaggle``, or the root of a rehearsal.
    candidates
        The runtimes to try, in this order.
    max_hours
        The report is not ok if the competition's tomograms would take longer on this GPU; None: go on all the same.
        Without a GPU the time is told, but no reason to stop.

    Raises
    ------
    DataError
        No kit attached, or a damaged one.
    EngineError
        The kit's reference belongs to another graph.
    """
    kit = find_kit(root)
    manifest = Manifest.load(kit)
    manifest.verify(kit)
    Reference.load(kit / REFERENCE_NAME).require_graph(manifest.onnx_sha256, kit / MODEL)
    gpus = find_gpus()
    scratch = root / SCRATCH / "engines"  # beside what is published
    bench = Bench(
        model=kit / MODEL,
        reference=kit / REFERENCE_NAME,
        out=root / WORKING,
        timing_cache=scratch / "timing.cache",
        onnx_sha256=manifest.onnx_sha256,
        pipeline_digest=manifest.pipeline_digest,
        gpu=gpus[0] if gpus else None,
    )
    bench.out.mkdir(parents=True, exist_ok=True)
    (bench.out / RECORD_NAME).unlink(missing_ok=True)  # an earlier run of the notebook's
    trials: list[_Trial] = []
    record: EngineRecord | None = None
    deadline, waiting = time.monotonic() + NOTEBOOK_SECONDS, deque(candidates)
    while waiting:
        candidate = waiting.popleft()
        trial = _try(candidate, bench, scratch / f"{candidate.name}.log", deadline, trials)
        trials.append(trial)
        if trial.is_wrong and candidate.second_try is not None:
            waiting.appendleft(candidate.second_try)
        record = _publish(trials, bench.out)
        logger.info("%s", _line(trial, trials))
    lines = [_line(trial, trials) for trial in trials]
    rows = [ParityRow.from_dict(trial.tried.parity) for trial in trials if trial.tried and trial.tried.parity]
    why_not = None
    if record is None:
        why_not = "no engine.json is left: mend what one of these lines says, then run again"
    elif bench.gpu is None:
        lines.append(
            "no GPU here: this time is of the CPU, and no reason to stop; Kaggle's GPUs are not measured by it"
        )
    elif max_hours is not None and (record.projected_hours or 0.0) > max_hours:
        why_not = _too_slow(record, bench.model, max_hours, manifest.install)
    lines += [] if why_not is None else [why_not]
    return EngineReport("\n".join([*lines, format_table(rows)]), record, why_not)


@dataclass(frozen=True)
class _Trial:
    """What became of a candidate.

    Attributes
    ----------
    name
        The candidate's.
    tried
        Its record, where it computed at all.
    reason
        Why it may not be used; empty where it may.
    is_wrong
        Whether that is because of its outputs.
    """

    name: str
    tried: EngineRecord | None = None
    reason: str = ""
    is_wrong: bool = False

    @property
    def seconds(self) -> float:
        """Time of one window; infinite where it was not measured."""
        return (self.tried and self.tried.seconds_per_tile) or inf


def _try(candidate: Candidate, bench: Bench, log_path: Path, deadline: float, earlier: Sequence[_Trial]) -> _Trial:
    """Try one candidate, unless it is clear beforehand, or from earlier ones, that it cannot or need not be."""
    gpus = [] if bench.gpu is None else [bench.gpu]
    unfit = why_no_gpu(gpus) if candidate.needs_gpu else None
    if unfit is not None:
        return _Trial(candidate.name, reason=f"{unfit} (on Kaggle: Settings > Accelerator > GPU T4 x2)")
    idle = (
        f"leaves the {gpus[0].name} idle: no submission would end in time" if gpus and not candidate.needs_gpu else ""
    )
    if idle and _best(earlier) is not None:
        return _Trial(candidate.name, reason=f"not tried, it {idle}")
    plan = next((t for t in earlier if not t.reason and t.tried and t.tried.runtime == CLASSIC), None)
    if candidate.runtime == ORT_TENSORRT and plan is not None:
        return _Trial(
            candidate.name, reason=f"not tried, {plan.name} passed: the same kernels, for which it would build as long"
        )
    limit_seconds = min(TRIAL_SECONDS, deadline - time.monotonic())
    if limit_seconds <= 0:
        return _Trial(candidate.name, reason="not tried, the notebook's time is up")
    logger.info("try %s", candidate.name)
    try:
        tried = call_in_child(attempt, candidate, bench, limit_seconds=limit_seconds, log_path=log_path)
    except EngineError as error:
        return _Trial(candidate.name, reason=str(error))
    if not (tried.parity or {}).get("ok"):
        return _Trial(candidate.name, tried, "its outputs are not PyTorch's, see the table", is_wrong=True)
    return _Trial(candidate.name, tried, f"it reproduces PyTorch, but {idle}" if idle else "")


def _publish(trials: Sequence[_Trial], out: Path) -> EngineRecord | None:
    """Leave in `out` the record and the files of the best candidate so far, and of no other; return the record."""
    best = _best(trials)
    record = None
    if best is not None and best.tried is not None:
        passed_over = tuple(_line(trial, trials) for trial in trials if trial is not best)
        record = replace(best.tried, passed_over=passed_over)
        record.save(out)
    for trial in trials:
        if trial is not best:
            shutil.rmtree(out / trial.name, ignore_errors=True)
    return record


def _best(trials: Sequence[_Trial]) -> _Trial | None:
    """Return the fastest of those that may be used."""
    return min((trial for trial in trials if not trial.reason), key=lambda trial: trial.seconds, default=None)


def _line(trial: _Trial, trials: Sequence[_Trial]) -> str:
    """Say what became of a candidate among the others."""
    if trial.reason or trial.tried is None:
        return f"{trial.name}: passed over, {trial.reason}"
    verdict = "taken" if trial is _best(trials) else "passed over, slower"
    hours = f"{trial.tried.projected_hours:.3g} h" if trial.tried.projected_hours is not None else "?"
    return (
        f"{trial.name}: {verdict}, {trial.seconds:.3g} s per window on {trial.tried.device}, {hours} for "
        f"{COMPETITION.n_tomograms} tomograms on {COMPETITION.n_gpus} of these"
    )


def _too_slow(record: EngineRecord, model: Path, max_hours: float, install: Sequence[str]) -> str:
    """Say that the competition's tomograms would take too long, and what can be done."""
    hours = record.projected_hours or 0.0
    ways = what_would_help(model, install, Projection.of_engine(record.runtime, hours), max_hours)
    ways = ways or "export the graph again with this tomopoint to see what would help"
    return (
        f"{COMPETITION.n_tomograms} tomograms would take {hours:.1f} h, more than {max_hours:g} of a "
        f"notebook's 12; {ways}\nto go on all the same: engine_kernel.run(ROOT, max_hours=None)"
    )
