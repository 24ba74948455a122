"""The model card of a picker: what it finds, what it is made of, how good it is where, and how to use it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tomopoint import __version__
from tomopoint.evaluation.calibration import VALIDATION_NAME
from tomopoint.files import sha256_of, write_atomically
from tomopoint.models.box import NEVER_SEEN_A_REAL_ONE
from tomopoint.picker.steps import Places
from tomopoint.picker.targets import Targets
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.road import Step, line_of
from tomopoint.strict_json import read

SCORED = ("f_beta", "precision", "recall", "tp", "fp", "fn")
WORLDS = {"own_world": "own", "other_world": "other"}

_CARD = """# Picker of {names}

{what}.
{warnings}
`{graph}` (SHA-256 `{graph_sha256}`), for tomograms of {voxel_A:g} A per voxel:

```
{predict}
```

ROOT is a folder that holds `test/static/ExperimentRuns/RUN/VoxelSpacing10.000/denoised.zarr` (OME-Zarr).

## What it finds

| particle | made from (SHA-256) | kDa | radius, A | threshold |
|---|---|---|---|---|
{sources}

## How good it is: simulated scores

F4 in its own world **{own_f4}**: {own_runs} runs, each by the network that never saw it, at thresholds chosen on the \
other network's runs.
F4 in the other world **{other_f4}**: {other_runs} of another imaging model among other unlabelled matter, in which \
no network was trained and no threshold chosen, at the graph's thresholds; the simulator's defaults were compared there.

| particle | world | F4 | precision | recall | there | found | wrong | missed |
|---|---|---|---|---|---|---|---|---|
{figures}

Thresholds suit the simulated numbers of particles.
Where yours are rarer, more of the picks are wrong; `tomopoint rethreshold` raises them in seconds.

## How it was made

tomopoint {tomopoint}, {made}, {machine}; {minutes:g} minutes.
{runs} simulated runs of {shape_zyx} voxels, seed {seed}; {n_networks} networks, which started from {starts_from}.

{network_lines}

```
{command}
```

which ran

```
{command_lines}
```
"""


def write_card(
    places: Places, targets: Targets, made_of: Mapping[str, Any], steps: Sequence[Step], seconds: Mapping[str, float]
) -> None:
    """Gather what the steps left behind, and write it for programs and for people.

    Parameters
    ----------
    places
        Where it lies.
    targets
        What is found.
    made_of
        Runs, shape, seed and weights to start from.
    steps, seconds
        Of the road.
    """
    pipeline = Pipeline.load(places.trained / PIPELINE_NAME)
    validation = read(places.trained / VALIDATION_NAME)
    other = read(places.other_score)
    masses = targets.masses_kda()
    particles = {
        particle.name: {
            "made_from": targets.sources[particle.name],
            "sha256": targets.own.hashes.get(particle.name),
            "mass_kda": masses[particle.name],
            "radius_A": particle.radius_A,
            "suppression_A": particle.suppression_A,
            "threshold": round(particle.threshold, 4),
            "weight": particle.weight,
            "own_world": _figures_of(validation["per_class_left_out"][particle.name]),
            "other_world": _figures_of(other["per_class"][particle.name]),
        }
        for particle in pipeline.particles
    }
    members = [read(places.trained / m.fold / m.network / "member.json") for m in pipeline.members]
    card = {
        "tomopoint": __version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "what": NEVER_SEEN_A_REAL_ONE,
        "unlikely": targets.unlikely(),
        "voxel_A": round(pipeline.voxel_A, 4),
        "particles": particles,
        "own_world": {"score": validation["score_left_out"], "runs": made_of["runs"]},
        "other_world": {"score": other["score"], "runs": len(other["per_run"])},
        "made_of": dict(made_of),
        "networks": [
            {key: m[key] for key in ("fold", "steps", "seconds", "device", "precision", "weights_sha256")}
            for m in members
        ],
        "graph": places.graph.name,
        "graph_sha256": sha256_of(places.graph),
        "step_seconds": dict(seconds),
        "minutes": round(sum(seconds.values()) / 60, 1),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "commands": [_from_here(line_of(words, step.figures)) for step in steps for words in step.commands],
        "predict": _from_here(f"tomopoint predict --data ROOT --model {places.graph} --out picks"),
    }
    write_atomically(places.card_figures, json.dumps(card, indent=2) + "\n")
    write_atomically(places.card, _markdown(card))


def read_card(path: Path) -> dict[str, Any]:
    """Return what :func:`write_card` wrote for programs."""
    card: dict[str, Any] = read(path)
    return card


def card_text(card: Mapping[str, Any], places: Places) -> str:
    """Return the card in a few lines."""
    rows = [f"{'particle':22}{'world':7}{'F4':>7}{'precision':>11}{'recall':>8}{'there':>7}"]
    for name, particle in card["particles"].items():
        for world in WORLDS:
            f = particle[world]
            figures = f"{f['f_beta']:7.3f}{f['precision']:11.3f}{f['recall']:8.3f}{f['tp'] + f['fn']:7d}"
            rows.append(f"{name:22}{WORLDS[world]:7}{figures}")
    own, other = (card[world]["score"] for world in WORLDS)
    return "\n".join(
        [
            f"{places.graph}: finds {', '.join(card['particles'])} in tomograms of {card['voxel_A']:g} A per voxel",
            *rows,
            f"simulated F4: {own:.3f} in held-out runs of its own world, {other:.3f} in the other one",
            f"{card['what']}.",
            *(f"{sentence}." for sentence in card["unlikely"]),
            f"model card: {places.card}",
            f"next: {card['predict']}",
        ]
    )


def _from_here(line: str) -> str:
    """Return a command line with paths as they are typed in the folder that the picker was asked for in."""
    return line.replace(f"{Path.cwd()}{os.sep}", "")


def _figures_of(scored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(scored[name], 4) for name in SCORED}


def _processor() -> str:
    """Name the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _markdown(card: Mapping[str, Any]) -> str:
    """Return the card for people."""
    sources, figures = [], []
    for name, p in card["particles"].items():
        source = f"{p['made_from']} (`{p['sha256'][:16]}`)" if p["sha256"] else p["made_from"]
        sources.append(f"| {name} | {source} | {p['mass_kda']:.0f} | {p['radius_A']:g} | {p['threshold']:g} |")
        for world in WORLDS:
            f = p[world]
            shares = f"{f['f_beta']:.3f} | {f['precision']:.3f} | {f['recall']:.3f}"
            counts = f"{f['tp'] + f['fn']} | {f['tp']} | {f['fp']} | {f['fn']}"
            figures.append(f"| {name} | {WORLDS[world]} | {shares} | {counts} |")
    networks = [
        f"- {n['fold']}: {n['steps']} steps in {n['seconds'] / 60:.1f} minutes, {n['device']}, {n['precision']}, "
        f"weights `{n['weights_sha256']}`"
        for n in card["networks"]
    ]
    other_runs = card["other_world"]["runs"]
    values = {
        "names": ", ".join(card["particles"]),
        "warnings": "".join(f"{sentence}.\n" for sentence in card["unlikely"]),
        "sources": "\n".join(sources),
        "figures": "\n".join(figures),
        "network_lines": "\n".join(networks),
        "command_lines": "\n".join(card["commands"]),
        "n_networks": len(networks),
        "own_f4": f"{card['own_world']['score']:.3f}",
        "own_runs": card["own_world"]["runs"],
        "other_f4": f"{card['other_world']['score']:.3f}",
        "other_runs": f"{other_runs} run{'s' if other_runs > 1 else ''}",
        **card["made_of"],
    }
    return _CARD.format(**{**card, **values})
