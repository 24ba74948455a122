import json
import pathlib
import shutil
import weakref

import numpy as np
import onnx
import onnxruntime
import pytest

from tomopoint.errors import DataError, EngineError
from tomopoint.export import engine_trial
from tomopoint.export.engine_build import Plan
from tomopoint.export.parity import Outputs
from tomopoint.export.reference import Reference
from tomopoint.files import sha256_of
from tomopoint.inference.engines import load, tensorrt
from tomopoint.inference.engines.flavour import CLASSIC, TensorRT
from tomopoint.inference.engines.gpus import Gpu
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.inference.engines.record import EngineRecord, Expected, check_engine_record
from tomopoint.kaggle import engine_kernel
from tomopoint.kaggle.engine_kernel import RUNTIMES, Runtime, run, why_no_gpu
from tomopoint.kaggle.manifest import KitFile, Manifest

NATIVE, ORT_TENSORRT, _, CPU = RUNTIMES
T4 = Gpu(0, "Tesla T4", "7.5", 15 << 30)


def _on_the_cpu(path, *_):
    return OnnxEngine(path, "cpu")


def _building(path, folder):
    folder.mkdir()
    (folder / "ensemble.engine").write_bytes(b"plan")
    return "1.0"


@pytest.fixture
def root(kit, tmp_path, monkeypatch):
    """Return the root of a machine without a GPU."""
    monkeypatch.setattr(engine_kernel, "find_gpus", list)
    root = tmp_path / "kaggle"
    (root / "input").mkdir(parents=True)
    (root / "working").mkdir()
    (root / "input" / "my-kit").symlink_to(kit, target_is_directory=True)
    return root


def _replace_reference(kit, reference):
    reference.save(kit / "reference.npz")
    manifest = json.loads((kit / "manifest.json").read_text())
    manifest["files"]["reference.npz"] = vars(KitFile.of(kit / "reference.npz"))
    (kit / "manifest.json").write_text(json.dumps(manifest))


def test_the_record_names_runtime_graph_and_parity(root, kit):
    report = run(root, [CPU])
    assert report.ok
    record = EngineRecord.load(root / "working" / "engine.json")
    assert record == report.record
    assert (record.runtime, record.options["provider"], record.device) == (
        "onnxruntime-cpu", "CPUExecutionProvider", "the CPU"
    )  # fmt: skip
    assert (record.window_zyx, record.batch, record.precision) == ((24, 32, 32), 1, "fp32")
    manifest = Manifest.load(kit)
    check_engine_record(record, root / "working", Expected(manifest.onnx_sha256, manifest.pipeline_digest))
    assert 0 <= record.parity["scores_max"] < 1e-4


@pytest.fixture
def with_gpu(root, monkeypatch):
    """Let the machine say that it has a T4."""
    for module in (engine_kernel, load, tensorrt):
        name = "require_gpu" if module is tensorrt else "find_gpus"
        monkeypatch.setattr(module, name, (lambda _: T4) if module is tensorrt else (lambda: [T4]))


def test_without_gpu_the_gpu_runtimes_are_passed_over_with_the_reason(root):
    report = run(root)
    assert report.record.passed_over == tuple(
        f"{name}: passed over, there is no GPU here (on Kaggle: Settings > Accelerator > GPU T4 x2)"
        for name in ("tensorrt", "onnxruntime-tensorrt", "onnxruntime-cuda")
    )
    assert report.record.passed_over[0] in report.text


def test_a_runtime_that_does_not_reproduce_pytorch_is_not_recorded(root, kit):
    true = Reference.load(kit / "reference.npz")
    wrong = Outputs(true.outputs.scores + np.float32(0.01), true.outputs.offsets)
    _replace_reference(kit, Reference(true.windows, wrong, true.precision, true.onnx_sha256))
    report = run(root, [CPU])
    assert not report.ok
    assert "not PyTorch's" in report.text
    assert "FAILED" in report.text
    assert not (root / "working" / "engine.json").exists()


def test_a_runtime_that_does_not_start_gives_way_to_the_next(root):
    def broken(path, folder):
        folder.mkdir()
        (folder / "half-built").touch()
        raise EngineError("no library")

    report = run(root, [Runtime("fast", "FastProvider", False, broken, _on_the_cpu), CPU])
    assert report.record.runtime == "onnxruntime-cpu"
    assert report.record.passed_over == ("fast: passed over, no library",)
    assert sorted(path.name for path in (root / "working").iterdir()) == ["engine.json"]  # nothing half-built


def test_what_a_runtime_built_is_hashed_into_the_record_and_checked_before_use(root, kit):
    record = run(root, [Runtime("fast", "FastProvider", False, _building, _on_the_cpu)]).record
    plan = root / "working" / "fast" / "ensemble.engine"
    assert record.files == {"fast/ensemble.engine": sha256_of(plan)}
    manifest = Manifest.load(kit)
    expected = Expected(manifest.onnx_sha256, manifest.pipeline_digest)
    check_engine_record(record, root / "working", expected)
    plan.write_bytes(b"plam")
    with pytest.raises(EngineError, match="damaged"):
        check_engine_record(record, root / "working", expected)


