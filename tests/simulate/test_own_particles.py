"""The user's own particles: from a structure, a map or beads to a placed, labelled particle."""

import gzip
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import yaml

from tomopoint.data.particles import read_particles
from tomopoint.errors import DataError
from tomopoint.pipeline import COMPETITION_PARTICLES
from tomopoint.simulate.command import simulate
from tomopoint.simulate.density import UNITS_PER_KDA, Blobs
from tomopoint.simulate.options import NO_VARIETY, SimulationOptions
from tomopoint.simulate.particles.catalogue import competition_particles
from tomopoint.simulate.particles.coarse import MAX_BEADS, Points, beads_of
from tomopoint.simulate.particles.density_map import read_map
from tomopoint.simulate.particles.extent import core_A, interior_A, radius_A
from tomopoint.simulate.particles.own import read_own_particles
from tomopoint.simulate.particles.structure import ELECTRONS_PER_KDA, read_structure
from tomopoint.simulate.placement import Molecule
from tomopoint.simulate.scene import draw_scene

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "particles.yaml"
RING = EXAMPLE.with_name("ring.cif")
MOMENTS_TOLERANCE = 0.03
"""Beads keep second moments on average, not along each axis."""

RULE_TOLERANCE = 0.25
"""The official radii of the six follow no rule; beta-amylase, of few blobs, is the one that needs it."""


def structure_of(*atoms: tuple[str, str, str, float, float], n_models: int = 1) -> gemmi.Structure:
    """One residue per row: its name, an element, an alternate location, its occupancy, and x."""
    structure = gemmi.Structure()
    for number in range(n_models):
        model, chain = gemmi.Model(number + 1), gemmi.Chain("A")
        residues: dict[int, gemmi.Residue] = {}
        for row, (name, element, altloc, occupancy, x) in enumerate(atoms):
            place = row if altloc == "\0" else 900
            residue = residues.setdefault(place, gemmi.Residue())
            residue.name, residue.seqid = name, gemmi.SeqId(place + 1, " ")
            atom = gemmi.Atom()
            atom.name, atom.element, atom.altloc, atom.occ = element, gemmi.Element(element), altloc, occupancy
            atom.pos = gemmi.Position(x + 100 * number, 2 * x, 3 * x)
            residue.add_atom(atom)
        for residue in residues.values():
            chain.add_residue(residue)
        model.add_chain(chain)
        structure.add_model(model)
    structure.setup_entities()
    return structure


def electrons(points: Points) -> float:
    return float(points.weights.sum()) * ELECTRONS_PER_KDA / UNITS_PER_KDA


def test_atoms_count_by_their_electrons_and_their_missing_hydrogens(tmp_path: Path) -> None:
    structure_of(("ALA", "C", "\0", 1.0, 1.0), ("A", "P", "\0", 1.0, 2.0), ("HOH", "O", "\0", 1.0, 9.0)).write_pdb(
        str(tmp_path / "three.pdb")
    )
    points = read_structure(tmp_path / "three.pdb")
    np.testing.assert_allclose(points.positions_zyx_A, [[3, 2, 1], [6, 4, 2]])  # the water is left out
    assert electrons(points) == pytest.approx(6 * 1.15 + 15 * 1.07)
    # With hydrogens in the file none are added.
    structure_of(("ALA", "C", "\0", 1.0, 1.0), ("ALA", "H", "\0", 1.0, 2.0)).write_pdb(str(tmp_path / "h.pdb"))
    assert electrons(read_structure(tmp_path / "h.pdb")) == pytest.approx(7)


def test_of_alternate_locations_the_likeliest_and_of_models_the_first(tmp_path: Path) -> None:
    made = structure_of(
        ("ALA", "C", "A", 0.3, 1.0), ("ALA", "C", "B", 0.7, 5.0), ("GLY", "N", "\0", 1.0, 7.0), n_models=2
    )
    made.make_mmcif_document().write_file(str(tmp_path / "two.cif"))
    with gzip.open(tmp_path / "two.cif.gz", "wt") as stream:
        stream.write((tmp_path / "two.cif").read_text())
    for name in ("two.cif", "two.cif.gz"):
        assert sorted(read_structure(tmp_path / name).positions_zyx_A[:, 2]) == [5.0, 7.0]


@pytest.mark.parametrize(("assembly", "copies"), [(1, 14), (2, 7), ("none", 1)])
def test_biological_assemblies(assembly: int | str, copies: int) -> None:
    points = read_structure(RING, assembly)
    assert len(points.weights) == 36 * copies
    if assembly == 1:  # both rings lie about the origin
        np.testing.assert_allclose(points.positions_zyx_A.mean(axis=0), 0.0, atol=0.05)
    with pytest.raises(DataError, match="no assembly 3; it has 1, 2"):
        read_structure(RING, 3)


