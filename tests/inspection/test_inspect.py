"""Data before a training: each fault is found, named with its run, and ends the command as it should."""

import json
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from inspection_data import BALL, ROD, SHAPE_ZYX, VOXEL_A, grid_points, volume, write_project, write_run

from tomopoint.__main__ import main
from tomopoint.data.mrc import open_mrc
from tomopoint.data.picks import read_picks, write_picks
from tomopoint.data.tomograms import open_tomogram
from tomopoint.errors import DataError, TomopointError
from tomopoint.inspection.command import inspect
from tomopoint.inspection.labels import pairs_on_one_place
from tomopoint.inspection.outliers import FEWEST_RUNS, Quantity, find_outliers, limit_of
from tomopoint.inspection.volumes import look_at
from tomopoint.training.plan import make_plan
from tomopoint.training.recipe_files import load_recipe


def found(result, kind):
    return [one["text"] for one in result.figures["findings"] if one["kind"] == kind]


def kinds(result):
    return {one["kind"] for one in result.figures["findings"]}


def ball_path(runs, name):
    return runs[name].picks_folder / "ball.json"


def test_a_good_project_has_no_findings(tmp_path):
    write_project(tmp_path, 6)
    write_run(tmp_path, "T0", 20, "test")
    result = inspect(tmp_path)
    assert result.ok
    assert result.figures["findings"] == []
    assert result.figures["counts"]["R3"] == {"ball": 8, "rod": 4}
    assert result.figures["recipe"] == str(tmp_path / "recipe.yaml")
    assert result.figures["folds"]["fold0"] == {
        "validation_runs": ["R0", "R2", "R4"],
        "held_out": {"ball": 24, "rod": 12},
    }
    assert sorted(result.figures["tomograms"]) == [*(f"R{i}" for i in range(6)), "T0"]
    assert "T0" not in result.figures["counts"]
    assert {one["denoised"]["protein"] for one in result.figures["tomograms"].values()} == {"dark"}
    assert "0 errors, 0 warnings: a training would go through" in result.text


def test_what_stops_a_training_is_an_error_and_each_is_named(tmp_path):
    runs = write_project(tmp_path, 6)
    # Two labels outside, in voxels' stead; a broken file; a run without labels; NaN; other voxels.
    points = read_picks(ball_path(runs, "R0")).points_xyz_A
    write_picks(ball_path(runs, "R0"), "R0", "ball", [*points, [10.0, 10.0, 241.0], [601.0, 10.0, 10.0]])
    ball_path(runs, "R1").write_text("{}")
    for path in runs["R2"].picks_folder.glob("*.json"):
        path.unlink()
    spoilt = volume(3)
    spoilt[2, 3, 4:7] = np.nan
    write_run(tmp_path, "R3", 3, field=spoilt)
    write_run(tmp_path, "R4", 4, voxel_A=10.3)
    result = inspect(tmp_path)
    assert not result.ok
    assert found(result, "outside") == [
        "R0: 2 of 10 ball at x, y, z 10, 10, 241; 601, 10, 10 A, outside 600 x 600 x 240 A"
    ]
    labels = found(result, "labels")
    assert [text[:2] for text in labels] == ["R1", "R2"]
    (unreadable,) = found(result, "unreadable")
    assert unreadable.startswith("R3: ")
    assert "3 voxels are NaN or infinite" in unreadable
    assert found(result, "voxel-sizes") == ["10.300 A in R4; most have 10.000 A"]
    assert all(one["severity"] == "error" for one in result.figures["findings"] if one["kind"] in ("outside", "labels"))


@pytest.mark.parametrize("spoil", ["outside", "unlabelled", "unknown", "voxels", "folds", "fine"])
def test_training_refuses_what_is_called_an_error_and_takes_the_rest(tmp_path, spoil):
    runs = write_project(tmp_path, 5, folds="kfold-6" if spoil == "folds" else "stratified-2")
    if spoil == "outside":
        write_picks(ball_path(runs, "R1"), "R1", "ball", [[10.0, 10.0, -1.0]])
    elif spoil == "unlabelled":
        for path in runs["R2"].picks_folder.glob("*.json"):
            path.unlink()
    elif spoil == "unknown":
        write_picks(runs["R1"].picks_folder / "cube.json", "R1", "cube", [[10.0, 10.0, 10.0]])
    elif spoil == "voxels":
        write_run(tmp_path, "R4", 4, voxel_A=10.11)
    from tomopoint.data.particles import project_particles
    from tomopoint.training.crops.tomograms import describe_runs

    recipe = load_recipe(str(tmp_path / "recipe.yaml"), project_particles(tmp_path))
    refused = False
    try:
        make_plan(recipe, "mine", tmp_path, tmp_path / "trained")
        describe_runs(tmp_path, list(runs), recipe)
    except TomopointError:
        refused = True
    assert refused == (spoil != "fine")
    assert inspect(tmp_path).ok == (not refused)


