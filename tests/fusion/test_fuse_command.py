"""The command `fuse`: from tables, STAR files and class maps to a folder that the other commands go on from."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import zarr

from tomopoint.__main__ import main
from tomopoint.data.picks import write_picks
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tables import COORDINATES, read_pick_table, write_pick_table
from tomopoint.data.truth import read_truth
from tomopoint.errors import DataError
from tomopoint.evaluation.calibration import CalibrationOptions
from tomopoint.evaluation.command import score, tune
from tomopoint.evaluation.score import score_picks
from tomopoint.evaluation.thresholds import choose_thresholds, sweep, threshold_grid
from tomopoint.evaluation.tuning import tune_thresholds
from tomopoint.formats.command import export_picks
from tomopoint.fusion.clusters import fuse_picks
from tomopoint.fusion.command import fuse
from tomopoint.fusion.fuse import FLOOR
from tomopoint.fusion.scales import calibrated, fit_maps
from tomopoint.pipeline import COMPETITION_PARTICLES, Decoding, Pipeline

NAMES = [particle.name for particle in COMPETITION_PARTICLES]
KINDS = {"ribosome": 150.0, "apo-ferritin": 60.0}
SIZE_A = np.array([3000.0, 3000.0, 1500.0])
RUNS = ("R1", "R2", "R3", "R4")


def logistic(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two pickers whose scores mean different things, wrong in places of their own, of runs with truth and one without.

    B has the same logits as it would have as A, halved and lifted: it is bold, and no better.
    """
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(8)
    rows = {"A": [], "B": []}
    for run in (*RUNS, "R5"):
        for name, radius_A in KINDS.items():
            truth = rng.uniform(0, SIZE_A, (20, 3)).round(3)
            if run in RUNS:
                write_picks(folder / "truth" / run / f"{name}.json", run, name, truth)
            hard = rng.normal(size=20)
            for source, bold in (("A", 0.0), ("B", 1.5)):
                near = truth + rng.normal(size=(20, 3)) * radius_A * 0.1
                points = np.concatenate([near, rng.uniform(0, SIZE_A, (60, 3))]).clip(0, SIZE_A)
                logits = np.concatenate([1.2 + 0.7 * hard + rng.normal(size=20), rng.normal(-2, 1.3, 60)])
                scores = logistic(logits / (1 + bold / 1.5) + bold)
                rows[source] += [(run, name, *p, s) for p, s in zip(points, scores, strict=True) if s > 0.05]
    columns = ["experiment", "particle_type", *COORDINATES, "score"]
    for source, own in rows.items():
        write_pick_table(pd.DataFrame(own, columns=columns), folder / source / "picks.csv")
    Pipeline(COMPETITION_PARTICLES, 10.0, decoding=Decoding(floor=0.05)).save(folder / "A" / "pipeline.json")
    return folder


def sources(world):
    return [str(world / "A"), str(world / "B" / "picks.csv")]


def test_calibrated_scores_are_judged_on_runs_that_had_no_part(world, tmp_path):
    """Everything again by hand, group by group."""
    figures = fuse(sources(world), out=tmp_path, truth=world / "truth").figures
    tables = [read_pick_table(world / s / "picks.csv") for s in "AB"]
    truth = read_truth(world / "truth", NAMES)
    kept = []
    for run in RUNS:
        others = {r: points for r, points in truth.items() if r != run}
        maps = [fit_maps(t, others, COMPETITION_PARTICLES, sorted(others)) for t in tables]
        known = [t[t["experiment"].isin(RUNS)] for t in tables]
        fused = fuse_picks(calibrated([t.reset_index(drop=True) for t in known], maps), COMPETITION_PARTICLES)
        fused = fused[fused["score"] >= FLOOR]
        curves = sweep(others, fused, COMPETITION_PARTICLES, threshold_grid(FLOOR))
        least = {n: c.threshold for n, c in choose_thresholds(curves, COMPETITION_PARTICLES).items()}
        own = fused[fused["experiment"] == run]
        kept.append(own[own["score"] >= own["particle_type"].map(least)])
    honest = score_picks(truth, pd.concat(kept))
    assert figures["score"]["left_out"] == pytest.approx(honest.score, abs=1e-12)
    for index, table in enumerate(tables):  # alone, as `tomopoint tune` has it
        alone = tune_thresholds(truth, table, COMPETITION_PARTICLES, CalibrationOptions(floor=FLOOR))
        assert figures["sources"][index]["score"]["left_out"] == alone.calibration.left_out.score
    # The fusion is better than either alone: its picks are right where both are.
    assert honest.score > max(source["score"]["left_out"] for source in figures["sources"]) + 0.005
    assert figures["sources"][0]["maps"]["ribosome"]["n"] == len(
        tables[0].query("particle_type == 'ribosome' and experiment in @RUNS")
    )


