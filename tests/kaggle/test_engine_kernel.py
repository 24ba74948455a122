"""What the build_engine notebook does: every candidate tried apart, the fastest that may be trusted recorded."""

import ctypes
import json
import pathlib
import shutil
import time
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest

from tomopoint.errors import DataError, EngineError
from tomopoint.export import cost, engine_trial
from tomopoint.export.cost import COMPETITION, measured_hours
from tomopoint.export.engine_build import BuildOptions, Plan
from tomopoint.export.engine_trial import Candidate, native
from tomopoint.files import sha256_of
from tomopoint.inference.engines import load, tensorrt
from tomopoint.inference.engines.engine_record import EngineRecord, Expected, check_engine_record
from tomopoint.inference.engines.gpus import Gpu
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.inference.engines.tensorrt_module import CLASSIC, RTX, TensorRT
from tomopoint.inference.parity import FP16, Outputs
from tomopoint.inference.reference import Reference
from tomopoint.kaggle import engine_kernel, kit_hours
from tomopoint.kaggle.engine_kernel import CANDIDATES, run, why_no_gpu
from tomopoint.kaggle.manifest import KitFile, Manifest
from tomopoint.pipeline import PIPELINE_NAME, Pipeline

BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}
CPU, ORT_TENSORRT = BY_NAME["onnxruntime-cpu"], BY_NAME["onnxruntime-tensorrt"]
T4 = Gpu(0, "Tesla T4", "7.5", 15 << 30)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let a spawned process import this file's functions, however pytest was started."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2])


class Scaled(OnnxEngine):
    """The graph on the CPU; its scores are multiplied, and each call lasts longer by some seconds."""

    def __init__(self, path, factor, delay):
        super().__init__(path, "cpu")
        self.factor, self.delay = np.float32(factor), delay

    def infer(self, windows):
        time.sleep(self.delay)
        scores, offsets = super().infer(windows)
        return scores * self.factor, offsets


def load_graph(bench, record, factor=1.0, delay=0.0):
    return Scaled(bench.model, factor, delay)


def build_file(bench, folder):
    folder.mkdir(parents=True)
    (folder / "ensemble.engine").write_bytes(b"plan of " + folder.name.encode())
    return "1.0"


def build_and(failure, bench, folder):
    build_file(bench, folder)
    failure()
    return "1.0"


def crash():
    ctypes.string_at(0)


def refuse():
    raise EngineError("libnvinfer.so.10 is missing")


def candidate(name, build=build_file, needs_gpu=False, second_try=None, **how) -> Candidate:
    return Candidate(name, name, f"{name} provider", needs_gpu, build, partial(load_graph, **how), {}, second_try)


@pytest.fixture
def root(kit, tmp_path, monkeypatch):
    """Return the root of a machine without a GPU."""
    monkeypatch.setattr(engine_kernel, "find_gpus", list)
    root = tmp_path / "kaggle"
    (root / "input").mkdir(parents=True)
    (root / "working").mkdir()
    (root / "input" / "my-kit").symlink_to(kit, target_is_directory=True)
    return root


@pytest.fixture
def here(monkeypatch):
    """Try candidates in this process, where the test can put something in a library's place."""

    def call(function, *args, limit_seconds, log_path):
        assert limit_seconds > 0
        try:
            return function(*args)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from error

    monkeypatch.setattr(engine_kernel, "call_in_child", call)
    monkeypatch.setattr(engine_trial, "TIMED_SECONDS", 0.0)


@pytest.fixture
def with_gpu(root, monkeypatch):
    """Let the machine say that it has a T4."""
    for module in (engine_kernel, load):
        monkeypatch.setattr(module, "find_gpus", lambda: [T4])
    for module in (tensorrt, engine_trial):
        monkeypatch.setattr(module, "require_gpu", lambda _: T4)


