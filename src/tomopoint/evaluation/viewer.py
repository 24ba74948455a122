"""The slabs of some runs in the page: a slider through z, marks over them, and a legend that switches marks off.

Everything is there when the page is read: each slab is a picture, and each mark an SVG element that knows its z. The
legend, and the choice of a run and of a layer, are boxes that style rules look at (``:has``), so they work without
JavaScript; the slider needs it, and without it the slab with most marks is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tomopoint.data.colours import GREEN, ORANGE, PURPLE, SKY, VERMILION, YELLOW, hex_colour_of
from tomopoint.evaluation.judging import Marks, count_marks
from tomopoint.evaluation.page import Markup, escape, section
from tomopoint.evaluation.slices import SlabStack
from tomopoint.pipeline import Particle

SCRIPT = Path(__file__).with_name("viewer.js")

CORNERS = ((24, 0.0), (3, 0.0), (4, 0.125), (4, 0.0), (6, 0.0), (3, 0.5), (5, 0.0), (8, 0.0))
"""Shape of the marks of each particle, in order: number of corners, and turn as a share of a full one. A circle,
triangle, square, diamond, hexagon, triangle on its tip, pentagon, octagon."""

SMALLEST_MARK = 0.009
"""Radius of the smallest mark as a share of the picture's width, for particles that are tiny in it."""

PALETTE = "Okabe and Ito's, which differ for every kind of colour vision"


@dataclass(frozen=True)
class Kind:
    """What a mark says.

    Attributes
    ----------
    key
        As in the marks.
    label
        In the legend.
    colour
        ``#rrggbb``; None: of the particle.
    dashes
        SVG's ``stroke-dasharray``; a second sign beside the colour.
    """

    key: str
    label: str
    colour: str | None
    dashes: str = "none"


PICKED = (Kind("picked", "picked", None),)
JUDGED_KINDS = (
    Kind("found", "found", SKY),
    Kind("missed", "missed", PURPLE, "7 3"),
    Kind("wrong", "wrong", VERMILION),
    Kind("duplicate", "duplicate", YELLOW, "3 3"),
)


def kinds_of_two(first: str, second: str, judged: bool) -> tuple[Kind, ...]:
    """Return the kinds of a comparison; `judged` where there is truth."""
    has = "found by" if judged else "picked by"
    kinds = (
        Kind("first", f"{has} {first} alone", ORANGE),
        Kind("second", f"{has} {second} alone", SKY),
        Kind("both", f"{has} both", GREEN, "3 3"),
    )
    wrong = (
        Kind("wrong_first", f"wrong in {first} alone", VERMILION, "7 3"),
        Kind("wrong_second", f"wrong in {second} alone", PURPLE, "7 3"),
    )
    return (*kinds, *wrong) if judged else kinds


@dataclass(frozen=True)
class Layer:
    """One way to mark the slabs.

    Attributes
    ----------
    title
        In the choice of layers.
    kinds
        Of its marks.
    telling
        Kinds by which the slab is chosen that is shown first.
    """

    title: str
    kinds: tuple[Kind, ...]
    telling: tuple[str, ...]


@dataclass(frozen=True)
class RunView:
    """A run to look at.

    Attributes
    ----------
    name
        Of the run.
    stack
        Its slabs.
    marks
        One for each layer, x, y, z in Angstrom.
    note
        Said below the picture.
    """

    name: str
    stack: SlabStack
    marks: tuple[Marks, ...]
    note: str = ""


def viewer(
    title: str, intro: Markup, layers: Sequence[Layer], views: Sequence[RunView], particles: Sequence[Particle]
) -> Markup:
    """Return the section with the slabs of some runs.

    Parameters
    ----------
    title, intro
        Heading, and what is said below it.
    layers
        The first is shown first.
    views
        The first is shown first.
    particles
        Names and radii, in the order of their shapes.
    """
    choices = [
        _choice("run", "r", [view.name for view in views]),
        _choice("layer", "l", [layer.title for layer in layers]),
    ]
    figures = "".join(_figure(place, view, layers, particles) for place, view in enumerate(views))
    body = f'<div class="viewer"><div>{figures}</div>{_legend(layers, particles)}</div>'
    noscript = (
        "<noscript><p class=soft>The slider needs JavaScript; of each run the slab with most marks is shown.</p>"
        "</noscript>"
    )
    style = f"<style>{_rules(len(views), layers, particles)}</style>"
    script = f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"
    return section(title, intro, *(Markup(part) for part in (style, noscript, *choices, body, script)), ident="slabs")


