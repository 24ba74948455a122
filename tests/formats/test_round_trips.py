"""Every format against the library that its community keeps: what is written means what the convention says.

Expected coordinates are formed here, from the stated conventions, and not by the code that writes them. docs/formats.md
has the sources.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import dynamotable
import imodmodel
import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from laid_out import SHAPES_ZYX, VOXEL_A
from scipy.spatial.transform import Rotation

from tomopoint.data.truth import read_truth
from tomopoint.errors import DataError
from tomopoint.formats.command import export_picks, import_picks
from tomopoint.training.recipe_files import load_recipe

TOLERANCE_A = 0.01
"""A thousandth of a voxel: far below any error of picking, well above six decimals and 32-bit floats."""

XYZ = ["x", "y", "z"]
NAMES = ("ribosome", "apo-ferritin")


def of(picks, run, particle):
    rows = picks[(picks["experiment"] == run) & (picks["particle_type"] == particle) & (picks["score"] >= 0.25)]
    return rows.sort_values("score", ascending=False, kind="stable")


def imported(tmp_path, tomograms, picks, files, kind, **options):
    """Import files, and compare what training will read with the picks."""
    out = tmp_path / "project"
    import_picks([str(file) for file in files], format=kind, data=tomograms, out=out, **options)
    truth = read_truth(out, NAMES)
    for run in SHAPES_ZYX:
        for name in NAMES:
            expected = of(picks, run, name)[XYZ].to_numpy()
            found = truth[run][name]
            assert len(found) == len(expected)
            order, other = np.lexsort(found.T), np.lexsort(expected.T)
            np.testing.assert_allclose(found[order], expected[other], atol=TOLERANCE_A)
    return out


def test_relion5(prediction, tomograms, picks, tmp_path):
    out = tmp_path / "star"
    export_picks(prediction, format="relion5", out=out, data=tomograms)
    assert sorted(path.name for path in out.iterdir()) == ["apo-ferritin.star", "ribosome.star"]
    blocks = starfile.read(out / "ribosome.star", always_dict=True)
    assert list(blocks) == ["particles"]  # RELION's import reads the first table of a file
    table = blocks["particles"]
    for run, shape_zyx in SHAPES_ZYX.items():
        own, expected = table[table["rlnTomoName"] == run], of(picks, run, "ribosome")
        size_xyz = np.array(shape_zyx[::-1])
        index_xyz = expected[XYZ].to_numpy() / VOXEL_A - 0.5  # of the voxel, counted from 0
        centred = (index_xyz - size_xyz / 2) * VOXEL_A
        found = own[[f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]].to_numpy()
        np.testing.assert_allclose(found, centred, atol=TOLERANCE_A)
        np.testing.assert_allclose(own["rlnAutopickFigureOfMerit"], expected["score"], atol=1e-6)
    files = [f"{name}={out / name}.star" for name in NAMES]
    imported(tmp_path, tomograms, picks, files, "relion5")


def test_relion5_of_mrc_files_is_what_a_project_gives(prediction, tomograms, tmp_path):
    """Sizes and voxels come from the headers; without a size in them, as the user states it."""
    (tmp_path / "mrc").mkdir()
    for run, shape_zyx in SHAPES_ZYX.items():
        with mrcfile.new(tmp_path / "mrc" / f"{run}.mrc", data=np.zeros(shape_zyx, np.int8)) as file:
            file.voxel_size = VOXEL_A
    export_picks(prediction, format="relion5", out=tmp_path / "of_project", data=tomograms)
    export_picks(prediction, format="relion5", out=tmp_path / "of_mrc", data=tmp_path / "mrc")
    tables = [starfile.read(tmp_path / name / "ribosome.star") for name in ("of_project", "of_mrc")]
    pd.testing.assert_frame_equal(*tables, atol=TOLERANCE_A)
    export_picks(prediction, format="relion5", out=tmp_path / "twice", data=tmp_path / "mrc", voxel_size=2 * VOXEL_A)
    columns = [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
    moved = tables[0][columns] - starfile.read(tmp_path / "twice" / "ribosome.star")[columns]
    centres = {run: (np.array(shape[::-1]) / 2 + 0.5) * VOXEL_A for run, shape in SHAPES_ZYX.items()}
    np.testing.assert_allclose(moved, [centres[run] for run in tables[0]["rlnTomoName"]], atol=TOLERANCE_A)
    (tmp_path / "mrc" / "TS_2.mrc").unlink()
    with pytest.raises(DataError, match=r"has no run 'TS_2'; it has TS_1"):
        export_picks(prediction, format="relion5", out=tmp_path / "lacking", data=tmp_path / "mrc")


def test_relion5_with_the_sizes_of_tomograms_star(prediction, picks, tmp_path):
    """The tomogram has 20 voxels of 6.7 pixels, RELION's frame 137 pixels: they end at different places."""
    binning = 6.7
    pixel_A = VOXEL_A / binning
    pixels = {run: [round(n * binning) + 3 for n in shape[::-1]] for run, shape in SHAPES_ZYX.items()}
    table = pd.DataFrame(
        {
            "rlnTomoName": list(pixels),
            **{f"rlnTomoSize{axis}": [size[i] for size in pixels.values()] for i, axis in enumerate("XYZ")},
            "rlnTomoTiltSeriesPixelSize": pixel_A,
            "rlnTomoTomogramBinning": binning,
        }
    )
    starfile.write({"global": table}, tmp_path / "tomograms.star")
    export_picks(prediction, format="relion5", out=tmp_path / "star", tomograms=tmp_path / "tomograms.star")
    found = starfile.read(tmp_path / "star" / "apo-ferritin.star")
    x = picks.loc[2, "x"]
    # As RELION: centred / pixel + N / 2 is the pixel of the tilt series, and voxel i is pixel i * binning.
    pixel = found["rlnCenteredCoordinateXAngst"].iloc[0] / pixel_A + pixels["TS_1"][0] / 2
    assert (pixel / binning + 0.5) * VOXEL_A == pytest.approx(x, abs=TOLERANCE_A)


