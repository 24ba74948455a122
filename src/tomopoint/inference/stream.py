"""Many tomograms through one engine, which does not wait while others are read, merged, decoded or written.

Four threads, and what each does at one time::

    reader    reads, decompresses and normalises tomogram n + 1
    engine    computes call k + 1 of tomogram n; this is the thread that calls :meth:`TomogramStream.run`
    merger    merges call k of tomogram n, or one a little earlier
    finisher  decodes and writes tomogram n - 1

They hand on by futures, of which there is one at a time on each way: whoever is ahead waits for it, and whatever went
wrong in a thread is raised where its result is taken.

In memory at most, however many tomograms there are: tomogram n + 1, raw and normalised, with what decompression takes;
tomogram n, normalised, and its maps; four outputs of the engine; the maps of tomogram n - 1. The next but one is not
touched before the engine took the next one, nor are maps begun while two tomograms' maps are there: the memory of those
that were decoded is used again.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import pandas as pd

from tomopoint.data.read_record import ReadRecord
from tomopoint.data.sources.run import ReadableRun
from tomopoint.data.tomograms import Tomogram
from tomopoint.errors import EngineError
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.engines.engine import Engine
from tomopoint.inference.predict import Prepared, check_voxel_size, compute, prepare
from tomopoint.inference.tiles import MapMemory, VolumeMaps
from tomopoint.pipeline import Pipeline


class Deal(NamedTuple):
    """One run to predict, and the overlap of its windows where that is not the Pipeline's (voxels, z, y, x)."""

    run: ReadableRun
    overlap_zyx: tuple[int, int, int] | None = None


class Inbox(Iterator[Deal]):
    """Deals in the order they were put in; whoever asks for the next one waits until there is one, or no more come."""

    def __init__(self) -> None:
        self._deals: queue.SimpleQueue[Deal | None] = queue.SimpleQueue()
        self._is_closed = False

    def put(self, deal: Deal) -> None:
        """Add a deal."""
        self._deals.put(deal)

    def end(self) -> None:
        """Say that no more are put in."""
        self._deals.put(None)

    def close(self) -> None:
        """Say that no more are taken out: whoever waits, or asks, is told that there are none."""
        self._is_closed = True
        self._deals.put(None)

    def __next__(self) -> Deal:
        deal = self._deals.get()
        if deal is None or self._is_closed:
            self._deals.put(None)  # for whoever asks again
            raise StopIteration
        return deal


@dataclass(frozen=True)
class Found:
    """What became of a run that is done.

    Attributes
    ----------
    n_picks
        In its part.
    notes
        What is to be known of the tomogram.
    seconds
        Since the run before it was settled, or since it was begun to be read where that is later: the seconds of all
        runs add up to those in which there was anything to do, and one that comes alone counts in full.
    read_seconds
        Of them, or of those of the runs before: reading and decompressing.
    record
        How it was read, where that was not as it stands.
    """

    n_picks: int
    notes: tuple[str, ...]
    seconds: float
    read_seconds: float
    record: ReadRecord | None = None


class Desk(Protocol):
    """Where tomograms come from and picks go to, and who is told about it; called from any of the threads."""

    def read(self, run: ReadableRun) -> Tomogram:
        """Read a tomogram."""
        ...

    def write(self, run: ReadableRun, picks: pd.DataFrame) -> None:
        """Write the picks of a run."""
        ...

    def reading(self, run: ReadableRun) -> None:
        """A run is about to be read."""
        ...

    def begun(self, run: ReadableRun) -> None:
        """A run is about to be computed."""
        ...

    def window(self, run: ReadableRun, n_done: int, n_windows: int) -> None:
        """A call of the engine returned: so many windows of the run are computed. What is raised ends everything."""
        ...

    def done(self, run: ReadableRun, found: Found) -> None:
        """A run's picks are written."""
        ...

    def failed(self, run: ReadableRun, error: Exception) -> None:
        """A run cannot be read, computed, decoded or written; the others go on."""
        ...

    def broke(self, run: ReadableRun, error: EngineError) -> None:
        """The engine failed over a run, which ends everything."""
        ...


@dataclass(frozen=True)
class _Work:
    """A run that was read, without its voxels: what it takes to decode it and to tell of it."""

    run: ReadableRun
    pipeline: Pipeline
    voxel_A: float
    notes: tuple[str, ...]
    started: float
    read_seconds: float
    record: ReadRecord | None


