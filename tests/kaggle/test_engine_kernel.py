import json

import numpy as np
import pytest

from tomopoint.errors import DataError, EngineError
from tomopoint.export.parity import Outputs
from tomopoint.export.reference import Reference
from tomopoint.files import sha256_of
from tomopoint.inference.engines.gpus import Gpu, find_gpus
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.inference.engines.record import EngineRecord, Expected, check_engine_record
from tomopoint.kaggle.engine_kernel import RUNTIMES, Runtime, run, why_no_gpu
from tomopoint.kaggle.manifest import KitFile, Manifest

CPU = next(runtime for runtime in RUNTIMES if runtime.name == "onnxruntime-cpu")


@pytest.fixture
def root(kit, tmp_path):
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


@pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU")
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

    report = run(root, [Runtime("fast", "FastProvider", False, broken), CPU])
    assert report.record.runtime == "onnxruntime-cpu"
    assert report.record.passed_over == ("fast: passed over, no library",)
    assert sorted(path.name for path in (root / "working").iterdir()) == ["engine.json"]  # nothing half-built


def test_what_a_runtime_built_is_hashed_into_the_record_and_checked_before_use(root, kit):
    def building(path, folder):
        folder.mkdir()
        (folder / "ensemble.engine").write_bytes(b"plan")
        return OnnxEngine(path, "cpu")

    record = run(root, [Runtime("fast", "FastProvider", False, building)]).record
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

    def building(path, folder):
        folder.mkdir()
        (folder / "ensemble.engine").write_bytes(b"plan")
        return OnnxEngine(path, "cpu")

    assert not run(root, [Runtime("fast", "FastProvider", False, building)]).ok
    assert list((root / "working").iterdir()) == []


def test_an_engine_is_closed_even_when_it_fails(root):
    closed = []

    class Failing(OnnxEngine):
        def infer(self, windows):
            raise EngineError("out of memory")

        def close(self):
            closed.append(True)
            super().close()

    report = run(root, [Runtime("fast", "FastProvider", False, lambda path, _: Failing(path, "cpu"))])
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
