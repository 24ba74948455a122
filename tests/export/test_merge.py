"""Our graph and another's as one: what it computes, what it says of itself, what is refused."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from tomopoint.__main__ import main
from tomopoint.data.project import Project
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import DataError, EngineError, PipelineError, TomopointError
from tomopoint.export.command import adapt, merge_graph
from tomopoint.export.graph import Graph
from tomopoint.export.merge import FOREIGN, MergeOptions, merge_graphs
from tomopoint.export.metadata import graph_metadata
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.export.rebuilt import rebuild_ensemble
from tomopoint.files import sha256_of
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.inference.parity import FP32_SMALL
from tomopoint.inference.predict import predict_volume
from tomopoint.inference.reference import Reference, synthetic_windows
from tomopoint.models.box import find_model
from tomopoint.networks.ensemble import SMALLEST_SCORE
from tomopoint.pipeline import Member
from tomopoint.simulate.command import simulate
from tomopoint.validation.validated import ValidatedEnsemble

WINDOW = (32, 32, 40)  # of the networks of conftest.py

SAME = 1e-5
"""Both sides are float32 out of one runtime: what differs is the order of a few additions, and fused operators."""


def names_of(pipeline):
    return ",".join(pipeline.particle_names)


@pytest.fixture(scope="module")
def ours(merged, pipeline, tmp_path_factory):
    """Two networks, exported as `tomopoint export` does."""
    folder = tmp_path_factory.mktemp("ours")
    members = (Member("fold0", "segresnet", ("TS_1",), 0.5, "0" * 64, 1.0), merged.pipeline.members[1])
    two = ValidatedEnsemble(merged.networks[:2], replace(pipeline, members=members), merged.configs[:2])
    export_merged(two, folder / "ours.onnx", ExportOptions(precision="fp32"))
    return folder / "ours.onnx"


@pytest.fixture(scope="module")
def foreign(merged, tmp_path_factory):
    """A network of other weights, in a graph that says nothing of itself."""
    path = tmp_path_factory.mktemp("theirs") / "theirs.onnx"
    Graph(merged.networks[2], WINDOW, 1).save(path)
    return path


@pytest.fixture(scope="module")
def windows(pipeline):
    return synthetic_windows(pipeline, WINDOW, 1, seed=5)  # not those of the comparison


def run(path, windows):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, {"volume": windows}), strict=True))


class ScoresOnly(nn.Module):
    """A segmentation: some channels of a network's scores, and no offsets."""

    def __init__(self, network, channels):
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, volume):
        return self.network(volume)[0][:, self.channels]


@pytest.fixture(scope="module")
def segmentation(merged, tmp_path_factory):
    """Ribosome, a background, apo-ferritin; opset 18, as another exporter may leave it."""
    path = tmp_path_factory.mktemp("segmentation") / "segmentation.onnx"
    module = ScoresOnly(merged.networks[1], [2, 5, 0]).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            module,
            (torch.zeros((1, 1, *WINDOW)),),
            str(path),
            dynamo=True,
            opset_version=18,
            input_names=["volume"],
            output_names=["scores"],
            external_data=False,
            verbose=False,
        )
    return path


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_merged_graph_is_the_weighted_mean_of_both(ours, foreign, pipeline, windows, tmp_path, weight):
    out = tmp_path / "merged.onnx"
    options = MergeOptions(weight, pipeline.particle_names)
    report = merge_graphs(ours, foreign, out, options)
    got, first, second = run(out, windows), run(ours, windows), run(foreign, windows)
    assert np.abs(first["scores"] - second["scores"]).max() > 0.2  # the two do differ
    for name in ("scores", "offsets"):
        expected = (first[name] + weight * second[name]) / (1 + weight)
        np.testing.assert_allclose(got[name], expected, atol=SAME, rtol=0)
    assert report.row.ok
    assert report.row.scores_max < FP32_SMALL.scores


