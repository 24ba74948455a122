"""Choosing an engine where a record of a TensorRT engine is at hand: used, refused with the reason, or passed over."""

from dataclasses import replace

import onnxruntime
import pytest

from tomopoint.errors import EngineError
from tomopoint.files import sha256_of
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.engines.record import EngineRecord

needs_no_gpu = pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU")


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
        ({"runtime": "tensorrt"}, "names 0 files where one plan was expected"),
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


@needs_no_gpu
def test_automatic_choice_passes_over_what_does_not_fit_and_says_why(blob_model, record, tmp_path, caplog):
    path = replace(record, onnx_sha256="0" * 64).save(tmp_path)
    with caplog.at_level("INFO", logger="tomopoint.inference.engines.load"):
        engine, _ = load_engine(blob_model, record_path=path)
    assert engine.describe()["provider"] == "CPUExecutionProvider"
    lines = [entry.getMessage() for entry in caplog.records]
    assert lines[0].startswith("TensorRT passed over: the onnxruntime-tensorrt engine")
    assert "another graph" in lines[0]
    assert lines[1] == "ONNX Runtime on the CPU taken: nothing faster works"
    engine.close()


@needs_no_gpu
def test_a_record_that_fits_is_not_enough_where_tensorrt_is_missing(blob_model, record, tmp_path):
    with pytest.raises(EngineError, match=r"no such graph: .*ensemble_ctx\.onnx"):
        load_engine(blob_model, "tensorrt", record_path=record.save(tmp_path))
