"""No option of a recipe is without effect: each, changed alone, changes what a training gives.

The fields are found by introspection, so a new one fails here until :data:`CHANGES` says how it shows. What is compared
is the whole of a small training, from YAML to the weights: an option that is read but never handed on is found, too.
"""

import inspect
from dataclasses import dataclass, field, fields, is_dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from training_data import PARTICLES, write_project

from tomopoint.data.project import Run
from tomopoint.data.stores import write_tomogram
from tomopoint.networks import config
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.training import recipe
from tomopoint.training.checkpoints import CANDIDATES
from tomopoint.training.crops.tomograms import read_tomograms
from tomopoint.training.fit import fit_member
from tomopoint.training.machine import Machine
from tomopoint.training.options import crops, fitting, losses
from tomopoint.training.plan import make_plan
from tomopoint.training.recipe_files import recipe_from_dict

PLACES = {
    "Recipe": (),
    "NetworkRecipe": ("networks", 0),
    "CropOptions": ("crops",),
    "AugmentationOptions": ("augmentation",),
    "LossOptions": ("loss",),
    "AssignmentOptions": ("loss", "assignment"),
    "SegmentationOptions": ("loss", "segmentation"),
    "OptimiserOptions": ("optimiser",),
    "FitOptions": ("fit",),
}
"""Where the options of each dataclass stand in a recipe."""

SHAPE_ZYX = (32, 40, 40)

SEGRESNET = {"name": "segresnet", "init_filters": 4, "blocks_down": [1, 1, 1], "norm_groups": 2, "dropout": 0.0}
HEADS = {"class_width": 4, "offset_width": 4}
DYNUNET = {"name": "dynunet", "filters": [4, 4, 6], "features": 4, **HEADS}
UNET = {"name": "unet", "filters": [4, 6, 8]}
FLEXIBLE = {"name": "flexible-unet", "width": 0.125, "filters": [8, 8, 4, 4, 4]}
HEATMAP = {**SEGRESNET, "name": "heatmap", "class_width": 4}

BASE = {
    "networks": [{**SEGRESNET, **HEADS}],
    "folds": "kfold-3",
    "particles": [vars(particle) for particle in PARTICLES],
    "crops": {"size_zyx": [16, 16, 16], "jitter": 0.1},
    "augmentation": {
        **dict.fromkeys(("rotation_degrees", "tilt_degrees", "scale", "resample_probability"), 0.0),
        **dict.fromkeys(("flips", "quarter_turns"), False),
    },
    "loss": {},
    "optimiser": {"learning_rate": 0.01, "warmup_steps": 0},
    "fit": {
        **{"epochs": 2, "steps_per_epoch": 1, "batch_size": 2, "precision": "fp32", "averaging": "none"},
        **{"keep_best": 1, "validation_crops": 2},
    },
}
"""A training of two steps, of crops as they are."""


@dataclass(frozen=True)
class Change:
    """What shows an option: its value in a second training, and what both have beside :data:`BASE`.

    Attributes
    ----------
    to
        The other value.
    on
        Options of both trainings, by dotted name.
    also
        What the other value cannot be without.
    """

    to: object
    on: dict = field(default_factory=dict)
    also: dict = field(default_factory=dict)


