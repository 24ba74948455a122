"""Recipes: read by name or path, strict about names and values, the same after a round trip."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopoint.data.folds import make_folds
from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network
from tomopoint.training.checkpoints import load_record
from tomopoint.training.options.crops import AugmentationOptions
from tomopoint.training.options.fitting import FitOptions, OptimiserOptions
from tomopoint.training.recipe import NetworkRecipe, Recipe
from tomopoint.training.recipe_files import differences, load_recipe, recipe_from_dict, recipes_folder

NAMES = (
    *("default", "demo", "demo-quick", "demo-scratch", "narrow", "narrow-segmentation", "picker"),
    *("winner", "winner-miniature", "winner-segmentation"),
)
STORED = Path(__file__).parent / "stored"
"""Recipes and records of finished members as earlier versions wrote them, one folder each."""


@pytest.mark.parametrize("name", NAMES)
def test_named_recipes_load_and_suit_their_crops(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        assert all(build_network(config, 6, stride=2).n_classes == 6 for config in recipe.networks)


def test_the_recipes_of_the_documents_load(tmp_path):
    page = recipes_folder().parent / "docs" / "training.md"
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yaml").write_text(block)
        load_recipe(str(tmp_path / f"{number}.yaml"))


def test_every_recipe_file_is_tested():
    assert {path.stem for path in recipes_folder().glob("*.yaml")} == set(NAMES)


def assert_reads_back(recipe, folder):
    recipe.save(folder / "resolved.yaml")
    again = load_recipe(str(folder / "resolved.yaml"))
    assert again == recipe
    assert again.digest == recipe.digest


@pytest.mark.parametrize("name", NAMES)
def test_resolved_recipe_reads_back_equal(name, tmp_path: Path):
    assert_reads_back(load_recipe(name), tmp_path)


@pytest.mark.parametrize(("common", "own"), [("always", "if-better"), ("if-better", "always")])
def test_an_added_option_that_one_network_has_otherwise_reads_back(common, own, tmp_path):
    networks = [{"name": "segresnet"}, {"name": "dynunet", "fit": {"mean_of_best": own}}]
    recipe = recipe_from_dict({"networks": networks, "fit": {"mean_of_best": common}}, "mine.yaml")
    assert [recipe.for_network(i).fit.mean_of_best for i in (0, 1)] == [common, own]
    assert_reads_back(recipe, tmp_path)
    same = [{"name": "segresnet"}, {"name": "dynunet", "fit": {"mean_of_best": common}}]
    assert recipe_from_dict({"networks": same, "fit": {"mean_of_best": common}}, "mine.yaml").digest != recipe.digest


FITS = st.builds(
    FitOptions,
    epochs=st.integers(1, 9),
    keep_best=st.integers(1, 5),
    mean_of_best=st.sampled_from(["if-better", "always"]),
)
NETWORKS = [
    st.builds(
        NetworkRecipe,
        st.just(name),
        augmentation=st.none() | st.builds(AugmentationOptions, erase=st.sampled_from([0.0, 0.25])),
        optimiser=st.none() | st.builds(OptimiserOptions, learning_rate=st.sampled_from([3e-4, 0.5])),
        fit=st.none() | FITS,
    )
    for name in ("segresnet", "dynunet")
]
AUGMENTATIONS = st.builds(AugmentationOptions, erase=st.sampled_from([0.0, 0.25]))


@settings(max_examples=60, deadline=None)
@given(st.builds(Recipe, networks=st.tuples(*NETWORKS), augmentation=AUGMENTATIONS, fit=FITS))
def test_any_recipe_reads_back_equal(recipe):
    again = recipe_from_dict(yaml.safe_load(yaml.safe_dump(recipe.to_dict())), "resolved.yaml")
    assert again == recipe
    assert again.digest == recipe.digest


def test_what_the_command_changes_changes_the_digest():
    recipe = load_recipe("demo")
    again = recipe_from_dict(recipe.to_dict(), "demo")
    assert again.with_fit(epochs=3, precision=None).fit.epochs == 3
    assert again.with_fit(epochs=3).digest != recipe.digest


def test_the_winners_settings():
    recipe = load_recipe("winner")
    segresnet, dynunet = recipe.for_network(0), recipe.for_network(1)
    assert (segresnet.optimiser.learning_rate, segresnet.optimiser.weight_decay) == (1e-4, 0.01)
    assert (dynunet.optimiser.learning_rate, dynunet.optimiser.weight_decay) == (3e-4, 1e-4)
    assert segresnet.crops.size_zyx == (96, 128, 128)
    assert segresnet.crops.jitter == 0
    assert segresnet.fit.averaging == "none"
    assert (dynunet.fit.averaging, dynunet.augmentation.erase_instances) == ("ema", 0.05)
    assert segresnet.augmentation.erase_instances == 0
    assert segresnet.loss.cross_entropy_weight == 0
    lengths = [(own.fit.batch_size, own.fit.steps_per_epoch, own.fit.epochs) for own in (segresnet, dynunet)]
    assert lengths == [(4, 160, 150), (6, 106, 150)]
    for own in (segresnet, dynunet):
        assert (own.fit.score_every, own.fit.keep_best, own.fit.mean_of_best) == (1, 5, "always")
        assert (own.optimiser.betas, own.augmentation.tilt_degrees) == ((0.95, 0.99), 10)


def test_the_winners_segmentation():
    recipe = load_recipe("winner-segmentation")
    assert [fold.validation_runs for fold in make_folds(["TS_1", "TS_2"], recipe.folds)] == [()]
    own = [recipe.for_network(index) for index in range(6)]
    assert [n.resolved().encoder for n in recipe.networks] == ["resnet34"] * 4 + ["efficientnet-b3"] * 2
    asked = [(o.loss.segmentation.particle_weight, o.loss.segmentation.level_weights) for o in own]
    assert asked == [(256, (1.0,))] * 2 + [(64, (1.0, 1.0))] * 2 + [(64, (1.0,))] * 2
    for options in own:
        assert options.fit.steps * options.fit.batch_size == 10 * 970 * 32
        assert (options.optimiser.weight_decay, options.optimiser.warmup_steps, options.optimiser.final_share) == (
            0,
            0,
            0,
        )
        assert options.optimiser.betas == (0.9, 0.999)
        assert (options.augmentation.batch_mixup, options.crops.centred_fraction) == (1, 0)


@pytest.mark.parametrize("name", ["default", "winner", "winner-miniature"])
def test_ten_networks_on_five_folds_of_five_and_two(name):
    recipe = load_recipe(name)
    folds = make_folds([f"TS_{i}" for i in range(7)], recipe.folds)
    assert [(len(fold.training_runs), len(fold.validation_runs)) for fold in folds] == [(5, 2)] * 5
    assert [network.title for network in recipe.networks] == ["segresnet", "dynunet"]


def test_the_miniature_is_the_winner_but_for_its_size():
    winner, small = load_recipe("winner"), load_recipe("winner-miniature")
    own = [(winner.for_network(i).to_dict(), small.for_network(i).to_dict()) for i in (0, 1)]
    changed = {name for large, narrow in own for name in differences(large, narrow)}
    assert changed == {
        "networks",
        "crops.size_zyx",
        "optimiser.learning_rate",
        "optimiser.warmup_steps",
        *(f"fit.{name}" for name in ("batch_size", "ema_decay", "epochs", "precision", "steps_per_epoch")),
        "fit.validation_crops",
    }
    assert (small.for_network(0).fit.averaging, small.for_network(1).augmentation.erase_instances) == ("none", 0.05)


OWN = {
    "networks": [
        {"name": "segresnet", "fit": {"batch_size": 2}, "optimiser": {"learning_rate": 0.5, "betas": [0.1, 0.2]}},
        {"name": "dynunet", "learning_rate": 0.25, "loss": {"assignment": {"topk": 3}}, "augmentation": {"erase": 0.1}},
    ],
    "optimiser": {"weight_decay": 0.125},
    "fit": {"epochs": 7, "batch_size": 9},
    "loss": {"assignment": {"alpha": 2.0}},
}


def test_a_network_may_have_options_of_its_own(tmp_path):
    recipe = recipe_from_dict(OWN, "mine.yaml")
    first, second = recipe.for_network(0), recipe.for_network(1)
    assert (first.fit.batch_size, first.fit.epochs, second.fit.batch_size) == (2, 7, 9)
    assert first.optimiser == OptimiserOptions(0.5, 0.125, (0.1, 0.2))
    assert second.optimiser == OptimiserOptions(0.25, 0.125)
    assert (second.loss.assignment.topk, second.loss.assignment.alpha) == (3, 2.0)
    assert (first.loss.assignment.topk, first.loss.assignment.alpha) == (13, 2.0)
    assert (first.augmentation.erase, second.augmentation.erase) == (0, 0.1)
    # what the command changes, it changes for every network
    assert [recipe.with_fit(epochs=3).for_network(i).fit.epochs for i in (0, 1)] == [3, 3]
    assert recipe.with_fit(epochs=3).for_network(0).fit.batch_size == 2
    recipe.save(tmp_path / "recipe.yaml")
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


def write(folder, name, content):
    (folder / name).write_text(yaml.safe_dump(content))
    return str(folder / name)


def test_a_file_may_change_another_one(tmp_path):
    write(tmp_path, "first.yaml", {**OWN, "folds": [["a"], ["b"]]})
    write(tmp_path, "second.yaml", {"base": "first.yaml", "fit": {"epochs": 2}, "folds": [["c"]]})
    slow = {"name": "segresnet", "init_filters": 8, "learning_rate": 0.125, "fit": {"patience": 4}}
    path = write(tmp_path, "third.yaml", {"base": "second.yaml", "networks": [slow]})
    recipe = load_recipe(path)
    assert [network.title for network in recipe.networks] == ["segresnet"]
    own = recipe.for_network(0)
    assert own.networks[0].init_filters == 8
    assert (own.fit.epochs, own.fit.batch_size, own.fit.patience) == (2, 2, 4)
    assert (own.optimiser.learning_rate, own.optimiser.betas) == (0.125, (0.1, 0.2))
    assert own.folds == (("c",),)
    recipe.save(tmp_path / "resolved.yaml")
    assert "base" not in (tmp_path / "resolved.yaml").read_text()
    assert load_recipe(str(tmp_path / "resolved.yaml")) == recipe


def test_a_named_recipe_may_be_the_base(tmp_path):
    changed = load_recipe(write(tmp_path, "mine.yaml", {"base": "winner", "fit": {"epochs": 3}, "seed": 8}))
    assert differences(changed.to_dict(), load_recipe("winner").to_dict()) == ["fit.epochs", "networks", "seed"]
    assert changed == replace(load_recipe("winner").with_fit(epochs=3), seed=8)


def test_bases_that_lead_nowhere_are_refused(tmp_path):
    path = write(tmp_path, "one.yaml", {"base": "two.yaml"})
    with pytest.raises(TomopointError, match=r"one\.yaml, base: no such recipe file: .*two\.yaml"):
        load_recipe(path)
    write(tmp_path, "two.yaml", {"base": "one.yaml"})
    with pytest.raises(TomopointError, match="circle"):
        load_recipe(path)
    with pytest.raises(TomopointError, match="winner-miniature"):
        load_recipe(write(tmp_path, "three.yaml", {"base": "winer"}))
    with pytest.raises(TomopointError, match="one recipe"):
        load_recipe(write(tmp_path, "four.yaml", {"base": ["winner", "demo"]}))


@pytest.mark.parametrize("upper", [{"networks": [{"name": "segresnet"}]}, {"fit": {"epochs": 2}}, {}])
@pytest.mark.parametrize(
    ("lower", "reason"),
    [
        (["winner"], "the whole must be an object with fields, got ['winner']"),
        ("winner", "the whole must be an object with fields, got 'winner'"),
        ({"networks": 3}, "networks must be a list, got 3"),
        ({"networks": ["dynunet"]}, "networks[0] must be an object with fields, got 'dynunet'"),
    ],
)
def test_a_base_that_holds_no_options_is_refused_by_its_name(upper, lower, reason, tmp_path):
    below = write(tmp_path, "below.yaml", lower)
    above = write(tmp_path, "above.yaml", {"base": "below.yaml", **upper})
    with pytest.raises(TomopointError) as caught:
        load_recipe(above)
    assert str(caught.value) == f"{above}, base: {below}: {reason}"


@pytest.mark.parametrize("folder", sorted(STORED.iterdir()), ids=lambda folder: folder.name)
def test_stored_recipes_and_members_of_earlier_versions_keep_their_identity(folder):
    """An option added since must be marked as such, with the default that is what these versions did."""
    recipe = load_recipe(str(folder / "recipe.yaml"))
    assert differences(yaml.safe_load((folder / "recipe.yaml").read_text()), recipe.to_dict()) == []
    records = [load_record(path.parent) for path in folder.glob("*/*/member.json")]
    assert {record.recipe_sha256 for record in records} == {recipe.digest}
    assert {record.network for record in records} == {n.architecture.resolved() for n in recipe.networks}
    used = recipe.with_fit(mean_of_best="always")
    assert differences(recipe.to_dict(), used.to_dict()) == ["fit.mean_of_best"]
    assert used.digest != recipe.digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, ["unknown field epoch;", "networks", "fit"]),
        ({"fit": {"epoch": 3}}, ["unknown field fit.epoch;", "epochs", "batch_size"]),
        ({"networks": [{"name": "segresnet", "widht": 3}]}, ["unknown field networks[0].widht;", "init_filters"]),
        ({"networks": [{"name": "resnet"}]}, ["resnet", "dynunet"]),
        ({"networks": [{"name": "dynunet"}, {"name": "dynunet"}]}, ["dynunet", "label"]),
        ({"fit": {"precision": "fp8"}}, ["fp8"]),
        ({"crops": {"jitter": 0.7}}, ["jitter", "0.7"]),
        ({"crops": {"size_zyx": [64, 64]}}, ["size_zyx"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"networks": [{"name": "dynunet", "folds": "all"}]}, ["networks[0]", "'folds'", "one for all", "optimiser"]),
        ({"networks": [{"name": "dynunet", "crops": {"tomo_types": ["wbp"]}}]}, ["'crops'", "one for all"]),
        ({"networks": [{"name": "dynunet", "normalisation": {}}]}, ["'normalisation'", "one for all"]),
        ({"networks": [{"name": "dynunet", "particles": []}]}, ["'particles'", "one for all"]),
        ({"networks": [{"name": "dynunet", "fit": {"epoch": 3}}]}, ["unknown field networks[0].fit.epoch;", "epochs"]),
        ({"networks": [{"name": "dynunet", "fit": {"epochs": "many"}}]}, ["epochs"]),
        (
            {"networks": [{"name": "dynunet", "learning_rate": 0.1, "optimiser": {"learning_rate": 0.2}}]},
            ["networks[0]", "0.1", "0.2"],
        ),
        ({"fit": {"mean_of_best": "sometimes"}}, ["mean_of_best", "always"]),
        ({"fit": {"mean_of_best": "always", "keep_best": 0}}, ["mean_of_best", "keep_best"]),
        ({"base": "winner"}, ["unknown field base"]),
        (
            {"particles": [{"name": "a", "radius_A": 9, "weight": 1, "threshold": 0.2, "suppression_A": 9}] * 2},
            ["particles", "differ"],
        ),
        ({"optimiser": {"momentum": 0.5}}, ["momentum has no effect on optimiser 'adamw'"]),
        ({"optimiser": {"name": "sgd", "betas": [0.5, 0.9]}}, ["betas has no effect on optimiser 'sgd'"]),
        ({"optimiser": {"name": "sgd", "momentum": 0.0, "nesterov": True}}, ["nesterov", "momentum"]),
        ({"optimiser": {"name": "lion"}}, ["optimiser.name", "'adamw'", "'adamw-schedulefree'", "'lion'"]),
        ({"optimiser": {"factor": 0.5, "period": 3}}, ["factor, period has no effect on schedule 'cosine'"]),
        ({"optimiser": {"schedule": "step", "final_share": 0.5}}, ["final_share has no effect on schedule 'step'"]),
        ({"optimiser": {"schedule": "step", "factor": 1.5}}, ["factor", "(0, 1)", "1.5"]),
        ({"optimiser": {"name": "adamw-schedulefree"}}, ["'cosine'", "set schedule: constant"]),
        (
            {"optimiser": {"name": "adamw-schedulefree", "schedule": "constant"}},
            ["network 'segresnet'", "fit.averaging to none", "ema"],
        ),
        ({"optimiser": {"schedule": "step"}, "fit": {"averaging": "swa"}}, ["swa", "'step'", "cosine or constant"]),
        ({"optimiser": {"schedule": "one-cycle"}, "fit": {"max_minutes": 9}}, ["'one-cycle'", "max_minutes"]),
        ({"optimiser": {"schedule": "plateau"}, "fit": {"validation_crops": 0}}, ["'plateau'", "validation_crops"]),
        ({"augmentation": {"copy_paste_from": "other"}}, ["copy_paste_from is other", "set copy_paste"]),
        ({"augmentation": {"erase_instances": 1.5}}, ["erase_instances", "[0, 1]"]),
        ({"loss": {"label_smoothing": 0.1}}, ["label_smoothing", "cross_entropy_weight"]),
        ({"loss": {"heatmap_sigma": 0.5}}, ["loss.heatmap_sigma", "'segresnet', 'dynunet'", "focal_alpha"]),
        (
            {"networks": [{"name": "heatmap", "label": "peaks"}], "loss": {"assignment": {"topk": 5}}},
            ["loss.assignment has no effect on network 'peaks'", "focal_gamma, heatmap_sigma"],
        ),
        (
            {"networks": [{"name": "segresnet"}, {"name": "heatmap", "loss": {"l1_weight": 0.5}}]},
            ["loss.l1_weight has no effect on network 'heatmap'"],
        ),
        (
            {"networks": [{"name": "segresnet", "loss": {"heatmap_sigma": 0.5}}, {"name": "heatmap"}]},
            ["loss.heatmap_sigma has no effect on network 'segresnet'"],
        ),
        (["fit"], ["an object with fields"]),
        ({"networks": 3}, ["networks must be a list", "3"]),
        ({"networks": {"segresnet": {"dropout": 0.1}}}, ["networks must be a list", "segresnet"]),
    ],
)
def test_mistakes_are_refused_with_what_is_allowed(content, words):
    with pytest.raises(TomopointError) as caught:
        recipe_from_dict(content, "mine.yaml")
    assert "mine.yaml" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_options_of_the_loss_reach_the_networks_that_can_use_them():
    """One recipe may hold options for a detector and for the heatmap: each is trained with its own."""
    content = {
        "networks": [{"name": "segresnet"}, {"name": "heatmap"}],
        "loss": {"l1_weight": 0.5, "heatmap_sigma": 0.4},
    }
    recipe = recipe_from_dict(content, "mine.yaml")
    detector, heatmap = (recipe.for_network(index).loss for index in (0, 1))
    assert (detector.l1_weight, detector.heatmap_sigma) == (0.5, 0.35)
    assert (heatmap.l1_weight, heatmap.heatmap_sigma) == (0.0, 0.4)


def test_what_one_network_does_is_no_matter_of_the_others():
    """The second is averaged, which the first's optimiser could not be; each recipe alone is legal."""
    free = {"optimiser": {"name": "adamw-schedulefree", "schedule": "constant"}, "fit": {"averaging": "none"}}
    networks = [{"name": "segresnet", **free}, {"name": "dynunet", "fit": {"averaging": "swa"}}]
    recipe = recipe_from_dict({"networks": networks}, "mine.yaml")
    alone = [recipe.for_network(index) for index in (0, 1)]
    assert [(own.optimiser.name, own.fit.averaging) for own in alone] == [
        ("adamw-schedulefree", "none"),
        ("adamw", "swa"),
    ]
    assert [network.title for own in alone for network in own.networks] == ["segresnet", "dynunet"]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": {"name": "sgd", "momentum": 0.8, "nesterov": True, "schedule": "cyclic", "period": 4}},
        {"augmentation": {"copy_paste": 0.5, "copy_paste_from": "other", "mixup_instances": 0.1}},
        {"loss": {"cross_entropy_weight": 1.0, "label_smoothing": 0.1}},
    ],
)
def test_new_options_read_back_and_count_where_they_are_used(changes, tmp_path):
    recipe = recipe_from_dict(changes, "mine.yaml")
    assert_reads_back(recipe, tmp_path)
    part, options = next(iter(changes.items()))
    assert sorted(differences(Recipe().to_dict(), recipe.to_dict())) == sorted(f"{part}.{name}" for name in options)
    assert recipe.digest != Recipe().digest


