"""Several validated training runs as one list of networks and one Pipeline."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tomopoint.errors import PipelineError
from tomopoint.networks.contract import PointNetwork
from tomopoint.pipeline import PIPELINE_NAME, Member, Pipeline
from tomopoint.training.checkpoints import find_members, load_member

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merged:
    """Networks with what is known of each, in the same order, and the Pipeline they share."""

    networks: tuple[PointNetwork, ...]
    pipeline: Pipeline

    @property
    def architectures(self) -> dict[str, PointNetwork]:
        """First network of each architecture."""
        first: dict[str, PointNetwork] = {}
        for network, member in zip(self.networks, self.pipeline.members, strict=True):
            first.setdefault(member.network, network)
        return first


def load_runs(run_folders: Sequence[Path]) -> Merged:
    """Load every finished member of some run folders.

    Raises
    ------
    PipelineError
        A run is not validated, was trained on after its validation, or the runs do not belong together.
    TomopointError
        A run without members, or a damaged one.
    """
    networks: list[PointNetwork] = []
    pipelines: list[Pipeline] = []
    for folder in run_folders:
        pipeline = Pipeline.load(folder / PIPELINE_NAME)
        loaded, members = _load_run(folder, pipeline)
        networks += loaded
        pipelines.append(replace(pipeline, members=members))
    return Merged(tuple(networks), merge_pipelines(pipelines, [str(folder) for folder in run_folders]))


def _load_run(folder: Path, pipeline: Pipeline) -> tuple[list[PointNetwork], tuple[Member, ...]]:
    """Load a run's networks and put the Pipeline's members, which hold the scores, into their order."""
    validated = {member.weights_sha256: member for member in pipeline.members}
    networks, members = [], []
    for path in find_members(folder):
        network, record = load_member(path)
        if record.weights_sha256 not in validated:
            raise PipelineError(
                f"{path} is not in {folder / PIPELINE_NAME}: trained after it; run `tomopoint validate {folder}` again"
            )
        if record.particles != pipeline.particle_names:
            raise PipelineError(
                f"{path} was trained for {', '.join(record.particles)}, in this order, but {folder / PIPELINE_NAME} "
                f"says {', '.join(pipeline.particle_names)}; run `tomopoint validate {folder}` again"
            )
        networks.append(network)
        members.append(validated.pop(record.weights_sha256))
    if validated:
        missing = ", ".join(f"{member.fold}/{member.network}" for member in validated.values())
        raise PipelineError(f"{folder} has lost members it was validated with: {missing}; restore them or validate")
    return networks, tuple(members)


def merge_pipelines(pipelines: Sequence[Pipeline], names: Sequence[str]) -> Pipeline:
    """Return one Pipeline with the members of all.

    Thresholds and the residual were chosen per run; of the average of all members they become the mean over runs,
    each run counting with the share of its members. Tiling, decoding and views are the first run's: they are no
    property of the networks.

    Raises
    ------
    PipelineError
        Particles, voxel size, stride or normalisation differ, or a network comes twice.
    """
    first = pipelines[0]
    for pipeline, name in zip(pipelines[1:], names[1:], strict=True):
        _check_agreement(first, pipeline, (names[0], name))
    members = [member for pipeline in pipelines for member in pipeline.members]
    hashes = [member.weights_sha256 for member in members]
    if len(set(hashes)) < len(hashes):
        twice = next(member for member in members if hashes.count(member.weights_sha256) > 1)
        raise PipelineError(f"{twice.fold}/{twice.network} would be averaged twice; name every run once")
    shares = [sum(member.weight for member in pipeline.members) for pipeline in pipelines]
    shares = [share / sum(shares) for share in shares]
    thresholds = {
        particle.name: sum(s * p.particle(particle.name).threshold for s, p in zip(shares, pipelines, strict=True))
        for particle in first.particles
    }
    x, y, z = (
        sum(s * p.decoding.residual_xyz_A[axis] for s, p in zip(shares, pipelines, strict=True)) for axis in range(3)
    )
    if len(pipelines) > 1:
        logger.info("thresholds are the mean over %d runs, weighted by their members: %s", len(pipelines), thresholds)
    decoding = replace(first.decoding, residual_xyz_A=(x, y, z))
    return replace(first.with_thresholds(thresholds), decoding=decoding, members=tuple(members))


def _check_agreement(first: Pipeline, other: Pipeline, names: tuple[str, str]) -> None:
    def particles(pipeline: Pipeline) -> list[tuple[str, float, float, float]]:
        return [(p.name, p.radius_A, p.weight, p.suppression_A) for p in pipeline.particles]

    compared = {
        "particles": (particles(first), particles(other)),
        "voxel_A": (first.voxel_A, other.voxel_A),
        "stride": (first.stride, other.stride),
        "normalisation": (first.normalisation, other.normalisation),
    }
    for what, (ours, theirs) in compared.items():
        if ours != theirs:
            raise PipelineError(
                f"{names[0]} and {names[1]} differ in {what} ({ours} and {theirs}) and cannot be averaged; "
                "export them apart, or train and validate one of them again"
            )
