"""Picks of a copick project, see docs/formats.md: its layout is read and written here, the package is not needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.data.picks import read_picks
from tomopoint.data.project import PICKS_FOLDER, RUNS_FOLDER
from tomopoint.data.sources.copick import find_overlay
from tomopoint.data.tables import COORDINATES
from tomopoint.data.truth import find_pick_folders
from tomopoint.errors import DataError
from tomopoint.files import is_plain_name, write_atomically
from tomopoint.formats.frames import Tomograms
from tomopoint.strict_json import build, read, reading

SEPARATOR = "_"


@dataclass(frozen=True)
class _Owner:
    user_id: str
    session_id: str | int


def write_copick(picks: pd.DataFrame, out: Path, user: str, session: str) -> list[Path]:
    """Write ``<out>/ExperimentRuns/<run>/Picks/<user>_<session>_<particle>.json``, Angstrom from the corner.

    Raises
    ------
    DataError
        A user, session or particle with an underscore, which separates the three.
    """
    for what, name in (
        ("--user", user),
        ("--session", session),
        *(("particle", n) for n in set(picks["particle_type"])),
    ):
        if SEPARATOR in name or not is_plain_name(name):
            raise DataError(
                f"{what} {name!r} cannot be part of a copick file's name; it may hold no {SEPARATOR!r} or /"
            )
    paths = []
    identity = np.eye(4).tolist()
    for (run, name), rows in picks.groupby(["experiment", "particle_type"], sort=True):
        points = rows[list(COORDINATES)].to_numpy(dtype=np.float64).tolist()
        scores = rows["score"].tolist() if "score" in rows else [None] * len(rows)
        content = {
            "pickable_object_name": name,
            "user_id": user,
            "session_id": session,
            "run_name": run,
            "voxel_spacing": None,
            "unit": "angstrom",
            "points": [
                {"location": dict(zip(COORDINATES, point, strict=True)), "transformation_": identity, "instance_id": 0}
                | ({} if score is None else {"score": score})
                for point, score in zip(points, scores, strict=True)
            ],
            "trust_orientation": False,
        }
        folder = out / RUNS_FOLDER / str(run) / PICKS_FOLDER
        paths.append(folder / f"{user}{SEPARATOR}{session}{SEPARATOR}{name}.json")
        write_atomically(paths[-1], json.dumps(content))
    return paths


def read_copick(root: Path, tomograms: Tomograms, user: str | None, session: str | None) -> pd.DataFrame:
    """Read the picks of one user and session from a copick project, its overlay, or a folder that holds one.

    Returns
    -------
    DataFrame
        ``experiment, particle_type, x, y, z``, Angstrom from the corner.

    Raises
    ------
    DataError
        No picks of them; or several users or sessions, and it is not said whose.
    """
    files: dict[tuple[str, str], list[Path]] = {}
    project = find_overlay(root)
    for folder in find_pick_folders(project[0] if project else root).values():
        for path in sorted(folder.glob("*.json")):
            with reading(path, DataError, "is not a picks file", "expected JSON with user_id and session_id"):
                owner = build(_Owner, read(path), ignore_unknown=True)
            whose = (owner.user_id, str(owner.session_id))
            if user in (None, whose[0]) and session in (None, whose[1]):
                files.setdefault(whose, []).append(path)
    if len(files) != 1:
        found = "; ".join(f"--user {u} --session {s}" for u, s in sorted(files))
        asked = f"of {user or 'any user'}, session {session or 'any'}"
        raise DataError(
            f"{root} holds picks of several users or sessions; say whose: {found}"
            if files
            else f"{root} holds no picks {asked}; name others with --user and --session"
        )
    tables = []
    for path in next(iter(files.values())):
        picks = read_picks(path)
        run = tomograms.run(picks.run, path)
        points = pd.DataFrame(picks.points_xyz_A, columns=list(COORDINATES))
        tables.append(points.assign(experiment=run, particle_type=picks.particle))
    return pd.concat(tables, ignore_index=True)