def test_relion4(prediction, tomograms, picks, tmp_path):
    export_picks(prediction, format="relion4", out=tmp_path / "star", voxel_size=VOXEL_A, binning=4)
    table = starfile.read(tmp_path / "star" / "ribosome.star")
    own = table[table["rlnTomoName"] == "TS_1"]
    index_xyz = of(picks, "TS_1", "ribosome")[XYZ].to_numpy() / VOXEL_A - 0.5
    np.testing.assert_allclose(
        own[[f"rlnCoordinate{axis}" for axis in "XYZ"]], index_xyz * 4, atol=TOLERANCE_A / VOXEL_A
    )
    np.testing.assert_allclose(own["rlnTomoTiltSeriesPixelSize"], VOXEL_A / 4, atol=1e-6)
    files = [f"{name}={tmp_path / 'star' / name}.star" for name in NAMES]
    imported(tmp_path, tomograms, picks, files, "relion4")


def test_relion4_takes_the_pixel_size_of_its_optics_groups(tomograms, tmp_path):
    optics = pd.DataFrame({"rlnOpticsGroup": [1, 2], "rlnTomoTiltSeriesPixelSize": [2.5, 5.0]})
    particles = pd.DataFrame(
        {"rlnTomoName": ["TS_1", "TS_2"], "rlnOpticsGroup": [1, 2]}
        | {f"rlnCoordinate{axis}": [40.0, 20.0] for axis in "XYZ"}
    )
    starfile.write({"optics": optics, "particles": particles}, tmp_path / "p.star")
    import_picks([f"ribosome={tmp_path / 'p.star'}"], format="relion4", data=tomograms, out=tmp_path / "project")
    truth = read_truth(tmp_path / "project", NAMES)
    for run in SHAPES_ZYX:
        np.testing.assert_allclose(truth[run]["ribosome"], [[100 + VOXEL_A / 2] * 3], atol=TOLERANCE_A)


