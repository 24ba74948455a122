"""Pushing to Kaggle, with an executable called ``kaggle`` that notes its arguments and answers as the real one does.

The answers are those in the source of kaggle 2.2.4. Kaggle itself is not reached.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tomopoint.errors import DataError, TomopointError
from tomopoint.kaggle.checkout import checkout_root
from tomopoint.kaggle.cli import KaggleCli, Waiting, is_failure, state_in
from tomopoint.kaggle.dataset import stage_dataset
from tomopoint.kaggle.manifest import KitFile
from tomopoint.kaggle.notebooks import write_kernels
from tomopoint.kaggle.push import MAX_DATASET_BYTES, MAX_DATASET_FILES, check_kit, check_limits, push_all, push_dataset

OWNER = "some-one"
DATASET = f"{OWNER}/tomopoint-kit"
ENGINE, SUBMIT = f"{OWNER}/tomopoint-build-engine", f"{OWNER}/tomopoint-submit"
QUICK = Waiting(minutes=0.5, poll_seconds=0.0)

STAND_IN = r"""#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
calls = here / "calls.jsonl"
with calls.open("a") as stream:
    stream.write(json.dumps(words) + "\n")
answers = json.loads((here / "answers.json").read_text())
key = " ".join(words[:2]) if words[1] != "status" else " ".join(words[:3])
asked = [json.loads(line) for line in calls.read_text().splitlines()]
n = sum(other[: len(key.split())] == key.split() for other in asked) - 1
given = answers[key][min(n, len(answers[key]) - 1)]
sys.stdout.write(given.get("out", ""))
sys.stderr.write(given.get("err", ""))
sys.exit(given.get("status", 0))
"""

GOOD = {
    f"datasets status {DATASET}": [{"out": "ready"}, {"out": "blobs_received"}, {"out": "ready"}],
    "datasets version": [{"out": "Dataset version is being created. Please check progress at https://kaggle/x\n"}],
    "datasets create": [{"out": "Your private Dataset is being created. Please check progress at https://kaggle/x\n"}],
    "kernels push": [{"out": "Kernel version 7 successfully pushed.  Please check progress at https://kaggle/x\n"}],
    f"kernels status {ENGINE}": [
        {"out": f'{ENGINE} has status "KernelWorkerStatus.QUEUED"\n'},
        {"out": f'{ENGINE} has status "KernelWorkerStatus.RUNNING"\n'},
        {"out": f'{ENGINE} has status "KernelWorkerStatus.COMPLETE"\n'},
    ],
}


class StandIn:
    """The executable, what it shall answer and what it was asked."""

    def __init__(self, folder):
        self.folder = folder
        program = folder / "kaggle"
        program.write_text(STAND_IN.replace("{python}", sys.executable))
        program.chmod(0o755)
        self.answer()

    def answer(self, **changes):
        keys = {"create": "datasets create", "version": "datasets version", "push": "kernels push",
                "dataset": f"datasets status {DATASET}", "engine": f"kernels status {ENGINE}"}  # fmt: skip
        answers = {**GOOD, **{keys[name]: list(given) for name, given in changes.items()}}
        (self.folder / "answers.json").write_text(json.dumps(answers))

    @property
    def calls(self):
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return StandIn(folder)


@pytest.fixture(scope="module")
def owned(checkout, tmp_path_factory):
    """Return a checkout with a user's name in ``kernels.toml``."""
    copy = Path(shutil.copytree(checkout, tmp_path_factory.mktemp("owned") / "checkout"))
    config = copy / "kernels" / "kernels.toml"
    config.write_text(config.read_text().replace('"your-kaggle-name"', f'"{OWNER}"'))
    write_kernels(copy / "kernels")
    shutil.copy(checkout_root() / "build_dataset.py", copy)
    return copy


@pytest.fixture(scope="module")
def bare_kit(exported, owned, tmp_path_factory):
    """Return a kit of that user without third-party wheels."""
    out = tmp_path_factory.mktemp("push") / "kit"
    stage_dataset(exported.path, out, owned)
    return out


@pytest.fixture(scope="module")
def full_kit(bare_kit, tmp_path_factory):
    """Return the kit with one third-party wheel (of that name, and empty)."""
    kit = Path(shutil.copytree(bare_kit, tmp_path_factory.mktemp("full") / "kit"))
    wheel = kit / "zarr-3.1.6-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("zarr/__init__.py", "")
    manifest = json.loads((kit / "manifest.json").read_text())
    manifest["files"][wheel.name] = vars(KitFile.of(wheel))
    manifest["install"].append("zarr==3.1.6")
    (kit / "manifest.json").write_text(json.dumps(manifest))
    return kit


