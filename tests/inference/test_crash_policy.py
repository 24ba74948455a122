"""What deaths of workers mean; without processes."""

import pytest

from tomopoint.inference.crash_policy import (
    BLAMED_BEFORE_PUT_OFF,
    DEATHS_BEFORE_HOPELESS,
    LONGEST_PAUSE_SECONDS,
    TRIES_AT_THE_END,
    CrashPolicy,
)


def test_runs_in_work_together_are_dealt_alone_and_neither_is_blamed():
    policy = CrashPolicy(1)
    for _ in range(4):
        policy.died(0, ["computed", "read"], "exit status -9")
        policy.finished(0)
    assert policy.alone == {"computed", "read"}
    assert not policy.is_put_off("computed")
    assert not policy.is_put_off("read")


@pytest.mark.parametrize("workers", [(0, 0, 0, 0), (0, 1, 0, 1)], ids=["one worker", "two workers"])
def test_a_run_that_kills_alone_is_put_off_and_then_fails(workers):
    policy = CrashPolicy(2)
    for n, worker in enumerate(workers, start=1):
        policy.finished(worker)
        policy.died(worker, ["bad"], "exit status -11")
        assert policy.is_put_off("bad") == (n >= BLAMED_BEFORE_PUT_OFF)
        assert policy.has_failed("bad") == (n >= BLAMED_BEFORE_PUT_OFF + TRIES_AT_THE_END)
    assert policy.has_failed("bad")
    assert not policy.is_hopeless


def test_a_sick_worker_is_tried_ever_more_rarely_and_takes_no_run_with_it():
    policy = CrashPolicy(2)
    policy.finished(0)
    pauses = []
    for n in range(12):
        policy.died(1, [f"run{n}"], "exit status -9")
        pauses.append(policy.pause_seconds(1))
    assert pauses[:4] == [0.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    assert not policy.is_hopeless  # the other one works
    assert policy.troubles == ("worker 1 died over run11: exit status -9 (12 times in a row)",)
    assert not any(policy.is_put_off(f"run{n}") for n in range(12))


def test_a_run_that_is_blamed_twice_explains_the_deaths_it_caused():
    """A machine with one GPU and nothing but bad runs left puts them off one by one and stays."""
    policy = CrashPolicy(1)
    policy.finished(0)
    for n in range(25):
        for _ in range(BLAMED_BEFORE_PUT_OFF):
            policy.died(0, [f"bad{n}"], "exit status -11")
        assert policy.is_put_off(f"bad{n}")
        assert policy.troubles == ()
    assert not policy.is_hopeless


def test_an_engine_that_fails_late_is_hopeless_before_it_costs_a_run():
    policy = CrashPolicy(1)
    policy.finished(0)
    for n in range(DEATHS_BEFORE_HOPELESS):
        policy.died(0, [f"run{n}"], "exit status -11")
    assert policy.is_hopeless
    assert not any(policy.is_put_off(f"run{n}") for n in range(5))


def test_workers_that_all_die_over_everything_are_hopeless_and_blame_no_run():
    """An engine that dies over everything is no reason to give up the runs: another engine gets them."""
    policy = CrashPolicy(2)
    for n in range(DEATHS_BEFORE_HOPELESS):
        assert not policy.is_hopeless
        for worker in (0, 1):
            policy.died(worker, [f"run{n % 2}"], "exit status -11")
    assert policy.is_hopeless
    assert not policy.is_put_off("run0")
    assert not policy.is_put_off("run1")
    assert policy.n_productive == 0


def test_a_finished_run_clears_the_worker_not_the_run():
    policy = CrashPolicy(1)
    policy.died(0, ["bad"], "")
    policy.finished(0)
    assert policy.pause_seconds(0) == 0.0
    assert policy.troubles == ()
    policy.died(0, ["bad"], "")
    assert policy.is_put_off("bad")


def test_deaths_while_loading_blame_no_run():
    policy = CrashPolicy(1)
    for _ in range(DEATHS_BEFORE_HOPELESS):
        policy.died(0, [], "exit status -11")
    assert policy.is_hopeless
    assert policy.alone == set()
    assert policy.trouble(0) == "died without a run: exit status -11 (5 times in a row)"


def test_a_load_may_fail_once():
    policy = CrashPolicy(1)
    policy.load_failed(0, "out of memory")
    assert not policy.is_hopeless
    policy.finished(0)
    policy.load_failed(0, "out of memory")
    assert not policy.is_hopeless
    policy.load_failed(0, "out of memory")
    assert policy.is_hopeless
    assert policy.trouble(0) == "could not load its engine: out of memory (2 times in a row)"