def test_relion3(prediction, tomograms, picks, tmp_path):
    export_picks(prediction, format="relion3", out=tmp_path / "star", data=tomograms)
    table = starfile.read(tmp_path / "star" / "ribosome.star")
    own = table[table["rlnMicrographName"] == "TS_2"]
    index_xyz = of(picks, "TS_2", "ribosome")[XYZ].to_numpy() / VOXEL_A - 0.5
    np.testing.assert_allclose(own[[f"rlnCoordinate{axis}" for axis in "XYZ"]], index_xyz, atol=TOLERANCE_A / VOXEL_A)
    pixel_A = table["rlnDetectorPixelSize"] * 1e4 / table["rlnMagnification"]  # RELION 3: micrometres on the detector
    np.testing.assert_allclose(pixel_A, VOXEL_A, atol=1e-5)
    renamed = table.assign(rlnMicrographName=[f"tomograms/{name}.mrc" for name in table["rlnMicrographName"]])
    starfile.write(renamed, tmp_path / "star" / "ribosome.star", overwrite=True)
    files = [f"{name}={tmp_path / 'star' / name}.star" for name in NAMES]
    imported(tmp_path, tomograms, picks, files, "relion3")


def test_shifts_of_a_refinement_are_applied(tomograms, tmp_path):
    """Relion's own formula: position less A times rlnOrigin, A of the angles at which the subtomogram was extracted."""
    angles, shift = (20.0, 70.0, -35.0), np.array([12.0, -7.0, 3.0])
    a, b, c = np.deg2rad(angles)
    matrix = np.array(  # Euler_angles2matrix of RELION, rot a, tilt b, psi c
        [
            [
                np.cos(c) * np.cos(b) * np.cos(a) - np.sin(c) * np.sin(a),
                np.cos(c) * np.cos(b) * np.sin(a) + np.sin(c) * np.cos(a),
                -np.cos(c) * np.sin(b),
            ],
            [
                -np.sin(c) * np.cos(b) * np.cos(a) - np.cos(c) * np.sin(a),
                -np.sin(c) * np.cos(b) * np.sin(a) + np.cos(c) * np.cos(a),
                np.sin(c) * np.sin(b),
            ],
            [np.sin(b) * np.cos(a), np.sin(b) * np.sin(a), np.cos(b)],
        ]
    )
    assert np.linalg.norm(matrix @ shift - Rotation.from_euler("ZYZ", angles, degrees=True).apply(shift)) > 1
    row = {"rlnTomoName": ["TS_1"]} | {f"rlnCenteredCoordinate{axis}Angst": [0.0] for axis in "XYZ"}
    row |= {f"rlnOrigin{axis}Angst": [shift[i]] for i, axis in enumerate("XYZ")}
    row |= {f"rlnTomoSubtomogram{n}": [angle] for n, angle in zip(("Rot", "Tilt", "Psi"), angles, strict=True)}
    starfile.write({"particles": pd.DataFrame(row)}, tmp_path / "p.star")
    import_picks([f"ribosome={tmp_path / 'p.star'}"], format="relion5", data=tomograms, out=tmp_path / "project")
    centre = (np.array(SHAPES_ZYX["TS_1"][::-1]) / 2 + 0.5) * VOXEL_A
    found = read_truth(tmp_path / "project", NAMES)["TS_1"]["ribosome"]
    np.testing.assert_allclose(found, [centre - matrix @ shift], atol=TOLERANCE_A)


def test_dynamo(prediction, tomograms, picks, tmp_path):
    out = tmp_path / "dynamo"
    export_picks(prediction, format="dynamo", out=out, data=tomograms)
    table = dynamotable.read(out / "ribosome.tbl", out / "ribosome.doc")
    for run in SHAPES_ZYX:
        own, expected = table[table["tomo_file"] == run].sort_values("cc", ascending=False), of(picks, run, "ribosome")
        # Continuous coordinates from the corner of the first voxel, whose centre is at 0.5.
        np.testing.assert_allclose(own[XYZ], expected[XYZ] / VOXEL_A, atol=TOLERANCE_A / VOXEL_A)
        np.testing.assert_allclose(own["cc"], expected["score"], atol=1e-6)
    assert sorted(set(table["tomo"])) == [1, 2]
    assert sorted(table["tag"]) == [1, 2, 3]
    np.testing.assert_allclose(table["apix"], VOXEL_A)
    assert dynamotable.read(out / "apo-ferritin.tbl")["tomo"].tolist() == [1]  # numbers are those of all tables
    files = [f"{name}={out / name}.tbl" for name in NAMES]
    imported(tmp_path, tomograms, picks, files, "dynamo")


