"""The report in a browser: it fits a phone, follows the reader's light or dark, scrolls, and switches marks off.

These tests take a Chromium that is there (`apt-get install chromium`) and the package playwright; without either they
are skipped and say so.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tomopoint.data.picks import write_picks
from tomopoint.data.project import Run
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tables import write_pick_table, write_submission
from tomopoint.evaluation.command import report
from tomopoint.evaluation.score import truth_table
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from report_page import NoBrowserError, browser

VOXEL_A = 10.0
SHAPE_ZYX = (80, 100, 120)
N_SLABS = 10
PHONE, DESKTOP = (390, 844), (1280, 900)
PAGES = ("judged", "compared", "blind", "blind_compared")

SHOWN = """selector => [...document.querySelectorAll(selector)].filter(
    one => one.getBoundingClientRect().width > 0 && getComputedStyle(one).visibility === "visible").length"""
"""How many elements of a selector a reader can see."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Four pages of one small project: with truth and without, of one submission and of two."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(3)
    root = folder / "data"
    size_xyz_A = np.array(SHAPE_ZYX[::-1]) * VOXEL_A
    truth = {
        run: {p.name: rng.uniform(0.05, 0.95, (6, 3)) * size_xyz_A for p in COMPETITION_PARTICLES}
        for run in ("TS_1", "TS_2")
    }
    for name, points in truth.items():
        run = Run(name, "test", root)
        write_tomogram(run.tomogram_path(), rng.normal(0, 1e-5, SHAPE_ZYX).astype(np.float32), (VOXEL_A,) * 3, levels=1)
        for particle, centres in points.items():
            write_picks(root / "truth" / name / f"{particle}.json", name, particle, centres)
    centres = truth_table(truth)
    doubled = centres.iloc[::5].assign(x=lambda table: table["x"] + 3.0)
    wrong = centres.iloc[::3].assign(z=lambda table: size_xyz_A[2] - table["z"], y=lambda table: table["y"] / 2)
    candidates = pd.concat([centres.iloc[4:], doubled, wrong], ignore_index=True)
    candidates["score"] = rng.uniform(0.2, 0.9, len(candidates))
    made = folder / "prediction"
    write_pick_table(candidates, made / "picks.csv")
    Pipeline(COMPETITION_PARTICLES, VOXEL_A).save(made / "pipeline.json")
    submissions = (made / "submission.csv", made / "other.csv")
    for path, least in zip(submissions, (0.25, 0.5), strict=True):
        write_submission(candidates.loc[candidates["score"] >= least], path)
    for name in PAGES:
        report(
            data=root,
            submission=submissions if "compared" in name else submissions[:1],
            truth=None if "blind" in name else root / "truth",
            out=folder / f"{name}.html",
        )
    return {name: (folder / f"{name}.html").as_uri() for name in PAGES}


@pytest.fixture(scope="module")
def opened():
    try:
        with browser() as found:
            yield found
    except NoBrowserError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def look(opened, pages):
    """Return a function that opens a page; what the page complains of, or fetches, fails the test at its end."""
    complaints, fetched, contexts = [], [], []

    def open_page(name, size=DESKTOP, dark=False, script=True):
        context = opened.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(pages[name])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in fetched if not url.startswith("data:") and url not in pages.values()] == []