RESAMPLED = {"augmentation.resample_probability": 1.0}
TURNED = {"augmentation.rotation_degrees": 30.0}
OF_DYNUNET = {"networks": [DYNUNET]}
OF_HEATMAP = {"networks": [HEATMAP]}
OF_UNET = {"networks": [UNET]}
OF_FLEXIBLE = {"networks": [FLEXIBLE], "crops.size_zyx": [32, 32, 64]}
OF_TWO_LEVELS = {
    **{"networks": [{**FLEXIBLE, "levels": 2}], "crops.size_zyx": [32, 32, 64]},
    "loss.segmentation.level_weights": [1.0, 1.0],
}
CENTRED = {"crops.centred_fraction": 1.0}
OF_SGD = {"optimiser.name": "sgd"}
STARTS = {"networks.0.pretrained": "backbone.safetensors"}
CHANGES = {
    "Recipe.networks": Change([{**SEGRESNET, **HEADS}, DYNUNET]),
    "Recipe.folds": Change("kfold-2"),
    "Recipe.particles": Change([vars(particle) for particle in reversed(PARTICLES)]),
    "Recipe.normalisation": Change({"clip_sd": 1.0}),
    "Recipe.seed": Change(1),
    "Recipe.stride": Change(1),
    "NetworkRecipe.name": Change("dynunet-residual", OF_DYNUNET),
    "NetworkRecipe.init_filters": Change(8),
    "NetworkRecipe.blocks_down": Change([1, 2, 1]),
    "NetworkRecipe.norm_groups": Change(1),
    "NetworkRecipe.filters": Change([4, 4, 8], OF_DYNUNET),
    "NetworkRecipe.features": Change(6, OF_DYNUNET),
    "NetworkRecipe.class_width": Change(6),
    "NetworkRecipe.offset_width": Change(6),
    "NetworkRecipe.dropout": Change(0.5),
    "NetworkRecipe.pretrained": Change("backbone.safetensors"),
    "NetworkRecipe.learning_rate": Change(0.001),
    "NetworkRecipe.label": Change("other"),
    "NetworkRecipe.encoder": Change("efficientnet-b3", OF_FLEXIBLE),
    "NetworkRecipe.width": Change(0.25, OF_FLEXIBLE),
    "NetworkRecipe.levels": Change(1, OF_TWO_LEVELS, also={"loss.segmentation.level_weights": [1.0]}),
    "NetworkRecipe.augmentation": Change({"noise": 1.0}),
    "NetworkRecipe.loss": Change({"focal_alpha": 0.1}),
    "NetworkRecipe.optimiser": Change({"weight_decay": 0.5}),
    "NetworkRecipe.fit": Change({"epochs": 1}),
    "CropOptions.size_zyx": Change([16, 16, 24]),
    "CropOptions.centred_fraction": Change(1.0),
    "CropOptions.class_balance": Change(0.0, {"crops.centred_fraction": 1.0}),
    "CropOptions.jitter": Change(0.4),
    "CropOptions.tomo_types": Change(["wbp"]),
    "AugmentationOptions.rotation_degrees": Change(30.0, RESAMPLED),
    "AugmentationOptions.tilt_degrees": Change(10.0, RESAMPLED),
    "AugmentationOptions.scale": Change(0.1, RESAMPLED),
    "AugmentationOptions.resample_probability": Change(1.0, TURNED),
    "AugmentationOptions.flips": Change(True),
    "AugmentationOptions.quarter_turns": Change(True),
    "AugmentationOptions.gain": Change(0.2),
    "AugmentationOptions.shift": Change(0.2),
    "AugmentationOptions.noise": Change(0.5),
    "AugmentationOptions.mixup": Change(1.0),
    "AugmentationOptions.copy_paste": Change(1.0, {"crops.size_zyx": [40, 40, 256]}),
    "AugmentationOptions.copy_paste_from": Change(
        "other", {"crops.size_zyx": [40, 40, 256], "augmentation.copy_paste": 1.0}
    ),
    "AugmentationOptions.mixup_instances": Change(1.0, CENTRED),
    "AugmentationOptions.erase": Change(1.0),
    "AugmentationOptions.batch_mixup": Change(1.0, OF_UNET),
    "AugmentationOptions.erase_instances": Change(1.0, CENTRED),
    "LossOptions.classification": Change("focal"),
    "LossOptions.focal_alpha": Change(0.1),
    "LossOptions.focal_gamma": Change(1.0),
    "LossOptions.cross_entropy_weight": Change(1.0),
    "LossOptions.l1_weight": Change(1.0),
    "LossOptions.label_smoothing": Change(0.3, {"loss.cross_entropy_weight": 1.0}),
    "LossOptions.heatmap_sigma": Change(0.7, OF_HEATMAP),
    "SegmentationOptions.loss": Change("dice", OF_UNET),
    "SegmentationOptions.particle_weight": Change(64.0, OF_UNET),
    "SegmentationOptions.sphere_radii": Change(0.5, OF_UNET),
    "SegmentationOptions.tversky_beta": Change(0.5, {**OF_UNET, "loss.segmentation.loss": "tversky"}),
    "SegmentationOptions.level_weights": Change([1.0, 0.5], OF_TWO_LEVELS),
    "AssignmentOptions.alpha": Change(0.0),
    "AssignmentOptions.beta": Change(1.0),
    "AssignmentOptions.topk": Change(1),
    "AssignmentOptions.min_anchor_similarity": Change(0.8),
    "OptimiserOptions.learning_rate": Change(0.001),
    "OptimiserOptions.weight_decay": Change(0.5),
    "OptimiserOptions.betas": Change([0.5, 0.99]),
    "OptimiserOptions.warmup_steps": Change(3),
    "OptimiserOptions.final_share": Change(0.9),
    "OptimiserOptions.clip_norm": Change(1e-4),
    "OptimiserOptions.accumulate": Change(2),
    "OptimiserOptions.backbone_rate": Change(0.1),
    "OptimiserOptions.head_rate": Change(0.1),
    "OptimiserOptions.name": Change("radam"),
    "OptimiserOptions.momentum": Change(0.5, OF_SGD),
    "OptimiserOptions.nesterov": Change(True, OF_SGD),
    "OptimiserOptions.schedule": Change("one-cycle"),
    "OptimiserOptions.period": Change(3, {"optimiser.schedule": "cyclic"}),
    "OptimiserOptions.factor": Change(0.5, {"optimiser.schedule": "step", "optimiser.period": 1}),
    "OptimiserOptions.freeze": Change("backbone", STARTS),
    "OptimiserOptions.freeze_steps": Change(1, {**STARTS, "optimiser.freeze": "backbone"}),
    "FitOptions.epochs": Change(1),
    "FitOptions.steps_per_epoch": Change(2),
    "FitOptions.batch_size": Change(1),
    "FitOptions.precision": Change("bf16"),
    "FitOptions.averaging": Change("ema"),
    "FitOptions.ema_decay": Change(0.05, {"fit.averaging": "ema"}),
    "FitOptions.keep_best": Change(0),
    "FitOptions.patience": Change(1, {"fit.min_improvement": 1e9, "fit.epochs": 3}),
    "FitOptions.min_improvement": Change(1e9, {"fit.patience": 1, "fit.epochs": 3, "optimiser.learning_rate": 1e-3}),
    "FitOptions.score_every": Change(1),
    "FitOptions.validation_crops": Change(3),
    "FitOptions.max_minutes": Change(1e-9),
    "FitOptions.mean_of_best": Change("always", {"fit.keep_best": 2}),
}
"""For every option one change that must show."""


