"""Documents as GitHub shows them: every relative link leads to a file that is there, every anchor to a heading."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "wheels/README.md", "src/tomopoint/models/small.md")
DOCUMENTS = sorted([*OUTSIDE, *(f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md"))])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors_of(text):
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    path = CHECKOUT / name
    for link in LINK.findall(without_code(path.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_relative_to(CHECKOUT), f"{name}: {link}"
        assert target.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors_of(target.read_text()), f"{name}: {link}"


def test_anchors_are_made_as_github_makes_them():
    text = "# On a GPU: `make bench-gpu`\n```\n# no heading\n```\n## [formats.md](formats.md), twice\n"
    assert anchors_of(text) == {"on-a-gpu-make-bench-gpu", "formatsmd-twice"}


def test_every_page_is_in_the_navigation_or_generated():
    configuration = (CHECKOUT / "mkdocs.yml").read_text()
    for path in (CHECKOUT / "docs").glob("*.md"):
        assert f": {path.name}\n" in configuration, path.name