def test_numbers_are_read_as_people_write_them(tmp_path):
    """YAML 1.1 takes 3e-4 for a text; whole numbers stand for floats, also in what is hashed."""
    path = tmp_path / "mine.yaml"
    path.write_text("optimiser: {learning_rate: 3e-4, weight_decay: 1e-2}\nfit: {max_minutes: 12}\nseed: 7\n")
    recipe = load_recipe(str(path))
    assert (recipe.optimiser.learning_rate, recipe.optimiser.weight_decay, recipe.seed) == (3e-4, 1e-2, 7)
    assert recipe.digest == replace(Recipe(seed=7).with_fit(max_minutes=12.0), optimiser=recipe.optimiser).digest
    path.write_text("optimiser: {learning_rate: 3e}\n")
    with pytest.raises(TomopointError, match="learning_rate must be a finite number, got '3e'"):
        load_recipe(str(path))


def test_unknown_name_lists_the_recipes():
    with pytest.raises(TomopointError, match="winner-miniature"):
        load_recipe("winer")
    with pytest.raises(TomopointError, match="no such recipe file"):
        load_recipe("nowhere.yaml")


def test_crops_that_a_network_cannot_take_are_refused_before_training():
    with pytest.raises(TomopointError, match=r"mine\.yaml: crops\.size_zyx does not suit .* pad it to 64x64x64"):
        recipe_from_dict({"crops": {"size_zyx": [60, 64, 64]}}, "mine.yaml")


def test_differences_name_options():
    one = Recipe()
    other = recipe_from_dict({"fit": {"epochs": 3}, "seed": 4}, "x")
    assert differences(one.to_dict(), other.to_dict()) == ["fit.epochs", "seed"]


def test_yaml_of_the_resolved_recipe_is_plain():
    assert yaml.safe_load(yaml.safe_dump(Recipe().to_dict())) == Recipe().to_dict()
