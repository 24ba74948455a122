"""The report's pictures, each returned as a data URI so that the page needs no other file.

Figures are built without pyplot: nothing global, no display, no figure left open.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tomopoint.evaluation.slices import SliceView

COLOURS = {"found": "#1fb6ff", "wrong": "#ffc400", "missed": "#ff2e93"}
"""Blue, yellow, magenta: apart from each other for every kind of colour vision, and all bright on grey."""

INK, FAINT, ACCENT = "#1f2933", "#cbd2d9", "#2563a8"
MARKERS = ("o", "^", "s", "D", "h", "v", "p", "*")
"""Per particle, in order."""

SCALE_BAR_A = 1000.0
JPEG_QUALITY = 90
SLICE_DPI = 110
HISTOGRAM_BINS = 30
COLUMNS = 3


def marker_of(index: int) -> str:
    """Return the marker of the particle at this place."""
    return MARKERS[index % len(MARKERS)]


def draw_slices(views: Sequence[SliceView], particles: Sequence[tuple[str, float]]) -> str:
    """Draw xy slabs of one run side by side with found, wrong and missed picks.

    Parameters
    ----------
    views
        The slabs, see :class:`~tomopoint.evaluation.slices.SliceView`.
    particles
        Name and radius (Angstrom) in marker order.
    """
    figure = _figure(width=6.2 * len(views), height=6.4)
    for axes, view in zip(_axes(figure, 1, len(views)), views, strict=True):
        _draw_slab(axes, view, particles)
    return _jpeg(figure)


def draw_curves(particles: Sequence[str], validation: Mapping[str, Any], thresholds: Mapping[str, float]) -> str:
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
    figure, panels = _grid(len(particles))
    for axes, name in zip(panels, particles, strict=False):
        curve, choice = validation["curves"][name], validation["thresholds"][name]
        for group in validation["per_group"].values():
            axes.plot(curve["thresholds"], group["curves"][name], color=ACCENT, lw=0.7, alpha=0.35)
        axes.plot(curve["thresholds"], curve["recall"], color="#2f9e6e", lw=1.2, ls="--", label="recall")
        axes.plot(curve["thresholds"], curve["precision"], color="#c2570c", lw=1.2, ls=":", label="precision")
        axes.plot(curve["thresholds"], curve["f_beta"], color=ACCENT, lw=2.2, label="F4 (thin: per fold)")
        if choice["from_curve"]:
            axes.axvspan(choice["flat_low"], choice["flat_high"], color=ACCENT, alpha=0.10, lw=0)
        axes.axvline(thresholds[name], color=INK, lw=1.2)
        axes.set_ylim(0, 1.03)
        _finish(axes, name, "threshold", "")
    _legend(figure, panels[0])
    return _svg(figure)


def draw_histograms(picks: pd.DataFrame, particles: Sequence[str], thresholds: Mapping[str, float]) -> str:
    """Draw how scores of right and wrong out-of-fold picks are distributed, with the chosen threshold.

    Parameters
    ----------
    picks
        ``particle_type, score, hit``: hit where the pick reaches a true centre.
    particles
        Names, one panel each.
    thresholds
        The chosen ones.
    """
    figure, panels = _grid(len(particles))
    bins = np.linspace(0, 1, HISTOGRAM_BINS + 1).tolist()
    for axes, name in zip(panels, particles, strict=False):
        own = picks.loc[picks["particle_type"] == name]
        right, wrong = own.loc[own["hit"], "score"], own.loc[~own["hit"], "score"]
        axes.hist([right, wrong], bins=bins, stacked=True, color=[ACCENT, "#f0b429"], label=["right", "wrong"])
        axes.axvline(thresholds[name], color=INK, lw=1.2)
        _count_axis(axes)
        _finish(axes, name, "score", "picks")
    _legend(figure, panels[0])
    return _svg(figure)


def _draw_slab(axes: Axes, view: SliceView, particles: Sequence[tuple[str, float]]) -> None:
    """Draw the picture and, on it, every pick and missed centre within the slab."""
    low, high = np.quantile(view.image_yx, (0.005, 0.995))
    height, width = view.image_yx.shape
    axes.imshow(view.image_yx, cmap="gray", vmin=low, vmax=high, origin="lower", extent=(0, width, 0, height))
    for index, (name, radius_A) in enumerate(particles):
        for kind, colour in COLOURS.items():
            xy = view.marks[kind].get(name, np.zeros((0, 2)))
            _draw_marks(axes, xy, marker_of(index), colour, radius_A / view.voxel_A)
    _draw_scale_bar(axes, view.voxel_A, height)
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_title(view.title, fontsize=11, color=INK, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_scale_bar(axes: Axes, voxel_A: float, height: int) -> None:
    """Draw 100 nm in the lower left corner, over the same dark rim as the marks."""
    start, end, y = 0.03 * height, 0.03 * height + SCALE_BAR_A / voxel_A, 0.03 * height
    for colour, width in (("black", 6.0), ("white", 3.0)):
        axes.plot((start, end), (y, y), color=colour, lw=width, solid_capstyle="butt")
    box = {"facecolor": "black", "alpha": 0.55, "lw": 0, "pad": 1.5}
    label = f"{SCALE_BAR_A / 10:.0f} nm"
    axes.text((start + end) / 2, y + 0.02 * height, label, color="white", fontsize=9, ha="center", bbox=box)


def _draw_marks(axes: Axes, xy: npt.NDArray[np.float64], marker: str, colour: str, radius_vox: float) -> None:
    """Draw open marks over a dark rim, so that they stand out on light and dark alike; larger particles, larger."""
    if len(xy) == 0:
        return
    size = 40.0 + 22.0 * radius_vox
    axes.scatter(
        xy[:, 0], xy[:, 1], s=size, marker=marker, facecolors="none", edgecolors="black", linewidths=3.0, alpha=0.55
    )
    axes.scatter(xy[:, 0], xy[:, 1], s=size, marker=marker, facecolors="none", edgecolors=colour, linewidths=1.6)


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per particle; the panels left over are hidden."""
    rows = -(-count // COLUMNS)
    figure = _figure(width=11.0, height=2.6 * rows)
    panels = _axes(figure, rows, COLUMNS)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x_label, fontsize=8, color=INK)
    axes.set_ylabel(y_label, fontsize=8, color=INK)
    axes.set_xlim(0, 1)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(color=FAINT, lw=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _count_axis(axes: Axes) -> None:
    """Linear up to ten picks, logarithmic above: the few right picks stay visible beside many wrong ones."""
    from matplotlib.ticker import NullLocator

    highest = axes.get_ylim()[1]
    ticks = [0, 5, 10, *(m * 10**e for e in range(1, 7) for m in (2, 5, 10))]
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, max(10.0, highest))
    shown = [tick for tick in ticks if tick <= max(10.0, highest)]
    axes.set_yticks(shown, [str(tick) for tick in shown])
    axes.yaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8, frameon=False)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _axes(figure: Figure, rows: int, columns: int) -> list[Axes]:
    return list(np.ravel(figure.subplots(rows, columns, squeeze=False)))


def _svg(figure: Figure) -> str:
    import matplotlib

    stream = io.BytesIO()
    # Text as text keeps the file small; a fixed salt and no date make equal figures equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tomopoint", "path.simplify_threshold": 0.3}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return _data_uri("image/svg+xml", stream.getvalue())


def _jpeg(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="jpeg", dpi=SLICE_DPI, pil_kwargs={"quality": JPEG_QUALITY})
    return _data_uri("image/jpeg", stream.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
