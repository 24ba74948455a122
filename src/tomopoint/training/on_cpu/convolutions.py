"""Convolutions in channels-last layout, rearranged where PyTorch's own leave a CPU's vectors empty or copy the map.

All are exact: the same sums in another order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUTSIDE = 3
_TAPS = (((_OUTSIDE, 1, _OUTSIDE), (0, 2, _OUTSIDE)), ((_OUTSIDE, 0, 2), (_OUTSIDE, 1, _OUTSIDE)))
"""Of output voxel, input voxel and tap over pairs: which of three taps over voxels it is, or none."""


def convolve_in_pairs(volume: Tensor, weight: Tensor) -> Tensor:
    """Return the convolution (B,C,D,H,W) of a volume (B,1,D,H,W), W even, with `weight` (C,1,3,3,3), padded by one.

    Two neighbours along x count as two channels of one cell, in and out, which in channels-last layout is the same
    memory.
    """
    n, _, depth, height, width = volume.shape
    pairs = volume.reshape(n, depth, height, width // 2, 2).permute(0, 4, 1, 2, 3)
    taps = F.pad(weight[:, 0], (0, 1))[..., torch.tensor(_TAPS)]  # channel, z, y, output voxel, input voxel, tap
    both = taps.permute(3, 0, 4, 1, 2, 5).flatten(0, 1).contiguous(memory_format=torch.channels_last_3d)
    out = F.conv3d(pairs, both, padding=1).permute(0, 2, 3, 4, 1)
    return out.reshape(n, depth, height, width, -1).permute(0, 4, 1, 2, 3)


def convolve_twice(volume: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the convolution with `first` (K,1,3,3,3), then with `second` (C,K,3,3,3) and stride 2, padded by one each.

    Nothing stands between the two, so they are one of 5x5x5 taps: the map at full resolution is never made. Padding
    makes them differ in the first cells along each axis alone, where the second reads zeros beside the first one's map:
    there they are computed one after the other. The volume (B,1,D,H,W) has even sizes.
    """
    with torch.autocast(volume.device.type, enabled=False):
        both = F.conv_transpose3d(second, first)
    out = F.conv3d(volume, both, stride=2, padding=2)
    for axis in (2, 3, 4):
        between = F.conv3d(volume.narrow(axis, 0, 3), first, padding=1).narrow(axis, 0, 2)
        edge = F.conv3d(between, second, stride=2, padding=1)
        out.narrow(axis, 0, 1).copy_(edge)
    return out


def combine_channels(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of 1x1x1 taps as a product of matrices, in and out in channels-last layout.

    PyTorch computes it in float32 channel by channel, and every layer after it gets a map to turn around.
    """
    return F.linear(maps.permute(0, 2, 3, 4, 1), weight.flatten(1), bias).permute(0, 4, 1, 2, 3)


class ShallowConvolution(nn.Conv3d):
    """A convolution that computes in float32, under autocast to bfloat16, maps of fewer planes than it has taps.

    oneDNN's gradient of the weights reads memory that nobody wrote there: values of 1e36, or a crash. Seen with torch
    2.13 on an EPYC with AVX-512 BF16, kernels of 3, 5 and 7, dense and depth-wise; not in float32. Such maps are small.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B,C,D,H,W) of a map; in bfloat16 under autocast, as any convolution's."""
        planes = (x.shape[2] - 1) // self.stride[0] + 1
        under_autocast = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
        if not (under_autocast and planes < self.kernel_size[0] and torch.get_autocast_dtype("cpu") == torch.bfloat16):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(torch.bfloat16)


def guard_shallow_maps(network: nn.Module) -> None:
    """Make every convolution of `network` a :class:`ShallowConvolution`; weights and their names stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = ShallowConvolution
