"""What a command has with the workers of its cluster: a plugin in each of them, their news, and their answers."""

from __future__ import annotations

import logging
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distributed import Client, wait
from distributed.client import FIRST_COMPLETED

from tomopoint.errors import TomopointError

if TYPE_CHECKING:
    from distributed import Future

    from tomopoint.cluster.engine_plugin import EnginePlugin
    from tomopoint.cluster.task_plugin import TaskPlugin

TELLING_SECONDS = 5.0
"""For workers to hear that something begins or ends. One that is frozen meanwhile is not waited for: it hears of a
beginning when it goes on, and ends by itself what nobody wants any more."""

GONE = (OSError, RuntimeError, TimeoutError, ValueError, CancelledError)
"""What Dask raises where a worker, the scheduler or the client itself ends while it is spoken to."""

logger = logging.getLogger(__name__)


@contextmanager
def employed(
    client: Client,
    plugin: EnginePlugin | TaskPlugin,
    hear: Callable[[tuple[float, Any]], None],
    futures: Collection[Future[Any]],
) -> Iterator[None]:
    """Give every worker a plugin, those that come later as well, and hear what they say, until the context ends.

    Parameters
    ----------
    client
        Of the cluster.
    plugin
        What workers get. They say something under its name, for others may use the same scheduler.
    hear
        Who is told.
    futures
        What is cancelled when the context ends: those that are in it by then.

    Raises
    ------
    TomopointError
        The workers do not know the plugin.
    """
    client.subscribe_topic(plugin.name, hear)
    try:
        error = _tell(lambda: client.register_plugin(plugin, name=plugin.name))
        if isinstance(error, ImportError | AttributeError):
            raise TomopointError(
                f"the workers of the cluster cannot begin ({type(error).__name__}: {error}); install the same version "
                "of tomopoint there"
            ) from error
        if error is not None and not isinstance(error, GONE):
            raise error
        yield
    finally:
        # What is gone needs no end, and why this process ends must not be hidden by it.
        try:
            client.cancel(list(futures))
            client.unsubscribe_topic(plugin.name)
        except (Exception, CancelledError) as fault:
            logger.debug("the cluster was gone before its tasks were ended", exc_info=fault)
        _tell(lambda: client.unregister_worker_plugin(plugin.name))


def completed(client: Client, futures: Collection[Future[Any]], seconds: float) -> list[Future[Any]]:
    """Return those of some futures that are over, after waiting for the first for at most so long."""
    if not futures:
        time.sleep(seconds)
        return []
    try:
        with client.as_current():
            return list(wait(list(futures), timeout=seconds, return_when=FIRST_COMPLETED).done)
    except TimeoutError:
        return []


def workers_of(client: Client) -> dict[str, Any] | None:
    """Return what the scheduler knows of every worker now, by address; None where it cannot be asked.

    ``Client.scheduler_info`` hands out what the client remembers, which a look of its own at a scheduler without its
    workers may just have overwritten.
    """
    if client.scheduler is None:
        return None
    try:
        known: dict[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    except GONE:
        return None
    return known


def _tell(what: Callable[[], Any]) -> BaseException | None:
    """Let the scheduler tell all workers something, and wait a little for it; return what went wrong by then."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            what()
        except (Exception, CancelledError) as error:
            logger.debug("not every worker heard", exc_info=error)
            errors.append(error)

    thread = threading.Thread(target=run, name="tomopoint-tell", daemon=True)
    thread.start()
    thread.join(TELLING_SECONDS)
    return errors[0] if errors else None