def light_of(picture):
    """Return the brightness of a picture's pixels, 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"))


@pytest.mark.parametrize("width", [320, PHONE[0], DESKTOP[0]])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_window(look, name, width):
    page = look(name, (width, 900))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = """[...document.querySelectorAll("main *:not(.wide *):not(svg *)")].filter(
        one => one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 80))"""
    assert page.evaluate(wide) == []


def test_the_legend_is_whole_on_a_phone(look):
    page = look("judged", PHONE)
    labels = page.locator(".legend label")
    assert labels.count() == 6 + 4
    for label in labels.all():
        box = label.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE[0]
        assert label.evaluate("one => one.scrollWidth <= one.clientWidth")


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_boxes_switch_particles_and_kinds_off_and_on(look, script):
    page = look("judged", script=script)

    def count(selector):
        return sum(one.is_visible() for one in page.locator(f".r0 .stage {selector}").all())

    before = {name: count(f"use.{name}") for name in ("c0", "c1", "c2", "kfound", "kmissed", "kwrong", "kduplicate")}
    everything = count("use")
    assert before["c0"] > 0
    assert before["kwrong"] > 0
    page.locator(".t-c0").uncheck()
    assert count("use.c0") == 0
    assert count("use.c1") == before["c1"]
    assert count("use") == everything - before["c0"]
    page.locator(".t-c0").check()
    page.locator(".t-kwrong").uncheck()
    assert count("use.kwrong") == 0
    assert count("use.kfound") == before["kfound"]
    assert count("use") == everything - before["kwrong"]


def test_the_slider_goes_through_z_and_marks_follow(look):
    page = look("judged")
    slider, said = page.locator(".r0 .slider"), page.locator(".r0 output")
    first = said.inner_text()
    slider.focus()
    page.keyboard.press("Home")
    seen, marks = [], []
    for _ in range(N_SLABS):
        assert page.evaluate(SHOWN, ".r0 .stage img") == 1
        seen.append(said.inner_text())
        shown = page.locator(".r0 .stage img:visible")
        assert shown.get_attribute("alt") == seen[-1]
        middle_A = float(shown.get_attribute("data-z"))
        z_A = page.evaluate("[...document.querySelectorAll('.r0 use:not(.out)')].map(one => Number(one.dataset.z))")
        everything = page.evaluate("[...document.querySelectorAll('.r0 use')].map(one => Number(one.dataset.z))")
        assert sorted(z_A) == sorted(z for z in everything if abs(z - middle_A) <= 100)
        marks.append(len(z_A))
        page.keyboard.press("ArrowRight")
    assert len(set(seen)) == N_SLABS
    assert first in seen
    assert "slices 0 to 7 of 80" in seen[0]
    assert seen[-1] == said.inner_text()
    assert marks[seen.index(first)] == max(marks)


def test_keys_scroll_the_picture_once_it_has_the_focus(look):
    page = look("blind")
    said = page.locator(".r0 output")
    page.locator(".r0 .stage").focus()
    for key, expected in (("Home", 0), ("ArrowUp", 1), ("ArrowRight", 2), ("ArrowDown", 1), ("PageUp", 6), ("End", 9)):
        page.keyboard.press(key)
        assert f"slices {8 * expected} to" in said.inner_text()
    assert page.locator(".r0 .slider").input_value() == "9"


def test_runs_and_layers_are_chosen(look):
    page = look("compared")
    assert page.evaluate(SHOWN, ".stage") == 1
    assert page.evaluate(SHOWN, ".r1 .stage") == 0
    page.locator(".t-r1").check()
    assert page.evaluate(SHOWN, ".r1 .stage") == 1
    assert page.evaluate(SHOWN, ".stage") == 1
    assert page.evaluate(SHOWN, ".r1 .l0 use") > 0
    assert page.evaluate(SHOWN, ".t-kduplicate") == 0
    page.locator(".t-l1").check()
    assert page.evaluate(SHOWN, ".r1 .l0 use") == 0
    assert page.evaluate(SHOWN, ".r1 .l1 use") > 0
    assert page.evaluate(SHOWN, ".legend .t-kfirst") == 0


def test_colours_follow_the_readers_choice_of_light_or_dark(look):
    for dark in (False, True):
        page = look("judged", dark=dark)
        around = light_of(page.screenshot())[:, :20]
        panel = light_of(page.locator(".panels img").first.screenshot())
        assert (around.max() < 60) == dark
        assert (around.min() > 200) == (not dark)
        title = panel[: len(panel) // 10]
        assert (np.median(title) < 60) == dark
        assert np.ptp(title.astype(float)) > 150
        assert (np.median(panel) < 60) == dark


def test_without_script_one_slab_of_each_run_is_shown_with_its_marks(look):
    page = look("judged", script=False)
    assert sum(one.is_visible() for one in page.locator(".r0 .stage img").all()) == 1
    assert sum(one.is_visible() for one in page.locator(".r0 .stage use").all()) > 0
    assert not page.locator(".r0 .slider").is_visible()
    assert "needs JavaScript" in page.locator("#slabs").inner_text()
    page.locator(".t-r1").check()
    assert page.locator(".r1 .stage").is_visible()
    assert not page.locator(".r0 .stage").is_visible()