def test_dynamo_of_a_table_that_counts_voxels_from_one_and_has_shifts(prediction, tomograms, picks, tmp_path):
    export_picks(prediction, format="dynamo", out=tmp_path / "d", data=tomograms, first_voxel=1)
    for name in NAMES:
        table = dynamotable.read(tmp_path / "d" / f"{name}.tbl")
        first = picks[picks["particle_type"] == name].iloc[0]
        assert table["x"].iloc[0] == pytest.approx(first["x"] / VOXEL_A + 0.5, abs=TOLERANCE_A / VOXEL_A)
        (tmp_path / "d" / f"{name}.doc").unlink()
        moved = table.assign(x=table["x"] - 2, dx=2.0, y=table["y"] + 1, dy=-1.0, apix=0.0, tomo=table["tomo"] + 6)
        dynamotable.write(moved, str(tmp_path / "d" / f"{name}.tbl"))
    files = [f"{name}={tmp_path / 'd' / name}.tbl" for name in NAMES]
    with pytest.raises(DataError, match=r"no run.*--rename '7=RUN'"):
        import_picks(files, format="dynamo", data=tomograms, out=tmp_path / "project")
    with pytest.raises(DataError, match=r"voxel size .* --pixel-size"):
        import_picks(files, format="dynamo", data=tomograms, out=tmp_path / "project", rename="7=TS_1,8=TS_2")
    options = {"rename": "7=TS_1,8=TS_2", "pixel_size": VOXEL_A, "first_voxel": 1}
    imported(tmp_path, tomograms, picks, files, "dynamo", **options)


def test_imod(prediction, tomograms, picks, tmp_path):
    out = tmp_path / "imod"
    export_picks(prediction, format="imod", out=out, data=tomograms)
    table = imodmodel.read(out / "TS_1.mod")
    model = imodmodel.ImodModel.from_file(out / "TS_1.mod")
    assert [thing.header.name for thing in model.objects] == ["apo-ferritin", "ribosome"]
    for index, thing in enumerate(model.objects):
        expected = of(picks, "TS_1", thing.header.name)
        # x and y from the corner, z from the centre of the first slice: from -0.5 to NZ - 0.5.
        own = table[table["object_id"] == index][XYZ].to_numpy() + np.array([0, 0, 0.5])
        np.testing.assert_allclose(own, expected[XYZ] / VOXEL_A, atol=TOLERANCE_A / VOXEL_A)
        (contour,) = thing.contours
        stored = {item.index: item.value for item in contour.extra if item.type == 10}
        np.testing.assert_allclose([stored[i] for i in range(len(own))], expected["score"], atol=1e-6)
        assert thing.header.flags.scattered
        assert thing.header.pdrawsize == round({"apo-ferritin": 60, "ribosome": 150}[thing.header.name] / VOXEL_A)
    header = model.header
    assert (header.xmax, header.ymax, header.zmax) == SHAPES_ZYX["TS_1"][::-1]
    assert (header.pixelsize, header.units) == (pytest.approx(VOXEL_A / 10), -9)  # nanometres
    assert header.flags.z_coordinates_start_from_negative_half
    imported(tmp_path, tomograms, picks, sorted(out.glob("*.mod")), "imod")