@pytest.fixture
def kit(full_kit, owned):
    return check_kit(full_kit, owned)


def _push(kit, owned):
    return push_all(kit, owned, KaggleCli(waiting=QUICK))


def test_dataset_engine_and_submit_go_in_this_order_and_each_waits_for_the_last(kit, owned, kaggle):
    pushed = _push(kit, owned)
    status = ["datasets", "status", DATASET]
    push = ["--accelerator", "NvidiaTeslaT4"]
    assert [call for call in kaggle.calls if call[:2] != ["datasets", "version"]] == [
        status, status, status,
        ["kernels", "push", "-p", str(owned / "kernels/build_engine"), *push],
        *[["kernels", "status", ENGINE]] * 3,
        ["kernels", "push", "-p", str(owned / "kernels/submit"), *push],
    ]  # fmt: skip
    version = kaggle.calls[1]
    assert version[:6] == ["datasets", "version", "-p", str(kit.folder), "--dir-mode", "skip"]
    assert kit.manifest.onnx_sha256[:12] in version[-1]
    assert pushed.submit_version == 7
    assert pushed.commands[-1] == "kaggle " + " ".join(kaggle.calls[-1])


def test_a_dataset_that_is_not_there_is_created(kit, owned, kaggle):
    absent = {"err": "403 Client Error: Forbidden for url", "status": 1}
    kaggle.answer(dataset=[absent, absent, {"out": "ready"}])  # Kaggle may take a moment to know it
    _push(kit, owned)
    assert [call[1] for call in kaggle.calls][:4] == ["status", "create", "status", "status"]
    assert kaggle.calls[1] == ["datasets", "create", "-p", str(kit.folder), "--dir-mode", "skip"]


def test_a_failed_engine_notebook_ends_it_before_submit(kit, owned, kaggle):
    failed = f'{ENGINE} has status "KernelWorkerStatus.ERROR"\nFailure message: "no runtime reproduces PyTorch"\n'
    kaggle.answer(engine=[{"out": f'{ENGINE} has status "KernelWorkerStatus.RUNNING"\n'}, {"out": failed}])
    with pytest.raises(TomopointError) as error:
        _push(kit, owned)
    assert f"{ENGINE} ended as 'error'" in str(error.value)
    assert "no runtime reproduces PyTorch" in str(error.value)
    assert f"kaggle kernels logs {ENGINE}" in str(error.value)
    assert sum(call[:2] == ["kernels", "push"] for call in kaggle.calls) == 1


def test_waiting_ends_with_the_time(kit, owned, kaggle):
    running = {"out": f'{ENGINE} has status "KernelWorkerStatus.RUNNING"\n'}
    kaggle.answer(dataset=[{"out": "ready"}], engine=[running])
    no_time = Waiting(minutes=1e-9, poll_seconds=0.0)  # one question is asked at least
    with pytest.raises(TomopointError, match=r"not done after 1e-09 minutes .*RUNNING"):
        push_all(kit, owned, KaggleCli(waiting=no_time))
    assert kaggle.calls[-1] == ["kernels", "status", ENGINE]


def test_a_network_that_is_away_for_a_moment_is_borne_and_one_that_stays_away_is_not(kit, owned, kaggle):
    away, done = {"err": "Connection refused", "status": 1}, GOOD[f"kernels status {ENGINE}"][-1]
    kaggle.answer(engine=[away, away, done])
    _push(kit, owned)
    kaggle.answer(engine=[away])
    with pytest.raises(TomopointError, match="does not answer about the notebook"):
        _push(kit, owned)


@pytest.mark.parametrize(
    ("changes", "sentence", "n_calls"),
    [
        # All but the first two end with status 0.
        ({"dataset": [{"err": "500 Server Error", "status": 1}]}, "cannot say whether there is a dataset", 1),
        ({"dataset": [{"out": "Authentication required to call the Kaggle API.", "status": 1}]}, "auth login", 1),
        ({"version": [{"out": "Dataset version creation error: quota exceeded\n"}]}, "quota exceeded", 2),
        ({"dataset": [{"out": "ready"}, {"out": "failed"}]}, "ended as 'failed'", 3),
        ({"push": [{"out": "Kernel push error: Maximum weekly GPU quota\n"}]}, "weekly GPU quota", 5),
        (
            {"push": [{"out": "The following are not valid dataset sources and could not be added to the kernel: x\n"
                              "Kernel version 1 successfully pushed.\n"}]},
            "not valid dataset sources", 5,
        ),
    ],
)  # fmt: skip
def test_an_error_ends_it_whatever_the_status_says(kit, owned, kaggle, changes, sentence, n_calls):
    kaggle.answer(**changes)
    with pytest.raises(TomopointError, match=sentence):
        _push(kit, owned)
    assert len(kaggle.calls) == n_calls


