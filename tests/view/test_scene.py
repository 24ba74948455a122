"""What is shown of a run: sizes, colours, thresholds, and who found whom. None of it takes napari."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tomopoint.data.colours import COLOURS as PARTICLE_COLOURS
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle
from tomopoint.view.scene import KIND_COLOURS, busiest_z_A, judged, judged_colours, particle_views, shown_at

COLUMNS = ["experiment", "particle_type", "x", "y", "z", "score"]
TABLE = pd.DataFrame(
    [
        ("TS_1", "ribosome", 100.0, 200.0, 300.0, 0.9),
        ("TS_1", "ribosome", 110.0, 210.0, 310.0, 0.2),
        ("TS_1", "spike", 10.0, 20.0, 30.0, 0.5),
        ("TS_2", "ribosome", 1.0, 2.0, 3.0, 0.7),
    ],
    columns=COLUMNS,
)
PARTICLES = (Particle("ribosome", 150.0, 1.0, 0.31, 190.0), Particle("apo-ferritin", 60.0, 1.0, 0.4, 60.0))


def test_a_particle_is_shown_with_its_radius_colour_and_threshold():
    views = particle_views("TS_1", TABLE, PARTICLES, {}, 10.0)
    assert [(view.name, view.radius_A, view.threshold) for view in views] == [
        ("apo-ferritin", 60.0, 0.4),
        ("ribosome", 150.0, 0.31),
        ("spike", 10.0, 0.0),  # nobody knows it: a voxel
    ]
    assert [view.colour for view in views] == list(PARTICLE_COLOURS[:3])
    ribosome = views[1]
    assert ribosome.points_zyx_A.tolist() == [[300.0, 200.0, 100.0], [310.0, 210.0, 110.0]]  # of this run alone
    assert ribosome.scores.tolist() == [0.9, 0.2]
    assert len(views[0].points_zyx_A) == 0
    assert not views[0].has_scores
    assert ribosome.truth_zyx_A is None


def test_radii_that_the_user_states_go_first_and_bring_further_particles():
    views = particle_views("TS_1", TABLE, PARTICLES, {"spike": 75.0, "ribosome": 140.0, "fas": 130.0}, 10.0)
    assert {view.name: view.radius_A for view in views} == {
        "apo-ferritin": 60.0,
        "fas": 130.0,
        "ribosome": 140.0,
        "spike": 75.0,
    }


def test_thresholds_that_were_not_chosen_for_these_picks_hide_nothing():
    views = particle_views("TS_1", TABLE, PARTICLES, {}, 10.0, has_thresholds=False)
    assert {view.threshold for view in views} == {0.0}


def test_a_table_without_scores_is_shown_whatever_the_threshold():
    ribosome = particle_views("TS_1", TABLE.drop(columns="score"), PARTICLES, {}, 10.0)[1]
    assert not ribosome.has_scores
    assert shown_at(ribosome.scores, 0.99).tolist() == [True, True]


def test_a_pick_at_its_threshold_is_shown():
    scores = np.array([0.3, 0.31, 0.32, np.nan])
    assert shown_at(scores, 0.31).tolist() == [False, True, True, True]


def test_found_wrong_and_missed_are_those_of_the_score():
    """A pick counts within half the radius, 75 A of 150, inclusive."""
    truth = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1000.0]])
    hits, found = judged(np.array([[0.0, 0.0, 75.0], [0.0, 0.0, 75.2]]), truth, 150.0)
    assert hits.tolist() == [True, False]
    assert found.tolist() == [True, False]
    assert judged_colours(hits, "found", "wrong") == [KIND_COLOURS["found"], KIND_COLOURS["wrong"]]
    assert judged_colours(found, "found", "missed") == [KIND_COLOURS["found"], KIND_COLOURS["missed"]]


def test_truth_is_of_every_particle_where_there_is_one():
    views = particle_views("TS_1", TABLE, PARTICLES, {}, 10.0, {"ribosome": np.array([[1.0, 2.0, 3.0]])})
    assert views[1].truth_zyx_A.tolist() == [[3.0, 2.0, 1.0]]
    assert views[0].truth_zyx_A.shape == (0, 3)


def test_it_begins_where_most_picks_are_that_pass():
    table = pd.DataFrame(
        [("TS_1", "ribosome", 0.0, 0.0, z, score) for z, score in [(900, 0.9), (920, 0.9), (100, 0.9)]]
        + [("TS_1", "ribosome", 0.0, 0.0, 500.0 + i, 0.1) for i in range(9)],
        columns=COLUMNS,
    )
    assert busiest_z_A(particle_views("TS_1", table, PARTICLES, {}, 10.0), 2000.0) == pytest.approx(910, abs=10)
    assert busiest_z_A(particle_views("TS_1", table[:0], COMPETITION_PARTICLES, {}, 10.0), 2000.0) == 1000.0
