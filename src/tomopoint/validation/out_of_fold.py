"""Out of fold: every held-out run predicted by the average of all networks that never saw it, as the submission does.

::

    <ensemble folder>/validation/<run>.csv    all picks above the floor, with scores
                                 <run>.json   what they were made with; there only once the run is done
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from tomopoint.data.project import Project
from tomopoint.data.tables import PICK_COLUMNS, read_pick_table, write_pick_table
from tomopoint.data.tomograms import describe_tomogram, read_tomogram
from tomopoint.evaluation.calibration import OUT_OF_FOLD_FOLDER
from tomopoint.files import write_atomically
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.inference.predict import predict_tomogram
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import Pipeline
from tomopoint.strict_json import Malformed, read
from tomopoint.validation.ensemble_folder import EnsembleFolder, HeldOutRun

FOLDER = OUT_OF_FOLD_FOLDER

logger = logging.getLogger(__name__)


def predict_held_out(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, device: str
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Predict every held-out run; runs whose picks were made with the same weights and settings are read back.

    Parameters
    ----------
    ensemble, pipeline
        The networks, and how they are averaged, tiled and decoded; members in the same order.
    project
        Where the runs lie.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

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
    tables: list[pd.DataFrame] = []
    records: dict[str, dict[str, Any]] = {}
    for held_out in ensemble.held_out:
        path, content = _picks_file(ensemble, pipeline, project, held_out)
        if _record_of(path, content) is None:
            predict_held_out_run(ensemble, pipeline, project, device, held_out.name)
        else:
            logger.info("validate %s: picks of these weights are there already", held_out.name)
        record = _record_of(path, content)
        assert record is not None
        table = read_pick_table(path)
        logger.info(
            "validate %d/%d %s (%s, %d networks): %d picks, %.1f s",
            *(len(tables) + 1, len(ensemble.held_out), held_out.name, held_out.group),
            *(len(held_out.members), len(table), record["seconds"]),
        )
        tables.append(table.loc[:, list(PICK_COLUMNS)])
        records[held_out.name] = {**record, "group": held_out.group, "n_networks": len(held_out.members)}
    return pd.concat(tables, ignore_index=True), records


def predict_held_out_run(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, device: str, name: str
) -> None:
    """Predict one held-out run and write its picks, unless they are there; as :func:`predict_held_out`."""
    held_out = ensemble.run_named(name)
    path, content = _picks_file(ensemble, pipeline, project, held_out)
    if _record_of(path, content) is not None:
        return
    start = time.monotonic()
    path.with_suffix(".json").unlink(missing_ok=True)
    store = project.run(name, "train").tomogram_path(ensemble.tomo_type)
    own = pipeline_of(held_out.members, pipeline)
    with closing(engine_of(ensemble, held_out.members, own, device)) as engine:
        picks = predict_tomogram(read_tomogram(store), engine, own)
    write_pick_table(picks.assign(experiment=name), path)
    record = {**content, "seconds": round(time.monotonic() - start, 2)}
    write_atomically(path.with_suffix(".json"), json.dumps(record) + "\n")


def is_held_out_run_there(ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, name: str) -> bool:
    """Tell whether :func:`predict_held_out_run` has nothing to do."""
    return _record_of(*_picks_file(ensemble, pipeline, project, ensemble.run_named(name))) is not None


def _picks_file(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, held_out: HeldOutRun
) -> tuple[Path, dict[str, Any]]:
    """Return where a run's picks belong, and what they must have been made with."""
    store = project.run(held_out.name, "train").tomogram_path(ensemble.tomo_type)
    content = {
        "pipeline_sha256": pipeline_of(held_out.members, pipeline).digest,
        "tomogram": identity_of(store),
    }
    return ensemble.folder / FOLDER / f"{held_out.name}.csv", content


def _record_of(path: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    record = record_if_done(path, content)
    return record if record is not None and isinstance(record.get("seconds"), (int, float)) else None


def pipeline_of(members: Sequence[int], pipeline: Pipeline) -> Pipeline:
    """Return the Pipeline of the average of some members alone."""
    return pipeline.of_members([pipeline.members[index] for index in members])


def engine_of(ensemble: EnsembleFolder, members: Sequence[int], own: Pipeline, device: str) -> TorchEngine:
    """Return the average of some members as an engine; `own` is their Pipeline, see :func:`pipeline_of`."""
    module = Ensemble.of_pipeline([ensemble.networks[index] for index in members], own)
    return TorchEngine(module, own.tiling.window_zyx, device=device)


def record_if_done(path: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record beside the picks at `path` if it agrees with `content`, None where they must be made."""
    try:
        record = read(path.with_suffix(".json"))
    except (OSError, Malformed):
        return None
    same = isinstance(record, dict) and all(record.get(name) == value for name, value in content.items())
    return record if same and path.is_file() else None


def identity_of(store: Path) -> str:
    """Return what tells a tomogram from another: its place, shape, voxel size and bytes on disk."""
    info = describe_tomogram(store)
    return f"{info.path.resolve()} {'x'.join(map(str, info.shape_zyx))} {info.voxel_A:.6f} {info.n_bytes}"
