"""A lab's files against the competition's: the same simulated runs as MRC of other voxels and with light protein.

``python benchmarks/lab.py``. Simulates runs in the competition's format and picks them with a model, in a window of
their shape (`tomopoint adapt`); writes each again as .mrc at 7.84 and 13.48 A with all signs changed, picks those, and
compares the scores. The files' voxels are made by evaluating the cosine series of the tomogram at the new centres, cut
at the coarser grid's Nyquist frequency: another way to resample than the one that reads them. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import numpy.typing as npt
from scipy.fft import dct

from tomopoint.data.project import Project
from tomopoint.data.tomograms import read_tomogram

VOXELS_A = (7.84, 13.48)


def command(*words: object) -> dict[str, Any]:
    """Run a command of the package; return its figures."""
    line = [sys.executable, "-m", "tomopoint", *map(str, words), "--json"]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def at_voxels(volume: npt.NDArray[np.float32], voxel_A: float, target_A: float) -> npt.NDArray[np.float32]:
    """Return a volume at the centres of other voxels: its cosine series along each axis, even about faces.

    Source of the series: the type-II cosine transform, whose samples lie at ``(i + 0.5) / n`` of the extent.
    """
    values = volume.astype(np.float64)
    for axis in range(3):
        n_old = volume.shape[axis]
        n_new = int(n_old * voxel_A / target_A)
        n_waves = min(n_old, int(n_old * voxel_A / target_A))
        amplitudes = dct(values, type=2, axis=axis, norm="forward").take(range(n_waves), axis)
        places = (np.arange(n_new) + 0.5) * target_A / (n_old * voxel_A)
        waves = np.cos(np.pi * np.outer(places, np.arange(n_waves))) * np.where(np.arange(n_waves) == 0, 1.0, 2.0)
        values = np.moveaxis(np.tensordot(waves, amplitudes, (1, axis)), 0, axis)
    return values.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work/bench-lab"))
    parser.add_argument("--model", default="small")
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--shape", default="96,192,192")
    parser.add_argument("--seed", type=int, default=20261129)
    options = parser.parse_args()
    start, out = time.monotonic(), options.out
    data = out / "data"
    made = ("--train-runs", 0, "--test-runs", options.runs, "--shape", options.shape, "--seed", options.seed)
    command("simulate", data, *made)
    model = out / "adapted.onnx"
    command("adapt", options.model, "--shape", options.shape, "-o", model)
    sources = {"10.01": data}
    for voxel_A in VOXELS_A:
        folder = sources[f"{voxel_A:g}, inverted"] = out / f"mrc-{voxel_A:g}"
        folder.mkdir(parents=True, exist_ok=True)
        for run in Project(data).runs("test"):
            tomogram = read_tomogram(run.tomogram_path())
            with mrcfile.new(folder / f"{run.name}.mrc", overwrite=True) as file:
                file.set_data(-at_voxels(tomogram.volume_zyx, tomogram.voxel_A, voxel_A))
                file.voxel_size = voxel_A
    figures: dict[str, Any] = {}
    for name, source in sources.items():
        picks = out / f"picks-{source.name}"
        predicted = command("predict", "--data", source, "--model", model, "--out", picks, "--provider", "cpu")
        scored = command("score", picks / "submission.csv", "--truth", data / "truth")
        classes = {particle: one["f_beta"] for particle, one in scored["per_class"].items()}
        read = sorted(set(predicted["read"].values()))
        figures[name] = {"score": scored["score"], "f4": classes, "read": read, "seconds": predicted["seconds_per_run"]}
        print(f"{name:>16} A: simulated F4 {scored['score']:.4f}; {'; '.join(read) or 'as it stands'}", flush=True)
    first = figures["10.01"]["score"]
    differences = {name: round(one["score"] - first, 4) for name, one in figures.items()}
    summary = {
        "differences": differences,
        "by_voxels": figures,
        "runs": options.runs,
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps({**summary, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
