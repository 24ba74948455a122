"""A lab's walk: MRC files of other voxels and light protein, to picks in their own Angstrom; resumed and verified."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from tomopoint.data.project import Run
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tables import read_pick_table
from tomopoint.errors import TomopointError
from tomopoint.inference.command import predict, status, verify
from tomopoint.inference.folder import PredictionFolder

SIGMA_A = 30.04
"""Of the blobs that the graph finds: three of its voxels."""

SIZE_A = (420.0, 520.0, 620.0)

HIT_A = 17.5
"""A pick is an anchor, up to one of the graph's voxels per axis from its blob, as in test_predict_runs."""

PLACES_ZYX_A = np.array([[125.0, 130, 140], [260, 390, 160], [170, 290, 470]])


def blobs(voxel_A, sign, shift_A=0.0, seed=0):
    """Return a tomogram of light or dark blobs at PLACES_ZYX_A, drawn from the corner in Angstrom."""
    shape_zyx = [round(size / voxel_A) for size in SIZE_A]
    volume = np.random.default_rng(seed).normal(0, 1e-7, shape_zyx)
    centres = [(np.arange(n) + 0.5) * voxel_A for n in shape_zyx]
    for place in PLACES_ZYX_A + shift_A:
        z, y, x = (np.exp(-((c - p) ** 2) / (2 * SIGMA_A**2)) for c, p in zip(centres, place, strict=True))
        volume += sign * 5e-5 * np.einsum("i,j,k->ijk", z, y, x)
    return volume.astype(np.float32)


