"""The command line: which commands there are, and what all of them share.

``python -m tomopoint COMMAND ...`` and ``tomopoint COMMAND ...`` are the same. A command is a function with typed
parameters and a docstring, from which cyclopts makes its options and its help. Only the module of the command that was
asked for is imported (the overview reads all of them), and those modules import what is heavy inside the function.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from itertools import takewhile
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError

from tomopoint import __version__
from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError, machine_fault
from tomopoint.extras import missing_extra

COMMANDS = {
    "Data": {
        "simulate": "tomopoint.simulate.command:simulate",
        "import": "tomopoint.formats.command:import_picks",
        "inspect": "tomopoint.inspection.command:inspect",
    },
    "Training": {
        "train": "tomopoint.training.command:train",
        "validate": "tomopoint.validation.command:validate",
        "compare": "tomopoint.experiments.command:compare",
        "search": "tomopoint.experiments.command:search",
        "baseline": "tomopoint.baselines.command:baseline",
    },
    "Deployment": {
        "export": "tomopoint.export.command:export",
        "adapt": "tomopoint.export.command:adapt",
        "merge-graph": "tomopoint.export.command:merge_graph",
        "plan": "tomopoint.export.command:plan",
        "engine": "tomopoint.export.command:engine",
        "models": "tomopoint.inference.command:models",
        "predict": "tomopoint.inference.command:predict",
        "status": "tomopoint.inference.command:status",
        "verify": "tomopoint.inference.command:verify",
        "rethreshold": "tomopoint.inference.command:rethreshold",
        "fuse": "tomopoint.fusion.command:fuse",
        "export-picks": "tomopoint.formats.command:export_picks",
        "view": "tomopoint.view.command:view",
    },
    "Scores": {
        "score": "tomopoint.evaluation.command:score",
        "report": "tomopoint.evaluation.command:report",
        "tune": "tomopoint.evaluation.command:tune",
    },
    "Kaggle": {
        "kernels": "tomopoint.kaggle.command:kernels",
        "wheels": "tomopoint.kaggle.wheels:fetch",
        "lock-wheels": "tomopoint.kaggle.wheels:lock",
        "stage": "tomopoint.kaggle.command:stage",
        "rehearse": "tomopoint.kaggle.command:rehearse",
        "push": "tomopoint.kaggle.command:push",
    },
    "All of it": {"picker": "tomopoint.picker.command:picker", "demo": "tomopoint.demo:demo"},
}
"""The commands by stretches of the road, ``module:function`` of each."""

_VALIDATED = (
    "{option} would change what was validated; say it there, then run this again: "
    "tomopoint validate {folders} {option} ..."
)
_SIMULATED = ("difficulty", "labels.missing", "labels.jitter-A", "labels.conflicting", "labels.double", "tomo-types")
MOVED = {
    "simulate": {f"--content.{name}": f"{{option}} is called --{name} now" for name in _SIMULATED}
    | {
        "--content.variation": "{option} is told by aspect now: --variety.optics, --variety.noise and others, --help",
        "--content.crowding": "{option} is called --crowding now, and is a factor: 1 is usual, 0 leaves nothing",
    },
    "export": dict.fromkeys(
        ("--window", "--overlap", "--views", "--view-merge", "--weights", "--score-maps", "--offset-average"),
        _VALIDATED,
    ),
    "report": {"--run": "{option} is called --trained now: --trained FOLDER"},
}
"""Options that a command does not have, or no longer has, and what to do instead."""


USAGE = {"score": "Usage: tomopoint score --truth PATH [OPTIONS] SUBMISSION [OTHER]"}
"""Where cyclopts would call an argument that may be left out ARGS."""


def _shown_default(value: Any) -> str | None:
    """Return a default as one would type it; a flag and what is left open have none."""
    if value is None or value is False or value == "":
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


app = App(
    name="tomopoint",
    help="Find particles in cryo-electron tomograms: from simulated data to a submission on Kaggle.",
    help_format="markdown",
    version=f"tomopoint {__version__}",
    version_format="plaintext",
    default_parameter=Parameter(
        name_transform=lambda name: name.replace("_", "-"),
        negative=(),
        consume_multiple=True,
        json_list=False,
        allow_repeating=True,
        show_default=_shown_default,
    ),
)
for stretch, commands in COMMANDS.items():
    group = Group.create_ordered(stretch)
    for place, (name, target) in enumerate(commands.items()):
        app.command(target, name=name, group=group, sort_key=place, usage=USAGE.get(name))

general = Group.create_ordered("With every command")
app.register_install_completion_command(help="Let your shell complete commands and options.")
for name in ("--help", "--version", "--install-completion"):
    app[name].group = general


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its status."""
    words = sys.argv[1:] if words is None else words
    if not {name for commands in COMMANDS.values() for name in commands} & {*words}:
        app.resolved_commands()  # the overview takes each command's line from its docstring
    try:
        sys.exit(app.meta(words, result_action="return_value", exit_on_error=False, print_error=False))
    except CycloptsError as error:
        program = " ".join(("tomopoint", *(error.command_chain or ())))
        unused = error.unused_tokens if isinstance(error, UnusedCliTokensError) else None
        reason = f"Unexpected: {shlex.join(unused)}." if unused else error
        sys.stderr.write(f"{program}: {reason} See `{program} --help`.\n")
        sys.exit(2)


@app.meta.default
def _run(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    as_json: Annotated[bool, Parameter(name="--json", group=general)] = False,
    verbose: Annotated[bool, Parameter(group=general)] = False,
) -> int:
    """Run one command; return the status of the process.

    Parameters
    ----------
    as_json
        Print the figures as one JSON object.
    verbose
        Log more.
    """
    chain, _, rest = app.parse_commands(words)
    program = " ".join(("tomopoint", *chain))
    moved = MOVED.get(" ".join(chain), {})
    for option in (word.partition("=")[0].replace("_", "-") for word in rest):
        if hint := moved.get(option):
            folders = " ".join(takewhile(lambda word: not word.startswith("-"), rest)) or "FOLDER"
            sys.stderr.write(f"{program}: {hint.format(option=option, folders=folders)}\n")
            return 2
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("tomopoint").setLevel(logging.DEBUG if verbose else logging.INFO)
    start = time.monotonic()
    try:
        command, bound, _ = app.parse_args(words)
        result = command(*bound.args, **bound.kwargs)
    except TomopointError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 1
    except OSError as error:
        if (fault := machine_fault(error)) is None:
            raise
        sys.stderr.write(f"{program}: {fault}\n")
        return 1
    except ModuleNotFoundError as error:
        if (sentence := missing_extra(error)) is None:
            raise
        sys.stderr.write(f"{program} {sentence}\n")
        return 1
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{program}: stopped; run the same command again to go on from here\n")
        return int(getattr(error, "status", 130))  # SIGTERM has its own
    if not isinstance(result, CommandResult):  # no command, which shows the overview, or --install-completion
        return 0 if chain else 2
    figures = {**result.figures, "ok": result.ok, "seconds": round(time.monotonic() - start, 1)}
    sys.stdout.write((json.dumps(figures) if as_json else result.text.rstrip()) + "\n")
    return 0 if result.ok else 1


if __name__ == "__main__":
    main()
