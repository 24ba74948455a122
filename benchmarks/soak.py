"""Hundreds of tomograms while workers are killed and stopped, stores are damaged, the command is killed, disk and time
run out: what comes out is what an undisturbed prediction gives.

    python benchmarks/soak.py [--runs 500] [--out work/bench-soak]

One small graph of a narrow SegResNet and a DynUNet with random weights, small tomograms of noise with dark blobs. First
an undisturbed prediction, on two workers. Then, each in a folder of its own:

* `predict` and the submit notebook's call, in a copy of Kaggle's folders: every 1.5 to 4.5 s one of the workers gets
  SIGKILL (nine times of ten) or SIGSTOP; 5 % of the stores are cut, 2 % damaged otherwise; `predict` itself is killed
  once, a third of the way, and started again. Every healthy run must be there, byte by byte as in the undisturbed
  prediction, the damaged ones listed, no process left, and the exit status must say that it is not all.
* SIGTERM a third of the way; a third of the time that is needed; a disk (a tmpfs of 36 MB, for root only) that fills
  up: a valid submission each time.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tomopoint.data.project import Project, Run
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tables import read_pick_table
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, Tiling
from tomopoint.validation.validated import ValidatedEnsemble

SHAPE, WINDOW, OVERLAP = (40, 72, 72), (40, 40, 40), (8, 8, 8)
SEED = 2026
CUT, OTHERWISE_DAMAGED = 0.05, 0.02
BETWEEN_FAULTS = (1.5, 4.5)
STOPPED_SHARE = 0.1
DISK_MB = 36
LONGEST_SECONDS = 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("work/bench-soak"))
    words = parser.parse_args()
    out = words.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    data, model = out / "data", out / "ensemble.onnx"
    make_project(data, words.runs)
    make_graph(model)
    figures: dict[str, Any] = {"runs": words.runs}

    # Undisturbed: what every part must be, and how long it takes.
    start = time.monotonic()
    assert predict(data, model, out / "undisturbed").wait() == 0
    seconds = time.monotonic() - start
    expected = {path.stem: path.read_bytes() for path in (out / "undisturbed" / "parts").glob("*.csv")}
    assert len(expected) == words.runs
    figures["undisturbed_seconds"] = round(seconds, 1)
    print(f"undisturbed: {seconds:.0f} s", flush=True)

    # Before anything is damaged: the clock, SIGTERM, the disk.
    figures["a third of the time"] = short_of_time(data, model, out / "short", seconds / 3, expected)
    figures["SIGTERM"] = terminated(data, model, out / "terminated", expected)
    figures["full disk"] = disk_full(data, model, out / "disk", expected)

    bad = damage(Project(data).runs("test"))
    figures["damaged stores"] = len(bad)
    healthy = {name: table for name, table in expected.items() if name not in bad}
    figures["predict"] = soak_predict(data, model, out / "soak", healthy, bad)
    figures["submit"] = soak_submit(data, model, out / "kaggle", healthy, bad)
    print(json.dumps(figures))


def make_project(root: Path, n_runs: int) -> None:
    rng = np.random.default_rng(SEED)
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    for index in range(n_runs):
        volume = rng.standard_normal(SHAPE)
        for centre in rng.uniform(8, np.array(SHAPE) - 8, (6, 3)):
            volume -= 6 * np.exp(-((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / 18)
        run = Run(f"TS_{index:03d}", "test", root)
        write_tomogram(run.tomogram_path(), volume * 1e-5, levels=1)


def make_graph(path: Path) -> None:
    torch.manual_seed(SEED)
    configs = (
        NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=8, offset_width=8),
        NetworkConfig("dynunet", filters=(8, 8, 8), features=8, class_width=8, offset_width=8),
    )
    networks = []
    for config in configs:
        network = build_network(config, len(COMPETITION_PARTICLES), stride=2).eval().requires_grad_(False)
        for parameter in network.head.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
        networks.append(network)
    members = tuple(Member("fold0", config.name, (), None, f"{n:064x}") for n, config in enumerate(configs))
    pipeline = Pipeline(COMPETITION_PARTICLES, 10.0124, tiling=Tiling(WINDOW, OVERLAP), members=members)
    thresholds = dict.fromkeys(pipeline.particle_names, 0.1)
    ensemble = ValidatedEnsemble(tuple(networks), pipeline.with_thresholds(thresholds), configs)
    export_merged(ensemble, path, ExportOptions(precision="fp32"))


def damage(runs: Sequence[Run]) -> set[str]:
    """Cut and damage stores; return the names of their runs."""
    chance = random.Random(SEED)
    n_cut, n_other = max(1, round(CUT * len(runs))), max(3, round(OTHERWISE_DAMAGED * len(runs)))
    chosen = chance.sample(list(runs), n_cut + n_other)
    for n, run in enumerate(chosen):
        store = run.tomogram_path()
        chunk = next(path for path in sorted((store / "0").rglob("*")) if path.is_file() and path.name[0] != ".")
        if n < n_cut:
            chunk.write_bytes(chunk.read_bytes()[: chance.randrange(1, chunk.stat().st_size)])
        elif n % 3 == 0:
            (store / "0" / ".zarray").write_text("{")
        elif n % 3 == 1:
            shutil.rmtree(store / "0")
        else:
            volume = np.full(SHAPE, np.nan)
            write_tomogram(store, volume, levels=1)
    return {run.name for run in chosen}


def predict(data: Path, model: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    given = ["predict", "--data", data, "--model", model, "--out", out, "--workers", "2", "--provider", "cpu", *words]
    return subprocess.Popen(
        [sys.executable, "-m", "tomopoint", *map(str, given)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a prediction."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            is_child = entry.name.isdecimal() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid
            if is_child and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


class Faults(threading.Thread):
    """Kills and stops the workers of a process, until it ends."""

    def __init__(self, process: subprocess.Popen[bytes], chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.process, self.chance = process, chance
        self.n_killed = self.n_stopped = 0

    def run(self) -> None:
        """Do harm until the process is gone."""
        while self.process.poll() is None:
            time.sleep(self.chance.uniform(*BETWEEN_FAULTS))
            workers = workers_of(self.process.pid)
            if not workers:
                continue
            stop = self.chance.random() < STOPPED_SHARE
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(workers), signal.SIGSTOP if stop else signal.SIGKILL)
                self.n_stopped, self.n_killed = self.n_stopped + stop, self.n_killed + (not stop)


def n_parts(out: Path) -> int:
    return len(list((out / "parts").glob("[!.]*.csv")))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.05)


def soak_predict(data: Path, model: Path, out: Path, healthy: dict[str, bytes], bad: set[str]) -> dict[str, Any]:
    chance, start, faults = random.Random(SEED), time.monotonic(), []
    process = predict(data, model, out)
    faults.append(Faults(process, chance))
    faults[-1].start()
    wait_until(lambda: n_parts(out) > len(healthy) / 3, process)
    workers = workers_of(process.pid)
    process.kill()
    process.wait()
    n_before = n_parts(out)
    process = predict(data, model, out)
    faults.append(Faults(process, chance))
    faults[-1].start()
    status = process.wait(LONGEST_SECONDS)
    orphans = [pid for pid in workers if Path(f"/proc/{pid}").exists() and b"spawn_main" in _command(pid)]
    return {
        **check(out, healthy, bad),
        "exit_status": status,
        "parts_when_killed": n_before,
        "killed": sum(fault.n_killed for fault in faults),
        "stopped": sum(fault.n_stopped for fault in faults),
        "orphans": len(orphans),
        "seconds": round(time.monotonic() - start, 1),
    }


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def soak_submit(data: Path, model: Path, out: Path, healthy: dict[str, bytes], bad: set[str]) -> dict[str, Any]:
    """The call of the submit notebook, in a copy of Kaggle's folders."""
    stage = ["stage", "--model", str(model), "--out", str(out.with_name("kit"))]
    subprocess.run([sys.executable, "-m", "tomopoint", *stage], check=True, stdout=subprocess.DEVNULL)
    for name in ("input", "working", "scratch"):
        (out / name).mkdir(parents=True)
    (out / "input" / "kit").symlink_to(out.with_name("kit"))
    (out / "input" / "czii-cryo-et-object-identification").symlink_to(data)
    script = (
        "import sys\nfrom pathlib import Path\nfrom tomopoint.kaggle.submit import run\n"
        "if __name__ == '__main__':\n    result = run(Path(sys.argv[1]))\n    sys.exit(0 if result.ok else 1)\n"
    )
    path = out.with_name("submit.py")
    path.write_text(script)
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, path, out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    faults = Faults(process, random.Random(SEED + 1))
    faults.start()
    status = process.wait(LONGEST_SECONDS)
    return {
        **check(out / "working", healthy, bad),
        "exit_status": status,
        "killed": faults.n_killed,
        "stopped": faults.n_stopped,
        "seconds": round(time.monotonic() - start, 1),
    }


