"""A call in a process of its own: answers, messages, and every way in which a native library ends a process."""

import ctypes
import logging
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tomopoint.errors import EngineError
from tomopoint.inference import isolation
from tomopoint.inference.isolation import LAST_LINES, LONGEST_LINE, call_in_child

PLENTY = 120.0
"""Seconds; a process starts in one or two, but the machine may be busy."""


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let a spawned process import this file's functions, however pytest was started."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def answer(number: int, name: str) -> dict[str, int]:
    logging.getLogger("tomopoint.test").info("working on %s", name)
    return {name: number, "pid": os.getpid()}


def segfault() -> None:
    os.write(1, b"loading the kernels\n")
    ctypes.string_at(0)


def abort() -> None:
    os.write(2, b"terminate called after throwing an instance of 'nvinfer1::Error'\n")
    os.abort()


def leave() -> None:
    os._exit(7)


def hang() -> None:
    os.write(1, b"the last thing it said\n")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)


def garbage() -> str:
    os.write(1, b"\xff\xfe\x00\x1b[2J" + b"x" * 10_000 + b"\n" * 50)
    for number in range(50):
        os.write(2, f"line {number}\n".encode())
    return "fine"


def garbage_then_crash() -> None:
    garbage()
    os.kill(os.getpid(), signal.SIGBUS)


def raise_ours() -> None:
    raise EngineError("libnvinfer.so.10 is missing")


def raise_foreign() -> None:
    raise RuntimeError("CUDA error 700")


def leave_by_exit() -> None:
    sys.exit("no kernel")


def not_picklable() -> object:
    return lambda: None


def crash_when_read() -> object:
    return Unreadable()


class Unreadable:
    def __reduce__(self):
        return int, ("not a number",)


def call(function, tmp_path, *args, limit_seconds=PLENTY):
    return call_in_child(function, *args, limit_seconds=limit_seconds, log_path=tmp_path / "logs" / "trial.log")


def test_what_a_function_returns_comes_back_from_another_process(tmp_path, caplog):
    with caplog.at_level("INFO", logger=isolation.__name__):
        got = call(answer, tmp_path, 3, "windows")
    assert got["windows"] == 3
    assert got["pid"] != os.getpid()
    # What is logged there is passed on here, named.
    assert any(line.startswith("trial: ") and line.endswith("working on windows") for line in caplog.messages)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (segfault, r"was ended by SIGSEGV, in File .*string_at.* from File .*; its last lines: loading the kernels$"),
        (
            abort,
            r"was ended by SIGABRT, in File .*in abort.*; its last lines: terminate called after .*nvinfer1::Error'$",
        ),
        (leave, r"its process ended with exit status 7 and no answer$"),
        (not_picklable, r"ended with exit status 1 and no answer.*pickle"),
        (crash_when_read, r"its answer cannot be read \(ValueError: "),
        (raise_ours, r"^libnvinfer\.so\.10 is missing$"),
        (raise_foreign, r"^RuntimeError: CUDA error 700$"),
        (leave_by_exit, r"^SystemExit: no kernel$"),
    ],
)
def test_whatever_ends_it_is_a_reason(tmp_path, function, message):
    with pytest.raises(EngineError, match=message):
        call(function, tmp_path)


def test_one_that_hangs_is_ended(tmp_path):
    with pytest.raises(EngineError, match=r"^no answer in 4 s, so its process was ended"):
        call(hang, tmp_path, limit_seconds=4.0)
    assert not [process for process in isolation.multiprocessing.active_children() if process.name.endswith("trial")]


def test_what_it_prints_is_no_part_of_its_answer(tmp_path, caplog):
    with caplog.at_level("INFO", logger=isolation.__name__):
        assert call(garbage, tmp_path) == "fine"
    assert all(message.isprintable() for message in caplog.messages)
    assert max(map(len, caplog.messages)) <= LONGEST_LINE + len("trial: ")
    assert caplog.messages[-1] == "trial: line 49"


def test_of_a_long_story_the_end_is_told(tmp_path):
    with pytest.raises(EngineError) as caught:
        call(garbage_then_crash, tmp_path)
    told = str(caught.value).split("its last lines: ")[1].split(" | ")
    assert told == [f"line {number}" for number in range(50 - LAST_LINES, 50)]
    assert "SIGBUS" in str(caught.value)
    assert len(Path(tmp_path / "logs" / "trial.log").read_bytes()) > 10_000  # the rest is kept
