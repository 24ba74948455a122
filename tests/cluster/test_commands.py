"""Commands on a cluster of two real worker processes: what one machine makes, whatever happens to the workers."""

import csv
import os
import shutil
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from training_data import PARTICLES, write_project

from tomopoint.errors import TomopointError
from tomopoint.experiments.command import compare, search
from tomopoint.simulate.command import simulate
from tomopoint.training import fit
from tomopoint.training.checkpoints import load_record
from tomopoint.training.command import train
from tomopoint.training.on_cpu.choice import Way
from tomopoint.validation.command import validate

NETWORK = {
    **{"name": "segresnet", "init_filters": 4, "blocks_down": [1, 1, 1], "norm_groups": 2},
    **{"class_width": 4, "offset_width": 4, "dropout": 0.0},
}
RECIPE = {
    "networks": [NETWORK],
    "folds": "kfold-3",
    "particles": [vars(particle) for particle in PARTICLES],
    "crops": {"size_zyx": [16, 16, 16]},
    "augmentation": {"resample_probability": 0.0},
    "optimiser": {"learning_rate": 0.03, "warmup_steps": 5},
    "fit": {
        **{"epochs": 5, "steps_per_epoch": 8, "batch_size": 2, "precision": "fp32", "ema_decay": 0.9},
        **{"keep_best": 2, "validation_crops": 2, "score_every": 1},
    },
}
RUNS = {"train_runs": 2, "test_runs": 1, "shape": "32,96,80", "device": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("cluster") / "data")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def trained(two_workers, data, recipe, tmp_path_factory):
    """Return the folder of a training during which a worker was killed, after a call for the first fold alone."""
    out = tmp_path_factory.mktemp("trained") / "run"
    options = {"data": data, "out": out, "recipe": str(recipe), "device": "cpu", "curves": "none"}
    cluster = two_workers.scheduler_address
    assert train(**options, folds="0", cluster=cluster).figures["trained"] == ["fold0/segresnet"]
    with killed_once([out / fold / "segresnet" for fold in ("fold1", "fold2")]):
        result = train(**options, cluster=cluster)
    assert result.ok
    assert result.figures["skipped"] == ["fold0/segresnet"]
    assert result.figures["trained"] == ["fold1/segresnet", "fold2/segresnet"]
    return out


@contextmanager
def killed_once(members):
    """Kill the worker of the first member that can be gone on with; it must come to that."""
    over, killed = threading.Event(), []

    def watch():
        while not over.wait(0.01):
            for member in members:
                if (member / "last.safetensors").exists() and not (member / "member.json").exists():
                    killed.append(worker_of(member / "log.txt"))
                    os.kill(killed[0], signal.SIGKILL)
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert len(killed) == 1


def worker_of(log):
    """Return the number of the Dask worker whose task writes into a log."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"tomopoint.tasks.serve" in (process / "cmdline").read_bytes() and (process / "fd/1").resolve() == log:
                return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    raise AssertionError(f"nobody writes into {log}")


def contents(folder):
    """Every file but the records of simulated runs, which hold times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "simulation"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_simulated_runs_have_the_bytes_of_one_machine(two_workers, tmp_path):
    simulate(tmp_path / "alone", **RUNS, workers=2)
    simulate(tmp_path / "cluster", **{**RUNS, "train_runs": 1}, cluster=two_workers.scheduler_address)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "cluster" / "simulation").iterdir()}
    assert len(done) == 2
    found = simulate(tmp_path / "cluster", **RUNS, cluster=two_workers.scheduler_address)
    assert len(found.figures["train_runs"]) == 2
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")
    assert {path: path.stat().st_mtime_ns for path in done} == done  # and what was there was not made again


def test_a_member_whose_worker_is_killed_goes_on_to_the_weights_of_one_machine(
    trained, data, recipe, tmp_path, monkeypatch
):
    logs = [(trained / fold / "segresnet" / "log.txt").read_text() for fold in ("fold1", "fold2")]
    assert sorted(log.count("segresnet starts") for log in logs) == [1, 1]
    assert sorted(log.count("segresnet goes on") for log in logs) == [0, 1]
    for fold in "012":
        record = load_record(trained / f"fold{fold}" / "segresnet")
        # What is fastest is measured by each process, and rounds otherwise: the same way, then.
        monkeypatch.setattr(fit, "fastest_way", lambda *given, layout=record.layout: Way("fp32", layout))
        train(data=data, out=tmp_path, recipe=str(recipe), device="cpu", curves="none", folds=fold)
        assert load_record(tmp_path / f"fold{fold}" / "segresnet").weights_sha256 == record.weights_sha256


