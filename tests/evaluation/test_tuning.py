"""Thresholds for any table: chosen as validation chooses, judged on runs that had no part, written for rethreshold."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tomopoint.__main__ import main
from tomopoint.data.picks import write_picks
from tomopoint.data.tables import passing, read_pick_table, write_pick_table
from tomopoint.data.truth import read_truth
from tomopoint.errors import DataError
from tomopoint.evaluation.command import tune
from tomopoint.evaluation.score import score_picks
from tomopoint.evaluation.thresholds import choose_thresholds, sweep, threshold_grid
from tomopoint.pipeline import COMPETITION_PARTICLES, Decoding, Pipeline

NAMES = [particle.name for particle in COMPETITION_PARTICLES]


@pytest.fixture
def prediction(tmp_path):
    """Four runs: of each class, right picks of high and wrong ones of low scores, overlapping differently per run."""
    rng, rows = np.random.default_rng(3), []
    for run in ("A", "B", "C", "D"):
        for name in ("ribosome", "apo-ferritin"):
            truth = rng.uniform(0, 6000, (25, 3)).round(3)
            write_picks(tmp_path / "truth" / run / f"{name}.json", run, name, truth)
            right = [(run, name, *p, s) for p, s in zip(truth[:22], rng.beta(6, 3, 22), strict=True)]
            wrong = [(run, name, *p, s) for p, s in zip(rng.uniform(0, 6000, (60, 3)), rng.beta(2, 6, 60), strict=True)]
            rows += [row for row in right + wrong if row[-1] > 0.05]
    picks = pd.DataFrame(rows, columns=["experiment", "particle_type", "x", "y", "z", "score"])
    write_pick_table(picks, tmp_path / "picks.csv")
    Pipeline(COMPETITION_PARTICLES, 10.0, decoding=Decoding(floor=0.05)).save(tmp_path / "pipeline.json")
    return tmp_path


def test_thresholds_are_those_of_the_curves_and_left_out_runs_have_no_part(prediction):
    result = tune(prediction, truth=prediction / "truth", out=prediction / "tuned")
    picks, truth = read_pick_table(prediction / "picks.csv"), read_truth(prediction / "truth", NAMES)
    grid = threshold_grid(0.05)

    def chosen(runs):
        curves = sweep({run: truth[run] for run in runs}, picks, COMPETITION_PARTICLES, grid)
        return {name: c.threshold for name, c in choose_thresholds(curves, COMPETITION_PARTICLES).items()}

    expected = chosen(truth)
    assert result.figures["thresholds"] == pytest.approx(expected)
    assert result.figures["score"] == score_picks(truth, passing(picks, expected)).score
    held = [passing(picks[picks["experiment"] == run], chosen(set(truth) - {run})) for run in truth]
    assert result.figures["score_left_out"] == score_picks(truth, pd.concat(held)).score
    assert result.figures["score_before"] == score_picks(truth, passing(picks, dict.fromkeys(NAMES, 0.25))).score
    assert result.figures["thresholds"]["thyroglobulin"] == 0.25  # nothing to choose by: kept


def test_rethreshold_takes_the_file_and_the_option_alike(prediction, capsys):
    figures = tune(prediction / "picks.csv", truth=prediction / "truth", out=prediction / "tuned").figures
    written = json.loads((prediction / "tuned/thresholds.json").read_text())
    assert written == figures["thresholds"]
    outs = []
    for name, value in (("a", str(prediction / "tuned/thresholds.json")), ("b", figures["option"])):
        out = prediction / f"{name}.csv"
        with pytest.raises(SystemExit) as end:
            main(["rethreshold", str(prediction / "picks.csv"), "--thresholds", value, "--out", str(out)])
        assert end.value.code == 0
        outs.append(out.read_text())
    capsys.readouterr()
    assert outs[0] == outs[1]
    picks, truth = read_pick_table(prediction / "picks.csv"), read_truth(prediction / "truth", NAMES)
    assert outs[0].count("\n") - 1 == len(passing(picks, written))
    assert score_picks(truth, read_pick_table(prediction / "a.csv")).score == pytest.approx(figures["score"])


def test_curves_are_written_as_numbers_and_as_a_figure(prediction):
    tune(prediction, truth=prediction / "truth", out=prediction / "tuned")
    table = pd.read_csv(prediction / "tuned/curves.csv")
    assert set(table["particle_type"]) == set(NAMES)
    ribosome = table[table["particle_type"] == "ribosome"]
    assert ribosome["n_picks"].is_monotonic_decreasing
    assert (ribosome["n_truth"] == 100).all()
    recall = ribosome["tp"] / 100
    np.testing.assert_allclose(ribosome["recall"], recall, atol=1e-5)
    figure = (prediction / "tuned/curves.svg").read_text()
    assert figure.startswith("<?xml")
    assert "ribosome" in figure


def test_a_single_run_says_nothing_about_others(prediction, capsys):
    one = prediction / "one"
    (one / "A").parent.mkdir()
    (prediction / "truth" / "A").rename(one / "A")
    result = tune(prediction, truth=one, out=prediction / "tuned")
    assert result.figures["score_left_out"] is None
    assert "one run alone" in result.text


def test_runs_of_the_truth_without_picks_are_said(prediction):
    write_picks(prediction / "truth" / "E" / "ribosome.json", "E", "ribosome", [[1, 2, 3]])
    assert (
        "1 of 5 runs of the truth have no pick and count as missed"
        in tune(prediction, truth=prediction / "truth", out=prediction / "tuned").text
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table.drop(columns="score"), "has no scores"),
        (lambda table: table.assign(experiment="Z"), "share no run: the one has picks of Z, the other of A, B, C, D"),
        (lambda table: pd.concat([table, table.head(1)]), "picks twice"),
        (lambda table: table.assign(score=7.0), "are these scores from 0 to 1"),
        (lambda table: table.assign(particle_type="spike"), "names spike; this pipeline knows apo-ferritin"),
    ],
)
def test_tables_that_cannot_be_tuned(change, sentence, prediction):
    change(read_pick_table(prediction / "picks.csv")).to_csv(prediction / "picks.csv", index=False)
    with pytest.raises(DataError, match=sentence):
        tune(prediction, truth=prediction / "truth", out=prediction / "tuned")
    assert not (prediction / "tuned").exists()