@pytest.fixture
def timed(monkeypatch):
    """Set the seconds per window of candidates by name; they are still compared with PyTorch."""
    seconds = {}
    real = engine_trial.measure

    def measure(engine, subject, *others):
        row, measured = real(engine, subject, *others)
        return row, measured and seconds.get(subject, measured)

    monkeypatch.setattr(engine_trial, "measure", measure)
    return seconds


def _replace_reference(kit, reference):
    reference.save(kit / "reference.npz")
    manifest = json.loads((kit / "manifest.json").read_text())
    manifest["files"]["reference.npz"] = vars(KitFile.of(kit / "reference.npz"))
    (kit / "manifest.json").write_text(json.dumps(manifest))


def _published(root):
    return sorted(path.relative_to(root / "working").as_posix() for path in (root / "working").rglob("*.*"))


def test_the_record_names_runtime_graph_parity_and_hours(root, kit):
    report = run(root, [CPU])
    assert report.ok
    record = EngineRecord.load(root / "working" / "engine.json")
    assert record == report.record
    assert (record.runtime, record.options["provider"], record.device) == (
        "onnxruntime-cpu", "CPUExecutionProvider", "the CPU"
    )  # fmt: skip
    assert (record.window_zyx, record.batch, record.precision) == ((24, 32, 32), 1, "fp16")
    manifest = Manifest.load(kit)
    check_engine_record(record, root / "working", Expected(manifest.onnx_sha256, manifest.pipeline_digest))
    assert 0 <= record.parity["scores_max"] <= FP16.scores
    assert record.projected_hours == measured_hours(record.seconds_per_tile, Pipeline.load(kit / PIPELINE_NAME))


def test_without_gpu_the_gpu_runtimes_are_passed_over_with_the_reason(root):
    report = run(root)
    assert report.record.passed_over == tuple(
        f"{name}: passed over, there is no GPU here (on Kaggle: Settings > Accelerator > GPU T4 x2)"
        for name in (
            "onnxruntime-cuda", "tensorrt-rtx", "tensorrt", "tensorrt-norm-plugin", "onnxruntime-tensorrt"
        )
    )  # fmt: skip
    assert report.record.passed_over[0] in report.text
    assert "no GPU here: this time is of the CPU" in report.text


def test_a_rehearsal_says_its_hours_but_does_not_stop(root):
    report = run(root, [CPU], max_hours=1e-9)
    assert report.ok
    assert f"{report.record.projected_hours:.3g} h for {COMPETITION.n_tomograms} tomograms" in report.text


def test_the_fastest_that_passes_is_taken_though_it_is_tried_later(root, here, with_gpu, timed):
    timed.update(early=0.5, fast=0.2, late=0.3)
    report = run(root, [candidate(name, needs_gpu=True) for name in ("early", "fast", "late")], max_hours=None)
    record = EngineRecord.load(root / "working" / "engine.json")
    assert record == report.record
    assert (record.runtime, record.seconds_per_tile) == ("fast", 0.2)
    assert record.files == {"fast/ensemble.engine": sha256_of(root / "working/fast/ensemble.engine")}
    assert _published(root) == ["engine.json", "fast/ensemble.engine"]  # what is not used is not published
    assert len(record.passed_over) == 2
    assert record.passed_over[0].startswith("early: passed over, slower, 0.5 s per window on Tesla T4, ")
    assert record.passed_over[1].startswith("late: passed over, slower, 0.3 s per window on Tesla T4, ")
    hours = f"{record.projected_hours:.3g} h for 500 tomograms on 2 of these"
    assert report.text.splitlines()[1] == f"fast: taken, 0.2 s per window on Tesla T4, {hours}"


def test_there_is_a_record_from_the_first_that_passes_on(root, here, with_gpu, monkeypatch):
    """Kaggle may end the notebook in the middle of a later build."""
    seen = []

    def interrupted(bench, folder):
        seen.append(EngineRecord.load(bench.out / "engine.json").runtime)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(root, [candidate("first", needs_gpu=True), candidate("second", interrupted, needs_gpu=True)])
    assert seen == ["first"]
    assert (root / "working/first/ensemble.engine").is_file()


