"""Stores behind a URL: over HTTP from a server of this machine, in the memory of this process, and what goes wrong."""

import fcntl
import functools
import http.server
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

from tomopoint.data.reading import Reading
from tomopoint.data.sources.find import find_tomograms
from tomopoint.data.sources.remote import RemoteRun, url_of
from tomopoint.data.sources.tree import Choice
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import DataError
from tomopoint.inference.worker import is_outage

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'tomopoint[cloud]'")

SHAPE = (20, 30, 300)
"""Two chunks along x."""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        self.server.asked.append(self.path)


@pytest.fixture
def served(tmp_path):
    """Serve a folder with three stores; return the folder, its URL, and the list of what is asked for."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install 'tomopoint[cloud]'")
    folder = tmp_path / "served"
    for index in range(3):
        volume = np.random.default_rng(index).normal(0, 1e-5, SHAPE).astype(np.float32)
        write_tomogram(folder / f"TS_{index}.zarr", volume)
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", server.asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("word", "url"),
    [
        ("s3:/bucket/data/", "s3://bucket/data"),
        ("s3://bucket/data", "s3://bucket/data"),
        ("HTTPS:/host:80/a.zarr", "https://host:80/a.zarr"),
        ("memory:/a", "memory://a"),
        ("tomograms/a:b/c", None),
        ("/data/s3:/x", None),
        ("a:/b", None),
        ("data", None),
    ],
)
def test_a_url_is_told_from_a_path_that_has_lost_a_slash(word, url):
    assert url_of(word) == url


def test_a_store_over_http_is_what_it_is_on_the_disk(served):
    folder, url, asked = served
    found = find_tomograms(Path(f"{url}/TS_1.zarr"), "test")
    assert found.text.startswith(f"{url}/TS_1.zarr: 1 OME-Zarr store, voxels of 10.012 A")
    (run,) = found.runs("test")
    assert (run.name, run.place) == ("TS_1", url)
    info = run.describe("any")
    assert (info.shape_zyx, round(info.voxel_A, 3)) == (SHAPE, 10.012)
    assert not [path for path in asked if path.count("/") > 3]  # no chunk was asked for so far
    tomogram, local = run.read("any"), read_tomogram(folder / "TS_1.zarr")
    np.testing.assert_array_equal(tomogram.volume_zyx, local.volume_zyx)
    assert (tomogram.voxel_A, tomogram.notes) == (local.voxel_A, ())
    assert {path for path in asked if path.endswith(("/0/0", "/0/1"))} == {"/TS_1.zarr/0/0/0/0", "/TS_1.zarr/0/0/0/1"}
    assert not [path for path in asked if path.startswith("/TS_1.zarr/1")]  # coarser levels are not read


@pytest.mark.parametrize("word", ["", "/TS_*.zarr"])
def test_a_folder_that_is_listed_and_a_pattern_are_their_stores(word, served):
    _, url, _ = served
    found = find_tomograms(Path(url + word), "test")
    assert [run.name for run in found.tomograms] == ["TS_0", "TS_1", "TS_2"]
    assert [run.url for run in found.tomograms] == [f"{url}/TS_{index}.zarr" for index in range(3)]
    assert "3 OME-Zarr stores" in found.text


def test_what_is_done_on_reading_is_done(served):
    _, url, _ = served
    found = find_tomograms(Path(url), "test").read_as(Reading(20.0, 0.01, "denoised", "auto", "no"))
    run = found.tomograms[0]
    assert isinstance(run, RemoteRun)
    assert run.read("any").volume_zyx.shape == tuple(math.ceil(size / 2) for size in SHAPE)
    assert run.way is not None


@pytest.mark.parametrize("layout", ["v3", "shards"])
def test_zarr_3_is_read_from_memory(layout, tmp_path):
    store = tmp_path / "TS_7.zarr"
    volume = np.random.default_rng(7).normal(0, 1e-5, (40, 40, 40)).astype(np.float32)
    group = zarr.open_group(str(store), mode="w", zarr_format=3)
    shards = {"shards": (32, 32, 32)} if layout == "shards" else {}
    group.create_array("0", shape=volume.shape, chunks=(16, 16, 16), dtype="f4", **shards)[...] = volume
    scale = [{"type": "scale", "scale": [10.0] * 3}]
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/bucket/run7/VoxelSpacing10.000/wbp.zarr", recursive=True)
    try:
        (run,) = find_tomograms(Path("memory://bucket/*/VoxelSpacing10.000/wbp.zarr"), "test").tomograms
        assert run.name == "run7"
        np.testing.assert_array_equal(run.read("any").volume_zyx, volume)
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_damaged_chunk_is_noticed_and_named_by_its_url(served):
    folder, url, _ = served
    chunk = folder / "TS_0.zarr/0/0/0/1"
    chunk.write_bytes(chunk.read_bytes()[:-7])
    run = find_tomograms(Path(f"{url}/TS_0.zarr"), "test").tomograms[0]
    with pytest.raises(DataError, match=rf"^{url}/TS_0.zarr/0/0/0/1: the chunk is truncated") as error:
        run.read("any")
    assert not is_outage(error.value)
    chunk.unlink()
    assert run.read("any").notes[0].endswith("1 of 2 chunks missing, read as 0.0")


def test_what_is_not_there_is_said(served):
    folder, url, _ = served
    with pytest.raises(DataError, match=rf"{url}/none.zarr is no tomogram store: it has neither .zattrs nor zarr.json"):
        find_tomograms(Path(f"{url}/none.zarr"), "test")
    with pytest.raises(DataError, match=rf"{url}/none is not there; correct the URL"):
        find_tomograms(Path(f"{url}/none"), "test")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=rf"{url}/empty holds no .zarr; name a store"):
        find_tomograms(Path(f"{url}/empty"), "test")
    with pytest.raises(DataError, match="--tomo-type chooses among the tomograms of a run"):
        find_tomograms(Path(url), "test", Choice(tomo_type="wbp"))
    with pytest.raises(DataError, match="download it first"):
        find_tomograms(Path(url), "test").file("TS_0", "denoised")


def test_one_store_that_is_no_tomogram_does_not_keep_the_others_from_being_read(served):
    folder, url, _ = served
    shutil.rmtree(folder / "TS_0.zarr")
    (folder / "TS_0.zarr").mkdir()
    found = find_tomograms(Path(url), "test")
    assert len(found.tomograms) == 3
    assert found.text.endswith("in TS_1")


def test_a_host_that_does_not_answer_is_an_outage():
    run = RemoteRun("TS_0", Path("TS_0.zarr"), url="http://127.0.0.1:9/TS_0.zarr")
    with pytest.raises(
        DataError, match=r"http://127.0.0.1:9/TS_0.zarr cannot be reached \(.*is the host right"
    ) as error:
        run.read("any")
    assert is_outage(error.value)


def test_unknown_protocols_and_missing_packages_are_named():
    with pytest.raises(DataError, match=r"bogus://x/a\.zarr has a protocol that fsspec does not know"):
        find_tomograms(Path("bogus://x/a.zarr"), "test")
    code = (
        "import sys\nfrom pathlib import Path\nsys.modules[sys.argv[2]] = None\n"
        "from tomopoint.data.sources.find import find_tomograms\n"
        "from tomopoint.errors import DataError\n"
        "try:\n    find_tomograms(Path(sys.argv[1]), 'test')\nexcept DataError as error:\n    print(error)\n"
    )
    for url, package, fix in (
        ("s3://bucket/a.zarr", "s3fs", "'tomopoint[cloud]'"),
        ("https://host/a.zarr", "aiohttp", "'tomopoint[cloud]'"),
        ("memory://a.zarr", "fsspec", "'tomopoint[cloud]'"),
        ("gs://bucket/a.zarr", "gcsfs", "gcsfs"),
    ):
        done = subprocess.run([sys.executable, "-c", code, url, package], capture_output=True, text=True, check=True)
        assert done.stdout == f"{url} needs {package}, which is not installed: pip install {fix}\n", done.stderr


def test_what_killed_processes_left_of_stores_is_removed_and_what_is_held_is_not(served, tmp_path, monkeypatch):
    _, url, _ = served
    place = tmp_path / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    for name in ("tomopoint-store-left", "tomopoint-store-held", "tomopoint-store-new", "others"):
        (place / name / "TS_9.zarr").mkdir(parents=True)
        if "new" not in name:
            os.utime(place / name, (0, 0))
    descriptor = os.open(place / "tomopoint-store-held", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    find_tomograms(Path(f"{url}/TS_0.zarr"), "test")
    os.close(descriptor)
    assert sorted(path.name for path in place.iterdir()) == ["others", "tomopoint-store-held", "tomopoint-store-new"]
