"""What is deployed: networks with the Pipeline that validation wrote for exactly them, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tomopoint.errors import PipelineError
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.point_network import PointNetwork
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.strict_json import build, read, reading
from tomopoint.validation.ensemble_folder import RESULT, find_folders, load_ensemble, places, training_folders_in


@dataclass(frozen=True)
class ValidatedState:
    """What ``validation.json`` says of the Pipeline beside it; None where it was written before this was said."""

    state_sha256: str | None = None


@dataclass(frozen=True)
class ValidatedEnsemble:
    """Networks and, in the order of its members, the Pipeline they were validated with.

    Attributes
    ----------
    networks
        The networks.
    pipeline
        What was validated.
    configs
        Architecture of every network.
    """

    networks: tuple[PointNetwork, ...]
    pipeline: Pipeline
    configs: tuple[NetworkConfig, ...]

    @property
    def architectures(self) -> dict[str, PointNetwork]:
        """First network of each architecture."""
        first: dict[str, PointNetwork] = {}
        for network, member in zip(self.networks, self.pipeline.members, strict=True):
            first.setdefault(member.network, network)
        return first


def load_validated(given: Sequence[Path]) -> ValidatedEnsemble:
    """Load the networks of validated training folders with the Pipeline that validation wrote.

    Parameters
    ----------
    given
        The folders that `tomopoint validate` was given, or its ensemble folder.

    Raises
    ------
    PipelineError
        They were not validated, not together, or were trained on since, or ``pipeline.json`` was changed in more than
        its thresholds.
    TomopointError
        As :func:`load_ensemble`.
    """
    folder, training_folders = find_folders(given)
    again = f"run `tomopoint validate {' '.join(str(path) for path in training_folders)}`"
    path = folder / PIPELINE_NAME
    other = folder.is_dir() and places(training_folders_in(folder)) != places(training_folders)
    if not path.is_file() or other:
        together = "" if len(training_folders) == 1 else " together"
        raise PipelineError(f"{path} is missing: these networks were never validated{together}; {again} first")
    pipeline = Pipeline.load(path)
    validated_state = None
    if (folder / RESULT).is_file():
        with reading(folder / RESULT, PipelineError, "is damaged", again):
            validated_state = build(ValidatedState, read(folder / RESULT), ignore_unknown=True).state_sha256
    if validated_state not in (None, state_of(pipeline)):
        raise PipelineError(
            f"{path} was changed by hand since it was validated; only thresholds may be. {again} again, with the "
            "options that say what you want instead (window, overlap, views, weights, score maps, offset average)"
        )
    ensemble = load_ensemble(given)
    loaded = zip(ensemble.records, ensemble.networks, strict=True)
    networks = {record.weights_sha256: (network, record.network) for record, network in loaded}
    if tuple(particle.name for particle in ensemble.particles) != pipeline.particle_names:
        raise PipelineError(f"{path} has other particles, or in another order, than the networks; {again} again")
    validated = {member.weights_sha256 for member in pipeline.members}
    for index, record in enumerate(ensemble.records):
        if record.weights_sha256 not in validated:
            title = f"{ensemble.fold_of(index)}/{record.network.title}"
            raise PipelineError(f"{title} is not in {path}: it was trained after the validation; {again} again")
    lost = [f"{m.fold}/{m.network}" for m in pipeline.members if m.weights_sha256 not in networks]
    if lost:
        raise PipelineError(f"{path} names networks that are lost ({', '.join(lost)}); restore them, or {again} again")
    ordered = [networks[member.weights_sha256] for member in pipeline.members]
    return ValidatedEnsemble(tuple(network for network, _ in ordered), pipeline, tuple(config for _, config in ordered))


def state_of(pipeline: Pipeline) -> str:
    """Return a digest of all that validation fixes: everything but the thresholds, which may be changed by hand."""
    return pipeline.with_thresholds(dict.fromkeys(pipeline.particle_names, 0.5)).digest