def test_the_folder_is_one_that_other_commands_go_on_from(world, tmp_path, capsys):
    out = tmp_path / "fused"
    with pytest.raises(SystemExit) as end:
        main(["fuse", *sources(world), "--out", str(out), "--truth", str(world / "truth")])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "B/picks.csv has no pipeline.json beside it: its thresholds are not known" in text
    assert "of 4 runs in 4 groups, each scored with what was chosen on the other groups" in text
    picks, pipeline = read_pick_table(out / "picks.csv"), Pipeline.load(out / "pipeline.json")
    record = json.loads((out / "fusion.json").read_text())
    assert set(picks["experiment"]) == {*RUNS, "R5"}
    assert pipeline.members == ()
    assert pipeline.thresholds == record["thresholds"]
    assert pipeline.decoding.floor <= picks["score"].min()
    submission = read_pick_table(out / "submission.csv")
    passes = picks["score"] >= picks["particle_type"].map(pipeline.thresholds)
    assert len(submission) == passes.sum()
    # Chosen and scored on the same runs: what `score` and `tune` find in the files is what was said.
    tuned = tune(out, truth=world / "truth", out=tmp_path / "tuned").figures
    assert tuned["score_before"] == pytest.approx(record["score"]["tuned"], abs=2e-3)  # five decimals of a score
    assert score(out / "submission.csv", truth=world / "truth").figures["score"] == tuned["score_before"]
    assert export_picks(out, format="csv", out=tmp_path / "csv").figures["n_picks"] == len(submission)
    with pytest.raises(SystemExit) as end:
        main(["rethreshold", str(out / "picks.csv"), "--thresholds", "ribosome=0.9", "--out", str(tmp_path / "x.csv")])
    assert end.value.code == 0


def test_without_truth_as_many_picks_pass_as_the_sources_hand_on(world, tmp_path):
    shutil.copytree(world / "B", tmp_path / "B")
    bold = Pipeline(COMPETITION_PARTICLES, 10.0).with_thresholds({"ribosome": 0.8, "apo-ferritin": 0.7})
    bold.save(tmp_path / "B" / "pipeline.json")
    result = fuse([str(world / "A"), str(tmp_path / "B")], out=tmp_path / "fused", weights="3,1")
    a, b = read_pick_table(world / "A" / "picks.csv"), read_pick_table(world / "B" / "picks.csv")
    for name, least in (("ribosome", 0.8), ("apo-ferritin", 0.7)):
        n_a = ((a["particle_type"] == name) & (a["score"] >= 0.25)).sum()
        n_b = ((b["particle_type"] == name) & (b["score"] >= least)).sum()
        assert result.figures["counts"][name] == round((3 * n_a + n_b) / 4)
    assert result.figures["score"] is None
    assert "nothing says how good they are" in result.text


def test_ranks_do_not_know_the_scale(world, tmp_path):
    """Scores that are logits, of one source: the same picks come out."""
    table = read_pick_table(world / "B" / "picks.csv")
    logits = table.assign(score=10 * np.log(table["score"] / (1 - table["score"])) - 3)
    logits.to_csv(tmp_path / "logits.csv", index=False)
    with pytest.raises(DataError, match=r"the scores of .*logits.csv go from .* not from 0 to 1"):
        fuse([str(world / "A"), str(tmp_path / "logits.csv")], out=tmp_path / "x")
    texts = []
    for index, second in enumerate((world / "B" / "picks.csv", tmp_path / "logits.csv")):
        fuse([str(world / "A"), str(second)], out=tmp_path / str(index), scale="rank")
        texts.append((tmp_path / str(index) / "picks.csv").read_text())
    assert texts[0] == texts[1]


