"""What brings the scores of a foreign graph to the scale of ours: its maps, fitted on runs whose truth is known.

Both graphs predict the runs, each alone. The share of right picks as a function of the score is what is brought into
agreement, as between the kinds of our own networks (:mod:`tomopoint.evaluation.score_scale`). Nobody here knows which
runs the other graph was trained on: the runs have to be ones that neither graph has seen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tomopoint.data.particles import project_particles
from tomopoint.data.picks import read_run_picks
from tomopoint.data.project import Project
from tomopoint.data.tomograms import read_tomogram
from tomopoint.evaluation.score_scale import JudgedPicks, fit_score_scale
from tomopoint.export.foreign import ForeignGraph
from tomopoint.inference.engines.engine import INPUT, OFFSETS, SCORES, Array, Engine
from tomopoint.inference.engines.onnx import OnnxEngine, SessionOptions, make_session
from tomopoint.inference.predict import predict_tomogram
from tomopoint.pipeline import Knots, Pipeline
from tomopoint.validation.score_maps import FLOOR, MAX_PICKS, judge_picks_of_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForeignScale:
    """The maps of a foreign graph's scores, and what they rest on.

    Attributes
    ----------
    maps
        Particle -> knots; a particle without keeps its scores.
    n_hits
        Particle -> right picks of the foreign graph, and of ours.
    runs
        That were predicted.
    """

    maps: Mapping[str, Knots] = field(default_factory=dict)
    n_hits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    runs: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{name} {theirs} and {ours}" for name, (theirs, ours) in self.n_hits.items())
        if not self.maps:
            return f"scores as they come: too few right picks to bring them to one scale (theirs and ours: {counts})"
        return f"scores of the other graph brought to the scale of ours by right picks (theirs and ours: {counts})"


class ForeignEngine:
    """A foreign graph alone, in ONNX Runtime on the CPU, with the channels of our Pipeline; see `Engine`."""

    def __init__(self, foreign: ForeignGraph, pipeline: Pipeline, batch: int) -> None:
        self.foreign, self.batch, self.window_zyx = foreign, batch, pipeline.tiling.window_zyx
        self._session = make_session(foreign.path, "cpu", SessionOptions())

    def infer(self, windows: Array) -> tuple[Array, Array]:
        """Run the graph; particles that it does not know score 0, offsets that it does not predict are 0."""
        count = len(windows)
        padded = np.zeros((self.batch, *windows.shape[1:]), dtype=np.float32)
        padded[:count] = windows
        names = [SCORES, OFFSETS] if self.foreign.has_offsets else [SCORES]
        given, *offsets = self._session.run(names, {INPUT: padded})
        scores = np.zeros((count, len(self.foreign.channel_of), *given.shape[2:]), dtype=np.float32)
        for index, channel in enumerate(self.foreign.channel_of):
            if channel is not None:
                scores[:, index] = np.clip(given[:count, channel], 0.0, 1.0)
        return scores, offsets[0][:count] if offsets else np.zeros((count, 3, *given.shape[2:]), dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        """Return runtime and file."""
        return {"runtime": "onnxruntime-cpu", "model": str(self.foreign.path)}

    def close(self) -> None:
        """Let go of the session."""
        del self._session


def fit_foreign_scale(
    model: Path, foreign: ForeignGraph, pipeline: Pipeline, batch: int, project: Project
) -> ForeignScale:
    """Predict the training runs of a project by both graphs, and fit the maps.

    Parameters
    ----------
    model
        Our graph.
    foreign
        The other one.
    pipeline, batch
        Of ours.
    project
        Whose training runs have truth, and were not trained on by either.

    Raises
    ------
    DataError
        There are no such runs, or a tomogram or its picks cannot be read.
    """
    runs = project.runs("train")
    known = [particle.name for particle in project_particles(project.root)]
    own = replace(pipeline, decoding=replace(pipeline.decoding, floor=FLOOR, max_picks=MAX_PICKS))
    judged: tuple[dict[str, list[JudgedPicks]], ...] = tuple(
        {
            name: []
            for name, channel in zip(pipeline.particle_names, foreign.channel_of, strict=True)
            if channel is not None
        }
        for _ in range(2)
    )
    with (
        closing(ForeignEngine(foreign, pipeline, batch)) as theirs,
        closing(OnnxEngine(model, provider="cpu")) as ours,
    ):
        for count, run in enumerate(runs, start=1):
            truth = read_run_picks(run.picks_folder, pipeline.particle_names, known)
            tomogram = read_tomogram(run.tomogram_path(pipeline.tomo_type))
            engines: tuple[Engine, Engine] = (theirs, ours)
            for found, engine in zip(judged, engines, strict=True):
                picks = judge_picks_of_run(predict_tomogram(tomogram, engine, own), truth, own)
                for name, parts in found.items():
                    parts.append(picks[name])
            logger.info("scale of %s: %d of %d runs predicted by both graphs", foreign.path.name, count, len(runs))
    foreign_picks, our_picks = ({name: JudgedPicks.pooled(parts) for name, parts in found.items()} for found in judged)
    return ForeignScale(
        fit_score_scale(foreign_picks, our_picks),
        {name: (picks.n_hits, our_picks[name].n_hits) for name, picks in foreign_picks.items()},
        tuple(run.name for run in runs),
    )