def test_a_dry_run_prints_every_command_and_calls_none(kit, owned, kaggle):
    commands = push_all(kit, owned, KaggleCli(dry_run=True)).commands
    assert [line.split()[1:3] for line in commands] == [
        ["datasets", "status"], ["datasets", "version"], ["datasets", "status"],
        ["kernels", "push"], ["kernels", "status"], ["kernels", "push"],
    ]  # fmt: skip
    assert kaggle.calls == []


def test_the_dataset_goes_alone_too(kit, kaggle):
    push_dataset(kit, KaggleCli(waiting=QUICK))
    assert {call[0] for call in kaggle.calls} == {"datasets"}


def test_the_placeholder_owner_is_refused(full_kit, checkout):
    with pytest.raises(TomopointError, match="still has the owner 'your-kaggle-name'"):
        check_kit(full_kit, checkout)


def test_a_kit_of_another_owner_is_refused(staged, owned):
    with pytest.raises(TomopointError, match=r"not what kernels/kernels\.toml says now"):
        check_kit(staged, owned)


def test_a_kit_without_third_party_wheels_is_refused(bare_kit, owned):
    with pytest.raises(DataError, match="no third-party wheels"):
        check_kit(bare_kit, owned)


def test_a_damaged_kit_is_refused(full_kit, owned, tmp_path):
    kit = Path(shutil.copytree(full_kit, tmp_path / "kit"))
    with (kit / "reference.npz").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(DataError, match=r"reference\.npz has"):
        check_kit(kit, owned)


def test_a_notebook_that_is_out_of_date_is_refused_before_the_first_call(kit, owned, kaggle, tmp_path):
    edited = Path(shutil.copytree(owned, tmp_path / "edited"))
    source = edited / "kernels/submit/submit.py"
    source.write_text(source.read_text() + "# more\n")
    with pytest.raises(TomopointError, match=r"submit\.ipynb is out of date; run `make kernels`"):
        push_all(kit, edited, KaggleCli(waiting=QUICK))
    assert kaggle.calls == []


def test_kaggles_limits():
    check_limits(MAX_DATASET_FILES, MAX_DATASET_BYTES)
    with pytest.raises(DataError, match="51 files"):
        check_limits(MAX_DATASET_FILES + 1, 1)
    with pytest.raises(DataError, match="200 GB in a dataset"):
        check_limits(1, MAX_DATASET_BYTES + 1)


def test_without_the_kaggle_command_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(TomopointError, match=r"pip install -e \.\[kaggle\]"):
        KaggleCli()


@pytest.mark.parametrize(
    ("answer", "state", "failure"),
    [
        ('a/b has status "KernelWorkerStatus.COMPLETE"', "complete", False),
        ('a/b has status "complete"', "complete", False),
        ('a/b has status "cancelAcknowledged"', "cancelacknowledged", True),
        ('a/b has status "KernelWorkerStatus.CANCEL_REQUESTED"', "cancel_requested", True),
        ("Warning: a newer version is available\nready", "ready", False),
        ("individual_blobs_compressed", "individual_blobs_compressed", False),
        ("failed", "failed", True),
        ("", "", False),
    ],
)
def test_states_of_every_version_of_the_command_are_read(answer, state, failure):
    assert state_in(answer) == state
    assert is_failure(state) is failure


def test_both_command_lines(full_kit, owned, kaggle):
    environment = {**os.environ, "PYTHONPATH": str(owned / "src")}

    def run(*words):
        done = subprocess.run(
            [sys.executable, *words, "--json"], cwd=owned, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    dry = run("build_dataset.py", "--push", str(full_kit), "--dry-run")
    assert [line.split()[2] for line in dry["commands"]] == ["status", "version", "status"]
    assert kaggle.calls == []
    real = run("-m", "tomopoint", "push", str(full_kit), "--poll-seconds", "0")
    assert (real["dataset"], real["submit_version"]) == (DATASET, 7)
    assert kaggle.calls[-1][:2] == ["kernels", "push"]
