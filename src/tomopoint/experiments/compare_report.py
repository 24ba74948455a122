"""A comparison as a table for people, as CSV, and as a page in the style of the report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from tomopoint import __version__
from tomopoint.evaluation.epochs import SCORE_OF, read_epoch_scores
from tomopoint.evaluation.figures import draw_epoch_scores, networks_of
from tomopoint.evaluation.page import Markup, key, page, panels, paragraph, section, table, tiles
from tomopoint.experiments.compare import Comparison
from tomopoint.experiments.experiment import BASE_NAME
from tomopoint.experiments.gains import RULE, SCORE, Gain
from tomopoint.files import write_atomically

Gains = Mapping[str, Mapping[str, Gain]]

EVERY_PARTICLE = "score of all"
"""Title of the panel beside those of the particles."""


def comparison_text(found: Comparison, gains: Gains) -> str:
    """Return the comparison as a table for people."""
    width = max(10, *(len(name) for name in gains)) + 2
    n = max(len(name) for name in (*found.particles, SCORE)) + 2
    lines = [f"{found.kind}; {found.experiment.length}"]
    lines.append(f"{'variant':{width}}{'particle':{n}}{'F4':>8}{'sd':>8}{'gain':>9}{'sd':>8}{'interval':>20}  seeds")
    for name, subjects in gains.items():
        for subject, item in subjects.items():
            seeds = len(item.values) if name == BASE_NAME else len(item.gains)
            verdict = "" if name == BASE_NAME or subject != SCORE else f"  {item.verdict}"
            lines.append(
                f"{name:{width}}{subject:{n}}{_figure(item.mean):>8}{_figure(item.spread):>8}"
                f"{_signed(item.gain):>9}{_figure(item.gain_spread):>8}{_interval(item):>20}{seeds:>7}{verdict}"
            )
    lines += [f"FAILED {label}: {reason}" for label, reason in found.failed.items()]
    return "\n".join([*lines, RULE])


def write_tables(found: Comparison, gains: Gains, folder: Path) -> None:
    """Write ``scores.csv``, a line per training, and ``comparison.csv``, a line per variant and particle."""
    scores: list[dict[str, Any]] = []
    for name, own in found.trainings.items():
        for seed, training in own.items():
            result = found.results[name].get(seed)
            row: dict[str, Any] = {"variant": name, "seed": seed, "failed": found.failed.get(training.label, "")}
            if result is not None:
                row |= {"score": result.score, "steps": result.steps, "minutes": round(result.seconds / 60, 2)}
                row |= {SCORE_OF + particle: value for particle, value in result.per_class.items()}
            scores.append(row)
    of_particles = [SCORE_OF + name for name in found.particles]
    _write(folder / "scores.csv", ["variant", "seed", "score", *of_particles, "steps", "minutes", "failed"], scores)
    compared = [
        {
            **{"variant": name, "subject": subject, "mean": item.mean, "spread": item.spread, "gain": item.gain},
            **{"gain_spread": item.gain_spread, "low": item.low, "high": item.high, "pairs": len(item.gains)},
            "verdict": item.verdict if name != BASE_NAME and subject == SCORE else "",
        }
        for name, subjects in gains.items()
        for subject, item in subjects.items()
    ]
    _write(folder / "comparison.csv", list(compared[0]), compared)


def comparison_page(found: Comparison, gains: Gains) -> str:
    """Return the comparison as a page that needs no other file."""
    badge = "SIMULATED" if found.simulated else ""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    subtitle = f"trained on {found.data.resolve()}; made {now} by tomopoint {__version__}"
    heads = [
        (_signed(own[SCORE].gain), f"{name} less {BASE_NAME}: {own[SCORE].verdict}")
        for name, own in gains.items()
        if name != BASE_NAME
    ]
    parts = [Markup(tiles([(_figure(gains[BASE_NAME][SCORE].mean), f"{BASE_NAME}, {found.kind}"), *heads]).html)]
    if found.simulated:
        parts.append(paragraph("Simulated tomograms: these figures say nothing about the leaderboard.", soft=True))
    parts += [_scores_section(found, gains), _classes_section(found, gains), _trainings_section(found)]
    if found.failed:
        rows = list(found.failed.items())
        parts.append(section("Failed", table(("training", "reason"), rows, text=(1,))))
    parts += _epoch_sections(found)
    return page("tomopoint compare", badge, subtitle, parts)


def _scores_section(found: Comparison, gains: Gains) -> Markup:
    head = ("variant", "score", "spread", "gain", "spread of gains", "interval", "pairs", "")
    rows = []
    for name, own in gains.items():
        item = own[SCORE]
        of_gain = (_signed(item.gain), _figure(item.gain_spread), _interval(item), len(item.gains), item.verdict)
        rows.append((name, _figure(item.mean), _figure(item.spread), *(of_gain if name != BASE_NAME else ("",) * 5)))
    note = f"{found.kind.capitalize()}; {found.experiment.length}. Spread: standard deviation over seeds."
    return section("Score", table(head, rows, text=(7,)), paragraph(note, soft=True), paragraph(RULE, soft=True))


def _classes_section(found: Comparison, gains: Gains) -> Markup:
    head = ("variant", *found.particles)
    rows = [
        (
            name,
            *(
                _figure(own[subject].mean)
                + (
                    ""
                    if name == BASE_NAME
                    else f" ({_signed(own[subject].gain)}, sd {_figure(own[subject].gain_spread)})"
                )
                for subject in found.particles
            ),
        )
        for name, own in gains.items()
    ]
    note = (
        "Mean over seeds; in brackets gain and standard deviation of the gains. Of so many figures some stand out by "
        "luck, so only the score gets a verdict."
    )
    return section("F4 per particle", table(head, rows), paragraph(note, soft=True))


def _trainings_section(found: Comparison) -> Markup:
    rows = []
    for name, own in found.trainings.items():
        for seed in own:
            result = found.results[name].get(seed)
            figures = ("-", "-", "-") if result is None else (_figure(result.score), result.steps, result.seconds / 60)
            minutes = figures[2] if isinstance(figures[2], str) else f"{figures[2]:.1f}"
            rows.append((name, seed, figures[0], figures[1], minutes))
    note = "Steps and minutes of all networks on all folds; minutes depend on the machine and on what else it does."
    return section(
        "Trainings", table(("variant", "seed", "score", "steps", "minutes"), rows), paragraph(note, soft=True)
    )


def _epoch_sections(found: Comparison) -> list[Markup]:
    """F4 of held-out runs over the epochs: every variant against the base, a line per seed, fold and network."""
    members = {name: _epochs_of(found, name) for name in found.trainings}
    sections = []
    for name in list(members)[1:]:
        both = {**members[BASE_NAME], **members[name]}
        if not members[name]:
            continue
        note = "A line per seed, fold and network, each epoch at its own best threshold: flattering, for all alike."
        drawn = panels(draw_epoch_scores((EVERY_PARTICLE, *found.particles), both))
        sections.append(section(f"F4 per epoch: {name}", paragraph(note, soft=True), key(networks_of(both)), drawn))
    if not sections:
        note = "No recipe scores its held-out runs while it trains (fit.score_every), so there are no curves to show."
        sections.append(section("F4 per epoch", paragraph(note)))
    return sections


def _epochs_of(found: Comparison, name: str) -> dict[str, pd.DataFrame]:
    """Return the scored epochs of all networks of a variant, by names that end with that of the variant."""
    return {
        f"seed{seed}/{member}/{name}": scores.assign(**{SCORE_OF + EVERY_PARTICLE: scores["score"]})
        for seed, training in found.trainings[name].items()
        for member, scores in read_epoch_scores(training.folder).items()
    }


def _write(path: Path, head: list[str], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    write_atomically(path, text.getvalue())


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.4f}"


def _interval(item: Gain) -> str:
    return "-" if math.isnan(item.low) else f"{item.low:+.4f} to {item.high:+.4f}"
