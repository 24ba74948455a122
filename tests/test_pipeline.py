"""The Pipeline survives its files, and refuses what contradicts it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tomopoint.errors import PipelineError
from tomopoint.pipeline import COMPETITION_PARTICLES, Decoding, Member, Normalisation, Particle, Pipeline, Tiling


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


def test_digest_follows_every_field(pipeline):
    others = [
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
