"""What carries over from one network to another: the backbone, and of the head what means the same."""

from dataclasses import replace

import pytest
import torch

from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.heads import START_LOGIT
from tomopoint.networks.transfer import TrainedNetwork, transfer

CONFIG = NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=4, offset_width=4, dropout=0.0)
KNOWN = ("ribosome", "apo-ferritin", "thyroglobulin")


def trained(config=CONFIG, particles=KNOWN, stride=2):
    torch.manual_seed(1)
    network = build_network(config, len(particles), stride).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network, TrainedNetwork(config, particles, stride, network.state_dict())


def fresh(config=CONFIG, particles=KNOWN, stride=2):
    torch.manual_seed(2)
    return build_network(config, len(particles), stride).eval()


def test_rows_of_the_head_follow_the_names_of_classes():
    """In another order, with a new class and without one: channel k answers as the channel of its name did."""
    old, source = trained()
    wanted = ("spike", "apo-ferritin", "ribosome")
    network = fresh(particles=wanted)
    report = transfer(network, CONFIG, wanted, source)
    volume = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        (before, offsets_before), (after, offsets_after) = old.logits(volume), network.logits(volume)
    assert torch.equal(after[:, 1], before[:, 1])
    assert torch.equal(after[:, 2], before[:, 0])
    assert before.std() > 0.1  # channels are not constant, so that a row in another's place would show
    assert torch.equal(after[:, 0], torch.full_like(after[:, 0], START_LOGIT))
    assert torch.equal(offsets_after, offsets_before)
    assert (report.classes, report.new, report.left_out) == (
        ("apo-ferritin", "ribosome"),
        ("spike",),
        ("thyroglobulin",),
    )
    n = len(network.backbone.state_dict())
    assert report.text == (
        f"backbone {n} of {n} tensors, head for apo-ferritin, ribosome; new: spike; left out: thyroglobulin"
    )


def test_a_head_of_other_widths_starts_fresh_on_the_same_features():
    old, source = trained()
    config = replace(CONFIG, class_width=8, offset_width=2)
    network = fresh(config)
    head = [p.clone() for p in network.head.parameters()]
    report = transfer(network, config, KNOWN, source)
    volume = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(network.backbone(volume), old.backbone(volume))
    assert all(torch.equal(a, b) for a, b in zip(head, network.head.parameters(), strict=True))
    assert "fresh class head (another class_width), fresh offsets (another offset_width)" in report.text
    assert report.classes == ()


def test_a_heatmap_carries_over_to_a_heatmap():
    config = NetworkConfig("heatmap", init_filters=8, blocks_down=(1, 1, 1), class_width=4, dropout=0.0)
    old, source = trained(config)
    network = fresh(config)
    report = transfer(network, config, KNOWN, source)
    volume = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(network(volume)[0], old(volume)[0])
    assert report.offsets is None


@pytest.mark.parametrize(
    ("source_levels", "own_levels"),
    [(1, 1), (2, 1), (1, 2)],
)
def test_segmentation_carries_over_with_its_background(source_levels, own_levels):
    """The rows of classes follow their names; background is always the last; a level of its own starts fresh."""
    config = NetworkConfig("flexible-unet", width=1 / 16, filters=(8, 8, 8, 8, 8), levels=source_levels)
    old, source = trained(config)
    wanted = ("spike", "apo-ferritin", "ribosome")
    own = replace(config, levels=own_levels)
    network = fresh(own, wanted)
    start = network.head.outputs[0].weight.clone()
    report = transfer(network, own, wanted, source)
    assert (report.classes, report.new, report.offsets) == (("apo-ferritin", "ribosome"), ("spike",), None)
    theirs, ours = old.head.outputs[0].weight, network.head.outputs[0].weight
    assert [torch.equal(ours[here], theirs[there]) for here, there in ((1, 1), (2, 0), (3, 3))] == [True] * 3
    assert torch.equal(ours[0], start[0])
    assert torch.equal(network.backbone.encoder.bn1.running_mean, old.backbone.encoder.bn1.running_mean)
    if own_levels > source_levels:
        assert network.head.outputs[1].weight.abs().max() == 0


@pytest.mark.parametrize(
    ("config", "stride", "message"),
    [
        (replace(CONFIG, init_filters=16), 2, "init_filters is 8 there and 16 here"),
        (replace(CONFIG, blocks_down=(1, 1, 2)), 2, "blocks_down is 1,1,1 there and 1,1,2 here"),
        # In no tensor's shape does it show how many channels a norm takes together.
        (replace(CONFIG, norm_groups=4), 2, "norm_groups is 8 there and 4 here"),
        (CONFIG, 1, "stride is 2 there and 1 here"),
        (
            NetworkConfig("heatmap", init_filters=8, blocks_down=(1, 1, 1)),
            2,
            "name is segresnet there and heatmap here",
        ),
        (NetworkConfig("dynunet", filters=(8, 8, 8)), 2, "name is segresnet there and dynunet here; init_filters is 8"),
        (NetworkConfig("unet", filters=(8, 8)), 2, "name is segresnet there and unet here"),
    ],
)
def test_another_architecture_is_refused_by_the_sizes_that_differ(config, stride, message):
    _, source = trained()
    network = fresh(config, stride=stride)
    with pytest.raises(TomopointError, match=message):
        transfer(network, config, KNOWN, source)


def test_weights_that_lack_a_tensor_change_nothing():
    _, source = trained()
    network = fresh()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lacking = {name: tensor for name, tensor in source.weights.items() if name != "backbone.convInit.conv.weight"}
    with pytest.raises(TomopointError, match=r"backbone\.convInit\.conv\.weight is missing"):
        transfer(network, CONFIG, KNOWN, replace(source, weights=lacking))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
