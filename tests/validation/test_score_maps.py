"""A kind whose scores are those of another, distorted: the maps found out of fold undo it, all the way to the graph."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from validation_data import RUNS, VOXEL_A

from tomopoint.data.picks import write_picks
from tomopoint.data.project import Project
from tomopoint.data.tomograms import read_tomogram
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.predict import predict_tomogram, predict_volume
from tomopoint.inference.reference import Reference
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.ensemble import LEAST_FACTOR
from tomopoint.networks.point_network import PointNetwork
from tomopoint.pipeline import Pipeline, ScoreMap, Tiling
from tomopoint.validation import ensemble_folder
from tomopoint.validation.command import validate
from tomopoint.validation.ensemble_folder import load_ensemble
from tomopoint.validation.out_of_fold import engine_of, pipeline_of
from tomopoint.validation.score_maps import fit_score_maps
from tomopoint.validation.validated import load_validated
from tomopoint.validation.weights import averaged, with_weights

SMALL = {"window": "16,32,32", "overlap": "8,8,8"}
UNDONE = 0.03
"""Mean error of a blend's scores above 0.2: some tens of hits, a few knots (see test_score_scale)."""


class Distorted(PointNetwork):
    """A network that says what another says in scores of another size, as a softmax over single voxels would."""

    def __init__(self, network: PointNetwork) -> None:
        super().__init__(network.backbone, network.head, network.n_classes, network.stride)
        self.predicts_offsets = False

    def forward(self, volume):
        scores, offsets_vox = super().forward(volume)
        return 0.1 * scores**3, offsets_vox


AS_SEGMENTATION = NetworkConfig("unet", label="dynunet")
"""What the record of a distorted network says of it: a segmentation network, under the name of the one it replaces."""


@pytest.fixture(scope="module")
def planted(trained, project, tmp_path_factory):
    """The project with true apo-ferritin where the SegResNet that never saw a run has its best picks, mostly."""
    root = shutil.copytree(project, tmp_path_factory.mktemp("planted") / "project")
    ensemble = load_ensemble([trained])
    tiling = Tiling((16, 32, 32), (8, 8, 8))
    pipeline = Pipeline(ensemble.particles, VOXEL_A, tiling=tiling, members=ensemble.members)
    rng = np.random.default_rng(7)
    for run in ensemble.held_out:
        own = pipeline_of((run.members[1],), pipeline)
        tomogram = read_tomogram(Project(root).run(run.name, "train").tomogram_path())
        picks = predict_tomogram(tomogram, engine_of(ensemble, (run.members[1],), own, "cpu"), own)
        xyz = picks.loc[picks["particle_type"] == "apo-ferritin", ["x", "y", "z"]].to_numpy()
        kept = xyz[rng.random(len(xyz)) < np.linspace(1.2, 0.0, len(xyz))]
        folder = root / "train" / "overlay" / "ExperimentRuns" / run.name / "Picks"
        write_picks(folder / "apo-ferritin.json", run.name, "apo-ferritin", kept)
    return root


@pytest.fixture
def twins(trained, tmp_path):
    """Of each fold the SegResNet, and in place of the DynUNet the same SegResNet, distorted: a kind of its own."""
    ensemble = load_ensemble([trained])
    networks, records = list(ensemble.networks), list(ensemble.records)
    for index in (0, 2):
        networks[index] = Distorted(networks[index + 1]).eval()
        records[index] = replace(records[index], network=AS_SEGMENTATION)
    return replace(ensemble, networks=tuple(networks), records=tuple(records), folder=tmp_path / "twins")


@pytest.fixture
def blended(validated, monkeypatch, tmp_path):
    """A validated training folder whose DynUNets are read as distorted ones."""
    real = ensemble_folder.load_member

    def load(path):
        network, record = real(path)
        if path.name != "dynunet":
            return network, record
        return Distorted(network).eval(), replace(record, network=AS_SEGMENTATION)

    monkeypatch.setattr(ensemble_folder, "load_member", load)
    return shutil.copytree(validated[0], tmp_path / "blended", ignore=shutil.ignore_patterns("validation*"))


