"""`tomopoint search`: trials of Optuna, trained and judged alike, gone on with, given up early."""

import csv

import pytest
from training_data import PARTICLES

from tomopoint.errors import TomopointError
from tomopoint.experiments.command import search
from tomopoint.experiments.crew import LocalCrew
from tomopoint.experiments.experiment import Material, load_experiment
from tomopoint.experiments.search import Limits, Search, open_study, run_search, scored_epochs
from tomopoint.experiments.search_report import importances, search_page
from tomopoint.training.recipe_files import load_recipe

optuna = pytest.importorskip("optuna")

SPACE = {
    "optimiser.learning_rate": {"log-float": [1e-9, 0.05]},
    "fit.epochs": {"int": [4, 400]},
    "networks.segresnet.dropout": {"choice": [0.0, 0.1]},
}
GOOD = {"optimiser.learning_rate": 0.03, "fit.epochs": 4, "networks.segresnet.dropout": "0.0"}
HOPELESS = {"optimiser.learning_rate": 1e-9, "fit.epochs": 400, "networks.segresnet.dropout": "0.1"}


def asked(path, data, out, seed=0):
    return Search(Material(load_experiment(path), path, PARTICLES), data, out, seed)


def test_trials_are_gone_on_with_and_given_up(data, write, tmp_path, interrupted):
    out = tmp_path / "out"
    path = write(space=SPACE, folds=[1], pruning={"first_trials": 1})
    study = open_study(asked(path, data, out))
    for values in (GOOD, HOPELESS):
        study.enqueue_trial(values)
    with interrupted(out / "trials/0000/fold1/segresnet"):
        search(path, data=data, out=out, trials=2, device="cpu")
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING", "WAITING"]

    result = search(path, data=data, out=out, trials=2, device="cpu")
    good, hopeless = study.get_trials()
    log = (out / "trials/0000/log.txt").read_text()
    assert "fold1/segresnet goes on" in log or "fold1/segresnet is finished, skipped" in log
    assert (good.state.name, hopeless.state.name) == ("COMPLETE", "PRUNED")
    assert good.intermediate_values == pytest.approx(
        dict(scored_epochs(out / "trials/0000/fold1/segresnet/metrics.csv")[: len(good.intermediate_values)])
    )
    assert 1 <= max(hopeless.intermediate_values) < 400
    assert max(hopeless.intermediate_values.values()) < good.value
    assert not (out / "trials/0001/result.json").exists()

    # The best is a recipe that training takes, and that was trained.
    recipe = load_recipe(str(out / "best.yaml"), PARTICLES)
    own = recipe.for_network(0)
    assert (own.optimiser.learning_rate, own.fit.epochs, own.networks[0].dropout) == (0.03, 4, 0.0)
    assert load_recipe(str(out / "trials/0000/recipe.yaml"), PARTICLES) == recipe
    assert result.figures["best"] == {
        "trial": 0,
        "score": good.value,
        "values": {"optimiser.learning_rate": 0.03, "fit.epochs": 4, "networks.segresnet.dropout": 0.0},
    }
    assert good.value > 0.3
    table = list(csv.DictReader((out / "trials.csv").read_text().splitlines()))
    assert [(row["ended"], bool(row["score"])) for row in table] == [("finished", True), ("given up", False)]
    assert "1 given up" in (out / "report.html").read_text()

    # At the limit nothing is begun; and the folder belongs to this search.
    assert search(path, data=data, out=out, trials=2, device="cpu").figures["best"] == result.figures["best"]
    (tmp_path / "other.yaml").write_text("base: tiny.yaml\ncrops: {jitter: 0.1}\n")
    for wrong, options in (("seed", {"seed": 1}), ("base", {"base": "other.yaml"}), ("folds", {"folds": [0]})):
        content = {"space": SPACE, "folds": [1], **options}
        seed = content.pop("seed", 0)
        with pytest.raises(TomopointError, match=f"another {wrong}; its trials are no comparison"):
            search(write(**content), data=data, out=out, trials=9, device="cpu", seed=seed)


