"""Ensemble: several networks, and several views of the input, averaged behind the same contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, lcm

import torch
from torch import Tensor, nn

from tomopoint.errors import TomopointError
from tomopoint.networks.config import check_size
from tomopoint.networks.heads import no_offsets
from tomopoint.networks.point_network import PointNetwork
from tomopoint.networks.score_maps import ScoreMaps
from tomopoint.networks.views import find_view
from tomopoint.pipeline import KINDS, OFFSET_AVERAGES, VIEW_MERGES, Pipeline

SMALLEST_SCORE = 1e-6
"""Added to the scores that weigh offsets, so that cells where every network sees nothing keep the plain mean."""

LEAST_FACTOR = 1e-9
"""Scores below it enter a geometric mean as this, so that one view that sees nothing does not decide alone. Shares of a
softmax over single voxels may be small and still mean something."""


class Ensemble(nn.Module):
    """Weighted mean of the scores of several networks, and of the offsets of those that predict some, in float32.

    Networks run one after the other, so memory is that of the largest. Averages scores after the sigmoid, as the
    winner's merged graph does: one confident network then cannot outvote the others as it would among logits.
    Of one network the views are merged first; then networks of one kind are averaged, their average is brought to the
    scale of the first kind, and the averages of the kinds are averaged, each with the sum of its networks' weights.

    Parameters
    ----------
    networks
        Same classes, same stride. Architectures may differ.
    weights
        Share of each network, positive; divided by their sum. None: equal shares.
    views
        Names of :data:`~tomopoint.networks.views.VIEWS` to merge, each with the same share.
    offset_average, view_merge
        As in the :class:`~tomopoint.pipeline.Pipeline`.
    class_weights
        Per network, its share in the average of each class's scores, in channel order; an empty one: `weights` for
        all of them. None: so for every network.
    kinds
        Per network, what its scores are, of :data:`~tomopoint.pipeline.KINDS`. None: all of one.
    score_maps
        By kind; a kind without one keeps its scores.

    Raises
    ------
    TomopointError
        No network, networks that do not agree, weights or kinds that do not fit, an unknown view.
    """

    def __init__(
        self,
        networks: Sequence[PointNetwork],
        weights: Sequence[float] | None = None,
        views: Sequence[str] = ("identity",),
        offset_average: str = "mean",
        view_merge: str = "mean",
        class_weights: Sequence[Sequence[float]] | None = None,
        kinds: Sequence[str] | None = None,
        score_maps: Mapping[str, ScoreMaps] | None = None,
    ) -> None:
        super().__init__()
        given = [1.0] * len(networks) if weights is None else [float(weight) for weight in weights]
        _check(networks, given, views)
        _check_choice("offset_average", offset_average, OFFSET_AVERAGES)
        _check_choice("view_merge", view_merge, VIEW_MERGES)
        self.networks = nn.ModuleList(networks)
        self.views = tuple(find_view(name) for name in views)
        self.by_score = offset_average == "score"
        self.view_merge = view_merge if len(views) > 1 else "mean"
        self.n_classes = networks[0].n_classes
        self.stride = networks[0].stride
        self.divisor = lcm(*(network.divisor for network in networks))
        self.needs_context = any(network.needs_context for network in networks)
        self.kinds: tuple[str, ...] = tuple(kinds) if kinds is not None else KINDS[:1] * len(networks)
        self.score_maps = nn.ModuleDict({k: m for k, m in (score_maps or {}).items() if k in self.kinds})
        self.predicts_offsets = any(network.predicts_offsets for network in networks)
        # Zeros of a network that predicts no offsets would shrink those of the others.
        pointing = sum(share for share, network in zip(given, networks, strict=True) if network.predicts_offsets)
        self.offset_shares = tuple(
            share / (pointing * len(views)) if network.predicts_offsets else 0.0
            for share, network in zip(given, networks, strict=True)
        )

        self._numbers: dict[str, float] = {}
        # (M,C): of every network among all, or, where its kind is mapped first, among those of its kind.
        of_classes = [tuple(own) for own in class_weights] if class_weights is not None else [()] * len(networks)
        _check_classes(of_classes, self.kinds, len(networks), self.n_classes)
        table = torch.tensor(
            [own or (weight,) * self.n_classes for own, weight in zip(of_classes, given, strict=True)],
            dtype=torch.float64,
        )
        total = table.sum(dim=0)
        within = {kind: table[[own == kind for own in self.kinds]].sum(dim=0) for kind in self.score_maps}
        merged = len(views) if self.view_merge == "mean" else 1  # a mean of views is summed, and divided here
        for index, kind in enumerate(self.kinds):
            self._hold(f"share_of_network_{index}", table[index] / within.get(kind, total) / merged)
        for kind in self.score_maps:
            self._hold(f"share_of_{kind}", within[kind] / total)

    @classmethod
    def of_pipeline(cls, networks: Sequence[PointNetwork], pipeline: Pipeline) -> Ensemble:
        """Return the average that a Pipeline describes; `networks` in the order of its members."""
        kinds = [member.kind for member in pipeline.members]
        maps = {kind: ScoreMaps.of_kind(kind, pipeline) for kind in dict.fromkeys(kinds)}
        return cls(
            networks,
            weights=[member.weight for member in pipeline.members],
            views=pipeline.views,
            offset_average=pipeline.offset_average,
            view_merge=pipeline.view_merge,
            class_weights=[member.class_weights for member in pipeline.members],
            kinds=kinds,
            score_maps={kind: score_map for kind, score_map in maps.items() if score_map is not None},
        )

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scores, offsets_vox), float32, as :meth:`PointNetwork.forward` does, averaged."""
        check_size(volume.shape, self.divisor, self.needs_context)
        of_kinds: dict[str, Tensor] = {}
        offsets_sum: Tensor | float = 0.0
        weight_sum: Tensor | float = 0.0
        for index, (network, kind) in enumerate(zip(self.networks, self.kinds, strict=True)):
            trust = self.offset_shares[index]
            merged: Tensor | None = None
            for view in self.views:
                scores, offsets_vox = network(view.apply(volume))
                scores = view.undo(scores.float())
                if network.predicts_offsets:
                    weight = trust * (scores.amax(dim=1, keepdim=True) + SMALLEST_SCORE) if self.by_score else trust
                    offsets_sum = offsets_sum + weight * view.undo_offsets(offsets_vox.float())
                    weight_sum = weight_sum + weight
                merged = self._with_view(merged, scores)
            assert merged is not None
            if self.view_merge == "gmean":
                merged = torch.exp(merged / len(self.views))
            shared = self._share(f"share_of_network_{index}") * merged
            of_kinds[kind] = of_kinds[kind] + shared if kind in of_kinds else shared
        averages = [
            self._share(f"share_of_{kind}") * self.score_maps[kind](average) if kind in self.score_maps else average
            for kind, average in of_kinds.items()
        ]
        scores_sum = averages[0]
        for average in averages[1:]:
            scores_sum = scores_sum + average
        if not self.predicts_offsets:
            return scores_sum, no_offsets(scores_sum)
        assert isinstance(offsets_sum, Tensor)
        # Without scores as weights the shares add up to one already.
        return scores_sum, offsets_sum / weight_sum if self.by_score else offsets_sum

    def _with_view(self, merged: Tensor | None, scores: Tensor) -> Tensor:
        """Return what of several views is kept while they are gone through: a sum, a sum of logarithms, the highest."""
        if self.view_merge == "gmean":
            scores = torch.log(scores.clamp(min=LEAST_FACTOR))
        if merged is None:
            return scores
        return torch.maximum(merged, scores) if self.view_merge == "max" else merged + scores

    def _hold(self, name: str, shares: Tensor) -> None:
        """Keep the shares (C,) of what is averaged: one number where all classes have it, else one per channel."""
        one = float(shares[0])
        self.register_buffer(
            name, None if bool((shares == one).all()) else shares.float().reshape(1, -1, 1, 1, 1), persistent=False
        )
        self._numbers[name] = one

    def _share(self, name: str) -> Tensor | float:
        of_classes: Tensor | None = getattr(self, name)
        return self._numbers[name] if of_classes is None else of_classes


