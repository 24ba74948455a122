"""What computes a graph where there is no GPU: OpenVINO, in the fastest precision whose outputs are float32's.

Decided once for a prediction, before its workers start, and written down as ``engine.json`` in its folder: every worker
loads what it says, and so does a prediction that is resumed there. The trial sees the graph's reference or synthetic
windows, never the user's data, so that the same graph on the same machine gets the same precision whatever it predicts.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import platform
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tomopoint import __version__
from tomopoint.errors import EngineError, TomopointError
from tomopoint.files import sha256_of, write_atomically
from tomopoint.inference.cost import read_cost
from tomopoint.inference.engines.engine_record import RECORD_NAME, EngineRecord, Expected, check_fit, check_tried
from tomopoint.inference.engines.graph_metadata import precision_in, read_metadata, read_pipeline
from tomopoint.inference.engines.openvino import (
    OPENVINO,
    OpenVinoEngine,
    OpenVinoOptions,
    installed_version,
    options_in,
    precisions_here,
)
from tomopoint.inference.isolation import call_in_child
from tomopoint.inference.parity import Array, Outputs, ParityRow, compare, tolerance_for
from tomopoint.inference.reference import REFERENCE_NAME, Reference, synthetic_windows

KEPT_IN_FP32 = ((1, 3), (5, 3))
"""First and last layers that a half precision leaves in float32, tried in this order. The first layer sees the
tomogram, the last three are a head: together a tenth of the time. Five first layers halve the error once more, and are
a third of the time where float32 is half as fast."""

STREAMS = 2
"""Windows that are tried at once. More would help many cores only, and take as many times the memory."""

WORTH_TWO = 0.95
"""Two windows at once are taken where they take less than this share of the time: it costs memory, and clocks err."""

SHORT_S = 10.0
"""A window that took less is computed once more to be timed: the first call allocates, and is slower."""

MEMORY_SHARE = 0.5
"""Of the memory that is free now, what the activations of two windows may take."""

TRIAL_SECONDS = 3600.0
"""A trial takes a few windows; one that has not ended by then hangs, or the graph is too large for this machine."""

logger = logging.getLogger(__name__)


def cpu_identity() -> str:
    """Return the CPU's name, and of what it can do a hash: two kinds may share a name, and not their units."""
    fields: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    name = fields.get("model name", platform.processor() or platform.machine())
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    units = hashlib.sha256(f"{fields.get('flags', fields.get('Features', ''))} {limit}".encode()).hexdigest()
    return f"{name} ({units[:8]})"


def choose_cpu_engine(
    model_path: Path, folder: Path | None = None, by_name: bool = False, limit_seconds: float = TRIAL_SECONDS
) -> EngineRecord | None:
    """Return how OpenVINO is to compute a graph on this machine, and say so in one line; None: ONNX Runtime does.

    What `folder` says holds, if it fits; else what was found before for this graph on this machine; else there is a
    trial, in a process of its own.

    Parameters
    ----------
    model_path
        The graph.
    folder
        Gets the decision as ``engine.json``; None: it is kept in the user's cache alone.
    by_name
        Whether it must be OpenVINO.
    limit_seconds
        For the trial.

    Raises
    ------
    EngineError
        `by_name`, and OpenVINO cannot be had.
    """
    try:
        kept = _cache_path(model_path)
        places = [path for path in (folder and folder / RECORD_NAME, kept) if path is not None]
        record = next((found for found in (_fitting(path, model_path) for path in places) if found is not None), None)
        if record is None:
            record = try_in_child(model_path, limit_seconds=limit_seconds)
            with suppress(OSError, TomopointError):  # a cache that cannot be written costs the next prediction a trial
                write_atomically(kept, record.to_json() + "\n")
        if folder is not None:
            record.save(folder)
    except (EngineError, OSError) as error:  # a full disk costs the speed, not the prediction
        if by_name:
            raise
        logger.info("ONNX Runtime on the CPU taken: there is no GPU here, and no OpenVINO: %s", error)
        return None
    logger.info("OpenVINO on the CPU taken, in %s", verdict(record))
    return record


def decided_before(model_path: Path) -> EngineRecord | None:
    """Return how OpenVINO computes a graph on this machine, if that was found out before; nothing is tried."""
    try:
        return _fitting(_cache_path(model_path), model_path)
    except EngineError:  # no OpenVINO
        return None


def _fitting(path: Path, model_path: Path) -> EngineRecord | None:
    """Return the record of an earlier decision, if there is one that holds here and now."""
    if not path.is_file():
        return None
    try:
        record = EngineRecord.load(path)
        check_openvino_record(record, path.parent, model_path)
    except EngineError as error:
        logger.info("decided anew, for %s", error)
        return None
    return record


def is_of_openvino(record_path: Path) -> bool:
    """Whether an ``engine.json`` is of OpenVINO; EngineError where it is damaged."""
    return EngineRecord.load(record_path).runtime == OPENVINO


