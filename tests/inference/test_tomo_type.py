"""Which reconstruction is read: the one the graph was validated on, unless the user says otherwise."""

from __future__ import annotations

import shutil
from dataclasses import replace

import onnx
from onnx import helper

from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.predict_runs import PredictOptions, predict_runs


def test_the_graph_says_which_reconstruction_it_reads(blob_project, blob_model, tmp_path):
    project = blob_project(1)
    (run,) = project.runs
    shutil.move(run.tomogram_path(), run.tomogram_path("wbp"))
    model = onnx.load(blob_model)
    pipeline = replace(read_pipeline(blob_model), tomo_type="wbp")
    helper.set_model_props(model, {"tomopoint.pipeline": pipeline.to_json(indent=None)})
    onnx.save(model, tmp_path / "ensemble.onnx")
    options = PredictOptions(provider="cpu")
    assert predict_runs(project.runs, tmp_path / "ensemble.onnx", tmp_path / "out", options).ok
    chosen = replace(options, tomo_type="denoised")
    other = predict_runs(project.runs, tmp_path / "ensemble.onnx", tmp_path / "other", chosen)
    assert [outcome.run for outcome in other.failed] == [run.name]
