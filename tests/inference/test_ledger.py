"""Who is to blame when workers die; without processes."""

from tomopoint.inference.ledger import Ledger


def test_a_sick_worker_is_lost_and_takes_no_run_with_it():
    ledger = Ledger(2)
    ledger.finished(0)
    ledger.finished(1)
    for run in "abc":
        assert ledger.lost == {}
        assert ledger.crashed(0, [run], "exit status -9") == []
    assert list(ledger.lost) == [0]
    assert "died 3 times without finishing a run, last with exit status -9" in ledger.lost[0]
    assert not any(ledger.is_suspect(run) or ledger.is_guilty(run) for run in "abc")
    # What it said against a run is taken back: a first death of the healthy worker over it proves nothing yet.
    assert ledger.crashed(1, ["a"], "") == []


def test_a_finished_run_clears_the_worker_not_the_run():
    ledger = Ledger(1)
    for run in "abcdef":
        assert ledger.crashed(0, [run], "") == []
        ledger.finished(0)
    assert ledger.lost == {}
    assert all(ledger.is_suspect(run) for run in "abcdef")


def test_two_workers_that_die_over_a_run_convict_it():
    ledger = Ledger(2)
    ledger.finished(1)
    assert ledger.crashed(0, ["bad", "neighbour"], "") == []
    assert ledger.crashed(1, ["bad"], "") == ["bad"]
    assert ledger.is_guilty("bad")
    assert not ledger.is_guilty("neighbour")


def test_a_single_worker_convicts_a_run_only_after_it_finished_another():
    ledger = Ledger(1)
    assert ledger.crashed(0, ["bad"], "") == []
    assert ledger.crashed(0, ["bad"], "") == []
    ledger.finished(0)
    assert ledger.crashed(0, ["bad"], "") == ["bad"]
    assert ledger.lost == {}


def test_a_convicted_run_explains_the_deaths_it_caused():
    """A machine with one GPU and bad runs at the end convicts them one by one and stays."""
    ledger = Ledger(1)
    bad = [f"bad{index}" for index in range(6)]
    for run in bad:
        ledger.crashed(0, [run], "")
        ledger.finished(0)
    assert [run for run in bad if ledger.crashed(0, [run], "") == [run]] == bad
    assert ledger.lost == {}


def test_workers_that_never_finished_a_run_convict_none():
    """An engine that dies over everything is no reason to give up the runs: another engine gets them."""
    ledger = Ledger(2)
    crashes = [(0, "a"), (1, "b"), (0, "b"), (1, "a"), (0, "a"), (1, "b")]
    assert [ledger.crashed(worker, [run], "") for worker, run in crashes] == [[]] * 6
    assert set(ledger.lost) == {0, 1}
    assert ledger.n_productive == 0


def test_deaths_while_loading_count_for_their_worker_only():
    ledger = Ledger(2)
    for _ in range(3):
        ledger.crashed(0, [], "exit status -11")
    ledger.crashed(1, [], "exit status -11")
    assert list(ledger.lost) == [0]


def test_a_load_may_fail_once():
    ledger = Ledger(1)
    ledger.load_failed(0, "out of memory")
    assert ledger.lost == {}
    ledger.finished(0)
    ledger.load_failed(0, "out of memory")
    assert ledger.lost == {}
    ledger.load_failed(0, "out of memory")
    assert ledger.lost == {0: "could not load its engine 2 times: out of memory"}


def test_a_worker_is_new_to_runs_it_did_not_die_over():
    ledger = Ledger(2)
    ledger.crashed(0, ["a"], "")
    assert not ledger.is_new_to_one(0, ["a"])
    assert ledger.is_new_to_one(0, ["a", "b"])
    assert ledger.is_new_to_one(1, ["a"])
