"""A self-contained HTML page from sections, tables and pictures. Everything that is not markup is escaped here."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STYLE = """
:root { --ink: #1f2933; --soft: #52606d; --line: #e4e7eb; --back: #f5f7fa; --card: #fff; --accent: #2563a8; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0 0 10px; }
p { margin: 6px 0 12px; max-width: 80ch; }
.soft { color: var(--soft); }
.badge { display: inline-block; background: #b44d12; color: #fff; font-size: 13px; font-weight: 700;
  letter-spacing: .06em; padding: 2px 10px; border-radius: 4px; vertical-align: 4px; margin-left: 10px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px;
  margin-top: 18px; }
.tiles { display: flex; flex-wrap: wrap; gap: 14px; margin-top: 16px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 18px;
  min-width: 150px; flex: 1; }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; margin: 4px 0 10px; }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.total td { font-weight: 700; border-top: 2px solid var(--line); }
td.text { white-space: normal; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; margin: 8px 0; }
.key { max-width: none; }
.key span { margin-right: 18px; white-space: nowrap; }
.dot { display: inline-block; width: 11px; height: 11px; border: 3px solid; border-radius: 50%;
  vertical-align: -1px; margin: 0 5px 0 0 !important; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
"""


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


def picture(data_uri: str, description: str) -> Markup:
    """Return an embedded picture with its description for those who cannot see it."""
    return Markup(f'<img src="{data_uri}" alt="{html.escape(description)}">')


def section(title: str, *parts: Markup) -> Markup:
    """Return a titled block."""
    return Markup(f"<section><h2>{html.escape(title)}</h2>{''.join(part.html for part in parts)}</section>")


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
        f"<title>{html.escape(f'{badge} {title}'.strip())}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
