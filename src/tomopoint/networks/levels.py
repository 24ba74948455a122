"""How many decoder stages of an encoder-decoder reach a given stride."""

from __future__ import annotations

from tomopoint.errors import TomopointError


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
