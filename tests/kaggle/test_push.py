"""Pushing to Kaggle, with an executable called ``kaggle`` that notes its arguments and answers as the real one does.

The answers are those in the source of kaggle 2.2.4. Kaggle itself is not reached.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from tomopoint.errors import DataError, TomopointError
from tomopoint.export.cost import (
    COMPETITION,
    ONNX_RUNTIME_BYTES_PER_S,
    ONNX_RUNTIME_FLOP_PER_S,
    TENSORRT_FLOP_PER_S,
    measured_hours,
)
from tomopoint.files import sha256_of
from tomopoint.inference.cost import GraphCost, n_windows
from tomopoint.inference.engines.graph_metadata import COST_KEY
from tomopoint.inference.reference import REFERENCE_NAME, Reference
from tomopoint.kaggle.cli import KaggleCli, Waiting, is_failure, state_in
from tomopoint.kaggle.command import stage
from tomopoint.kaggle.dataset import stage_dataset
from tomopoint.kaggle.home import kaggle_home
from tomopoint.kaggle.manifest import KitFile, Manifest
from tomopoint.kaggle.notebooks import write_kernels
from tomopoint.kaggle.push import (
    MAX_DATASET_BYTES,
    MAX_DATASET_FILES,
    WAIT_MINUTES,
    check_kit,
    check_limits,
    push_all,
    push_dataset,
    push_submit,
)

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

TEN_NETWORKS = GraphCost(
    window_zyx=(192, 128, 128),
    n_networks=10,
    precision="fp16",
    flop=12.85e12,
    unfused_bytes=227e9,
    convolution_bytes=22e9,
    peak_activation_bytes=1.2e9,
    weight_bytes=0.5e9,
)
"""Five SegResNets and five DynUNets, counted from their graph."""

GOOD = {
    "config view": [{"out": f"Configuration values from /home/x/.kaggle\n- username: {OWNER}\n- auth_method: OAUTH\n"}],
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
        keys = {
            "login": "config view",
            "create": "datasets create",
            "version": "datasets version",
            "push": "kernels push",
            "dataset": f"datasets status {DATASET}",
            "engine": f"kernels status {ENGINE}",
        }
        answers = {**GOOD, **{keys[name]: list(given) for name, given in changes.items()}}
        (self.folder / "answers.json").write_text(json.dumps(answers))

    @property
    def calls(self):
        """Every call but the question who is logged in, which is asked even in a dry run."""
        path = self.folder / "calls.jsonl"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in calls if call != ["config", "view"]]


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
    shutil.copy(kaggle_home() / "build_dataset.py", copy)
    return copy


def with_cost(exported, folder, cost):
    """Copy an export; let the graph say that it costs as much as `cost`, or let it say nothing (None)."""
    graph = onnx.load(exported.path)
    kept = [entry for entry in graph.metadata_props if entry.key != COST_KEY]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    if cost is not None:
        graph.metadata_props.add(key=COST_KEY, value=cost.to_json())
    path = folder / exported.path.name
    onnx.save(graph, path)
    reference = Reference.load(exported.reference_path)
    replace(reference, onnx_sha256=sha256_of(path)).save(folder / REFERENCE_NAME)
    return path


def add_wheel(kit, name, version):
    """Put an empty wheel of that name into a kit."""
    wheel = kit / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
    manifest = json.loads((kit / "manifest.json").read_text())
    manifest["files"][wheel.name] = vars(KitFile.of(wheel))
    manifest["install"].append(f"{name}=={version}")
    (kit / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def bare_kit(exported, owned, tmp_path_factory):
    """Return a kit of that user without third-party wheels, of a graph that takes no time worth mentioning."""
    folder = tmp_path_factory.mktemp("push")
    tiny = replace(TEN_NETWORKS, flop=1e6, unfused_bytes=1e6)
    stage_dataset(with_cost(exported, folder, tiny), folder / "kit", owned)
    return folder / "kit"


@pytest.fixture(scope="module")
def full_kit(bare_kit, tmp_path_factory):
    """Return the kit with one third-party wheel (of that name, and empty)."""
    kit = Path(shutil.copytree(bare_kit, tmp_path_factory.mktemp("full") / "kit"))
    add_wheel(kit, "zarr", "3.1.6")
    return kit


@pytest.fixture(scope="module")
def slow_kit(exported, owned, tmp_path_factory):
    """Return a kit whose graph is estimated to need 9 h with TensorRT and 16 h without."""
    folder = tmp_path_factory.mktemp("slow")
    n = n_windows(exported.pipeline, COMPETITION.shape_zyx)
    host_s = 3600 * measured_hours(0.0, exported.pipeline) / (COMPETITION.tomograms_per_gpu + 1)
    spare_s = (3600 * 9.0 - host_s) / COMPETITION.tomograms_per_gpu  # of the last one it comes on top
    flop = spare_s / n * TENSORRT_FLOP_PER_S["fp16"]
    unfused = 7 * 3600 / COMPETITION.tomograms_per_gpu / n * ONNX_RUNTIME_BYTES_PER_S
    unfused += (flop / TENSORRT_FLOP_PER_S["fp16"] - flop / ONNX_RUNTIME_FLOP_PER_S["fp16"]) * ONNX_RUNTIME_BYTES_PER_S
    cost = replace(TEN_NETWORKS, flop=flop, unfused_bytes=unfused, window_zyx=exported.pipeline.tiling.window_zyx)
    stage_dataset(with_cost(exported, folder, cost), folder / "kit", owned)
    add_wheel(folder / "kit", "zarr", "3.1.6")
    return folder / "kit"


@pytest.fixture
def kit(full_kit, owned, kaggle):
    return check_kit(full_kit, owned, KaggleCli())


def _push(kit, owned):
    cli = KaggleCli(waiting=QUICK)
    return push_all(kit, owned, cli), cli.lines


def test_dataset_engine_and_submit_go_in_this_order_and_each_waits_for_the_last(kit, owned, kaggle):
    submit_version, lines = _push(kit, owned)
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
    assert submit_version == 7
    assert lines[-1] == "kaggle " + " ".join(kaggle.calls[-1])


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
    with pytest.raises(TomopointError, match=r"not done after 1e-09 minutes .*RUNNING") as error:
        push_all(kit, owned, KaggleCli(waiting=no_time))
    assert f"`tomopoint push {kit.folder} --only submit`" in str(error.value)
    assert WAIT_MINUTES == 12 * 60  # the ten hours of the notebook and two of Kaggle's queue
    assert kaggle.calls[-1] == ["kernels", "status", ENGINE]


def test_the_submit_notebook_goes_alone_once_the_engine_notebook_is_complete(kit, owned, kaggle):
    running, complete = GOOD[f"kernels status {ENGINE}"][1:]
    for answer in (running, {"out": f'{ENGINE} has status "KernelWorkerStatus.ERROR"\n'}, {"err": "403", "status": 1}):
        kaggle.answer(engine=[answer])
        with pytest.raises(TomopointError, match=f"{ENGINE}, whose output the submit notebook needs, is not complete"):
            push_submit(kit, owned, KaggleCli())
        assert {call[1] for call in kaggle.calls} == {"status"}
    kaggle.answer(engine=[complete])
    assert push_submit(kit, owned, KaggleCli()) == 7
    assert kaggle.calls[-2:] == [
        ["kernels", "status", ENGINE],
        ["kernels", "push", "-p", str(owned / "kernels/submit"), "--accelerator", "NvidiaTeslaT4"],
    ]
    dry = KaggleCli(dry_run=True)
    assert push_submit(kit, owned, dry) is None
    assert [line.split()[1:3] for line in dry.lines] == [
        ["kernels", "status"],
        ["kernels", "push"],
    ]
    assert len(kaggle.calls) == 5


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
    cli = KaggleCli(dry_run=True)
    push_all(kit, owned, cli)
    assert [line.split()[1:3] for line in cli.lines] == [
        ["datasets", "status"], ["datasets", "version"], ["datasets", "status"],
        ["kernels", "push"], ["kernels", "status"], ["kernels", "push"],
    ]  # fmt: skip
    assert kaggle.calls == []


def test_the_dataset_goes_alone_too(kit, kaggle):
    push_dataset(kit, KaggleCli(waiting=QUICK))
    assert {call[0] for call in kaggle.calls} == {"datasets"}


def causes(folder, checkout, cli=None, **options):
    """Return why a kit is not pushed."""
    with pytest.raises(TomopointError) as error:
        check_kit(folder, checkout, cli or KaggleCli(), **options)
    first, *found = str(error.value).split("\n- ")
    assert first == (f"not pushed, {len(found)} causes:" if len(found) > 1 else "not pushed, 1 cause:")
    return found


def test_the_placeholder_owner_is_refused(staged, checkout, kaggle):
    owner = causes(staged, checkout, over_time=True)[0]
    assert owner.startswith("kernels/kernels.toml still has the owner 'your-kaggle-name'")


def test_a_kit_of_another_owner_is_refused(staged, owned, kaggle):
    assert any("not what kernels/kernels.toml says now" in cause for cause in causes(staged, owned))


def test_a_kit_without_third_party_wheels_is_refused(bare_kit, owned, kaggle):
    (cause,) = causes(bare_kit, owned)
    assert "no third-party wheels" in cause


def test_a_damaged_kit_is_refused(full_kit, owned, kaggle, tmp_path):
    kit = Path(shutil.copytree(full_kit, tmp_path / "kit"))
    with (kit / "reference.npz").open("ab") as stream:
        stream.write(b"x")
    (cause,) = causes(kit, owned)
    assert "reference.npz has" in cause


def test_what_cannot_be_read_is_said_once(owned, kaggle, tmp_path, full_kit):
    assert [cause.split(" (")[0] for cause in causes(tmp_path, owned)] == [
        f"cannot read {tmp_path}/manifest.json",
        f"cannot read {tmp_path}/dataset-metadata.json",
        f"cannot read {tmp_path}/ensemble.onnx",
    ]
    kit = Path(shutil.copytree(full_kit, tmp_path / "kit"))
    (kit / "dataset-metadata.json").write_text("{")
    (cause,) = causes(kit, owned)
    assert "dataset-metadata.json is no metadata file" in cause


def test_notebooks_that_are_out_of_date_are_named_together(full_kit, owned, kaggle, tmp_path):
    edited = Path(shutil.copytree(owned, tmp_path / "edited"))
    for name in ("submit", "build_engine"):
        source = edited / f"kernels/{name}/{name}.py"
        source.write_text(source.read_text() + "# more\n")
    (cause,) = causes(full_kit, edited)
    for name in ("submit", "build_engine"):
        assert f"kernels/{name}/{name}.ipynb" in cause
    assert cause.endswith("run `tomopoint kernels`")
    check_kit(full_kit, edited, KaggleCli(), with_kernels=False)  # the dataset alone does not need them


def test_every_cause_is_listed_at_once(slow_kit, checkout, kaggle, tmp_path):
    """A new user's first `make push DRY=1`: nothing was set up."""
    edited = Path(shutil.copytree(checkout, tmp_path / "edited"))
    source = edited / "kernels/submit/submit.py"
    source.write_text(source.read_text() + "# more\n")
    kit = Path(shutil.copytree(slow_kit, tmp_path / "kit"))
    manifest = json.loads((kit / "manifest.json").read_text())
    for name in [name for name in manifest["files"] if name.startswith("zarr")]:
        del manifest["files"][name]
    manifest["install"] = [name for name in manifest["install"] if not name.startswith("zarr")]
    manifest["files"] |= {f"extra-{number}.whl": {"sha256": "0" * 64, "bytes": 1} for number in range(50)}
    (kit / "manifest.json").write_text(json.dumps(manifest))
    kaggle.answer(login=[{"out": "Authentication required to call the Kaggle API.\n", "status": 1}])
    found = causes(kit, edited, KaggleCli(dry_run=True))
    for text in (
        "still has the owner 'your-kaggle-name'",
        "extra-0.whl is missing",
        "dataset-metadata.json is not what kernels/kernels.toml says now",
        "no third-party wheels",
        "Kaggle takes 50 files",
        "16.0 h are estimated",
        "out of date: ",
        "not logged in; run `kaggle auth login`",
    ):
        assert sum(text in cause for cause in found) == 1, text
    assert len(found) == 8
    assert kaggle.calls == []


