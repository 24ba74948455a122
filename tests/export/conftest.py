"""Small networks with weights that make every output count, as training folders and in memory."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from random_networks import DYNUNET, SEGRESNET, random_network

from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Normalisation, Pipeline, Tiling
from tomopoint.training.checkpoints import RECIPE, WEIGHTS, MemberRecord, save_weights
from tomopoint.training.recipe import Recipe
from tomopoint.validation.validated import ValidatedEnsemble

WINDOW = (32, 32, 40)


@pytest.fixture(scope="session")
def pipeline():
    tiling = Tiling(WINDOW, (16, 16, 16), 0.1)
    return Pipeline(particles=COMPETITION_PARTICLES, voxel_A=10.0, tiling=tiling)


@pytest.fixture(scope="session")
def merged(pipeline):
    networks = (random_network(SEGRESNET, 0), random_network(DYNUNET, 1), random_network(SEGRESNET, 2))
    members = tuple(
        Member(f"fold{k}", network, ("TS_1",), 0.5, f"{k:064x}", weight=1.0 + k)
        for k, network in enumerate(("segresnet", "dynunet", "segresnet"))
    )
    return ValidatedEnsemble(networks, replace(pipeline, members=members), (SEGRESNET, DYNUNET, SEGRESNET))


@pytest.fixture
def write_run(tmp_path, pipeline):
    """Write a training folder as `tomopoint train` and `tomopoint validate` leave it."""

    def write(name, seeds=(0, 1), validated=None, **changes) -> Path:
        folder = tmp_path / name
        Recipe().save(folder / RECIPE)
        members = []
        for fold, seed in enumerate(seeds):
            config = (SEGRESNET, DYNUNET)[fold % 2].resolved()
            path = folder / f"fold{fold}" / config.title
            sha256 = save_weights(random_network(config, seed).state_dict(), path / WEIGHTS)
            _record(config, f"fold{fold}", sha256, changes.pop("particles_in_record", None)).save(path)
            members.append(Member(f"fold{fold}", config.title, (f"TS_{fold}",), 0.1 * fold, sha256))
        replace(pipeline, members=tuple(members[:validated]), **changes).save(folder / "pipeline.json")
        return folder

    return write


def _record(config, fold, sha256, particles):
    return MemberRecord(
        fold=fold,
        network=config,
        particles=particles or tuple(p.name for p in COMPETITION_PARTICLES),
        stride=2,
        voxel_A=10.0,
        normalisation=Normalisation(),
        training_runs=("TS_9",),
        validation_runs=("TS_1",),
        data_root="data",
        data_sha256="0" * 64,
        recipe_sha256="0" * 64,
        weights_sha256=sha256,
        recipe="demo",
        tomopoint="0.1.0",
        epochs=1,
        steps=1,
        kept="last",
        seconds=1.0,
        device="cpu",
        precision="fp32",
    )
