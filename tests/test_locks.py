"""Locks on shared folders, held and lost by real processes; other machines by what they would leave in the folder."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from tomopoint import locks
from tomopoint.errors import TomopointError
from tomopoint.locks import LOCK, Holder, LockLost, Pace, _me, alone_in, is_held, locked, look

QUICK = Pace(beat=0.2, stale=1.0, watch=1.0)
"""Where a holder is dead or stopped; a living one could be held up for longer on a busy machine."""

ELSEWHERE = Holder("node7", 4711, "another boot", 12, 1_790_000_000.0)

PATIENCE_S = 120
"""For anything that must happen on a busy machine."""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / LOCK


@pytest.fixture
def process():
    """Start Python processes that say a line at a time; none outlives the test."""
    started = []

    def start(code, *words):
        lines = "import sys, time, os\nfrom pathlib import Path\nfrom tomopoint.locks import *\n" + code
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        one = subprocess.Popen([sys.executable, "-u", "-c", lines, *map(str, words)], text=True, **pipes)
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


HOLD = """
with locked(Path(sys.argv[1]), pace=Pace(*map(float, sys.argv[2:]))) as lock:
    print("held")
    for line in sys.stdin:
        try:
            lock.check()
            Path(sys.argv[1]).with_name("shared").write_text(line)
            print("written")
        except LockLost as error:
            print("lost", error)
"""


def hold(process, lock, pace=QUICK):
    holder = process(HOLD, lock, *asdict(pace).values())
    assert holder.stdout.readline() == "held\n"
    return holder


def leave(lock, holder=ELSEWHERE, age=0.0):
    """Leave a lock that was beaten some seconds ago."""
    lock.mkdir()
    file = lock / "0123456789abcdef"
    file.write_text(holder if isinstance(holder, str) else json.dumps(asdict(holder)))
    os.utime(file, (time.time() - age,) * 2)
    return file


def test_a_living_holder_keeps_others_out_and_is_named(process, tmp_path, lock):
    holder = hold(process, lock)
    with locked(lock, wait=False) as mine:
        assert mine is None
    assert is_held(lock)
    who = (
        rf"somebody works in {tmp_path}: process {holder.pid} on {socket.gethostname()}, since \d\d:\d\d:\d\d; wait for"
    )
    with pytest.raises(TomopointError, match=who), alone_in(tmp_path, "somebody"):
        pass
    assert sorted(tmp_path.iterdir()) == [lock]


def test_what_is_given_back_leaves_nothing_and_is_free(process, tmp_path, lock):
    holder = hold(process, lock)
    holder.communicate()
    assert list(tmp_path.iterdir()) == []
    for _ in range(3):
        with alone_in(tmp_path) as mine:
            mine.check()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free_at_once(process, lock):
    """Its heartbeat is young, so that without a look at the process it would be refused."""
    holder = hold(process, lock, Pace())
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # nobody has asked for its status: it is still listed
    assert not is_held(lock)
    with locked(lock, wait=False) as mine:
        assert mine is not None


def test_a_process_of_the_same_number_is_not_the_holder(lock):
    leave(lock, replace(_me(), began=_me().began - 1))
    with locked(lock, wait=False) as mine:
        assert mine is not None


COUNT = """
folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
print("ready")
sys.stdin.readline()
for _ in range(rounds):
    with locked(folder / ".lock", pace=Pace(beat=0.05)) as lock:
        count = int((folder / "count").read_text())
        time.sleep(0.005)
        (folder / "count").write_text(str(count + 1))
"""


def test_of_many_takers_of_a_dead_lock_one_at_a_time_holds_it(process, tmp_path, lock):
    """Four processes add ones to a number, which loses some where two do it at a time."""
    dead = hold(process, lock, Pace())
    dead.kill()
    dead.wait()
    (tmp_path / "count").write_text("0")
    takers = [process(COUNT, tmp_path, 20) for _ in range(4)]
    for taker in takers:
        assert taker.stdout.readline() == "ready\n"
    for taker in takers:
        taker.stdin.write("go\n")
        taker.stdin.flush()
    for taker in takers:
        assert taker.wait(PATIENCE_S) == 0
    assert (tmp_path / "count").read_text() == "80"
    assert list(tmp_path.iterdir()) == [tmp_path / "count"]


TAKE = """
print("ready")
sys.stdin.readline()
with locked(Path(sys.argv[1]), wait=False, pace=Pace(beat=0.1, stale=1, watch=0.3)) as lock:
    print("mine" if lock else "theirs")
    sys.stdin.readline()
"""


@pytest.mark.parametrize("attempt", range(3))
def test_of_two_that_take_over_a_silent_lock_one_wins(attempt, process, lock):
    leave(lock, age=1000)
    takers = [process(TAKE, lock) for _ in range(2)]
    for taker in takers:
        assert taker.stdout.readline() == "ready\n"
    for taker in takers:
        taker.stdin.write("go\n")
        taker.stdin.flush()
    assert sorted(taker.stdout.readline() for taker in takers) == ["mine\n", "theirs\n"]


@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_who_was_slow_to_take_over_takes_nothing_from_who_was_quick(kind, process, lock, monkeypatch):
    """Between a taker's last look at the old holder and its removal another process takes the lock over."""
    leave(lock, replace(_me(), began=0) if kind == "dead" else ELSEWHERE, age=1000)
    quick, looks = [], []

    def look_and_be_slow(path):
        found = look(path)
        looks.append(time.monotonic())
        if not quick and (kind == "dead" or looks[-1] - looks[0] > QUICK.watch):
            quick.append(hold(process, lock))
        return found

    monkeypatch.setattr(locks, "look", look_and_be_slow)
    with locked(lock, wait=False, pace=replace(QUICK, stale=60.0)) as mine:
        assert mine is None
    assert look(lock).holder.pid == quick[0].pid
    quick[0].stdin.write("still mine\n")
    quick[0].stdin.flush()
    assert quick[0].stdout.readline() == "written\n"