def check_openvino_record(record: EngineRecord, folder: Path, model_path: Path) -> OpenVinoOptions:
    """Return the options of a recorded engine of OpenVINO; EngineError where it may not be used here, or is none."""
    title = f"the engine in {folder}"
    if record.runtime != OPENVINO:
        raise EngineError(f"{title} is of {record.runtime}, not of OpenVINO; record one with `tomopoint engine`")
    check_tried(record, folder)
    expected = Expected(sha256_of(model_path), read_pipeline(model_path).digest, installed_version())
    check_fit(record, folder, expected)
    if record.device != cpu_identity():
        raise EngineError(
            f"{title} was tried on another CPU ({record.device}; here is {cpu_identity()}); "
            "run `tomopoint engine` here, or leave --engine out"
        )
    return options_in(record.options, record.precision)


def verdict(record: EngineRecord) -> str:
    """Say in which precision OpenVINO computes, and why."""
    options = options_in(record.options, record.precision)
    reasons = list(record.passed_over)
    if record.parity is not None:
        reasons.insert(0, f"{_distance(ParityRow.from_dict(record.parity))} of {record.options.get('compared_with')}")
    return f"{_name(options)}: {'; '.join(reasons)}"


def _distance(row: ParityRow) -> str:
    allowed = row.tolerance
    return (
        f"scores within {row.scores_max:.2g} (allowed {allowed.scores:g}), offsets within {row.offsets_max_vox:.2g} "
        f"voxels (allowed {allowed.offsets_vox:g}), {row.top1_agreement:.0%} of the best picks"
    )


def cache_folder() -> Path:
    """Return where decisions are kept for the next prediction."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches) / "tomopoint" / "cpu-engines"


def _cache_path(model_path: Path) -> Path:
    """Return where the decision for a graph is kept; its name changes with all that it depends on."""
    beside = model_path.with_name(REFERENCE_NAME)
    depends_on = (
        sha256_of(model_path),
        sha256_of(beside) if beside.is_file() else "",
        installed_version(),
        cpu_identity(),
        __version__,
        KEPT_IN_FP32,
    )
    name = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:32]
    return cache_folder() / f"{name}.json"


def try_in_child(
    model_path: Path,
    reference_path: Path | None = None,
    asked: OpenVinoOptions | None = None,
    limit_seconds: float = TRIAL_SECONDS,
) -> EngineRecord:
    """Call :func:`try_precisions` in a process of its own: what native code ends there is not the prediction."""
    installed_version()  # no process for nothing
    logger.info("try in which precision OpenVINO computes %s: once for a graph on a machine", model_path.name)
    with TemporaryDirectory(prefix="tomopoint.") as folder:
        log_path = Path(folder) / "openvino.log"
        return call_in_child(
            try_precisions, model_path, reference_path, asked, limit_seconds=limit_seconds, log_path=log_path
        )


def try_precisions(
    model_path: Path, reference_path: Path | None = None, asked: OpenVinoOptions | None = None
) -> EngineRecord:
    """Find the fastest precision in which OpenVINO computes here what float32 computes.

    Half precisions are tried that the CPU has units for, with ever more layers kept in float32; the first that passes
    is taken. A graph that was exported in float32 is computed in float32.

    Parameters
    ----------
    model_path
        The graph.
    reference_path
        Its ``reference.npz``, with PyTorch's outputs. None: the one beside the graph, if there is one that belongs to
        it; else synthetic windows are compared with OpenVINO's own float32.
    asked
        Threads and pinning, for the record; the rest is found.

    Raises
    ------
    EngineError
        OpenVINO cannot be had, or not even float32 gives PyTorch's outputs.
    """
    asked = asked or OpenVinoOptions()
    pipeline = read_pipeline(model_path)
    onnx_sha256 = sha256_of(model_path)
    of_graph = precision_in(read_metadata(model_path))
    passed_over: list[str] = []

    # What may be tried.
    candidates: list[OpenVinoOptions] = []
    if of_graph == "fp32":
        passed_over.append("the graph was exported in float32")
    elif not (halves := precisions_here()):
        passed_over.append("this CPU has no units for less")
    else:
        candidates = [
            replace(asked, precision=precision, first=first, last=last)
            for precision in halves
            for first, last in KEPT_IN_FP32
        ]
    plain = replace(asked, precision="fp32")

    # What it is compared with: PyTorch where its answers are at hand, else float32.
    reference = _reference(model_path, reference_path, onnx_sha256)
    by_pytorch = reference is not None
    if reference is None and candidates:
        windows = synthetic_windows(pipeline, pipeline.tiling.window_zyx, 1)
        reference = Reference(windows, _computed(model_path, plain, windows), of_graph, onnx_sha256)

    # The first half precision that passes; else float32, which only PyTorch can judge.
    taken, row, seconds = plain, None, None
    for options in candidates:
        assert reference is not None
        try:
            tried, seconds = _compared(model_path, options, reference)
        except EngineError as error:
            passed_over.append(f"{_name(options)} passed over, {error}")
            continue
        if tried.ok:
            taken, row = options, tried
            break
        passed_over.append(f"{_name(options)} passed over, {_distance(tried)}")
    if taken is plain and reference is not None and by_pytorch:
        row, seconds = _compared(model_path, plain, reference)
        if not row.ok:
            raise EngineError(f"OpenVINO does not reproduce PyTorch here, not even in float32: {_distance(row)}")

    # One window at a time, or two.
    windows = synthetic_windows(pipeline, pipeline.tiling.window_zyx, 1) if reference is None else reference.windows
    if _has_room_for_two(model_path, taken):
        one = _seconds(model_path, taken, windows) if seconds is None else seconds
        two = _seconds(model_path, replace(taken, streams=STREAMS), windows)
        if two < WORTH_TWO * one:
            taken, seconds = replace(taken, streams=STREAMS), two
    return EngineRecord(
        runtime=OPENVINO,
        runtime_version=installed_version(),
        onnx_sha256=onnx_sha256,
        pipeline_digest=pipeline.digest,
        precision=taken.precision,
        window_zyx=pipeline.tiling.window_zyx,
        batch=1 if reference is None else len(reference.windows),
        device=cpu_identity(),
        parity=None if row is None else row.to_dict(),
        seconds_per_tile=None if row is None else seconds,
        options={
            "provider": "OpenVINO",
            "kept_in_fp32": [taken.first, taken.last],
            "threads": taken.threads,
            "pinning": taken.pinning,
            "streams": taken.streams,
            "compared_with": f"PyTorch ({REFERENCE_NAME})" if by_pytorch else "its own float32 on synthetic windows",
        },
        passed_over=tuple(passed_over),
        tomopoint=__version__,
    )


def _reference(model_path: Path, given: Path | None, onnx_sha256: str) -> Reference | None:
    """Return the reference that was given, or else the one beside the graph if it is the graph's."""
    if given is not None:
        reference = Reference.load(given)
        reference.require_graph(onnx_sha256, model_path)
        return reference
    beside = model_path.with_name(REFERENCE_NAME)
    if not beside.is_file():
        return None
    try:
        reference = Reference.load(beside)
        reference.require_graph(onnx_sha256, model_path)
    except TomopointError as error:
        logger.info("%s is not compared with: %s", beside, error)
        return None
    return reference


