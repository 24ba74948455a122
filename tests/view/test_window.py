"""The window, with napari's own layers and widgets, off screen; and, where there is OpenGL, all of it on a display."""

from __future__ import annotations

import os

import numpy as np
import pytest
from view_data import ROWS, SHAPE_ZYX, VOLUME, VOXEL_A

os.environ.setdefault("QT_QPA_PLATFORM", "" if os.environ.get("DISPLAY") else "offscreen")
napari = pytest.importorskip("napari", reason="napari is not installed: pip install 'tomopoint[view]'")

from tomopoint.data.colours import colours_of  # noqa: E402
from tomopoint.data.particles import project_particles  # noqa: E402
from tomopoint.data.picks import write_picks  # noqa: E402
from tomopoint.data.sources.find import find_all  # noqa: E402
from tomopoint.data.tables import read_pick_table  # noqa: E402
from tomopoint.data.truth import read_truth  # noqa: E402
from tomopoint.errors import TomopointError  # noqa: E402
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle, Pipeline  # noqa: E402
from tomopoint.view.command import view  # noqa: E402
from tomopoint.view.pyramid import open_pyramid  # noqa: E402
from tomopoint.view.saving import TrainingPicks  # noqa: E402
from tomopoint.view.scene import KIND_COLOURS, particle_views  # noqa: E402
from tomopoint.view.window import SAVE_KEY, add_layers, check_display, make_dock  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # napari's own are not ours to mend
TOLERANCE_A = 0.01
RIBOSOME_ZYX = np.array([[row[4], row[3], row[2]] for row in ROWS if row[:2] == ("TS_1", "ribosome")])


@pytest.fixture(scope="module")
def app():
    from qtpy.QtWidgets import QApplication

    return QApplication.instance() or QApplication([])


class Asked:
    """A person who is asked, and says what they were told to say."""

    def __init__(self, answer):
        self.answer, self.questions = answer, []

    def __call__(self, question):
        self.questions.append(question)
        return self.answer


def opened(mrcs, prediction, out, truth=None, answer=True):
    """Fill napari's model of a viewer, which is all of the window but what is drawn."""
    from napari.components import ViewerModel

    viewer = ViewerModel()
    particles = Pipeline.load(prediction / "pipeline.json").particles
    table = read_pick_table(prediction / "picks.csv")
    views = particle_views("TS_1", table, particles, {}, VOXEL_A, truth)
    layers = add_layers(viewer, "TS_1", open_pyramid(mrcs / "TS_1.mrc"), views)
    saver = TrainingPicks(out, find_all(mrcs), "TS_1", {}, ["ribosome", "apo-ferritin"])
    dock = make_dock(viewer, layers, saver, Asked(answer))
    return viewer, {layer.view.name: layer for layer in layers}, dock


def sliders(dock):
    return {widget.label: widget for widget in dock.container if widget.widget_type == "FloatSlider"}


def world(layer):
    return np.array([layer.data_to_world(point) for point in layer.data])


def test_the_world_is_angstrom_from_the_corner(app, mrcs, prediction, tmp_path):
    viewer, layers, dock = opened(mrcs, prediction, tmp_path / "p")
    sliders(dock)["ribosome"].value = 0.0
    image = viewer.layers["TS_1"]
    # The centre of voxel (1, 2, 3) lies at 1.5, 2.5 and 3.5 voxels from the corner.
    np.testing.assert_allclose(image.data_to_world((1, 2, 3)), np.array([1.5, 2.5, 3.5]) * VOXEL_A, atol=1e-3)
    assert np.array_equal(np.asarray(image.data), VOLUME)
    np.testing.assert_allclose(world(layers["ribosome"].picks), RIBOSOME_ZYX, atol=TOLERANCE_A)
    assert viewer.dims.nsteps == SHAPE_ZYX  # one plane a step
    low, high = image.contrast_limits
    assert low < np.quantile(VOLUME, 0.02) < np.quantile(VOLUME, 0.98) < high


