"""Predictions on a Dask cluster of real processes: the bytes of one machine, whatever happens to the workers."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tomopoint.cluster.scheduler import connected
from tomopoint.errors import EngineError, TomopointError
from tomopoint.inference.command import predict
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.parts import PartOrigin
from tomopoint.inference.status import prediction_status
from tomopoint.inference.worker import Job

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'tomopoint[cluster]'")
Client = distributed.Client

PATIENCE_S = 300
"""For anything that must happen on a busy machine."""

TTL = "15s"
"""Scheduler's patience with a worker that says nothing: longer than a busy machine holds up a heartbeat."""

RESULTS = ("picks.csv", "submission.csv")


def command(project, model, out, cluster):
    words = ["predict", "--data", str(project.root), "--model", str(model), "--out", str(out), "--provider", "cpu"]
    return [sys.executable, "-m", "tomopoint", *words, "--cluster", cluster]


def started(words):
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": TTL, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen")


def worker_processes(parent):
    """Return the processes of a command that are Dask's workers."""
    children = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if ppid == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                children.append(int(folder.name))
        except (OSError, IndexError):  # it ended meanwhile
            continue
    return children


def events(out, kind):
    return [event for event in PredictionFolder(out).events() if event["event"] == kind]


def assert_same(out, alone):
    for name in RESULTS:
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name


@pytest.fixture
def alone(blob_project, slow_blob_model, tmp_path):
    """Return a project of eight runs, and what one machine, undisturbed, predicts of it."""
    project = blob_project(8)
    assert predict(data=project.root, model=slow_blob_model, out=tmp_path / "alone", provider="cpu").ok
    return project, tmp_path / "alone"


@pytest.fixture
def cluster(tmp_path):
    """Start a scheduler; yield its file, and what starts a worker of it, both as a person would."""
    file, processes = tmp_path / "scheduler.json", []

    def start(*words):
        environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": TTL, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "dask", *words, "--scheduler-file", file, "--dashboard-address", ":0"]
        output = (tmp_path / "dask.txt").open("a")
        one = subprocess.Popen(words, env=environment, stdout=output, stderr=output, start_new_session=True)
        output.close()
        processes.append(one)
        return one

    start("scheduler", "--host", "127.0.0.1", "--port", "0")
    wait_for(file.exists, "a scheduler")
    yield file, lambda: start("worker", "--nthreads", "1", "--local-directory", str(tmp_path))
    for one in processes:
        os.killpg(one.pid, signal.SIGKILL)
        one.wait()


def at_work(out, but=()):
    """Return a worker that has begun a run and not ended it, by its address; None where none has."""
    open_runs = {}
    for event in PredictionFolder(out).events():
        if event["event"] == "prediction":  # what an earlier call began nobody tells the end of
            open_runs.clear()
        elif event["event"] == "begun":
            open_runs[event["run"]] = event["worker"]
        elif event["event"] in ("done", "failed"):
            open_runs.pop(event["run"], None)
    return next((worker for worker in reversed(open_runs.values()) if worker not in but), None)