def swatch(shape: str = "", colour: str = "#fff", dashes: str = "none") -> str:
    """Return a small picture of a mark for the legend; a circle unless `shape` is a path."""
    path = shape or _path(0, 8.0)
    return (
        f'<svg class="swatch" viewBox="-13 -13 26 26" aria-hidden="true" style="color:{colour};'
        f'stroke-dasharray:{dashes}"><path class="rim" d="{path}"/><path class="mark" d="{path}"/></svg>'
    )


def _choice(what: str, letter: str, titles: Sequence[str]) -> str:
    """Return buttons of which one is chosen; hidden where there is nothing to choose."""
    buttons = "".join(
        f'<label><input type="radio" name="{what}" class="t-{letter}{place}"{" checked" if place == 0 else ""}> '
        f"{escape(title)}</label>"
        for place, title in enumerate(titles)
    )
    hidden = " hidden" if len(titles) < 2 else ""
    return f'<div class="choices" role="radiogroup" aria-label="{what}"{hidden}>{buttons}</div>'


def _rules(n_runs: int, layers: Sequence[Layer], particles: Sequence[Particle]) -> str:
    """Return the style rules by which boxes switch runs, layers, particles and kinds."""
    switched = [f"r{place}" for place in range(n_runs)] + [f"l{place}" for place in range(len(layers))]
    switched += [f"c{place}" for place in range(len(particles))]
    switched += [f"k{key}" for key in _keys(layers)]
    rules = [f"#slabs:has(.t-{name}:not(:checked)) .{name} {{ display: none; }}" for name in switched]
    rules += [f".c{place} {{ color: {hex_colour_of(place)}; }}" for place in range(len(particles))]
    for kind in _keys(layers).values():
        colour = f"color: {kind.colour}; " if kind.colour else ""
        rules.append(f".stage .k{kind.key} {{ {colour}stroke-dasharray: {kind.dashes}; }}")
    return "\n".join(rules)


def _keys(layers: Sequence[Layer]) -> dict[str, Kind]:
    return {kind.key: kind for layer in layers for kind in layer.kinds}


def _legend(layers: Sequence[Layer], particles: Sequence[Particle]) -> str:
    by_particle = any(kind.colour is None for layer in layers for kind in layer.kinds)
    classes = "".join(
        _box(f"c{place}", particle.name, swatch(_path(place, 8.0), hex_colour_of(place) if by_particle else "#fff"))
        for place, particle in enumerate(particles)
    )
    parts = [f"<fieldset><legend>particle</legend>{classes}</fieldset>"]
    for place, layer in enumerate(layers):
        if len(layer.kinds) > 1:
            kinds = "".join(
                _box(f"k{kind.key}", kind.label, swatch("", kind.colour or "#fff", kind.dashes)) for kind in layer.kinds
            )
            parts.append(f'<fieldset class="l{place}"><legend>{escape(layer.title)}</legend>{kinds}</fieldset>')
    return f'<div class="legend">{"".join(parts)}</div>'


def _box(name: str, label: str, picture: str) -> str:
    return f'<label><input type="checkbox" class="t-{name}" checked>{picture}<span>{escape(label)}</span></label>'


