"""Simulated projects on disk: the competition's layout, resuming, independence of runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tomopoint.data.picks import read_picks
from tomopoint.data.project import SPLITS, Project
from tomopoint.data.tomograms import describe_tomogram, read_tomogram
from tomopoint.errors import DataError, TomopointError
from tomopoint.pipeline import COMPETITION_PARTICLES
from tomopoint.simulate.command import simulate
from tomopoint.simulate.options import PERFECT_LABELS, SimulationOptions
from tomopoint.simulate.project import ProjectPlan, run_name, write_project, write_run

PARTICLE_NAMES = [particle.name for particle in COMPETITION_PARTICLES]
SHAPE = (32, 96, 80)
CONTENT = SimulationOptions(labels=PERFECT_LABELS, tomo_types=("denoised", "wbp"))


def plan(out: Path, train_runs: int = 2, test_runs: int = 1, seed: int = 0) -> ProjectPlan:
    return ProjectPlan(out, train_runs, test_runs, SHAPE, seed, CONTENT, "cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "project"
    write_project(plan(out), workers=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the records, which hold times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "simulation"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_layout_is_the_competitions(project: Path) -> None:
    train, test = Project(project).runs("train"), Project(project).runs("test")
    assert (len(train), len(test)) == (2, 1)
    for run in train:
        assert {path.name for path in run.tomogram_path().parent.iterdir()} == {"denoised.zarr", "wbp.zarr"}
        assert {path.stem for path in run.picks_folder.iterdir()} == set(PARTICLE_NAMES)
    (hidden,) = test
    assert {path.name for path in hidden.tomogram_path().parent.iterdir()} == {"denoised.zarr"}
    assert not (project / "test" / "overlay").exists()
    assert {path.stem for path in (project / "truth" / hidden.name).iterdir()} == set(PARTICLE_NAMES)
    info = describe_tomogram(hidden.tomogram_path())
    assert info.shape_zyx == SHAPE
    assert info.voxel_A == pytest.approx(10.012444, abs=1e-6)
    values = read_tomogram(hidden.tomogram_path()).volume_zyx
    assert 3e-6 < values.std() < 1e-5


def test_sample_submission_names_the_test_runs(project: Path) -> None:
    lines = (project / "sample_submission.csv").read_text().splitlines()
    assert lines[0] == "id,experiment,particle_type,x,y,z"
    assert {line.split(",")[1] for line in lines[1:]} == {run_name("test", 0)}
    assert len(lines) == 1 + len(PARTICLE_NAMES)


def test_picks_lie_in_the_box_and_name_their_run(project: Path) -> None:
    extent = np.array(SHAPE[::-1]) * 10.0125
    for run in Project(project).runs("train"):
        for name in PARTICLE_NAMES:
            picks = read_picks(run.picks_folder / f"{name}.json")
            assert (picks.run, picks.particle) == (run.name, name)
            assert ((picks.points_xyz_A >= 0) & (picks.points_xyz_A <= extent)).all()


def test_a_run_depends_on_seed_and_number_only(project: Path, tmp_path: Path) -> None:
    """Its bytes are the same in a larger project, written in another order."""
    larger = plan(tmp_path / "larger", train_runs=5, test_runs=3)
    write_run(larger, "test", 0)
    write_run(larger, "train", 1)
    remade, first = contents(tmp_path / "larger"), contents(project)
    assert len(remade) > 10
    for name, data in remade.items():
        assert data == first[name]


def test_another_seed_gives_other_runs(project: Path, tmp_path: Path) -> None:
    write_run(plan(tmp_path, seed=1), "train", 0)
    changed = contents(tmp_path)
    chunk = f"train/static/ExperimentRuns/{run_name('train', 0)}/VoxelSpacing10.000/denoised.zarr/0/0/0/0"
    assert changed[chunk] != contents(project)[chunk]


def test_resuming_makes_only_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "project"
    write_project(plan(out, train_runs=1), workers=1)
    before = contents(out)
    kept, redone = (Project(out).runs(split)[0] for split in ("train", "test"))
    kept_time = kept.tomogram_path().stat().st_mtime_ns
    # Killed between the tomogram and the record, with half a store left: the run counts as missing.
    (out / "simulation" / f"{redone.name}.json").unlink()
    (redone.tomogram_path() / "0" / ".zarray").unlink()
    records = write_project(plan(out, train_runs=2), workers=1)
    after = contents(out)
    assert len(records) == 3
    assert kept.tomogram_path().stat().st_mtime_ns == kept_time
    assert all(after[name] == data for name, data in before.items())


@pytest.mark.slow
def test_processes_change_nothing(project: Path, tmp_path: Path) -> None:
    write_project(plan(tmp_path / "parallel"), workers=2)
    assert contents(tmp_path / "parallel") == contents(project)


def test_other_settings_are_refused(project: Path) -> None:
    before = contents(project)
    with pytest.raises(DataError, match="seed was 0, now 3"):
        write_project(plan(project, seed=3))
    harder = ProjectPlan(project, 2, 1, SHAPE, 0, SimulationOptions(difficulty=2.0), "cpu")
    with pytest.raises(DataError, match=r"options\.difficulty was 1\.0, now 2\.0"):
        write_project(harder)
    with pytest.raises(DataError, match="already holds more than 1 train runs"):
        write_project(plan(project, train_runs=1))
    assert contents(project) == before


def test_foreign_data_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="not simulated here"):
        write_project(plan(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_run_names_differ_and_look_like_the_competitions() -> None:
    names = [run_name(split, index) for split in SPLITS for index in range(1200)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("TS_") and len(name.split("_")) == 3 for name in names)


@pytest.mark.parametrize("text", ["64,64", "64,64,abc", "64x64x64", "4,64,64", ""])
def test_bad_shapes_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TomopointError, match="shape"):
        simulate(tmp_path / "data", shape=text)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train_runs": 0, "test_runs": 0}, "at least one run"),
        ({"train_runs": -1}, "neither may be negative"),
        ({"seed": -1}, "seed must not be negative"),
        ({"workers": -2}, "workers must not be negative"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, values: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        simulate(tmp_path / "out", shape="32,64,64", **values)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_command_reports_what_it_made(tmp_path: Path) -> None:
    result = simulate(tmp_path / "out", train_runs=1, test_runs=1, shape="32,64,64", workers=1, device="cpu")
    assert result.ok
    figures = json.loads(json.dumps(result.figures))
    assert figures["train_runs"] == [run_name("train", 0)]
    assert figures["test_runs"] == [run_name("test", 0)]
    assert set(figures["particles"]) == set(PARTICLE_NAMES)


def test_no_process_outlives_a_killed_command(tmp_path: Path) -> None:
    """Its processes would go on writing into a folder that somebody may be filling anew."""
    words = [sys.executable, "-m", "tomopoint", "simulate", str(tmp_path / "data"), "--train-runs", "400"]
    command = subprocess.Popen([*words, "--shape", "32,64,64", "--workers", "2"], stderr=subprocess.DEVNULL)
    try:
        # The two processes of the pool, and Python's own that looks after semaphores.
        processes = wait_for(lambda: found if len(found := children_of(command.pid)) > 2 else None)
        wait_for(lambda: list((tmp_path / "data").rglob("TS_*.json")))  # they are at work
    finally:
        command.kill()
        command.wait()
    assert wait_for(lambda: not any(is_alive(process) for process in processes))


def test_a_process_that_is_ended_from_outside_is_said_in_a_sentence(tmp_path: Path) -> None:
    """As by a kernel out of memory; and no warning of semaphores that it left."""
    words = [sys.executable, "-m", "tomopoint", "simulate", str(tmp_path / "data"), "--train-runs", "400"]
    words += ["--shape", "32,64,64", "--workers", "2"]
    command = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        # Its first run is written, and with it the lock made that Blosc takes.
        wait_for(lambda: list((tmp_path / "data").rglob("TS_*.json")))
        for child in children_of(command.pid):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)
        _, said = command.communicate(timeout=120)
    finally:
        command.kill()
    assert command.returncode == 1
    assert said.splitlines()[-1] == (
        "tomopoint simulate: a process that made runs was ended from outside, by a machine out of memory as a rule; "
        "run the same command again to go on, with fewer --workers than 2"
    )
    assert "leaked" not in said
    assert "Traceback" not in said


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid):
    state = Path(f"/proc/{pid}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(question, seconds=120.0):
    """Return the first true answer; fail where there is none for so long."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return answer
