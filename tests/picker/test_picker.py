"""`tomopoint picker`: from a structure file to a graph and its card, resumably."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import gemmi
import numpy as np
import pytest

from tomopoint.__main__ import main
from tomopoint.errors import TomopointError
from tomopoint.evaluation.command import score
from tomopoint.files import sha256_of
from tomopoint.inference.engines.graph_metadata import pipeline_in, read_metadata
from tomopoint.models import box
from tomopoint.picker import boxing
from tomopoint.picker.command import picker
from tomopoint.picker.plan import MAX_RUNS, MIN_RUNS, make_plan
from tomopoint.picker.targets import PER_RUN, read_targets
from tomopoint.road import Road, Step

N_ATOMS = 4000
SEED = 3


def write_cross(path: Path, n_atoms: int = N_ATOMS) -> Path:
    """Write an mmCIF file of three bars at right angles, 180 A long: a shape that nothing else in the ice has.

    Carbon, with the hydrogens that are added to its residues, of ``n_atoms * 12.9 / 1000`` times 1.15 kDa.
    """
    rng = np.random.default_rng(0)
    bars = rng.uniform(-1, 1, (n_atoms, 3)) * 14.0
    bars[np.arange(n_atoms), np.arange(n_atoms) % 3] *= 90.0 / 14.0
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for number, (x, y, z) in enumerate(bars):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(number + 1, " ")
        atom.name, atom.element, atom.pos = "CA", gemmi.Element("C"), gemmi.Position(x, y, z)
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(path))
    return path


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross(tmp_path_factory.mktemp("structure") / "cross.cif")


@pytest.fixture(scope="module")
def made(cross: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picker of the cross, made quickly, though killed once after its training."""
    out = tmp_path_factory.mktemp("pickers") / "cross"
    walk = Road.walk

    def walk_until_validation(road: Road, step: Step) -> None:
        if step.name == "validate":
            raise KeyboardInterrupt
        walk(road, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Road, "walk", walk_until_validation)
        with pytest.raises(KeyboardInterrupt):
            picker(structure=[f"cross={cross}"], out=out, quick=True, seed=SEED)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("member.json")}
    assert len(before) == 2
    assert not (out / "model-card.md").exists()

    result = picker(structure=[f"cross={cross}"], out=out, quick=True, seed=SEED)

    assert result.ok
    assert {path: path.stat().st_mtime_ns for path in out.rglob("member.json")} == before
    return out