def test_it_says_who_went_in(ours, foreign, pipeline, tmp_path):
    out = tmp_path / "merged.onnx"
    merge_graphs(ours, foreign, out, MergeOptions(0.5, pipeline.particle_names))
    earlier, merged = read_pipeline(ours), read_pipeline(out)
    *kept, last = merged.members
    assert tuple(kept) == earlier.members
    assert (last.fold, last.network, last.weights_sha256) == (FOREIGN, "theirs", sha256_of(foreign))
    assert last.score is None
    assert last.validation_runs == ()
    # Ours weigh 1 and 2, so that 0.5 of ours as a whole is 1.5 of 4.5, a third.
    assert last.weight / sum(m.weight for m in merged.members) == pytest.approx(0.5 / 1.5)
    assert replace(merged, members=()) == replace(earlier, members=())
    metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert [row["sha256"] for row in json.loads(metadata["tomopoint.export"])["merged_from"]] == [
        sha256_of(ours),
        sha256_of(foreign),
    ]
    assert "tomopoint.networks" not in metadata  # its networks cannot all be taken out and trained further
    single = json.loads({e.key: e.value for e in onnx.load(ours).metadata_props}["tomopoint.cost"])
    both = json.loads(metadata["tomopoint.cost"])
    assert both["n_networks"] == single["n_networks"] + 1
    assert single["flop"] < both["flop"] < 2.2 * single["flop"]


def test_the_reference_holds_the_mean_with_pytorch_for_our_part(ours, foreign, pipeline, tmp_path):
    out = tmp_path / "merged.onnx"
    merge_graphs(ours, foreign, out, MergeOptions(0.5, pipeline.particle_names))
    reference, own = Reference.load(out.with_name("reference.npz")), Reference.load(ours.with_name("reference.npz"))
    reference.require_graph(sha256_of(out), out)
    np.testing.assert_array_equal(reference.windows, own.windows)
    theirs = run(foreign, own.windows)
    expected = (own.outputs.scores + 0.5 * theirs["scores"]) / 1.5
    np.testing.assert_allclose(reference.outputs.scores, expected, atol=1e-6)


def test_classes_are_mapped_and_offsets_are_ours_where_the_other_has_none(
    ours, segmentation, pipeline, windows, tmp_path
):
    out = tmp_path / "merged.onnx"
    merge_graphs(ours, segmentation, out, MergeOptions(3.0, ("ribosome", "background", "apo-ferritin")))
    got, first, second = run(out, windows), run(ours, windows), run(segmentation, windows)
    expected = first["scores"].copy()
    for channel, name in ((0, "ribosome"), (2, "apo-ferritin")):
        index = pipeline.particle_names.index(name)
        expected[:, index] = (first["scores"][:, index] + 3 * second["scores"][:, channel]) / 4
    np.testing.assert_allclose(got["scores"], expected, atol=SAME, rtol=0)
    np.testing.assert_allclose(got["offsets"], first["offsets"], atol=SAME, rtol=0)
    assert {entry.version for entry in onnx.load(out).opset_import} == {20}


def test_a_merged_graph_may_be_merged_again(ours, foreign, segmentation, pipeline, windows, tmp_path):
    first, out = tmp_path / "first" / "merged.onnx", tmp_path / "merged.onnx"
    merge_graphs(ours, foreign, first, MergeOptions(1.0, pipeline.particle_names))
    merge_graphs(first, segmentation, out, MergeOptions(1.0, ("ribosome", "-", "-")))
    got, a, b = run(out, windows), run(first, windows), run(segmentation, windows)
    ribosome = pipeline.particle_names.index("ribosome")
    expected = (a["scores"][:, ribosome] + b["scores"][:, 0]) / 2
    np.testing.assert_allclose(got["scores"][:, ribosome], expected, atol=SAME, rtol=0)
    assert [member.fold for member in read_pipeline(out).members] == ["fold0", "fold1", FOREIGN, FOREIGN]


