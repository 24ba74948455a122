"""Labels after a training: what networks contradict is found, told apart and ranked."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from inspection_data import BALL, ROD, grid_points, write_project

from tomopoint.data.picks import read_picks, write_picks
from tomopoint.data.tables import write_pick_table
from tomopoint.errors import DataError
from tomopoint.inspection.command import inspect
from tomopoint.inspection.suspects import SUSPECT_COLUMNS, find_suspects
from tomopoint.pipeline import Pipeline, Tiling

RUNS = ("A", "B", "C", "D")
PARTICLES = (BALL, ROD)


def material():
    """Sixteen balls and eight rods in each run, of which the networks are right and sure, a little beside them."""
    rng = np.random.default_rng(0)
    labels, rows = {}, {}
    for place, run in enumerate(RUNS):
        balls = np.concatenate([grid_points(place, 16) * 4])
        rods = grid_points(place + 9, 8) * 4 + [0, 0, 1000.0]
        labels[run] = {"ball": balls, "rod": rods}
        rows[run] = [
            (name, *(point + rng.normal(0, 3, 3)), rng.uniform(0.8, 0.99))
            for name, points in labels[run].items()
            for point in points
        ]
    return labels, rows


def suspects(labels, rows, sure=0.8, particles=PARTICLES):
    picks = {run: pd.DataFrame(own, columns=["particle_type", "x", "y", "z", "score"]) for run, own in rows.items()}
    return find_suspects(labels, picks, particles, sure)


def without(labels, run, name, index):
    labels[run][name] = np.delete(labels[run][name], index, axis=0)


def test_labels_that_networks_agree_with_are_no_suspects():
    assert len(suspects(*material())) == 0
    assert list(suspects(*material()).columns) == list(SUSPECT_COLUMNS)
    assert len(suspects({}, {})) == 0


def test_each_kind_of_error_is_told_apart():
    labels, rows = material()
    # A label that is missing, a false one, a ball that is labelled as a rod, and a label 45 A off (radius 60).
    missing = labels["A"]["ball"][3].copy()
    without(labels, "A", "ball", 3)
    false = np.array([700.0, 90.0, 3000.0])
    labels["B"]["rod"] = np.vstack([labels["B"]["rod"], false])
    swapped = labels["C"]["ball"][5].copy()
    without(labels, "C", "ball", 5)
    labels["C"]["rod"] = np.vstack([labels["C"]["rod"], swapped])
    labels["D"]["ball"][7] += [45.0, 0.0, 0.0]
    table = suspects(labels, rows, sure=0.5).set_index("run")
    assert table["kind"].to_dict() == {
        "A": "not labelled",
        "B": "not found",
        "C": "other particle",
        "D": "displaced",
    }
    assert table.loc["A", ["particle", "seen"]].tolist() == ["ball", "ball"]
    assert table.loc["B", ["particle", "seen"]].tolist() == ["rod", ""]
    assert table.loc["C", ["particle", "seen"]].tolist() == ["rod", "ball"]
    assert table.loc["A", ["x", "y", "z"]].to_numpy(float) == pytest.approx(missing, abs=15)  # the pick's own place
    assert table.loc["B", ["x", "y", "z"]].to_numpy(float) == pytest.approx(false)
    assert table.loc["C", ["x", "y", "z"]].to_numpy(float) == pytest.approx(swapped)
    assert table.loc["D", ["x", "y", "z"]].to_numpy(float) == pytest.approx(labels["D"]["ball"][7])
    assert table.loc["B", "score"] == 0
    assert table.loc["B", "doubt"] == pytest.approx(32 / 34)  # of 34 labels of rods, the other false one is not found


def test_a_label_that_is_seen_weakly_is_less_doubtful_than_one_that_is_not_seen():
    labels, rows = material()
    spot = {run: labels[run]["ball"][0] for run in ("A", "B", "C")}
    scores = {"A": 0.0, "B": 0.15, "C": 0.35}  # half of the threshold is 0.2
    for run, score in scores.items():
        rows[run] = [row for row in rows[run] if np.linalg.norm(np.array(row[1:4]) - spot[run]) > 20]
        if score:
            rows[run].append(("ball", *spot[run], score))
    table = suspects(labels, rows)
    assert table["run"].tolist() == ["A"]  # B's weak pick is on the label, and counts as found there
    for run in ("B", "C"):
        rows[run][-1] = ("ball", *(spot[run] + [40.0, 0, 0]), scores[run])
    table = suspects(labels, rows)
    assert table["run"].tolist() == ["A", "B"]
    assert table["doubt"].tolist() == pytest.approx([63 / 64, 62 / 64])


def test_networks_that_miss_half_of_a_particle_say_nothing_of_its_labels():
    labels, rows = material()
    for run in RUNS:
        rods = [row for row in rows[run] if row[0] == "rod"][::2]
        rows[run] = [row for row in rows[run] if row[0] == "ball"] + rods
    assert len(suspects(labels, rows)) == 0
    table = suspects(labels, rows, sure=0.4)
    assert set(table["kind"]) == {"not found"}
    assert table["doubt"].tolist() == pytest.approx([0.5] * 16)


def test_a_pick_is_doubted_by_how_many_of_its_score_have_a_label():
    labels, rows = material()
    # Twenty picks without a label at a score where there is no other, and one among the surest.
    for index in range(20):
        rows["A"].append(("ball", 100.0 + 150 * index, 100.0, 4000.0, 0.5))
    rows["B"].append(("ball", 100.0, 100.0, 4000.0, 0.995))
    table = suspects(labels, rows)
    assert table["run"].tolist() == ["B"]
    assert table["score"].tolist() == [0.995]
    assert table["doubt"].tolist() == pytest.approx([64 / 65])  # pooled with those below it, or it would be 0


def test_the_surest_contradiction_comes_first_and_order_does_not_matter():
    labels, rows = material()
    for run, index, score in (("A", 0, 0.9), ("B", 1, 0.97), ("C", 2, 0.85)):
        spot = labels[run]["ball"][index]
        rows[run] = [(*row[:4], score) if np.linalg.norm(np.array(row[1:4]) - spot) < 20 else row for row in rows[run]]
        without(labels, run, "ball", index)
    table = suspects(labels, rows, sure=0.5)
    assert table["run"].tolist() == ["B", "A", "C"]
    assert table["doubt"].is_monotonic_decreasing
    turned = suspects(dict(reversed(labels.items())), {run: own[::-1] for run, own in rows.items()}, 0.5, (ROD, BALL))
    pd.testing.assert_frame_equal(turned, table)


def test_a_doubled_label_and_a_second_pick_are_not_called_errors_here():
    labels, rows = material()
    labels["A"]["ball"] = np.vstack([labels["A"]["ball"], labels["A"]["ball"][2] + [45.0, 0, 0]])
    rows["B"].append(("ball", *(labels["B"]["ball"][4] + [0, 50.0, 0]), 0.97))
    assert len(suspects(labels, rows, sure=0.3)) == 0


@pytest.fixture
def trained(tmp_path):
    """A project with one missing and one false label, and what a validation of it leaves."""
    data, folder = tmp_path / "data", tmp_path / "trained"
    runs = write_project(data, 4)
    pipeline = Pipeline(particles=PARTICLES, voxel_A=10.0, tiling=Tiling((24, 64, 64), (8, 16, 16)))
    folder.mkdir()
    pipeline.save(folder / "pipeline.json")
    for name, run in runs.items():
        picks = []
        for particle in ("ball", "rod"):
            for point in read_picks(run.picks_folder / f"{particle}.json").points_xyz_A:
                picks.append((name, particle, *point, 0.95))
        table = pd.DataFrame(picks, columns=["experiment", "particle_type", "x", "y", "z", "score"])
        (folder / "validation").mkdir(exist_ok=True)
        write_pick_table(table, folder / "validation" / f"{name}.csv")
    curve = {name: [0.1, 0.9] for name in ("thresholds", "f_beta", "recall", "precision")}
    choice = {"threshold": 0.4, "flat_low": 0.3, "flat_high": 0.5, "from_curve": True}
    content = {
        "score": 0.9,
        "score_left_out": None,
        "per_class": {name: {"f_beta": 0.9} for name in ("ball", "rod")},
        "per_class_left_out": None,
        "per_group": {},
        "thresholds": dict.fromkeys(("ball", "rod"), choice),
        "residual": {"n": 1, "mean_xyz_A": [0, 0, 0], "correction_xyz_A": [0, 0, 0]},
        "curves": dict.fromkeys(("ball", "rod"), curve),
        "data_root": str(data),
        "predictions": {name: {} for name in runs},
    }
    (folder / "validation.json").write_text(json.dumps(content))
    balls = read_picks(runs["R1"].picks_folder / "ball.json").points_xyz_A
    write_picks(runs["R1"].picks_folder / "ball.json", "R1", "ball", balls[1:])
    rods = read_picks(runs["R2"].picks_folder / "rod.json").points_xyz_A
    write_picks(runs["R2"].picks_folder / "rod.json", "R2", "rod", [*rods, [300.0, 520.0, 190.0]])
    return data, folder, balls[0]


def test_a_validated_folder_gives_a_table_and_pictures(tmp_path, trained):
    data, folder, missing = trained
    out = tmp_path / "out" / "report.html"
    out.parent.mkdir()
    result = inspect(data, trained=folder, out=out)
    assert result.ok
    assert result.figures["suspect_kinds"] == {"not labelled": 1, "not found": 1}
    assert result.figures["suspects"] == str(out.with_name("suspects.csv"))
    table = pd.read_csv(out.with_name("suspects.csv"), keep_default_na=False)
    assert list(table.columns) == list(SUSPECT_COLUMNS)
    rows = table.set_index("kind")
    assert rows.loc["not labelled", ["run", "particle"]].tolist() == ["R1", "ball"]
    assert rows.loc["not labelled", ["x", "y", "z"]].to_numpy(float) == pytest.approx(missing, abs=0.06)
    assert rows.loc["not found", ["run", "particle", "x", "y", "z"]].tolist() == ["R2", "rod", 300.0, 520.0, 190.0]
    page = out.read_text()
    assert page.count('<figure><div class="stage"><img src="data:image/webp;base64,') == 2
    assert "1. R1: ball, not labelled" in page or "2. R1: ball, not labelled" in page
    assert "2 probable label errors" in result.text


def test_a_ring_is_where_the_particle_is(tmp_path):
    """One bright spot in a tomogram: the brightest pixel of its picture lies at the ring's centre."""
    import io

    from PIL import Image

    from tomopoint.data.tomograms import Tomogram
    from tomopoint.inspection.suspect_pictures import _cut

    for x, y, z in ((30, 20, 12), (3, 55, 20), (57, 2, 2)):
        field = np.zeros((24, 60, 60), np.float32)
        field[z, y, x] = 1.0
        place = (np.array([x, y, z]) + 0.5) * 10.0
        tomogram = Tomogram(field, 10.0, tmp_path)
        picture, (across, down) = _cut(tomogram, place, BALL, np.array([0.0, 0.3]))
        grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
        row, column = np.unravel_index(grey.argmax(), grey.shape)
        assert abs((column + 0.5) - across * grey.shape[1]) <= 1
        assert abs((row + 0.5) - down * grey.shape[0]) <= 1


def test_folders_that_do_not_fit_are_refused_with_what_to_do(tmp_path, trained):
    data, folder, _ = trained
    other = tmp_path / "other"
    write_project(other, 0)
    from inspection_data import write_run

    write_run(other, "X1", 1)
    with pytest.raises(DataError, match="held out R0, R1, R2, R3, none of which is a training run of"):
        inspect(other, trained=folder)
    (data / "recipe.yaml").write_text("base: demo-scratch\nparticles: [ball]\n")
    with pytest.raises(DataError, match="trained knows rod, the recipe does not; name its own with --recipe"):
        inspect(data, trained=folder, suspects=tmp_path / "s.csv")
    (folder / "validation" / "R0.csv").write_text("experiment,particle_type,x,y,z\nR0,ball,1,2,3\n")
    with pytest.raises(DataError, match=r"R0\.csv has no scores"):
        inspect(data, trained=folder, suspects=tmp_path / "s.csv")
    (folder / "validation.json").unlink()
    with pytest.raises(DataError, match=r"validation.json is missing; run `tomopoint validate .*trained` first"):
        inspect(data, trained=folder)
