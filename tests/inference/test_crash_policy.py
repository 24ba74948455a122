"""Who is to blame when workers die; without processes."""

from tomopoint.inference.crash_policy import CrashPolicy


def test_a_sick_worker_is_lost_and_takes_no_run_with_it():
    policy = CrashPolicy(2)
    policy.finished(0)
    policy.finished(1)
    for run in "abc":
        assert policy.lost == {}
        assert policy.crashed(0, [run], "exit status -9") == []
    assert list(policy.lost) == [0]
    assert "died 3 times without finishing a run, last with exit status -9" in policy.lost[0]
    assert not any(policy.is_suspect(run) or policy.gave_up_on(run) for run in "abc")
    # What it said against a run is taken back: a first death of the healthy worker over it proves nothing yet.
    assert policy.crashed(1, ["a"], "") == []


def test_a_finished_run_clears_the_worker_not_the_run():
    policy = CrashPolicy(1)
    for run in "abcdef":
        assert policy.crashed(0, [run], "") == []
        policy.finished(0)
    assert policy.lost == {}
    assert all(policy.is_suspect(run) for run in "abcdef")


def test_two_workers_that_die_over_a_run_give_it_up():
    policy = CrashPolicy(2)
    policy.finished(1)
    assert policy.crashed(0, ["bad", "neighbour"], "") == []
    assert policy.crashed(1, ["bad"], "") == ["bad"]
    assert policy.gave_up_on("bad")
    assert not policy.gave_up_on("neighbour")


def test_a_single_worker_gives_a_run_up_only_after_it_finished_another():
    policy = CrashPolicy(1)
    assert policy.crashed(0, ["bad"], "") == []
    assert policy.crashed(0, ["bad"], "") == []
    policy.finished(0)
    assert policy.crashed(0, ["bad"], "") == ["bad"]
    assert policy.lost == {}


def test_a_run_that_is_given_up_explains_the_deaths_it_caused():
    """A machine with one GPU and bad runs at the end gives them up one by one and stays."""
    policy = CrashPolicy(1)
    bad = [f"bad{index}" for index in range(6)]
    for run in bad:
        policy.crashed(0, [run], "")
        policy.finished(0)
    assert [run for run in bad if policy.crashed(0, [run], "") == [run]] == bad
    assert policy.lost == {}


def test_workers_that_never_finished_a_run_give_up_none():
    """An engine that dies over everything is no reason to give up the runs: another engine gets them."""
    policy = CrashPolicy(2)
    crashes = [(0, "a"), (1, "b"), (0, "b"), (1, "a"), (0, "a"), (1, "b")]
    assert [policy.crashed(worker, [run], "") for worker, run in crashes] == [[]] * 6
    assert set(policy.lost) == {0, 1}
    assert policy.n_productive == 0


def test_deaths_while_loading_count_for_their_worker_only():
    policy = CrashPolicy(2)
    for _ in range(3):
        policy.crashed(0, [], "exit status -11")
    policy.crashed(1, [], "exit status -11")
    assert list(policy.lost) == [0]


def test_a_load_may_fail_once():
    policy = CrashPolicy(1)
    policy.load_failed(0, "out of memory")
    assert policy.lost == {}
    policy.finished(0)
    policy.load_failed(0, "out of memory")
    assert policy.lost == {}
    policy.load_failed(0, "out of memory")
    assert policy.lost == {0: "could not load its engine 2 times: out of memory"}


def test_a_worker_is_new_to_runs_it_did_not_die_over():
    policy = CrashPolicy(2)
    policy.crashed(0, ["a"], "")
    assert not policy.has_untried(0, ["a"])
    assert policy.has_untried(0, ["a", "b"])
    assert policy.has_untried(1, ["a"])
