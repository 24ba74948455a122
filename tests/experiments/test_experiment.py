"""Experiments as files: what is read, what is refused before anything is trained, equal lengths."""

from pathlib import Path

import pytest
import yaml
from training_data import PARTICLES

from tomopoint.errors import TomopointError
from tomopoint.experiments.experiment import (
    ENDLESS_EPOCHS,
    Material,
    load_experiment,
    nearest_divisor,
    variant_recipes,
)
from tomopoint.experiments.search import check_space
from tomopoint.experiments.space import changes_of
from tomopoint.pipeline import COMPETITION_PARTICLES
from tomopoint.training.recipe_files import differences, load_recipe


def material(path):
    return Material(load_experiment(path), path, PARTICLES)


def test_variants_are_the_base_but_for_what_they_change(write):
    path = write(
        variants={"fast": {"optimiser": {"learning_rate": 0.1}}, "focal": {"loss": {"classification": "focal"}}}
    )
    recipes = variant_recipes(material(path))
    assert list(recipes) == ["base", "fast", "focal"]
    base = recipes["base"].to_dict()
    assert differences(base, recipes["fast"].to_dict()) == ["optimiser.learning_rate"]
    assert differences(base, recipes["focal"].to_dict()) == ["loss.classification"]
    assert recipes["base"] == load_recipe(str(path.with_name("tiny.yaml")), PARTICLES)


def test_steps_are_equal_whatever_the_recipes_say(write):
    variants = {
        "short": {"fit": {"steps_per_epoch": 7, "patience": 3}},
        "own": {"networks": [{"name": "segresnet", "fit": {"steps_per_epoch": 100, "batch_size": 1}}]},
    }
    recipes = variant_recipes(material(write(variants=variants, steps=48)))
    lengths = {name: recipe.for_network(0).fit for name, recipe in recipes.items()}
    assert {fit.steps for fit in lengths.values()} == {48}
    assert {name: fit.steps_per_epoch for name, fit in lengths.items()} == {"base": 8, "short": 6, "own": 48}
    assert {fit.patience for fit in lengths.values()} == {0}


def test_baselines_take_the_folds_of_the_base_and_keep_their_own_length(write):
    path = write(baselines={"slices": {"base": "detector", "fit": {"steps": 7}}}, steps=48)
    own = material(path)
    recipes = variant_recipes(own)
    assert list(recipes) == ["base"]
    slices = own.baseline("slices", recipes["base"])
    assert (slices.method, slices.folds, slices.fit.steps) == ("detector", "kfold-3", 7)
    assert slices.particles == PARTICLES
    assert "steps of their own" in own.experiment.length


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"baselines": {"base": {"base": "detector"}}}, "baselines: a name must be"),
        ({"baselines": {"fast": {}}, "variants": {"fast": {}}}, "not that of a variant; got 'fast'"),
        ({"baselines": {"slices": "detector"}}, "baselines.slices must be a recipe"),
        ({"baselines": {"slices": {"base": "detector", "folds": "all"}}}, "folds are those of the base"),
        ({"baselines": {"slices": {"base": "detector", "particles": ["large"]}}}, "particles are those of the base"),
        ({"baselines": {"slices": {"base": "narrow"}}}, "baselines.slices, base: unknown baseline 'narrow'"),
        ({"baselines": {"slices": {"base": "detector", "seeds": 1}}}, "unknown field seeds"),
    ],
)
def test_what_is_wrong_with_a_baseline_is_named(write, content, message):
    def read():
        own = material(write(**content))
        return own.baseline("slices", own.base())

    with pytest.raises(TomopointError, match=message):
        read()


def test_minutes_are_equal_and_epochs_do_not_end_a_training(write):
    path = write(variants={"fast": {"optimiser": {"learning_rate": 0.1}}}, minutes=2.5)
    for recipe in variant_recipes(material(path)).values():
        assert (recipe.fit.max_minutes, recipe.fit.epochs) == (2.5, ENDLESS_EPOCHS)


@pytest.mark.parametrize(
    ("whole", "wanted", "found"), [(48, 10, 8), (48, 11, 12), (97, 10, 1), (97, 60, 97), (100, 100, 100), (36, 5, 4)]
)
def test_the_nearest_divisor(whole, wanted, found):
    assert whole % found == 0
    assert nearest_divisor(whole, wanted) == found


