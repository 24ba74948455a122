"""Choosing an engine where a record of a TensorRT engine is at hand: used, refused with the reason, or passed over."""

from dataclasses import replace

import onnxruntime
import pytest

from tomopoint.errors import EngineError
from tomopoint.files import sha256_of
from tomopoint.inference import cpu_engine
from tomopoint.inference.engines import load, onnx
from tomopoint.inference.engines.engine_record import EngineRecord
from tomopoint.inference.engines.gpus import Gpu, find_gpus
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import load_built, load_engine

needs_no_gpu = pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU")
T4 = Gpu(0, "Tesla T4", "7.5", 15 << 30)


@pytest.fixture
def record(blob_model):
    """Return the record of an engine that was built from the graph on a T4."""
    pipeline = read_pipeline(blob_model)
    return EngineRecord(
        runtime="onnxruntime-tensorrt",
        runtime_version=onnxruntime.__version__,
        onnx_sha256=sha256_of(blob_model),
        pipeline_digest=pipeline.digest,
        precision="fp16",
        window_zyx=pipeline.tiling.window_zyx,
        batch=1,
        compute_capability="7.5",
        device="Tesla T4",
        parity={"ok": True},
    )


def test_the_pipeline_is_read_without_a_runtime(blob_model):
    engine, pipeline = load_engine(blob_model, "cpu")
    assert read_pipeline(blob_model) == pipeline
    engine.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"onnx_sha256": "0" * 64}, "built from another graph"),
        ({"runtime_version": "1.0"}, "built with onnxruntime-tensorrt 1.0, installed is"),
        ({"files": {"onnxruntime-tensorrt/ensemble_ctx.onnx": "0" * 64}}, "lost its file"),
        ({"runtime": "onnxruntime-cpu"}, "is of onnxruntime-cpu, not of a TensorRT engine"),
        ({"runtime": "tensorrt", "pipeline_digest": "0" * 64}, "another pipeline"),
        ({"runtime": "tensorrt"}, "names 0 plans .* where one was expected"),
    ],
)
def test_a_tensorrt_engine_that_does_not_fit_is_refused_where_it_is_asked_for(
    blob_model, record, tmp_path, change, sentence
):
    path = replace(record, **change).save(tmp_path)
    with pytest.raises(EngineError, match=sentence):
        load_engine(blob_model, "tensorrt", record_path=path)


def test_tensorrt_without_a_record_is_refused(blob_model):
    with pytest.raises(EngineError, match=r"no engine\.json given"):
        load_engine(blob_model, "tensorrt")


def test_an_engine_that_was_never_compared_is_refused_except_on_trial(blob_model, record, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "find_gpus", lambda: [T4])
    draft = replace(record, parity=None)
    with pytest.raises(EngineError, match="never found to reproduce PyTorch"):
        load_engine(blob_model, "tensorrt", record_path=draft.save(tmp_path))
    with pytest.raises(EngineError, match=r"no such graph: .*ensemble_ctx\.onnx"):  # past all checks
        load_built(blob_model, draft, tmp_path)
    with pytest.raises(EngineError, match="another pipeline"):
        load_built(blob_model, replace(draft, pipeline_digest="0" * 64), tmp_path)


