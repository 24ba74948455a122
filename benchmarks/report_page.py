"""How large the report's page is, and how it looks: the pictures of docs/report.md, of simulated tomograms.

    make bench-report_page [ARGS="--shape 96,200,200 --figures docs/figures"]

Simulates two runs, predicts them with the model `small`, makes a second submission at other thresholds, and writes
the pages that docs/report.md speaks of. With --figures it takes pictures of them in a browser that is there: Chromium
or Chrome on the path, or Playwright's own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
JPEG_QUALITY = 65
HIGH_PHONE = (390, 1650)
DESKTOP = (1180, 1260)
HIGH_DESKTOP = (1180, 1960)
"""Width and height, pixels."""


class NoBrowserError(Exception):
    """There is no browser, or no Playwright to steer it; the message says what to install."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Open a headless browser; NoBrowserError where there is none."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise NoBrowserError("Playwright is missing; install it with `pip install playwright`") from error
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=found)
        except Error as error:
            raise NoBrowserError(
                f"no browser starts ({found or 'none on the path'}); install one, e.g. `apt-get install chromium`"
            ) from error
        try:
            yield opened
        finally:
            opened.close()


def take_pictures(pages: dict[str, Path], folder: Path) -> list[Path]:
    """Take a picture of the page of one submission on a desktop, of two in the dark, and of no truth on a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with browser() as opened:
        for name, page, size, dark in (
            ("report-desktop", "judged", DESKTOP, False),
            ("report-dark", "compared", HIGH_DESKTOP, True),
            ("report-phone", "blind", HIGH_PHONE, False),
        ):
            width, height = size
            scheme: Literal["dark", "light"] = "dark" if dark else "light"
            shown = opened.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            shown.goto(pages[page].resolve().as_uri())
            written.append(folder / f"{name}.jpg")
            shown.screenshot(path=written[-1], type="jpeg", quality=JPEG_QUALITY)
    return written


def make_pages(folder: Path, shape: str) -> dict[str, Path]:
    """Simulate, predict, and write the pages; all by the command line, as a user would."""

    def tomopoint(*words: str | Path) -> None:
        subprocess.run([sys.executable, "-m", "tomopoint", *map(str, words)], cwd=folder, check=True)

    tomopoint("simulate", "data", "--train-runs", "0", "--test-runs", "2", "--shape", shape)
    tomopoint("predict", "--data", "data", "--model", "small", "--out", "picks")
    others = "ribosome=0.9,thyroglobulin=0.2,apo-ferritin=0.2"
    tomopoint("rethreshold", "picks/picks.csv", "--thresholds", others, "--out", "picks/other.csv")
    one, two = ("picks/submission.csv",), ("picks/submission.csv", "picks/other.csv")
    truth = ("--truth", "data/truth")
    for name, submissions, more in (("judged", one, truth), ("compared", two, truth), ("blind", one, ())):
        tomopoint("report", "--data", "data", "--submission", *submissions, *more, "--out", f"{name}.html")
    return {name: folder / f"{name}.html" for name in ("judged", "compared", "blind")}


def main() -> None:
    """Write the pages, say how large they are, and take pictures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="96,200,200", help="voxels of the simulated tomograms, z, y, x")
    parser.add_argument("--figures", type=Path, help="folder for the pictures; default none are taken")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pages = make_pages(Path(folder), given.shape)
        pictures = take_pictures(pages, given.figures) if given.figures else []
        figures = {
            "simulated": True,
            "shape": given.shape,
            "runs": 2,
            "megabytes": {name: round(path.stat().st_size / 1e6, 2) for name, path in pages.items()},
            "pictures_kb": {path.name: round(path.stat().st_size / 1e3) for path in pictures},
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