def _compared(model_path: Path, options: OpenVinoOptions, reference: Reference) -> tuple[ParityRow, float]:
    """Compute the reference's windows; return how far it is from its outputs, and the time of one window."""
    with closing(OpenVinoEngine(model_path, options)) as engine:
        windows = reference.windows[: engine.batch]
        got, seconds = _timed(engine, windows)
    expected = Outputs(reference.outputs.scores[: len(windows)], reference.outputs.offsets[: len(windows)])
    tolerance = tolerance_for(reference.precision, reference.window_zyx, OPENVINO)
    return compare(_name(options), OPENVINO, expected, got, tolerance, reference.stride), seconds


def _timed(engine: OpenVinoEngine, windows: Array) -> tuple[Outputs, float]:
    """Compute windows; return the outputs and the seconds per window, of a second call where there is time for one."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < 2 and seconds[0] < SHORT_S):
        start = time.perf_counter()
        outputs = Outputs(*engine.infer(windows))
        seconds.append(time.perf_counter() - start)
    return outputs, min(seconds) / len(windows)


def _seconds(model_path: Path, options: OpenVinoOptions, windows: Array) -> float:
    """Return the seconds per window of an engine that is given as many as it takes; endless where it fails."""
    try:
        with closing(OpenVinoEngine(model_path, options)) as engine:
            return _timed(engine, np.resize(windows, (engine.batch, *windows.shape[1:])))[1]
    except EngineError as error:
        logger.info("%s was tried, and failed: %s", _name(options), error)
        return math.inf


def _has_room_for_two(model_path: Path, options: OpenVinoOptions) -> bool:
    """Tell whether there are cores, and memory, for two windows at once."""
    cost = read_cost(model_path)
    if cost is None or (options.threads or len(os.sched_getaffinity(0))) < STREAMS:
        return False
    widened = 2 if (options.precision, cost.precision) == ("fp32", "fp16") else 1
    return STREAMS * widened * cost.peak_activation_bytes < MEMORY_SHARE * _free()


def _free() -> float:
    """Return the bytes of memory that may be had now; none where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return 0.0


def _computed(model_path: Path, options: OpenVinoOptions, windows: Array) -> Outputs:
    with closing(OpenVinoEngine(model_path, options)) as engine:
        return Outputs(*engine.infer(windows))


def _name(options: OpenVinoOptions) -> str:
    name = options.precision
    if options.first or options.last:
        name += f" (first {options.first} and last {options.last} layers in fp32)"
    return name + (f", {options.streams} windows at once" if options.streams > 1 else "")
