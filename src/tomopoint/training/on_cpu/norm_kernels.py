"""Group and instance norm with the activation beside it, compiled for maps whose channels lie next to each other.

PyTorch's own norms are written for maps that lie channel by channel, and turn others around in every call; a CPU's
convolutions are fastest on these others. Here a map is an array (B,V,C): samples, voxels, channels, either of float32
or of the bits of bfloat16 as uint16. All are computed in float32, sums over a map in float64.

One norm is ``y = act((u - mean) * scale + beta)`` with ``u = x`` or ``u = silu(x)``, where ``act`` multiplies what is
not positive by `slope`: 0 is ReLU, 1 no activation. A map is worked on in pieces of :data:`PIECE` values, and sums over
pieces are added in their order: the result is the same for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

PIECE = 32768
"""Values of one piece, the work of a thread."""

BLOCK = 8192
"""Values of which float32 sums are taken before they go into a float64: they stay in the first cache, and each sum is
of few of them."""

LANES = 256
"""Values worked on at once, a multiple of any vector unit: with few channels, several voxels."""


def _kernel(function: Callable[..., Any]) -> Any:
    """Compile at the first call, without the interpreter's lock; kept on disk where there is a place for it."""
    options: Any = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # neither the package's folder nor the user's can be written to
        return njit(function, **options)


@intrinsic  # type: ignore[untyped-decorator]
def _float_of_bits(_context: Any, _bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _read(_context: Any, stored: Any) -> Any:
    """Return a stored value as float32: float32 itself, or bfloat16, which is its upper half."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if stored == types.float32:
            return arguments[0]
        word = ir.IntType(32)
        return builder.bitcast(builder.shl(builder.zext(arguments[0], word), word(16)), ir.FloatType())

    return types.float32(stored), generate


@intrinsic  # type: ignore[untyped-decorator]
def _like(_context: Any, value: Any, stored: Any) -> Any:
    """Return a float32 as `stored` is: float32 itself, or bfloat16, rounded to the nearest, ties to even."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if stored == types.float32:
            return arguments[0]
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, word(16)), word(1))
        rounded = builder.add(bits, builder.add(odd, word(0x7FFF)))
        return builder.trunc(builder.lshr(rounded, word(16)), ir.IntType(16))

    return stored(value, stored), generate


@_kernel
def _sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), with exp as Cephes' expf: 2 to a whole number times a polynomial. Vectors of it compile."""
    t = min(max(-x, np.float32(-87.0)), np.float32(87.0))
    whole = np.floor(t * np.float32(1.44269504) + np.float32(0.5))
    r = t - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    exp = p * _float_of_bits(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))
    return np.float32(1.0) / (np.float32(1.0) + exp)


@_kernel
def _value(stored: Any, silu: bool) -> Any:
    x = _read(stored)
    return x * _sigmoid(x) if silu else x