def test_offsets_count_by_score_where_ours_say_so(merged, foreign, pipeline, windows, tmp_path):
    by_score = replace(pipeline, offset_average="score", members=merged.pipeline.members[:1])
    one = ValidatedEnsemble(merged.networks[:1], by_score, merged.configs[:1])
    (tmp_path / "ours").mkdir()
    model, out = tmp_path / "ours" / "ours.onnx", tmp_path / "merged.onnx"
    export_merged(one, model, ExportOptions(precision="fp32"))
    merge_graphs(model, foreign, out, MergeOptions(0.5, pipeline.particle_names))
    got, first, second = run(out, windows), run(model, windows), run(foreign, windows)
    trusts = [
        share * (answers["scores"].max(axis=1, keepdims=True) + SMALLEST_SCORE)
        for share, answers in ((1.0, first), (0.5, second))
    ]
    expected = (trusts[0] * first["offsets"] + trusts[1] * second["offsets"]) / (trusts[0] + trusts[1])
    np.testing.assert_allclose(got["offsets"], expected, atol=SAME, rtol=1e-5)
    plain = (first["offsets"] + 0.5 * second["offsets"]) / 1.5
    assert np.abs(expected - plain).max() > 0.01


def test_another_graph_of_this_project_says_its_classes_itself(ours, foreign, pipeline, windows, tmp_path):
    """Whatever their order is."""
    turned = replace(pipeline, particles=pipeline.particles[::-1], members=())
    theirs, out = tmp_path / "theirs.onnx", tmp_path / "merged" / "merged.onnx"
    model = onnx.load(foreign)
    helper.set_model_props(model, graph_metadata(turned, [], {"precision": "fp32"}))
    onnx.save(model, str(theirs))
    merge_graphs(ours, theirs, out, MergeOptions())
    expected = (run(ours, windows)["scores"] + run(theirs, windows)["scores"][:, ::-1]) / 2
    np.testing.assert_allclose(run(out, windows)["scores"], expected, atol=SAME, rtol=0)


