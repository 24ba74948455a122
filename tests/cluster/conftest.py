"""Fixtures of the tests of tasks on a cluster: two real worker processes of Dask, for all of them."""

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'tomopoint[cluster]'")

TESTS = Path(__file__).parents[1]
PROBES = Path(__file__).parent / "probes"
sys.path += [str(PROBES), str(TESTS / "training")]


@pytest.fixture(scope="session", autouse=True)
def workers_find_probes():
    """Let whatever process these tests start find what they define."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(PROBES), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Compute in this process as the two workers do: sums of several threads round otherwise."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def two_workers():
    """Return a cluster of two workers with one thread each, started as anybody starts one."""
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0", "silence_logs": "ERROR"}
    with LocalCluster(n_workers=2, **options) as cluster:
        yield cluster
