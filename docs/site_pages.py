"""Pages of the site that are no files in ``docs/``: mkdocs calls the ``on_...`` functions (``mkdocs.yml``, hooks).

README, CONTRIBUTING and the like stay where GitHub shows them, and are pages of the site as well; links between them
and ``docs/`` are written for GitHub and rewritten here. Each command's help is a page, from the command line itself,
and so is each notebook, from its source. A link that leads nowhere is left as it is, for mkdocs to warn of.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

from tomopoint.__main__ import COMMANDS, app

ROOT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "wheels/README.md": "wheels.md",
    "src/tomopoint/models/small.md": "models/small.md",
}
"""Documents outside of ``docs/`` and the pages they are."""

NOTEBOOKS = {"docs/lab.ipynb": "lab-notebook.md"}
"""Notebooks and their pages, which are made from the ``.py`` beside them."""

_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")
_SOURCES = {page: source for source, page in (PAGES | NOTEBOOKS).items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the commands to the navigation, by stretches of the road, and name anchors as GitHub does."""
    stretches: list[Any] = [{stretch: [_command_page(name) for name in names]} for stretch, names in COMMANDS.items()]
    assert config.nav is not None
    config.nav.append({"Commands": ["commands/index.md", *stretches]})
    config.mdx_configs["toc"] = {**config.mdx_configs.get("toc", {}), "slugify": slugify(case="lower")}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    pages = {page: (ROOT / source).read_text() for source, page in PAGES.items()}
    pages |= {page: notebook_page(ROOT / source) for source, page in NOTEBOOKS.items()}
    pages |= command_pages()
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that lead to files on GitHub lead to pages here."""
    source = _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return rewrite_links(markdown, source, page.file.src_uri)


def rewrite_links(markdown: str, source: str, page: str) -> str:
    """Return a document with its relative links as they are between pages.

    Parameters
    ----------
    source
        Its path in the repository, from which the links count.
    page
        The page it becomes, in the site.
    """

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if target in PAGES | NOTEBOOKS:
            target = (PAGES | NOTEBOOKS)[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return match[0]
        return posixpath.relpath(target, posixpath.dirname(page) or ".") + (match[2] or "")

    return _LINK.sub(rewritten, markdown)


def command_pages() -> dict[str, str]:
    """Return the pages of the command reference: an overview, and one for each command."""
    app.resolved_commands()
    pages, overview = {}, ["# Commands\n\n`tomopoint COMMAND --help` shows the same in a terminal.\n"]
    for stretch, names in COMMANDS.items():
        overview.append(f"\n## {stretch}\n\n| command | what it does |\n|---|---|\n")
        for name in names:
            text = app[name].generate_docs(usage_name=f"tomopoint {name}")
            pages[_command_page(name)] = text
            summary = app[name].help.strip().splitlines()[0]
            overview.append(f"| [{name}]({name}.md) | {summary} |\n")
    overview.append(
        "\n## With every command\n\n`--json` prints the figures as one JSON object, `--verbose` logs more. The status "
        "is 0 where all was done, 1 where it was not (a sentence says why), 2 for a wrong word.\n"
    )
    return {**pages, "commands/index.md": "".join(overview)}


def notebook_page(notebook: Path) -> str:
    """Return a notebook as a page, from its source in jupytext's percent format; it has no outputs."""
    cells = jupytext.reads(notebook.with_suffix(".py").read_text(), fmt="py:percent").cells
    return "\n\n".join(
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells
    )


def _command_page(name: str) -> str:
    return f"commands/{name}.md"