def again(cross: Path, out: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Make the same picker again; return the steps that ran."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="tomopoint.road"):
        picker(structure=[f"cross={cross}"], out=out, quick=True, seed=SEED)
    lines = [record.getMessage() for record in caplog.records if record.name == "tomopoint.road"]
    return [line.split(",")[1].split(":")[0].strip() for line in lines if not line.endswith("done before")]


def test_the_graph_finds_the_structure_at_the_voxel_size(made: Path) -> None:
    pipeline = pipeline_in(read_metadata(made / "cross.onnx"), made / "cross.onnx")
    (particle,) = pipeline.particles
    assert particle.name == "cross"
    assert particle.radius_A == pytest.approx(
        82.0, abs=10.0
    )  # half of a bar is 90 A, and its outermost 2 % do not count
    assert pipeline.voxel_A == 10.0
    assert len(pipeline.members) == 2


def test_the_card_says_what_was_measured(made: Path, cross: Path) -> None:
    card = json.loads((made / "model-card.json").read_text())
    scored = score(made / "other-world-picks" / "submission.csv", truth=made / "other-world" / "truth").figures
    validation = json.loads((made / "trained" / "validation.json").read_text())

    assert card["other_world"]["score"] == scored["score"]
    for world, expected in (
        ("other_world", scored["per_class"]["cross"]),
        ("own_world", validation["per_class_left_out"]["cross"]),
    ):
        figures = card["particles"]["cross"][world]
        assert [figures[key] for key in ("tp", "fp", "fn")] == [expected[key] for key in ("tp", "fp", "fn")]
        assert figures["f_beta"] == pytest.approx(expected["f_beta"], abs=1e-4)
        assert figures["tp"] + figures["fn"] > 5  # something was there to be found
    assert card["own_world"]["score"] == validation["score_left_out"]
    assert card["particles"]["cross"]["sha256"] == sha256_of(cross)
    assert card["graph_sha256"] == sha256_of(made / "cross.onnx")
    weights = {network["weights_sha256"] for network in card["networks"]}
    assert weights == {sha256_of(path) for path in (made / "trained").rglob("weights.safetensors")}
    text = (made / "model-card.md").read_text()
    assert "has never seen a real one" in text
    assert f"tomopoint predict --data ROOT --model {made / 'cross.onnx'}" in text
    assert f"**{scored['score']:.3f}**" in text


def test_the_tomograms_are_of_two_worlds_and_hold_the_structure(made: Path) -> None:
    settings = {name: json.loads((made / name / "simulation.json").read_text()) for name in ("data", "other-world")}
    assert [settings[name]["options"]["world"] for name in settings] == ["own", "other"]
    for name, of_world in settings.items():
        assert of_world["options"]["voxel_A"] == 10.0
        assert list(of_world["particles"]) == ["cross"]
        records = [json.loads(path.read_text()) for path in (made / name / "simulation").glob("*.json")]
        assert sum(record["counts"]["cross"] for record in records) > 0.2 * PER_RUN * len(records)


def test_a_second_call_does_nothing_again(made: Path, cross: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    assert again(cross, made, caplog) == []
    written = {path for path in made.rglob("*") if path.is_file() and files.get(path) != path.stat().st_mtime_ns}
    assert written <= {made / "particles.yaml"}


def test_only_what_is_missing_is_made_again(
    made: Path, cross: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "cross"
    shutil.copytree(made, out)
    (out / "other-world-score.json").unlink()
    (out / "model-card.json").unlink()
    assert again(cross, out, caplog) == ["step score"]
    card, first = (json.loads((folder / "model-card.json").read_text()) for folder in (out, made))
    assert card["particles"] == first["particles"]
    assert card["graph_sha256"] == first["graph_sha256"]


def test_other_options_are_refused_in_the_same_folder(made: Path, cross: Path, tmp_path: Path) -> None:
    with pytest.raises(TomopointError, match=r"holds a picker made with other options \(seed 3, not 4\)"):
        picker(structure=[f"cross={cross}"], out=made, quick=True, seed=4)
    with pytest.raises(TomopointError, match=r"voxel size 10\.0, not 8\.0"):
        picker(structure=[f"cross={cross}"], out=made, quick=True, seed=SEED, voxel_size=8.0)
    other = write_cross(tmp_path / "cross.cif", N_ATOMS - 300)
    with pytest.raises(TomopointError, match="particles differ"):
        picker(structure=[f"cross={other}"], out=made, quick=True, seed=SEED)


def test_structures_and_a_particles_file_go_together(cross: Path, tmp_path: Path) -> None:
    listing = tmp_path / "mine.yaml"
    shutil.copy(cross, tmp_path / "plus.cif")
    listing.write_text(
        "particles:\n  - {name: plus, weight: 2, simulate: {structure: plus.cif, per_um3: 500}}\n  - name: ribosome\n"
    )

    targets = read_targets([f"cross={cross}"], listing)

    assert targets.names == ("cross", "plus", "ribosome")
    simulate = {entry.name: entry.simulate for entry in targets.entries}
    assert simulate["cross"] == {"structure": str(cross), "per_run": PER_RUN}
    assert simulate["plus"] == {"structure": str(tmp_path / "plus.cif"), "per_um3": 500}
    assert simulate["ribosome"] == {}
    assert targets.sources == {"cross": "cross.cif", "plus": "plus.cif", "ribosome": "PDB 6QZP"}
    # 4000 carbons of 6 electrons, 15 % more for hydrogens, 535 per kDa: 52 kDa.
    assert targets.masses_kda()["cross"] == pytest.approx(51.6, rel=0.01)
    assert [sentence.split()[0] for sentence in targets.unlikely()] == ["cross", "plus"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "nothing to find: give --structure NAME=FILE"),
        (["--structure", "cross={cross}", "cross={cross}"], "two particles are called cross"),
        (["--structure", "spike=nothing.cif"], "cannot read nothing.cif"),
        (["--structure", "nothing.cif"], "--structure takes NAME=FILE"),
        (["--structure", "../up={cross}"], "--structure takes NAME=FILE"),
        (["--particles", "nothing.yaml"], "nothing.yaml cannot be read as YAML"),
        (["--structure", "cross={cross}", "--minutes", "1"], "--minutes must be at least 3"),
        (["--structure", "cross={cross}", "--minutes", "nan"], "--minutes must be at least 3"),
        (["--structure", "cross={cross}", "--runs", "1"], "--runs must be at least 2"),
        (["--structure", "cross={cross}", "--voxel-size", "2"], "voxel_A must lie in"),
        (["--structure", "cross={cross}", "--seed", "-1"], "the seed must not be negative"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    words: list[str], sentence: str, cross: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        main(["picker", *(word.format(cross=cross) for word in words), "--out", str(out)])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("tomopoint picker: ")
    assert sentence in error
    assert not out.exists()


def test_minutes_decide_what_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    short, hour, long = (make_plan(minutes, None, quick=False) for minutes in (5.0, 60.0, 600.0))
    assert (short.runs, long.runs) == (MIN_RUNS, MAX_RUNS)
    assert MIN_RUNS < hour.runs < MAX_RUNS
    # As fast as the machine that was measured: what is not simulating or judging is training, most of the hour.
    training = hour.training_minutes(hour.simulating_s)
    assert training + (hour.simulating_s + hour.judging_s) / 60 == pytest.approx(60, abs=0.01)
    assert training > 45
    # A machine that takes twice as long to simulate has less left; one that is hopeless still trains.
    assert training - 12 < hour.training_minutes(2 * hour.simulating_s) < training - 3
    assert hour.training_minutes(3600.0) == pytest.approx(24.0)


def test_on_one_core_folds_are_trained_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    plan = make_plan(60.0, 20, quick=False)
    assert not plan.side_by_side
    both = 2 * plan.training_minutes(plan.simulating_s)
    assert both + (plan.simulating_s + plan.judging_s) / 60 == pytest.approx(60, abs=0.02)


def test_a_picker_goes_into_the_box(made: Path, cross: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "box"
    folder.mkdir()
    monkeypatch.setattr(boxing, "box_folder", lambda: folder)
    monkeypatch.setattr(box, "box_folder", lambda: folder)
    graph = boxing.put_in_box(made, "tiny")
    assert box.box_models() == {"tiny": graph}
    record = box.load_record(graph)
    assert record.onnx_sha256 == sha256_of(made / "cross.onnx") == sha256_of(graph)
    assert record.seeds == {"tomograms, weights and crops": SEED}
    card = box.card_of(graph)
    assert card is not None
    text = card.read_text()
    assert "tomopoint predict --data ROOT --model tiny --out picks" in text
    assert "`tiny.onnx`" in text
    assert f"--data ROOT --model {made}" not in text
    numbers = f"--voxel-size 10.0 --minutes 60.0 --seed {SEED}"
    assert record.commands[0] == f"tomopoint picker --structure cross={cross} {numbers} --out {made} --quick"
    assert len(record.commands) == 9

    (made / "cross.onnx").rename(tmp_path / "cross.onnx")
    (made / "cross.onnx").write_bytes(b"another graph")
    try:
        with pytest.raises(TomopointError, match="is not the graph that"):
            boxing.put_in_box(made, "tiny")
    finally:
        (tmp_path / "cross.onnx").replace(made / "cross.onnx")
    with pytest.raises(TomopointError, match="let `tomopoint picker` finish first"):
        boxing.put_in_box(tmp_path, "tiny")


def test_the_card_says_what_a_shape_comes_from(cross: Path, tmp_path: Path) -> None:
    path = tmp_path / "particles.yaml"
    beads = "{simulate: {beads: [[0, 0, 0, 200], [90, 0, 0, 200]]}, name: dumb-bell}"
    path.write_text(f"particles:\n  - {beads}\n  - {{name: ribosome}}\n  - {{name: beta-amylase}}\n")
    assert read_targets([f"cross={cross}"], path).sources == {
        "cross": "cross.cif",
        "dumb-bell": "beads",
        "ribosome": "PDB 6QZP",
        "beta-amylase": "symmetry and size",
    }
