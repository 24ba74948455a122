"""Ensemble: several networks, and several views of the input, averaged behind the same contract."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, lcm

from torch import Tensor, nn

from tomopoint.errors import TomopointError
from tomopoint.networks.config import check_size
from tomopoint.networks.heads import no_offsets
from tomopoint.networks.point_network import PointNetwork
from tomopoint.networks.views import find_view
from tomopoint.pipeline import OFFSET_AVERAGES

SMALLEST_SCORE = 1e-6
"""Added to the scores that weigh offsets, so that cells where every network sees nothing keep the plain mean."""


class Ensemble(nn.Module):
    """Weighted mean of the scores of several networks, and of the offsets of those that predict some, in float32.

    Networks run one after the other, so memory is that of the largest. Averages scores after the sigmoid, as the
    winner's merged graph does: one confident network then cannot outvote the others as it would among logits.

    Parameters
    ----------
    networks
        Same classes, same stride. Architectures may differ.
    weights
        Share of each network, positive; divided by their sum. None: equal shares.
    views
        Names of :data:`~tomopoint.networks.views.VIEWS` to average over, each with the same share.
    offset_average
        As :attr:`Pipeline.offset_average <tomopoint.pipeline.Pipeline>`.

    Raises
    ------
    TomopointError
        No network, networks that do not agree, weights that do not fit, an unknown view.
    """

    def __init__(
        self,
        networks: Sequence[PointNetwork],
        weights: Sequence[float] | None = None,
        views: Sequence[str] = ("identity",),
        offset_average: str = "mean",
    ) -> None:
        super().__init__()
        shares = [1.0] * len(networks) if weights is None else [float(weight) for weight in weights]
        _check(networks, shares, views, offset_average)
        total = sum(shares) * len(views)
        self.networks = nn.ModuleList(networks)
        self.shares = tuple(share / total for share in shares)
        self.views = tuple(find_view(name) for name in views)
        self.by_score = offset_average == "score"
        self.n_classes = networks[0].n_classes
        self.stride = networks[0].stride
        self.divisor = lcm(*(network.divisor for network in networks))
        self.needs_context = any(network.needs_context for network in networks)
        self.predicts_offsets = any(network.predicts_offsets for network in networks)
        # Zeros of a network that predicts no offsets would shrink those of the others.
        pointing = sum(share for share, network in zip(shares, networks, strict=True) if network.predicts_offsets)
        self.offset_shares = tuple(
            share / (pointing * len(views)) if network.predicts_offsets else 0.0
            for share, network in zip(shares, networks, strict=True)
        )

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scores, offsets_vox), float32, as :meth:`PointNetwork.forward` does, averaged."""
        check_size(volume.shape, self.divisor, self.needs_context)
        scores_sum: Tensor | float = 0.0
        offsets_sum: Tensor | float = 0.0
        weight_sum: Tensor | float = 0.0
        for view in self.views:
            seen = view.apply(volume)
            for network, share, trust in zip(self.networks, self.shares, self.offset_shares, strict=True):
                scores, offsets_vox = network(seen)
                scores = view.undo(scores.float())
                scores_sum = scores_sum + share * scores
                if network.predicts_offsets:
                    weight = trust * (scores.amax(dim=1, keepdim=True) + SMALLEST_SCORE) if self.by_score else trust
                    offsets_sum = offsets_sum + weight * view.undo_offsets(offsets_vox.float())
                    weight_sum = weight_sum + weight
        assert isinstance(scores_sum, Tensor)
        if not self.predicts_offsets:
            return scores_sum, no_offsets(scores_sum)
        assert isinstance(offsets_sum, Tensor)
        # Without scores as weights the shares add up to one already.
        return scores_sum, offsets_sum / weight_sum if self.by_score else offsets_sum


def _check(
    networks: Sequence[PointNetwork], shares: Sequence[float], views: Sequence[str], offset_average: str
) -> None:
    if not networks or not views:
        raise TomopointError(f"an ensemble needs networks and views, got {len(networks)} and {len(views)}")
    if len(shares) != len(networks) or not all(0 < share < inf for share in shares):
        raise TomopointError(f"{len(networks)} networks need as many positive weights, got {list(shares)}")
    kinds = {(network.n_classes, network.stride) for network in networks}
    if len(kinds) > 1:
        raise TomopointError(
            f"networks of one ensemble must agree in (classes, stride), got {', '.join(map(str, sorted(kinds)))}"
        )
    if offset_average not in OFFSET_AVERAGES:
        raise TomopointError(f"offset_average must be one of {', '.join(OFFSET_AVERAGES)}, got {offset_average!r}")