def test_one_that_crashes_or_throws_gives_way_to_the_next(root):
    """For real: in processes of their own."""
    candidates = [
        candidate("crashing", partial(build_and, crash)),
        candidate("missing", partial(build_and, refuse)),
        candidate("slow", delay=0.5),
        CPU,
        candidate("wrong", factor=0.9),
    ]
    report = run(root, candidates)
    assert report.record.runtime == "onnxruntime-cpu"
    reasons = report.record.passed_over
    assert reasons[0].startswith("crashing: passed over, its process was ended by SIGSEGV, in File ")
    assert reasons[1] == "missing: passed over, libnvinfer.so.10 is missing"
    assert reasons[2].startswith("slow: passed over, slower, 0.5")
    assert reasons[3] == "wrong: passed over, its outputs are not PyTorch's, see the table"
    assert _published(root) == ["engine.json"]  # nothing half-built
    assert "Segmentation fault" in (root / "temp/engines/crashing.crash").read_text()
    table = report.text[report.text.index("scores max") :].splitlines()[1:]
    assert [line.split()[0] for line in table] == ["slow", "onnxruntime-cpu", "wrong"]
    assert "FAILED" in table[2]


def test_one_that_hangs_is_passed_over(root, monkeypatch):
    monkeypatch.setattr(engine_kernel, "TRIAL_SECONDS", 4.0)
    report = run(root, [candidate("hanging", partial(build_and, partial(time.sleep, 3600)))])
    assert report.text.startswith("hanging: passed over, no answer in 4 s, so its process was ended")
    assert report.why_not.startswith("no engine.json is left: mend")
    assert _published(root) == []


def test_nothing_is_begun_when_the_notebooks_time_is_up(root, monkeypatch):
    monkeypatch.setattr(engine_kernel, "NOTEBOOK_SECONDS", 0.0)
    assert run(root, [CPU]).text.startswith("onnxruntime-cpu: passed over, not tried, the notebook's time is up")


def test_wrong_outputs_are_tried_once_more_and_then_passed_over(root, here, with_gpu, timed):
    again = candidate("native-again", needs_gpu=True, factor=0.8)
    first = candidate("native", needs_gpu=True, factor=0.9, second_try=again)
    report = run(root, [first, candidate("plain", needs_gpu=True)], max_hours=None)
    wrong = "passed over, its outputs are not PyTorch's, see the table"
    assert report.record.passed_over == (f"native: {wrong}", f"native-again: {wrong}")
    assert report.record.runtime == "plain"
    assert _published(root) == ["engine.json", "plain/ensemble.engine"]

    report = run(root, [replace(first, second_try=candidate("right", needs_gpu=True))], max_hours=None)
    assert (report.record.runtime, report.record.passed_over) == ("right", (f"native: {wrong}",))

    fine = candidate("fine", needs_gpu=True, second_try=again)
    broken = candidate("broken", partial(build_and, refuse), needs_gpu=True, second_try=again)
    names = [line.split(":")[0] for line in run(root, [broken, fine], max_hours=None).text.splitlines()[:2]]
    assert names == ["broken", "fine"]  # only wrong outputs are a reason to try again


def test_the_second_try_of_tensorrt_chooses_among_other_kernels():
    for name, norms in (("tensorrt", True), ("tensorrt-norm-plugin", False)):
        first, again = BY_NAME[name], BY_NAME[name].second_try
        assert (first.runtime, again.runtime) == (CLASSIC, CLASSIC)
        assert (first.options["native_norms"], again.options["native_norms"]) == (norms, norms)
        assert (first.options["other_tactics"], again.options["other_tactics"]) == (False, True)
        assert again.options["optimization_level"] < first.options["optimization_level"]
        assert again.second_try is None
    assert len({name for one in CANDIDATES for name in (one.name, one.second_try and one.second_try.name) if name}) == 8