def test_stratified_folds_of_a_training_are_those_that_are_shown(tmp_path):
    counts = {"R0": 8, "R1": 7, "R2": 5, "R3": 4}
    write_project(tmp_path, 0, folds="stratified-2")
    for seed, (name, n_ball) in enumerate(counts.items()):
        write_run(tmp_path, name, seed, n_ball=n_ball, n_rod=0)
    from tomopoint.data.particles import project_particles

    recipe = load_recipe(str(tmp_path / "recipe.yaml"), project_particles(tmp_path))
    plan = make_plan(recipe, "mine", tmp_path, tmp_path / "trained")
    assert [task.fold.validation_runs for task in plan.tasks] == [("R0", "R3"), ("R1", "R2")]
    shown = inspect(tmp_path).figures["folds"]
    assert [one["validation_runs"] for one in shown.values()] == [["R0", "R3"], ["R1", "R2"]]


def test_doubled_and_conflicting_labels_are_counted_by_the_share_of_the_radius(tmp_path):
    runs = write_project(tmp_path, 2)
    points = grid_points(0, 8)
    near, far = points[0] + [35.0, 0, 0], points[1] + [0, 37.0, 0]  # 0.6 radii of a ball are 36 A
    write_picks(ball_path(runs, "R0"), "R0", "ball", [*points, near, far, points[2]])
    rods = read_picks(runs["R1"].picks_folder / "rod.json").points_xyz_A
    balls = grid_points(1, 8)
    write_picks(
        runs["R1"].picks_folder / "rod.json", "R1", "rod", [*rods, balls[3] + [47.0, 0, 0], balls[5] + [49.0, 0, 0]]
    )
    result = inspect(tmp_path, within=0.6)
    same, close = found(result, "doubled")
    assert same == "R0: 1 labels of ball are there twice, at the very same place"
    assert close.startswith("R0: one pair of ball, 35 A apart at the nearest, at x, y, z ")
    (conflict,) = found(result, "conflicting")  # 0.6 of the mean radius, 80 A, are 48 A
    assert conflict.startswith("R1: one pair of ball and rod, 47 A apart")
    assert result.ok
    assert len(found(inspect(tmp_path, within=0.65), "conflicting")) == 1
    assert "2 pairs of ball and rod" in found(inspect(tmp_path, within=0.65), "conflicting")[0]


def test_pairs_are_those_of_a_search_one_by_one():
    rng = np.random.default_rng(3)
    labels = {"ball": rng.uniform(0, 400, (40, 3)), "rod": rng.uniform(0, 400, (30, 3))}
    radius = {"ball": BALL.radius_A, "rod": ROD.radius_A}
    every = [(name, point) for name in ("ball", "rod") for point in labels[name]]
    expected = sorted(
        (a, b, round(float(np.linalg.norm(p - q)), 6))
        for i, (a, p) in enumerate(every)
        for b, q in every[i + 1 :]
        if np.linalg.norm(p - q) < 0.6 * (radius[a] + radius[b]) / 2
    )
    got = sorted((p.first, p.second, round(p.distance_A, 6)) for p in pairs_on_one_place(labels, (BALL, ROD), 0.6))
    assert got == expected
    assert len({(first, second) for first, second, _ in got}) == 3


