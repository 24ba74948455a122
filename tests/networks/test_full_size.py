"""The winner's sizes, for real: one training step of a 96x128x128 crop on the CPU, and the export of its window."""

import onnx
import pytest
import torch

from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.training.losses.build import build_loss
from tomopoint.training.losses.points import collate
from tomopoint.training.options.losses import LossOptions

RADII_VOX = (5.993, 8.989, 14.982, 12.984, 13.484, 6.492)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:torch", "ignore::FutureWarning:copyreg")
@pytest.mark.parametrize("name", ["segresnet", "dynunet"])
def test_a_full_size_network_trains_a_step_and_exports(name, tmp_path):
    torch.manual_seed(0)
    config = NetworkConfig(name)
    network = build_network(config, len(RADII_VOX), stride=2).train()
    loss = build_loss(config, RADII_VOX, network.stride, LossOptions())
    centres = torch.rand(60, 3) * torch.tensor([96.0, 128.0, 128.0])
    points = collate([(centres, torch.arange(60) % len(RADII_VOX), 1.0)])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        logits, offsets_vox = network.logits(torch.randn(1, 1, 96, 128, 128))
    terms = loss(logits, offsets_vox, points)
    terms.total.backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    optimiser.step()
    assert terms.total.isfinite()
    assert terms.n_positive > 500  # 60 particles claim 13 cells each, some of them contested

    path = tmp_path / f"{name}.onnx"
    window = torch.zeros(1, 1, 192, 128, 128)
    torch.onnx.export(network.eval(), (window,), str(path), dynamo=True, opset_version=20, verbose=False)
    graph = onnx.load(path).graph
    shapes = [[axis.dim_value for axis in output.type.tensor_type.shape.dim] for output in graph.output]
    assert shapes == [[1, len(RADII_VOX), 96, 64, 64], [1, 3, 96, 64, 64]]
