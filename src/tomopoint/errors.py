"""The one kind of exception a user is meant to see."""

from __future__ import annotations


class TomopointError(Exception):
    """A mistake or a fault that a user can act on.

    The message names what was given, what is allowed and the fix, in one or two sentences. The command line
    prints it without a traceback and exits with status 1; any other exception is a bug and keeps its traceback.
    """


class DataError(TomopointError):
    """A tomogram store, a picks file or a project folder cannot be used as it is."""


class PipelineError(TomopointError):
    """A Pipeline (pipeline.json, or the metadata of a graph) is missing, malformed or contradicts its graph."""


class EngineError(TomopointError):
    """An inference engine cannot be built, loaded or trusted."""
