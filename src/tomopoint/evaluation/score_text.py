"""A score as a table for people and as plain JSON types for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tomopoint.evaluation.score import Score


def score_figures(score: Score) -> dict[str, Any]:
    """Return a score as plain JSON types."""
    return {
        "score": score.score,
        "per_class": {name: asdict(item) for name, item in score.per_class.items()},
        "per_run": {run: score.of_runs([run]).score for run in score.runs},
    }


def score_text(score: Score, simulated: bool = False) -> str:
    """Return a score as a table for people; `simulated` says that the tomograms were."""
    head = f"{'particle':22}{'weight':>7}{'F4':>9}{'precision':>11}{'recall':>9}"
    head += f"{'TP':>7}{'FP':>7}{'FN':>7}{'error A':>9}"
    lines = [head]
    for name, item in score.per_class.items():
        error = "-" if item.localisation_A is None else f"{item.localisation_A:.1f}"
        lines.append(
            f"{name:22}{item.weight:7g}{item.f_beta:9.4f}{item.precision:11.4f}{item.recall:9.4f}"
            f"{item.tp:7d}{item.fp:7d}{item.fn:7d}{error:>9}"
        )
    runs = ", ".join(f"{run} {score.of_runs([run]).score:.4f}" for run in score.runs)
    return "\n".join([*lines, f"per run: {runs}", f"{'simulated ' if simulated else ''}score: {score.score:.4f}"])