def test_the_command_warns_of_thresholds_until_they_are_given(ours, foreign, pipeline, tmp_path, capsys):
    words = ["merge-graph", str(ours), str(foreign), "--channels", names_of(pipeline), "-o", str(tmp_path / "m.onnx")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--weight", "0.5", "--thresholds", "ribosome=0.4"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "NOT CALIBRATED: the thresholds of apo-ferritin, beta-galactosidase, thyroglobulin" in said
    assert "--thresholds tuned/thresholds.json" in said
    assert read_pipeline(tmp_path / "m.onnx").thresholds == {**pipeline.thresholds, "ribosome": 0.4}
    (tmp_path / "thresholds.json").write_text(json.dumps(dict.fromkeys(pipeline.particle_names, 0.35)))
    result = merge_graph(
        ours,
        foreign,
        out=tmp_path / "m.onnx",
        channels=names_of(pipeline),
        thresholds=str(tmp_path / "thresholds.json"),
    )
    assert "NOT CALIBRATED" not in result.text
    assert result.figures["not_calibrated"] == []
    assert set(read_pipeline(tmp_path / "m.onnx").thresholds.values()) == {0.35}


# What does not fit. Graphs of one convolution are enough for that.


def small_graph(path, window=WINDOW, n_classes=6, ports=("volume", "scores"), last="Sigmoid", **changes):
    """A strided convolution and a sigmoid: another team's graph at its smallest."""
    batch = changes.get("batch", 1)
    kind = changes.get("kind", TensorProto.FLOAT)
    cells = [size // 2 if isinstance(size, int) else size for size in window]
    rng = np.random.default_rng(1)
    dtype = np.float32 if kind == TensorProto.FLOAT else np.float16
    weights = changes.get("scale", 1.0) * rng.normal(size=(n_classes, 1, 2, 2, 2))
    nodes = [
        helper.make_node("Conv", [ports[0], "w"], ["c"], strides=[2, 2, 2], kernel_shape=[2, 2, 2]),
        helper.make_node(last, ["c"], [ports[1]], domain=changes.get("domain", "")),
    ]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info(ports[0], kind, [batch, 1, *window])],
        [helper.make_tensor_value_info(ports[1], kind, [batch, n_classes, *cells])],
        [onnx.numpy_helper.from_array(weights.astype(dtype), "w")],
    )
    opsets = [helper.make_opsetid("", 20)]
    if "domain" in changes:
        opsets.append(helper.make_opsetid(changes["domain"], 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    helper.set_model_props(model, changes.get("metadata", {}))
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"ports": ("input", "scores")}, EngineError, "maps input to scores; it has to map volume to scores"),
        ({"ports": ("volume", "logits")}, EngineError, "maps volume to logits; it has to map volume to scores"),
        (
            {"window": (32, 32, 32)},
            EngineError,
            r"volume of .* has shape \(1, 1, 32, 32, 32\), ours needs \(1, 1, 32, 32",
        ),
        ({"batch": 2}, EngineError, r"volume of .* has shape \(2, 1, 32, 32, 40\), ours needs \(1, 1, 32, 32, 40\)"),
        ({"window": ("d", "h", "w")}, EngineError, r"has shape \(1, 1, d, h, w\).*all of it static"),
        ({"kind": TensorProto.FLOAT16}, EngineError, "volume, scores of .* must be float32"),
        ({"last": "Identity"}, EngineError, "scores from -.* to .*, not from 0 to 1; export it with its sigmoid"),
        ({"scale": 0.0}, EngineError, "returns 0.5 everywhere"),
        ({"scale": np.nan}, EngineError, "scores that are not finite"),
        ({"last": "Gelu", "domain": "com.microsoft"}, EngineError, "operators of com.microsoft"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_graphs_that_do_not_fit(ours, pipeline, tmp_path, changes, error, sentence):
    path = small_graph(tmp_path / "theirs.onnx", **changes)
    with pytest.raises(error, match=sentence):
        merge_graphs(ours, path, tmp_path / "out" / "m.onnx", MergeOptions(channels=pipeline.particle_names))
    assert not (tmp_path / "out" / "m.onnx").exists()


@pytest.mark.parametrize(
    ("channels", "sentence"),
    [
        ((), "does not say what its 6 channels are; say it with --channels"),
        (("ribosome",), "has 6 channels, named are 1: ribosome"),
        (("ribosome", *"-----"), None),
        (("ribosom", *"-----"), "unknown particle 'ribosom'; known are apo-ferritin"),
        (("ribosome", "ribosome", *"----"), "two channels are called 'ribosome'"),
        (tuple("------"), "none of its channels is a particle"),
    ],
)
def test_classes_have_to_be_said(ours, tmp_path, channels, sentence):
    path, out = small_graph(tmp_path / "theirs.onnx"), tmp_path / "out" / "m.onnx"
    if sentence is None:
        merge_graphs(ours, path, out, MergeOptions(channels=channels))
        assert out.exists()
        return
    with pytest.raises(DataError, match=sentence):
        merge_graphs(ours, path, out, MergeOptions(channels=channels))


def test_classes_may_be_said_by_the_graph(ours, pipeline, windows, tmp_path):
    names = ["background", *pipeline.particle_names[:5]]
    path = small_graph(tmp_path / "theirs.onnx", metadata={"channels": ", ".join(names)})
    out = tmp_path / "out" / "m.onnx"
    merge_graphs(ours, path, out, MergeOptions())
    first, second, got = run(ours, windows)["scores"], run(path, windows)["scores"], run(out, windows)["scores"]
    np.testing.assert_allclose(got[:, :5], (first[:, :5] + second[:, 1:]) / 2, atol=SAME)
    np.testing.assert_allclose(got[:, 5], first[:, 5], atol=SAME)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"voxel_A": 13.48}, "was trained at voxels of 13.480 A, ours at 10.000 A"),
        ({"normalisation": None}, "normalises tomograms otherwise"),
    ],
)
def test_graphs_of_other_tomograms(ours, pipeline, tmp_path, change, sentence):
    if "normalisation" in change:
        change = {"normalisation": replace(pipeline.normalisation, clip_sd=3.0)}
    metadata = graph_metadata(replace(pipeline, **change), [], {})
    path = small_graph(tmp_path / "theirs.onnx", metadata=metadata)
    with pytest.raises(PipelineError, match=sentence):
        merge_graphs(ours, path, tmp_path / "out" / "m.onnx", MergeOptions())


