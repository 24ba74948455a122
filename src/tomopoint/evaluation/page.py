"""A self-contained HTML page from sections, tables and pictures. Everything that is not markup is escaped here."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already."""

    html: str


def escape(value: Any) -> str:
    """Return a value as HTML text; :class:`Markup` passes."""
    return value.html if isinstance(value, Markup) else html.escape(str(value))


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure with fixed decimals, a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], total: bool = False, text: Sequence[int] = ()) -> Markup:
    """Return a table: first column to the left, others to the right.

    Parameters
    ----------
    head
        Column titles.
    rows
        Cells.
    total
        Whether the last row is a sum and stands out.
    text
        Columns that hold words: to the left, wrapped.
    """

    def cell(tag: str, column: int, value: Any) -> str:
        kind = ' class="text"' if column in text else ""
        return f"<{tag}{kind}>{escape(value)}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", i, name) for i, name in enumerate(head)) + "</tr>"]
    for index, row in enumerate(rows):
        last = ' class="total"' if total and index == len(rows) - 1 else ""
        lines.append(f"<tr{last}>" + "".join(cell("td", i, value) for i, value in enumerate(row)) + "</tr>")
    return Markup('<div class="wide"><table>' + "".join(lines) + "</table></div>")


def paragraph(*parts: Any, soft: bool = False) -> Markup:
    """Return a paragraph of text and markup."""
    return Markup(f"<p{' class=soft' if soft else ''}>{''.join(map(escape, parts))}</p>")


def panels(pictures: Sequence[tuple[str, str]]) -> Markup:
    """Return pictures, each with its description for those who cannot see it, side by side where there is room."""
    cells = "".join(f'<img src="{uri}" alt="{html.escape(description)}">' for description, uri in pictures)
    return Markup(f'<div class="panels">{cells}</div>')


def key(lines: Sequence[tuple[str, str]]) -> Markup:
    """Return what the colours of a figure mean: label and colour of each."""
    spans = "".join(
        f'<span><i class="line" style="color:{colour}"></i>{escape(label)}</span>' for label, colour in lines
    )
    return Markup(f'<p class="key soft">{spans}</p>')


def subheading(title: str) -> Markup:
    """Return a heading within a section."""
    return Markup(f"<h3>{html.escape(title)}</h3>")


def section(title: str, *parts: Markup, ident: str = "") -> Markup:
    """Return a titled block; style rules find it by `ident`."""
    name = f' id="{ident}"' if ident else ""
    return Markup(f"<section{name}><h2>{html.escape(title)}</h2>{''.join(part.html for part in parts)}</section>")


def tiles(values: Sequence[tuple[str, str]]) -> Markup:
    """Return large figures with captions, side by side."""
    cells = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for v, k in values)
    return Markup(f'<div class="tiles">{cells}</div>')


def page(title: str, badge: str, subtitle: str, parts: Sequence[Markup]) -> str:
    """Return the whole page; it refers to no other file."""
    mark = f'<span class="badge">{html.escape(badge)}</span>' if badge else ""
    heading = f"<h1>{html.escape(title)}{mark}</h1><div class=soft>{html.escape(subtitle)}</div>"
    body = heading + "".join(part.html for part in parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(f'{badge} {title}'.strip())}</title>"
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
