"""What holds for all tests: nothing is left in the home of whoever runs them, and Ctrl-C reaches what they start."""

import signal
import sys

import pytest

from tomopoint.inference import cpu_engine


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep what OpenVINO's trials decide in a folder of this session."""
    folder = tmp_path_factory.mktemp("cpu-engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_engine, "cache_folder", lambda: folder)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Let processes that tests start hear of Ctrl-C.

    A script starts what it puts into the background with Ctrl-C ignored, which programs hand on.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # there is no such hook without pytest-xdist
def pytest_testnodedown(node, error):
    """Say how a process of pytest-xdist died: below 0 is a signal."""
    if error:
        sys.stderr.write(f"\n{node.gateway.id} ended with exit status {node.gateway._io.popen.wait(20)}\n")