def _check(networks: Sequence[PointNetwork], weights: Sequence[float], views: Sequence[str]) -> None:
    if not networks or not views:
        raise TomopointError(f"an ensemble needs networks and views, got {len(networks)} and {len(views)}")
    if len(weights) != len(networks) or not all(0 < weight < inf for weight in weights):
        raise TomopointError(f"{len(networks)} networks need as many positive weights, got {list(weights)}")
    shapes = {(network.n_classes, network.stride) for network in networks}
    if len(shapes) > 1:
        raise TomopointError(
            f"networks of one ensemble must agree in (classes, stride), got {', '.join(map(str, sorted(shapes)))}"
        )


def _check_choice(name: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise TomopointError(f"{name} must be one of {', '.join(allowed)}, got {given!r}")


def _check_classes(
    class_weights: Sequence[tuple[float, ...]], kinds: Sequence[str], n_networks: int, n_classes: int
) -> None:
    if not len(class_weights) == len(kinds) == n_networks:
        raise TomopointError(
            f"{n_networks} networks need as many kinds and class weights, got {len(kinds)} and {len(class_weights)}"
        )
    for own in class_weights:
        if len(own) not in (0, n_classes) or not all(0 < weight < inf for weight in own):
            raise TomopointError(f"class weights are {n_classes} positive numbers, or none, got {own}")
