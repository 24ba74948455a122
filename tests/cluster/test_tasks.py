"""Tasks on a cluster of real worker processes: retried where processes die, named where they fail, ended with it."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from probe_tasks import Probe, Unreadable

from tomopoint.cluster.employment import employed, workers_of
from tomopoint.cluster.hiring import hired
from tomopoint.cluster.plugins import n_threads, offer
from tomopoint.cluster.task_crew import LOSSES
from tomopoint.cluster.task_plugin import TaskPlugin
from tomopoint.tasks.process import ProcessDied, TaskProcess
from tomopoint.tasks.task import Failed, carried_out, carry_out_all

PATIENCE_S = 120
"""For anything that must happen on a busy machine."""


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_of(probe):
    """Return the numbers of the processes that began a task, each with that of its worker; none before the first."""
    if not probe.begun.exists():
        return []
    return [tuple(map(int, line.split())) for line in probe.begun.read_text().splitlines()]


def test_tasks_come_back_by_name_and_a_failing_one_fails_alone(two_workers, tmp_path):
    kinds = {"a": "nothing", "b": "refuse", "c": "break", "d": "die", "e": "nothing"}
    probes = [Probe(label, tmp_path, does) for label, does in kinds.items()]
    with hired(two_workers.scheduler_address, "cpu") as crew:
        answers = {task.label: answer for task, answer in carried_out(probes, crew)}
    assert (answers["a"], answers["e"]) == ("A", "E")
    assert answers["b"] == Failed("this cannot be done")
    assert "ZeroDivisionError: a bug; see" in answers["c"].reason
    assert "ZeroDivisionError: a bug" in (tmp_path / "c.txt").read_text()
    assert "SIGKILL: most likely out of memory" in answers["d"].reason
    assert "the last of 3 times; run the same command again" in answers["d"].reason
    assert [len(processes_of(probe)) for probe in probes] == [1, 1, 1, 3, 1]


def test_a_task_whose_worker_is_killed_is_done_by_another(two_workers, tmp_path):
    wait = tmp_path / "wait"
    wait.touch()
    probe = Probe("a", tmp_path)
    with hired(two_workers.scheduler_address, "cpu") as crew:
        crew.begin(probe)
        ((pid, worker),) = wait_for(lambda: processes_of(probe), "a task begun")
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: len(processes_of(probe)) == 2, "the task begun again")
        wait_for(lambda: not is_alive(pid), "the end of the process whose worker is gone")
        wait.unlink()
        assert list(crew.ended(PATIENCE_S)) == [(probe, "A")]
    assert processes_of(probe)[1][1] != worker


def test_a_worker_that_retires_costs_a_task_none_of_its_tries(tmp_path):
    """A job near the end of its time, with --lifetime: however often, the task goes on elsewhere."""
    from distributed import LocalCluster

    wait = tmp_path / "wait"
    wait.touch()
    probe = Probe("a", tmp_path)
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": "ERROR"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, **options) as cluster,
        hired(cluster.scheduler_address, "cpu") as crew,
    ):
        crew.begin(probe)
        ((pid, worker),) = wait_for(lambda: processes_of(probe), "a task begun")
        (address,) = (a for a, process in crew.client.run(os.getpid).items() if process == worker)
        crew.client.retire_workers([address])
        wait_for(lambda: len(processes_of(probe)) == 2, "the task begun again")
        wait_for(lambda: not is_alive(pid), "the end of the process whose worker retired")
        wait.unlink()
        assert list(crew.ended(PATIENCE_S)) == [(probe, "A")]


def test_workers_that_die_over_a_task_are_its_failure(tmp_path):
    from distributed import LocalCluster

    (tmp_path / "wait").touch()
    probe = Probe("a", tmp_path)
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": "ERROR"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, **options) as cluster,
        hired(cluster.scheduler_address, "cpu") as crew,
    ):
        crew.begin(probe)
        os.kill(wait_for(lambda: processes_of(probe), "a task begun")[0][1], signal.SIGKILL)
        ((task, answer),) = crew.ended(PATIENCE_S)
        assert task == probe
        assert "1 workers that were at it died" in answer.reason
        assert "run the same command again to go on" in answer.reason


def test_a_task_that_no_worker_lives_to_begin_is_given_up(tmp_path):
    from distributed import LocalCluster

    task = Unreadable("a", tmp_path)
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": "CRITICAL"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, **options) as cluster,
        hired(cluster.scheduler_address, "cpu") as crew,
    ):
        ((given_up, answer),) = carried_out([task], crew)
    assert given_up == task
    assert "workers that were at it died" in answer.reason
    assert len(task.deaths.read_text()) == LOSSES + 1


def test_what_is_stopped_or_left_behind_is_ended(two_workers, tmp_path):
    (tmp_path / "wait").touch()
    stopped, left = Probe("stopped", tmp_path), Probe("left", tmp_path)
    with hired(two_workers.scheduler_address, "cpu") as crew:
        crew.begin(stopped)
        crew.begin(left)
        pids = {
            probe.label: wait_for(lambda p=probe: processes_of(p), "a task begun")[0][0] for probe in (stopped, left)
        }
        crew.stop(stopped)
        wait_for(lambda: not is_alive(pids["stopped"]), "the end of a task that was stopped")
        assert is_alive(pids["left"])
        assert crew.at_work == [left]
    wait_for(lambda: not is_alive(pids["left"]), "the end of a task that was left behind")


CLIENT = """
import sys
from pathlib import Path
from probe_tasks import Probe, Unreadable
from tomopoint.cluster.employment import employed, workers_of
from tomopoint.cluster.hiring import hired
from tomopoint.cluster.plugins import n_threads, offer
from tomopoint.cluster.task_crew import LOSSES
from tomopoint.cluster.task_plugin import TaskPlugin
from tomopoint.tasks.task import carry_out_all

