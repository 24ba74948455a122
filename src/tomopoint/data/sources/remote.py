"""Tomogram stores behind a URL (``s3://``, ``https://``, ``gs://`` ...), read through fsspec.

The finest level of a store is fetched into a folder of this machine that is gone again when it is read. So whatever is
checked of a store on a disk is checked of this one, before a decoder sees it. Metadata have fixed names and chunks
names that follow from them: a store is read without a list of its files, and one that is not listed needs no
consolidated metadata.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tomopoint.data.reading import as_read, read_as
from tomopoint.data.sources.run import FileRun
from tomopoint.data.stores import open_finest
from tomopoint.data.tomograms import Tomogram, TomogramInfo, describe_tomogram, read_tomogram
from tomopoint.errors import DataError, reason_of

METADATA = (".zgroup", ".zattrs", "zarr.json", "0/.zarray", "0/.zattrs", "0/zarr.json")

MAX_CHUNKS = 1 << 17
"""Of a store, each of which is a request. The competition's have 9, one in chunks of 32 voxels 3,600."""

CHUNKS_AT_A_TIME = 64
"""Fetched beside each other and then written, so that so many are in memory."""

PREFIX = "tomopoint-store-"
"""Of the names of folders that stores are fetched into."""

ABANDONED_SECONDS = 3600.0
"""Folders that are older and that no process holds are removed."""

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)", re.IGNORECASE)


def url_of(data: Path | str) -> str | None:
    """Return the URL that a word on the command line is; None where it is a path. A Path has lost a slash of it."""
    match = _URL.fullmatch(str(data))
    return None if match is None else f"{match[1].lower()}://{match[2].rstrip('/')}"


@dataclass(frozen=True)
class RemoteRun(FileRun):
    """A run that is one store behind a URL; `path` is only its name for messages.

    Attributes
    ----------
    url
        Of the store.
    """

    url: str = ""

    @property
    def place(self) -> str:
        """The URL of what holds it."""
        return self.url.rpartition("/")[0]

    def describe(self, tomo_type: str) -> TomogramInfo:
        """Return shape and voxel size as it will be read, from the metadata alone; `n_bytes` are theirs."""
        with self._fetched(with_chunks=False) as store:
            info = describe_tomogram(store, self.voxel_A)
        return info if self.reading is None else as_read(info, self.reading)

    def read(self, tomo_type: str) -> Tomogram:
        """Fetch it, read it, and do what `reading` says."""
        with self._fetched() as store:
            if self.reading is None:
                return read_tomogram(store, self.voxel_A)
            return read_as(store, self.reading, self.voxel_A)

    @contextmanager
    def _fetched(self, with_chunks: bool = True) -> Iterator[Path]:
        """Yield a copy of the store with its finest level alone; errors about it name the URL."""
        with _temporary_folder() as folder:
            store = folder / f"{self.name}.zarr"  # what is logged of it names the run
            try:
                files = _RemoteFolder(self.url)
                if not files.fetch(METADATA, store) & {".zattrs", "zarr.json"}:
                    raise DataError(f"{self.url} is no tomogram store: it has neither .zattrs nor zarr.json")
                if with_chunks:
                    array, _ = open_finest(store, self.voxel_A)
                    grid = array.shards or array.chunks
                    counts = [math.ceil(size / step) for size, step in zip(array.shape, grid, strict=True)]
                    if math.prod(counts) > MAX_CHUNKS:
                        raise DataError(
                            f"{self.url}: level '0' has {math.prod(counts)} chunks, of which each is a request; write "
                            f"it in at most {MAX_CHUNKS}"
                        )
                    keys = (f"0/{array.metadata.encode_chunk_key(at)}" for at in np.ndindex(*counts))
                    while some := list(itertools.islice(keys, CHUNKS_AT_A_TIME)):
                        files.fetch(some, store)
                yield store
            except DataError as error:
                raise DataError(str(error).replace(str(store), self.url)) from error.__cause__


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a folder of this machine that is gone afterwards; if this process is killed, with the next one's first.

    A process holds its folder by a lock of the kernel, which ends with it.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # no locks here: then only its age protects it
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(folder)
        finally:
            os.close(descriptor)