def test_rings_have_the_particles_radius_and_colour(app, mrcs, prediction, tmp_path):
    viewer, layers, dock = opened(mrcs, prediction, tmp_path / "p")
    sliders(dock)["ribosome"].value = 0.0
    colours = colours_of(particle.name for particle in COMPETITION_PARTICLES)
    for particle in COMPETITION_PARTICLES:
        picks = layers[particle.name].picks
        assert picks.current_size * VOXEL_A == pytest.approx(2 * particle.radius_A, abs=0.01)
        np.testing.assert_allclose(picks.size * VOXEL_A, 2 * particle.radius_A, atol=0.01)
        for colour in picks.border_color:
            np.testing.assert_allclose(colour[:3], colours[particle.name], atol=1e-6)
        assert np.all(picks.face_color[:, 3] == 0)
    # At a distance of d, a ball of 150 A is cut in a ring of sqrt(150^2 - d^2); the second one is 4.4 A away.
    viewer.dims.set_point(0, RIBOSOME_ZYX[0, 0] + 100.0)
    diameters_A = layers["ribosome"].picks._view_size * VOXEL_A
    distances_A = np.array([100.0, RIBOSOME_ZYX[1, 0] - RIBOSOME_ZYX[0, 0] - 100.0])
    assert diameters_A == pytest.approx(2 * np.sqrt(150.0**2 - distances_A**2), rel=1e-3)


def test_a_slider_begins_at_the_threshold_and_shows_what_passes(app, mrcs, prediction, tmp_path):
    viewer, layers, dock = opened(mrcs, prediction, tmp_path / "p")
    assert {name: slider.value for name, slider in sliders(dock).items()} == {"apo-ferritin": 0.25, "ribosome": 0.4}
    ribosome = layers["ribosome"]
    np.testing.assert_allclose(ribosome.points_zyx_A(), RIBOSOME_ZYX[:1], atol=TOLERANCE_A)
    assert "ribosome: 1 of 2" in ribosome.text()
    sliders(dock)["ribosome"].value = 0.3
    np.testing.assert_allclose(ribosome.points_zyx_A(), RIBOSOME_ZYX, atol=TOLERANCE_A)
    assert ribosome.scores.tolist() == [0.98765, 0.31415]
    assert "ribosome: 2 of 2" in ribosome.text()
    sliders(dock)["ribosome"].value = 0.99
    assert len(ribosome.picks.data) == 0
    assert len(layers["apo-ferritin"].picks.data) == 1
    sliders(dock)["ribosome"].value = 0.5
    np.testing.assert_allclose(ribosome.points_zyx_A(), RIBOSOME_ZYX[:1], atol=TOLERANCE_A)
    viewer.dims.ndisplay = 3  # where napari draws all points of a layer, whatever is said to be shown
    assert len(ribosome.picks._view_data) == 1


def test_with_a_truth_colours_are_the_reports(app, mrcs, prediction, tmp_path):
    """One true ribosome where the first pick is, one where none is: found, wrong and missed."""
    truth = {"ribosome": np.array([RIBOSOME_ZYX[0, ::-1] + 20.0, [400.0, 300.0, 20.0]])}
    _, layers, dock = opened(mrcs, prediction, tmp_path / "p", truth)
    from napari.utils.colormaps.standardize_color import transform_color

    found, wrong, missed = (transform_color(KIND_COLOURS[kind])[0] for kind in ("found", "wrong", "missed"))
    ribosome = layers["ribosome"]
    sliders(dock)["ribosome"].value = 0.3
    np.testing.assert_allclose(ribosome.picks.border_color, [found, wrong], atol=1e-6)
    np.testing.assert_allclose(ribosome.truth.border_color, [found, missed], atol=1e-6)
    assert "2 of 2, 1 of 2 true found" in ribosome.text()
    sliders(dock)["ribosome"].value = 0.99
    np.testing.assert_allclose(ribosome.truth.border_color, [missed, missed], atol=1e-6)
    assert layers["apo-ferritin"].truth is None
    np.testing.assert_allclose(layers["apo-ferritin"].picks.border_color, [wrong], atol=1e-6)
    assert not ribosome.truth.editable