@_kernel
def _bounds(piece: int, n_voxels: int, n_channels: int) -> Any:
    """Return the sample of a piece and the voxels that it spans."""
    voxels = max(1, PIECE // n_channels)
    per_sample = (n_voxels + voxels - 1) // voxels
    start = (piece % per_sample) * voxels
    return piece // per_sample, start, min(start + voxels, n_voxels)


@_kernel
def _block_moments(
    x: Any,
    n_channels: int,
    lanes: int,
    silu: bool,
    count: Any,
    mean: Any,
    squares: Any,
    sums: Any,
    centre: Any,
    first: Any,
    second: Any,
) -> None:
    """Add a flat block, a whole number of `lanes`, to count, mean and squared deviations of its channels.

    Corrected two-pass sums inside the block, merged pairwise (Chan, Golub, LeVeque 1983): a mean far from zero costs no
    digits of the variance.
    """
    n_rows = len(x) // lanes
    voxels = n_rows * (lanes // n_channels)
    sums[:lanes] = 0
    for row in range(n_rows):
        for lane in range(lanes):
            sums[lane] += _value(x[row * lanes + lane], silu)
    for channel in range(n_channels):
        total = 0.0
        for lane in range(channel, lanes, n_channels):
            total += sums[lane]
        for lane in range(channel, lanes, n_channels):
            centre[lane] = total / voxels
    first[:lanes] = 0
    second[:lanes] = 0
    for row in range(n_rows):
        for lane in range(lanes):
            deviation = _value(x[row * lanes + lane], silu) - centre[lane]
            first[lane] += deviation
            second[lane] += deviation * deviation
    for channel in range(n_channels):
        off, spread = 0.0, 0.0
        for lane in range(channel, lanes, n_channels):
            off += first[lane]
            spread += second[lane]
        block_mean = centre[channel] + off / voxels
        both = count[channel] + voxels
        step = block_mean - mean[channel]
        mean[channel] += step * voxels / both
        squares[channel] += spread - off * off / voxels + step * step * count[channel] * voxels / both
        count[channel] = both


@_kernel
def moments(x: Any, silu: bool, first_piece: int, last_piece: int, count: Any, mean: Any, squares: Any) -> None:
    """Fill rows `first_piece` to `last_piece` of count, mean and summed squared deviations, (pieces,C), zero before."""
    _, n_voxels, n_channels = x.shape
    lanes = n_channels * max(1, LANES // n_channels)
    sums, centre = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    first, second = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    block = max(lanes, BLOCK // lanes * lanes)
    for piece in range(first_piece, last_piece):
        sample, start, stop = _bounds(piece, n_voxels, n_channels)
        flat = x[sample, start:stop].reshape(-1)
        whole = len(flat) // lanes * lanes
        for begin in range(0, whole, block):
            part = flat[begin : min(begin + block, whole)]
            _block_moments(
                part, n_channels, lanes, silu, count[piece], mean[piece], squares[piece], sums, centre, first, second
            )
        if whole < len(flat):
            _block_moments(
                flat[whole:],
                n_channels,
                n_channels,
                silu,
                count[piece],
                mean[piece],
                squares[piece],
                sums,
                centre,
                first,
                second,
            )


@_kernel
def merge(count: Any, mean: Any, squares: Any, n_samples: int, n_groups: int, eps: float) -> Any:
    """Return mean and 1 / sqrt(variance + eps) of every sample and channel (B,C), those of its group, float64."""
    n_pieces, n_channels = count.shape
    per_sample, per_group = n_pieces // n_samples, n_channels // n_groups
    means, scales = np.empty((n_samples, n_channels)), np.empty((n_samples, n_channels))
    for sample in range(n_samples):
        for group in range(n_groups):
            n, centre, spread = 0.0, 0.0, 0.0
            for piece in range(sample * per_sample, (sample + 1) * per_sample):
                for channel in range(group * per_group, (group + 1) * per_group):
                    more = count[piece, channel]
                    step = mean[piece, channel] - centre
                    centre += step * more / (n + more)
                    spread += squares[piece, channel] + step * step * n * more / (n + more)
                    n += more
            for channel in range(group * per_group, (group + 1) * per_group):
                means[sample, channel] = centre
                scales[sample, channel] = 1 / np.sqrt(spread / n + eps)
    return means, scales


@_kernel
def _spread_over(lanes: int, values: Any) -> Any:
    """Return the value of every lane's channel."""
    out = np.empty(lanes, np.float32)
    for lane in range(lanes):
        out[lane] = values[lane % len(values)]
    return out


@_kernel
def _norm_rows(x: Any, y: Any, lanes: int, silu: bool, low: float, mean: Any, scale: Any, beta: Any) -> None:
    for row in range(len(x) // lanes):
        for lane in range(lanes):
            z = (_value(x[row * lanes + lane], silu) - mean[lane]) * scale[lane] + beta[lane]
            y[row * lanes + lane] = _like(z if z > 0 else z * low, x[row * lanes + lane])


@_kernel
def apply(
    x: Any, y: Any, silu: bool, slope: float, first_piece: int, last_piece: int, mean: Any, scale: Any, beta: Any
) -> None:
    """Write the norm of some pieces into `y`; mean and scale (B,C), beta (C,)."""
    _, n_voxels, n_channels = x.shape
    lanes = n_channels * max(1, LANES // n_channels)
    low = np.float32(slope)
    b = _spread_over(lanes, beta)
    for piece in range(first_piece, last_piece):
        sample, start, stop = _bounds(piece, n_voxels, n_channels)
        m, a = _spread_over(lanes, mean[sample]), _spread_over(lanes, scale[sample])
        flat, out = x[sample, start:stop].reshape(-1), y[sample, start:stop].reshape(-1)
        whole = len(flat) // lanes * lanes
        _norm_rows(flat[:whole], out[:whole], lanes, silu, low, m, a, b)
        _norm_rows(flat[whole:], out[whole:], n_channels, silu, low, m, a, b)


@_kernel
def _sum_rows(
    x: Any,
    dy: Any,
    lanes: int,
    silu: bool,
    low: float,
    mean: Any,
    scale: Any,
    shift: Any,
    g: Any,
    plain: Any,
    product: Any,
) -> None:
    """Add gradients, and their products with what exceeds the mean, to `plain` and `product`, one value per lane."""
    plain[:lanes] = 0
    product[:lanes] = 0
    for row in range(len(x) // lanes):
        # Two loops: the compiler makes no vectors of one that touches this many arrays.
        if low == np.float32(1.0):
            for lane in range(lanes):
                g[lane] = _read(dy[row * lanes + lane])
        else:
            for lane in range(lanes):
                slope = _read(dy[row * lanes + lane])
                z = _read(x[row * lanes + lane]) * scale[lane] + shift[lane]
                g[lane] = slope if z > 0 else slope * low
        for lane in range(lanes):
            plain[lane] += g[lane]
            product[lane] += g[lane] * (_value(x[row * lanes + lane], silu) - mean[lane])


@_kernel
def gradient_sums(
    x: Any,
    dy: Any,
    silu: bool,
    slope: float,
    first_piece: int,
    last_piece: int,
    mean: Any,
    scale: Any,
    shift: Any,
    of_beta: Any,
    of_product: Any,
) -> None:
    """Fill rows of `of_beta` and `of_product` (pieces,C), zero before: sums of the gradient before the activation,
    ``x * scale + shift``, and of its product with ``u - mean``; all (B,C). Either silu, or a slope other than 1.
    """
    _, n_voxels, n_channels = x.shape
    lanes = n_channels * max(1, LANES // n_channels)
    block = max(lanes, BLOCK // lanes * lanes)
    low = np.float32(slope)
    g, plain, product = np.empty(lanes, np.float32), np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    for piece in range(first_piece, last_piece):
        sample, start, stop = _bounds(piece, n_voxels, n_channels)
        m, a = _spread_over(lanes, mean[sample]), _spread_over(lanes, scale[sample])
        b = _spread_over(lanes, shift[sample])
        flat, slopes = x[sample, start:stop].reshape(-1), dy[sample, start:stop].reshape(-1)
        whole = len(flat) // lanes * lanes
        for begin in range(0, whole, block):
            end = min(begin + block, whole)
            _sum_rows(flat[begin:end], slopes[begin:end], lanes, silu, low, m, a, b, g, plain, product)
            for lane in range(lanes):
                of_beta[piece, lane % n_channels] += plain[lane]
                of_product[piece, lane % n_channels] += product[lane]
        _sum_rows(flat[whole:], slopes[whole:], n_channels, silu, low, m, a, b, g, plain, product)
        for channel in range(n_channels):
            of_beta[piece, channel] += plain[channel]
            of_product[piece, channel] += product[channel]


@_kernel
def _gradient_rows(
    x: Any, dy: Any, dx: Any, lanes: int, silu: bool, low: float, scale: Any, shift: Any, tilt: Any, level: Any
) -> None:
    one = np.float32(1.0)
    for row in range(len(x) // lanes):
        if silu:
            for lane in range(lanes):
                value = _read(x[row * lanes + lane])
                s = _sigmoid(value)
                du = _read(dy[row * lanes + lane]) * scale[lane] - value * s * tilt[lane] - level[lane]
                dx[row * lanes + lane] = _like(du * s * (one + value * (one - s)), x[row * lanes + lane])
        else:
            for lane in range(lanes):
                value, slope = _read(x[row * lanes + lane]), _read(dy[row * lanes + lane])
                g = slope if value * scale[lane] + shift[lane] > 0 else slope * low
                dx[row * lanes + lane] = _like(
                    g * scale[lane] - value * tilt[lane] - level[lane], x[row * lanes + lane]
                )


@_kernel
def apply_gradient(
    x: Any,
    dy: Any,
    dx: Any,
    silu: bool,
    slope: float,
    first_piece: int,
    last_piece: int,
    scale: Any,
    shift: Any,
    tilt: Any,
    level: Any,
) -> None:
    """Write ``scale * g - tilt * u - level``, through silu where that is, of some pieces into `dx`; all (B,C)."""
    _, n_voxels, n_channels = x.shape
    lanes = n_channels * max(1, LANES // n_channels)
    low = np.float32(slope)
    for piece in range(first_piece, last_piece):
        sample, start, stop = _bounds(piece, n_voxels, n_channels)
        a, b = _spread_over(lanes, scale[sample]), _spread_over(lanes, shift[sample])
        t, c = _spread_over(lanes, tilt[sample]), _spread_over(lanes, level[sample])
        flat, slopes = x[sample, start:stop].reshape(-1), dy[sample, start:stop].reshape(-1)
        out = dx[sample, start:stop].reshape(-1)
        whole = len(flat) // lanes * lanes
        _gradient_rows(flat[:whole], slopes[:whole], out[:whole], lanes, silu, low, a, b, t, c)
        _gradient_rows(flat[whole:], slopes[whole:], out[whole:], n_channels, silu, low, a, b, t, c)
