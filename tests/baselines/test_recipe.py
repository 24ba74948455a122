"""Recipes of baselines: strict, on top of each other, and those that come along."""

import pytest
import yaml

from tomopoint.baselines.recipe import BaselineRecipe
from tomopoint.baselines.recipe_files import baseline_from_dict, load_baseline
from tomopoint.errors import TomopointError
from tomopoint.training.recipe_files import load_recipe, recipes_folder
from tomopoint.validation.ensemble_folder import load_ensemble

CROPS = {"crops": {"size_zyx": [5, 64, 64]}}


def test_named_recipes_load_and_are_stored_whole(tmp_path):
    names = sorted(path.stem for path in (recipes_folder() / "baselines").glob("*.yaml"))
    assert names == ["detector", "segmenter"]
    for name in names:
        recipe = load_baseline(name)
        assert recipe.method == name
        recipe.save(tmp_path / "whole.yaml")
        assert load_baseline(str(tmp_path / "whole.yaml")) == recipe


def test_a_file_changes_its_base(tmp_path):
    path = tmp_path / "constant.yaml"
    path.write_text(yaml.safe_dump({"base": "detector", "detector": {"box": "constant"}, "particles": ["ribosome"]}))
    recipe = load_baseline(str(path))
    assert (recipe.detector.box, recipe.detector.loss, recipe.crops) == (
        "constant",
        "bce",
        load_baseline("detector").crops,
    )
    assert [particle.name for particle in recipe.particles] == ["ribosome"]
    path.write_text(yaml.safe_dump({"base": "constant.yaml"}))
    with pytest.raises(TomopointError, match="leads back to itself"):
        load_baseline(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": "oracle"}, "method"),
        ({"method": "detector", "boxes": 1}, "unknown field boxes"),
        ({"method": "detector", "crops": {"size_zyx": [4, 64, 64]}}, "odd number of slices, got 4"),
        ({"method": "detector", "crops": {"size_zyx": [5, 64, 56]}}, "multiples of 16"),
        ({"method": "segmenter", "crops": {"size_zyx": [5, 64, 60]}}, "multiples of 8"),
        ({"method": "detector", "segmenter": {"level": 0.5}}, "`segmenter` have no effect on method 'detector'"),
        ({"method": "segmenter", "detector": {"box": "constant"}}, "`detector` have no effect"),
        ({"method": "detector", "augmentation": {"copy_paste": 0.5}}, "copy_paste"),
        ({"method": "detector", "detector": {"features": 12}}, "multiple of 8, got 12"),
        ({"method": "detector", "fit": {"steps": 0}}, "steps must be at least 1"),
    ],
)
def test_what_is_wrong_is_named(content, message):
    with pytest.raises(TomopointError, match=message):
        baseline_from_dict({**CROPS, **content}, "it")


def test_unknown_names_list_the_recipes():
    with pytest.raises(TomopointError, match="there are detector, segmenter"):
        load_baseline("fcos")


def test_the_method_decides_the_sphere():
    assert baseline_from_dict({"method": "detector", **CROPS}, "it").radius_factor == 1.0
    assert baseline_from_dict({"method": "segmenter", **CROPS}, "it").radius_factor == 0.7
    assert isinstance(load_baseline("segmenter"), BaselineRecipe)


def test_a_recipe_that_was_given_to_the_other_command_names_the_right_one(tmp_path):
    folder = tmp_path / "slices"
    load_baseline("detector").save(folder / "recipe.yaml")
    with pytest.raises(
        TomopointError, match=r"slices/recipe\.yaml is the recipe of a 2-D baseline, which `tomopoint b"
    ):
        load_ensemble([folder])  # as validate and export do
    load_recipe("narrow").save(tmp_path / "narrow.yaml")
    with pytest.raises(
        TomopointError, match=r"narrow\.yaml is a recipe of 3-D networks; train it with `tomopoint train"
    ):
        load_baseline(str(tmp_path / "narrow.yaml"))
