"""The networks' blocks with norm and activation in one, for training on a CPU in channels-last layout.

MONAI's blocks and the branches of the heads get another forward pass, and keep parameters, names and everything else.
It is taken only where gradients are wanted of a CPU's maps in float32 or bfloat16: a network in eval mode, an exported
graph and a GPU compute what they always did.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from monai.networks.blocks.segresnet_block import ResBlock
from numpy.typing import NDArray
from torch import Tensor, nn

from tomopoint.networks.segresnet import SegResNetBackbone
from tomopoint.training.on_cpu import norm_kernels
from tomopoint.training.on_cpu.convolutions import (
    ShallowConvolution,
    combine_channels,
    convolve_in_pairs,
    convolve_twice,
)

Floats = NDArray[np.float64]

PIECES_PER_THREAD = 16
"""Less than half a million values are not worth waking a thread for."""

IDENTITY, RELU = 1.0, 0.0
"""Slopes of what is not positive."""


def fuse(network: nn.Module) -> None:
    """Give every block of `network` that has norms the forward pass of this module; parameters stay as they are."""
    for module in network.modules():
        if type(module) in _FUSED:
            module.__class__ = _FUSED[type(module)]


def warm_up(dtype: torch.dtype) -> None:
    """Compile, or read from disk, the norms of maps of `dtype`: four seconds, once per machine."""
    x = torch.ones(1, 2, 2, 2, 2, dtype=dtype).requires_grad_()  # no random state is touched
    _FusedNorm.apply(x, 1, None, None, 1e-5, False, IDENTITY).sum().backward()


class _FusedNorm(torch.autograd.Function):
    """``act(norm(x))`` or ``norm(silu(x))`` of a map (B,C,D,H,W)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        silu: bool,
        slope: float,
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        y = torch.empty_like(x)
        voxels = _voxels(x)
        n_samples, n_voxels, n_channels = voxels.shape
        per_sample = -(-n_voxels // max(1, norm_kernels.PIECE // n_channels))
        shape = (n_samples * per_sample, n_channels)
        count, centre, squares = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        _in_pieces(lambda a, b: norm_kernels.moments(voxels, silu, a, b, count, centre, squares), shape[0])
        mean, rstd = norm_kernels.merge(count, centre, squares, n_samples, groups, eps)
        gamma = np.ones(n_channels) if weight is None else weight.detach().double().numpy()
        beta = np.zeros(n_channels) if bias is None else bias.detach().double().numpy()
        out, scale = _voxels(y), rstd * gamma
        _in_pieces(lambda a, b: norm_kernels.apply(voxels, out, silu, slope, a, b, mean, scale, beta), shape[0])
        ctx.save_for_backward(x)
        ctx.moments = mean, rstd, gamma, beta
        ctx.options = groups, silu, slope, shape
        return y

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (x,) = ctx.saved_tensors
        mean, rstd, gamma, beta = ctx.moments
        groups, silu, slope, shape = ctx.options
        dy = slopes[0].to(x.dtype).contiguous(memory_format=torch.channels_last_3d)
        dx = torch.empty_like(x)
        voxels, given, out = _voxels(x), _voxels(dy), _voxels(dx)
        n_samples, n_voxels, n_channels = voxels.shape

        # Sums over every map: what reaches beta and, with the deviations from the mean, gamma.
        scale = rstd * gamma
        shift = beta - mean * scale
        of_beta, of_product = np.zeros(shape), np.zeros(shape)
        _in_pieces(
            lambda a, b: norm_kernels.gradient_sums(
                voxels, given, silu, slope, a, b, mean, scale, shift, of_beta, of_product
            ),
            shape[0],
        )
        of_beta = of_beta.reshape(n_samples, -1, n_channels).sum(axis=1)
        of_gamma = of_product.reshape(n_samples, -1, n_channels).sum(axis=1) * rstd

        # The gradient less its mean over the group and its part along the normalised map (Ioffe and Szegedy 2015).
        level = rstd * _group_mean(of_beta * gamma, groups) / n_voxels
        tilt = rstd**2 * _group_mean(of_gamma * gamma, groups) / n_voxels
        level -= mean * tilt
        _in_pieces(
            lambda a, b: norm_kernels.apply_gradient(voxels, given, out, silu, slope, a, b, scale, shift, tilt, level),
            shape[0],
        )
        of_weight = torch.from_numpy(of_gamma.sum(axis=0)).float() if ctx.needs_input_grad[2] else None
        of_bias = torch.from_numpy(of_beta.sum(axis=0)).float() if ctx.needs_input_grad[3] else None
        return dx, None, of_weight, of_bias, None, None, None


def _voxels(maps: Tensor) -> Any:
    """Return the memory of maps (B,C,D,H,W) in channels-last layout as an array (B,V,C), bfloat16 as its bits."""
    rows = maps.detach().permute(0, 2, 3, 4, 1).flatten(1, 3)
    return (rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows).numpy()


def _group_mean(values: Floats, groups: int) -> Floats:
    """Replace values (B,C) by the mean of their group."""
    by_group = values.reshape(len(values), groups, -1)
    return np.broadcast_to(by_group.mean(axis=2, keepdims=True), by_group.shape).reshape(values.shape)


def _in_pieces(work: Callable[[int, int], Any], n_pieces: int) -> None:
    """Call `work` on ranges of pieces that make up all of them, in as many threads as torch computes with."""
    n_threads = max(1, min(torch.get_num_threads(), n_pieces // PIECES_PER_THREAD))
    if n_threads == 1:
        work(0, n_pieces)
        return
    edges = [n_pieces * part // n_threads for part in range(n_threads + 1)]
    waiting = [_pool(n_threads - 1).submit(work, *edges[part : part + 2]) for part in range(1, n_threads)]
    work(*edges[:2])
    for part in waiting:
        part.result()


@lru_cache(maxsize=1)
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="norm")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along


def _takes(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _norm(norm: nn.Module, x: Tensor, slope: float = IDENTITY, silu: bool = False) -> Tensor:
    """Return the norm of `x`, with the activation that stands beside it."""
    if isinstance(norm, nn.GroupNorm):
        groups = norm.num_groups
    else:
        assert isinstance(norm, nn.InstanceNorm3d)
        assert not norm.track_running_stats
        groups = norm.num_features
    fused: Tensor = _FusedNorm.apply(x, groups, norm.weight, norm.bias, norm.eps, silu, slope)
    return fused


class _FusedResBlock(ResBlock):
    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and _takes(x)):
            return super().forward(x)  # type: ignore[no-any-return]
        out = self.conv1(_norm(self.norm1, x, RELU))
        out = self.conv2(_norm(self.norm2, out, RELU))
        out += x
        return out  # type: ignore[no-any-return]


class _FusedUnetBasicBlock(UnetBasicBlock):
    def forward(self, inp: Tensor) -> Tensor:
        if not (self.training and _takes(inp)):
            return super().forward(inp)  # type: ignore[no-any-return]
        out = _norm(self.norm1, self.conv1(inp), self.lrelu.negative_slope)
        return _norm(self.norm2, self.conv2(out), self.lrelu.negative_slope)


class _FusedUnetResBlock(UnetResBlock):
    def forward(self, inp: Tensor) -> Tensor:
        if not (self.training and _takes(inp)):
            return super().forward(inp)  # type: ignore[no-any-return]
        out = _norm(self.norm1, self.conv1(inp), self.lrelu.negative_slope)
        out = _norm(self.norm2, self.conv2(out))
        out += _norm(self.norm3, self.conv3(inp)) if self.downsample else inp
        return self.lrelu(out)  # type: ignore[no-any-return]


class _FusedSequential(nn.Sequential):
    """A head's branch: every SiLU that a norm follows becomes part of it."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and _takes(x)):
            return super().forward(x)  # type: ignore[no-any-return]
        layers = list(self)
        for before, layer, following in zip([None, *layers[:-1]], layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.SiLU) and isinstance(following, nn.InstanceNorm3d):
                continue
            follows = isinstance(layer, nn.InstanceNorm3d) and isinstance(before, nn.SiLU)
            x = _norm(layer, x, silu=True) if follows else layer(x)
        return x


class _FirstConvolution(Convolution):
    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and _takes(x) and x.shape[1] == 1 and x.shape[-1] % 2 == 0 and _is_plain(self, 1)):
            return super().forward(x)  # type: ignore[no-any-return]
        return convolve_in_pairs(x, self.conv.weight)  # type: ignore[union-attr, arg-type]


class _PointwiseConvolution(ShallowConvolution):
    def forward(self, x: Tensor) -> Tensor:
        ones = self.kernel_size == self.stride == (1, 1, 1)
        if not (self.training and _takes(x) and ones and self.padding == (0, 0, 0) and self.groups == 1):
            return super().forward(x)
        return combine_channels(x, self.weight, self.bias)


class _FusedSegResNet(SegResNetBackbone):
    def encode(self, volume: Tensor) -> list[Tensor]:
        if not (self.training and _takes(volume) and self._goes_down_at_once()):
            return super().encode(volume)
        down = self.down_layers[1]
        assert isinstance(down, nn.Sequential)
        x = down[1:](convolve_twice(volume, self.convInit.conv.weight, down[0].conv.weight))  # type: ignore[union-attr, arg-type]
        maps = [volume, x]  # in place of the finest, which nothing reads
        for deeper in self.down_layers[2:]:
            maps.append(deeper(maps[-1]))
        return maps

    def _goes_down_at_once(self) -> bool:
        """Whether nothing stands between the first two convolutions and nothing else reads the map between them."""
        finest, down = self.down_layers[0], self.down_layers[1]
        assert isinstance(finest, nn.Sequential)
        assert isinstance(down, nn.Sequential)
        return (
            isinstance(self.dropout, nn.Identity)
            and len(finest) == 1
            and len(self.up_samples) < len(self.down_layers) - 1
            and _is_plain(self.convInit, 1)
            and _is_plain(down[0], 2)
        )


def _is_plain(layer: nn.Module, stride: int) -> bool:
    """Whether a layer is a convolution of 3x3x3 taps and nothing else."""
    if not isinstance(layer, Convolution):
        return False
    conv = layer.conv
    return (
        len(layer) == 1
        and isinstance(conv, nn.Conv3d)
        and (conv.kernel_size, conv.padding, conv.dilation) == ((3, 3, 3), (1, 1, 1), (1, 1, 1))
        and (conv.stride, conv.groups, conv.bias) == ((stride,) * 3, 1, None)
        and conv.padding_mode == "zeros"
    )


_FUSED: dict[type[nn.Module], type[nn.Module]] = {
    ResBlock: _FusedResBlock,
    UnetBasicBlock: _FusedUnetBasicBlock,
    UnetResBlock: _FusedUnetResBlock,
    nn.Sequential: _FusedSequential,
    SegResNetBackbone: _FusedSegResNet,
    Convolution: _FirstConvolution,
    nn.Conv3d: _PointwiseConvolution,
}
