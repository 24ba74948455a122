"""Files that are not what they should be: one sentence that names the file and the fix, never a traceback.

For every kind of file in ``kinds.py`` and every way of damage in ``damage.py``: only the package's own errors come out,
the message names the file and says what to do, and what is taken all the same is sound (each kind's reader asserts it).
"""

from __future__ import annotations

import os
import re

import pytest
from damage import VALUES, other_bytes, other_encodings, other_scalars, other_values, try_each
from kinds import KINDS

QUICK, MANY = 3, 100
"""Examples per kind and way of damage; the second in the slow run."""

LONGEST = 3000
"""Characters of a message: an unknown field is answered with the names of all known ones."""

A_FIX = re.compile(
    r"\b(run|export|stage|train|validate|write|copy|correct|remove|delete|choose|give|restore|compare|lock|set|attach|"
    r"rename|resample|transpose|mend|keep|take|put|pad|convert|use|must|expected|needs?|allowed|known are|lie in|"
    r"is too large|cannot be read as YAML|lacks|unknown|start over)\b"
)
"""What tells a reader what to do: a verb that asks for it, or the words that say what is allowed."""

WAYS = {
    "values": lambda kind: kind.dump and other_values(kind.good()).map(kind.written),
    "names and numbers": lambda kind: kind.dump and other_scalars(kind.good()).map(kind.written),
    "something else": lambda kind: kind.dump and VALUES.map(kind.written),
    "bytes": lambda kind: other_bytes(kind.written(kind.good())),
    "encodings": lambda kind: other_encodings(kind.written(kind.good())),
}
"""The ways in which a file goes bad; None where it has no values to change."""

BY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def is_read_or_refused(kind, path):
    """Read a file; True where it was taken. Anything but the kind's own error fails the test."""
    try:
        kind.read(path)
    except kind.error as error:
        check_sentence(str(error), kind, path)
        return False
    return True


def check_sentence(message, kind, path):
    """Check that a message names the file and the fix, and can be written to a terminal."""
    assert not kind.always, "others write this file, too: a bad one is passed over"
    assert str(kind.named(path)) in message
    assert A_FIX.search(message), message
    assert len(message) < LONGEST
    message.encode()


def check_all_ways(kind, folder, n):
    """Damage a file of a kind in every way, `n` times each; return how often."""
    kind.prepare(folder)
    path = folder / kind.name

    def check(raw):
        path.write_bytes(raw)
        is_read_or_refused(kind, path)

    strategies = [strategy for way in WAYS.values() if (strategy := way(kind)) is not None]
    return sum(try_each(strategy, n, check) for strategy in strategies)


@BY_KIND
def test_the_good_file_is_taken(kind, tmp_path):
    kind.prepare(tmp_path)
    (tmp_path / kind.name).write_bytes(kind.written(kind.good()))
    assert is_read_or_refused(kind, tmp_path / kind.name)


@BY_KIND
def test_damage_of_any_kind_is_refused_with_a_sentence(kind, tmp_path, record_property):
    record_property("cases", check_all_ways(kind, tmp_path, QUICK))


@pytest.mark.slow
@BY_KIND
def test_much_damage_of_any_kind_is_refused_with_a_sentence(kind, tmp_path, record_property):
    n = check_all_ways(kind, tmp_path, MANY)
    assert n >= MANY
    record_property("cases", n)


def test_the_slow_run_has_more_than_two_thousand_cases():
    n_ways = sum(way(kind) is not None for kind in KINDS.values() for way in WAYS.values())
    assert n_ways * MANY > 2000


IN_ITS_PLACE = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a dangling link": lambda path: path.symlink_to("nothing"),
}


@BY_KIND
@pytest.mark.parametrize("what", IN_ITS_PLACE)
def test_what_is_no_file_is_refused(kind, what, tmp_path):
    kind.prepare(tmp_path)
    path = tmp_path / kind.name
    path.unlink(missing_ok=True)
    IN_ITS_PLACE[what](path)
    is_read_or_refused(kind, path)
