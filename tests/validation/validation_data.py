"""Small networks on small noise tomograms, as training folders that `tomopoint train` might have left."""

import torch

from tomopoint.networks.build import build_network
from tomopoint.training.checkpoints import WEIGHTS, MemberRecord, save_weights
from tomopoint.training.recipe import NetworkRecipe, Recipe

RUNS = ("TS_1", "TS_2", "TS_3")
SHAPE_ZYX = (20, 40, 36)
VOXEL_A = 10.0124
SEGRESNET = NetworkRecipe("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=8, offset_width=8)
DYNUNET = NetworkRecipe("dynunet", filters=(4, 8, 8), features=8, class_width=8, offset_width=8)
NETWORKS = (SEGRESNET, DYNUNET)
RECIPE_USED = Recipe(networks=NETWORKS, folds="kfold-2")


def write_member(folder, fold, network, seed, validation_runs, root):
    torch.manual_seed(seed)
    module = build_network(network, len(RECIPE_USED.particles), 2)
    with torch.no_grad():
        for name, values in module.named_parameters():
            # Fresh heads say 0.02 everywhere: steeper weights and no prior give maxima above the floor.
            if name.startswith("head") and values.ndim > 1:
                values.normal_(0.0, 0.5)
    record = MemberRecord(
        fold=fold,
        network=network.architecture.resolved(),
        particles=tuple(p.name for p in RECIPE_USED.particles),
        stride=2,
        voxel_A=VOXEL_A,
        normalisation=RECIPE_USED.normalisation,
        training_runs=tuple(name for name in RUNS if name not in validation_runs),
        validation_runs=validation_runs,
        data_root=str(root),
        data_sha256="0",
        recipe_sha256="0",
        weights_sha256=save_weights(module.state_dict(), folder / fold / network.title / WEIGHTS),
        recipe="test",
        tomopoint="0",
        epochs=1,
        steps=1,
        kept="all",
        seconds=0.0,
        device="cpu",
        precision="fp32",
    )
    record.save(folder / fold / network.title)
