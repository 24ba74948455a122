import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from tomopoint.data.stores import write_tomogram
from tomopoint.errors import EngineError, TomopointError
from tomopoint.export import onnx_export
from tomopoint.export.command import export
from tomopoint.export.cost import project
from tomopoint.export.graph_cost import count_graph
from tomopoint.export.onnx_export import ExportOptions, export_merged, reference_windows
from tomopoint.files import sha256_of
from tomopoint.inference.cost import read_cost
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.parity import FP32_SMALL, Tolerance
from tomopoint.inference.reference import Reference
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import Pipeline, Tiling

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def single(merged):
    """One network: quicker where the number does not matter."""
    return replace(
        merged,
        networks=merged.networks[:1],
        pipeline=replace(merged.pipeline, members=merged.pipeline.members[:1]),
    )


@pytest.fixture(scope="module")
def report(merged, tmp_path_factory):
    return export_merged(merged, tmp_path_factory.mktemp("export") / "ensemble.onnx", ExportOptions(precision="fp32"))


def _metadata(path):
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}


def _run(path, windows):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"volume": windows})


def test_the_graph_averages_all_members_by_their_weights(report, merged):
    # Independently of Ensemble: the members' weights are 1, 2, 3.
    windows = np.random.default_rng(5).standard_normal((1, 1, *report.pipeline.tiling.window_zyx), dtype=np.float32)
    with torch.inference_mode():
        single = [network(torch.from_numpy(windows)) for network in merged.networks]
    for index, got in enumerate(_run(report.path, windows)):
        expected = sum(weight * outputs[index].numpy() for weight, outputs in zip((1, 2, 3), single, strict=True)) / 6
        np.testing.assert_allclose(got, expected, atol=FP32_SMALL.scores)


def test_pipeline_parity_and_versions_are_in_the_file(report):
    metadata = _metadata(report.path)
    assert Pipeline.from_json(metadata["tomopoint.pipeline"]) == report.pipeline
    rows = json.loads(metadata["tomopoint.parity"])
    assert [row["subject"] for row in rows] == ["segresnet", "dynunet", "whole graph"]
    assert all(row["ok"] and row["top1_agreement"] == 1.0 for row in rows)
    assert all(0 < row["scores_max"] <= FP32_SMALL.scores for row in rows)
    export = json.loads(metadata["tomopoint.export"])
    assert (export["precision"], export["opset"]) == ("fp32", 20)
    assert export["versions"]["torch"] == str(torch.__version__)
    assert [member.weights_sha256 for member in report.pipeline.members] == [f"{k:064x}" for k in range(3)]


def test_the_cost_is_that_of_the_graph_as_written(report):
    counted = count_graph(onnx_ir.load(report.path))
    cost = read_cost(report.path)
    assert cost == report.cost
    assert (cost.window_zyx, cost.n_networks, cost.precision) == (report.pipeline.tiling.window_zyx, 3, "fp32")
    assert (cost.flop, cost.unfused_bytes) == (counted.flop, counted.unfused_bytes)
    assert (cost.peak_activation_bytes, cost.weight_bytes) == (counted.peak_activation_bytes, counted.weight_bytes)


def test_the_reference_is_pytorchs_answer_and_names_the_graph(report, merged):
    reference = Reference.load(report.path.with_name("reference.npz"))
    assert reference.onnx_sha256 == sha256_of(report.path) == report.onnx_sha256
    ensemble = Ensemble(merged.networks, weights=(1, 2, 3)).eval()
    with torch.inference_mode():
        scores, offsets = ensemble(torch.from_numpy(reference.windows))
    np.testing.assert_array_equal(reference.outputs.scores, scores.numpy())
    np.testing.assert_array_equal(reference.outputs.offsets, offsets.numpy())
    # An answer on which errors can show: scores over most of their range, offsets of a voxel.
    assert np.ptp(reference.outputs.scores) > 0.3
    assert np.abs(reference.outputs.offsets).max() > 0.5


