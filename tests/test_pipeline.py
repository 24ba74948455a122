"""The Pipeline survives its files, and refuses what contradicts it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tomopoint.errors import PipelineError
from tomopoint.pipeline import (
    COMPETITION_PARTICLES,
    Decoding,
    Member,
    Normalisation,
    Particle,
    Pipeline,
    ScoreMap,
    Tiling,
)

EARLIER_DIGEST = "39df2b35f41390da0aa40860fb8f2549f60d21f585c4eff7e1231b94fefcdac6"
"""Of the fixture's Pipeline, as the version before kinds, score maps and merges of views computed it."""


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(
        particles=COMPETITION_PARTICLES,
        voxel_A=10.012444,
        normalisation=Normalisation(quantiles=(0.01, 0.98)),
        tiling=Tiling((64, 96, 96), (16, 32, 32), 0.2),
        decoding=Decoding(0.02, 500, (0.5, -1.25, 3.0)),
        views=("identity", "flip_x"),
        members=(Member("fold0", "segresnet", ("TS_1_1", "TS_1_2"), 0.81, "ab" * 32),),
    )


def test_json_round_trip_is_exact(pipeline, tmp_path):
    path = tmp_path / "deep" / "pipeline.json"
    pipeline.save(path)
    assert Pipeline.load(path) == pipeline
    assert Pipeline.load(path).digest == pipeline.digest


def blend_of(pipeline: Pipeline) -> Pipeline:
    member = replace(pipeline.members[0], kind="segmentation", class_weights=(1.0, 2.0, 3.0, 0.5, 1.0, 1.0))
    score_map = ScoreMap("segmentation", "ribosome", (0.0, 0.02, 1.0), (0.0, 0.5, 1.0))
    return replace(pipeline, members=(*pipeline.members, member), score_maps=(score_map,), view_merge="gmean")


def test_a_blend_survives_its_file_and_fields_that_say_nothing_are_not_written(pipeline, tmp_path):
    blend = blend_of(pipeline)
    blend.save(tmp_path / "pipeline.json")
    assert Pipeline.load(tmp_path / "pipeline.json") == blend
    assert blend.score_map("segmentation", "ribosome").values == (0.0, 0.5, 1.0)
    assert blend.score_map("detection", "ribosome") is None
    assert blend.class_weights(blend.members[0]) == (1.0,) * 6
    text = pipeline.to_json()
    assert not any(name in text for name in ("view_merge", "score_maps", "kind", "class_weights"))
    assert pipeline.digest == EARLIER_DIGEST


def test_digest_follows_every_field(pipeline):
    blend = blend_of(pipeline)
    others = [
        blend,
        replace(blend, score_maps=()),
        replace(blend, view_merge="mean"),
        replace(blend, members=(blend.members[0], replace(blend.members[1], kind="detection"))),
        replace(blend, members=(blend.members[0], replace(blend.members[1], class_weights=()))),
        replace(pipeline, voxel_A=10.0),
        replace(pipeline, views=("identity",)),
        replace(pipeline, particles=pipeline.particles[::-1]),
        pipeline.with_thresholds({"ribosome": 0.31}),
        replace(pipeline, decoding=replace(pipeline.decoding, floor=0.03)),
    ]
    assert len({pipeline.digest, *(other.digest for other in others)}) == len(others) + 1


def test_with_thresholds_changes_only_those_named(pipeline):
    changed = pipeline.with_thresholds({"ribosome": 0.31})
    assert changed.particle("ribosome").threshold == 0.31
    assert changed.particle("thyroglobulin") == pipeline.particle("thyroglobulin")
    with pytest.raises(PipelineError, match=r"unknown particle 'ribosom'.*apo-ferritin"):
        pipeline.with_thresholds({"ribosom": 0.3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("particles"), "particles"),
        (lambda c: c.update(colour="red"), "unknown field colour"),
        (lambda c: c.update(version=99), "format version 99"),
        (lambda c: c["tiling"].update(window_zyx=[64, 96]), r"tiling\.window_zyx must be a list of 3"),
        (lambda c: c["tiling"].update(window_zyx=[63, 96, 96]), "multiples of the stride"),
        (lambda c: c["tiling"].update(overlap_zyx=[64, 96, 96]), "smaller than"),
        (lambda c: c["particles"][0].update(threshold=1.5), "threshold of apo-ferritin"),
        (lambda c: c["particles"].append(c["particles"][0]), "must differ"),
        (lambda c: c.update(voxel_A=0), "voxel_A"),
        (lambda c: c["normalisation"].update(method="minmax"), "standardise"),
    ],
)
def test_a_bad_file_is_refused_by_name(pipeline, tmp_path, change, message):
    content = json.loads(pipeline.to_json())
    change(content)
    path = tmp_path / "pipeline.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PipelineError, match=message) as caught:
        Pipeline.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(view_merge="median"), "view_merge must be one of mean, gmean, max, got 'median'"),
        (
            lambda c: c["members"][1].update(kind="counting"),
            r"members\[1\]\.kind must be one of 'detection', 'heatmap', 'segmentation'",
        ),
        (lambda c: c["members"][1]["class_weights"].pop(), "must be one per particle, 6, got 5"),
        (lambda c: c["members"][1]["class_weights"].__setitem__(0, 0.0), "class_weights of fold0/segresnet must be"),
        (lambda c: c["score_maps"][0].update(particle="ribosom"), "is of particle 'ribosom'; this pipeline knows"),
        (lambda c: c["score_maps"].append(c["score_maps"][0]), "of segmentation and ribosome is there twice"),
        (lambda c: c["score_maps"][0].update(values=[0.0, 1.0, 1.0]), "values of the score map.*must rise from 0"),
        (lambda c: c["score_maps"][0].update(scores=[0.0, 0.5, 0.9]), "scores of the score map.*from 0 to 1"),
        (lambda c: c["score_maps"][0].update(scores=[0.0, 1.0]), "2 to 8 knots, got 2 scores and 3 values"),
    ],
)
def test_a_bad_blend_is_refused_by_name(pipeline, tmp_path, change, message):
    content = json.loads(blend_of(pipeline).to_json())
    change(content)
    (tmp_path / "pipeline.json").write_text(json.dumps(content))
    with pytest.raises(PipelineError, match=message):
        Pipeline.load(tmp_path / "pipeline.json")


def test_missing_or_garbled_file(tmp_path):
    with pytest.raises(PipelineError, match="tomopoint validate"):
        Pipeline.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"particles": [')
    with pytest.raises(PipelineError, match=r"half\.json is not a valid pipeline"):
        Pipeline.load(tmp_path / "half.json")


def test_competition_table_is_the_official_metrics():
    """Radii and weights as published with the metric; the weights sum to its constant denominator, 7."""
    official = {
        "apo-ferritin": (60, 1),
        "beta-amylase": (65, 0),
        "beta-galactosidase": (90, 2),
        "ribosome": (150, 1),
        "thyroglobulin": (130, 2),
        "virus-like-particle": (135, 1),
    }
    assert {p.name: (p.radius_A, p.weight) for p in COMPETITION_PARTICLES} == official
    assert sum(p.weight for p in COMPETITION_PARTICLES) == 7


def test_a_particle_checks_itself():
    with pytest.raises(PipelineError, match="radius_A of blob"):
        Particle("blob", -1, 1, 0.5, 10)
