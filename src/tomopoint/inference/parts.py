"""Part files: the picks of one run, all above the floor, marked with what made them and with their own checksum.

A part is a pick table with one line before it, ``# {"graph_sha256": ..., "table_sha256": ..., "tomo_type": ...}``. Its
presence means that the run is done; what is cut, changed, or of another graph is not taken for a part.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from tomopoint.data.tables import pick_table_text, read_pick_table
from tomopoint.errors import DataError
from tomopoint.files import write_atomically
from tomopoint.strict_json import build, parse, read_bytes, reading

FIX = "remove it, and its run is predicted again"


@dataclass(frozen=True)
class PartOrigin:
    """What made a part: the graph, by its SHA-256, and the reconstruction that it read."""

    graph_sha256: str
    tomo_type: str


@dataclass(frozen=True)
class _Header(PartOrigin):
    table_sha256: str


def part_path(folder: Path, run: str) -> Path:
    """Return where the picks of a run are."""
    return folder / f"{run}.csv"


def write_part(folder: Path, run: str, picks: pd.DataFrame, origin: PartOrigin) -> None:
    """Write the picks of one run, whole or not at all."""
    table = pick_table_text(picks)
    header = _Header(**asdict(origin), table_sha256=hashlib.sha256(table.encode()).hexdigest())
    write_atomically(part_path(folder, run), f"# {json.dumps(asdict(header), sort_keys=True)}\n{table}")


def load_part(path: Path) -> tuple[PartOrigin, pd.DataFrame]:
    """Read the picks of one run, and what made them, whatever it was.

    Raises
    ------
    DataError
        It is no part, or damaged.
    """
    with reading(path, DataError, "is no part of a prediction", FIX):
        first, _, table = read_bytes(path).partition(b"\n")
        header = build(_Header, parse(first.removeprefix(b"# ")))
    if hashlib.sha256(table).hexdigest() != header.table_sha256:
        raise DataError(f"{path} is damaged (its checksum differs); {FIX}")
    return PartOrigin(header.graph_sha256, header.tomo_type), read_pick_table(path, skip_lines=1)


def read_part(path: Path, origin: PartOrigin) -> pd.DataFrame:
    """Read the picks of one run.

    Raises
    ------
    DataError
        It is damaged, or was made by another graph or from another reconstruction.
    """
    made_by, picks = load_part(path)
    if made_by != origin:
        raise DataError(f"{path} was made with another graph or from another reconstruction; {FIX}")
    return picks
