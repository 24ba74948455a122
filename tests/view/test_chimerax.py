"""The script for ChimeraX, held against what its user guide documents; ChimeraX itself was never there to run it."""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from view_data import SHAPE_ZYX, VOLUME, VOXEL_A, write_mrcs

from tomopoint.data.colours import colours_of
from tomopoint.data.mrc import open_mrc
from tomopoint.errors import DataError, TomopointError
from tomopoint.pipeline import COMPETITION_PARTICLES
from tomopoint.view.command import view

NUMBER = r"-?\d+(\.\d+)?(e-?\d+)?"
INTEGERS = r"\d+,\d+,\d+"
GRAMMAR = {
    "set": {"bgColor": "black"},
    "volume": {
        "originIndex": f"{NUMBER},{NUMBER},{NUMBER}",
        "voxelSize": NUMBER,
        "region": f"all|{INTEGERS},{INTEGERS}",
        "step": r"\d+",
        "style": "surface|mesh|image",
        "level": f"{NUMBER},{NUMBER}",
        "color": r"\w+",
        "orthoplanes": "xyz|xy|yz|xz|off",
        "positionPlanes": INTEGERS,
    },
    "mousemode": {"rightMode": "move planes|clip|contour level|zoom|translate|rotate|select"},
}
"""Keywords and forms of their values in the user guide of ChimeraX, commands open, set, volume and mousemode."""
WHOLE = {"lighting soft", "camera ortho", "view"}


def commands(script):
    return [line for line in script.read_text().splitlines() if line and not line.startswith("#")]


def check_grammar(line):
    name, *words = shlex.split(line)
    if line in WHOLE:
        return
    if name == "open":
        assert len(words) == 1
        assert Path(words[0]).is_file()
        return
    if name == "volume":
        assert words.pop(0) == "#1"
    assert len(words) % 2 == 0
    for keyword, value in zip(words[::2], words[1::2], strict=True):
        assert re.fullmatch(GRAMMAR[name][keyword], value), f"{keyword} {value}"


def test_the_script_opens_the_file_and_its_markers(mrcs, prediction, tmp_path):
    script = tmp_path / "out" / "look.cxc"
    done = view(mrcs, "TS_1", picks=prediction, chimerax=script)
    assert done.figures["n_picks"] == 2  # the second ribosome is below its threshold
    lines = commands(script)
    for line in lines:
        check_grammar(line)
    opened = [shlex.split(line)[1] for line in lines if line.startswith("open ")]
    beside = [str(tmp_path / "out" / f"TS_1_{name}.cmm") for name in ("apo-ferritin", "ribosome")]
    assert opened == [str(mrcs / "TS_1.mrc"), *beside]
    low, high = (float(value) for value in re.findall(r"level ([^,]+),[01]", "\n".join(lines)))
    assert low == pytest.approx(np.quantile(VOLUME, 0.005), rel=0.05)
    assert high == pytest.approx(np.quantile(VOLUME, 0.995), rel=0.05)
    assert "positionPlanes 25,20,10" in "\n".join(lines)

    (marker,) = ElementTree.parse(beside[1]).getroot()
    # The centre of the first voxel is at 0 there: half a voxel less than from the corner.
    at = [float(marker.get(axis)) for axis in "xyz"]
    np.testing.assert_allclose(at, np.array([123.456, 234.567, 45.678]) - VOXEL_A / 2, atol=0.01)
    assert float(marker.get("radius")) == 150.0
    colour = colours_of(particle.name for particle in COMPETITION_PARTICLES)["ribosome"]
    assert [float(marker.get(part)) for part in "rgb"] == list(colour)


def test_a_header_with_an_origin_moves_nothing(tmp_path, prediction):
    """`volume originIndex 0,0,0` puts the first grid point at 0, where markers count from."""
    data = write_mrcs(tmp_path / "moved", origin_A=500.0)
    view(data, "TS_1", picks=prediction, chimerax=tmp_path / "look.cxc")
    lines = commands(tmp_path / "look.cxc")
    assert f"volume #1 originIndex 0,0,0 voxelSize {VOXEL_A:g}" in lines
    assert lines.index(f'open "{data / "TS_1.mrc"}"') + 1 == lines.index(
        f"volume #1 originIndex 0,0,0 voxelSize {VOXEL_A:g}"
    )


def test_of_a_store_it_says_what_is_missing_or_writes_a_copy(stores, prediction, tmp_path):
    done = view(stores, "TS_1", picks=prediction, chimerax=tmp_path / "look.cxc")
    assert "ChimeraX reads no OME-Zarr" in done.text
    assert "--mrc-copy" in done.text
    assert not any(line.startswith("volume") for line in commands(tmp_path / "look.cxc"))
    done = view(stores, "TS_1", picks=prediction, chimerax=tmp_path / "look.cxc", mrc_copy=True)
    copy = open_mrc(tmp_path / "TS_1.mrc")
    assert copy.voxel_A == pytest.approx(VOXEL_A, abs=1e-4)
    assert copy.voxels_zyx.shape == SHAPE_ZYX
    assert np.array_equal(copy.voxels_zyx, VOLUME)
    assert done.figures["volume"] == str(tmp_path / "TS_1.mrc")
    for line in commands(tmp_path / "look.cxc"):
        check_grammar(line)


def test_without_picks_the_tomogram_is_opened_alone(mrcs, tmp_path):
    view(mrcs, "TS_1", chimerax=tmp_path / "look.cxc")
    assert sum(line.startswith("open ") for line in commands(tmp_path / "look.cxc")) == 1


def test_what_cannot_be_written_is_refused(mrcs, tmp_path):
    with pytest.raises(DataError, match=r"ends in \.cxc"):
        view(mrcs, "TS_1", chimerax=tmp_path / "look.py")
    with pytest.raises(TomopointError, match=r"TS_1\.mrc is read by this command"):
        view(mrcs, "TS_1", chimerax=mrcs / "look.cxc", mrc_copy=True)
    with pytest.raises(TomopointError, match="--mrc-copy belongs to --chimerax"):
        view(mrcs, "TS_1", mrc_copy=True)
    with pytest.raises(TomopointError, match="give one of them"):
        view(mrcs, "TS_1", chimerax=tmp_path / "look.cxc", screenshot=tmp_path / "look.png")


def test_a_path_that_a_command_cannot_hold_is_refused(tmp_path):
    data = write_mrcs(tmp_path / 'a"b')
    with pytest.raises(DataError, match="cannot stand in a command of ChimeraX"):
        view(data, "TS_1", chimerax=tmp_path / "look.cxc")