def test_the_map_found_out_of_fold_undoes_a_known_distortion(twins, validated, planted):
    base = replace(Pipeline.load(validated[0] / "pipeline.json"), members=twins.members)
    assert [member.kind for member in base.members] == ["segmentation", "detection"] * 2
    for network in twins.networks:
        network.predicts_offsets = True  # a twin without offsets would be right less often, and mapped so
    fitted = fit_score_maps(twins, base, Project(planted), "cpu")
    assert {score_map.kind for score_map in fitted.score_maps} == {"segmentation"}
    assert fitted.runs == RUNS
    # Windows are merged before maxima are looked for, and a mean of cubes is no cube: nearly the same picks.
    hits = [fitted.n_hits[kind]["apo-ferritin"] for kind in ("segmentation", "detection")]
    assert hits[0] == pytest.approx(hits[1], rel=0.2)
    assert min(hits) > 50

    # The blend of a network and its distorted twin is that network again, with the maps and not without.
    run = twins.held_out[1]
    tomogram = read_tomogram(Project(planted).run(run.name, "train").tomogram_path())
    mapped = replace(base, score_maps=fitted.score_maps)
    maps = {}
    for name, pipeline, members in (("alone", base, (3,)), ("raw", base, (2, 3)), ("mapped", mapped, (2, 3))):
        own = pipeline_of(members, pipeline)
        maps[name] = predict_volume(tomogram.volume_zyx, engine_of(twins, members, own, "cpu"), own).scores
    apo = base.particle_names.index("apo-ferritin")
    alone, raw, mapped = (maps[name][apo] for name in ("alone", "raw", "mapped"))
    matter = alone > 0.2
    assert np.abs(mapped - alone)[matter].mean() < UNDONE
    assert np.abs(raw - alone)[matter].mean() > 4 * UNDONE


def test_what_was_predicted_is_read_back(twins, validated, planted, monkeypatch):
    base = replace(Pipeline.load(validated[0] / "pipeline.json"), members=twins.members)
    first = fit_score_maps(twins, base, Project(planted), "cpu")
    monkeypatch.setattr("tomopoint.validation.score_maps.predict_tomogram", None)  # to predict would fail now
    assert fit_score_maps(twins, base, Project(planted), "cpu") == first
    with pytest.raises(TypeError):
        fit_score_maps(twins, replace(base, view_merge="max", views=("identity", "flip_x")), Project(planted), "cpu")


def test_a_blend_is_validated_exported_and_computed_as_validated(blended, planted, tmp_path):
    result = validate(
        [blended], data=planted, views="2", view_merge="gmean", weights="segmentation:ribosome=3", **SMALL
    )
    pipeline = Pipeline.load(blended / "pipeline.json")
    assert {score_map.kind for score_map in pipeline.score_maps} == {"segmentation"}
    assert len(pipeline.score_maps) == len(pipeline.particles)
    of_ribosome = pipeline.particle_names.index("ribosome")
    expected = [3.0 if at == of_ribosome else 1.0 for at in range(len(pipeline.particles))]
    for member in pipeline.members:
        assert list(pipeline.class_weights(member)) == (
            expected if member.network == "dynunet" else [1.0] * len(expected)
        )
    assert "score maps: segmentation" in result.text
    content = json.loads((blended / "validation.json").read_text())
    assert content["pipeline_sha256"] == pipeline.digest
    assert content["score_maps"]["runs"] == list(RUNS)

    merged = load_validated([blended])
    report = export_merged(merged, tmp_path / "blend.onnx", ExportOptions(precision="fp32"))
    assert all(row.ok for row in report.rows)
    assert read_pipeline(report.path) == pipeline
    # By hand: two kinds, two folds of two views each.
    reference = Reference.load(report.reference_path)
    volume = torch.from_numpy(reference.windows)
    flipped = (-1, -3)
    kinds = {}
    with torch.inference_mode():
        for network, member in zip(merged.networks, pipeline.members, strict=True):
            one, other = network(volume)[0], network(volume.flip(flipped))[0].flip(flipped)
            factors = [np.maximum(scores.double().numpy(), LEAST_FACTOR) for scores in (one, other)]
            kinds.setdefault(member.kind, []).append(np.sqrt(factors[0] * factors[1]))
    got = onnxruntime.InferenceSession(report.path).run(None, {"volume": reference.windows})[0]
    for at, name in enumerate(pipeline.particle_names):
        detection, segmentation = (np.mean(kinds[kind], axis=0)[:, at] for kind in ("detection", "segmentation"))
        score_map = pipeline.score_map("segmentation", name)
        segmentation = np.interp(segmentation, score_map.scores, score_map.values)
        want = (detection + expected[at] * segmentation) / (1 + expected[at])
        np.testing.assert_allclose(got[:, at], want, atol=1e-4)


