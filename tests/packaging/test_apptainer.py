"""The definition file of a container, which nobody built so far: its sections, its shell, and what it is made of."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SECTIONS = {
    *("setup", "files", "post", "environment", "runscript", "startscript", "test", "labels", "help", "arguments"),
    *("appinstall", "apprun", "appenv", "apphelp", "applabels", "appfiles", "apptest", "appstart", "pre"),
}
"""Source: https://apptainer.org/docs/user/latest/definition_files.html."""


@pytest.fixture(scope="module")
def definition():
    """Return the header's fields and the text of each section."""
    header, _, rest = (ROOT / "docs/apptainer.def").read_text().partition("\n%")
    fields = dict(line.split(": ", 1) for line in header.splitlines() if line and not line.startswith("#"))
    sections = dict(part.partition("\n")[::2] for part in f"\n{rest}".replace("\n%", "\0").lstrip("\n").split("\0"))
    return fields, sections


def test_header_and_sections_are_apptainers(definition):
    fields, sections = definition
    assert fields == {"Bootstrap": "docker", "From": "python:3.12-slim"}
    assert set(sections) <= SECTIONS
    assert {"files", "post", "environment", "runscript", "test"} <= set(sections)
    for name in ("post", "environment", "runscript", "test"):
        done = subprocess.run(["sh", "-n"], input=sections[name], text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), name


def test_the_package_is_made_of_the_files_that_are_copied(definition, tmp_path):
    _, sections = definition
    copies = [line.split() for line in sections["files"].splitlines() if line.strip()]
    for source, target in copies:
        place = tmp_path / Path(target).relative_to("/opt")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("*.whl", "__pycache__"))
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, place)
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(words, cwd=tmp_path / "tomopoint", check=True, capture_output=True)
    assert len(list(tmp_path.glob("tomopoint-*.whl"))) == 1


def test_its_extras_are_the_packages(definition):
    _, sections = definition
    (asked,) = re.findall(r"/opt/tomopoint\[([\w,-]+)\]", sections["post"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(asked.split(",")) <= set(project["optional-dependencies"])
