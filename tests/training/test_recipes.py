"""Recipes: read by name or path, strict about names and values, the same after a round trip."""

from pathlib import Path

import pytest
import yaml

from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network
from tomopoint.training.fit import check_sizes
from tomopoint.training.recipe_files import differences, load_recipe, recipe_from_dict, recipes_folder
from tomopoint.training.recipes import Recipe

NAMES = ("default", "demo", "demo-quick", "winner-segresnet", "winner-dynunet")


@pytest.mark.parametrize("name", NAMES)
def test_named_recipes_load_and_suit_their_crops(name):
    recipe = load_recipe(name)
    check_sizes(recipe)
    assert all(build_network(config, 6).n_classes == 6 for config in recipe.networks)


def test_every_recipe_file_is_tested():
    assert {path.stem for path in recipes_folder().glob("*.yaml")} == set(NAMES)


def test_resolved_recipe_reads_back_equal(tmp_path: Path):
    recipe = load_recipe("demo")
    recipe.save(tmp_path / "recipe.yaml")
    again = load_recipe(str(tmp_path / "recipe.yaml"))
    assert again == recipe
    assert again.digest == recipe.digest
    assert again.with_fit(epochs=3, precision=None).fit.epochs == 3
    assert again.with_fit(epochs=3).digest != recipe.digest


def test_the_winners_settings():
    segresnet, dynunet = load_recipe("winner-segresnet"), load_recipe("winner-dynunet")
    assert (segresnet.optimiser.learning_rate, segresnet.optimiser.weight_decay) == (1e-4, 0.01)
    assert (dynunet.optimiser.learning_rate, dynunet.optimiser.weight_decay) == (3e-4, 1e-4)
    assert segresnet.crops.size_zyx == (96, 128, 128)
    assert segresnet.crops.jitter == 0
    assert segresnet.fit.averaging == "none"
    assert (dynunet.fit.averaging, dynunet.augmentation.erase) == ("ema", 0.05)
    assert segresnet.loss.cross_entropy_weight == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, ["'epoch'", "networks", "fit"]),
        ({"fit": {"epoch": 3}}, ["'epoch'", "epochs", "batch_size"]),
        ({"networks": [{"name": "segresnet", "widht": 3}]}, ["networks[0]", "'widht'", "init_filters"]),
        ({"networks": [{"name": "resnet"}]}, ["resnet", "dynunet"]),
        ({"networks": [{"name": "dynunet"}, {"name": "dynunet"}]}, ["dynunet", "label"]),
        ({"fit": {"precision": "fp8"}}, ["fp8"]),
        ({"crops": {"jitter": 0.7}}, ["jitter", "0.7"]),
        ({"crops": {"size_zyx": [64, 64]}}, ["size_zyx"]),
        ({"seed": -1}, ["seed", "-1"]),
        (
            {"particles": [{"name": "a", "radius_A": 9, "weight": 1, "threshold": 0.2, "suppression_A": 9}] * 2},
            ["particles", "differ"],
        ),
        (["fit"], ["name: value"]),
    ],
)
def test_mistakes_are_refused_with_what_is_allowed(content, words):
    with pytest.raises(TomopointError) as caught:
        recipe_from_dict(content, "mine.yaml")
    assert "mine.yaml" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_unknown_name_lists_the_recipes():
    with pytest.raises(TomopointError, match="winner-dynunet"):
        load_recipe("winer")
    with pytest.raises(TomopointError, match="no such recipe file"):
        load_recipe("nowhere.yaml")


def test_crops_that_a_network_cannot_take_are_refused_before_training():
    recipe = recipe_from_dict({"crops": {"size_zyx": [60, 64, 64]}}, "mine.yaml")
    with pytest.raises(TomopointError, match=r"crops\.size_zyx"):
        check_sizes(recipe)


def test_differences_name_options():
    one = Recipe()
    other = recipe_from_dict({"fit": {"epochs": 3}, "seed": 4}, "x")
    assert differences(one.to_dict(), other.to_dict()) == ["fit.epochs", "seed"]


def test_yaml_of_the_resolved_recipe_is_plain():
    assert yaml.safe_load(yaml.safe_dump(Recipe().to_dict())) == Recipe().to_dict()
