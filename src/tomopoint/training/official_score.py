"""The official score of a network while it trains: its held-out runs, whole, with the code of the submission."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tomopoint.data.tomograms import read_tomogram
from tomopoint.evaluation.thresholds import sweep, threshold_grid
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.inference.predict import predict_tomogram
from tomopoint.inference.tiles import choose_tiling
from tomopoint.networks.point_network import PointNetwork
from tomopoint.pipeline import Pipeline
from tomopoint.training.cross_validation import TrainingPlan
from tomopoint.training.fit import STRIDE, MemberTask


def official_score(plan: TrainingPlan, task: MemberTask, network: PointNetwork) -> float:
    """Return the official score of `network` on the runs held out from `task`.

    Every class counts with the best F4 of its curve, as in the winner's validation score: thresholds chosen on the
    runs they are judged on flatter all epochs alike, and only their order matters here.
    """
    records = [plan.records[name] for name in task.fold.validation_runs]
    kind = plan.recipe.crops.tomo_types[0]
    infos = [record.infos[kind] for record in records]
    pipeline = Pipeline(
        particles=plan.recipe.particles,
        voxel_A=infos[0].voxel_A,
        stride=STRIDE,
        normalisation=plan.recipe.normalisation,
        tiling=choose_tiling([info.shape_zyx for info in infos], network.divisor),
    )
    device = str(next(network.parameters()).device)
    was_training = network.training
    engine = TorchEngine(network, pipeline.tiling.window_zyx, device=device)
    tables = [
        predict_tomogram(read_tomogram(info.path), engine, pipeline).assign(experiment=record.run.name)
        for info, record in zip(infos, records, strict=True)
    ]
    network.train(was_training)
    truth = {record.run.name: record.picks_xyz_A for record in records}
    grid = threshold_grid(pipeline.decoding.floor)
    curves = sweep(truth, pd.concat(tables, ignore_index=True), pipeline.particles, grid)
    weights = np.array([particle.weight for particle in pipeline.particles])
    best = np.array([curves[particle.name].f_beta.max(initial=0.0) for particle in pipeline.particles])
    return float((weights * best).sum() / weights.sum())
