"""Maps between scores of two kinds: a known distortion is undone, ranks stay, few particles make few knots."""

import numpy as np
import pytest

from tomopoint.evaluation.score_scale import JudgedPicks, fit_knots, fit_score_scale
from tomopoint.pipeline import MAX_KNOTS, ScoreMap

WORST = 0.06
"""Error of a score where the curve between eight knots is steep: a third of a power, from 0.1 to 1."""

CLOSE = 0.03
"""The same, in the mean over the picks above 0.2."""


def judged(n_true, n_false, seed=0):
    """Picks of a detector whose evidence for true and wrong ones overlaps as it does in practice."""
    rng = np.random.default_rng(seed)
    evidence = np.concatenate([rng.normal(1.0, 1.0, n_true), rng.normal(-1.6, 0.8, n_false)])
    return JudgedPicks(1 / (1 + np.exp(-evidence)), np.arange(len(evidence)) < n_true)


def distorted(picks):
    return JudgedPicks(0.1 * picks.scores**3, picks.hits)


@pytest.mark.parametrize("seed", range(4))
def test_a_known_distortion_is_undone(seed):
    reference = judged(300, 1200, seed)
    own = distorted(reference)
    knots = fit_knots(own, reference)
    ScoreMap("segmentation", "any", *knots)  # it rises from 0 to 1
    assert len(knots[0]) == MAX_KNOTS
    error = np.abs(np.interp(own.scores, *knots) - reference.scores)[reference.scores > 0.2]
    assert error.max() < WORST
    assert error.mean() < CLOSE
    assert np.abs(own.scores - reference.scores).max() > 0.8  # there was something to undo


def test_scores_of_equal_precision_become_equal_where_ranks_differ():
    """The other kind sees four times as many wrong picks at every score: its scores have to sink."""
    reference, own = judged(2000, 4000, 1), judged(2000, 16000, 2)
    mapped = np.interp(own.scores, *fit_knots(own, reference))
    for low, high in ((0.3, 0.5), (0.5, 0.7)):
        precision = [
            picks.hits[(scores > low) & (scores < high)].mean()
            for picks, scores in ((reference, reference.scores), (own, own.scores), (own, mapped))
        ]
        assert precision[1] < precision[0] - 0.1  # as they come, a score of it promises less
        assert abs(precision[2] - precision[0]) < abs(precision[1] - precision[0]) / 2


def test_few_hits_make_few_knots_and_none_make_no_map():
    counts = {n: fit_knots(distorted(judged(n, 4 * n)), judged(n, 4 * n)) for n in (9, 12, 25, 45, 200)}
    assert counts[9] is None
    inner = [len(counts[n][0]) - 2 for n in (12, 25, 45, 200)]
    assert inner == sorted(inner)
    assert inner[0] == 1
    assert inner[1] <= 3
    assert inner[-1] == MAX_KNOTS - 2


def test_the_kind_with_fewer_hits_decides_how_many_knots():
    assert len(fit_knots(judged(300, 900), judged(12, 60))[0]) == 3
    assert len(fit_knots(judged(12, 60), judged(300, 900))[0]) == 3


def test_identical_scores_are_left_as_they_are():
    picks = judged(300, 1200)
    scores, values = fit_knots(picks, picks)
    np.testing.assert_allclose(scores, values, atol=1e-9)


def test_a_rare_particle_takes_the_map_of_all_together():
    reference = {"common": judged(200, 800), "rare": judged(4, 30, 5)}
    own = {name: distorted(picks) for name, picks in reference.items()}
    found = fit_score_scale(own, reference)
    both = fit_knots(JudgedPicks.pooled(list(own.values())), JudgedPicks.pooled(list(reference.values())))
    assert found["rare"] == both
    assert found["common"] == fit_knots(own["common"], reference["common"]) != both
    assert fit_score_scale({"rare": own["rare"]}, {"rare": reference["rare"]}) == {}


def test_scores_that_are_all_alike_make_no_step():
    flat = JudgedPicks(np.full(100, 1e-8), np.arange(100) < 50)
    assert fit_knots(flat, judged(100, 100)) == ((0.0, 1.0), (0.0, 1.0))