def test_kaggles_limits():
    check_limits([MAX_DATASET_BYTES] + (MAX_DATASET_FILES - 1) * [0])
    with pytest.raises(DataError, match="51 files"):
        check_limits((MAX_DATASET_FILES + 1) * [1])
    with pytest.raises(DataError, match="200 GB in a dataset"):
        check_limits([MAX_DATASET_BYTES, 1])


def test_without_the_kaggle_command_it_says_how_to_get_it(full_kit, owned, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for dry_run in (True, False):
        (cause,) = causes(full_kit, owned, KaggleCli(dry_run))
        assert "pip install 'tomopoint[kaggle]'" in cause


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"out": "- username: another-one\n"}, f"logged in as 'another-one', kernels/kernels.toml says '{OWNER}'"),
        ({"err": "ConnectionError: Failed to resolve", "status": 1}, "cannot say who is logged in:\nConnectionError"),
    ],
)
def test_who_is_logged_in_is_asked_first(full_kit, owned, kaggle, answer, sentence):
    kaggle.answer(login=[answer])
    (cause,) = causes(full_kit, owned)
    assert sentence in cause


def test_a_kit_that_takes_too_long_is_refused_with_what_would_help_unless_told_otherwise(slow_kit, owned, kaggle):
    (cause,) = causes(slow_kit, owned)
    assert "16.0 h are estimated for 500 tomograms with ONNX Runtime CUDA, above 10 h" in cause
    assert "TensorRT in the kit (`tomopoint wheels`): 9.0 h instead of 16.0 h" in cause
    assert "--over-time" in cause
    assert "fewer networks: of 10, 6 with ONNX Runtime CUDA fit into 10 h" in cause
    kit = check_kit(slow_kit, owned, KaggleCli(), over_time=True)
    assert "TensorRT's libraries are not in it, which costs 7.0 h" in kit.hours.text
    assert kit.hours.hours == pytest.approx(16.0)