def test_nothing_that_is_read_is_written_over(ours, foreign, pipeline):
    for out in (ours, foreign, ours.with_name("other.onnx")):  # beside the last lies the reference of ours
        with pytest.raises(TomopointError, match="is read by this command"):
            merge_graphs(ours, foreign, out, MergeOptions(channels=pipeline.particle_names))
    with pytest.raises(TomopointError, match="--weight must be positive, got -1"):
        merge_graphs(ours, foreign, ours.with_name("x.onnx"), MergeOptions(-1.0))


def half_graph(path, seed=1):
    """The same in float16, between float32 ports."""
    weights = np.random.default_rng(seed).normal(size=(6, 1, 2, 2, 2)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["volume"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "w"], ["c"], strides=[2, 2, 2]),
        helper.make_node("Cast", ["c"], ["full"], to=TensorProto.FLOAT),
        helper.make_node("Sigmoid", ["full"], ["scores"]),
    ]
    cells = [size // 2 for size in WINDOW]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, [1, 1, *WINDOW])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 6, *cells])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def test_half_precision_is_known_by_its_weights(ours, pipeline, windows, tmp_path):
    """Of the answers the coarser counts, of the speed the slower."""
    theirs, out = half_graph(tmp_path / "theirs.onnx"), tmp_path / "out" / "m.onnx"
    report = merge_graphs(ours, theirs, out, MergeOptions(channels=pipeline.particle_names))
    assert report.foreign.is_half
    assert report.cost.precision == "fp32"  # ours is
    assert Reference.load(report.reference_path).precision == "fp16"
    expected = (run(ours, windows)["scores"] + run(theirs, windows)["scores"]) / 2
    np.testing.assert_allclose(run(out, windows)["scores"], expected, atol=SAME)


def test_what_is_no_graph_is_refused(ours, tmp_path):
    (tmp_path / "theirs.onnx").write_bytes(b"\x08\x0a\x12\x04none")
    with pytest.raises(EngineError, match="is not an ONNX graph"):
        merge_graphs(ours, tmp_path / "theirs.onnx", tmp_path / "out" / "m.onnx", MergeOptions())
    with pytest.raises(EngineError, match="cannot read"):
        merge_graphs(ours, tmp_path / "none.onnx", tmp_path / "out" / "m.onnx", MergeOptions())


def test_far_offsets_are_said(ours, pipeline, tmp_path, caplog):
    """They look like Angstrom."""
    path = small_graph(tmp_path / "theirs.onnx")
    model = onnx.load(path)
    far = np.random.default_rng(2).normal(size=(3, 1, 2, 2, 2)).astype(np.float32) * 20
    model.graph.initializer.append(onnx.numpy_helper.from_array(far, "far"))
    model.graph.node.append(helper.make_node("Conv", ["volume", "far"], ["offsets"], strides=[2, 2, 2]))
    cells = [size // 2 for size in WINDOW]
    model.graph.output.append(helper.make_tensor_value_info("offsets", TensorProto.FLOAT, [1, 3, *cells]))
    onnx.save(model, str(path))
    with caplog.at_level(logging.WARNING):
        merge_graphs(ours, path, tmp_path / "o" / "m.onnx", MergeOptions(channels=pipeline.particle_names))
    assert "they are taken as voxels, in the order z, y, x" in caplog.text


class Distorted(nn.Module):
    """A network whose scores are cubed, two channels exchanged, a background before them, and nothing of the last."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, volume):
        scores, offsets = self.network(volume)
        cubed = scores**3
        return torch.cat([torch.zeros_like(cubed[:, :1]), cubed[:, [1, 0, 2, 3, 4]]], dim=1), offsets


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The model `small` for a small window, and what it finds its particles in."""
    folder = tmp_path_factory.mktemp("trained")
    adapt(find_model(Path("small")), out=folder / "small.onnx", window="48,64,64")
    names = [f"{{name: {name}, simulate: {{per_run: 8}}}}" for name in ("apo-ferritin", "ribosome")]
    names += [f"{{name: {name}}}" for name in ("beta-galactosidase", "thyroglobulin", "virus-like-particle")]
    (folder / "particles.yaml").write_text(f"particles: [{', '.join(names)}]")
    own = {"particles": folder / "particles.yaml", "shape": "64,128,128", "seed": 3, "workers": 1}
    simulate(folder / "data", train_runs=3, test_runs=0, **own)
    return folder


@pytest.fixture(scope="module")
def distorted(trained):
    network = rebuild_ensemble(trained / "small.onnx").eval()
    Graph(Distorted(network), (48, 64, 64), 1).save(trained / "distorted.onnx")
    names = read_pipeline(trained / "small.onnx").particle_names
    return trained / "distorted.onnx", ("background", names[1], names[0], *names[2:5])


def test_foreign_scores_are_brought_to_our_scale(trained, distorted, tmp_path):
    """A graph and its distorted twin are that graph again with the maps, and not without."""
    path, channels = distorted
    ours = trained / "small.onnx"
    pipeline = read_pipeline(ours)
    options = MergeOptions(1.0, channels, scale_on=trained / "data")
    report = merge_graphs(ours, path, tmp_path / "scaled.onnx", options)
    merge_graphs(ours, path, tmp_path / "raw.onnx", replace(options, scale_on=None))
    assert report.row.ok
    assert report.scale is not None
    assert set(report.scale.maps) == set(pipeline.particle_names[:5])
    theirs_right, ours_right = map(sum, zip(*report.scale.n_hits.values(), strict=True))
    assert theirs_right == pytest.approx(ours_right, rel=0.2)  # the order of scores is nearly the same
    assert min(theirs_right, ours_right) > 20
    assert "brought to the scale of ours" in report.scale.text
    for scores, values in report.scale.maps.values():
        inside = [(at, value) for at, value in zip(scores, values, strict=True) if 0.1 < at < 1]
        assert inside
        assert [value for _, value in inside] == pytest.approx([at ** (1 / 3) for at, _ in inside], abs=0.1)
    origin = json.loads({e.key: e.value for e in onnx.load(report.path).metadata_props}["tomopoint.export"])
    assert origin["merged_from"][1]["scale"]["runs"] == [run.name for run in Project(trained / "data").runs("train")]

    run = Project(trained / "data").runs("train")[0]
    volume = read_tomogram(run.tomogram_path()).volume_zyx
    maps = {}
    for name, graph in (("ours", ours), ("raw", tmp_path / "raw.onnx"), ("scaled", report.path)):
        engine = OnnxEngine(graph, provider="cpu")
        maps[name] = predict_volume(volume, engine, engine.pipeline).scores
        engine.close()
    channel = pipeline.particle_names.index("ribosome")
    alone, raw, scaled = (maps[key][channel] for key in ("ours", "raw", "scaled"))
    matter = (alone > 0.3) & (alone < 0.95)
    assert matter.sum() > 20
    assert np.abs(scaled - alone)[matter].mean() < 0.5 * np.abs(raw - alone)[matter].mean()
    unknown = maps["ours"][5]
    np.testing.assert_allclose(maps["scaled"][5], unknown, atol=2e-3)


def test_a_scale_needs_runs_with_truth(trained, distorted, tmp_path):
    path, channels = distorted
    simulate(tmp_path / "data", train_runs=0, test_runs=1, shape="48,64,64", workers=1)
    with pytest.raises(DataError, match=r"holds no runs; --data takes the folder"):
        merge_graphs(
            trained / "small.onnx", path, tmp_path / "x.onnx", MergeOptions(1.0, channels, scale_on=tmp_path / "data")
        )
    assert not (tmp_path / "x.onnx").exists()
