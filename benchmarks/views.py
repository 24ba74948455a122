"""What views are worth and what they cost: simulated F4 by the number of views and the way they are merged.

    make bench-views [ARGS="--trained trained/first --runs 8 --side-by-side 2 --also identity,flip_x,flip_y,rot180"]

The networks of a validated training folder, or of a model of the package (`--model small`), predict simulated runs that
they have not seen. Every network looks at every window in all 16 views once; of these outputs the sets of
`tomopoint validate --views 1|2|4|8|16`, and those of `--also`, are merged in every way by the code that the graph is
made of, and go through the submission's tiling and decoding. Each run is scored at thresholds chosen on the others, so
that every row has thresholds of its own; "gain" is over one view, with the 95 % of a paired bootstrap over runs.
"time" is the processor time of the networks in a row's views and of merging them, over that of one view.

All scores are simulated. What is simulated or predicted is not made again; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from one_network import kept
from tomopoint.command import parse_zyx
from tomopoint.data.project import TRUTH_FOLDER, Project
from tomopoint.data.tomograms import describe_tomogram, read_tomogram
from tomopoint.data.truth import read_truth
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.comparison import compare_scores
from tomopoint.evaluation.score import Score, TruthMapping
from tomopoint.export.rebuilt import rebuild_ensemble
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.predict import prepare
from tomopoint.inference.tiles import MapMerger, choose_tiling
from tomopoint.models.box import find_model
from tomopoint.networks.ensemble import Ensemble
from tomopoint.networks.point_network import PointNetwork
from tomopoint.networks.views import BEST_SPREAD, parse_views
from tomopoint.pipeline import VIEW_MERGES, Pipeline
from tomopoint.simulate.options import SimulationOptions
from tomopoint.simulate.project import ProjectPlan, write_project
from tomopoint.validation.validated import load_validated

SHAPE = "128,288,288"
RUNS = 8
SEED = 41

Row = tuple[str, str]
"""Views as they are asked for, and how they are merged."""


class Remembered(PointNetwork):
    """A network that looks at each volume once, and knows the processor seconds that took."""

    def __init__(self, network: PointNetwork) -> None:
        super().__init__(network.backbone, network.head, network.n_classes, network.stride)
        self.network = network
        self.outputs: dict[str, tuple[Tensor, Tensor]] = {}
        self.seconds: dict[str, float] = {}
        self.asked: list[str] = []

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network says, from memory where it was asked before."""
        key = hashlib.sha256(volume.contiguous().numpy().tobytes()).hexdigest()
        if key not in self.outputs:
            start = time.process_time()
            self.outputs[key] = self.network(volume)
            self.seconds[key] = time.process_time() - start
        self.asked.append(key)
        return self.outputs[key]

    def forget(self) -> None:
        """Free the memory, before the next window."""
        self.outputs, self.seconds, self.asked = {}, {}, []


def rows_of(also: Sequence[str]) -> list[Row]:
    """Return all rows of the table, one view first."""
    several = [str(number) for number in BEST_SPREAD if number > 1]
    return [("1", "mean"), *((views, merge) for views in (*several, *also) for merge in VIEW_MERGES)]


def load_networks(words: argparse.Namespace) -> tuple[list[PointNetwork], Pipeline]:
    """Return the networks and the Pipeline they were validated with."""
    if words.trained is not None:
        merged = load_validated([words.trained])
        return list(merged.networks), merged.pipeline
    path = find_model(words.model)
    networks = rebuild_ensemble(path).networks
    return [network for network in networks if isinstance(network, PointNetwork)], read_pipeline(path)


def predict(name: str, words: argparse.Namespace) -> dict[str, Any]:
    """Return the picks of one run and the seconds, for every row; or what an earlier call found."""
    rows = rows_of(words.also)
    networks, pipeline = load_networks(words)
    weights = [member.weights_sha256 for member in pipeline.members]
    asked = {"run": name, "rows": rows, "weights": weights, "shape": words.shape, "seed": SEED}
    return kept(words.out / "runs", name, asked, lambda _: _predict(name, rows, networks, pipeline, words.out / "data"))