def check(out: Path, healthy: dict[str, bytes], bad: set[str]) -> dict[str, Any]:
    """Compare the parts with the undisturbed ones, and the submission with the parts."""
    parts = {path.stem: path.read_bytes() for path in (out / "parts").glob("[!.]*.csv")}
    equal = sum(parts.get(name) == table for name, table in healthy.items())
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    failed = {event["run"] for event in events if event["event"] == "failed"}
    return {
        "healthy": len(healthy),
        "byte_equal": equal,
        "healthy_missing": sorted(set(healthy) - set(parts)),
        "damaged_listed": len(bad & failed),
        "damaged_in_parts": sorted(bad & set(parts)),
        "deaths": sum(event["event"] == "died" for event in events),
        "submission": valid(out / "submission.csv", set(parts)),
    }


def valid(path: Path, runs: set[str]) -> bool:
    """Tell whether a submission has the competition's columns and ids, and picks of these runs only."""
    table = read_pick_table(path)
    columns = list(table.columns) == ["id", "experiment", "particle_type", "x", "y", "z"]
    ids = np.array_equal(table["id"].to_numpy().astype(int), np.arange(len(table)))
    return columns and ids and set(table["experiment"]) <= runs


def short_of_time(data: Path, model: Path, out: Path, seconds: float, expected: dict[str, bytes]) -> dict[str, Any]:
    start = time.monotonic()
    status = predict(data, model, out, "--limit-hours", f"{seconds / 3600:.6f}").wait(LONGEST_SECONDS)
    took = time.monotonic() - start
    figures = {"limit_s": round(seconds, 1), "took_s": round(took, 1), "exit_status": status, "parts": n_parts(out)}
    print(f"a third of the time: {figures}", flush=True)
    return {**figures, "submission": valid(out / "submission.csv", set(expected))}