def test_a_frozen_holder_loses_the_lock_and_notices_before_it_writes(process, tmp_path, lock):
    holder = hold(process, lock)
    os.kill(holder.pid, signal.SIGSTOP)
    with locked(lock, pace=QUICK) as mine:
        assert look(lock).holder.pid == os.getpid()
        os.kill(holder.pid, signal.SIGCONT)
        holder.stdin.write("late\n")
        holder.stdin.flush()
        said = holder.stdout.readline()
        assert said.startswith(f"lost {tmp_path} was taken over by another process")
        holder.communicate()  # it ends, and gives back nothing that is not its own
        assert holder.returncode == 0
        mine.check()
        assert look(lock).holder.pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_holder_that_nobody_replaced_goes_on(process, tmp_path, lock):
    holder = hold(process, lock)
    os.kill(holder.pid, signal.SIGSTOP)
    time.sleep(2 * QUICK.stale)
    os.kill(holder.pid, signal.SIGCONT)
    holder.stdin.write("in time\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "written\n"
    assert (tmp_path / "shared").read_text() == "in time\n"


def test_another_machine_that_lives_is_named_with_what_to_do_if_it_is_gone(tmp_path, lock):
    leave(lock)
    with (
        pytest.raises(TomopointError, match=r"process 4711 on node7, since .*if that machine is gone, .* in 90 s"),
        alone_in(tmp_path),
    ):
        pass
    assert is_held(lock)


def test_another_machine_that_is_silent_is_taken_over_after_a_look(lock, caplog):
    file = leave(lock, age=1000)
    assert not is_held(lock, QUICK)
    assert file.exists()  # asking took nothing
    with caplog.at_level(logging.INFO), locked(lock, wait=False, pace=QUICK) as mine:
        assert mine is not None
        assert not file.exists()
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert all("process 4711 on node7" in line for line in said)


BEAT = """
file, late = Path(sys.argv[1]), float(sys.argv[2])
while True:
    os.utime(file, (time.time() - late,) * 2)
    print("beat")
    time.sleep(0.05)
"""


@pytest.mark.parametrize("late", [1000.0, -1000.0])
def test_a_clock_that_goes_wrong_takes_no_lock_from_a_living_holder(late, process, lock):
    file = leave(lock)
    other = process(BEAT, file, late)
    assert other.stdout.readline() == "beat\n"
    with locked(lock, wait=False, pace=Pace(beat=1, stale=60, watch=PATIENCE_S)) as mine:
        assert mine is None
    assert is_held(lock, Pace(beat=20))
    assert file.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 3}', json.dumps({**asdict(ELSEWHERE), "since": 1e300})])
def test_a_lock_that_does_not_tell_its_holder_is_one_all_the_same(content, tmp_path, lock):
    leave(lock, content)
    with pytest.raises(TomopointError, match="a process that it does not name"), alone_in(tmp_path):
        pass
    os.utime(lock / "0123456789abcdef", (0, 0))
    with locked(lock, wait=False, pace=QUICK) as mine:
        assert mine is not None


def test_the_file_that_earlier_versions_locked_is_no_lock(lock):
    lock.touch()
    assert not is_held(lock)
    with locked(lock, wait=False) as mine:
        assert mine is not None


def test_what_nobody_holds_and_nobody_can_take_is_said(lock):
    lock.mkdir()
    (lock / ".DS_Store").touch()
    with pytest.raises(TomopointError, match="remove what is in it"), locked(lock, pace=QUICK):
        pass


def test_a_lock_that_is_lost_says_so_at_the_next_check(tmp_path):
    with alone_in(tmp_path) as mine:
        next((tmp_path / LOCK).iterdir()).unlink()
        with pytest.raises(LockLost, match="nothing more is written here"):
            mine.check()


def test_where_the_kernel_does_not_tell_the_machine_a_holder_is_as_one_of_another(tmp_path, lock, monkeypatch):
    """In sandboxes without it, Kaggle's perhaps: the lock is held, and a silent one is taken over after a look."""
    monkeypatch.setattr(locks, "BOOT_ID", tmp_path / "none")
    with alone_in(tmp_path) as mine:
        mine.check()
        assert look(lock).holder.machine == ""
        assert not look(lock).holder.is_here
        with pytest.raises(TomopointError, match="if that machine is gone"), alone_in(tmp_path):
            pass
    leave(lock, replace(_me(), pid=1 << 30), age=1000)  # no such process, for all that is known elsewhere
    assert not look(lock).is_dead
    with locked(lock, wait=False, pace=QUICK) as mine:
        assert mine is not None