@cache
def _remove_abandoned(place: Path) -> None:
    """Remove what killed processes left behind; once per process."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is somebody else's, it is gone, or a living process holds it
            if time.time() - folder.stat().st_mtime < ABANDONED_SECONDS:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def find_remote(url: str, stated_A: float | None = None) -> list[RemoteRun]:
    """Return the stores that a URL means: itself, where it ends in .zarr; those of a pattern; those of a folder.

    Raises
    ------
    DataError
        None is there, the host cannot be reached, or what speaks its protocol is not installed.
    """
    if url.endswith(".zarr") and not _is_pattern(url):
        stores = [url]
    elif _is_pattern(url):
        stores = _RemoteFolder(url).stores(pattern=url)
    else:
        stores = _RemoteFolder(url).stores()
    if not stores:
        raise DataError(
            f"{url} holds no .zarr; name a store (.../TS_1.zarr), a folder of stores that its host lists, or a quoted "
            "pattern, e.g. 's3://BUCKET/*/VoxelSpacing10.000/denoised.zarr'"
        )
    return [RemoteRun(_run_name(store), Path(store), stated_A, url=store) for store in stores]


def _is_pattern(url: str) -> bool:
    return "*" in url or "[" in url


def _run_name(url: str) -> str:
    """Return a run's name: that of its store; of one in a run's ``VoxelSpacing*`` folder, the run's."""
    *above, name = url.split("/")
    if len(above) > 1 and above[-1].startswith("VoxelSpacing"):
        return above[-2]
    return name.removesuffix(".zarr").removesuffix(".ome")


class _RemoteFolder:
    """A folder behind a URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise _lacking(url, "fsspec") from error
        with self._asked():
            self._files, self._root = url_to_fs(url)

    def fetch(self, names: Sequence[str], target: Path) -> set[str]:
        """Copy those files that are there into a folder of this machine; return their names."""
        with self._asked():
            paths = [f"{self._root}/{name}" for name in names]
            contents = self._files.cat_ranges(paths, None, None, on_error="return")  # all of each, in this order
        found = set()
        for name, content in zip(names, contents, strict=True):
            if isinstance(content, FileNotFoundError | NotADirectoryError | IsADirectoryError):
                continue
            with self._asked():
                if isinstance(content, BaseException):
                    raise content
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)
            found.add(name)
        return found

    def stores(self, pattern: str | None = None) -> list[str]:
        """Return the URLs of the stores in it, or of a pattern, sorted."""
        with self._asked():
            if pattern is None:
                names = [str(entry).rstrip("/") for entry in self._files.ls(self._root, detail=False)]
            else:
                names = [str(entry).rstrip("/") for entry in self._files.glob(pattern)]
        found = sorted({name for name in names if name.endswith(".zarr")})
        return [self._files.unstrip_protocol(name) for name in found]

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what libraries raise into sentences; what a network does for a while into an outage."""
        try:
            yield
        except ImportError as error:
            raise _lacking(self._url, error.name or _package(str(error))) from error
        except FileNotFoundError as error:
            raise DataError(f"{self._url} is not there; correct the URL") from error
        except PermissionError as error:
            raise DataError(
                f"{self._url} may not be read ({reason_of(error)}); give this machine the right to, in the way of its "
                "protocol (AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS ...)"
            ) from error
        except Exception as error:
            status = getattr(error, "status", None)
            if isinstance(status, int) and 400 <= status < 500:
                raise DataError(f"{self._url} cannot be read: its host answers {status}; correct the URL") from error
            if isinstance(error, ValueError) and "rotocol" in str(error):
                raise DataError(
                    f"{self._url} has a protocol that fsspec does not know; use s3://, https:// or another of "
                    "https://filesystem-spec.readthedocs.io"
                ) from error
            message = f"{self._url} cannot be reached ({type(error).__name__}: {reason_of(error)}); is the host right, "
            raise DataError(message + "and the network there?") from OSError(errno.ENOTCONN, reason_of(error))


def _package(message: str) -> str:
    """Return what fsspec says is missing, e.g. in "Install s3fs to access S3"."""
    match = re.search(r"(aiohttp)|[Ii]nstall (?:the )?[\"'`]?([\w-]+)", message)
    return "another package" if match is None else match[1] or match[2]


def _lacking(url: str, package: str) -> DataError:
    what = "pip install 'tomopoint[cloud]'" if package in ("fsspec", "aiohttp", "s3fs") else f"pip install {package}"
    return DataError(f"{url} needs {package}, which is not installed: {what}")