def test_values_that_do_not_go_together_fail_alone_and_many_of_them_end_the_search(data, write, tmp_path):
    space = {
        "optimiser.schedule": {"choice": ["cosine", "plateau"]},
        "fit.score_every": {"choice": [0, 1]},
        "fit.validation_crops": {"int": [0, 2]},
    }
    path = write(space=space, folds=[0])
    bad = {
        "fit.averaging": '"ema"',
        "optimiser.schedule": '"plateau"',
        "fit.score_every": "0",
        "fit.validation_crops": 0,
    }
    wanted = asked(path, data, tmp_path / "out")
    study = open_study(wanted)
    for _ in range(5):
        study.enqueue_trial(bad)
    with pytest.raises(TomopointError, match=r"5 trials in a row failed.*nothing is validated"):
        run_search(wanted, Limits(trials=20), lambda: LocalCrew(1))
    trials = study.get_trials()
    assert [trial.state.name for trial in trials] == ["FAIL"] * 5
    assert "nothing is validated" in trials[0].user_attrs["reason"]


def test_what_is_proposed_follows_from_the_seed(data, write, tmp_path):
    """And not from how often the search was stopped, which is why every trial has a sampler of its own."""
    from tomopoint.experiments.search import _next_trial

    path = write(space=SPACE)

    def proposed(name, seed, n_stops):
        wanted, params = asked(path, data, tmp_path / name, seed), []
        study = open_study(wanted)
        for number in range(4):
            study = open_study(wanted) if number < n_stops else study
            begun = _next_trial(wanted, study, Limits(trials=4))
            params.append(begun.trial.params)
            study.tell(begun.trial.number, 0.1 * number)
            begun.lock.close()
        assert _next_trial(wanted, study, Limits(trials=4)) is None
        return params

    first = proposed("a", 3, 0)
    assert proposed("b", 3, 4) == first
    assert proposed("c", 4, 0) != first
    assert len({tuple(values.values()) for values in first}) == 4


def test_a_trial_that_another_process_is_at_is_left_to_it(data, write, tmp_path):
    from tomopoint.experiments.search import _next_trial

    wanted = asked(write(space=SPACE), data, tmp_path / "out")
    study = open_study(wanted)
    theirs = _next_trial(wanted, study, Limits(trials=2))
    ours = _next_trial(wanted, study, Limits(trials=2))
    assert (theirs.trial.number, ours.trial.number) == (0, 1)
    assert _next_trial(wanted, study, Limits(trials=2)) is None
    theirs.lock.close()  # it died
    again = _next_trial(wanted, study, Limits(trials=2))
    assert (again.trial.number, again.trial.params) == (0, theirs.trial.params)
    for one in (ours, again):
        one.lock.close()


def test_importance_and_history_come_from_optuna(data, write, tmp_path):
    wanted = asked(write(space=SPACE), data, tmp_path / "out")
    study = open_study(wanted)
    assert importances(study) == {}
    spaces = {
        "optimiser.learning_rate": optuna.distributions.FloatDistribution(1e-9, 0.05, log=True),
        "fit.epochs": optuna.distributions.IntDistribution(4, 400),
        "networks.segresnet.dropout": optuna.distributions.CategoricalDistribution(["0.0", "0.1"]),
    }
    for number in range(40):
        epochs = 4 + (number * 37) % 397
        values = {**GOOD, "optimiser.learning_rate": 1e-9 * 1.5 ** (number % 40), "fit.epochs": epochs}
        study.add_trial(
            optuna.create_trial(
                params=values, distributions=spaces, value=epochs / 400, intermediate_values={1: 0.1, 2: epochs / 400}
            )
        )
    found = importances(study)
    assert max(found, key=found.get) == "fit.epochs"
    assert sum(found.values()) == pytest.approx(1.0)
    page = search_page(wanted, study)
    assert page.count("<img") == 2
    assert "40 finished" in page


def test_a_search_says_when_it_ends(data, write, tmp_path):
    path = write(space=SPACE)
    with pytest.raises(TomopointError, match="--trials N or --hours H"):
        search(path, data=data, out=tmp_path / "out")
    for wrong in ({"trials": 0}, {"hours": -1.0}):
        with pytest.raises(TomopointError, match="must be positive"):
            search(path, data=data, out=tmp_path / "out", **wrong)

    over = search(path, data=data, out=tmp_path / "out", hours=1e-9)  # is over before anything can begin
    assert not over.ok
    assert (over.figures["trials"], over.figures["best"]) == ("no trial", None)
    assert (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "best.yaml").exists()


def test_a_search_that_has_nothing_to_train_hires_nobody(data, write, tmp_path):
    path = write(space=SPACE, folds=[1])
    one = asked(path, data, tmp_path / "out")
    study = open_study(one)
    study.tell(study.ask(), 0.5)

    def hire():
        raise AssertionError("a crew was hired")

    assert len(run_search(one, Limits(trials=1), hire).get_trials()) == 1
    with pytest.raises(AssertionError, match="a crew was hired"):
        run_search(one, Limits(trials=2), hire)