def test_without_a_gpu_and_openvino_the_automatic_choice_is_onnx_runtime(
    blob_model, record, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(load, "find_gpus", list)

    def missing():
        raise EngineError("OpenVINO is not installed; pip it")

    monkeypatch.setattr(cpu_engine, "installed_version", missing)
    with caplog.at_level("INFO", logger="tomopoint"):
        engine, _ = load_engine(blob_model, record_path=record.save(tmp_path))
    assert engine.describe()["provider"] == "CPUExecutionProvider"
    assert [entry.getMessage() for entry in caplog.records] == [
        "ONNX Runtime on the CPU taken: there is no GPU here, and no OpenVINO: OpenVINO is not installed; pip it",
    ]
    engine.close()
    with pytest.raises(EngineError, match="OpenVINO is not installed"):
        load_engine(blob_model, "openvino")


@pytest.mark.parametrize(("recorded", "why"), [(True, "another graph"), (False, r"no engine\.json given")])
def test_automatic_choice_never_ends_on_the_cpu_beside_a_gpu(blob_model, record, tmp_path, monkeypatch, recorded, why):
    monkeypatch.setattr(load, "find_gpus", lambda: [T4])
    path = replace(record, onnx_sha256="0" * 64).save(tmp_path) if recorded else None

    def no_cuda(model, provider, options):
        assert provider == "cuda"
        raise EngineError("libcudnn.so.9 is missing")

    monkeypatch.setattr(onnx, "OnnxEngine", no_cuda)
    message = rf"(?s)\(Tesla T4\).*TensorRT: .*{why}.*on CUDA: libcudnn\.so\.9 is missing.*--provider cpu"
    with pytest.raises(EngineError, match=message):
        load_engine(blob_model, record_path=path)


needs_cpu_build = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this is ONNX Runtime's build for CUDA"
)


@needs_cpu_build
def test_the_cpu_build_beside_a_gpu_is_named_with_what_mends_it(blob_model, monkeypatch):
    monkeypatch.setattr(load, "find_gpus", lambda: [T4])
    mending = r"`pip uninstall onnxruntime onnxruntime-gpu`, then `pip install 'tomopoint\[gpu\]'`.*make setup GPU=1"
    message = rf"(?s)nothing that is installed works on it.*is a build without CUDAExecutionProvider.*{mending}"
    with pytest.raises(EngineError, match=message) as caught:
        load_engine(blob_model)
    assert "libraries" not in str(caught.value)


def test_libraries_that_do_not_load_are_named_by_their_cuda(blob_model, monkeypatch):
    """The provider is listed, as in the build for CUDA 12, but its session cannot be made."""
    listed = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "cuda_version", "12.8", raising=False)

    def no_libraries(*arguments, **options):
        raise RuntimeError("libcublasLt.so.12: cannot open shared object file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", no_libraries)
    with pytest.raises(EngineError, match=r"libcublasLt\.so\.12.*for CUDA 12\.8.*'tomopoint\[gpu-cu12\]'"):
        onnx.OnnxEngine(blob_model, "cuda")


def test_automatic_choice_passes_over_what_does_not_fit_and_says_why(blob_model, record, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(load, "find_gpus", lambda: [T4])
    path = replace(record, onnx_sha256="0" * 64).save(tmp_path)
    real = onnx.OnnxEngine
    asked = []

    def on_the_cpu(model, provider, options):
        asked.append(provider)
        return real(model, "cpu", options)

    monkeypatch.setattr(onnx, "OnnxEngine", on_the_cpu)
    with caplog.at_level("INFO", logger=load.__name__):
        engine, _ = load_engine(blob_model, record_path=path)
    engine.close()
    assert asked == ["cuda"]
    lines = [entry.getMessage() for entry in caplog.records]
    assert lines[0].startswith("passed over, TensorRT: the onnxruntime-tensorrt engine")
    assert "another graph" in lines[0]
    assert lines[1] == "ONNX Runtime on CUDA taken: the fastest that works here"


@pytest.mark.parametrize("provider", ["auto", "tensorrt"])
def test_a_record_of_openvino_is_not_used_beside_a_gpu_unless_by_name(
    blob_model, record, tmp_path, monkeypatch, provider
):
    monkeypatch.setattr(load, "find_gpus", lambda: [T4])

    def no_cuda(model, provider, options):
        raise EngineError("libcudnn.so.9 is missing")

    monkeypatch.setattr(onnx, "OnnxEngine", no_cuda)
    path = replace(record, runtime="openvino", compute_capability=None).save(tmp_path)
    with pytest.raises(EngineError, match="is of openvino, not of a TensorRT engine"):
        load_engine(blob_model, provider, record_path=path)


@needs_no_gpu
def test_a_record_that_fits_is_not_enough_where_tensorrt_is_missing(blob_model, record, tmp_path):
    with pytest.raises(EngineError, match=r"no such graph: .*ensemble_ctx\.onnx"):
        load_engine(blob_model, "tensorrt", record_path=record.save(tmp_path))
