"""What an NVIDIA GPU makes of tomopoint, in one command and under half an hour; never run on one so far.

    make bench-gpu, or python benchmarks/gpu.py [--sections tests,steps] [--minutes 30] [--out FOLDER] [--miniature]

Runs from a checkout with whatever Python has torch for CUDA; nothing else need be installed, and no network be there: a
section that lacks a package says which, and the others go on. Sections, in this order:

    machine               GPU, driver, versions
    tests                 the tests marked `gpu`
    steps                 training steps of the full-size networks, bf16 and fp16; share in which the GPU computes
    eager                 the ten networks at the default window in torch, fp16
    host                  what the CPU does for one tomogram of 184x630x630 beside the networks
    training              simulate on the GPU, train both networks, validate: F4 of **simulated** tomograms
    compiled              as eager, by torch.compile
    graph                 the ten networks as one fp16 graph; its reference is PyTorch in fp32 on the GPU
    onnxruntime-cuda, tensorrt-rtx, tensorrt, tensorrt-norm-plugin, onnxruntime-tensorrt
                          that graph in each runtime, as the build_engine notebook tries it: parity, seconds per window

Each runs in a process of its own with a share of the time (what one saves is the next ones'), so a crash, a full memory
or a hang costs that section only, and not what it had found. Every figure is written at once to ``gpu.json`` in --out
(default $OUT, else work/bench-gpu), what the processes print to ``gpu.log``; the last line printed is the JSON in one
line. ``--miniature`` is the same with tiny networks and volumes, for a machine without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import gpu_sections

CHECKOUT = Path(__file__).resolve().parents[1]

BUDGETS_MINUTES = {
    "machine": 0.25,
    "tests": 5.0,
    "steps": 3.5,
    "eager": 1.25,
    "host": 0.5,
    "training": 6.0,
    "compiled": 2.0,
    "graph": 3.5,
    "onnxruntime-cuda": 1.0,
    "tensorrt-rtx": 1.25,
    "tensorrt": 2.5,
    "tensorrt-norm-plugin": 1.25,
    "onnxruntime-tensorrt": 2.0,
}
"""Half an hour in all."""

FIGURE = "@figure "
"""How a line begins by which a section hands over a figure."""


@dataclass
class Outcome:
    """What became of a section.

    Attributes
    ----------
    status
        ``running``, ``done``, ``skipped``, ``failed`` (with an error), ``crashed`` (ended by a signal, as after a
        segmentation fault or when the system ran out of memory) or ``out of time``.
    reason
        Why, where it is neither running nor done.
    seconds
        It took.
    figures
        What it found, also where it did not end well.
    """

    status: str = "running"
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def bad(self) -> bool:
        """Whether something went wrong that was not merely missing."""
        return self.status in ("failed", "crashed", "out of time")


def run_section(
    words: Sequence[str], seconds: float, log: IO[str], tell: Callable[[Outcome], None] = lambda outcome: None
) -> Outcome:
    """Run a section's process and everything it starts, for so many seconds at most.

    Parameters
    ----------
    words
        The command. Lines of its output that begin with ``FIGURE`` are figures, all others go to the log.
    seconds
        Then the process and its children are killed.
    log
        Open file.
    tell
        Called after every figure.
    """
    outcome, start, late = Outcome(), time.monotonic(), threading.Event()
    path = os.pathsep.join(filter(None, [str(CHECKOUT / "src"), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": path},
        cwd=CHECKOUT,
        start_new_session=True,  # so that it can be killed with its children
    )

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(FIGURE):
                name, value = json.loads(line.removeprefix(FIGURE))
                if name in ("skipped", "error"):
                    outcome.reason = value
                    outcome.status = {"skipped": "skipped", "error": "failed"}[name]
                else:
                    outcome.figures[name] = value
                outcome.seconds = round(time.monotonic() - start, 1)
                tell(outcome)
            else:
                log.write(line)
                log.flush()
        process.wait()
    finally:
        timer.cancel()
        _kill(process)  # what it started and left behind, too
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    outcome.seconds = round(time.monotonic() - start, 1)
    if late.is_set():
        outcome.status, outcome.reason = "out of time", f"not done after {seconds:.0f} s"
    elif process.returncode < 0:
        outcome.status = "crashed"
        outcome.reason = f"ended by {signal.Signals(-process.returncode).name}, see the log"
    elif process.returncode > 0:
        outcome.status, outcome.reason = "failed", outcome.reason or f"ended with status {process.returncode}"
    elif outcome.status == "running":
        outcome.status = "done"
    return outcome


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process with all of its group; nothing where they are gone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def hand_over(section: str, scratch: Path, miniature: bool) -> int:
    """Run a section in this process and print its figures; return the exit status."""
    try:
        for name, value in gpu_sections.run(section, scratch, miniature):
            print(FIGURE + json.dumps((name, value)), flush=True)
    except (gpu_sections.Skipped, ModuleNotFoundError) as error:
        missing = str(error)
        if isinstance(error, ModuleNotFoundError):
            missing = f"the package {(error.name or '').partition('.')[0]} is not installed"
        print(FIGURE + json.dumps(("skipped", missing)), flush=True)
    except Exception as error:
        print(FIGURE + json.dumps(("error", f"{type(error).__name__}: {error}")), flush=True)
        raise
    return 0


def summary(results: dict[str, Outcome]) -> dict[str, dict[str, float]]:
    """Return seconds per window and tomogram of every runtime, and in which share of them the GPU computes.

    One after the other, as `tomopoint predict` does it: the GPU waits while the CPU normalises, cuts, merges, decodes.
    """
    host = results.get("host", Outcome()).figures
    table = {}
    for section, outcome in results.items():
        for name, figures in outcome.figures.items():
            if isinstance(figures, dict) and "seconds_per_window" in figures and "seconds" in host:
                computing = float(host["windows"] * figures["seconds_per_window"])
                whole = computing + float(host["seconds"])
                table[name if name.startswith(section) else f"{section} {name}"] = {
                    "seconds_per_window": figures["seconds_per_window"],
                    "seconds_per_tomogram": round(whole, 3),
                    "gpu_share": round(computing / whole, 3),
                }
    return table


def main() -> int:
    """Run the sections that were asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(BUDGETS_MINUTES), help="only these, separated by commas")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all sections; each has its share")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "work/bench-gpu"))
    parser.add_argument("--scratch", type=Path, default=Path("work/bench-gpu-scratch"), help="data, weights, graphs")
    parser.add_argument("--miniature", action="store_true", help="tiny networks and volumes, on a CPU if need be")
    parser.add_argument("--section", choices=BUDGETS_MINUTES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    scratch = given.scratch.resolve() / ("miniature" if given.miniature else "full")
    if given.section:
        return hand_over(given.section, scratch, given.miniature)
    names = given.sections.split(",")
    if unknown := sorted(set(names) - set(BUDGETS_MINUTES)):
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(BUDGETS_MINUTES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    results: dict[str, Outcome] = {}
    script = [sys.executable, __file__, "--scratch", str(given.scratch), *(["--miniature"] if given.miniature else [])]
    start, until = time.monotonic(), 0.0
    share = 60 * given.minutes / sum(BUDGETS_MINUTES.values())
    with (given.out / "gpu.log").open("a") as log:
        for name in [name for name in BUDGETS_MINUTES if name in names]:
            until += share * BUDGETS_MINUTES[name]  # all sections up to this one have so long together
            left = max(1.0, until - (time.monotonic() - start))

            def tell(outcome: Outcome, name: str = name) -> None:
                results[name] = outcome
                save(given.out / "gpu.json", results, given.miniature)

            log.write(f"--- {name}\n")
            log.flush()
            outcome = run_section([*script, "--section", name], left, log, tell)
            tell(outcome)
            print(f"{name:22}{outcome.status:12}{outcome.seconds:7.1f} s  {outcome.reason}", flush=True)
    print(json.dumps(content(results, given.miniature)))
    return 1 if any(outcome.bad for outcome in results.values()) else 0


def content(results: dict[str, Outcome], miniature: bool) -> dict[str, Any]:
    """Return everything that was found."""
    sections = {name: asdict(outcome) for name, outcome in results.items()}
    return {"miniature": miniature, "summary": summary(results), "sections": sections}


def save(path: Path, results: dict[str, Outcome], miniature: bool) -> None:
    """Write what was found so far, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content(results, miniature), indent=1))
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