OVERRULED = {"networks": [{"name": "segresnet", "learning_rate": 0.01}]}
FAST = {"optimiser": {"learning_rate": 0.1}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"variants": {"same": {"optimiser": {"learning_rate": 0.03}}}}, "variants.same changes nothing"),
        ({"variants": {"empty": {}}}, "variants.empty changes nothing"),
        ({"variants": {"seed": {"seed": 5}}}, "variants.seed changes nothing"),
        ({"variants": {"longer": {"fit": {"epochs": 9}}}, "steps": 40}, "variants.longer changes nothing"),
        ({"variants": {"a": FAST, "b": FAST}}, "variants.b trains the same as variants.a"),
        ({"variants": {"a": FAST, "b": {"networks": [{"name": "segresnet", "learning_rate": 0.1}]}}}, "the same"),
        ({"variants": {"typo": {"optimiser": {"learning_rat": 0.1}}}}, "variants.typo: unknown field.*learning_rat"),
        ({"variants": {"bad": {"crops": {"jitter": 2}}}}, "variants.bad: jitter must lie in"),
        ({"variants": {"base": FAST}}, "not 'base'"),
        ({"variants": {"a/b": FAST}}, "a plain name"),
        ({"variants": {"a": 3}}, "variants.a must say what it changes"),
        ({"variants": {"a": {"base": "demo"}}}, "`base` is said already"),
        ({"variants": {}}, "no `variants`"),
        ({"base": "nothing", "variants": {"a": FAST}}, "unknown recipe 'nothing'"),
        ({"seeds": []}, "seeds must be different numbers"),
        ({"seeds": [1, 1]}, "seeds must be different numbers"),
        ({"folds": [-1]}, "folds must be different numbers"),
        ({"steps": 4, "minutes": 1}, "exclude each other"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"minutes": 0}, "minutes must be positive"),
        ({"varients": {}}, "unknown field varients"),
        ({"variants": {"a": {"optimiser": {"schedule": "one-cycle"}}}, "minutes": 1}, "variants.a.*one-cycle"),
    ],
)
def test_what_makes_no_comparison_is_refused(write, content, message):
    with pytest.raises(TomopointError, match=message):
        variant_recipes(material(write(**content)))


def test_a_variant_that_the_networks_overrule_is_refused(write, tmp_path):
    (tmp_path / "own.yaml").write_text("base: tiny.yaml\nnetworks: [{name: segresnet, learning_rate: 0.01}]\n")
    path = write(base="own.yaml", variants={"fast": FAST})
    with pytest.raises(TomopointError, match=r"variants\.fast changes nothing.*under `networks`"):
        variant_recipes(material(path))
    with pytest.raises(TomopointError, match=r"space\.optimiser\.learning_rate changes no network's training"):
        check_space(material(write(base="own.yaml", space={"optimiser.learning_rate": {"float": [0.1, 0.2]}})))
    check_space(material(write(base="own.yaml", space={"networks.segresnet.learning_rate": {"float": [0.1, 0.2]}})))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "no `space`"),
        ({"optimiser.learning_rate": {"log": [1, 2]}}, "say one of"),
        ({"optimiser.learning_rate": {"float": [1, 2], "int": [1, 2]}}, "say one of"),
        ({"optimiser.learning_rate": {"float": [0.2, 0.1]}}, "from a lower end to a higher one"),
        ({"optimiser.learning_rate": {"log-float": [0, 0.1]}}, "lower end above 0"),
        ({"fit.batch_size": {"int": [1, 2.5]}}, "int needs two whole numbers"),
        ({"crops.jitter": {"choice": [0.1]}}, "two different values"),
        ({"crops.jitter": {"float": [0.1, 0.9]}}, r"space\.crops\.jitter: 0\.9: jitter must lie in"),
        ({"crops.jiter": {"float": [0.1, 0.9]}}, "unknown field crops.jiter"),
        ({"networks.dynunet.dropout": {"float": [0, 0.2]}}, "there are segresnet"),
        ({"seed": {"int": [0, 4]}}, "changes no network's training"),
    ],
)
def test_what_makes_no_search_is_refused(write, space, message):
    with pytest.raises(TomopointError, match=message):
        check_space(material(write(space=space)))


def test_dotted_names_become_a_recipes_own_form():
    recipe = load_recipe("winner-miniature")
    options = {"fit.ema_decay": 0.9, "networks.dynunet.optimiser.learning_rate": 0.5, "loss.assignment.topk": 3}
    changes = changes_of(options, recipe.networks)
    assert changes == {
        "fit": {"ema_decay": 0.9},
        "networks": [{"name": "segresnet"}, {"name": "dynunet", "optimiser": {"learning_rate": 0.5}}],
        "loss": {"assignment": {"topk": 3}},
    }


EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_the_examples_of_the_documents_are_experiments():
    compared = Material(load_experiment(EXAMPLES / "compare.yaml"), EXAMPLES / "compare.yaml", COMPETITION_PARTICLES)
    assert list(variant_recipes(compared)) == ["base", "focal", "closer", "copy-paste"]
    searched = Material(load_experiment(EXAMPLES / "search.yaml"), EXAMPLES / "search.yaml", COMPETITION_PARTICLES)
    check_space(searched)
    assert searched.base().fit.score_every == 1
    page = (EXAMPLES.parent / "experiments.md").read_text()
    names = [part.partition("\n```")[0] for part in page.split("```yaml\n")[1:]]
    assert len(names) == 2
    for content in names:
        assert yaml.safe_load(content)["base"] in ("narrow", "narrow-scored.yaml")
