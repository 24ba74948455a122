"""``engine.json``: what it keeps, and each of the engines that are refused with their one sentence."""

import json
import os
import time
from dataclasses import replace

import pytest

from tomopoint import files
from tomopoint.errors import EngineError
from tomopoint.files import sha256_of
from tomopoint.inference.engines.engine_record import (
    ENGINE_NAME,
    RECORD_NAME,
    EngineRecord,
    Expected,
    check_engine_record,
)
from tomopoint.inference.engines.tensorrt import load_recorded_plan

HERE = Expected("a" * 64, "p" * 64, "10.16.1.11", "7.5")


@pytest.fixture
def engine(tmp_path):
    """A folder with a plan and its record."""
    (tmp_path / ENGINE_NAME).write_bytes(b"plan")
    record = EngineRecord(
        runtime="tensorrt",
        runtime_version="10.16.1.11",
        onnx_sha256="a" * 64,
        pipeline_digest="p" * 64,
        precision="fp16",
        window_zyx=(192, 128, 128),
        batch=1,
        compute_capability="7.5",
        device="Tesla T4",
        files={ENGINE_NAME: sha256_of(tmp_path / ENGINE_NAME)},
        parity={"scores_max": 0.001, "ok": True},
        seconds_per_tile=0.25,
        projected_hours=6.5,
        options={"workspace_gib": 12.0},
        passed_over=("nothing",),
        tomopoint="0",
    )
    record.save(tmp_path)
    return record, tmp_path


def test_a_record_comes_back_as_it_was_written(engine):
    record, folder = engine
    assert EngineRecord.load(folder / RECORD_NAME) == record
    assert EngineRecord.from_json(record.to_json()) == record


def test_an_engine_that_fits_is_accepted(engine):
    check_engine_record(*engine, HERE)
    check_engine_record(*engine, replace(HERE, runtime_version=None, compute_capability=None))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"onnx_sha256": "b" * 64}, r"another graph \(SHA-256 aaaaaaaaaaaa, attached is bbbbbbbbbbbb\); run the"),
        ({"pipeline_digest": "q" * 64}, r"another pipeline .*; run the build_engine notebook"),
        ({"runtime_version": "10.9.0"}, r"built with tensorrt 10\.16\.1\.11, installed is 10\.9\.0; attach the wheels"),
        ({"compute_capability": "8.9"}, r"compute capability 7\.5, this GPU has 8\.9; choose the same accelerator"),
    ],
)
def test_what_does_not_fit_is_refused(engine, changed, sentence):
    with pytest.raises(EngineError, match=sentence):
        check_engine_record(*engine, replace(HERE, **changed))


@pytest.mark.parametrize("parity", [None, {"ok": False}, {}])
def test_an_engine_that_was_never_compared_or_failed_is_refused(engine, parity):
    record, folder = engine
    with pytest.raises(EngineError, match="never found to reproduce PyTorch"):
        check_engine_record(replace(record, parity=parity), folder, HERE)


def test_a_flipped_bit_and_a_lost_file_are_refused(engine):
    record, folder = engine
    (folder / ENGINE_NAME).write_bytes(b"plbn")
    with pytest.raises(EngineError, match=r"damaged: ensemble\.engine is not the file that was tested"):
        check_engine_record(record, folder, HERE)
    (folder / ENGINE_NAME).unlink()
    with pytest.raises(EngineError, match=r"lost its file ensemble\.engine"):
        check_engine_record(record, folder, HERE)


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("onnx_sha256"),
        lambda values: values.update(surprise=1),
        lambda values: values.update(window_zyx=7),
        lambda values: values.update(format_version=99),
        lambda values: values.update(format="something else"),
    ],
)
def test_a_record_of_another_kind_is_refused(engine, damage):
    record, folder = engine
    values = json.loads(record.to_json())
    damage(values)
    (folder / RECORD_NAME).write_text(json.dumps(values))
    with pytest.raises(EngineError, match=r"engine\.json .*run the build_engine notebook"):
        EngineRecord.load(folder / RECORD_NAME)


@pytest.mark.parametrize("text", ["", "[]", "not json", "{}"])
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / RECORD_NAME).write_text(text)
    with pytest.raises(EngineError, match="no engine record"):
        EngineRecord.load(tmp_path / RECORD_NAME)
    with pytest.raises(EngineError, match="cannot read"):
        EngineRecord.load(tmp_path / "absent.json")


def test_loading_refuses_a_stale_engine_before_it_asks_for_tensorrt(engine):
    with pytest.raises(EngineError, match="another graph"):
        load_recorded_plan(*engine, "b" * 64, HERE.pipeline_digest)


@pytest.fixture
def reads(monkeypatch):
    """Count how often a file's content is hashed."""
    count = []
    real = files.hashlib.sha256
    monkeypatch.setattr(files.hashlib, "sha256", lambda: count.append(1) or real())
    return count


def _settle(path):
    """Make a file look as old as one that was attached to a notebook."""
    long_ago = time.time_ns() - 10 * files.SETTLED_NS
    os.utime(path, ns=(long_ago, long_ago))


def test_a_plan_is_read_once_however_often_it_is_asked_about(engine, reads):
    record, folder = engine
    _settle(folder / ENGINE_NAME)
    for _ in range(5):
        check_engine_record(record, folder, HERE)
    assert len(reads) == 1


def test_a_file_that_was_changed_is_read_again(engine, reads):
    record, folder = engine
    path = folder / ENGINE_NAME
    _settle(path)
    check_engine_record(record, folder, HERE)
    path.write_bytes(b"plbn")
    with pytest.raises(EngineError, match="damaged"):
        check_engine_record(record, folder, HERE)
    path.unlink()
    path.write_bytes(b"plcn")
    _settle(path)  # same size, same age, another file
    with pytest.raises(EngineError, match="damaged"):
        check_engine_record(record, folder, HERE)
    path.unlink()
    with pytest.raises(EngineError, match="lost its file"):
        check_engine_record(record, folder, HERE)
    assert len(reads) == 3


def test_a_file_that_is_still_being_written_is_not_remembered(engine, reads):
    """Two changes within one tick of a file system's clock leave one time stamp."""
    record, folder = engine
    for _ in range(3):
        check_engine_record(record, folder, HERE)
    assert len(reads) == 3