@pytest.mark.parametrize("n_runs", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_whatever_happens_to_workers_and_client_the_result_is_that_of_one_machine(
    n_runs, cluster, blob_project, blob_model, slow_blob_model, tmp_path
):
    """Of four workers two are killed and one is frozen, all at work; one comes late; the client is killed and goes on.

    Nothing waits for a frozen worker but what the scheduler is told to wait for those that are silent.
    """
    model, shape_zyx = (slow_blob_model, (40, 50, 60)) if n_runs < 100 else (blob_model, (32, 48, 48))
    project, out, alone = blob_project(n_runs, shape_zyx), tmp_path / "cluster", tmp_path / "alone"
    assert predict(data=project.root, model=model, out=alone, provider="cpu").ok
    file, add_worker = cluster
    for _ in range(4):
        add_worker()
    with Client(scheduler_file=str(file), set_as_default=False) as client:
        client.wait_for_workers(4, timeout=PATIENCE_S)
        pids = client.run(os.getpid)

    first = started(command(project, model, out, str(file)))
    struck = []
    for kind in (signal.SIGKILL, signal.SIGSTOP):
        worker = wait_for(lambda: at_work(out, struck), "a worker at work")
        os.kill(pids[worker], kind)
        struck.append(worker)
    wait_for(lambda: len(events(out, "done")) >= n_runs // 4, "a quarter of the runs")
    first.kill()
    first.communicate()
    n_before = len(list((out / "parts").glob("[!.]*.csv")))
    assert n_runs // 4 <= n_before < n_runs

    again = started(command(project, model, out, str(file)))
    wait_for(lambda: len(events(out, "prediction")) == 2, "a second start")
    worker = wait_for(lambda: (found := at_work(out, struck)) in pids and found, "a worker at work")
    os.kill(pids[worker], signal.SIGKILL)
    told = wait_for(lambda: (found := prediction_status(out)).in_work and found, "a run in work")
    assert told.is_held
    assert told.holder.startswith(f"process {again.pid} on {socket.gethostname()}, since ")
    assert {event.host for event in told.in_work} == {socket.gethostname()}
    assert told.n_done >= n_before
    late = add_worker()
    text, _ = again.communicate(timeout=PATIENCE_S * (1 + n_runs // 50))
    assert again.returncode == 0, text
    assert f"{n_runs} of {n_runs} runs predicted" in text
    assert late.poll() is None
    second = events(out, "prediction")[1]["runs"]
    assert n_runs - len(second) >= n_before - 1  # at most the part that was being renamed when they were counted
    assert {path.name for path in (out / "parts").iterdir()} == {f"{run.name}.csv" for run in project.runs}
    assert_same(out, alone)
    if n_runs < 100:  # of those that take milliseconds it may have had none at that moment
        assert worker in {event["worker"] for event in events(out, "died")}
    ended = prediction_status(out)
    assert (ended.is_held, ended.n_done, ended.in_work, ended.left, ended.failed) == (False, n_runs, (), (), {})
    assert ended.overall_rate > 0
    if n_runs >= 100:
        by_worker = {event["worker"] for event in events(out, "done")}
        assert len(by_worker - set(pids)) >= 1  # the late one, or those that nannies put in the place of the killed


def test_a_client_that_is_interrupted_goes_on_where_it_was(alone, slow_blob_model, tmp_path):
    project, expected = alone
    out = tmp_path / "cluster"
    process = started(command(project, slow_blob_model, out, "local:2"))
    wait_for(lambda: events(out, "done"), "a run done")
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM, text
    done = {path.stem for path in (out / "parts").glob("*.csv")}
    assert done
    again = subprocess.run(command(project, slow_blob_model, out, "local:2"), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert {event["run"] for event in events(out, "begun")} >= done
    assert_same(out, expected)


def test_a_run_that_cannot_be_read_fails_alone(blob_project, blob_model, tmp_path):
    project = blob_project(3)
    shutil.rmtree(project.runs[1].tomogram_path())
    result = predict(data=project.root, model=blob_model, out=tmp_path / "out", provider="cpu", cluster="local:1")
    assert not result.ok
    assert list(result.figures["not_done"]) == [project.runs[1].name]
    assert result.figures["n_picks"] == 6  # three blobs in each of the others
    assert len(events(tmp_path / "out", "failed")) == 2  # it was tried once more


LOADED, CLOSED = [], []


def load_and_tell(*given):
    engine, pipeline = load_engine(*given)
    close = engine.close
    engine.close = lambda: CLOSED.append(engine) or close()
    LOADED.append(engine)
    return engine, pipeline


def test_an_engine_that_is_dealt_nothing_is_closed_and_loaded_again(blob_project, blob_model, tmp_path, monkeypatch):
    """As where its prediction was killed, or hears of its next run late."""
    engine_plugin = pytest.importorskip("tomopoint.cluster.engine_plugin")
    monkeypatch.setattr(engine_plugin, "IDLE_SECONDS", 0.5)
    project, parts = blob_project(2), tmp_path / "parts"
    parts.mkdir()
    job = Job(blob_model, "cpu", None, 1, parts, PartOrigin("ab" * 32, "denoised"))
    here = {"n_workers": 1, "processes": False, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**here) as cluster, Client(cluster, set_as_default=False) as client:
        client.register_plugin(engine_plugin.EnginePlugin("idle", job, load_and_tell), name="idle")
        for n_before, run in enumerate(project.runs):
            future = client.submit(
                engine_plugin.predict_run, run, "idle", resources={engine_plugin.SLOT: 1}, pure=False
            )
            assert future.result(PATIENCE_S).message == ""
            wait_for(lambda n=n_before: len(CLOSED) == n + 1, "the engine's end")
    assert CLOSED == LOADED
    assert len({id(engine) for engine in LOADED}) == 2
    assert len(list(parts.iterdir())) == 2


def load_with(model_path, provider, threads, record_path):
    raise EngineError(f"{threads} threads")


def test_an_engine_takes_the_threads_of_its_worker(blob_project, blob_model, tmp_path):
    """Of one that was started as anybody starts one: its nanny says OMP_NUM_THREADS=1."""
    engine_plugin = pytest.importorskip("tomopoint.cluster.engine_plugin")
    (run,) = blob_project(1).runs
    job = Job(blob_model, "cpu", None, 0, tmp_path, PartOrigin("ab" * 32, "denoised"))
    options = {"n_workers": 1, "threads_per_worker": 3, "dashboard_address": ":0", "silence_logs": "ERROR"}
    with distributed.LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        client.register_plugin(engine_plugin.EnginePlugin("threads", job, load_with), name="threads")
        with pytest.raises(EngineError, match="has no engine: 3 threads"):
            client.submit(engine_plugin.predict_run, run, "threads", pure=False).result(PATIENCE_S)


@pytest.mark.parametrize("where", ["local", "local:0", "slurm", "slurm:5-2", "tcp://127.0.0.1:1", "/no/such/file.json"])
def test_what_is_no_cluster_is_refused(where, monkeypatch):
    monkeypatch.setattr("tomopoint.cluster.scheduler.CONNECT_SECONDS", 1)
    with pytest.raises(TomopointError, match=r"--cluster|jobs of slurm"), connected(where):
        pass


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is no scheduler file"),
        ('{"type": "Scheduler"}', "is no scheduler file .*it holds no address"),
        ('{"address": "tcp://127.0.0.1:1"}', "no scheduler answers there"),
    ],
)
def test_a_file_of_no_scheduler_is_refused(content, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr("tomopoint.cluster.scheduler.CONNECT_SECONDS", 1)
    (tmp_path / "scheduler.json").write_text(content)
    with pytest.raises(TomopointError, match=sentence), connected(str(tmp_path / "scheduler.json")):
        pass


def test_a_damaged_configuration_of_dask_is_named(tmp_path):
    (tmp_path / "jobqueue.yaml").write_text("jobqueue: {slurm: [")
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "from tomopoint.cluster.scheduler import connected\nwith connected('local:1'): pass"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "TomopointError: Dask's configuration cannot be read:" in done.stderr
    assert "jobqueue.yaml" in done.stderr


def test_the_limit_holds_before_there_is_a_worker(blob_project, blob_model, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, dashboard_address=":0", silence_logs="ERROR") as cluster:
        where = cluster.scheduler_address
        predict(data=blob_project(2).root, model=blob_model, out=tmp_path / "out", limit_hours=0.0005, cluster=where)
    warnings = [event["message"] for event in events(tmp_path / "out", "warning")]
    assert any("is reached before a worker was there" in message for message in warnings)
    assert (tmp_path / "out" / "submission.csv").read_text().splitlines() == ["id,experiment,particle_type,x,y,z"]


def test_how_one_machine_is_shared_is_no_matter_of_a_cluster(blob_project, blob_model, tmp_path):
    with pytest.raises(TomopointError, match="--workers is for one machine"):
        predict(data=blob_project(1).root, model=blob_model, out=tmp_path / "out", workers=2, cluster="local:1")


SLURM = {
    "cores": 4,
    "processes": 1,
    "memory": "32GB",
    "queue": "gpu",
    "walltime": "04:00:00",
    "job-extra-directives": ["--gres=gpu:1"],
    "job-script-prologue": ["source /shared/venv/bin/activate"],
    "interface": None,
}
"""As in docs/cluster.md, but for the network's interface."""


def test_the_job_script_for_slurm_says_what_the_configuration_says(tmp_path, monkeypatch):
    """No SLURM is here: an `sbatch` that keeps what it is given stands where the queue would be."""
    dask = pytest.importorskip("dask")
    kept = tmp_path / "script.sh"
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\ncp "$1" {kept}\necho Submitted batch job 7\n')
    (sbatch.parent / "scancel").write_text("#!/bin/sh\n")
    for program in sbatch.parent.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    with dask.config.set({"jobqueue.slurm": {**dask.config.get("jobqueue.slurm", {}), **SLURM}}), connected("slurm:1"):
        script = wait_for(lambda: kept.exists() and kept.read_text(), "a job submitted")
    lines = script.splitlines()
    for line in ("#SBATCH -p gpu", "#SBATCH -t 04:00:00", "#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=4"):
        assert line in lines
    assert "source /shared/venv/bin/activate" in lines
    assert "dask_worker" in lines[-1] or "dask worker" in lines[-1] or "distributed.cli.dask_worker" in lines[-1]
    assert "tcp://" in lines[-1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # dask-jobqueue's half-made cluster
def test_a_queue_without_a_configuration_names_what_it_lacks():
    with (
        pytest.raises(TomopointError, match=r"cores, memory, queue and walltime under jobqueue.slurm"),
        connected("slurm:1"),
    ):
        pass