def test_beads_keep_integral_centre_and_moments_and_are_few() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.standard_normal((60_000, 3)) * [30.0, 45.0, 70.0] + [500.0, -20.0, 3.0]
    cloud[:20_000, 2] += 180.0  # two lobes
    weights = rng.uniform(0.5, 1.5, len(cloud))
    blobs = beads_of(Points(cloud, weights, 3e6), 20.0)
    assert len(blobs.weights) <= MAX_BEADS
    assert blobs.integral == pytest.approx(weights.sum())
    np.testing.assert_allclose(blobs.weights @ blobs.positions_zyx_A, weights @ cloud, rtol=1e-9)
    expected = np.cov(cloud.T, aweights=weights)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(blobs.covariance_A2()), np.linalg.eigvalsh(expected), rtol=MOMENTS_TOLERANCE
    )
    finer = beads_of(Points(cloud[:2000], weights[:2000], 5e4), 10.0)
    assert finer.sigmas_A.min() >= 6.5


def write_map(path: Path, voxel_A: float | None) -> None:
    """A bright box of 10 x 6 x 4 voxels along z, y, x in an empty volume."""
    volume = np.zeros((20, 18, 16), dtype=np.float32)
    volume[2:12, 4:10, 6:10] = 3.0
    with mrcfile.new(path, overwrite=True) as made:
        made.set_data(volume)
        if voxel_A is not None:
            made.voxel_size = voxel_A


def test_a_map_gives_the_molecule_above_its_threshold(tmp_path: Path) -> None:
    write_map(tmp_path / "box.mrc", 5.0)
    points = read_map(tmp_path / "box.mrc")
    assert points.volume_A3 == 240 * 125
    np.testing.assert_allclose(points.positions_zyx_A.mean(axis=0), [35.0, 35.0, 40.0])  # voxel centres are at i + 0.5
    np.testing.assert_allclose(np.ptp(points.positions_zyx_A, axis=0), [45.0, 25.0, 15.0])
    assert points.weights.sum() == pytest.approx(240 * 125 / 1210 * UNITS_PER_KDA)
    assert read_map(tmp_path / "box.mrc", mass_kda=100.0).weights.sum() == pytest.approx(100 * UNITS_PER_KDA)
    with pytest.raises(DataError, match=r"no voxel above the threshold 4 \(its largest is 3\)"):
        read_map(tmp_path / "box.mrc", threshold=4.0)
    # Stored with x slowest, as some programs do, it is the same molecule.
    with mrcfile.open(tmp_path / "box.mrc", "r+") as opened:
        opened.set_data(np.ascontiguousarray(opened.data.transpose(2, 1, 0)))
        opened.voxel_size = 5.0
        opened.header.mapc, opened.header.maps = 3, 1
    turned = read_map(tmp_path / "box.mrc")
    np.testing.assert_allclose(np.ptp(turned.positions_zyx_A, axis=0), [45.0, 25.0, 15.0])


def test_the_rules_for_extents_suit_the_particles_whose_radii_are_official() -> None:
    known = {particle.name: particle for particle in COMPETITION_PARTICLES}
    for particle in competition_particles():
        assert radius_A(particle.blobs) == pytest.approx(known[particle.name].radius_A, rel=RULE_TOLERANCE)
        assert core_A(particle.blobs) == pytest.approx(particle.core_A, rel=RULE_TOLERANCE)
        assert (interior_A(particle.blobs) > 0) == (particle.interior_A > 0)
    # An open ring is no closed shell.
    angle = np.arange(24) * 2 * np.pi / 24
    ring = Blobs(80.0 * np.stack([0 * angle, np.sin(angle), np.cos(angle)], axis=1), np.full(24, 9.0), np.ones(24))
    assert interior_A(ring) == 0.0


def test_the_documents_example() -> None:
    own = read_own_particles(EXAMPLE, "measured")
    assert [particle.name for particle in own.particles] == ["ribosome", "ring"]  # large ones are placed first
    ring = own.particles[1]
    assert ring.blobs.integral == pytest.approx(840 * UNITS_PER_KDA)
    assert 70 <= ring.radius_A <= 90
    assert ring.statistics.mean == pytest.approx(600 * 0.0733, rel=0.01)
    assert ring.statistics.clusters is not None
    assert ring.statistics.clusters.spacing_A[0] == 2 * ring.radius_A
    assert own.particles[0].blobs.integral == pytest.approx(93_010.8)


