"""What is said about the length of a run, against sums done by hand."""

from tomopoint.training.forecast import Forecast, Workload
from tomopoint.training.recipe_files import load_recipe, recipe_from_dict


def of(recipe, folds=5):
    members = []
    for fold in range(folds):
        for index, network in enumerate(recipe.networks):
            label = f"fold{fold}/{network.title}"
            members.append(Workload.of(recipe.for_network(index), label, network.title))
    return members


def rows(*seconds, scored=()):
    return [{"seconds": float(s), **({"score": 0.5} if i in scored else {})} for i, s in enumerate(seconds)]


def test_networks_epochs_and_steps_are_announced():
    text = Forecast(of(load_recipe("winner"))).announcement()
    assert "10 of 10 networks" in text
    assert "5 x segresnet (150 epochs of 160 steps of 4 crops)" in text
    assert "5 x dynunet (150 epochs of 106 steps of 6 crops)" in text
    assert f"{5 * 150 * (160 + 106)} steps in all" in text


def test_a_time_limit_is_announced_in_hours():
    recipe = recipe_from_dict({"fit": {"max_minutes": 30.0}}, "mine.yaml")
    assert "at most 4.5 h in all" in Forecast(of(recipe), finished=["fold0/segresnet"]).announcement()


RECIPE = recipe_from_dict(
    {
        "networks": [{"name": "segresnet"}, {"name": "dynunet", "fit": {"batch_size": 6, "steps_per_epoch": 50}}],
        "fit": {"epochs": 10, "steps_per_epoch": 100, "batch_size": 4},
    },
    "mine.yaml",
)


def test_bare_steps_are_projected_over_all_members():
    forecast = Forecast(of(RECIPE))
    assert not forecast.knows("fold1/segresnet")
    text = forecast.after_steps("fold0/segresnet", 3.6).text
    assert forecast.knows("fold1/segresnet")
    assert not forecast.knows("fold0/dynunet")
    # 1000 steps of 3.6 s are 1 h; a DynUNet costs the same per crop, 3000 crops of 4000: 0.75 h. Five of each.
    assert "is member 1 of 10, 3.6 s per step: about 60 min more for this one, 8.8 h for all that is left" in text


def test_measured_epochs_replace_guesses_member_by_member():
    forecast = Forecast(of(RECIPE))
    # The first epoch starts things up and does not count where there are others: 360 s each.
    text = forecast.after_epoch("fold0/segresnet", rows(500, 860)).text
    assert "3.6 s per step with validation: about 46 min more" in text  # 3600 - 860 s
    assert forecast.after_epoch("fold0/segresnet", rows(500, 860)).member == "about 46 min left"
    forecast.done("fold0/segresnet")
    text = forecast.after_epoch("fold0/dynunet", rows(72)).text
    # This DynUNet 0.2 h, 72 s of it done; four more of it, and four SegResNets of an hour.
    assert "is member 2 of 10, 1.44 s per step with validation: about 11 min more for this one, 5.0 h" in text


def test_scored_epochs_are_counted_as_often_as_they_come():
    recipe = recipe_from_dict(
        {"networks": [{"name": "segresnet"}], "fit": {"epochs": 10, "steps_per_epoch": 1, "score_every": 5}}, "x"
    )
    forecast = Forecast(of(recipe, folds=1))
    text = forecast.after_epoch("fold0/segresnet", rows(100, 200, 300, 400, 900, scored=[4])).text
    assert "about 15 min more" in text  # eight epochs of 100 s and two of 500 s are 1800 s; 900 s are done


def test_an_early_stop_makes_it_an_upper_bound():
    recipe = recipe_from_dict({"networks": [{"name": "segresnet"}], "fit": {"patience": 3}}, "mine.yaml")
    assert ": at most " in Forecast(of(recipe)).after_steps("fold0/segresnet", 1.0).text