def option_names():
    """Return ``Class.field`` of every option, from the dataclasses themselves."""
    modules = (recipe, crops, losses, fitting, config)
    found = [cls for module in modules for _, cls in inspect.getmembers(module, is_dataclass)]
    own = {cls.__name__: cls for cls in found if cls.__module__ in {module.__name__ for module in modules}}
    del own["NetworkConfig"]  # NetworkRecipe has its fields
    assert own.keys() == PLACES.keys(), "say in PLACES where the options of a new dataclass stand"
    for name, cls in own.items():
        for option in fields(cls):
            if (
                name == "NetworkRecipe" or (*PLACES[name], option.name) not in PLACES.values()
            ):  # its fields are looked at
                yield f"{name}.{option.name}"


NAMES = list(option_names())


def changed(content, places, value):
    """Return nested lists and mappings with the value at one place replaced."""
    if not places:
        return value
    first, *rest = places
    if isinstance(content, list):
        return [changed(item, rest, value) if index == first else item for index, item in enumerate(content)]
    return {**content, first: changed(content.get(first, {}), rest, value)}


def with_options(content, options):
    """Return a recipe with options replaced, by dotted name."""
    for dotted, value in options.items():
        content = changed(content, [int(word) if word.isdigit() else word for word in dotted.split(".")], value)
    return content


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a project with two reconstructions, and weights of a backbone beside it."""
    root = write_project(tmp_path_factory.mktemp("project"), shape=SHAPE_ZYX)
    for index in range(3):
        noise = np.random.default_rng(index).standard_normal(SHAPE_ZYX).astype(np.float32)
        write_tomogram(Run(f"TS_{index}", "train", root).tomogram_path("wbp"), noise * 1e-5, levels=1)
    torch.manual_seed(1)
    network = build_network(NetworkConfig(**{**SEGRESNET, **HEADS, "blocks_down": (1, 1, 1)}), len(PARTICLES), stride=2)
    save_file(network.backbone.state_dict(), root / "backbone.safetensors")
    return root


@pytest.fixture(scope="module")
def outcome(data, tmp_path_factory):
    """Train by a recipe; return all that it gives but its seconds. What was trained once is not trained again."""
    known = {}

    def train(content):
        made = recipe_from_dict(content, "test", PARTICLES)
        if made.digest not in known:
            folder = tmp_path_factory.mktemp("trained")
            plan = make_plan(made, "test", data, folder)
            task = plan.tasks[0]
            tomograms = read_tomograms(plan.records, made)
            result = fit_member(task, {name: tomograms[name] for name in task.fold.runs}, Machine("cpu", curves="none"))
            metrics = (task.folder / "metrics.csv").read_text().splitlines()
            seconds = metrics[0].split(",").index("seconds")
            known[made.digest] = {
                "members": [(member.label, member.fold.runs) for member in plan.tasks],
                "metrics": [[*row.split(",")[:seconds], *row.split(",")[seconds + 1 :]] for row in metrics],
                "weights": {name: tensor.double().numpy().tobytes() for name, tensor in result.weights.items()},
                "candidates": sorted(path.name for path in (task.folder / CANDIDATES).glob("*")),
                "kept": (result.kept, result.epochs, result.steps, result.precision),
            }
        return known[made.digest]

    return train


def test_every_option_has_a_change_and_every_change_an_option():
    assert sorted(CHANGES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_changes_what_a_training_gives(name, outcome, data, monkeypatch):
    monkeypatch.chdir(data)  # `pretrained` is found from where the command runs
    change = CHANGES[name]
    cls, _, option = name.partition(".")
    content = with_options(BASE, change.on)
    assert outcome(content) != outcome(with_options(changed(content, [*PLACES[cls], option], change.to), change.also))


def test_the_same_recipe_gives_the_same(outcome, data, monkeypatch):
    """Else every option would seem to have an effect."""
    monkeypatch.chdir(data)
    first = outcome(BASE)
    again = outcome({**BASE, "networks": [{**BASE["networks"][0], "learning_rate": 0.01}]})  # the same in other words
    assert again == first