def own_file(folder: Path, *entries: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"particles": list(entries)}))
    return path


STICK = [[0.0, 0.0, float(z), 20.0] for z in range(0, 161, 20)]
"""Nine beads of 20 kDa along z, from the middle of a membrane outwards."""


def placed(path: Path, name: str) -> list[tuple[Molecule, float]]:
    """Molecules of a kind in some scenes, each with the signed distance of its centre from the nearest membrane."""
    own = read_own_particles(path, "measured")
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, SimulationOptions(crowding=0.0, variety=NO_VARIETY), (110, 160, 160), own.particles)
        assert scene.vesicles  # there is one for them, though a box of this size has none on average
        for molecule in scene.molecules:
            if molecule.name == name:
                distances = [float(vesicle.distance_A(molecule.centre_zyx_A)) for vesicle in scene.vesicles]
                found.append((molecule, min(distances, key=abs)))
    assert len(found) > 5
    return found


def test_membrane_particles_stand_upright_in_a_membrane(tmp_path: Path) -> None:
    path = own_file(tmp_path, {"name": "stick", "simulate": {"beads": STICK, "where": "membrane", "per_run": 12.0}})
    for molecule, distance in placed(path, "stick"):
        assert molecule.anchor is not None
        assert distance == pytest.approx(80.0, abs=12.0)  # its centre; the distance is one of first order
        ends = molecule.blobs.positions_zyx_A[[0, -1]] + molecule.centre_zyx_A
        assert float(molecule.anchor.distance_A(ends[0])) == pytest.approx(0.0, abs=5.0)
        assert float(molecule.anchor.distance_A(ends[1])) > 120.0
    with pytest.raises(DataError, match=r"stands in a membrane, but nothing of it lies within 30 A of z = -90"):
        read_own_particles(
            own_file(
                tmp_path,
                {"name": "stick", "simulate": {"beads": STICK, "where": "membrane", "membrane_z_A": -90.0}},
            ),
            "measured",
        )


def test_lumen_and_cytosol(tmp_path: Path) -> None:
    small = [[0.0, 0.0, 0.0, 300.0]]
    inside = {"name": "guest", "simulate": {"beads": small, "where": "lumen", "per_run": 12.0}}
    outside = {"name": "host", "simulate": {"beads": small, "where": "cytosol", "per_run": 12.0}}
    path = own_file(tmp_path, inside, outside)
    assert max(distance for _, distance in placed(path, "guest")) < 0.0
    assert min(distance for _, distance in placed(path, "host")) > 0.0


def test_beads_difficulty_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "beads.csv").write_text("x,y,z,weight,sigma\n0,0,0,100,12\n0,0,60,300,15\n")
    entry = {"name": "pair", "radius_A": 50, "simulate": {"beads": "beads.csv", "difficulty": 2.0, "per_run": 7}}
    (pair,) = read_own_particles(own_file(tmp_path, entry), "measured").particles
    assert pair.blobs.integral == pytest.approx(400 * UNITS_PER_KDA / 2)
    np.testing.assert_allclose(pair.blobs.positions_zyx_A, [[-45, 0, 0], [15, 0, 0]])
    np.testing.assert_allclose(pair.blobs.sigmas_A, [12, 15])
    assert (pair.radius_A, pair.suppression_A) == (50.0, 60.0)
    assert pair.statistics.mean == 7.0
    assert pair.statistics.whatever_the_box


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"name": "a", "simulate": {"structure": "no.cif"}}], r"a: cannot read .*no\.cif"),
        ([{"name": "a", "simulate": {"structure": "text.pdb"}}], "holds no atoms"),
        ([{"name": "a", "simulate": {"structure": "water.pdb"}}], "holds no atoms"),
        ([{"name": "a", "simulate": {"structure": "text.cif"}}], "is not a structure"),
        ([{"name": "a", "simulate": {"map": "text.pdb"}}], "is not a density map"),
        ([{"name": "a", "simulate": {"map": "unscaled.mrc"}}], "states no voxel size"),
        ([{"name": "a", "simulate": {"beads": "text.pdb"}}], "has the columns"),
        ([{"name": "a", "simulate": {"beads": [[0, 0, 0]]}}], "every bead is x, y, z, weight"),
        ([{"name": "a", "simulate": {"beads": [[0, 0, 0, -1]]}}], "positive"),
        ([{"name": "a", "simulate": {"structur": "x.cif"}}], r"unknown field a\.simulate\.structur"),
        ([{"name": "a", "radius": 3}], r"unknown field particles\[0\]\.radius"),
        ([{"name": "a"}], "a has no shape and is none of apo-ferritin"),
        ([{"name": "ribosome"}, {"name": "ribosome"}], "two particles are called 'ribosome'"),
        ([{"name": "../a", "simulate": {"beads": STICK}}], "a particle's name must be"),
        ([{"name": "a", "simulate": {"beads": STICK, "map": "x.mrc"}}], "map and beads are both given"),
        ([{"name": "a", "simulate": {"beads": STICK, "per_um3": 3, "per_run": 3}}], "keep one"),
        ([{"name": "a", "simulate": {"beads": [[0, 0, 0, 1], [0, 0, 2000, 1]]}}], "reaches 1000 A from its centre"),
        ([{"name": "a", "threshold": 2, "simulate": {"beads": STICK}}], r"threshold of a must lie in \(0, 1\)"),
        ([{"name": "a", "simulate": {"beads": STICK, "per_run": 1e7}}], "10000000 copies of a .* do not find room"),
        ([{"name": "ribosome", "simulate": {"resolution_A": 40}}], "resolution_A belongs to a structure"),
        ([], "lists no particle"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, entries: list[object], words: str) -> None:
    (tmp_path / "text.pdb").write_text("hello\nworld\n")
    (tmp_path / "text.cif").write_text("hello\nworld\n")
    structure_of(("HOH", "O", "\0", 1.0, 9.0)).write_pdb(str(tmp_path / "water.pdb"))
    write_map(tmp_path / "unscaled.mrc", None)
    with pytest.raises(DataError, match=words):
        simulate(tmp_path / "out", particles=own_file(tmp_path, *entries))
    assert not (tmp_path / "out").exists()