@pytest.mark.filterwarnings("ignore:.*dict:DeprecationWarning")  # imodmodel's own use of pydantic
def test_a_model_that_does_not_say_its_pixel_size_or_names(tomograms, picks, tmp_path):
    """As imodmodel writes it, and as 3dmod does without an image."""
    points = pd.DataFrame(of(picks, "TS_2", "ribosome")[XYZ] / VOXEL_A - [0, 0, 0.5]).reset_index(drop=True)
    imodmodel.write(points, tmp_path / "TS_2.mod")
    words = {"format": "imod", "data": tomograms, "out": tmp_path / "project"}
    with pytest.raises(DataError, match="does not say its pixel size; give it in Angstrom with --pixel-size"):
        import_picks([str(tmp_path / "TS_2.mod")], **words)
    with pytest.raises(DataError, match="object 1 has no name; say what it is: NAME="):
        import_picks([str(tmp_path / "TS_2.mod")], pixel_size=VOXEL_A, **words)
    import_picks([f"ribosome={tmp_path / 'TS_2.mod'}"], pixel_size=VOXEL_A, **words)
    found = read_truth(tmp_path / "project", NAMES)["TS_2"]["ribosome"]
    np.testing.assert_allclose(found, of(picks, "TS_2", "ribosome")[XYZ], atol=TOLERANCE_A)


def test_chimerax(prediction, tomograms, picks, tmp_path):
    export_picks(prediction, format="chimerax", out=tmp_path / "cmm", data=tomograms)
    root = ElementTree.parse(tmp_path / "cmm" / "TS_1_ribosome.cmm").getroot()
    assert (root.tag, root.get("name")) == ("marker_set", "TS_1 ribosome")
    expected = of(picks, "TS_1", "ribosome")
    markers = root.findall("marker")
    assert [marker.get("id") for marker in markers] == ["1", "2"]
    # ChimeraX has the first grid point, the centre of the first voxel, at 0.
    found = [[float(marker.get(axis)) for axis in XYZ] for marker in markers]
    np.testing.assert_allclose(found, expected[XYZ] - VOXEL_A / 2, atol=TOLERANCE_A)
    np.testing.assert_allclose([float(m.get("score")) for m in markers], expected["score"], atol=1e-5)
    assert {marker.get("radius") for marker in markers} == {"150"}


def test_copick(prediction, tomograms, picks, tmp_path):
    out = tmp_path / "overlay"
    export_picks(prediction, format="copick", out=out, user="me", session="3")
    content = json.loads((out / "ExperimentRuns/TS_1/Picks/me_3_ribosome.json").read_text())
    expected = of(picks, "TS_1", "ribosome")
    locations = [[point["location"][axis] for axis in XYZ] for point in content["points"]]
    np.testing.assert_allclose(locations, expected[XYZ], atol=TOLERANCE_A)
    assert [point["score"] for point in content["points"]] == expected["score"].tolist()
    assert (content["user_id"], content["session_id"], content["unit"]) == ("me", "3", "angstrom")
    export_picks(prediction, format="copick", out=out, user="you", session="3", all=True)
    with pytest.raises(DataError, match="several users or sessions; say whose: --user me --session 3; --user you"):
        imported(tmp_path, tomograms, picks, [out], "copick")
    imported(tmp_path, tomograms, picks, [out], "copick", user="me")
    with pytest.raises(DataError, match="may hold no '_'"):
        export_picks(prediction, format="copick", out=out, user="m_e")


def test_csv(prediction, tomograms, picks, tmp_path):
    export_picks(prediction / "picks.csv", format="csv", out=tmp_path / "some.csv")
    table = pd.read_csv(tmp_path / "some.csv")
    pd.testing.assert_frame_equal(table, picks[picks["score"] >= 0.25].reset_index(drop=True))
    imported(tmp_path, tomograms, picks, [tmp_path / "some.csv"], "csv")


def test_a_csv_in_voxels_says_where_it_counts_from(tomograms, picks, tmp_path):
    table = picks[picks["score"] >= 0.25].copy()
    table[XYZ] = table[XYZ] / VOXEL_A - 0.5
    table.to_csv(tmp_path / "voxels.csv", index=False)
    with pytest.raises(DataError, match="give both"):
        imported(tmp_path, tomograms, picks, [tmp_path / "voxels.csv"], "csv", pixel_size=VOXEL_A)
    options = {"pixel_size": VOXEL_A, "first_voxel": 0}
    out = imported(tmp_path, tomograms, picks, [tmp_path / "voxels.csv"], "csv", **options)
    recipe = load_recipe(str(out / "recipe.yaml"))
    assert recipe.networks[0].pretrained == "small"
    assert recipe.folds == "kfold-2"
