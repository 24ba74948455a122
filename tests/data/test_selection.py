"""Which picks are handed on: thresholds in every form, doubled picks refused, one class per place."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tomopoint.data.selection import one_class_per_place, parse_thresholds, refuse_doubled, select_picks
from tomopoint.errors import DataError
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle

SPIKE, COAT = Particle("spike", 100.0, 1.0, 0.5, 120.0), Particle("coat", 60.0, 1.0, 0.2, 70.0)
"""Their places touch where they are nearer than 80 A."""


def table(*rows):
    return pd.DataFrame(rows, columns=["experiment", "particle_type", "x", "y", "z", "score"])


def test_of_two_classes_in_one_place_the_better_claim_stays():
    """0.6 is far above coat's threshold of 0.2, 0.7 a little above spike's of 0.5."""
    picks = table(("A", "spike", 0, 0, 0, 0.7), ("A", "coat", 79.9, 0, 0, 0.6), ("B", "coat", 0, 0, 0, 0.21))
    claims = [np.log(0.7 / 0.3) - 0.0, np.log(0.6 / 0.4) - np.log(0.2 / 0.8)]
    assert claims[0] < claims[1]
    assert one_class_per_place(picks, (SPIKE, COAT)).index.tolist() == [1, 2]
    assert one_class_per_place(picks.assign(score=[0.9, 0.6, 0.21]), (SPIKE, COAT)).index.tolist() == [0, 2]


def test_the_mean_of_both_radii_parts_two_places():
    picks = table(("A", "spike", 0, 0, 0, 0.9), ("A", "coat", 80.0, 0, 0, 0.9))
    assert len(one_class_per_place(picks, (SPIKE, COAT))) == 2
    assert len(one_class_per_place(picks.assign(x=[0.0, 79.999]), (SPIKE, COAT))) == 1


def test_picks_of_one_class_stay_however_near_they_are():
    picks = table(("A", "spike", 0, 0, 0, 0.9), ("A", "spike", 1, 0, 0, 0.8))
    assert len(one_class_per_place(picks, (SPIKE, COAT))) == 2


def test_a_pick_that_is_dropped_drops_no_other():
    """Greedy: coat falls to the left spike, so the right one, which only coat contests, stays."""
    picks = table(("A", "spike", 0, 0, 0, 0.99), ("A", "coat", 60, 0, 0, 0.8), ("A", "spike", 120, 0, 0, 0.55))
    assert one_class_per_place(picks, (SPIKE, COAT)).index.tolist() == [0, 2]


def test_what_stays_agrees_with_pairs_looked_at_one_by_one_in_any_order():
    rng = np.random.default_rng(0)
    n = 300
    picks = table(
        *zip(
            rng.choice(["A", "B"], n),
            rng.choice(["spike", "coat"], n),
            *rng.uniform(0, 500, (3, n)),
            rng.uniform(0.02, 0.98, n).round(2),
            strict=True,
        )
    )
    particles = {p.name: p for p in (SPIKE, COAT)}

    def claim(row):
        t = particles[row.particle_type].threshold
        return np.log(row.score / (1 - row.score)) - np.log(t / (1 - t))

    rows = sorted(picks.itertuples(), key=lambda r: (-claim(r), r.z, r.y, r.x))
    kept = []
    for row in rows:
        rivals = [k for k in kept if k.experiment == row.experiment and k.particle_type != row.particle_type]
        near = [np.linalg.norm([k.x - row.x, k.y - row.y, k.z - row.z]) < 80 for k in rivals]
        if not any(near):
            kept.append(row)
    expected = sorted(row.Index for row in kept)
    assert 0 < len(expected) < n
    assert one_class_per_place(picks, (SPIKE, COAT)).index.tolist() == expected
    shuffled = picks.sample(frac=1, random_state=1)
    assert sorted(one_class_per_place(shuffled, (SPIKE, COAT)).index) == expected


def test_scores_of_0_and_1_have_a_claim_too():
    picks = table(("A", "spike", 0, 0, 0, 1.0), ("A", "coat", 1, 0, 0, 1.0), ("A", "coat", 300, 0, 0, 0.0))
    assert one_class_per_place(picks, (SPIKE, COAT)).index.tolist() == [1, 2]  # the lower threshold


def test_one_class_per_place_is_the_default_unless_the_metric_is_the_competitions():
    rows = [("A", "ribosome", 0, 0, 0, 0.9), ("A", "thyroglobulin", 10, 0, 0, 0.8), ("A", "ribosome", 500, 0, 0, 0.1)]
    picks = table(*rows)
    assert len(select_picks(picks, COMPETITION_PARTICLES)) == 2
    assert len(select_picks(picks, COMPETITION_PARTICLES, exclusive=True)) == 1
    own = COMPETITION_PARTICLES[:4]
    assert len(select_picks(picks, own)) == 1
    assert len(select_picks(picks, own, exclusive=False)) == 2
    assert len(select_picks(picks, own, thresholds={"ribosome": 0.05, "thyroglobulin": 0.05})) == 2


def test_thresholds_as_text_and_as_a_file(tmp_path):
    assert parse_thresholds("") == {}
    assert parse_thresholds(" a=0.5, b = 0.25 ,") == {"a": 0.5, "b": 0.25}
    (tmp_path / "t.json").write_text(json.dumps({"a": 0.5, "b": 1}))
    assert parse_thresholds(str(tmp_path / "t.json")) == {"a": 0.5, "b": 1.0}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a=x", "takes ribosome=0.3"),
        ("a=1=2", "takes ribosome"),
        ("a=1,a=2", "twice"),
        ("none.json", "cannot read none"),
    ],
)
def test_thresholds_that_are_none(text, sentence):
    with pytest.raises(DataError, match=sentence):
        parse_thresholds(text)


@pytest.mark.parametrize("content", ["[]", '{"a": "0.5"}', '{"a": true}', "{", '{"a": 1, "a": 2}'])
def test_a_file_without_thresholds_is_refused(content, tmp_path):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match="holds no thresholds"):
        parse_thresholds(str(tmp_path / "t.json"))


def test_picks_that_are_there_twice_are_counted_and_named():
    picks = table(
        ("A", "spike", 0, 0, 0, 0.9),
        ("A", "spike", 0.9, 0, 0, 0.8),
        ("A", "coat", 0, 0, 0, 0.8),
        ("B", "spike", 0, 0, 0, 0.9),
        ("A", "spike", 2.0, 0, 0, 0.8),  # 1.1 A from the second: apart
    )
    with pytest.raises(DataError, match=r"here holds 1 of 5 picks twice, e\.g\. spike of A at x 0\.000"):
        refuse_doubled(picks, "here")
    refuse_doubled(picks.drop(index=1), "here")
    refuse_doubled(picks.head(0), "here")