def test_a_project_of_own_particles_remembers_them(tmp_path: Path) -> None:
    structure = tmp_path / "ring.cif"
    structure.write_text(RING.read_text())
    path = own_file(
        tmp_path,
        {"name": "ring", "weight": 2.0, "simulate": {"structure": "ring.cif", "mass_kda": 840, "per_run": 3}},
        {"name": "apo-ferritin"},
    )
    out = tmp_path / "deep" / "project"

    def run() -> dict[str, object]:
        return simulate(out, train_runs=1, test_runs=1, shape="48,96,96", device="cpu", particles=path).figures

    assert set(run()["particles"]) == {"ring", "apo-ferritin"}  # type: ignore[call-overload]
    assert {file.stem for file in out.glob("truth/*/*.json")} == {"ring", "apo-ferritin"}
    assert {line.split(",")[2] for line in (out / "sample_submission.csv").read_text().split()[1:]} == {
        "ring",
        "apo-ferritin",
    }
    # What the project states is complete, in the order of the file, and leads back to the structure.
    ring, ferritin = read_particles(out / "particles.yaml")
    assert (ring.name, ring.weight, ring.threshold) == ("ring", 2.0, 0.25)
    assert ring.suppression_A == pytest.approx(1.2 * ring.radius_A)
    assert ferritin == COMPETITION_PARTICLES[0]
    again = read_own_particles(out / "particles.yaml", "measured")
    assert again.record() == read_own_particles(path, "measured").record()
    # The same again is fine, another structure under the same name, or none at all, is not.
    run()
    with pytest.raises(DataError, match="particles was"):
        simulate(out, train_runs=1, test_runs=1, shape="48,96,96", device="cpu")
    structure.write_text(RING.read_text().replace("57.2", "58.2"))
    with pytest.raises(DataError, match=r"particles\.ring\.simulate\.structure was"):
        run()


def test_a_particles_file_that_lies_in_the_project_already_is_completed_or_asked_for(tmp_path: Path) -> None:
    structure = tmp_path / "ring.cif"
    structure.write_text(RING.read_text())
    path = own_file(tmp_path, {"name": "ring", "simulate": {"structure": "ring.cif", "mass_kda": 840, "per_run": 3}})
    with pytest.raises(DataError, match=r"holds a .*\.yaml of other particles; give it with --particles"):
        simulate(path.rename(tmp_path / "particles.yaml").parent, train_runs=1, test_runs=0, shape="48,96,96")
    given = tmp_path / "particles.yaml"
    simulate(tmp_path, train_runs=1, test_runs=0, shape="48,96,96", device="cpu", particles=given)
    (ring,) = read_particles(given)
    assert ring.radius_A > 50.0  # which the file did not say before