def test_class_maps_are_decoded_as_a_source(world, tmp_path):
    """A map at stride 2 with a peak where a pick of A is; a channel that is no particle is passed over."""
    maps = np.zeros((2, 75, 150, 150), dtype=np.float32)
    maps[1, 20, 30, 40] = 0.8
    array = zarr.create_array(store=str(tmp_path / "maps" / "R1.zarr"), shape=maps.shape, dtype="f4")
    array[...] = maps
    array.attrs.update(channels=["background", "ribosome"], stride=2, voxel_A=10.0)
    centre_xyz_A = np.array([40.5, 30.5, 20.5]) * 20
    rows = [("R1", "ribosome", *np.add(centre_xyz_A, (30, 0, 0)), 0.4), ("R1", "ribosome", 2500.0, 0.0, 0.0, 0.4)]
    columns = ["experiment", "particle_type", *COORDINATES, "score"]
    write_pick_table(pd.DataFrame(rows, columns=columns), tmp_path / "A" / "picks.csv")
    shutil.copy(world / "A" / "pipeline.json", tmp_path / "A")
    fuse([str(tmp_path / "A"), str(tmp_path / "maps")], out=tmp_path / "fused")
    fused = read_pick_table(tmp_path / "fused" / "picks.csv")
    assert fused["score"].tolist() == pytest.approx([0.6, 0.2])
    expected = np.add(centre_xyz_A, (30 * 0.4 / 1.2, 0, 0))
    np.testing.assert_allclose(fused[list(COORDINATES)].to_numpy()[0], expected, atol=1e-3)


@pytest.fixture
def project(tmp_path):
    """A project with one tomogram of 40x60x80 voxels of 10 A."""
    store = tmp_path / "project/test/static/ExperimentRuns/R1/VoxelSpacing10.000/denoised.zarr"
    store.parent.mkdir(parents=True)
    volume = np.random.default_rng(0).normal(size=(40, 60, 80)).astype(np.float32)
    write_tomogram(store, volume, scale_A=(10.0, 10.0, 10.0), levels=1)
    return tmp_path / "project"


@pytest.mark.parametrize("kind", ["relion5", "relion3"])
def test_star_files_come_in_with_their_scores(world, project, tmp_path, kind):
    pytest.importorskip("starfile")
    rows = [("R1", "ribosome", 200.0, 300.0, 150.0, 0.75), ("R1", "apo-ferritin", 600.0, 100.0, 50.0, 0.5)]
    columns = ["experiment", "particle_type", *COORDINATES, "score"]
    write_pick_table(pd.DataFrame(rows, columns=columns), tmp_path / "A" / "picks.csv")
    shutil.copy(world / "A" / "pipeline.json", tmp_path / "A")
    export_picks(tmp_path / "A", format=kind, out=tmp_path / "star", data=project, all=True)
    moved = pd.DataFrame(rows[:1], columns=columns).assign(x=240.0, score=0.25)
    write_pick_table(moved, tmp_path / "B" / "picks.csv")
    shutil.copy(world / "A" / "pipeline.json", tmp_path / "B")
    fuse([str(tmp_path / "B"), str(tmp_path / "star")], out=tmp_path / "fused", data=project)
    fused = read_pick_table(tmp_path / "fused" / "picks.csv").set_index("particle_type")
    assert fused.loc["ribosome", ["x", "y", "z", "score"]].tolist() == pytest.approx([210, 300, 150, 0.5], abs=0.01)
    assert fused.loc["apo-ferritin", "score"] == pytest.approx(0.5)  # B knows no apo-ferritin
    named = f"ribosome={tmp_path / 'star' / 'ribosome.star'}"
    result = fuse([str(tmp_path / "B"), named], out=tmp_path / "named", data=project)
    assert result.figures["n_picks"] == 1
    with pytest.raises(DataError, match="name their project with --data"):
        fuse([str(tmp_path / "B"), named], out=tmp_path / "named")


def test_a_table_without_scores_counts_alike(world, tmp_path):
    rows = read_pick_table(world / "A" / "picks.csv").drop(columns="score")
    rows.to_csv(tmp_path / "theirs.csv", index=False)
    result = fuse([str(world / "A"), str(tmp_path / "theirs.csv")], out=tmp_path / "fused")
    assert "theirs.csv has no scores: each of its picks counts alike" in result.text
    own, fused = (read_pick_table(path / "picks.csv") for path in (world / "A", tmp_path / "fused"))
    assert fused["score"].max() == pytest.approx((own["score"].max() + 1) / 2, abs=1e-5)