def _figure(place: int, view: RunView, layers: Sequence[Layer], particles: Sequence[Particle]) -> str:
    """Return one run: its slabs, one of them shown, the marks over them, the slider, and how marks lie along z."""
    stack = view.stack
    first = stack.fullest(view.marks[0], layers[0].telling)
    _, height, width = stack.shape_zyx
    said = [_said(view.name, stack, index) for index in range(len(stack.slabs))]
    slabs = "".join(
        f'<img src="{slab.data_uri}" alt="{escape(text)}" data-z="{z_A:.1f}"{"" if index == first else " hidden"}>'
        for index, (slab, text, z_A) in enumerate(zip(stack.slabs, said, stack.middles_A, strict=True))
    )
    shapes = "".join(_shape(place, index, particle, stack) for index, particle in enumerate(particles))
    groups = "".join(
        f'<g class="l{index}">{"".join(_marks(place, layer, marks, stack, particles, first))}</g>'
        for index, (layer, marks) in enumerate(zip(layers, view.marks, strict=True))
    )
    drawing = f'<svg viewBox="0 0 {width} {height}" aria-hidden="true"><defs>{shapes}</defs>{groups}</svg>'
    totals = "".join(
        f'<div class="l{index} soft">{escape(_totals(layer, marks))}</div>'
        for index, (layer, marks) in enumerate(zip(layers, view.marks, strict=True))
    )
    note = f"<div class=soft>{escape(view.note)}</div>" if view.note else ""
    last = len(stack.slabs) - 1
    return (
        f'<figure class="run r{place}" data-reach="{stack.reach_A:g}">'
        f'<div class="stage" tabindex="0" role="group" style="aspect-ratio:{width}/{height}" '
        f'aria-label="slabs of {escape(view.name)}; arrow keys go through z">{slabs}{drawing}{_scale_bar(stack)}</div>'
        f"{_profile(stack.counts_of(view.marks[0], layers[0].telling))}"
        f'<input class="slider" type="range" min="0" max="{last}" value="{first}" '
        f'aria-label="slab of {escape(view.name)}" aria-valuetext="{escape(said[first])}" hidden>'
        f"<figcaption><output>{escape(said[first])}</output>{totals}{note}</figcaption></figure>"
    )


def _said(run: str, stack: SlabStack, index: int) -> str:
    slab = stack.slabs[index]
    slices = f"slice {slab.low}" if slab.high == slab.low + 1 else f"slices {slab.low} to {slab.high - 1}"
    return f"{run}, {slices} of {stack.shape_zyx[0]}, z {stack.middles_A[index]:.0f} A"


def _totals(layer: Layer, marks: Marks) -> str:
    counts = count_marks(marks)
    return "in all of it " + ", ".join(f"{counts[kind.key]} {kind.label}" for kind in layer.kinds)


def _shape(place: int, index: int, particle: Particle, stack: SlabStack) -> str:
    radius_vox = max(particle.radius_A / stack.voxel_A, SMALLEST_MARK * stack.shape_zyx[2])
    path = _path(index, radius_vox)
    return f'<g id="r{place}c{index}"><path class="rim" d="{path}"/><path class="mark" d="{path}"/></g>'


def _marks(
    place: int, layer: Layer, marks: Marks, stack: SlabStack, particles: Sequence[Particle], first: int
) -> Iterable[str]:
    """Yield one element per mark; y points up in the tomogram and down on the page."""
    middle_A, height = stack.middles_A[first], stack.shape_zyx[1]
    for kind in layer.kinds:
        for index, particle in enumerate(particles):
            for x_A, y_A, z_A in marks[kind.key].get(particle.name, ()):
                out = "" if abs(z_A - middle_A) <= stack.reach_A else " out"
                yield (
                    f'<use href="#r{place}c{index}" class="c{index} k{kind.key}{out}" x="{x_A / stack.voxel_A:.1f}" '
                    f'y="{height - y_A / stack.voxel_A:.1f}" data-z="{z_A:.1f}"/>'
                )


def _path(index: int, radius: float) -> str:
    corners, turn = CORNERS[index % len(CORNERS)]
    angles = [2 * math.pi * (corner / corners + turn) for corner in range(corners)]
    return "M" + "L".join(f"{radius * math.sin(angle):.2f},{-radius * math.cos(angle):.2f}" for angle in angles) + "Z"


def _scale_bar(stack: SlabStack) -> str:
    """Return a bar of 1, 2 or 5 times a power of ten, the longest below a quarter of the width."""
    width_nm = stack.shape_zyx[2] * stack.voxel_A / 10
    steps = [factor * 10.0**power for power in range(-1, 5) for factor in (1, 2, 5)]
    length_nm = max((step for step in steps if step <= width_nm / 4), default=steps[0])
    return f'<div class="scale" style="width:{100 * length_nm / width_nm:.2f}%">{length_nm:g} nm</div>'


def _profile(counts: Iterable[int]) -> str:
    """Return bars over the slider: how many marks each slab has."""
    heights = list(counts)
    most = max(1, *heights)
    bars = "".join(
        f'<rect x="{place + 0.1:.1f}" y="{1 - count / most:.3f}" width="0.8" height="{count / most:.3f}"/>'
        for place, count in enumerate(heights)
    )
    return (
        f'<svg class="depth" viewBox="0 0 {len(heights)} 1" preserveAspectRatio="none" aria-hidden="true">{bars}</svg>'
    )