def _predict(
    name: str, rows: Sequence[Row], networks: Sequence[PointNetwork], pipeline: Pipeline, data: Path
) -> dict[str, Any]:
    torch.set_num_threads(1)
    store = Project(data).run(name, "test").tomogram_path()
    divisor = max(network.divisor for network in networks)
    pipeline = replace(pipeline, tiling=choose_tiling([describe_tomogram(store).shape_zyx], divisor))
    remembered = [Remembered(network) for network in networks]
    ensembles = {
        row: Ensemble.of_pipeline(remembered, replace(pipeline, views=parse_views(row[0]), view_merge=row[1]))
        for row in rows
    }
    tomogram = read_tomogram(store)
    prepared = prepare(tomogram.volume_zyx, pipeline)
    mergers = {row: MapMerger(prepared.plan, len(pipeline.particles), pipeline.tiling.edge_weight) for row in rows}
    seconds = dict.fromkeys(rows, 0.0)
    for starts, windows in prepared.plan.batches(prepared.volume_zyx, 1):
        volume = torch.from_numpy(windows)
        with torch.inference_mode():
            everything = Ensemble(remembered, views=parse_views("16"))
            everything(volume)  # each view once; all that follows comes from memory
            for row, ensemble in ensembles.items():
                for network in remembered:
                    network.asked = []
                start = time.process_time()
                scores, offsets = ensemble(volume)
                seconds[row] += time.process_time() - start
                seconds[row] += sum(network.seconds[key] for network in remembered for key in network.asked)
                mergers[row].add(starts[0], scores[0].numpy(), offsets[0].numpy())
        for network in remembered:
            network.forget()
    picks = {row: decode_maps(merger.maps(), pipeline, tomogram.voxel_A) for row, merger in mergers.items()}
    return {
        "rows": [
            {"seconds": seconds[row], "picks": json.loads(picks[row].to_json(orient="split", double_precision=6))}
            for row in rows
        ]
    }


def score(found: Mapping[str, dict[str, Any]], place: int, truth: TruthMapping, pipeline: Pipeline) -> Score:
    """Score every run at thresholds chosen on the others."""
    tables = []
    for name, runs in found.items():
        split = runs["rows"][place]["picks"]
        tables.append(pd.DataFrame(split["data"], columns=split["columns"]).assign(experiment=name))
    groups = {name: (name,) for name in found}
    options = CalibrationOptions(floor=pipeline.decoding.floor)
    left_out = calibrate(truth, pd.concat(tables, ignore_index=True), groups, pipeline.particles, options).left_out
    assert left_out is not None
    return left_out


def print_table(found: Mapping[str, dict[str, Any]], words: argparse.Namespace) -> None:
    """Simulated F4 of every row, what it gains over one view, and its time."""
    rows, (_, pipeline) = rows_of(words.also), load_networks(words)
    whole = read_truth(words.out / "data" / TRUTH_FOLDER, pipeline.particle_names)
    truth = {name: whole[name] for name in found}
    scores = [score(found, place, truth, pipeline) for place in range(len(rows))]
    seconds = [sum(runs["rows"][place]["seconds"] for runs in found.values()) for place in range(len(rows))]
    print("\n| views | merged by | simulated F4 | gain | 95 % of draws | time |\n|---|---|---|---|---|---|")
    table = []
    for row, own, taken in zip(rows, scores, seconds, strict=True):
        gain = compare_scores(scores[0], own)["score"]
        ratio = taken / seconds[0]
        print(
            f"| {row[0]} | {'-' if row[0] == '1' else row[1]} | {own.score:.3f} | {gain.difference:+.3f} | "
            f"{gain.low:+.3f} to {gain.high:+.3f} | {ratio:.1f} |"
        )
        per_class = {name: item.f_beta for name, item in own.per_class.items()}
        table.append(
            {"views": row[0], "merge": row[1], "f4": own.score, "gain": gain.difference, "low": gain.low}
            | {"high": gain.high, "time": ratio, "per_class": per_class}
        )
    print(json.dumps({"simulated": True, "runs": len(found), "rows": table}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = parser.add_mutually_exclusive_group()
    networks.add_argument("--model", default="small", help="of the package")
    networks.add_argument("--trained", type=Path, help="a validated training folder instead")
    parser.add_argument("--runs", type=int, default=RUNS, help="two or more")
    parser.add_argument("--shape", default=SHAPE)
    parser.add_argument("--also", action="append", default=[], help="views by name, with commas, as one more set")
    parser.add_argument("--side-by-side", type=int, default=len(os.sched_getaffinity(0)), help="runs, a thread each")
    parser.add_argument("--out", type=Path, default=Path("work/bench-views"))
    words = parser.parse_args()
    if words.runs < 2:
        parser.error("--runs must be two or more: thresholds of one are chosen on the others")
    os.environ["OMP_NUM_THREADS"] = "1"
    shape = parse_zyx("shape", words.shape)
    plan = ProjectPlan(words.out / "data", 0, words.runs, shape, SEED, SimulationOptions(), "cpu")
    write_project(plan, words.side_by_side)
    names = sorted(run.name for run in Project(words.out / "data").runs("test"))
    found: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(words.side_by_side, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(predict, name, words): name for name in names}
        for done, future in enumerate(as_completed(futures), start=1):
            found[futures[future]] = future.result()
            print(f"{done}/{len(names)} {futures[future]}", flush=True)
    print_table({name: found[name] for name in names}, words)


if __name__ == "__main__":
    main()