if __name__ == "__main__":
    with hired(sys.argv[1], "cpu") as crew:
        carry_out_all([Probe(name, Path(sys.argv[2])) for name in "ab"], crew, "try")
"""


@pytest.mark.parametrize(
    ("where", "how", "to", "status"),
    [
        ("two workers", signal.SIGINT, os.kill, -signal.SIGINT),
        ("two workers", signal.SIGKILL, os.kill, -signal.SIGKILL),
        ("local:2", signal.SIGINT, os.killpg, -signal.SIGINT),  # Ctrl-C in a terminal reaches the workers as well
        ("local:2", signal.SIGKILL, os.kill, -signal.SIGKILL),
    ],
)
def test_a_client_that_ends_leaves_nothing_running(where, how, to, status, two_workers, tmp_path):
    (tmp_path / "wait").touch()
    address = where if where.startswith("local") else two_workers.scheduler_address
    words = [sys.executable, "-c", CLIENT, address, str(tmp_path)]
    client = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
    probes = [Probe(name, tmp_path) for name in "ab"]
    wait_for(lambda: all(processes_of(probe) for probe in probes), "both tasks begun")
    to(client.pid, how)
    assert client.wait(PATIENCE_S) == status
    for process, worker in (processes_of(probe)[0] for probe in probes):
        wait_for(lambda p=process: not is_alive(p), "the end of its tasks")
        if where.startswith("local"):
            wait_for(lambda p=worker: not is_alive(p), "the end of its workers")


def test_a_worker_that_comes_late_gets_what_waits_one_at_a_time(tmp_path, caplog):
    """Adaptive clusters begin with none, and Dask asks a worker what it can do before it knows."""
    from distributed import LocalCluster

    wait = tmp_path / "wait"
    wait.touch()
    probes = [Probe(name, tmp_path) for name in "abc"]
    caplog.set_level(logging.INFO, "tomopoint")
    with (
        LocalCluster(n_workers=0, threads_per_worker=4, dashboard_address=":0", silence_logs=False) as cluster,
        hired(cluster.scheduler_address, "cpu") as crew,
    ):
        for probe in probes:
            crew.begin(probe)
        assert not list(crew.ended(0.5))
        cluster.scale(1)
        wait_for(lambda: any(processes_of(probe) for probe in probes), "a task begun")
        time.sleep(1.0)
        assert caplog.text.count(" begins at ") == 1  # though it has threads for more
        wait.unlink()
        answers = []
        wait_for(lambda: answers.extend(crew.ended(1.0)) or len(answers) == 3, "the end of all tasks")
    assert {task.label: answer for task, answer in answers} == {"a": "A", "b": "B", "c": "C"}


def test_a_gpu_is_asked_for_where_there_is_one(tmp_path):
    """A worker that says it has a GPU gets all tasks, unless a CPU is asked for."""
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": "ERROR"}
    with LocalCluster(n_workers=2, **options) as cluster:
        address, *_ = cluster.scheduler.workers
        with hired(cluster.scheduler_address, "auto") as crew:
            crew.client.run(_declare_gpu, workers=[address])
            probes = [Probe(name, tmp_path) for name in "abcd"]
            assert carry_out_all(probes, crew, "try") == {}
    assert len({processes_of(probe)[0][1] for probe in probes}) == 1


def test_a_process_ends_whose_worker_is_frozen(tmp_path):
    """A worker that is stopped lets nobody know that it lives; its task is given to another by then."""
    (tmp_path / "wait").touch()
    probe = Probe("a", tmp_path)
    process = TaskProcess(patience=3.0)
    process.begin(probe)
    for _ in range(60):
        process.beat()
        time.sleep(0.1)
    assert is_alive(process.pid)  # twice its patience, while it is told
    with pytest.raises(ProcessDied, match=f"exit status 1.*last words are in {probe.log}"):
        process.answer()


async def _declare_gpu(dask_worker):
    await dask_worker.set_resources(GPU=1)


def test_a_process_that_ended_while_it_had_no_task_costs_the_next_task_no_try(two_workers, tmp_path):
    """As one does whose worker has nothing for it for a minute."""
    first, *others = (Probe(label, tmp_path) for label in "abcd")
    with hired(two_workers.scheduler_address, "cpu") as crew:
        assert carry_out_all([first], crew, "try") == {}
        ((pid, _),) = processes_of(first)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not is_alive(pid), "the end of a process")
        assert carry_out_all(others, crew, "try") == {}
    assert [len(processes_of(probe)) for probe in others] == [1, 1, 1]


def test_a_worker_computes_with_its_own_threads_whatever_the_nanny_says_and_retires_undisturbed():
    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 3, "dashboard_address": ":0", "silence_logs": "ERROR"}
    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster, set_as_default=False) as client:
        ((said, threads),) = client.run(_threads).values()
        assert (said, threads) == ("1", 3)
        assert list(client.run(_listed_threads).values()) == [5]
        assert list(client.run(_offer_while, status="running").values()) == ["running"]
        assert list(client.run(_offer_while, status="closing_gracefully").values()) == ["closing_gracefully"]


def _threads(dask_worker):
    return os.environ["OMP_NUM_THREADS"], n_threads(dask_worker)


def _listed_threads(dask_worker):
    os.environ["OMP_NUM_THREADS"] = "5,2"
    return n_threads(dask_worker)


async def _offer_while(dask_worker, status):
    dask_worker._status = type(dask_worker.status)[status]  # alone: nothing is begun that follows from it
    await offer(dask_worker, {f"probe-{status}": 1})
    return dask_worker.status.name


def test_commands_on_one_scheduler_hear_of_their_own_tasks_only(two_workers, tmp_path):
    with (
        hired(two_workers.scheduler_address, "cpu") as first,
        hired(two_workers.scheduler_address, "cpu") as second,
    ):
        for crew, label in ((first, "a"), (second, "b")):
            assert [answer for _, answer in carried_out([Probe(label, tmp_path)], crew)] == [label.upper()]
        wait_for(lambda: first._heard and second._heard, "news of both tasks")
        assert {key.split("-")[0] for key in first._heard} == {"a"}
        assert {key.split("-")[0] for key in second._heard} == {"b"}


def test_workers_are_known_whatever_the_client_remembers(two_workers):
    """A look of the client's own at the scheduler, which leaves workers out, may come in between at any time."""
    from distributed import Client

    with Client(two_workers.scheduler_address, set_as_default=False) as client:

        async def look_without_workers(n_workers=0):
            client._scheduler_identity = {**client._scheduler_identity, "workers": {}}

        client._update_scheduler_info = look_without_workers
        assert len(workers_of(client)) == 2
    assert workers_of(client) is None


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), ValueError("a bug")])
def test_why_a_command_ends_is_not_hidden_by_a_cluster_that_is_gone(reason):
    from distributed import Client, LocalCluster

    options = {"n_workers": 1, "dashboard_address": ":0", "silence_logs": "ERROR"}
    with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        with pytest.raises(type(reason)) as raised:
            _lose(client, reason)
        assert raised.value is reason


def _lose(client, reason):
    futures = {}
    with employed(client, TaskPlugin("probe", Path.cwd()), print, futures):
        futures[client.submit(time.sleep, 60)] = None
        client.close()
        raise reason
