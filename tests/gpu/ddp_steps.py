"""Gradients of one batch, for test_ddp.py: started by torchrun, each process takes its share of the crops.

torchrun --nproc-per-node N ddp_steps.py DEVICE BACKEND OUT
"""

import os
import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.training.losses.build import build_loss
from tomopoint.training.losses.points import collate
from tomopoint.training.options.losses import LossOptions

CONFIG = NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=8, offset_width=8, dropout=0.0)
RADII_VOX = (6.0, 12.0)
N_CROPS, SIZE = 2, 32


class Loss(nn.Module):
    """Network and loss as one module, which DistributedDataParallel wants."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = build_network(CONFIG, len(RADII_VOX), stride=2)
        self.loss = build_loss(CONFIG, RADII_VOX, self.network.stride, LossOptions())

    def forward(self, volume, points):
        return self.loss(*self.network.logits(volume), points).total


def main(device, backend, out):
    dist.init_process_group(backend)
    rank, count = dist.get_rank(), dist.get_world_size()
    if device == "cuda" and backend == "nccl":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    generator = torch.Generator().manual_seed(1)
    volume = torch.randn(N_CROPS, 1, SIZE, SIZE, SIZE, generator=generator)
    # Crops of unequal numbers of particles: the normaliser of the loss must be that of all processes.
    particles = [(SIZE * torch.rand(n, 3, generator=generator), torch.arange(n) % 2, 1.0) for n in (9, 3)]
    mine = range(rank, N_CROPS, count)
    module = DistributedDataParallel(Loss().to(device))
    module(volume[list(mine)].to(device), collate([particles[index] for index in mine]).to(device)).backward()
    if rank == 0:
        network = module.module.network
        save_file({name: tensor.grad.cpu() for name, tensor in network.named_parameters()}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
