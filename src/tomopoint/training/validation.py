"""Validation: every held-out run predicted by networks that never saw it, with the code of the submission.

::

    <run folder>/validation/<run>.csv    all picks above the floor, with scores
                            <run>.json   what they were made with; there only once the run is done
    <run folder>/validation.json         curves, scores per class, fold and run
    <run folder>/pipeline.json           the Pipeline that goes into the graph
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tomopoint import __version__
from tomopoint.data.project import Project
from tomopoint.data.tables import PICK_COLUMNS, read_pick_table, write_pick_table
from tomopoint.data.tomograms import describe_tomogram, read_tomogram
from tomopoint.errors import TomopointError
from tomopoint.evaluation.calibration import Calibration
from tomopoint.files import write_atomically
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import PIPELINE_NAME, Pipeline, Tiling
from tomopoint.training.trained import HeldOutRun, TrainedRun

FOLDER = "validation"
RESULT = "validation.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionOptions:
    """How held-out runs are predicted; goes into the Pipeline, so that the submission does the same.

    Attributes
    ----------
    window_zyx, overlap_zyx
        Of the tiling, voxels; None: :func:`choose_tiling`.
    views
        Views to average over.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    """

    window_zyx: tuple[int, int, int] | None = None
    overlap_zyx: tuple[int, int, int] | None = None
    views: tuple[str, ...] = ("identity",)
    device: str = "cpu"


def choose_tiling(shapes_zyx: Sequence[tuple[int, int, int]], divisor: int, options: PredictionOptions) -> Tiling:
    """Return the tiling: what `options` says, else the standard window where the tomograms are that large.

    Along an axis on which every tomogram is smaller than the standard window, the window is the extent rounded up to
    what the networks take, so that small data are not mostly padding. Overlaps are at most half the window.

    Parameters
    ----------
    shapes_zyx
        Voxels along z, y, x of the tomograms.
    divisor
        Window sizes must be multiples of this.
    options
        `window_zyx` and `overlap_zyx` are taken where given.

    Raises
    ------
    TomopointError
        A window that is no multiple of `divisor`.
    PipelineError
        An overlap that does not fit the window.
    """
    standard = Tiling()
    extent = [max(sizes) for sizes in zip(*shapes_zyx, strict=True)]
    z, y, x = (
        min(_round_up(size, divisor), _round_up(n, divisor))
        for size, n in zip(standard.window_zyx, extent, strict=True)
    )
    window = options.window_zyx or (z, y, x)
    if any(size % divisor for size in window):
        raise TomopointError(f"--window {_text(window)}: these networks take multiples of {divisor} along every axis")
    z, y, x = (min(o, w // 4 * 2) for o, w in zip(standard.overlap_zyx, window, strict=True))
    return replace(standard, window_zyx=window, overlap_zyx=options.overlap_zyx or (z, y, x))


def predict_held_out(
    trained: TrainedRun, pipeline: Pipeline, project: Project, options: PredictionOptions
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Predict every held-out run; runs whose picks were made with the same weights and settings are read back.

    Returns
    -------
    picks
        ``experiment, particle_type, x, y, z, score``: all above the floor, in Angstrom.
    records
        Run name -> what its picks were made with, and the seconds it took.

    Raises
    ------
    DataError
        A tomogram is missing or damaged.
    """
    engines = _Engines(trained, pipeline, options)
    tables, records = [], {}
    for count, held_out in enumerate(trained.held_out, start=1):
        own = replace(pipeline, members=tuple(pipeline.members[i] for i in held_out.members))
        store = project.run(held_out.name, "train").tomogram_path(trained.tomo_type)
        path = trained.folder / FOLDER / f"{held_out.name}.csv"
        record = _record_if_done(path, own, store)
        if record is None:
            record = _predict_run(store, engines.of(held_out), own, path)
        else:
            logger.info("validate %s: picks of these weights are there already", held_out.name)
        table = read_pick_table(path)
        logger.info(
            "validate %d/%d %s (%s): %d picks, %.1f s",
            *(count, len(trained.held_out), held_out.name, held_out.group, len(table), record["seconds"]),
        )
        tables.append(table.loc[:, list(PICK_COLUMNS)])
        records[held_out.name] = {**record, "folds": list(held_out.folds)}
    engines.close()
    return pd.concat(tables, ignore_index=True), records


def calibrated(pipeline: Pipeline, calibration: Calibration) -> Pipeline:
    """Return the Pipeline with thresholds, residual correction and the members' scores filled in.

    A member's score is that of its fold: of the picks made, with the chosen thresholds, on the runs it never saw, by
    the average of all networks that never saw them.
    """
    decoding = replace(pipeline.decoding, residual_xyz_A=calibration.residual.correction_xyz_A)
    members = tuple(
        replace(
            member, score=calibration.score.of_runs(member.validation_runs).score if member.validation_runs else None
        )
        for member in pipeline.members
    )
    return replace(pipeline.with_thresholds(calibration.thresholds), decoding=decoding, members=members)


def save_validation(
    trained: TrainedRun,
    pipeline: Pipeline,
    content: Mapping[str, Any],
) -> None:
    """Write ``validation.json`` and, last, ``pipeline.json``."""
    record = {"tomopoint": __version__, "pipeline_sha256": pipeline.digest, **content}
    write_atomically(trained.folder / RESULT, json.dumps(record) + "\n")
    pipeline.save(trained.folder / PIPELINE_NAME)


class _Engines:
    """The engine of one set of networks at a time: neighbouring runs share it."""

    def __init__(self, trained: TrainedRun, pipeline: Pipeline, options: PredictionOptions) -> None:
        self.trained, self.pipeline, self.options = trained, pipeline, options
        self.members: tuple[int, ...] = ()
        self.engine: Any = None

    def of(self, held_out: HeldOutRun) -> Any:
        from tomopoint.inference.engines.torch import TorchEngine

        if held_out.members != self.members:
            self.close()
            networks = [self.trained.networks[index] for index in held_out.members]
            module = Ensemble(networks, views=self.pipeline.views)
            window = self.pipeline.tiling.window_zyx
            self.engine = TorchEngine(module, window, batch=1, device=self.options.device)
            self.members = held_out.members
        return self.engine

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.engine, self.members = None, ()


def _predict_run(store: Path, engine: Any, pipeline: Pipeline, path: Path) -> dict[str, Any]:
    """Predict one run and write its picks, then the record that marks them as done."""
    from tomopoint.inference.predict import predict_tomogram

    start = time.monotonic()
    marker = path.with_suffix(".json")
    marker.unlink(missing_ok=True)
    picks = predict_tomogram(read_tomogram(store), engine, pipeline)
    write_pick_table(picks.assign(experiment=path.stem), path)
    seconds = round(time.monotonic() - start, 2)
    record = {"pipeline_sha256": pipeline.digest, "tomogram": _identity(store), "seconds": seconds}
    write_atomically(marker, json.dumps(record) + "\n")
    return record


def _record_if_done(path: Path, pipeline: Pipeline, store: Path) -> dict[str, Any] | None:
    """Return the record of picks made with this very Pipeline from this tomogram, None where there are none."""
    try:
        record: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    same = record.get("pipeline_sha256") == pipeline.digest and record.get("tomogram") == _identity(store)
    return record if same and path.is_file() else None


def _identity(store: Path) -> str:
    info = describe_tomogram(store)
    return f"{info.path.resolve()} {_text(info.shape_zyx)} {info.voxel_A:.6f} {info.n_bytes}"


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _text(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