def test_runs_unlike_the_others_are_named_with_the_reason(tmp_path):
    write_project(tmp_path, 0)
    for i in range(9):
        write_run(tmp_path, f"R{i}", i)
    write_run(tmp_path, "BRIGHT", 20, sd=4e-5)
    smooth = volume(21)
    smooth = (smooth + np.roll(smooth, 1, 2) + np.roll(smooth, 2, 2)) / 3
    write_run(tmp_path, "SMOOTH", 21, field=smooth)
    write_run(tmp_path, "EMPTY", 22, n_ball=0)
    flat = write_run(tmp_path, "FLAT", 23)
    points = grid_points(23, 8)
    points[:, 2] = 30.0
    write_picks(flat.picks_folder / "ball.json", "FLAT", "ball", points)
    result = inspect(tmp_path)
    assert result.ok
    named = {(one["run"], one["quantity"]) for one in result.figures["outliers"]}
    assert ("BRIGHT", "standard deviation of the voxels") in named
    assert ("SMOOTH", "correlation of neighbouring voxels along x") in named
    assert ("EMPTY", "labels of ball") in named
    assert ("FLAT", "median depth of the labels, 0 to 1,") in named
    assert {run for run, _ in named} == {"BRIGHT", "SMOOTH", "EMPTY", "FLAT"}
    (count,) = [one for one in result.figures["outliers"] if one["quantity"] == "labels of ball"]
    # Roots of counts; the others are equal, so the spread is that of chance, 0.5, and 4 of it are the limit.
    assert (count["value"], count["median"], count["limit"]) == (0, 8, 4)
    assert count["deviation"] == pytest.approx(-np.sqrt(8) / 0.5, abs=0.01)


def test_a_deviation_is_that_of_the_formula_and_few_runs_are_passed_over():
    values = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0, "f": 40.0}
    (outlier,) = find_outliers([Quantity("q", values, 0.1)])
    assert (outlier.run, outlier.value, outlier.median) == ("f", 40.0, 3.5)
    assert outlier.deviation == pytest.approx((40 - 3.5) / (1.4826 * 1.5))
    assert outlier.limit == limit_of(6) == pytest.approx(4 + 40 / 6)
    assert find_outliers([Quantity("q", {k: v for k, v in values.items() if k not in "ab"}, 0.1)]) == []
    assert find_outliers([Quantity("q", values, 9.0)])
    assert (
        find_outliers([Quantity("q", values, 9.2)]) == []
    )  # 4 of these are more than 36.5: differences below the least spread do not matter
    equal = dict.fromkeys("abcdef", 1.0) | {"g": 3.0}
    assert [one.run for one in find_outliers([Quantity("q", equal, 0.1)])] == ["g"]  # all others are equal


@pytest.mark.parametrize(("n_runs", "most"), [(5, 0.03), (7, 0.015), (10, 0.01), (20, 0.01), (50, 0.01)])
def test_normal_values_hardly_ever_make_an_outlier(n_runs, most):
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((4000, n_runs))
    away = np.abs(draws - np.median(draws, axis=1, keepdims=True))
    beyond = (away / (1.4826 * np.median(away, axis=1, keepdims=True))).max(axis=1) > limit_of(n_runs)
    assert 0 < beyond.mean() + 1e-9 <= most


def test_fewer_than_five_runs_are_said_not_to_be_compared(tmp_path):
    write_project(tmp_path, FEWEST_RUNS - 1)
    result = inspect(tmp_path)
    assert f"note: voxel statistics of 4 runs: outliers are looked for among {FEWEST_RUNS} or more" in result.text


def test_a_missing_class_and_folds_that_lack_one(tmp_path):
    write_project(tmp_path, 0, folds="kfold-3")
    for i in range(6):
        write_run(tmp_path, f"R{i}", i, n_rod=4 if i in (0, 3) else 0)
    result = inspect(tmp_path)
    assert found(result, "fold-class") == [
        "fold0 trains on no rod",
        "fold1 holds out no rod (R1, R4)",
        "fold2 holds out no rod (R2, R5)",
    ]
    assert kinds(result) >= {"fold-class"}
    assert result.ok
    for path in tmp_path.rglob("rod.json"):
        path.unlink()
    assert found(inspect(tmp_path), "missing-class") == ["rod: no label in any of 6 runs"]


def test_stratified_folds_are_proposed_where_they_would_be_much_more_even(tmp_path):
    write_project(tmp_path, 0, folds="kfold-2")
    for i in range(6):
        write_run(tmp_path, f"R{i}", i, n_ball=8 if i % 2 == 0 else 2, n_rod=4)
    (proposal,) = found(inspect(tmp_path), "uneven-folds")
    assert "held-out labels of ball are up to 60% from even" in proposal
    assert "`folds: stratified-2` no particle's are more than 20%" in proposal
    (tmp_path / "recipe.yaml").write_text("base: demo-scratch\nfolds: stratified-2\n")
    assert found(inspect(tmp_path), "uneven-folds") == []


