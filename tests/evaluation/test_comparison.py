"""Two submissions against one truth, and what `score` refuses: numbers formed here, by the metric's definition."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tomopoint.__main__ import main
from tomopoint.data.picks import write_picks
from tomopoint.data.tables import write_submission
from tomopoint.errors import DataError
from tomopoint.evaluation.command import score
from tomopoint.evaluation.comparison import compare_scores
from tomopoint.evaluation.score import score_picks
from tomopoint.pipeline import Particle, Pipeline

FEW_DRAWS = 2000

PARTICLES = (Particle("ribosome", 150.0, 1.0, 0.25, 190.0), Particle("apo-ferritin", 60.0, 3.0, 0.25, 60.0))
COLUMNS = ["experiment", "particle_type", "x", "y", "z"]


def truth_of(n_runs):
    rng = np.random.default_rng(5)
    return {f"R{i}": {p.name: rng.uniform(0, 6000, (8, 3)).round(3) for p in PARTICLES} for i in range(n_runs)}


def found(truth, share, seed, wrong=2):
    """Return a submission that finds each particle with a probability, and some wrong picks."""
    rng, rows = np.random.default_rng(seed), []
    for run, own in truth.items():
        for name, points in own.items():
            rows += [(run, name, *p) for p in points if rng.random() < share]
            rows += [(run, name, *p) for p in rng.uniform(7000, 9000, (wrong, 3)).round(3)]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture(scope="module")
def truth():
    return truth_of(12)


def test_differences_are_those_of_both_scores(truth):
    a, b = (score_picks(truth, found(truth, share, seed), PARTICLES) for share, seed in ((0.5, 1), (0.9, 2)))
    compared = compare_scores(a, b, FEW_DRAWS)
    assert list(compared) == ["ribosome", "apo-ferritin", "score"]
    assert compared["score"].difference == b.score - a.score
    assert compared["ribosome"].difference == b.per_class["ribosome"].f_beta - a.per_class["ribosome"].f_beta
    for item in compared.values():
        assert item.low < item.difference < item.high
        assert item.low > 0
        assert item.better == 1.0


def test_the_bootstrap_draws_the_same_runs_for_both(truth):
    """By its definition, run by run: counts of drawn runs summed, F-beta of the sums, the difference, its quantiles."""
    a, b = (score_picks(truth, found(truth, 0.7, seed), PARTICLES) for seed in (1, 2))
    compared = compare_scores(a, b, draws=FEW_DRAWS, seed=7)
    runs = sorted(truth)
    drawn = np.random.default_rng(7).multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=FEW_DRAWS)
    differences = []
    for times in drawn[:200]:
        own = []
        for one in (a, b):
            total = 0.0
            for particle in PARTICLES:
                counts = {c.run: c for c in one.counts if c.particle == particle.name}
                drawn_counts = [(t, counts[run]) for t, run in zip(times, runs, strict=True)]
                tp, fp, fn = (sum(t * getattr(c, what) for t, c in drawn_counts) for what in ("tp", "fp", "fn"))
                precision, recall = tp / (tp + fp), tp / (tp + fn)
                total += particle.weight * 17 * precision * recall / (16 * precision + recall) / 4
            own.append(total)
        differences.append(own[1] - own[0])
    again = compare_scores(a, b, draws=FEW_DRAWS, seed=7)["score"]
    assert (again.low, again.high) == (compared["score"].low, compared["score"].high)
    # 200 of the 2000 draws: their mean is within a few standard errors of the middle of the interval.
    middle, spread = (compared["score"].low + compared["score"].high) / 2, np.std(differences)
    assert abs(np.mean(differences) - middle) < 5 * spread / np.sqrt(200) + 0.1 * spread
    assert compared["score"].high - compared["score"].low == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_a_submission_is_no_better_than_itself(truth):
    a = score_picks(truth, found(truth, 0.7, 1), PARTICLES)
    same = compare_scores(a, a, FEW_DRAWS)["score"]
    assert (same.difference, same.low, same.high, same.better) == (0.0, 0.0, 0.0, 0.5)


def test_a_run_that_is_hard_for_both_makes_no_difference_uncertain(truth):
    """Both find everything but in one run, where both find nothing; the second has one wrong pick less everywhere."""
    a = found(truth, 1.1, 1, wrong=2)
    a = a[(a["experiment"] != "R3") | (a["x"] > 6999)]
    b = a[~a.duplicated(["experiment", "particle_type"], keep="last") | (a["x"] < 6999)]
    one, other = (score_picks(truth, table, PARTICLES) for table in (a, b))
    compared = compare_scores(one, other, FEW_DRAWS)["score"]
    spread = compare_scores(one, score_picks(truth, found(truth, 0.9, 3), PARTICLES), FEW_DRAWS)["score"]
    assert 0 < compared.low <= compared.difference <= compared.high
    assert compared.high - compared.low < 0.2 * (spread.high - spread.low)


def test_of_a_single_run_nothing_is_said():
    truth = truth_of(1)
    a, b = (score_picks(truth, found(truth, share, 1), PARTICLES) for share in (0.4, 0.9))
    item = compare_scores(a, b, FEW_DRAWS)["score"]
    assert np.isnan([item.low, item.high, item.better]).all()
    with pytest.raises(DataError, match="not of the same truth"):
        compare_scores(a, score_picks(truth_of(2), found(truth, 0.4, 1), PARTICLES), FEW_DRAWS)


@pytest.fixture
def files(truth, tmp_path):
    for run, own in truth.items():
        for name, points in own.items():
            write_picks(tmp_path / "truth" / run / f"{name}.json", run, name, points)
    for name, share in (("a", 0.5), ("b", 0.9)):
        write_submission(found(truth, share, 4), tmp_path / name / "submission.csv")
        Pipeline(PARTICLES, voxel_A=10.0).save(tmp_path / name / "pipeline.json")
    return tmp_path


def test_the_command_shows_a_table_and_figures(files, capsys):
    words = ["score", files / "a/submission.csv", files / "b/submission.csv", "--truth", files / "truth"]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert said.startswith(f"A: {files / 'a/submission.csv'}\nB: ")
    assert "B - A" in said
    assert "draws: 10000 of 12 runs" in said
    with pytest.raises(SystemExit):
        main([str(word) for word in [*words, "--json"]])
    figures = json.loads(capsys.readouterr().out)
    difference = figures["differences"]["score"]
    assert difference["difference"] == pytest.approx(figures["second"]["score"] - figures["first"]["score"])
    assert difference["low"] <= difference["difference"] <= difference["high"]


def test_two_with_other_particles_are_not_compared(files):
    other = (Particle("ribosome", 100.0, 1.0, 0.25, 190.0), PARTICLES[1])
    Pipeline(other, voxel_A=10.0).save(files / "b/pipeline.json")
    paths = files / "a/submission.csv", files / "b/submission.csv"
    with pytest.raises(DataError, match="predicted with other particles, radii or weights; say by which"):
        score(*paths, truth=files / "truth")
    score(*paths, truth=files / "truth", pipeline=files / "a/pipeline.json")


def test_a_table_with_doubled_picks_is_refused(files, truth):
    table = found(truth, 0.9, 4)
    write_submission(pd.concat([table, table.tail(2)]), files / "b/submission.csv")
    with pytest.raises(DataError, match=r"holds 2 of \d+ picks twice"):
        score(files / "b/submission.csv", truth=files / "truth")
    with pytest.raises(DataError, match="picks twice"):
        score(files / "a/submission.csv", files / "b/submission.csv", truth=files / "truth")


def test_truth_of_other_runs_is_refused_and_of_some_is_said(files, truth):
    table = found(truth, 0.9, 4)
    write_submission(table.assign(experiment="S" + table["experiment"]), files / "a/submission.csv")
    with pytest.raises(DataError, match=r"share no run: the one has picks of SR0, .* and 7 more, the other of R0, "):
        score(files / "a/submission.csv", truth=files / "truth")
    renamed = table.assign(experiment=table["experiment"].replace({"R0": "SR0", "R1": "SR1"}))
    write_submission(renamed, files / "a/submission.csv")
    result = score(files / "a/submission.csv", truth=files / "truth")
    n_rows = int(table["experiment"].isin(["R0", "R1"]).sum())
    assert f"{n_rows} of {len(table)} rows belong to runs that" in result.text
    assert "2 of 12 runs of the truth have no row and count as missed: R0, R1." in result.text
    assert result.figures["n_runs_without_rows"] == 2


def test_a_submission_without_rows_scores_zero(files):
    write_submission(pd.DataFrame(columns=COLUMNS), files / "a/submission.csv")
    assert score(files / "a/submission.csv", truth=files / "truth").figures["score"] == 0.0


@pytest.mark.parametrize(
    ("n_runs", "shares", "verdict"),
    [
        (12, (0.5, 0.9), "better, beyond chance"),
        (12, (0.9, 0.5), "worse, beyond chance"),
        (12, (0.7, 0.7), "within chance"),
        (5, (0.1, 0.9), "too few runs to say"),
        (1, (0.1, 0.9), "too few runs to say"),
    ],
)
def test_a_word_says_whether_chance_could_have_done_it(n_runs, shares, verdict):
    truth = truth_of(n_runs)
    a, b = (
        score_picks(truth, found(truth, share, seed), PARTICLES) for share, seed in zip(shares, (1, 2), strict=True)
    )
    assert compare_scores(a, b, FEW_DRAWS)["score"].verdict == verdict
