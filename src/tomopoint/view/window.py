"""The napari window: the tomogram, one layer of points for each particle, a dock with thresholds, saving.

The world of the window is Angstrom from the volume's corner, z, y, x. Data of the layers are in voxels of the finest
level, so that a step of a slider is one plane; napari puts voxel ``i`` at ``i``, hence half a voxel of translation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tomopoint.errors import TomopointError
from tomopoint.files import whole_or_absent
from tomopoint.view.pyramid import Pyramid
from tomopoint.view.saving import TrainingPicks
from tomopoint.view.scene import KIND_COLOURS, ParticleView, busiest_z_A, judged, judged_colours, shown_at

if TYPE_CHECKING:
    from magicgui.widgets import Container
    from napari import Viewer
    from napari.components import ViewerModel
    from napari.layers import Points

Floats = npt.NDArray[np.float64]

SYMBOLS = {
    "o": ("disc", "●"),
    "^": ("triangle_up", "▲"),
    "s": ("square", "■"),
    "D": ("diamond", "◆"),
    "h": ("star", "★"),
    "v": ("triangle_down", "▼"),
}
"""napari's symbols for the markers of the report, and in text; it has no hexagon, nor those of further particles."""
OTHER_SYMBOL = ("disc", "●")

BORDER = 0.08
"""Width of a ring over its diameter."""

TRUTH_SIZE = 0.4
"""Diameter of a true centre over that of its particle: a mark in the ring that found it."""

SLIDER_STEP = 0.005
SAVE_KEY = "Shift-S"
WINDOW = (1400, 900)

ON_LINUX = sys.platform.startswith("linux")


def check_napari() -> None:
    """TomopointError where napari is not installed."""
    if find_spec("napari") is None:
        raise TomopointError("this needs napari, which is not installed: pip install 'tomopoint[view]'")


def check_display() -> None:
    """TomopointError where no window can be opened, rather than an end of the process."""
    platform = os.environ.get("QT_QPA_PLATFORM", "")
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if ON_LINUX and not platform and not has_display:
        raise TomopointError(
            "there is no display to open a window on; run it where there is one (ssh -X), or under xvfb-run with "
            "--screenshot, or write a script for ChimeraX with --chimerax"
        )
    from qtpy.QtGui import QOpenGLContext
    from qtpy.QtWidgets import QApplication

    _ = QApplication.instance() or QApplication(sys.argv[:1])
    if not QOpenGLContext().create():
        raise TomopointError(
            f"Qt finds no OpenGL here{f' (QT_QPA_PLATFORM={platform})' if platform else ''}, which napari draws with; "
            "run it under xvfb-run, without QT_QPA_PLATFORM"
        )


