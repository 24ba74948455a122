"""The official score of a network while it trains: its held-out runs, whole, with the code of the submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tomopoint.evaluation.thresholds import sweep, threshold_grid
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.inference.predict import predict_volume
from tomopoint.inference.tiles import choose_tiling
from tomopoint.networks.point_network import PointNetwork
from tomopoint.pipeline import Decoding, Pipeline
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.recipe import Recipe


@dataclass(frozen=True)
class HeldOutScore:
    """What a network scores on held-out runs.

    Attributes
    ----------
    value
        The official score: the mean over classes, by the weights of the recipe's particles.
    per_class
        F4 of every particle, by name.
    """

    value: float
    per_class: Mapping[str, float]


def official_score(network: PointNetwork, held_out: Sequence[TrainingTomogram], recipe: Recipe) -> HeldOutScore:
    """Return the official score of `network` on held-out runs, of the first reconstruction that is trained on.

    Every class counts with the best F4 of its curve, as in the winner's validation score: thresholds chosen on the
    runs they are judged on flatter all epochs alike, and only their order matters here. Volumes are those in memory:
    normalising them again changes nothing but their rounding.
    """
    pipeline = Pipeline(
        particles=recipe.particles,
        voxel_A=held_out[0].voxel_A,
        stride=recipe.stride,
        normalisation=recipe.normalisation,
        tiling=choose_tiling([tomogram.shape_zyx for tomogram in held_out], network.divisor),
        decoding=Decoding(refine_peaks=not network.predicts_offsets),
    )
    was_training = network.training
    engine = TorchEngine(network, pipeline.tiling.window_zyx, device=str(next(network.parameters()).device))
    tables = []
    for tomogram in held_out:
        volume_zyx = tomogram.volumes_zyx[recipe.crops.tomo_types[0]].float().numpy()
        picks = decode_maps(predict_volume(volume_zyx, engine, pipeline), pipeline, tomogram.voxel_A)
        tables.append(picks.assign(experiment=tomogram.name))
    network.train(was_training)
    truth = {tomogram.name: tomogram.picks_xyz_A(pipeline.particle_names) for tomogram in held_out}
    curves = sweep(
        truth, pd.concat(tables, ignore_index=True), pipeline.particles, threshold_grid(pipeline.decoding.floor)
    )
    weights = np.array([particle.weight for particle in pipeline.particles])
    best = {name: float(curves[name].f_beta.max(initial=0.0)) for name in pipeline.particle_names}
    return HeldOutScore(float((weights * list(best.values())).sum() / weights.sum()), best)