def test_light_protein_is_said(tmp_path):
    write_project(tmp_path, 2)
    write_run(tmp_path, "R1", 1, field=-volume(1))
    (light,) = found(inspect(tmp_path), "light")
    assert light.startswith("R1: protein looks light (skewness +")


def test_any_place_of_tomograms_without_labels(tmp_path):
    for name in ("a", "b"):
        with mrcfile.new(tmp_path / f"{name}.mrc") as made:
            made.set_data(volume(ord(name)))
            made.voxel_size = 7.84 if name == "a" else 13.48
    assert open_mrc(tmp_path / "a.mrc", None).voxel_A == pytest.approx(7.84)
    result = inspect(tmp_path)
    assert result.ok
    assert result.figures["recipe"] is None
    assert result.figures["counts"] == {}
    assert kinds(result) == {"other-voxels"}
    assert "no labels, so nothing to train on" in result.text
    (tmp_path / "b.mrc").write_bytes(b"not a tomogram")
    assert not inspect(tmp_path).ok


def test_figures_of_a_volume_are_those_of_all_its_voxels(tmp_path):
    field = volume(5)
    run = write_run(tmp_path, "R", 5, field=field)
    look = look_at(open_tomogram(run.tomogram_path()))
    assert look.shape_zyx == SHAPE_ZYX
    assert look.voxel_A == VOXEL_A
    assert look.mean == pytest.approx(float(field.mean(dtype=np.float64)), rel=1e-4)
    assert look.sd == pytest.approx(float(field.std(dtype=np.float64)), rel=1e-4)
    expected = (np.quantile(field.astype(np.float64), (0.001, 0.01, 0.99, 0.999)) - np.median(field)) / field.std()
    assert look.quantiles == pytest.approx(expected, rel=1e-3)


def test_pieces_of_a_file_give_the_same_figures_as_the_whole(tmp_path, monkeypatch):
    with mrcfile.new(tmp_path / "a.mrc") as made:
        made.set_data(volume(6))
        made.voxel_size = VOXEL_A
    whole = look_at(open_tomogram(tmp_path / "a.mrc"))
    monkeypatch.setattr("tomopoint.data.tomograms.SLAB_VOX", 5 * SHAPE_ZYX[1] * SHAPE_ZYX[2])
    assert look_at(open_tomogram(tmp_path / "a.mrc")) == whole
    monkeypatch.setattr("tomopoint.inspection.volumes.SAMPLED_VOX", 5000)
    sampled = look_at(open_tomogram(tmp_path / "a.mrc"))
    monkeypatch.setattr("tomopoint.data.tomograms.SLAB_VOX", 1 << 24)
    assert look_at(open_tomogram(tmp_path / "a.mrc")) == sampled  # pieces are sampled as the whole is
    assert sampled.sd == pytest.approx(whole.sd, rel=0.1)


def test_the_command_line_prints_json_writes_a_page_and_ends_with_1_on_errors(tmp_path, capsys):
    project = tmp_path / "<project>"
    runs = write_project(project, 5)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(project), "--json", "--out", str(tmp_path / "report.html")])
    assert ended.value.code == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["n_errors"], figures["ok"]) == (0, True)
    page = (tmp_path / "report.html").read_text()
    assert "Labels per particle and run" in page
    assert "&lt;project&gt;" in page
    assert "<project>" not in page
    write_picks(ball_path(runs, "R1"), "R1", "ball", [[10.0, 10.0, -50.0]])
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(project)])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "ERROR  Labels outside their tomogram (1)\n  R1: 1 of 1 ball at x, y, z 10, 10, -50 A" in out
    assert "-> training stops at these: remove single ones" in out


def test_options_that_make_no_sense_are_refused(tmp_path):
    write_project(tmp_path, 2)
    with pytest.raises(DataError, match="--sure must lie above 0 and up to 1, got 2"):
        inspect(tmp_path, sure=2.0)
    with pytest.raises(DataError, match="--within must lie above 0 and up to 2, got 0"):
        inspect(tmp_path, within=0.0)
    with pytest.raises(DataError, match="--suspects belongs to --trained"):
        inspect(tmp_path, suspects=tmp_path / "s.csv")
    with pytest.raises(DataError, match="no such folder"):
        inspect(tmp_path / "nothing")
