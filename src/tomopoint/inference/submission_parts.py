"""A submission against the parts that it was joined from: are they whole, of one prediction, and all it holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.data.selection import select_picks
from tomopoint.data.tables import COORDINATES
from tomopoint.errors import DataError
from tomopoint.inference.events import Event
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.parts import PartOrigin, load_part, part_path
from tomopoint.inference.submission_rows import KEY, MAX_LISTED, Faults, at_lines, listed, place_of
from tomopoint.pipeline import PIPELINE_NAME, Pipeline, has_competition_metric


def read_parts(
    paths: Sequence[Path], call: Sequence[Event], faults: Faults
) -> tuple[dict[str, pd.DataFrame], PartOrigin | None]:
    """Return the picks of each run whose part is whole and of the prediction's graph, and what made them.

    The graph is the one that the log names; without a log, the one that most parts are of, as the reconstruction is.
    """
    loaded: dict[Path, tuple[PartOrigin, pd.DataFrame]] = {}
    damaged = []
    for path in paths:
        try:
            loaded[path] = load_part(path)
        except DataError as error:
            damaged.append(str(error))
    faults.errors += damaged[:MAX_LISTED]
    if len(damaged) > MAX_LISTED:
        faults.errors.append(f"{len(damaged) - MAX_LISTED} more parts are damaged or of another version")
    graph = call[0].graph_sha256 if call else ""
    origins = Counter(origin for origin, _ in loaded.values() if not graph or origin.graph_sha256 == graph)
    expected = origins.most_common(1)[0][0] if origins else PartOrigin(graph, "")
    faulty: defaultdict[str, list[Path]] = defaultdict(list)
    for path, (origin, picks) in loaded.items():
        if origin.graph_sha256 != expected.graph_sha256:
            made = f"by the graph {origin.graph_sha256[:12]}, the prediction's is {expected.graph_sha256[:12]}"
            faulty[f"made {made}"].append(path)
        elif origin != expected:
            made = f"from the reconstruction {origin.tomo_type!r}, the others from {expected.tomo_type!r}"
            faulty[f"made {made}"].append(path)
        elif others := set(picks["experiment"]) - {path.stem}:
            faulty[f"made of {listed(sorted(others))} and renamed"].append(path)
    for fault, where in faulty.items():
        was = "was" if len(where) == 1 else "were"
        faults.errors.append(
            f"{listed(map(str, where))} {was} {fault}; remove what does not belong there and run the same `tomopoint "
            "predict` command again"
        )
    wrong = {path for where in faulty.values() for path in where}
    return {path.stem: picks for path, (_, picks) in loaded.items() if path not in wrong}, expected if origins else None


def compare(
    path: Path,
    rows: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    folder: PredictionFolder,
    pipeline: Pipeline,
    faults: Faults,
) -> None:
    """Compare the rows with the picks of all parts that are handed on; each has its like, once.

    Two classes in one place are either kept or not, as `tomopoint rethreshold --exclusive` decides.
    """
    extra, lacking = _differences(rows, parts, folder, pipeline, None)
    if len(extra) or len(lacking):
        other_way = has_competition_metric(pipeline.particles)
        if not any(map(len, _differences(rows, parts, folder, pipeline, other_way))):
            return
    fix = "run the same `tomopoint predict` command again, which joins them anew, or `tomopoint rethreshold`"
    if len(extra):
        first = extra.iloc[0]
        faults.errors.append(
            f"{at_lines(path, extra)}: {first['particle_type']} of {first['experiment']} at {place_of(first)} is in no "
            f"part, or below its threshold of {PIPELINE_NAME}, or in the place of another class; {fix}"
        )
    if len(lacking):
        first = lacking.iloc[0]
        threshold = pipeline.thresholds[first["particle_type"]]
        faults.errors.append(
            f"{path} lacks {len(lacking)} picks of the parts, the first at {first['part']}, line "
            f"{int(first['line_part'])}: {first['particle_type']} at {place_of(first)}, above its threshold of "
            f"{threshold:g}; {fix}"
        )


def _differences(
    rows: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    folder: PredictionFolder,
    pipeline: Pipeline,
    exclusive: bool | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that no part gives, and the picks of the parts that no row stands for."""
    tables = [rows.head(0).assign(part="")]  # there may be no parts
    for run, picks in parts.items():
        numbered = picks.assign(line=np.arange(len(picks)) + 3)  # two lines come before
        selected = select_picks(numbered, pipeline.particles, exclusive)
        tables.append(selected[[*KEY, "line"]].assign(part=str(part_path(folder.parts_path, run))))
    expected = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    both = []
    for table in (rows, expected):
        with np.errstate(over="ignore"):  # coordinates beyond all measure
            keyed = table.assign(**{name: table[name].astype(np.float64).round(3) for name in COORDINATES})
        both.append(keyed.assign(copy=keyed.groupby(KEY).cumcount()))
    joined = both[0].merge(both[1], how="outer", on=[*KEY, "copy"], suffixes=("", "_part"), indicator="where")
    extra = joined[joined["where"] == "left_only"].sort_values("line")
    lacking = joined[joined["where"] == "right_only"].sort_values(["part", "line_part"])
    return extra, lacking
