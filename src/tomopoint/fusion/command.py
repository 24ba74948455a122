"""The command ``fuse``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tomopoint.command import CommandResult
from tomopoint.errors import DataError

if TYPE_CHECKING:
    from tomopoint.fusion.fuse import Judgement

RECORD_NAME = "fusion.json"


def fuse(
    sources: list[str],
    /,
    *,
    out: Path,
    weights: str = "",
    radius_scale: float = 0.5,
    scale: Literal["calibrated", "as-is", "rank"] | None = None,
    truth: Path | None = None,
    exclusive: bool | None = None,
    particles: Path | None = None,
    data: Path | None = None,
    channels: str = "",
    tomo_type: str = "denoised",
) -> CommandResult:
    """Fuse picks of several models, also of other programs, into one table.

    Picks of different sources that lie together become one, at their mean, scored by how many sources found it and how
    sure they were; docs/fusing.md has the formula. Written are picks.csv, pipeline.json, submission.csv and
    fusion.json, so that rethreshold, tune, score, report and export-picks go on from there. With --truth scores are
    calibrated, and each source and the fusion are scored on runs that had no part in calibration and thresholds.

    Parameters
    ----------
    sources
        Two or more of: picks.csv or the folder of a prediction; another table.csv; NAME=FILE.star or a folder of
        NAME.star, NAME the particle; maps.zarr, the score maps of a segmentation (docs/fusing.md).
    out
        Folder to write.
    weights
        How much each source counts, e.g. 1,0.7; all the same unless given.
    radius_scale
        Picks nearer than this share of the particle's radius are one.
    scale
        calibrated: scores become precisions, by the truth. as-is: averaged as they are. rank: the k-th best pick of one
        source is worth what the k-th best of another is. Default calibrated with --truth, else as-is.
    truth
        Folder of true picks of some of the runs, as for tomopoint score.
    exclusive
        One class per place in submission.csv, see tomopoint rethreshold; default where the metric is not the
        competition's.
    particles
        pipeline.json, or particles.yaml, with the particles and their radii; default the pipeline.json beside the
        first picks that have one.
    data
        Project folder with the tomograms: STAR files count in them, class maps are checked by them.
    channels
        What the channels of class maps are, where they do not say it, e.g. background,ribosome,apo-ferritin.
    tomo_type
        Reconstruction in --data whose size is taken.
    """
    import json

    from tomopoint.data.channels import parse_channels
    from tomopoint.data.sources.find import find_all
    from tomopoint.data.sources.tree import Choice
    from tomopoint.data.tables import write_pick_table
    from tomopoint.data.truth import is_simulated_truth, read_truth
    from tomopoint.files import check_output, write_atomically
    from tomopoint.formats.frames import Tomograms
    from tomopoint.fusion.clusters import VOTES
    from tomopoint.fusion.fuse import FusionOptions, fuse_sources, record_of
    from tomopoint.fusion.sources import (
        PICKS_NAME,
        check_places,
        check_runs,
        find_source,
        fused_pipeline,
        read_source,
    )
    from tomopoint.inference.folder import SUBMISSION_NAME
    from tomopoint.inference.submission import submission_of
    from tomopoint.pipeline import PIPELINE_NAME

    # What was asked for.
    places = [find_source(text) for text in sources]
    check_places(places)
    shares = _weights(weights, len(places))
    if not 0 < radius_scale <= 2:
        raise DataError(f"--radius-scale must lie in (0, 2], got {radius_scale}; a true centre is found within 0.5")
    scale = scale or ("calibrated" if truth else "as-is")
    if scale == "calibrated" and truth is None:
        raise DataError("--scale calibrated takes the truth of some runs, --truth FOLDER; without it: as-is or rank")
    if channels and not any(place.kind == "maps" for place in places):
        raise DataError("--channels says what class maps hold, and no source is one; leave it out")
    read = [path for place in places for path in place.files.values() if path.is_file()]
    beside = [place.pipeline_path for place in places if place.pipeline_path]
    files = {name: out / name for name in (PICKS_NAME, PIPELINE_NAME, SUBMISSION_NAME, RECORD_NAME)}
    for path in files.values():
        check_output(path, [*read, *beside, *([particles] if particles else [])])

    # What there is.
    tomograms = Tomograms(find_all(data, Choice(tomo_type=tomo_type))) if data else None
    pipeline = fused_pipeline(places, particles, tomograms)
    found = [read_source(place, pipeline, tomograms, parse_channels(channels)) for place in places]
    check_runs(found)
    points = read_truth(truth, pipeline.particle_names) if truth else None

    options = FusionOptions(shares, radius_scale, scale)
    fusion = fuse_sources(found, pipeline, options, points)

    # What is left.
    simulated = truth is not None and is_simulated_truth(truth)
    record = record_of(fusion, found, options, simulated)
    write_pick_table(fusion.picks, files[PICKS_NAME])
    fusion.pipeline.save(files[PIPELINE_NAME])
    counts = submission_of(files[PICKS_NAME], fusion.pipeline, files[SUBMISSION_NAME], exclusive)
    write_atomically(files[RECORD_NAME], json.dumps(record, indent=2) + "\n")

    letters = [_letter(index) for index in range(len(found))]
    lines = [
        f"{letter}: {source.place.name}, weight {share:g}: {len(source.picks)} picks in {len(source.runs)} runs"
        for letter, source, share in zip(letters, found, shares, strict=True)
    ]
    lines += [note for source in found for note in source.notes]
    all_runs = set().union(*(source.runs for source in found))
    single = [run for run in all_runs if sum(run in source.runs for source in found) == 1]
    if single:
        lines.append(f"{len(single)} of {len(all_runs)} runs are in one source only; its picks stand as they are")
    for letter, source in zip(letters, found, strict=True):
        if missing := sorted(set(fusion.picks["particle_type"]) - set(source.picks["particle_type"])):
            lines.append(f"{letter} has no pick of {', '.join(missing)} in any run, and no vote on it")
    votes = fusion.picks[VOTES].value_counts().sort_index()
    by_votes = ", ".join(f"{count} by {n} of {len(found)}" for n, count in votes.items())
    lines.append(f"{out}: {len(fusion.picks)} fused picks (found {by_votes}), {sum(counts.values())} above thresholds")
    if fusion.judgement:
        lines.append(_judgement_text(fusion.judgement, pipeline.particle_names, letters, simulated))
    else:
        lines.append(
            "thresholds: as many picks per run as the sources hand on; nothing says how good they are. Where there is "
            f"truth: --truth, or tomopoint tune {files[PICKS_NAME]} --truth PICKS"
        )
    rows = [f"  {p.name:22} threshold {p.threshold:.3f}  {counts[p.name]} picks" for p in fusion.pipeline.particles]
    figures = {"out": str(out), "n_submitted": sum(counts.values()), "counts": counts, **record}
    return CommandResult("\n".join([*lines, *rows]), figures)


def _weights(text: str, n_sources: int) -> tuple[float, ...]:
    """Read ``1,0.7``: one positive number per source."""
    if not text.strip():
        return (1.0,) * n_sources
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise DataError(f"--weights takes one number per source, e.g. 1,0.7; got {text!r}") from error
    if len(shares) != n_sources:
        raise DataError(f"--weights takes one number per source, of which there are {n_sources}; got {text!r}")
    if not all(0 < share < 1e6 for share in shares):
        raise DataError(f"weights are positive numbers, got {text!r}; leave out a source that shall not count")
    return shares


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"S{index + 1}"


def _judgement_text(judgement: Judgement, names: tuple[str, ...], letters: list[str], simulated: bool) -> str:
    """Return the scores of each source and of the fusion as a table for people."""
    worths = [*judgement.alone, judgement.fused]
    scores = [worth.shown for worth in worths]
    head = f"{'F4':22}" + "".join(f"{title:>9}" for title in [*letters, "fused"]) + f"{'true':>7}"
    rows = [
        f"{name:22}"
        + "".join(f"{score.per_class[name].f_beta:9.4f}" for score in scores)
        + f"{scores[-1].per_class[name].n_truth:7d}"
        for name in names
    ]
    kind = "simulated score" if simulated else "score"
    rows.append(f"{kind:22}" + "".join(f"{score.score:9.4f}" for score in scores))
    n_runs = len(judgement.runs)
    if judgement.fused.left_out is None:
        return "\n".join([head, *rows, "one run alone: chosen and scored on the same run, which flatters all of them"])
    n_groups = len(judgement.fused.tuning.calibration.groups)
    gain = judgement.gain()["score"]
    return "\n".join(
        [
            head,
            *rows,
            f"of {n_runs} runs in {n_groups} groups, each scored with what was chosen on the other groups",
            f"fused less {letters[judgement.best]}, the best alone: {gain.difference:+.4f} "
            f"(95 % of draws {gain.low:+.4f} to {gain.high:+.4f})",
        ]
    )
