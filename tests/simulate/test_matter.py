"""Unlabelled matter: decoys of random build, fragments, gold."""

import numpy as np
import pytest

from tomopoint.simulate.density import UNITS_PER_KDA
from tomopoint.simulate.matter import _cage, _random_assembly, decoy, fragment, gold_bead
from tomopoint.simulate.particles.catalogue import competition_particle, competition_particles

N_DRAWN = 300


def test_decoys_are_of_the_labelled_particles_sizes_and_no_two_alike() -> None:
    drawn = [decoy(np.random.default_rng(seed)) for seed in range(N_DRAWN)]
    masses = np.array([blobs.integral for blobs in drawn])
    for particle in competition_particles():
        near = np.abs(np.log(masses / particle.blobs.integral)) < np.log(1.5)
        assert near.mean() > 0.01, particle.name
    extents = np.array([np.sqrt(5 * np.linalg.eigvalsh(blobs.covariance_A2())) for blobs in drawn])
    assert len(np.unique(extents.round(1), axis=0)) == N_DRAWN
    for blobs in drawn:
        np.testing.assert_allclose(blobs.weights @ blobs.positions_zyx_A / blobs.integral, 0.0, atol=1e-6)


def test_a_third_of_the_assemblies_have_no_symmetry() -> None:
    """A two-fold axis or more makes blobs equally far from the centre, each at least twice."""
    symmetric = 0
    for seed in range(N_DRAWN):
        blobs = _random_assembly(np.random.default_rng(seed)).centred()
        radii = np.sort(np.linalg.norm(blobs.positions_zyx_A, axis=1).round(4))
        symmetric += len(np.unique(radii)) <= len(radii) / 2
        assert 100 < blobs.integral / UNITS_PER_KDA < 1600
    assert symmetric / N_DRAWN == pytest.approx(0.66, abs=0.08)


def test_no_cage_is_as_large_as_a_labelled_shell() -> None:
    shells = [competition_particle(name) for name in ("apo-ferritin", "virus-like-particle")]
    for shell in shells:
        radius = np.linalg.norm(shell.blobs.positions_zyx_A, axis=1)
        wall = np.average(radius[radius > 0.75 * radius.max()])
        means = [
            np.linalg.norm(_cage(np.random.default_rng(seed)).positions_zyx_A, axis=1).mean() for seed in range(N_DRAWN)
        ]
        # Cages are flattened by up to a fifth along an axis, by less on average.
        assert (np.abs(np.array(means) / wall - 1) > 0.05).mean() > 0.9


def test_a_fragment_is_one_side_of_its_molecule() -> None:
    for seed, particle in enumerate(competition_particles()):
        rng = np.random.default_rng(seed)
        shares = [fragment(rng, particle.blobs).integral / particle.blobs.integral for _ in range(60)]
        assert min(shares) > 0.1
        assert max(shares) <= 0.5
        assert np.ptp(shares) > 0.2
        part = fragment(rng, particle.blobs)
        whole = np.linalg.eigvalsh(particle.blobs.covariance_A2())
        assert np.linalg.eigvalsh(part.covariance_A2())[0] < whole[0]  # cut through: thinner than before


def test_gold_scatters_more_than_any_protein_of_its_size() -> None:
    bead = gold_bead(np.random.default_rng(0))
    radius = np.sqrt(5 / 3 * np.trace(bead.covariance_A2()))
    assert 45 < radius < 90
    density = bead.integral / (4 / 3 * np.pi * radius**3)
    apo = competition_particle("apo-ferritin").blobs
    assert density > 5 * apo.integral / (4 / 3 * np.pi * 65.0**3)
