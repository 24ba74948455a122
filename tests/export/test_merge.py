from dataclasses import replace

import pytest

from tomopoint.errors import PipelineError
from tomopoint.export.merge import load_runs, merge_pipelines
from tomopoint.pipeline import Decoding, Member, Normalisation


def test_a_runs_members_come_in_order_with_their_scores(write_run):
    merged = load_runs([write_run("a")])
    assert [member.network for member in merged.pipeline.members] == ["segresnet", "dynunet"]
    assert [member.score for member in merged.pipeline.members] == [0.0, 0.1]
    assert len(merged.networks) == 2
    assert list(merged.architectures) == ["segresnet", "dynunet"]
    assert not any(network.training for network in merged.networks)


def test_members_of_several_runs_are_joined(write_run):
    merged = load_runs([write_run("a", seeds=(0, 1)), write_run("b", seeds=(2,))])
    assert [member.fold for member in merged.pipeline.members] == ["fold0", "fold1", "fold0"]


def test_thresholds_are_the_mean_over_runs_by_members(pipeline):
    def run(hashes, threshold, residual):
        members = tuple(Member("fold0", "segresnet", ("a",), None, h) for h in hashes)
        decoding = Decoding(residual_xyz_A=(residual, 0.0, 0.0))
        return replace(pipeline.with_thresholds({"ribosome": threshold}), members=members, decoding=decoding)

    merged = merge_pipelines([run(["1", "2", "3"], 0.2, 1.0), run(["4"], 0.6, 5.0)], ["a", "b"])
    assert merged.particle("ribosome").threshold == pytest.approx(0.75 * 0.2 + 0.25 * 0.6)
    assert merged.decoding.residual_xyz_A == pytest.approx((2.0, 0.0, 0.0))
    assert len(merged.members) == 4


def test_a_member_trained_after_validation_is_refused(write_run):
    with pytest.raises(PipelineError, match=r"fold1.*tomopoint validate"):
        load_runs([write_run("a", validated=1)])


def test_a_lost_member_is_refused(write_run):
    folder = write_run("a")
    (folder / "fold1" / "dynunet" / "member.json").unlink()
    with pytest.raises(PipelineError, match="fold1/dynunet"):
        load_runs([folder])


def test_another_class_order_is_refused(write_run):
    swapped = ("ribosome", "beta-galactosidase", "apo-ferritin", "thyroglobulin", "virus-like-particle", "beta-amylase")
    with pytest.raises(PipelineError, match="in this order"):
        load_runs([write_run("a", particles_in_record=swapped)])


def test_a_run_that_is_not_validated_is_refused(write_run):
    folder = write_run("a")
    (folder / "pipeline.json").unlink()
    with pytest.raises(PipelineError, match="tomopoint validate"):
        load_runs([folder])


@pytest.mark.parametrize(
    ("change", "named"),
    [({"voxel_A": 12.0}, "voxel_A"), ({"normalisation": Normalisation(clip_sd=5.0)}, "normalisation")],
)
def test_runs_that_do_not_belong_together_are_refused(write_run, change, named):
    runs = [write_run("a"), write_run("b", seeds=(5,), **change)]
    with pytest.raises(PipelineError, match=rf"differ in {named}"):
        load_runs(runs)


def test_a_run_named_twice_is_refused(write_run):
    folder = write_run("a")
    with pytest.raises(PipelineError, match="twice"):
        load_runs([folder, folder])