def test_particles_may_be_given(world, tmp_path):
    (tmp_path / "particles.yaml").write_text(
        "particles:\n  - {name: ribosome, radius_A: 20}\n  - {name: apo-ferritin, radius_A: 10}\n"
    )
    few = fuse(sources(world), out=tmp_path / "x", particles=tmp_path / "particles.yaml").figures["votes"]
    many = fuse(sources(world), out=tmp_path / "y").figures["votes"]
    assert few["2"] < many["2"]
    assert Pipeline.load(tmp_path / "x" / "pipeline.json").particle("ribosome").radius_A == 20
    Pipeline(COMPETITION_PARTICLES, 10.0).save(tmp_path / "other.json")
    alone = [str(world / "B" / "picks.csv"), str(tmp_path / "y" / "picks.csv")]
    (tmp_path / "y" / "pipeline.json").unlink()
    with pytest.raises(DataError, match=r"no source has a pipeline\.json beside it"):
        fuse(alone, out=tmp_path / "z")
    with pytest.raises(DataError, match="nobody says the voxel size"):
        fuse(alone, out=tmp_path / "z", particles=tmp_path / "particles.yaml")
    fuse(alone, out=tmp_path / "z", particles=tmp_path / "other.json")


def changed(world, tmp_path, change):
    change(read_pick_table(world / "B" / "picks.csv")).to_csv(tmp_path / "b.csv", index=False)
    return [str(world / "A"), str(tmp_path / "b.csv")]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda t: t.assign(experiment="Z"),
            "A shares no run with the other sources: it has R1, R2, R3, R4, R5, they have Z",
        ),
        (lambda t: t.assign(particle_type="spike"), "b.csv names spike; known are apo-ferritin, beta-galactosidase"),
        (lambda t: pd.concat([t, t.head(1)]), "picks twice"),
        (lambda t: t.iloc[:0], "holds no picks; leave it out"),
    ],
)
def test_sources_that_cannot_be_fused(world, tmp_path, change, sentence):
    with pytest.raises(DataError, match=sentence):
        fuse(changed(world, tmp_path, change), out=tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def test_what_is_asked_for_has_to_make_sense(world, tmp_path):
    a, b = sources(world)
    shutil.copy(world / "B" / "picks.csv", tmp_path / "copy.csv")
    (tmp_path / "link.csv").symlink_to(world / "A" / "picks.csv")
    for given, options, sentence in [
        ([a], {}, "fusing takes two sources or more, got 1"),
        ([a, str(world / "A" / "picks.csv")], {}, "is the same as .*: it would vote twice"),
        ([a, str(tmp_path / "link.csv")], {}, "it would vote twice"),
        ([b, a, str(tmp_path / "copy.csv")], {}, r"copy\.csv is the same as .*B/picks\.csv"),
        ([a, str(tmp_path / "none.mrc")], {}, "holds no picks that could be fused; a source is picks.csv or"),
        ([a, f"ribosome={b}"], {}, "NAME= is for STAR files"),
        ([a, b], {"weights": "1"}, "one number per source, of which there are 2; got '1'"),
        ([a, b], {"weights": "1,x"}, "one number per source, e.g. 1,0.7; got '1,x'"),
        ([a, b], {"weights": "1,0"}, "weights are positive numbers, got '1,0'"),
        ([a, b], {"radius_scale": 0.0}, r"--radius-scale must lie in \(0, 2\], got 0"),
        ([a, b], {"channels": "ribosome"}, "no source is one; leave it out"),
        ([a, b], {"scale": "calibrated"}, "--scale calibrated takes the truth of some runs"),
    ]:
        with pytest.raises(DataError, match=sentence):
            fuse(given, out=tmp_path / "fused", **options)
    write_picks(tmp_path / "other" / "R9" / "ribosome.json", "R9", "ribosome", [[1, 2, 3]])
    with pytest.raises(DataError, match=r"no run of the truth \(R9\) has picks in every source"):
        fuse([a, b], out=tmp_path / "fused", truth=tmp_path / "other")
    assert not (tmp_path / "fused").exists()


def test_sources_are_not_written_over(world):
    before = (world / "A" / "picks.csv").read_bytes()
    with pytest.raises(Exception, match="is read by this command"):
        fuse(sources(world), out=world / "A")
    assert (world / "A" / "picks.csv").read_bytes() == before


def test_a_single_run_says_that_it_flatters(world, tmp_path):
    shutil.copytree(world / "truth" / "R1", tmp_path / "truth" / "R1")
    result = fuse(sources(world), out=tmp_path / "fused", truth=tmp_path / "truth")
    assert "one run alone: chosen and scored on the same run" in result.text
    assert result.figures["score"]["left_out"] is None
