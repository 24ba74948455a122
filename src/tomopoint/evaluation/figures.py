"""The report's curves and histograms, one small panel per particle, each a data URI: the page needs no other file.

Figures are built without pyplot: nothing global, no display, no figure left open. They are SVG without a background,
and their ink follows the reader's choice of a light or a dark page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from tomopoint.evaluation.epochs import SCORE_OF

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1f2933", "#cbd2d9"
IN_THE_DARK = {INK: "#e6e9ed", FAINT: "#3d4752"}
"""What ink becomes on a dark page; the colours of curves are readable on both."""

SERIES_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
"""Of several submissions, in order."""

RIGHT, WRONG = BLUE, ORANGE
CURVE_KEY = (("F4 (thin: per fold)", BLUE), ("recall, dashed", GREEN), ("precision, dotted", VERMILION))
PANEL_INCHES = (3.6, 2.3)
BINS = 25
COLUMNS = 3
WIDEST_OUTLINE = 3.0

Panels = list[tuple[str, str]]
"""Description and data URI of each."""


@dataclass(frozen=True)
class Series:
    """Values of which a histogram is drawn.

    Attributes
    ----------
    values
        ``(N,)``.
    colour
        Of its bars, or of its outline.
    outline
        Whether only the outline is drawn.
    dashed
        Whether the outline is dashed.
    """

    values: npt.ArrayLike
    colour: str
    outline: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Histogram:
    """One panel.

    Attributes
    ----------
    title
        Above it.
    series
        Filled ones are stacked in order; outlines lie over them.
    limits
        Of the values; those outside are counted in the outermost bins.
    x_label, y_label
        Of the axes.
    lines
        Value and colour of upright lines: thresholds, distances.
    from_ten_logarithmic
        Whether counts above ten are on a logarithmic scale, where few matter beside many.
    """

    title: str
    series: Sequence[Series]
    limits: tuple[float, float]
    x_label: str
    y_label: str = "picks"
    lines: Sequence[tuple[float, str]] = ()
    from_ten_logarithmic: bool = False


def draw_curves(particles: Sequence[str], validation: Mapping[str, Any], thresholds: Mapping[str, float]) -> Panels:
    """Draw F4, recall and precision over the threshold, F4 of each fold, the flat interval and the chosen threshold.

    Parameters
    ----------
    particles
        Names, one panel each.
    validation
        Content of ``validation.json``.
    thresholds
        The chosen ones.
    """
    return [
        (
            f"F4, recall and precision of {name} over the threshold",
            _panel(partial(_draw_curve, name=name, validation=validation, threshold=thresholds[name])),
        )
        for name in particles
    ]


def curves_figure(particles: Sequence[str], validation: Mapping[str, Any], thresholds: Mapping[str, float]) -> str:
    """Return the same panels as one SVG on white with its own legend, a file by itself."""
    from matplotlib.figure import Figure

    rows = -(-len(particles) // COLUMNS)
    figure = Figure(figsize=(11.0, 2.6 * rows), layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, COLUMNS, squeeze=False)))
    for one, name in zip(axes, particles, strict=False):
        _draw_curve(one, name, validation, thresholds[name])
    for left_over in axes[len(particles) :]:
        left_over.set_visible(False)
    lines = {line.get_label(): line for line in axes[0].get_lines()}
    labels = [label for label, _ in CURVE_KEY]
    handles = [lines[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8, frameon=False)
    return _svg(figure)


def draw_histograms(histograms: Sequence[Histogram]) -> Panels:
    """Draw histograms, one panel each."""
    return [
        (f"{item.title}: {item.y_label} by {item.x_label}", _panel(partial(_draw_histogram, item=item)))
        for item in histograms
    ]


def draw_epoch_scores(particles: Sequence[str], members: Mapping[str, pd.DataFrame]) -> Panels:
    """Draw F4 of held-out runs over the epochs, a line per member and a colour per network: the last part of its name.

    Parameters
    ----------
    particles
        Names, one panel each.
    members
        By member (``fold0/segresnet``), see :func:`~tomopoint.evaluation.epochs.read_epoch_scores`.
    """
    return [
        (f"F4 of {name} on held-out runs over the epochs", _panel(partial(_draw_epochs, name=name, members=members)))
        for name in particles
    ]


@dataclass(frozen=True)
class Line:
    """Scores of a panel, as dots, joined or not.

    Attributes
    ----------
    x
        ``(N,)`` whole numbers.
    y
        ``(N,)`` scores, 0 to 1.
    colour
        Of all.
    joined
        Whether the dots are.
    """

    x: Sequence[int]
    y: Sequence[float]
    colour: str
    joined: bool = True


def draw_scores(title: str, x_label: str, lines: Sequence[Line]) -> Panels:
    """Draw scores over whole numbers, of trials or epochs, in one panel."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for line in lines:
            axes.plot(line.x, line.y, color=line.colour, lw=1.2 if line.joined else 0, marker="o", ms=3)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set_ylim(0, 1.03)
        _finish(axes, title, x_label, "score")

    return [(f"{title}, by {x_label}", _panel(draw))]


