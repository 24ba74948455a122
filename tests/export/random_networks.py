"""Small networks with weights that make every output count."""

import torch
from torch import nn

from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.pipeline import COMPETITION_PARTICLES

SEGRESNET = NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=8, offset_width=8)
DYNUNET = NetworkConfig("dynunet", filters=(8, 8, 8, 8), features=8, class_width=8, offset_width=8)


def random_network(config, seed):
    """Fresh heads answer nearly constant maps, on which any graph agrees: spread their weights.

    Batch norms get the statistics of what they see, as training gives them.
    """
    torch.manual_seed(seed)
    network = build_network(config, len(COMPETITION_PARTICLES), stride=2).requires_grad_(False)
    for parameter in network.head.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm3d)]
    for layer in norms:
        layer.momentum = 1.0
    if norms:
        network.train()(torch.randn(2, 1, 64, 64, 64))
    return network.eval()