def terminated(data: Path, model: Path, out: Path, expected: dict[str, bytes]) -> dict[str, Any]:
    process = predict(data, model, out)
    wait_until(lambda: n_parts(out) > len(expected) / 3, process)
    process.terminate()
    status = process.wait(LONGEST_SECONDS)
    joined = set(read_pick_table(out / "submission.csv")["experiment"])
    figures = {"exit_status": status, "parts": n_parts(out), "runs_in_submission": len(joined)}
    print(f"SIGTERM: {figures}", flush=True)
    return {**figures, "submission": valid(out / "submission.csv", set(expected))}


def disk_full(data: Path, model: Path, out: Path, expected: dict[str, bytes]) -> dict[str, Any] | str:
    out.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        return "not run: no tmpfs may be mounted here"
    try:
        # What is left beside the room kept for the submission: about a third of the parts.
        filler = out / "filler"
        room = sum(map(len, expected.values())) // 3
        filler.write_bytes(bytes(max(0, (DISK_MB << 20) - (32 << 20) - room - (256 << 10))))
        status = predict(data, model, out / "p").wait(LONGEST_SECONDS)
        figures = {"exit_status": status, "parts": n_parts(out / "p")}
        print(f"full disk: {figures}", flush=True)
        return {**figures, "submission": valid(out / "p" / "submission.csv", set(expected))}
    finally:
        subprocess.run(["umount", str(out)], check=False)


if __name__ == "__main__":
    main()