def test_what_is_moved_added_and_removed_is_saved(app, mrcs, prediction, tmp_path):
    viewer, layers, dock = opened(mrcs, prediction, tmp_path / "p")
    ribosome, ferritin = layers["ribosome"].picks, layers["apo-ferritin"].picks
    for position in (ribosome.data[0].copy(), ribosome.data[0] + [0.0, 2.0, 3.0]):  # a drag of the mouse, in the plane
        ribosome._move([0], position)
    ribosome.selected_data = {0}  # napari gives a new point what the selected one has; its score is not the new one's
    ribosome.current_size = 3.0
    ribosome.add(np.array([[5.0, 6.0, 7.0]]))
    assert np.isnan(layers["ribosome"].scores).tolist() == [False, True]
    assert ribosome.size[-1] * VOXEL_A == pytest.approx(300.0, abs=0.01)
    ferritin.selected_data = {0}
    ferritin.remove_selected()
    expected = [RIBOSOME_ZYX[0] + np.array([0.0, 2.0, 3.0]) * VOXEL_A, np.array([5.0, 6.0, 7.0]) * VOXEL_A]
    np.testing.assert_allclose(layers["ribosome"].points_zyx_A(), expected, atol=TOLERANCE_A)
    sliders(dock)["ribosome"].value = 0.99  # what a person added has no score, and stays
    np.testing.assert_allclose(layers["ribosome"].points_zyx_A(), expected[1:], atol=TOLERANCE_A)
    sliders(dock)["ribosome"].value = 0.4

    viewer.keymap[SAVE_KEY](viewer) if SAVE_KEY in viewer.keymap else _press(viewer, SAVE_KEY)
    saved = read_truth(tmp_path / "p", ["ribosome", "apo-ferritin"])["TS_1"]
    np.testing.assert_allclose(saved["ribosome"], np.array(expected)[::-1, ::-1], atol=TOLERANCE_A)  # hidden ones last
    assert len(saved["apo-ferritin"]) == 0
    assert str(tmp_path / "p") in viewer.status


def _press(viewer, key):
    from app_model.types import KeyBinding

    for bound, function in viewer.keymap.items():
        if KeyBinding.from_str(str(bound)) == KeyBinding.from_str(key.replace("-", "+")):
            function(viewer)
            return
    raise AssertionError(f"{key} is bound to nothing: {list(viewer.keymap)}")


def test_other_picks_are_replaced_only_after_yes(app, mrcs, prediction, tmp_path):
    path = tmp_path / "p/train/overlay/ExperimentRuns/TS_1/Picks/ribosome.json"
    write_picks(path, "TS_1", "ribosome", [[1.0, 2.0, 3.0]])
    before = path.read_bytes()
    _, _, dock = opened(mrcs, prediction, tmp_path / "p", answer=False)
    button = next(widget for widget in dock.container if widget.widget_type == "PushButton")
    button.changed.emit(True)
    assert path.read_bytes() == before
    assert str(path) in dock.ask.questions[0]
    dock.ask.answer = True
    button.changed.emit(True)
    assert path.read_bytes() != before
    button.changed.emit(True)
    assert len(dock.ask.questions) == 2  # it does not ask about its own


def test_a_mistake_is_said_in_the_dock(app, mrcs, prediction, tmp_path):
    viewer, _, dock = opened(mrcs, prediction, tmp_path / "p")
    for slider in sliders(dock).values():
        slider.value = 1.0
    next(widget for widget in dock.container if widget.widget_type == "PushButton").changed.emit(True)
    assert "no pick of TS_1 is shown" in viewer.status


@pytest.fixture
def on_a_display(app):
    try:
        check_display()
    except TomopointError as error:
        pytest.skip(str(error))


def test_radii_of_the_pipeline_go_into_the_project(on_a_display, mrcs, prediction, tmp_path, monkeypatch):
    """Of a particle that is not the competition's: what shows it knows its radius, so saving asks for none."""
    from tomopoint.view import window

    Pipeline(
        (Particle("ribosome", 120.0, 1.0, 0.4, 150.0), Particle("apo-ferritin", 60.0, 1.0, 0.25, 60.0)), VOXEL_A
    ).save(prediction / "pipeline.json")
    made = []
    monkeypatch.setattr(window, "make_dock", lambda *words: made.append(make_dock(*words)) or made[0])
    view(mrcs, "TS_1", picks=prediction, save=tmp_path / "p", screenshot=tmp_path / "shot.png")
    made[0].save()
    radii_A = {particle.name: particle.radius_A for particle in project_particles(tmp_path / "p")}
    assert radii_A == {"ribosome": 120.0, "apo-ferritin": 60.0}


def test_a_picture_of_the_window(on_a_display, mrcs, prediction, tmp_path):
    done = view(mrcs, "TS_1", picks=prediction, screenshot=tmp_path / "shot.png")
    assert done.figures["screenshot"] == str(tmp_path / "shot.png")
    from PIL import Image

    with Image.open(tmp_path / "shot.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert picture.width > 800
    orange = np.array([230, 158, 0])  # of apo-ferritin's ring
    assert (np.abs(pixels.astype(int) - orange).max(axis=1) < 12).sum() > 20
    grey = (pixels.max(axis=1) == pixels.min(axis=1)) & (pixels[:, 0] > 60) & (pixels[:, 0] < 200)
    assert len(np.unique(pixels[grey, 0])) > 60  # the tomogram
