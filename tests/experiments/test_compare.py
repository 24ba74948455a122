"""`tomopoint compare`: trained through `train`, scored through `validate`, gone on with, failures told."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from training_data import PARTICLES

from tomopoint.errors import TomopointError
from tomopoint.experiments.command import compare
from tomopoint.experiments.compare import run_comparison
from tomopoint.experiments.crew import LocalCrew
from tomopoint.experiments.experiment import Material, load_experiment
from tomopoint.experiments.training import Hardware, Training
from tomopoint.locks import LOCK, LockLost, alone_in
from tomopoint.training.checkpoints import load_record

VARIANTS = {
    "still": {"optimiser": {"learning_rate": 1e-9}},
    "broken": {"optimiser": {"learning_rate": 1e30, "clip_norm": 0}},
}


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_variants_are_trained_alike_gone_on_with_and_compared(data, write, tmp_path, interrupted, monkeypatch):
    out = tmp_path / "out"
    path = write(variants=VARIANTS, seeds=[0, 1], folds=[0, 1], steps=40)
    with interrupted(out / "variants/base/seed0/fold0/segresnet"):
        compare(path, data=data, out=out, device="cpu")
    assert not (out / "variants/base/seed0/result.json").exists()

    result = compare(path, data=data, out=out, device="cpu")
    log = (out / "variants/base/seed0/log.txt").read_text()
    assert "fold0/segresnet goes on" in log or "fold0/segresnet is finished, skipped" in log

    # Every training is what the commands make of the variant's recipe, seed and folds.
    scores = {(row["variant"], row["seed"]): row for row in rows(out / "scores.csv")}
    assert len(scores) == 6
    digests = set()
    for name in ("base", "still"):
        for seed in (0, 1):
            folder = out / "variants" / name / f"seed{seed}"
            assert sorted(p.name for p in folder.glob("fold*")) == ["fold0", "fold1"]
            record = load_record(folder / "fold1" / "segresnet")
            assert (record.steps, record.recipe) == (40, str(out / "recipes" / f"{name}.yaml"))
            digests.add(record.recipe_sha256)
            validated = json.loads((folder / "validation.json").read_text())
            row = scores[name, str(seed)]
            assert float(row["score"]) == pytest.approx(validated["score_left_out"], abs=1e-5)
            assert float(row["score/small"]) == pytest.approx(
                validated["per_class_left_out"]["small"]["f_beta"], abs=1e-5
            )
            assert row["steps"] == "80"
    assert len(digests) == 4
    assert float(scores["base", "0"]["score"]) > 0.3 > float(scores["still", "0"]["score"])

    # The table: gains are differences of these, two seeds are too few; what fails is told and does not end the others.
    still = next(row for row in rows(out / "comparison.csv") if (row["variant"], row["subject"]) == ("still", "score"))
    gains = [float(scores["still", s]["score"]) - float(scores["base", s]["score"]) for s in ("0", "1")]
    assert float(still["gain"]) == pytest.approx(sum(gains) / 2, abs=1e-5)
    assert (still["pairs"], still["verdict"]) == ("2", "too few seeds to say")
    assert not result.ok
    assert sorted(result.figures["failed"]) == ["broken, seed 0", "broken, seed 1"]
    assert "not finite" in scores["broken", "1"]["failed"]
    assert "FAILED broken, seed 0" in result.text
    page = (out / "report.html").read_text()
    assert "F4 per epoch: still" in page
    assert "too few seeds to say" in page

    # Nothing finished is made again: without what failed there is nothing to train, and no process is started.
    def no_process(*given):
        raise AssertionError("a training was begun")

    monkeypatch.setattr("tomopoint.experiments.crew.LocalCrew.begin", no_process)
    fewer = write(variants={"still": VARIANTS["still"]}, seeds=[0, 1], folds=[0, 1], steps=40)
    again = compare(fewer, data=data, out=out, device="cpu")
    assert again.ok
    assert again.figures["results"]["base"] == result.figures["results"]["base"]

    # And the folder belongs to these recipes and folds.
    other = write(variants={"still": {"optimiser": {"learning_rate": 2e-9}}}, seeds=[0, 1], folds=[0, 1], steps=40)
    with pytest.raises(TomopointError, match=r"still, seed 0: .*another recipe: optimiser\.learning_rate"):
        compare(other, data=data, out=out, device="cpu")
    with pytest.raises(TomopointError, match="holds fold1/segresnet beside the folds that are asked for"):
        compare(write(variants=VARIANTS, seeds=[0], folds=[0], steps=40), data=data, out=out, device="cpu")


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(data, write, tmp_path):
    out = tmp_path / "out"
    for content, message in (
        ({"variants": VARIANTS, "folds": [7]}, "--folds '7' does not fit"),
        (
            {"variants": {"other": {"folds": "leave-one-out"}, "all": {"folds": "all"}}},
            "all, seed 0: .*holds no run out",
        ),
        ({"variants": {"pairs": {"folds": "pairs-2"}}, "folds": [0]}, "holds out other runs than the base"),
        ({"variants": {"few": {"particles": [vars(PARTICLES[0])]}}}, "finds other particles than the base"),
        (
            {"variants": {"coarse": {"stride": 16}}},
            "coarse, seed 0: segresnet: .* has feature maps at strides 1, .*, not",
        ),
    ):
        with pytest.raises(TomopointError, match=message):
            compare(write(**content), data=data, out=out, device="cpu")
    assert not list(out.rglob("recipe.yaml"))  # no training folder was begun, not even of those that are in order
    with pytest.raises(TomopointError, match="--side-by-side must be at least 1"):
        compare(write(variants=VARIANTS), data=data, out=out, side_by_side=0)
    with alone_in(out), pytest.raises(TomopointError, match="another process works in"):
        compare(write(variants=VARIANTS), data=data, out=out, device="cpu")


CREW = """
import sys, time
from pathlib import Path
from tomopoint.experiments.crew import LocalCrew
from tomopoint.experiments.training import Hardware, Training

