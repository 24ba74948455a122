"""What the encoder-decoders share: what a head needs to know of them, and which of their stages reach a stride."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tomopoint.errors import TomopointError


class Backbone(nn.Module):
    """A network from a volume (B,1,D,H,W) to feature maps, the finest (B,features[0],D/stride,H/stride,W/stride).

    That of a detector with one level returns its map; any other returns a tuple of one map per level with an output of
    its own, each at twice the stride of the one before.

    Attributes
    ----------
    divisor
        Coarsest stride inside, ``2 ** (levels - 1)``: sizes are multiples of it.
    features
        Channels of the maps, finest first.
    needs_context
        Whether its coarsest map must have more than one cell: instance norm of a single cell is zero.
    """

    divisor: int
    needs_context: bool
    features: tuple[int, ...]

    def encoding_parts(self) -> tuple[nn.Module, ...]:
        """Return the modules that lead down to the coarsest map; the others lead up again."""
        raise NotImplementedError


def check_levels(n_maps: int, kept: int, stride: int) -> None:
    """TomopointError where more maps are asked for than the decoder's `kept` stages make at `stride` and coarser."""
    if n_maps > kept:
        raise TomopointError(
            f"levels is {n_maps}, but the decoder has {kept} maps at stride {stride} and coarser; ask for fewer"
        )


def n_decoder_stages(n_levels: int, stride: int) -> int:
    """Return how many of the ``n_levels - 1`` decoder stages, coarsest first, lead to a map at `stride`.

    Level ``i`` has stride ``2 ** i``. TomopointError where no decoder stage ends at `stride`.
    """
    strides = [2**level for level in range(n_levels - 1)]
    if stride not in strides:
        raise TomopointError(
            f"a network of {n_levels} levels has feature maps at strides {', '.join(map(str, strides))}, "
            f"not {stride}; choose one of them or change the number of levels"
        )
    return n_levels - 1 - strides.index(stride)


def projected(made: Sequence[Tensor], project: nn.Module, coarser: nn.ModuleList) -> Tensor | tuple[Tensor, ...]:
    """Return what heads read of a decoder's maps, made coarsest first: the finest, or a tuple of all levels'."""
    finest: Tensor = project(made[-1])
    others = [layer(features) for layer, features in zip(coarser, reversed(made[:-1]), strict=False)]
    return (finest, *others) if others else finest