class _Broke(Exception):
    """The engine failed over `run`, as `error` says."""

    def __init__(self, run: ReadableRun, error: EngineError) -> None:
        super().__init__(run, error)
        self.run, self.error = run, error


class TomogramStream:
    """Tomograms, one after the other, through an engine.

    Parameters
    ----------
    engine, pipeline
        They belong together.
    desk
        See :class:`Desk`.
    """

    def __init__(self, engine: Engine, pipeline: Pipeline, desk: Desk) -> None:
        self.engine, self.pipeline, self.desk = engine, pipeline, desk
        self._memory = MapMemory()
        self._settled = float("-inf")

    def run(self, inbox: Inbox) -> None:
        """Predict every run that is dealt until no more come; the inbox is closed in any case.

        A run that cannot be predicted is reported as failed, and the next one follows.

        Raises
        ------
        EngineError
            The engine failed. The runs that it was done with are written, and it was said over which run it broke.
        """
        with (
            ThreadPoolExecutor(1, "reader") as reader,
            ThreadPoolExecutor(1, "merger") as merger,
            ThreadPoolExecutor(1, "finisher") as finisher,
            closing(inbox),  # before the threads are waited for: the reader may be waiting for a deal
        ):
            finishing: Future[None] = finisher.submit(lambda: None)
            ahead = reader.submit(self._read_next, inbox)
            try:
                while (taken := ahead.result()) is not None:
                    # The next run is read and normalised from now on, while this one is in the engine.
                    ahead = reader.submit(self._read_next, inbox)
                    work, prepared = taken
                    self.desk.begun(work.run)
                    try:
                        after_window = partial(self._after_window, work.run, finishing)
                        maps = compute(prepared, self.engine, work.pipeline, merger, after_window, self._memory)
                    except EngineError as error:
                        raise _Broke(work.run, error) from error
                    except _Broke:
                        raise
                    except Exception as error:  # noqa: BLE001
                        maps = Future()
                        maps.set_exception(error)  # reported in its turn, below
                    # The run before is written by now, as a rule; this one is decoded while the next is computed.
                    finishing.result()
                    finishing = finisher.submit(self._finish, work, maps)
                    del taken, prepared, maps  # nobody needs them while the next run is waited for and computed
                finishing.result()
            except _Broke as broke:
                wait([finishing])  # what the engine was done with is worth its picks
                self.desk.broke(broke.run, broke.error)
                raise broke.error from None

    def _read_next(self, inbox: Inbox) -> tuple[_Work, Prepared] | None:
        """Return the next run that can be read, and its volume, normalised; None where no more come."""
        for deal in inbox:
            started = time.monotonic()
            try:
                self.desk.reading(deal.run)
                tomogram = self.desk.read(deal.run)
                read_seconds = time.monotonic() - started
                own = self.pipeline
                if deal.overlap_zyx is not None:
                    own = replace(own, tiling=replace(own.tiling, overlap_zyx=deal.overlap_zyx))
                check_voxel_size(tomogram, own)
                prepared = prepare(tomogram.volume_zyx, own, give_away=True)
            except Exception as error:  # noqa: BLE001
                self.desk.failed(deal.run, error)
            else:
                work = _Work(deal.run, own, tomogram.voxel_A, tomogram.notes, started, read_seconds, tomogram.record)
                return work, prepared
        return None

    def _after_window(self, run: ReadableRun, finishing: Future[None], n_done: int, n_windows: int) -> None:
        self.desk.window(run, n_done, n_windows)
        if finishing.done():
            finishing.result()  # the run before: its last output was looked at after this run was begun

    def _finish(self, work: _Work, maps: Future[VolumeMaps]) -> None:
        """Decode and write one run, and say what became of it."""
        try:
            merged = maps.result()
            picks = decode_maps(merged, work.pipeline, work.voxel_A)
            self._memory.give_back(merged)
            self.desk.write(work.run, picks)
        except EngineError as error:
            raise _Broke(work.run, error) from error
        except Exception as error:  # noqa: BLE001
            self._settled = time.monotonic()
            self.desk.failed(work.run, error)
        else:
            now = time.monotonic()
            seconds, self._settled = now - max(self._settled, work.started), now
            self.desk.done(work.run, Found(len(picks), work.notes, seconds, work.read_seconds, work.record))