def test_too_slow_a_graph_stops_the_notebook_unless_told_otherwise(root, here, with_gpu, timed, kit, monkeypatch):
    counted = cost.GraphCost((24, 32, 32), 10, "fp16", 1e13, 1e11, 1e10, 1e9, 1e9)
    monkeypatch.setattr(kit_hours, "read_cost", lambda model: counted)
    pipeline = Pipeline.load(kit / PIPELINE_NAME)
    seconds = 12 * 3600 / (250 * cost.n_windows(pipeline, COMPETITION.shape_zyx))
    timed["native"] = seconds
    report = run(root, [candidate("native", needs_gpu=True)])  # counts as TensorRT
    assert not report.ok
    hours = measured_hours(seconds, pipeline)
    assert hours > 12
    assert EngineRecord.load(root / "working/engine.json").projected_hours == hours
    assert report.why_not.startswith(f"500 tomograms would take {hours:.1f} h, more than 11 of a notebook's 12; ")
    assert report.why_not.endswith("to go on all the same: engine_kernel.run(ROOT, max_hours=None)")
    host = measured_hours(0.0, pipeline) * hours / cost.project(counted, pipeline)[0].hours
    fits = int(10 * (10 - host) / (hours - host))
    assert f"fewer networks: of 10, {max(0, fits)} with TensorRT fit into 10 h" in report.why_not
    assert "TensorRT in the kit (`tomopoint wheels`): " not in report.why_not  # it was what ran
    monkeypatch.setattr(kit_hours, "read_cost", lambda model: None)  # a graph of an earlier version
    assert "export the graph again" in run(root, [candidate("native", needs_gpu=True)]).why_not
    assert run(root, [candidate("native", needs_gpu=True)], max_hours=None).ok
    timed["native"] = seconds * 0.5
    assert run(root, [candidate("native", needs_gpu=True)]).ok


def test_a_runtime_that_does_not_reproduce_pytorch_is_not_recorded(root, kit):
    true = Reference.load(kit / "reference.npz")
    wrong = Outputs(true.outputs.scores + np.float32(2 * FP16.scores), true.outputs.offsets)
    _replace_reference(kit, Reference(true.windows, wrong, true.precision, true.onnx_sha256))
    report = run(root, [CPU])
    assert not report.ok
    assert "not PyTorch's" in report.text
    assert "FAILED" in report.text
    assert not (root / "working" / "engine.json").exists()


def test_onnxruntimes_tensorrt_is_spared_its_build_where_a_plan_of_classic_tensorrt_passed(root, here, with_gpu):
    def tried(name):
        return candidate(name, needs_gpu=True)

    rtx, classic, through_ort = (
        tried(RTX),
        replace(tried("norm-plugin"), runtime=CLASSIC),
        tried("onnxruntime-tensorrt"),
    )
    spared = run(root, [classic, through_ort], max_hours=None)
    said = "onnxruntime-tensorrt: passed over, not tried, norm-plugin passed: the same kernels"
    assert spared.text.splitlines()[1].startswith(said)
    assert spared.record.passed_over[0].startswith(said)
    wrong = replace(candidate("norm-plugin", needs_gpu=True, factor=1.5), runtime=CLASSIC)
    for earlier in (rtx, wrong):
        text = run(root, [earlier, through_ort], max_hours=None).text
        assert "onnxruntime-tensorrt: " in text
        assert "not tried" not in text