def test_maps_can_be_left_out_and_are_taken_over_with_thresholds(blended, planted, tmp_path):
    validate([blended], data=planted, **SMALL)
    whole = Pipeline.load(blended / "pipeline.json")
    assert whole.score_maps
    validate([blended], data=planted, score_maps="none", **SMALL)
    assert Pipeline.load(blended / "pipeline.json").score_maps == ()
    whole.save(tmp_path / "other.json")
    validate([blended], data=planted, thresholds=str(tmp_path / "other.json"), **SMALL)
    assert Pipeline.load(blended / "pipeline.json").score_maps == whole.score_maps


def test_shares_are_chosen_on_averages_of_mapped_kinds(twins, validated, planted):
    """In one window there is no difference between mapping before and after windows are merged: it is the graph."""
    base = Pipeline.load(validated[0] / "pipeline.json")
    name = base.particle_names[0]
    pipeline = replace(
        base,
        tiling=Tiling((24, 40, 40), (8, 8, 8)),
        members=twins.members,
        score_maps=(ScoreMap("segmentation", name, (0.0, 0.01, 1.0), (0.0, 0.5, 1.0)),),
    )
    assert [member.kind for member in twins.members] == ["segmentation", "detection"] * 2
    weighted = with_weights(twins.members, twins.siblings, {"dynunet": (3.0,) * 6, "segresnet": (1.0,) * 6})
    own = pipeline_of((2, 3), replace(pipeline, members=weighted))
    volume = read_tomogram(Project(planted).run(twins.held_out[1].name, "train").tomogram_path()).volume_zyx
    expected = predict_volume(volume, engine_of(twins, (2, 3), own, "cpu"), own)
    maps = {}
    for title, member in (("dynunet", 2), ("segresnet", 3)):
        alone = replace(pipeline_of((member,), pipeline), score_maps=())
        maps[title] = predict_volume(volume, engine_of(twins, (member,), alone, "cpu"), alone)
    kinds = {"dynunet": "segmentation", "segresnet": "detection"}
    got = averaged(maps, {"dynunet": 3.0, "segresnet": 1.0}, kinds, pipeline)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(got.offsets, expected.offsets, atol=1e-5)


def test_maps_are_fitted_before_weights_are_chosen(blended, planted):
    result = validate([blended], data=planted, weights="out-of-fold", **SMALL)
    content = json.loads((blended / "validation.json").read_text())
    assert content["score_maps"]["score_maps"]
    assert len(content["weights"]["candidates"]) == 5
    pipeline = Pipeline.load(blended / "pipeline.json")
    shares = content["weights"]["shares"]
    for member in pipeline.members:
        assert list(pipeline.class_weights(member)) == pytest.approx(shares[member.network])
    assert "weights, " in result.text
