"""The command line: a table of commands, and what all of them share.

``python -m tomopoint COMMAND ...`` and ``tomopoint COMMAND ...`` are the same. A command is a function with typed
parameters and a docstring, from which its options and its help are made. Only the module of the command that was
asked for is imported, and those modules import what is heavy inside the function.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import sys
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tomopoint import __version__
from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError, machine_fault


@dataclass(frozen=True)
class Entry:
    """One row of the command table.

    Attributes
    ----------
    target
        ``module:function``.
    summary
        One line for the overview.
    positional
        Parameters given without a name, in order.
    moved
        Options it does not have, and the command that has them.
    """

    target: str
    summary: str
    positional: tuple[str, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Callable[..., CommandResult]:
        """Import the function."""
        module, _, name = self.target.partition(":")
        function: Callable[..., CommandResult] = getattr(importlib.import_module(module), name)
        return function


COMMANDS: dict[str, Entry] = {
    "simulate": Entry("tomopoint.simulate.command:simulate", "write simulated tomograms as a project", ("out",)),
    "train": Entry("tomopoint.training.command:train", "train the networks of a recipe on every fold"),
    "validate": Entry("tomopoint.validation.command:validate", "score held-out runs, write pipeline.json", ("runs",)),
    "predict": Entry("tomopoint.inference.command:predict", "pick particles in many tomograms, write submission.csv"),
    "score": Entry("tomopoint.evaluation.command:score", "official score of a submission", ("submission",)),
    "report": Entry("tomopoint.evaluation.command:report", "one HTML page about a submission"),
    "engine": Entry("tomopoint.export.command:engine", "build a TensorRT engine and check it on this GPU", ("model",)),
    "rehearse": Entry("tomopoint.kaggle.command:rehearse", "run both notebooks here, in a copy of Kaggle's folders"),
    "push": Entry("tomopoint.kaggle.command:push", "upload kit and notebooks with the kaggle command", ("dataset",)),
    "rethreshold": Entry(
        "tomopoint.inference.command:rethreshold", "another submission.csv from picks.csv, without a GPU", ("picks",)
    ),
    "demo": Entry("tomopoint.demo:demo", "the whole road on simulated tomograms"),
}

USAGE = "tomopoint COMMAND [options]; `tomopoint COMMAND --help` lists the options of a command"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _show_overview()
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        sys.stdout.write(f"tomopoint {__version__}\n")
        sys.exit(0)
    name, *rest = words
    if name not in COMMANDS:
        sys.stderr.write(f"tomopoint: unknown command {name!r}; there are {', '.join(COMMANDS)}\n")
        sys.exit(2)
    sys.exit(_run(name, rest))


def run_script(
    target: str,
    words: Sequence[str] | None = None,
    positional: tuple[str, ...] = (),
    moved: Mapping[str, str] | None = None,
) -> None:
    """Run one function as a stand-alone script (``export_onnx.py``, ``build_dataset.py``)."""
    entry = Entry(target, "", positional, moved or {})
    sys.exit(_run_entry(Path(sys.argv[0]).name, entry, list(sys.argv[1:] if words is None else words)))


def _show_overview() -> None:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {entry.summary}" for name, entry in COMMANDS.items())
    sys.stdout.write(f"{USAGE}\n\n{rows}\n")


def _run(name: str, words: list[str]) -> int:
    return _run_entry(f"tomopoint {name}", COMMANDS[name], words)


def _run_entry(program: str, entry: Entry, words: list[str]) -> int:
    """Parse, call, print; return the exit status."""
    for word in words:
        option = word.partition("=")[0].removeprefix("--")
        if word.startswith("--") and option in entry.moved:
            sys.stderr.write(
                f"{program}: --{option} would change what was validated; say it there, then run this again: "
                f"{entry.moved[option]} --{option} ...\n"
            )
            return 2
    function = entry.load()
    options, as_json, verbose = _parse(program, function, entry, words)
    _start_logging(verbose)
    start = time.monotonic()
    try:
        result = function(**options)
    except TomopointError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 1
    except OSError as error:
        if (fault := machine_fault(error)) is None:
            raise
        sys.stderr.write(f"{program}: {fault}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: stopped; run the same command again to go on from here\n")
        return 130
    figures = {**result.figures, "ok": result.ok, "seconds": round(time.monotonic() - start, 1)}
    sys.stdout.write((json.dumps(figures) if as_json else result.text.rstrip()) + "\n")
    return 0 if result.ok else 1


def _parse(
    program: str, function: Callable[..., CommandResult], entry: Entry, words: list[str]
) -> tuple[dict[str, Any], bool, bool]:
    """Build the options of a command from its signature and parse the words of the command line."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=program, description=_description(function), default_env=False)
    flags = tuple(
        name for name, parameter in inspect.signature(function).parameters.items() if parameter.default is False
    )
    by_hand: set[str | int] = {*entry.positional, *flags}
    added = parser.add_function_arguments(function, as_group=False, as_positional=False, skip=by_hand)
    _add_by_hand(parser, function, entry.positional, flags)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--verbose", action="store_true", help="log more")
    _use_dashes(parser)
    parsed = parser.instantiate(parser.parse_args(words))
    options = {name: getattr(parsed, name) for name in (*added, *entry.positional, *flags)}
    return options, parsed.json, parsed.verbose


def _add_by_hand(
    parser: Any, function: Callable[..., CommandResult], positional: Sequence[str], flags: Sequence[str]
) -> None:
    """Add what a signature cannot say: parameters given without a name (a list takes one or more), and bare flags."""
    from docstring_parser import parse

    hints = typing.get_type_hints(function)
    docs = {param.arg_name: param.description for param in parse(inspect.getdoc(function) or "").params}
    for name in positional:
        kind = hints[name]
        many = typing.get_origin(kind) is list
        kind = typing.get_args(kind)[0] if many else kind
        parser.add_argument(name, type=kind, help=docs.get(name), **({"nargs": "+"} if many else {}))
    for name in flags:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, action="store_true", help=docs.get(name))


def _use_dashes(parser: Any) -> None:
    """Show and take ``--train-runs`` where jsonargparse makes ``--train_runs``, which stays accepted."""
    for action in parser._actions:
        dashed = [option.replace("_", "-") for option in action.option_strings]
        parser._option_string_actions.update(dict.fromkeys(dashed, action))
        action.option_strings = dashed


def _description(function: Callable[..., CommandResult]) -> str:
    """Return the docstring's text above its parameter table."""
    return (inspect.getdoc(function) or "").split("\nParameters\n", maxsplit=1)[0].strip()


def _start_logging(verbose: bool) -> None:
    """Events go to standard error, results to standard output."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("tomopoint").setLevel(logging.DEBUG if verbose else logging.INFO)


if __name__ == "__main__":
    main()