def test_what_a_runtime_built_is_hashed_into_the_record_and_checked_before_use(root, kit, here):
    record = run(root, [candidate("fast")]).record
    plan = root / "working" / "fast" / "ensemble.engine"
    assert record.files == {"fast/ensemble.engine": sha256_of(plan)}
    manifest = Manifest.load(kit)
    expected = Expected(manifest.onnx_sha256, manifest.pipeline_digest)
    check_engine_record(record, root / "working", expected)
    plan.write_bytes(b"plan of fasd")
    with pytest.raises(EngineError, match="damaged"):
        check_engine_record(record, root / "working", expected)


def test_what_an_earlier_run_left_is_no_part_of_an_engine(root, here):
    run(root, [candidate("fast")])
    (root / "working/fast/runtime.cache").write_bytes(b"old")
    assert list(run(root, [candidate("fast")]).record.files) == ["fast/ensemble.engine"]


def test_an_engine_is_closed_even_when_it_fails(root, here):
    closed = []

    class Failing(OnnxEngine):
        def infer(self, windows):
            raise EngineError("out of memory")

        def close(self):
            closed.append(True)
            super().close()

    one = replace(candidate("fast"), load=lambda bench, record: Failing(bench.model, "cpu"))
    report = run(root, [one])
    assert closed == [True]
    assert "out of memory" in report.text
    assert not report.ok


def test_a_reference_of_another_graph_is_refused(root, kit):
    true = Reference.load(kit / "reference.npz")
    _replace_reference(kit, Reference(true.windows, true.outputs, true.precision, "ab" * 32))
    with pytest.raises(EngineError, match="not the graph its reference was made with"):
        run(root, [CPU])


def test_a_damaged_kit_is_refused(root, kit):
    data = bytearray((kit / "ensemble.onnx").read_bytes())
    data[300] ^= 1
    (kit / "ensemble.onnx").write_bytes(data)
    with pytest.raises(DataError, match=r"ensemble\.onnx"):
        run(root, [CPU])


def test_a_card_older_than_the_t4_is_named():
    assert why_no_gpu([Gpu(0, "Tesla T4", "7.5", 1)]) is None
    assert why_no_gpu([Gpu(0, "NVIDIA H200", "9.0", 1)]) is None
    assert why_no_gpu([Gpu(0, "NVIDIA B200", "10.0", 1)]) is None
    assert why_no_gpu([Gpu(0, "Tesla P100", "6.0", 1)]) == (
        "the Tesla P100 has compute capability 6.0, needed is 7.5 or newer"
    )
    assert why_no_gpu([]) == "there is no GPU here"


def test_beside_a_gpu_the_cpu_is_not_enough(root, here, with_gpu):
    (root / "working" / "engine.json").write_text("{}")  # of an earlier run
    report = run(root, [candidate("tensorrt", partial(build_and, refuse), needs_gpu=True), CPU])
    assert not report.ok
    assert report.record is None
    assert list((root / "working").iterdir()) == []
    lines = report.text.splitlines()
    assert lines[0] == "tensorrt: passed over, libnvinfer.so.10 is missing"
    assert lines[1].startswith("onnxruntime-cpu: passed over, it reproduces PyTorch, but leaves the Tesla T4 idle")
    assert lines[2].startswith("no engine.json is left: mend")
    assert lines[-1].split()[0] == "onnxruntime-cpu"  # its row of the table tells that the graph is right
    assert "  ok, " in lines[-1]


def test_the_cpu_is_not_waited_for_where_something_works_on_the_gpu(root, here, with_gpu):
    report = run(root, [candidate("native", needs_gpu=True), CPU], max_hours=None)
    assert report.record.passed_over[0].startswith("onnxruntime-cpu: passed over, not tried, it leaves the Tesla T4")
    assert len(report.text[report.text.index("scores max") :].splitlines()) == 2  # one row


def _classic(monkeypatch, name=CLASSIC):
    trt = TensorRT(name, None, "10.16.1.11")
    monkeypatch.setattr(engine_trial, "load_tensorrt", lambda name: trt)
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda name: trt)


