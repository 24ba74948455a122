"""A search as a table for people, as CSV, as a recipe, and as a page in the style of the report."""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tomopoint import __version__
from tomopoint.data.colours import BLUE, ORANGE
from tomopoint.evaluation.figures import Line, draw_scores
from tomopoint.evaluation.page import Markup, key, number, page, panels, paragraph, section, subheading, table, tiles
from tomopoint.experiments.search import REASON, RESULT, Search, value_text
from tomopoint.files import write_atomically

if TYPE_CHECKING:
    import optuna

SHOWN = 10
"""Trials that the table for people has; trials.csv and the page have all."""

ENDED = {"COMPLETE": "finished", "PRUNED": "given up", "FAIL": "failed", "RUNNING": "unfinished", "WAITING": "waiting"}
IMPORTANCE_NOTE = (
    "Optuna's importance (PED-ANOVA): how far the best tenth of the finished trials differ from all of them in this "
    "option; shares of 1. It says where the search found a difference, not which value is best."
)
FLATTERY = (
    "The best of many trials is partly the luckiest: its score flatters it. Train it with other seeds against the base "
    "(tomopoint compare) before you believe the gain."
)


def importances(study: optuna.Study) -> dict[str, float]:
    """Return Optuna's importance of every option, the largest first; nothing where the trials are too few to say."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return dict(optuna.importance.get_param_importances(study))
        except (UserWarning, ValueError, RuntimeError):  # too few, or all alike
            return {}


def best_trial(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """Return the best finished trial; None where there is none."""
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    return max(finished, key=lambda trial: trial.value or 0.0) if finished else None


def ranked(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return all trials, finished ones first, the best first; then in order."""

    def rank(trial: optuna.trial.FrozenTrial) -> tuple[bool, float, int]:
        finished = trial.state.name == "COMPLETE"
        return not finished, -(trial.value or 0.0) if finished else 0.0, trial.number

    return sorted(study.get_trials(deepcopy=False), key=rank)


def states_text(study: optuna.Study) -> str:
    """Return how many trials ended in which way."""
    counts = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
    return ", ".join(f"{counts[state]} {word}" for state, word in ENDED.items() if counts[state]) or "no trial"


def is_simulated(study: optuna.Study) -> bool:
    """Tell whether the tomograms were simulated, as far as finished trials say."""
    results = [trial.user_attrs.get(RESULT) for trial in study.get_trials(deepcopy=False)]
    return any(result["simulated"] for result in results if result is not None)


def search_text(search: Search, study: optuna.Study) -> str:
    """Return the best trials, and what matters, as tables for people."""
    kind = "simulated " if is_simulated(study) else ""
    names = [dimension.name for dimension in search.dimensions]
    widths = [max(len(name), 10) + 2 for name in names]
    heads = "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    lines = [f"{states_text(study)}; {kind}out-of-fold score; {search.material.experiment.length}"]
    lines.append(f"{'trial':>6}{'score':>9}{heads}  ended")
    for trial in ranked(study)[:SHOWN]:
        options = search.options_of(trial.params)
        values = [value_text(options.get(name, "-")) for name in names]
        cells = "".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        lines.append(f"{trial.number:>6}{number(_score(trial), 4):>9}{cells}  {_how_ended(trial)}")
    shares = importances(study)
    if shares:
        lines.append("importance: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))
    return "\n".join([*lines, FLATTERY])


def write_search(search: Search, study: optuna.Study) -> None:
    """Write ``trials.csv``, ``report.html`` and, where a trial is finished, ``best.yaml``."""
    best = best_trial(study)
    if best is not None:
        search.recipe_of(best.params, f"trial {best.number}", full_length=True).save(search.out / "best.yaml")
    names = [dimension.name for dimension in search.dimensions]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "ended", "score", "last_epoch", *names, "steps", "minutes", "failed"])
    for trial in study.get_trials(deepcopy=False):
        result = trial.user_attrs.get(RESULT)
        spent = ["", ""] if result is None else [result["steps"], round(result["seconds"] / 60, 2)]
        options = search.options_of(trial.params)
        values = [options.get(name, "") for name in names]
        score = "" if _score(trial) is None else f"{_score(trial):.6g}"
        last_epoch = max(trial.intermediate_values, default="")
        row = [trial.number, ENDED[trial.state.name], score, last_epoch, *values, *spent]
        writer.writerow([*row, trial.user_attrs.get(REASON, "")])
    write_atomically(search.out / "trials.csv", text.getvalue())
    write_atomically(search.out / "report.html", search_page(search, study))