def test_staging_says_the_hours_warns_above_ten_and_keeps_them_in_the_manifest(slow_kit, owned, kaggle):
    time = Manifest.load(slow_kit).time
    assert (time["runtime"], time["hours"]) == ("onnxruntime-cuda", 16.0)
    assert {runtime: entry["hours"] for runtime, entry in time["projections"].items()} == {
        "tensorrt": 9.0,
        "onnxruntime-cuda": 16.0,
    }
    result = stage(check=slow_kit)
    assert "TensorRT 9.0 h (at 9 TFLOP/s); ONNX Runtime CUDA 16.0 h" in result.text
    assert "warning: 16.0 h are estimated" in result.text
    assert result.figures["time"] == time


def test_with_tensorrts_libraries_in_the_kit_its_hours_count_and_with_rtx_alone_they_do_not(
    slow_kit, owned, kaggle, tmp_path
):
    kit = Path(shutil.copytree(slow_kit, tmp_path / "kit"))
    add_wheel(kit, "tensorrt_rtx_cu12_libs", "1.7.1.116")
    (cause,) = causes(kit, owned)
    assert "16.0 h are estimated" in cause
    rtx = check_kit(kit, owned, KaggleCli(), over_time=True).hours
    assert rtx.runtime == "onnxruntime-cuda"
    assert "TensorRT-RTX is in it and is tried on the card, but was never run on a T4" in rtx.text
    add_wheel(kit, "tensorrt_cu12_libs", "10.16.1.11")
    classic = check_kit(kit, owned, KaggleCli()).hours
    assert (classic.runtime, classic.hours) == ("tensorrt", pytest.approx(9.0))
    assert "ONNX Runtime takes 16.0 h" in classic.text