def test_a_plan_that_is_built_but_cannot_be_loaded_is_not_recorded(root, here, with_gpu, monkeypatch):
    _classic(monkeypatch)
    loaded, asked = [], []

    def build_plan(model, trt, options):
        asked.append(options)
        return Plan(b"plan", "7.5", 1, 0.0, 0.0)

    monkeypatch.setattr(engine_trial, "build_plan", build_plan)

    def load_plan(path, trt):
        loaded.append(path)
        raise EngineError("cannot load the plan")

    monkeypatch.setattr(tensorrt, "load_plan", load_plan)
    one = BY_NAME["tensorrt"]
    report = run(root, [one])
    assert loaded == [root / "working" / "tensorrt" / "ensemble.engine"]
    assert report.text.startswith("tensorrt: passed over, cannot load the plan")
    assert list((root / "working").iterdir()) == []
    assert asked[0].workspace_gib == 8.0  # of the 15 of a T4
    assert asked[0].timing_cache_path == root / "temp/engines/timing.cache"

    monkeypatch.setattr(tensorrt, "load_plan", lambda path, trt: OnnxEngine(root / "input/my-kit/ensemble.onnx"))
    record = run(root, [one], max_hours=None).record
    assert (record.runtime, record.runtime_version) == ("tensorrt", "10.16.1.11")


class Compiling(OnnxEngine):
    """As an engine of TensorRT-RTX: compiles when windows come, unless it was given what another one compiled."""

    def __init__(self, model, cache):
        super().__init__(model, "cpu")
        self.kernels = cache

    def infer(self, windows):
        self.kernels = self.kernels or b"kernels"
        return super().infer(windows)

    def runtime_cache(self):
        return self.kernels


def test_what_rtx_compiles_on_the_device_is_kept_and_used_from_then_on(
    root, kit, here, with_gpu, monkeypatch, tmp_path
):
    _classic(monkeypatch, RTX)
    monkeypatch.setattr(engine_trial, "build_plan", lambda *_: Plan(b"plan", "7.5", 1, 0.0, 0.0))
    given = []

    def load_plan(path, trt):
        cache = path.with_name("runtime.cache")
        given.append(cache.read_bytes() if cache.is_file() else None)
        return Compiling(kit / "ensemble.onnx", given[-1])

    monkeypatch.setattr(tensorrt, "load_plan", load_plan)
    record = run(root, [BY_NAME["tensorrt-rtx"]], max_hours=None).record
    assert given == [None, b"kernels"]  # compiled once; what is compared with PyTorch and timed has the cache
    assert set(record.files) == {"tensorrt-rtx/ensemble.engine", "tensorrt-rtx/runtime.cache"}
    moved = shutil.move(root / "working", tmp_path / "elsewhere")  # as it is attached to the submit notebook
    load_engine(kit / "ensemble.onnx", "tensorrt", record_path=moved / "engine.json")[0].close()
    assert given[2] == b"kernels"
    (moved / "tensorrt-rtx/runtime.cache").write_bytes(b"kernelz")
    with pytest.raises(EngineError, match=r"damaged: tensorrt-rtx/runtime\.cache"):
        load_engine(kit / "ensemble.onnx", "tensorrt", record_path=moved / "engine.json")


def test_a_plan_is_built_for_the_gpu_that_is_there(root, here, with_gpu, monkeypatch):
    ada = Gpu(0, "L4", "8.9", 22 << 30)
    monkeypatch.setattr(engine_trial, "require_gpu", lambda _: ada)
    asked = []

    def build_plan(model, trt, options):
        asked.append(options.compute_capability)
        raise EngineError("enough")

    _classic(monkeypatch, RTX)
    monkeypatch.setattr(engine_trial, "build_plan", build_plan)
    run(root, [native("rtx", RTX, BuildOptions())])
    assert asked == ["8.9"]