def write_mrc(path, voxel_A, sign, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as made:
        made.set_data(blobs(voxel_A, sign, **how))
        made.voxel_size = voxel_A
    return path


def check(picks, runs):
    for run, shift_A in runs.items():
        found = picks[picks["experiment"] == run][["z", "y", "x"]].to_numpy()
        assert len(found) == len(PLACES_ZYX_A), run
        distances = np.linalg.norm(found[:, None] - (PLACES_ZYX_A + shift_A)[None], axis=2)
        assert distances.min(axis=0).max() < HIT_A


def test_light_protein_of_other_voxels_is_found_where_it_is(tmp_path, blob_model, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    write_mrc(data / "coarse.mrc", 13.48, +1)
    write_mrc(data / "fine.rec", 7.84, -1, shift_A=3.0)
    result = predict(data=data, model=blob_model, out=out, provider="cpu")
    assert result.ok
    check(read_pick_table(out / "submission.csv"), {"coarse": 0.0, "fine": 3.0})
    assert result.figures["read"] == {
        "coarse": "MRC, float32, voxels of 13.480 A, resampled to 10.012 A, protein is light, inverted",
        "fine": "MRC, float32, voxels of 7.840 A, resampled to 10.012 A, protein is dark",
    }
    assert "protein is light, inverted: coarse" in result.text
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    (coarse,) = [event["read"] for event in logged if event["event"] == "done" and event["run"] == "coarse"]
    assert coarse["format"] == "MRC, float32"
    assert coarse["voxel_A"] == pytest.approx(13.48, rel=1e-6)
    assert coarse["resampled_to_A"] == pytest.approx(10.0124, abs=1e-4)
    assert (coarse["protein"], coarse["is_inverted"], coarse["is_stated"]) == ("light", True, False)

    # The same command again does nothing, and knows how it read them; what was asked for otherwise is refused.
    again = predict(data=data, model=blob_model, out=out, provider="cpu")
    assert again.figures["read"] == result.figures["read"]
    assert again.figures["seconds_per_run"] == 0
    with pytest.raises(TomopointError, match="made with another way of reading"):
        predict(data=data, model=blob_model, out=out, provider="cpu", invert="no")

    # Others read the folder, too.
    assert status(out).figures["n_done"] == 2
    verified = verify(out / "submission.csv", data=data)
    assert verified.ok, verified.text
    assert "whether picks lie inside" not in verified.text


def test_verify_knows_where_foreign_tomograms_end(tmp_path, blob_model):
    data, out = tmp_path / "data", tmp_path / "out"
    write_mrc(data / "coarse.mrc", 13.48, +1)
    predict(data=data, model=blob_model, out=out, provider="cpu")
    short = verify(out / "submission.csv", data=data, voxel_size=9.0)
    assert "inside the tomogram of coarse, predicted as of voxels of 13.480 A, here they are 9.000 A" in short.text
    (data / "coarse.mrc").rename(data / "other.mrc")
    assert "no test run of" in verify(out / "submission.csv", data=data).text


def test_what_is_asked_for_is_done(tmp_path, blob_model):
    data = tmp_path / "data"
    write_mrc(data / "coarse.mrc", 13.48, +1)
    given = {"data": data, "model": blob_model, "provider": "cpu"}
    kept = predict(**given, out=tmp_path / "kept", invert="no")
    assert kept.figures["n_submitted"] == 0
    assert "protein looks light in the file" in kept.text
    never = predict(**given, out=tmp_path / "never", resample="never")
    assert not never.ok
    assert "leave out --resample never" in never.figures["not_done"]["coarse"]
    wrong = predict(**given, out=tmp_path / "wrong", voxel_size=1.0)
    assert "state it with --voxel-size" in wrong.figures["not_done"]["coarse"]


def test_a_projects_own_refusal_stays_unless_asked(tmp_path, blob_model):
    root = tmp_path / "project"
    write_tomogram(Run("TS_1", "test", root).tomogram_path(), blobs(13.48, +1), [13.48] * 3, levels=1)
    given = {"data": root, "model": blob_model, "provider": "cpu"}
    refused = predict(**given, out=tmp_path / "refused")
    assert "the networks were trained at 10.012 A" in refused.figures["not_done"]["TS_1"]
    assert refused.figures["read"] == {}
    assert "way of reading" not in json.loads((tmp_path / "refused" / "prediction.json").read_text())
    taken = predict(**given, out=tmp_path / "taken", resample="auto", invert="auto")
    assert taken.ok
    check(read_pick_table(tmp_path / "taken" / "submission.csv"), {"TS_1": 0.0})


def test_a_bad_file_costs_no_other(tmp_path, blob_model):
    data = tmp_path / "data"
    write_mrc(data / "good.mrc", 10.0124, -1)
    bad = write_mrc(data / "bad.mrc", 10.0124, -1)
    with bad.open("r+b") as stream:
        stream.truncate(5000)
    result = predict(data=data, model=blob_model, out=tmp_path / "out", provider="cpu")
    assert not result.ok
    assert "is truncated" in result.figures["not_done"]["bad"]
    check(read_pick_table(tmp_path / "out" / "submission.csv"), {"good": 0.0})
    assert replace(result, ok=True).figures["read"]["good"] == "MRC, float32, voxels of 10.012 A, protein is dark"


def test_stores_behind_a_url_give_the_bytes_of_those_on_the_disk(blob_project, blob_model, tmp_path):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install 'tomopoint[cloud]'")
    project, stores = blob_project(3), tmp_path / "stores"
    stores.mkdir()
    for run in project.runs:
        run.tomogram_path().rename(stores / f"{run.name}.zarr")
    assert predict(data=stores, model=blob_model, out=tmp_path / "disk", provider="cpu").ok
    words = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(stores)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            url = server.stdout.readline().split("(")[1].split("/)")[0]
            done = predict(data=Path(url), model=blob_model, out=tmp_path / "url", provider="cpu")
            assert done.ok
            assert done.figures["n_picks"] == 9
            again = predict(data=Path(f"{url}/*.zarr"), model=blob_model, out=tmp_path / "url", provider="cpu")
            assert again.ok  # another word for the same place: nothing is done twice
        finally:
            server.terminate()
    for name in ("picks.csv", "submission.csv"):
        assert (tmp_path / "url" / name).read_bytes() == (tmp_path / "disk" / name).read_bytes()
    begun = [event["run"] for event in PredictionFolder(tmp_path / "url").events() if event["event"] == "begun"]
    assert sorted(begun) == sorted(run.name for run in project.runs)