def search_page(search: Search, study: optuna.Study) -> str:
    """Return the search as a page that needs no other file."""
    simulated, best = is_simulated(study), best_trial(study)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    kind = "simulated out-of-fold score" if simulated else "out-of-fold score"
    values = [(str(len(study.get_trials(deepcopy=False))), f"trials: {states_text(study)}")]
    if best is not None:
        values.insert(0, (number(best.value, 4), f"{kind} of the best, trial {best.number}"))
    parts = [Markup(tiles(values).html), paragraph(FLATTERY, soft=True)]
    if simulated:
        parts.append(paragraph("Simulated tomograms: these figures say nothing about the leaderboard.", soft=True))
    if best is not None:
        rows = [(name, value_text(value)) for name, value in search.options_of(best.params).items()]
        parts.append(section("The best recipe", table(("option", "value"), rows), paragraph("Written to best.yaml.")))
        parts.append(_history_section(study, kind))
    shares = importances(study)
    if shares:
        rows = [(name, number(share)) for name, share in shares.items()]
        note = paragraph(IMPORTANCE_NOTE, soft=True)
    else:
        rows, note = [], paragraph("Too few finished trials, or too much alike, to say which option matters.")
    parts.append(section("What matters", *([table(("option", "importance"), rows)] if rows else []), note))
    parts.append(_trials_section(search, study))
    experiment = search.material.experiment
    subtitle = f"{experiment.length}; trained on {search.data.resolve()}; made {now} by tomopoint {__version__}"
    return page("tomopoint search", "SIMULATED" if simulated else "", subtitle, parts)


def _history_section(study: optuna.Study, kind: str) -> Markup:
    """Scores over the trials, and the epochs that those given up did not go beyond."""
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    numbers, scores = [trial.number for trial in finished], [trial.value or 0.0 for trial in finished]
    so_far: Sequence[float] = list(accumulate(scores, max))
    parts = [
        subheading("Score over the trials"),
        key([("finished trial", BLUE), ("best so far", ORANGE)]),
        panels(draw_scores(kind, "trial", [Line(numbers, so_far, ORANGE), Line(numbers, scores, BLUE, joined=False)])),
    ]
    epochs = [
        Line(
            list(trial.intermediate_values),
            list(trial.intermediate_values.values()),
            ORANGE if trial.state.name == "PRUNED" else BLUE,
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.intermediate_values
    ]
    if epochs:
        parts += [
            subheading("Score over the epochs of the first network on its first fold"),
            key([("finished, failed or unfinished", BLUE), ("given up", ORANGE)]),
            panels(draw_scores("held-out runs of the fold", "epoch", epochs)),
        ]
    return section("History", *parts)


def _trials_section(search: Search, study: optuna.Study) -> Markup:
    names = [dimension.name for dimension in search.dimensions]
    rows = [
        (
            *(trial.number, number(_score(trial), 4), max(trial.intermediate_values, default="-")),
            *(value_text(search.options_of(trial.params).get(name, "-")) for name in names),
            _how_ended(trial),
        )
        for trial in ranked(study)
    ]
    head = ("trial", "score", "last scored epoch", *names, "ended")
    return section("Trials", table(head, rows, text=(len(head) - 1,)))


def _score(trial: Any) -> float | None:
    """Return the score of a finished trial: Optuna gives those that were given up the last one of their epochs."""
    return trial.value if trial.state.name == "COMPLETE" else None


def _how_ended(trial: optuna.trial.FrozenTrial) -> str:
    reason = trial.user_attrs.get(REASON)
    return ENDED[trial.state.name] + ("" if reason is None else f": {reason}")