def test_the_graph_is_what_the_pipeline_says_in_half_precision_and_batches(single, tmp_path):
    validated = replace(single.pipeline, tiling=Tiling((24, 32, 16), (8, 8, 8)), views=("identity", "flip_z"))
    report = export_merged(replace(single, pipeline=validated), tmp_path / "e.onnx", ExportOptions(batch=2))
    assert report.pipeline == validated
    assert all(row.ok for row in report.rows)
    reference = Reference.load(report.reference_path)
    assert reference.windows.shape == (2, 1, 24, 32, 16)
    scores, _ = _run(report.path, reference.windows)
    assert scores.dtype == np.float32
    error = np.abs(scores - reference.outputs.scores).max()
    assert FP32_SMALL.scores / 100 < error < 0.03  # it did compute in float16


def test_nothing_is_written_where_the_graph_is_wrong(single, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "tolerance_for", lambda *_: Tolerance(scores=1e-12, offsets_vox=1e-12))
    out = tmp_path / "ensemble.onnx"
    out.write_text("the graph of yesterday")
    with pytest.raises(EngineError, match=r"disagree \(whole graph\).*not written"):
        export_merged(single, out, ExportOptions())
    assert out.read_text() == "the graph of yesterday"
    assert [path.name for path in tmp_path.iterdir()] == ["ensemble.onnx"]


@pytest.mark.parametrize("window", [(30, 32, 32), (32, 32, 34)])
def test_an_illegal_window_names_the_nearest_legal_one(merged, tmp_path, window):
    by_hand = replace(merged.pipeline, tiling=Tiling(window, (16, 16, 16)))
    with pytest.raises(TomopointError, match=r"multiples of 8.*pad it to 32x32x(32|40)"):
        export_merged(replace(merged, pipeline=by_hand), tmp_path / "e.onnx", ExportOptions())


def test_options_out_of_range_are_refused():
    with pytest.raises(TomopointError, match="fp32, fp16"):
        ExportOptions(precision="int8")
    with pytest.raises(TomopointError, match="at least 1"):
        ExportOptions(batch=0)


def test_reference_windows_from_a_tomogram_are_normalised_crops(pipeline, tmp_path):
    rng = np.random.default_rng(0)
    write_tomogram(tmp_path / "t.zarr", 1e-5 * rng.standard_normal((28, 48, 60), dtype=np.float32) + 3e-6)
    options = ExportOptions(batch=2, tomogram_path=tmp_path / "t.zarr")
    windows = reference_windows(pipeline, options)
    assert windows.shape == (2, 1, 32, 32, 40)  # padded along z
    assert abs(windows.mean()) < 0.05
    assert windows.std() == pytest.approx(1, abs=0.05)
    assert not np.array_equal(windows[0], windows[1])


def test_export_from_the_command_line(write_run, tmp_path):
    run = write_run("a", seeds=(0,))
    words = [sys.executable, str(CHECKOUT / "export_onnx.py"), str(run), "-o", str(tmp_path / "e.onnx"), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["ok"]
    assert figures["onnx_sha256"] == sha256_of(tmp_path / "e.onnx")
    assert [row["subject"] for row in figures["parity"]] == ["whole graph"]
    cost = read_cost(tmp_path / "e.onnx")
    assert (cost.precision, cost.n_networks) == ("fp16", 1)
    assert figures["cost"]["flop"] == cost.flop
    hours = project(cost, read_pipeline(tmp_path / "e.onnx"))
    assert figures["hours"] == {p.runtime: round(p.hours, 2) for p in hours}


def test_the_export_says_what_the_graph_costs_and_warns(write_run, tmp_path, monkeypatch):
    result = export([write_run("a", seeds=(0,))], out=tmp_path / "e.onnx")
    assert "windows of" in result.text
    assert f"ONNX Runtime CUDA {result.figures['hours']['onnxruntime-cuda']:.1f} h" in result.text
    assert "warning" not in result.text
    monkeypatch.setattr("tomopoint.export.advice.HOURS_TO_WARN", 0.2)
    result = export([tmp_path / "a"], out=tmp_path / "e.onnx", precision="fp32")
    assert "above 0.2 h" in result.text
    assert "--precision fp16" in result.text
