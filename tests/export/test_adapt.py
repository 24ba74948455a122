"""A graph with another window and other thresholds: the same networks, and the same answers where windows agree."""

import numpy as np
import pytest

from tomopoint.errors import TomopointError
from tomopoint.export.command import adapt
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.models.box import find_model


@pytest.fixture(scope="module")
def small():
    from pathlib import Path

    return find_model(Path("small"))


def test_thresholds_and_window_change_and_nothing_else(small, tmp_path):
    before = read_pipeline(small)
    result = adapt(small, out=tmp_path / "a.onnx", shape="32,40,48", thresholds="ribosome=0.123")
    after = read_pipeline(tmp_path / "a.onnx")
    assert after.tiling.window_zyx == (32, 40, 48)
    assert after.thresholds == {**before.thresholds, "ribosome": 0.123}
    assert [member.weights_sha256 for member in after.members] == [member.weights_sha256 for member in before.members]
    assert (after.voxel_A, after.normalisation, after.decoding) == (
        before.voxel_A,
        before.normalisation,
        before.decoding,
    )
    assert result.figures["parity"]
    assert "chosen in another window" not in result.text


def test_the_adapted_graph_computes_what_the_networks_compute(small, tmp_path):
    """Adapted twice, to one window by two ways: the same outputs, and others than of half the volume."""
    adapt(small, out=tmp_path / "a.onnx", window="32,32,32")
    adapt(tmp_path / "a.onnx", out=tmp_path / "b.onnx", window="32,32,64")
    adapt(tmp_path / "b.onnx", out=tmp_path / "c.onnx", window="32,32,32")
    volume = np.random.default_rng(0).standard_normal((1, 1, 32, 32, 32), dtype=np.float32)
    outputs = []
    for name in ("a", "c"):
        engine = OnnxEngine(tmp_path / f"{name}.onnx", provider="cpu")
        outputs.append(engine.infer(volume))
        engine.close()
    for first, second in zip(*outputs, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_new_window_with_old_thresholds_is_said(small, tmp_path):
    result = adapt(small, out=tmp_path / "a.onnx", window="32,32,32")
    assert "its thresholds were chosen in another window" in result.text


def test_views_are_merged_by_their_maximum_unless_told_otherwise(small, tmp_path):
    """Two views in the graph are what the graph of one says of the volume and of its turned copy, merged."""
    one, two, mean = (tmp_path / f"{name}.onnx" for name in ("one", "two", "mean"))
    assert "with other views: predict" in adapt(small, out=one, window="32,32,32", views="1").text
    adapt(one, out=two, views="identity,rot180")
    adapt(two, out=mean, views="2", view_merge="mean")
    adapt(mean, out=tmp_path / "four.onnx", views="4")
    assert read_pipeline(tmp_path / "four.onnx").view_merge == "mean"  # as they were
    adapt(mean, out=tmp_path / "gmean.onnx", view_merge="gmean")
    assert read_pipeline(tmp_path / "gmean.onnx").view_merge == "gmean"
    assert (read_pipeline(one).views, read_pipeline(one).view_merge) == (("identity",), "mean")
    assert (read_pipeline(two).views, read_pipeline(two).view_merge) == (("identity", "rot180"), "max")
    assert (read_pipeline(mean).views, read_pipeline(mean).view_merge) == (("identity", "flip_x_flip_z"), "mean")

    volume = np.random.default_rng(0).standard_normal((1, 1, 32, 32, 32), dtype=np.float32)
    scores = {}
    for path, asked in ((one, volume), (two, volume), (one, volume[..., ::-1, ::-1].copy())):
        engine = OnnxEngine(path, provider="cpu")
        scores[path.stem, len(scores)] = engine.infer(asked)[0]
        engine.close()
    straight, merged, turned = scores.values()
    # each network's highest is taken before networks are averaged: not below the highest of the averages
    assert (merged >= np.maximum(straight, turned[..., ::-1, ::-1]) - 2e-3).all()
    assert (merged <= straight + turned[..., ::-1, ::-1] + 2e-3).all()
    assert np.abs(merged - straight).max() > 0.01


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "nothing is to be changed"),
        ({"window": "30,32,32"}, "multiples of 4|multiples of 8"),
        ({"thresholds": "spike=0.5"}, "spike"),
        ({"shape": "0,10,10"}, "shape"),
        ({"views": "3"}, "--views 3"),
        ({"view_merge": "max", "thresholds": "ribosome=0.2"}, "--view-merge max: there is one view"),
    ],
)
def test_what_cannot_be_adapted(small, tmp_path, options, sentence):
    with pytest.raises(TomopointError, match=sentence):
        adapt(small, out=tmp_path / "a.onnx", **options)
    assert not (tmp_path / "a.onnx").exists()