if __name__ == "__main__":
    out = Path(sys.argv[1])
    with LocalCrew(2) as crew:
        for name in ("a", "b"):
            crew.begin(Training(name, out / name, out / "none.yaml", 0, out, None, Hardware("cpu")))
        print(*(process.pid for process in crew._processes), flush=True)
        time.sleep(600)
"""


def test_trainings_do_not_outlive_the_process_that_began_them(tmp_path):
    (tmp_path / "crew.py").write_text(CREW)
    command = [sys.executable, str(tmp_path / "crew.py"), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    while any(_is_alive(pid) for pid in pids):  # a test that never ends says that they do
        time.sleep(0.05)


def test_a_process_that_dies_takes_nothing_with_it_but_its_training(tmp_path):
    own = [Training(name, tmp_path / name, tmp_path / "none.yaml", 0, tmp_path, None) for name in ("a", "b", "c")]
    with LocalCrew(2) as crew:
        crew.begin(own[0])
        crew.begin(own[1])
        assert not crew.has_room
        os.kill(crew._processes[0].pid, signal.SIGKILL)
        ((training, answer),) = crew.ended(600.0)
        assert training == own[0]
        assert "its process ended (SIGKILL: most likely out of memory)" in answer.reason
        assert (crew.at_work, crew.has_room) == ([own[1]], True)
        crew.begin(own[2])
        crew.stop(own[1])
        assert crew.at_work == [own[2]]


def _is_alive(pid):
    try:
        os.kill(pid, signal.Signals.SIGCONT)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_2d_baseline_is_compared_with_the_base_on_the_same_runs(data, write, tmp_path):
    out = tmp_path / "out"
    slices = {
        **{"method": "detector", "crops": {"size_zyx": [3, 48, 48]}, "augmentation": {"resample_probability": 0.0}},
        "detector": {"channels": [4, 4, 8, 8], "features": 8, "smallest_box_vox": 2.0},
        "fit": {"steps": 20, "batch_size": 2},
    }
    path = write(baselines={"slices": slices}, seeds=[3], folds=[0, 1], steps=4)
    compare(path, data=data, out=out, device="cpu")
    scores = {row["variant"]: row for row in rows(out / "scores.csv")}
    assert list(scores) == ["base", "slices"]
    folder = out / "variants" / "slices" / "seed3"
    validated = json.loads((folder / "validation.json").read_text())
    other = json.loads((out / "variants" / "base" / "seed3" / "validation.json").read_text())
    assert validated["predictions"].keys() == other["predictions"].keys()
    assert float(scores["slices"]["score"]) == pytest.approx(validated["score_left_out"], abs=1e-5)
    assert (scores["slices"]["steps"], scores["base"]["steps"]) == ("40", "8")
    assert "tomopoint baseline" in Training("", folder, path, 3, data, "0,1", two_d=True).command
    assert "slices less base" in (out / "report.html").read_text()

    # What is finished is not made again; another recipe in the same folder is refused.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    compare(path, data=data, out=out, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    changed = {**slices, "fit": {"steps": 21, "batch_size": 2}}
    path = write(baselines={"slices": changed}, seeds=[3], folds=[0, 1], steps=4)
    with pytest.raises(TomopointError, match=r"slices, seed 3: .* fit\.steps differ"):
        compare(path, data=data, out=out)


def test_a_comparison_that_lost_its_folder_notes_nothing_more(data, write, tmp_path):
    """As one that was frozen until another took over."""
    path = write(variants={"still": VARIANTS["still"]}, seeds=[0], folds=[0], steps=2)
    out, crew = tmp_path / "out", LocalCrew(1)

    def hire():
        next((out / LOCK).iterdir()).unlink()
        return crew

    material = Material(load_experiment(path), path, PARTICLES)
    with pytest.raises(LockLost, match="nothing more is written here"):
        run_comparison(material, data, out, hire, Hardware("cpu"))
    assert not (out / "variants/still/seed0/result.json").exists()  # the second was not begun