class FakeTensorrtProvider:
    """Sessions that keep the rules of ONNX Runtime 1.26's TensorRT provider for EP-context models.

    Written from its source, not from what the project gives it: a switch is True or False; the engine's path is
    written down as ``trt_engine_cache_path`` has it and must be relative; it is looked for beside the model.
    """

    def __init__(self, monkeypatch):
        self.real, self.extra, self.open = onnxruntime.InferenceSession, {}, 0
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.make)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])

    def make(self, path, sess_options, providers, provider_options, **others):
        if providers != ["TensorrtExecutionProvider"]:
            return self.real(path, sess_options, providers, provider_options, **others)
        assert self.open == 0, "two engines at once may not fit the device"
        options = {**provider_options[0], **self.extra}
        for name in ("trt_engine_cache_enable", "trt_dump_ep_context_model", "trt_timing_cache_enable"):
            if options.get(name, "False") not in ("True", "False"):
                raise RuntimeError(f"The value for the key '{name}' should be 'True' or 'False'.")
        if options.get("trt_engine_cache_path") == "":
            raise RuntimeError("The value for the key 'trt_engine_cache_path' should be a path string")
        model = onnx.load(path)
        stored = {entry.key: entry.value for entry in model.metadata_props}.get("ep_cache_context")
        if stored is None and options.get("trt_dump_ep_context_model") == "True":
            self._dump(model, options)
        elif stored is not None and stored.startswith("/"):
            raise RuntimeError("the ep_cache_context attribute should be set with a relative path")
        elif stored is not None and not (pathlib.Path(path).parent / stored).is_file():
            raise RuntimeError("TensorRT EP can't find engine cache")
        session = self.real(path, sess_options, ["CPUExecutionProvider"])
        session.get_providers = lambda: ["TensorrtExecutionProvider", "CPUExecutionProvider"]
        self.open += 1
        weakref.finalize(session, self._closed)
        return session

    def _dump(self, model, options):
        context = pathlib.Path(options["trt_ep_context_file_path"])
        name = pathlib.Path(options.get("trt_engine_cache_path", "")) / "TensorrtExecutionProvider_sm75.engine"
        (context.parent / name).write_bytes(b"engine")
        model.metadata_props.add(key="ep_cache_context", value=str(name))
        del model.metadata_props[[entry.key for entry in model.metadata_props].index("tomopoint.pipeline")]
        onnx.save(model, context)

    def _closed(self):
        self.open -= 1


def test_what_onnxruntimes_tensorrt_leaves_is_loaded_again_before_it_is_recorded(
    root, kit, here, with_gpu, monkeypatch, tmp_path
):
    FakeTensorrtProvider(monkeypatch)
    record = run(root, [ORT_TENSORRT], max_hours=None).record
    assert set(record.files) == {
        "onnxruntime-tensorrt/ensemble_ctx.onnx",
        "onnxruntime-tensorrt/TensorrtExecutionProvider_sm75.engine",
    }
    assert (record.runtime_version, record.compute_capability) == (onnxruntime.__version__, "7.5")
    moved = shutil.move(root / "working", tmp_path / "elsewhere")  # as it is attached to the submit notebook
    engine, _ = load_engine(kit / "ensemble.onnx", "tensorrt", record_path=moved / "engine.json")
    assert engine.describe()["provider"] == "TensorrtExecutionProvider"
    engine.close()


def test_an_engine_that_onnxruntime_will_not_load_again_is_passed_over(root, here, with_gpu, monkeypatch):
    provider = FakeTensorrtProvider(monkeypatch)
    provider.extra = {"trt_engine_cache_path": str(root / "working" / "onnxruntime-tensorrt")}
    report = run(root, [ORT_TENSORRT])
    assert not report.ok
    assert "ep_cache_context attribute should be set with a relative path" in report.text
    provider.extra = {"trt_dump_ep_context_model": "False"}
    assert "left no EP-context model" in run(root, [ORT_TENSORRT]).text
    assert list((root / "working").iterdir()) == []