@dataclass
class PickLayer:
    """The layers of one particle: its picks and, where known, its true centres.

    The layer of picks holds those that are shown and no others, in 2-D and 3-D alike: what is seen is what can be
    selected, moved, removed and saved.

    Attributes
    ----------
    view
        What was read.
    picks, truth
        Layers of napari: what a person makes of the picks; and the true centres, None where the run has none.
    hidden_zyx_vox, hidden_scores
        Picks below the threshold, ``(N, 3)`` as the layer's data, and ``(N,)``.
    """

    view: ParticleView
    picks: Points
    truth: Points | None
    hidden_zyx_vox: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    hidden_scores: Floats = field(default_factory=lambda: np.zeros(0))
    is_sliding: bool = False

    @property
    def scores(self) -> Floats:
        """``(N,)`` of the picks that are shown, NaN of those that a person added."""
        return np.array(self.picks.features["score"], dtype=np.float64)

    def points_zyx_A(self) -> Floats:
        """Return the picks that are shown, ``(N, 3)`` in Angstrom from the corner."""
        points: Floats = np.asarray(self.picks.data, dtype=np.float64) * np.asarray(self.picks.scale, dtype=np.float64)
        return points

    def slide(self, threshold: float) -> None:
        """Show what a threshold lets through, of the picks that are there by now."""
        points = np.concatenate([np.asarray(self.picks.data, dtype=np.float64), self.hidden_zyx_vox])
        scores = np.concatenate([self.scores, self.hidden_scores])
        shown = shown_at(scores, threshold)
        self.hidden_zyx_vox, self.hidden_scores = points[~shown], scores[~shown]
        self.is_sliding = True
        self.picks.selected_data = set()
        self.picks.data = points[shown]
        self.picks.features = {"score": scores[shown]}
        self.is_sliding = False
        self.judge()

    def adopt(self, places: Sequence[int]) -> None:
        """Make picks that a person added what they are: of the particle's size, and without a score.

        napari gives them what the point that was selected last has.
        """
        scores, sizes = self.scores, np.asarray(self.picks.size, dtype=np.float64)
        scores[[*places]] = np.nan
        sizes[[*places]] = 2 * self.view.radius_A / float(self.picks.scale[0])
        self.picks.features = {"score": scores}
        self.picks.size = sizes
        if self.view.truth_zyx_A is None:
            colours = np.asarray(self.picks.border_color)
            colours[[*places], :3] = self.view.colour
            self.picks.border_color = colours

    def judge(self) -> None:
        """With a truth, colour picks and centres by who found whom."""
        if self.view.truth_zyx_A is None:
            return
        hits, found = judged(self.points_zyx_A(), self.view.truth_zyx_A, self.view.radius_A)
        _paint(self.picks, judged_colours(hits, "found", "wrong"))
        if self.truth is not None:
            _paint(self.truth, judged_colours(found, "found", "missed"))

    def text(self) -> str:
        """Say how many picks are shown, of how many; with a truth, how many of its centres they find.

        The mark in front, as HTML, is what they are drawn with.
        """
        shown = len(self.picks.data)
        counts = f"{escape(self.view.name)}: {shown} of {shown + len(self.hidden_scores)}"
        if self.view.truth_zyx_A is None:
            colour = "#" + "".join(f"{round(255 * part):02x}" for part in self.view.colour)
            return f'<span style="color:{colour}">●</span> {counts}'
        _, found = judged(self.points_zyx_A(), self.view.truth_zyx_A, self.view.radius_A)
        _, symbol = SYMBOLS.get(self.view.marker, OTHER_SYMBOL)
        return f"{symbol} {counts}, {int(found.sum())} of {len(found)} true found"


def add_layers(viewer: ViewerModel, run: str, pyramid: Pyramid, views: tuple[ParticleView, ...]) -> list[PickLayer]:
    """Put a tomogram and its picks into a viewer, at the height where most picks are."""
    voxel_A = pyramid.voxel_A
    place: dict[str, Any] = {"scale": (voxel_A,) * 3, "units": ("angstrom",) * 3, "axis_labels": ("z", "y", "x")}
    several = len(pyramid.levels) > 1
    viewer.add_image(
        [*pyramid.levels] if several else pyramid.levels[0],
        multiscale=several,
        name=run,
        contrast_limits=pyramid.limits,
        colormap="gray",
        rendering="minip",  # protein is dark
        translate=(voxel_A / 2,) * 3,
        **place,
    )
    layers = []
    for view in views:
        knows_truth = view.truth_zyx_A is not None
        # A ball is cut by the plane that is looked at: its ring is as wide as the ball is there.
        common: dict[str, Any] = {
            **place,
            "ndim": 3,
            "projection_mode": "rescale_spherical",
            "face_color": "transparent",
        }
        common["symbol"] = SYMBOLS.get(view.marker, OTHER_SYMBOL)[0] if knows_truth else "disc"
        truth = None
        if view.truth_zyx_A is not None and len(view.truth_zyx_A):
            truth = viewer.add_points(
                view.truth_zyx_A / voxel_A,
                name=f"{view.name}, truth",
                size=TRUTH_SIZE * 2 * view.radius_A / voxel_A,
                border_width=BORDER / TRUTH_SIZE,
                **common,
            )
            truth.editable = False
        picks = viewer.add_points(
            view.points_zyx_A / voxel_A,
            name=view.name,
            size=2 * view.radius_A / voxel_A,
            border_width=BORDER,
            border_color=[view.colour],
            features={"score": view.scores},
            **common,
        )
        picks.current_border_color = view.colour
        picks.current_size = 2 * view.radius_A / voxel_A
        layer = PickLayer(view, picks, truth)
        layer.slide(view.threshold)
        layers.append(layer)
    depth_A = pyramid.levels[0].shape[0] * voxel_A
    margin_A = max((view.radius_A for view in views), default=0.0)
    viewer.dims.margin_left = viewer.dims.margin_right = (margin_A,) * 3
    viewer.dims.set_point(0, busiest_z_A(views, depth_A))
    return layers


