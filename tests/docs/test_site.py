"""The site, where `make docs` installed mkdocs: it builds without a warning, with a page per command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tomopoint.__main__ import COMMANDS

pytest.importorskip("mkdocs")
CHECKOUT = Path(__file__).parents[2]
PAGES = (
    *("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("docs", "wheels/README.md", "src/tomopoint/models/small.md"),
)


@pytest.fixture
def build(tmp_path):
    """Build the site of a copy of the documents, in which `changes` are appended; return status, words and folder."""

    def run(**changes):
        for name in PAGES:
            source, target = CHECKOUT / name, tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        for name, text in changes.items():
            with (tmp_path / "docs" / f"{name}.md").open("a") as stream:
                stream.write(text)
        words = [sys.executable, "-m", "mkdocs", "build", "--strict"]
        environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr, tmp_path / "site"

    return run


def test_the_site_builds_with_every_command(build):
    status, said, site = build()
    assert status == 0, said
    for name in (name for names in COMMANDS.values() for name in names):
        assert f"tomopoint {name}" in (site / "commands" / name / "index.html").read_text()
    assert "--pseudo-labels" in (site / "commands" / "train" / "index.html").read_text()
    home = (site / "index.html").read_text()
    assert re.search(r'href="engines/#on-a-cpu"', home)  # of README, which says docs/engines.md#on-a-cpu
    assert 'href="models/small/"' in home
    assert "mermaid" in home
    assert "From MRC files to STAR files" in (site / "lab-notebook" / "index.html").read_text()
    assert 'href="../wheels/"' in (site / "kaggle" / "index.html").read_text()


@pytest.mark.parametrize(("link", "words"), [("[x](nowhere.md)", "nowhere.md"), ("[x](engines.md#none)", "#none")])
def test_a_link_that_leads_nowhere_fails(link, words, build):
    status, said, _ = build(lab=f"\n{link}\n")
    assert status == 1
    assert words in said