def test_held_out_runs_are_predicted_as_on_one_machine(two_workers, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    found = validate([tmp_path / "run"], device="cpu", cluster=two_workers.scheduler_address)
    alone = validate([other], device="cpu")
    assert found.figures["score"] == alone.figures["score"]
    assert (tmp_path / "run" / "pipeline.json").read_bytes() == (other / "pipeline.json").read_bytes()
    tables = sorted((other / "validation").glob("*.csv"))
    assert len(tables) == 3
    for table in tables:
        assert (tmp_path / "run" / "validation" / table.name).read_bytes() == table.read_bytes()

    # What is predicted asks for no cluster.
    monkeypatch.setattr("tomopoint.cluster.hiring.connected", None)
    again = validate([tmp_path / "run"], device="cpu", cluster=two_workers.scheduler_address)
    assert again.figures["score"] == found.figures["score"]


def test_a_run_that_cannot_be_predicted_is_named_and_the_others_are(two_workers, trained, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(trained, tmp_path / "run")
    (store,) = (tmp_path / "data" / "train" / "static" / "ExperimentRuns" / "TS_1").rglob("denoised.zarr")
    for chunk in store.rglob("0/*/*/*"):
        chunk.write_bytes(b"damaged")
    with pytest.raises(TomopointError, match="1 of 3 runs could not be predicted, TS_1 among them"):
        validate([tmp_path / "run"], data=tmp_path / "data", device="cpu", cluster=two_workers.scheduler_address)
    assert {path.stem for path in (tmp_path / "run" / "validation").glob("*.json")} == {"TS_0", "TS_2"}


def experiment(recipe, tmp_path, **content):
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump({"base": str(recipe), "folds": [0], "steps": 8, **content}))
    return path


def test_variants_are_compared_and_one_that_fails_fails_alone(two_workers, data, recipe, tmp_path, monkeypatch):
    still = {"still": {"optimiser": {"learning_rate": 1e-9}}}
    variants = {**still, "broken": {"optimiser": {"learning_rate": 1e30, "clip_norm": 0}}}
    path, out = experiment(recipe, tmp_path, variants=variants, seeds=[0]), tmp_path / "out"
    options = {"data": data, "out": out, "device": "cpu", "cluster": two_workers.scheduler_address}
    result = compare(path, **options)
    assert list(result.figures["failed"]) == ["broken, seed 0"]
    assert "not finite" in result.figures["failed"]["broken, seed 0"]
    rows = csv.DictReader((out / "scores.csv").read_text().splitlines())
    assert {row["variant"]: row["steps"] for row in rows} == {"base": "8", "still": "8", "broken": ""}

    # What is finished is not made again, and asks for no cluster.
    monkeypatch.setattr("tomopoint.cluster.hiring.connected", None)
    assert compare(experiment(recipe, tmp_path, variants=still, seeds=[0]), **options).ok


@pytest.mark.slow
def test_trials_are_searched(two_workers, data, recipe, tmp_path):
    pytest.importorskip("optuna")
    space = {"optimiser.learning_rate": {"log-float": [1e-4, 0.05]}}
    path, out = experiment(recipe, tmp_path, space=space), tmp_path / "out"
    options = {"data": data, "out": out, "device": "cpu", "cluster": two_workers.scheduler_address}
    assert search(path, **options, trials=1).figures["trials"] == "1 finished"
    assert search(path, **options, trials=2).figures["trials"] == "2 finished"
    assert all((out / "trials" / f"000{number}" / "result.json").exists() for number in range(2))


def test_without_a_cluster_dask_is_not_needed(data, recipe, tmp_path, monkeypatch):
    for name in ("dask", "distributed", "dask_jobqueue"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(TomopointError, match="--cluster needs Dask, which is not installed"):
        simulate(tmp_path / "never", **RUNS, cluster="local:1")
    assert simulate(tmp_path / "simulated", **{**RUNS, "train_runs": 1, "test_runs": 0}).ok
    assert train(data=data, out=tmp_path / "run", recipe=str(recipe), device="cpu", curves="none", folds="0").ok
    assert validate([tmp_path / "run"], device="cpu").ok
    path = experiment(recipe, tmp_path, variants={"still": {"optimiser": {"learning_rate": 1e-9}}}, seeds=[0])
    assert compare(path, data=data, out=tmp_path / "compared", device="cpu").ok
    pytest.importorskip("optuna")
    path = experiment(recipe, tmp_path, space={"optimiser.learning_rate": {"log-float": [1e-4, 0.05]}})
    assert search(path, data=data, out=tmp_path / "searched", device="cpu", trials=1).ok


def test_options_of_one_machine_are_refused(data, recipe, tmp_path, monkeypatch):
    with pytest.raises(TomopointError, match="--workers is for one machine"):
        simulate(tmp_path / "out", **RUNS, workers=2, cluster="local:1")
    path = experiment(recipe, tmp_path, variants={"still": {"optimiser": {"learning_rate": 1e-9}}})
    for command in (compare, lambda *given, **options: search(*given, trials=1, **options)):
        with pytest.raises(TomopointError, match="--side-by-side is for one machine"):
            command(path, data=data, out=tmp_path / "out", side_by_side=2, cluster="local:1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TomopointError, match="torchrun, without it"):
        train(data=data, out=tmp_path / "out", recipe=str(recipe), cluster="local:1")
