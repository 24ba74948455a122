"""What a release hangs on: one version everywhere, and a tag that is that version."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from tomopoint import __version__

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def check_tag(tmp_path):
    """Run .ci/check-tag in a copy whose changelog says what is given; return status and what it said."""

    def run(tag, changelog, citation=None):
        for name in (".ci/check-tag", "src/tomopoint/__init__.py", "CITATION.cff"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, tmp_path / name)
        (tmp_path / "CHANGELOG.md").write_text(changelog)
        if citation:
            (tmp_path / "CITATION.cff").write_text(citation)
        done = subprocess.run([str(tmp_path / ".ci/check-tag"), tag], capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    return run


def test_the_tag_is_the_version(check_tag):
    changelog = f"# Changelog\n\n## {__version__} (2027-01-01)\n"
    assert check_tag(f"v{__version__}", changelog) == (0, "")
    status, said = check_tag("v99.0.0", changelog)
    assert (status, said) == (1, f"the tag is v99.0.0, but src/tomopoint/__init__.py says {__version__}\n")
    assert check_tag(__version__, changelog)[0] == 1  # without v
    assert "unreleased" in check_tag(f"v{__version__}", f"## {__version__} (unreleased)\n")[1]
    assert "no section" in check_tag(f"v{__version__}", "## 98.0.0 (2027-01-01)\n")[1]
    assert "CITATION.cff 98.0.0" in check_tag(f"v{__version__}", changelog, "version: 98.0.0\n")[1]


def test_the_version_is_one_that_installers_and_kaggle_take():
    """Caches, members and kits name it, so it changes with releases only: no commit, no date in it."""
    version = Version(__version__)
    assert str(version) == __version__
    assert version.local is None
    assert not version.is_devrelease
    assert f"version: {__version__}\n" in (CHECKOUT / "CITATION.cff").read_text()


def test_what_ci_runs_can_be_run():
    assert all(os.access(CHECKOUT / ".ci" / name, os.X_OK) for name in ("run", "check-tag"))
    workflows = "".join(path.read_text() for path in (CHECKOUT / ".github" / "workflows").glob("*.yml"))
    targets = (CHECKOUT / "Makefile").read_text()
    made = {line.split("make ")[1].split()[0] for line in workflows.splitlines() if "run: make " in line}
    assert {"setup", "check", "test"} <= made
    assert all(f"\n{target}:" in targets for target in made)