def networks_of(members: Iterable[str]) -> list[tuple[str, str]]:
    """Return the networks of some members, each with its colour."""
    networks = dict.fromkeys(member.rpartition("/")[2] for member in members)
    return [(name, SERIES_COLOURS[index % len(SERIES_COLOURS)]) for index, name in enumerate(networks)]


def _draw_epochs(axes: Axes, name: str, members: Mapping[str, pd.DataFrame]) -> None:
    colours = dict(networks_of(members))
    for member, table in members.items():
        if SCORE_OF + name in table.columns:
            colour = colours[member.rpartition("/")[2]]
            axes.plot(table["epoch"] + 1, table[SCORE_OF + name], color=colour, lw=1, marker=".", ms=3)
    axes.set_xlim(0, max(table["epoch"].max() for table in members.values()) + 2)
    axes.set_ylim(0, 1.03)
    _finish(axes, name, "epoch", "F4")


def _draw_curve(axes: Axes, name: str, validation: Mapping[str, Any], threshold: float) -> None:
    curve, choice = validation["curves"][name], validation["thresholds"][name]
    for group in validation["per_group"].values():
        axes.plot(curve["thresholds"], group["curves"][name], color=BLUE, lw=0.7, alpha=0.45)
    (f_label, _), (recall_label, _), (precision_label, _) = CURVE_KEY
    axes.plot(curve["thresholds"], curve["recall"], color=GREEN, lw=1.2, ls="--", label=recall_label)
    axes.plot(curve["thresholds"], curve["precision"], color=VERMILION, lw=1.2, ls=":", label=precision_label)
    axes.plot(curve["thresholds"], curve["f_beta"], color=BLUE, lw=2.2, label=f_label)
    if choice["from_curve"]:
        axes.axvspan(choice["flat_low"], choice["flat_high"], color=BLUE, alpha=0.15, lw=0)
    axes.axvline(threshold, color=INK, lw=1.2)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    _finish(axes, name, "threshold", "")


def _draw_histogram(axes: Axes, item: Histogram) -> None:
    bins = np.linspace(*item.limits, BINS + 1).tolist()
    clipped = [np.clip(np.asarray(series.values, dtype=np.float64), *item.limits) for series in item.series]
    filled = [(v, s.colour) for v, s in zip(clipped, item.series, strict=True) if not s.outline]
    if filled:
        values, colours = zip(*filled, strict=True)
        axes.hist(list(values), bins=bins, stacked=True, color=list(colours))
    width = WIDEST_OUTLINE  # each narrower than those below it: equal ones do not hide each other
    for values_of_one, series in zip(clipped, item.series, strict=True):
        if series.outline:
            style = "--" if series.dashed else "-"
            axes.hist(values_of_one, bins=bins, histtype="step", color=series.colour, lw=width, ls=style)
            width = max(1.0, width - 1.0)
    for x, colour in item.lines:
        axes.axvline(x, color=colour, lw=1.2)
    axes.set_xlim(*item.limits)
    _count_axis(axes, item.from_ten_logarithmic)
    _finish(axes, item.title, item.x_label, item.y_label)


def _count_axis(axes: Axes, from_ten_logarithmic: bool) -> None:
    """Whole numbers; on request logarithmic above ten: few right picks stay visible beside many wrong ones."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    if not from_ten_logarithmic:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
        return
    highest = max(10.0, axes.get_ylim()[1])
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, highest)
    ticks = [0, 5, 10, *(m * 10**e for e in range(1, 7) for m in (2, 5, 10))]
    shown = [tick for tick in ticks if tick <= highest]
    axes.set_yticks(shown, [str(tick) for tick in shown])
    axes.yaxis.set_minor_locator(NullLocator())


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.grid(color=FAINT, lw=0.5)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def _panel(draw: Callable[[Axes], None]) -> str:
    """Return one panel as a data URI; its margins are fixed, which takes a tenth of the time of fitting them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=PANEL_INCHES)
    draw(figure.subplots(gridspec_kw={"left": 0.14, "right": 0.97, "bottom": 0.21, "top": 0.88}))
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    return f"data:image/svg+xml;base64,{base64.b64encode(_themed(_svg(figure)).encode()).decode()}"


def _svg(figure: Figure) -> str:
    import matplotlib

    stream = io.StringIO()
    # Text as text keeps the file small; a fixed salt and no date make equal figures equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tomopoint", "path.simplify_threshold": 0.3}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _themed(svg: str) -> str:
    """Let the ink of a figure follow the page: a rule within the SVG, which a picture in a page obeys too."""
    light, dark = [], []
    for place, (colour, other) in enumerate(IN_THE_DARK.items()):
        svg = svg.replace(colour, f"var(--ink{place})")
        light.append(f"--ink{place}: {colour};")
        dark.append(f"--ink{place}: {other};")
    rules = f"svg {{ {' '.join(light)} }} @media (prefers-color-scheme: dark) {{ svg {{ {' '.join(dark)} }} }}"
    return svg.replace("<defs>", f"<style>{rules}</style>\n<defs>", 1)
