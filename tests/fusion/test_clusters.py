"""Fusing points: by hand on small tables, by properties on drawn ones."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopoint.data.tables import COORDINATES, PICK_COLUMNS
from tomopoint.fusion.clusters import fuse_picks
from tomopoint.inference.decode import suppress
from tomopoint.pipeline import Particle

SPHERE = Particle("sphere", 100.0, 1.0, 0.25, 120.0)
ROD = Particle("rod", 60.0, 1.0, 0.25, 50.0)
PARTICLES = (SPHERE, ROD)

EXAMPLES = 25
"""Of each property: tables are slow to make."""


def table(*rows, run="A", name="sphere"):
    """Rows of x, y, z, score."""
    columns = pd.DataFrame(np.array(rows, dtype=float).reshape(-1, 4), columns=["x", "y", "z", "score"])
    return columns.assign(experiment=run, particle_type=name)[list(PICK_COLUMNS)]


def fused(*tables, weights=None, radius_scale=0.5, particles=PARTICLES):
    return fuse_picks(list(tables), particles, weights, radius_scale)


def rows_of(result):
    return result[[*COORDINATES, "score", "votes"]].to_numpy().tolist()


def test_two_picks_become_one_at_their_weighted_mean():
    result = fused(table((100, 0, 0, 0.9)), table((140, 0, 30, 0.6)))
    # (0.9 * 100 + 0.6 * 140) / 1.5 and (0.6 * 30) / 1.5; (0.9 + 0.6) / 2
    assert rows_of(result) == [[pytest.approx(116), 0, pytest.approx(12), pytest.approx(0.75), 2]]


def test_weights_of_sources_enter_position_and_score():
    result = fused(table((100, 0, 0, 0.9)), table((140, 0, 0, 0.6)), weights=(1, 0.5))
    # strengths 0.9 and 0.3: (90 + 42) / 1.2; (0.9 + 0.3) / 1.5
    assert rows_of(result) == [[pytest.approx(110), 0, 0, pytest.approx(0.8), 2]]


def test_a_pick_of_one_source_of_two_has_its_share_of_the_weights():
    result = fused(table((0, 0, 0, 0.9)), table((500, 0, 0, 0.6)), weights=(3, 1))
    assert rows_of(result) == [[0, 0, 0, pytest.approx(0.9 * 3 / 4), 1], [500, 0, 0, pytest.approx(0.6 / 4), 1]]


def test_the_reach_is_a_share_of_the_radius_and_inclusive():
    first, second = table((0, 0, 0, 0.9)), table((50, 0, 0, 0.6))
    assert len(fused(first, second)) == 1
    far = table((130, 0, 0, 0.6))
    assert len(fused(first, far)) == 2
    assert len(fused(first, far, radius_scale=1.3)) == 1
    assert len(fused(first, far, radius_scale=1.29)) == 2


def test_a_cluster_holds_one_pick_of_a_source_the_nearest():
    first = table((0, 0, 0, 0.9), name="rod")
    second = table((-25, 0, 0, 0.8), (29, 0, 0, 0.7), name="rod")
    result = fused(first, second, particles=[replace(ROD, suppression_A=30.0)])
    assert rows_of(result) == [
        [pytest.approx(-25 * 0.8 / 1.7), 0, 0, pytest.approx(0.85), 2],
        [pytest.approx(29), 0, 0, pytest.approx(0.35), 1],
    ]
    assert len(fused(first, second)) == 1  # 40.8 A apart, where 50 A are suppressed


def test_what_is_nearer_than_the_suppression_radius_goes():
    """Two fused picks 60 A apart, beyond the reach of 50 A: of spheres that touch at 120 A one is wrong."""
    result = fused(table((0, 0, 0, 0.9)), table((60, 0, 0, 0.8)))
    assert rows_of(result) == [[0, 0, 0, pytest.approx(0.45), 1]]
    apart = fused(table((0, 0, 0, 0.9), name="rod"), table((60, 0, 0, 0.8), name="rod"))
    assert len(apart) == 2


def test_the_strongest_pick_begins():
    """Of three in a row 40 A apart, the middle one takes both neighbours if it is the strongest, else one is left."""
    rods = [table((x, 0, 0, s), name="rod") for x, s in ((0, 0.5), (25, 0.9), (50, 0.5))]
    assert fused(*rods)["votes"].tolist() == [3]
    rods = [table((x, 0, 0, s), name="rod") for x, s in ((0, 0.9), (25, 0.5), (51, 0.5))]
    assert fused(*rods)["votes"].tolist() == [2]  # the third, alone, lies nearer than 50 A to the first two
    longer = [table((x, 0, 0, s), name="rod") for x, s in ((0, 0.9), (25, 0.5), (60, 0.5))]
    assert fused(*longer)["votes"].tolist() == [2, 1]


def test_sources_that_did_not_look_have_no_vote():
    both = pd.concat([table((0, 0, 0, 0.8)), table((0, 0, 0, 0.8), run="B")])
    only_a = table((10, 0, 0, 0.8))
    result = fused(both, only_a)
    assert result.set_index("experiment")["score"].to_dict() == pytest.approx({"A": 0.8, "B": 0.8})
    # A source that has no rod anywhere does not know rods; one that has some in another run does.
    rod = table((900, 0, 0, 0.6), name="rod")
    knows = fused(pd.concat([both, rod]), only_a)
    assert knows.loc[knows["particle_type"] == "rod", "score"].tolist() == pytest.approx([0.6])
    elsewhere = pd.concat([only_a, table((0, 0, 0, 0.5), run="B", name="rod")])
    looked = fused(pd.concat([both, rod]), elsewhere)
    assert looked.loc[looked["particle_type"] == "rod", "score"].tolist() == pytest.approx([0.3, 0.25])


def test_classes_and_runs_stay_apart():
    result = fused(table((0, 0, 0, 0.8)), table((0, 0, 0, 0.6), name="rod"))
    assert result["particle_type"].tolist() == ["sphere", "rod"]
    result = fused(table((0, 0, 0, 0.8)), table((0, 0, 0, 0.6), run="B"))
    assert result[["experiment", "score"]].to_numpy().tolist() == [["A", 0.8], ["B", 0.6]]


def test_nothing_gives_nothing():
    empty = table((0, 0, 0, 0.5)).iloc[:0]
    assert list(fused(empty, empty).columns) == [*PICK_COLUMNS, "votes"]
    assert len(fused(empty, empty)) == 0


numbers = st.integers(0, 4000).map(lambda value: value / 4)


@st.composite
def tables(draw, most=12):
    """Picks of two runs and two kinds, after suppression, as predictions leave them."""
    rows = draw(
        st.lists(
            st.tuples(numbers, numbers, numbers, st.integers(1, 20), st.sampled_from("AB"), st.sampled_from(PARTICLES)),
            min_size=1,
            max_size=most,
        )
    )
    parts = []
    for run, particle in itertools.product("AB", PARTICLES):
        own = np.array([row[:4] for row in rows if row[4:] == (run, particle)], dtype=float).reshape(-1, 4)
        kept = suppress(own[:, :3], own[:, 3] / 20, particle.suppression_A)
        parts.append(table(*(own[kept] / (1, 1, 1, 20)), run=run, name=particle.name))
    return pd.concat(parts, ignore_index=True)


def in_order(picks):
    return picks.sort_values([*PICK_COLUMNS], ignore_index=True)[[*PICK_COLUMNS]]


@settings(deadline=None, max_examples=EXAMPLES)
@given(tables(), st.integers(1, 4), st.data())
def test_a_table_fused_with_itself_is_itself(own, times, data):
    weights = data.draw(st.lists(st.integers(1, 8), min_size=times, max_size=times))
    result = fused(*[own] * times, weights=weights)
    pd.testing.assert_frame_equal(in_order(result.round(9)), in_order(own.round(9)))
    assert set(result["votes"]) == {times}


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(tables(), min_size=2, max_size=4), st.data())
def test_the_order_of_the_sources_changes_nothing(given_tables, data):
    weights = data.draw(st.lists(st.integers(1, 3), min_size=len(given_tables), max_size=len(given_tables)))
    order = data.draw(st.permutations(range(len(given_tables))))
    first = fused(*given_tables, weights=weights)
    second = fused(*(given_tables[i] for i in order), weights=[weights[i] for i in order])
    pd.testing.assert_frame_equal(first, second, check_exact=True)


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(tables(), min_size=2, max_size=3), st.data())
def test_the_order_of_the_rows_changes_nothing(given_tables, data):
    shuffled = [own.iloc[data.draw(st.permutations(range(len(own))))] for own in given_tables]
    pd.testing.assert_frame_equal(fused(*given_tables), fused(*shuffled), check_exact=True)


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(tables(), min_size=2, max_size=3))
def test_fused_picks_come_from_picks_near_by_and_far_ones_never_merge(given_tables):
    result, everything = fused(*given_tables), pd.concat(given_tables)
    for row in result.itertuples():
        particle = next(p for p in PARTICLES if p.name == row.particle_type)
        same = everything.query("experiment == @row.experiment and particle_type == @row.particle_type")
        away = np.linalg.norm(same[list(COORDINATES)].to_numpy() - (row.x, row.y, row.z), axis=1)
        # The pick that began the cluster lies within the reach of its mean, and so do as many as voted within two.
        assert away.min() <= particle.radius_A / 2 + 1e-9
        assert (away <= particle.radius_A + 1e-9).sum() >= row.votes
        assert 0 < row.score <= same["score"].max() + 1e-12
        assert row.votes <= len(given_tables)
    for (_, name), group in result.groupby(["experiment", "particle_type"]):
        particle = next(p for p in PARTICLES if p.name == name)
        points = group[list(COORDINATES)].to_numpy()
        for a, b in itertools.combinations(points, 2):
            assert np.linalg.norm(a - b) >= particle.suppression_A - 1e-9


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from([0, 1]), st.integers(1, 10)),
        max_size=16,
        unique_by=lambda r: r[:2],
    )
)
def test_sources_that_agree_on_sites_far_apart_vote_site_by_site(picks):
    """Sites 300 A apart: what is fused is what stands at one site, whoever found it."""
    own = [table(*((300.0 * s, 0, 0, p / 10) for s, source, p in picks if source == index)) for index in (0, 1)]
    result = fused(*own)
    looked = sum(len(t) > 0 for t in own)
    expected = {
        300.0 * site: sum(p / 10 for s, _, p in picks if s == site) / looked for site in {s for s, _, _ in picks}
    }
    assert dict(zip(result["x"].round(6), result["score"], strict=True)) == pytest.approx(expected)


def test_many_picks_in_one_place_and_many_in_all():
    """The loop over clusters agrees with a plain one that knows no tree."""
    rng = np.random.default_rng(4)
    own = [
        table(*np.column_stack([rng.uniform(0, 700, (250, 3)), rng.integers(1, 50, 250) / 50]).tolist())
        for _ in range(3)
    ]
    picks = sorted(
        (
            (w * s, w, (x, y, z), index)
            for index, (t, w) in enumerate(zip(own, (1, 2, 1), strict=True))
            for x, y, z, s in t[["x", "y", "z", "score"]].to_numpy().tolist()
        ),
        key=lambda p: (-p[0], -p[1], p[2]),
    )
    free, clusters = list(range(len(picks))), []
    while free:
        begin = free[0]
        members = [begin]
        for source in {0, 1, 2} - {picks[begin][3]}:
            near = [
                (np.linalg.norm(np.subtract(picks[i][2], picks[begin][2])), i) for i in free if picks[i][3] == source
            ]
            if near and min(near)[0] <= 50:
                members.append(min(near)[1])
        clusters.append(members)
        free = [i for i in free if i not in members]
    strengths = np.array([p[0] for p in picks])
    centres = np.array([np.average([picks[i][2] for i in m], axis=0, weights=strengths[m]) for m in clusters])
    scores = np.array([strengths[m].sum() / 4 for m in clusters])
    kept = suppress(centres, scores, SPHERE.suppression_A)
    result = fused(*own, weights=(1, 2, 1))
    np.testing.assert_allclose(result["score"], scores[kept], rtol=1e-12)
    np.testing.assert_allclose(result[list(COORDINATES)], centres[kept], rtol=1e-9)
    assert result["votes"].tolist() == [len(clusters[i]) for i in kept]
    assert {1, 2, 3} == set(map(len, clusters))