def test_the_same_graph_in_fp32_is_above_the_limit_and_one_that_counted_nothing_is_refused(
    exported, owned, kaggle, tmp_path
):
    n = n_windows(exported.pipeline, COMPETITION.shape_zyx)
    flop = 4 * 3600 / COMPETITION.tomograms_per_gpu / n * TENSORRT_FLOP_PER_S["fp16"]  # 4 h of TensorRT
    for precision, ok in (("fp16", True), ("fp32", False)):
        folder = tmp_path / precision
        folder.mkdir()
        cost = replace(TEN_NETWORKS, flop=flop, unfused_bytes=1e9, precision=precision)
        stage_dataset(with_cost(exported, folder, cost), folder / "kit", owned)
        add_wheel(folder / "kit", "tensorrt_cu12_libs", "10.16.1.11")
        if ok:
            check_kit(folder / "kit", owned, KaggleCli())
        else:
            (cause,) = causes(folder / "kit", owned)
            assert "export with --precision fp16" in cause
    (tmp_path / "old").mkdir()
    old = tmp_path / "old" / "kit"
    stage_dataset(with_cost(exported, tmp_path / "old", None), old, owned)
    add_wheel(old, "zarr", "3.1.6")
    (cause,) = causes(old, owned)
    assert "does not say what it costs: export and stage it again" in cause
    assert check_kit(old, owned, KaggleCli(), over_time=True).hours is None


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
    assert real["time"]["runtime"] == "onnxruntime-cuda"
    assert kaggle.calls[-1][:2] == ["kernels", "push"]


def test_a_dry_run_on_the_command_line_ends_with_its_causes_and_says_what_pins_the_image(
    slow_kit, full_kit, owned, kaggle
):
    environment = {**os.environ, "PYTHONPATH": str(owned / "src")}

    def run(*words):
        words = [sys.executable, "-m", "tomopoint", "push", *words, "--dry-run"]
        return subprocess.run(words, cwd=owned, env=environment, capture_output=True, text=True, check=False)

    refused = run(str(slow_kit))
    assert refused.returncode == 1
    assert "not pushed, 1 cause:\n- 16.0 h" in refused.stderr
    forced = run(str(slow_kit), "--over-time")
    assert forced.returncode == 0, forced.stderr
    assert "this kit: 16.0 h" in forced.stdout
    fine = run(str(full_kit))
    assert f"kaggle kernels pull {ENGINE} -m" in fine.stdout
    alone = run(str(full_kit), "--only", "submit")
    assert "kernels push" in alone.stdout
    assert "datasets" not in alone.stdout
    assert 'Invalid value "engine" for --only. Choose from: "submit".' in run(str(full_kit), "--only", "engine").stderr
    assert kaggle.calls == []