def test_an_engine_with_wrong_outputs_is_removed(root, kit):
    true = Reference.load(kit / "reference.npz")
    wrong = Outputs(true.outputs.scores, true.outputs.offsets + np.float32(0.1))
    _replace_reference(kit, Reference(true.windows, wrong, true.precision, true.onnx_sha256))
    assert not run(root, [Runtime("fast", "FastProvider", False, _building, _on_the_cpu)]).ok
    assert list((root / "working").iterdir()) == []


def test_an_engine_is_closed_even_when_it_fails(root):
    closed = []

    class Failing(OnnxEngine):
        def infer(self, windows):
            raise EngineError("out of memory")

        def close(self):
            closed.append(True)
            super().close()

    report = run(root, [Runtime("fast", "FastProvider", False, _building, lambda path, *_: Failing(path, "cpu"))])
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


def test_beside_a_gpu_the_cpu_is_not_enough(root, with_gpu):
    def refused(path, folder):
        raise EngineError("libnvinfer.so.10 is missing")

    (root / "working" / "engine.json").write_text("{}")  # of an earlier run
    report = run(root, [Runtime("tensorrt", "TensorRT", True, refused, _on_the_cpu), CPU])
    assert not report.ok
    assert report.record is None
    assert list((root / "working").iterdir()) == []
    lines = report.text.splitlines()
    assert lines[0] == "tensorrt: passed over, libnvinfer.so.10 is missing"
    assert lines[1].startswith("onnxruntime-cpu: passed over, it reproduces PyTorch, but leaves the Tesla T4 idle")
    assert lines[2].startswith("no engine.json is left: mend")
    assert lines[-1].split()[0] == "onnxruntime-cpu"  # its row of the table tells that the graph is right
    assert "  ok, " in lines[-1]


def test_a_plan_that_is_built_but_cannot_be_loaded_is_not_recorded(root, with_gpu, monkeypatch):
    trt = TensorRT(CLASSIC, None, "10.16.1.11")
    loaded = []
    monkeypatch.setattr(engine_trial, "load_tensorrt", lambda flavour: trt)
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda flavour: trt)
    monkeypatch.setattr(engine_trial, "build_plan", lambda *_: Plan(b"plan", "7.5", 1, 0.0, 0.0))

    def load_plan(path, trt):
        loaded.append(path)
        raise EngineError("cannot load the plan")

    monkeypatch.setattr(tensorrt, "load_plan", load_plan)
    report = run(root, [NATIVE])
    assert loaded == [root / "working" / "tensorrt" / "ensemble.engine"]
    assert report.text.startswith("tensorrt: passed over, cannot load the plan")
    assert list((root / "working").iterdir()) == []

    monkeypatch.setattr(tensorrt, "load_plan", lambda path, trt: _on_the_cpu(root / "input/my-kit/ensemble.onnx"))
    assert run(root, [NATIVE]).record.runtime_version == "10.16.1.11"


class FakeTensorrtProvider:
    """Sessions that keep the rules of ONNX Runtime 1.26's TensorRT provider for EP-context models.

    Written from its source, not from what the project gives it: a switch is True or False; the engine's path is
    written down as ``trt_engine_cache_path`` has it and must be relative; it is looked for beside the model.
    """

    def __init__(self, monkeypatch):
        self.real, self.extra, self.open = onnxruntime.InferenceSession, {}, 0
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.make)

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
    root, kit, with_gpu, monkeypatch, tmp_path
):
    FakeTensorrtProvider(monkeypatch)
    record = run(root, [ORT_TENSORRT]).record
    assert set(record.files) == {
        "onnxruntime-tensorrt/ensemble_ctx.onnx",
        "onnxruntime-tensorrt/TensorrtExecutionProvider_sm75.engine",
    }
    assert (record.runtime_version, record.compute_capability) == (onnxruntime.__version__, "7.5")
    moved = shutil.move(root / "working", tmp_path / "elsewhere")  # as it is attached to the submit notebook
    engine, _ = load_engine(kit / "ensemble.onnx", "tensorrt", record_path=moved / "engine.json")
    assert engine.describe()["provider"] == "TensorrtExecutionProvider"
    engine.close()


def test_an_engine_that_onnxruntime_will_not_load_again_is_passed_over(root, with_gpu, monkeypatch):
    provider = FakeTensorrtProvider(monkeypatch)
    provider.extra = {"trt_engine_cache_path": str(root / "working" / "onnxruntime-tensorrt")}
    report = run(root, [ORT_TENSORRT])
    assert not report.ok
    assert "ep_cache_context attribute should be set with a relative path" in report.text
    provider.extra = {"trt_dump_ep_context_model": "False"}
    assert "left no EP-context model" in run(root, [ORT_TENSORRT]).text
    assert list((root / "working").iterdir()) == []