@dataclass
class Dock:
    """The sliders, what they leave, and saving."""

    container: Container
    layers: list[PickLayer]
    saver: TrainingPicks
    ask: Callable[[str], bool]

    def save(self) -> str:
        """Save what is shown; return what was done, in words."""
        points = {layer.view.name: layer.points_zyx_A() for layer in self.layers}
        replaced = self.saver.replaces(points)
        listed = "\n".join(map(str, replaced))
        if replaced and not self.ask(f"These files hold other picks:\n{listed}\nReplace them?"):
            return "nothing was saved"
        return self.saver.save(points, replaced)


def make_dock(viewer: ViewerModel, layers: list[PickLayer], saver: TrainingPicks, ask: Callable[[str], bool]) -> Dock:
    """Make the dock: a slider for each particle with scores, counts, and a button and a key that save."""
    from magicgui.widgets import Container, FloatSlider, Label, PushButton

    counts = Label(value="", label="picks shown")
    outcome = Label(value=f"saves into {saver.project}", label="")

    knows_truth = any(layer.view.truth_zyx_A is not None for layer in layers)
    marks = [f'<span style="color:{colour}">{kind}</span>' for kind, colour in KIND_COLOURS.items()]
    key = [", ".join(marks)] if knows_truth else []

    def recount() -> None:
        counts.value = "<br>".join([*(layer.text() for layer in layers), *key])

    def slid(layer: PickLayer, threshold: float) -> None:
        layer.slide(threshold)
        recount()

    def edited(layer: PickLayer, event: Any) -> None:
        if str(event.action).lower().endswith("added"):
            layer.adopt(event.data_indices)
        layer.judge()
        recount()

    sliders = []
    for layer in layers:
        if layer.view.has_scores:
            slider = FloatSlider(value=layer.view.threshold, min=0.0, max=1.0, step=SLIDER_STEP, label=layer.view.name)
            slider.changed.connect(lambda value, layer=layer: slid(layer, value))
            sliders.append(slider)
        layer.picks.events.data.connect(
            lambda event, layer=layer: edited(layer, event) if _is_edit(event, layer) else None
        )
    button = PushButton(text=f"Save as training picks ({SAVE_KEY})")
    dock = Dock(Container(widgets=[*sliders, counts, button, outcome]), layers, saver, ask)

    def save(*_: object) -> None:
        try:
            said = dock.save()
        except TomopointError as error:
            said = str(error)
        outcome.value = _folded(said)
        viewer.status = said

    button.changed.connect(save)
    viewer.bind_key(SAVE_KEY, save, overwrite=True)
    recount()
    return dock


def open_window(
    run: str, pyramid: Pyramid, views: tuple[ParticleView, ...], saver: TrainingPicks, screenshot: Path | None
) -> None:
    """Open the window, and return when it is closed; or only write a picture of it.

    Raises
    ------
    TomopointError
        No window can be opened.
    """
    check_display()
    import napari
    from qtpy.QtWidgets import QApplication

    viewer: Viewer = napari.Viewer(title=f"{run} - tomopoint")
    layers = add_layers(viewer, run, pyramid, views)
    dock = make_dock(viewer, layers, saver, _ask)
    viewer.window.add_dock_widget(dock.container, name="picks", area="right")
    viewer.window.resize(*WINDOW)
    viewer.scale_bar.visible = True
    QApplication.processEvents()  # until then the canvas does not know its size
    viewer.reset_view()
    if screenshot is None:
        napari.run()
        return
    with whole_or_absent(screenshot) as temporary:
        picture = temporary.with_suffix(".png")  # which says what to write
        viewer.screenshot(str(picture), canvas_only=False, flash=False)
        picture.replace(temporary)
    viewer.close()


def _ask(question: str) -> bool:
    from qtpy.QtWidgets import QMessageBox

    return bool(QMessageBox.question(None, "tomopoint", question) == QMessageBox.StandardButton.Yes)


def _is_edit(event: Any, layer: PickLayer) -> bool:
    """Whether a person changed points: napari also says that they are about to, and what a slider did."""
    return not layer.is_sliding and not str(event.action).lower().endswith("ing")


def _paint(layer: Points, colours: list[str]) -> None:
    """Give each point its colour; a layer without points has none to give."""
    if colours:
        layer.border_color = colours


def _folded(text: str, width: int = 60) -> str:
    """Return text in lines that fit into a dock."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width, break_long_words=False))
