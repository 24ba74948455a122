"""The commands ``models``, ``predict``, ``status``, ``verify`` and ``rethreshold``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError
from tomopoint.inference.folder import SUBMISSION_NAME

logger = logging.getLogger(__name__)


def models() -> CommandResult:
    """List the trained models that come with the package.

    Their names may be given wherever a command takes a graph as --model, and as `pretrained` in a recipe.
    """
    from tomopoint.files import sha256_of
    from tomopoint.inference.engines.graph_metadata import read_pipeline
    from tomopoint.models.box import NEVER_SEEN_A_REAL_ONE, box_models, card_of, load_record

    figures: dict[str, Any] = {}
    lines: list[str] = []
    for name, path in box_models().items():
        pipeline, record = read_pipeline(path), load_record(path)
        if record.onnx_sha256 != sha256_of(path):
            raise TomopointError(
                f"{path} is not the graph that its record describes; restore the one that it names, or remove both"
            )
        scores = ", ".join(f"{what} {score:.3f}" for what, score in record.simulated_scores.items())
        n_networks = f"{len(pipeline.members)} network{'s' * (len(pipeline.members) != 1)}"
        lines += [
            f"{name}: {path.stat().st_size / 1e6:.1f} MB, {n_networks}, for voxels of about {pipeline.voxel_A:.3g} A",
            f"  detects {', '.join(pipeline.particle_names)}",
            f"  simulated F4: {scores}",
            f"  {NEVER_SEEN_A_REAL_ONE}. Model card: {card_of(path)}",
        ]
        figures[name] = {
            "model": str(path),
            "n_bytes": path.stat().st_size,
            "n_networks": len(pipeline.members),
            "particles": list(pipeline.particle_names),
            "voxel_A": pipeline.voxel_A,
            "simulated_scores": dict(record.simulated_scores),
        }
    return CommandResult("\n".join(lines) or "this package comes without models", {"models": figures})


def predict(
    *,
    data: Path,
    model: Path,
    out: Path,
    split: Literal["train", "test"] = "test",
    runs: str = "",
    workers: int = 0,
    provider: Literal["auto", "tensorrt", "cuda", "openvino", "cpu"] = "auto",
    tomo_type: str | None = None,
    limit_hours: float | None = None,
    engine: Path | None = None,
    voxel_size: float | None = None,
    voxel_spacing: float | None = None,
    resample: Literal["auto", "never"] | None = None,
    invert: Literal["auto", "yes", "no"] | None = None,
    cluster: str | None = None,
) -> CommandResult:
    """Pick particles in many tomograms; write submission.csv.

    Run the same command again after a stop: runs that are done are not repeated. Where particles, radii or weights are
    not the competition's, submission.csv names one class per place; tomopoint rethreshold --exclusive=no keeps both.

    Parameters
    ----------
    data
        Project folder, the one that holds train/ and test/. Or tomograms of your own: a file, a folder or a quoted
        pattern of .mrc, .mrcs or .rec; an OME-Zarr store or a folder of them, also behind a URL (s3://, https://); a
        copick project; VoxelSpacing folders.
    model
        The graph, ensemble.onnx; or the name of a model that comes with the package, see tomopoint models.
    out
        Folder for parts, picks.csv (all picks with scores), submission.csv and log.jsonl.
    split
        Which tomograms.
    runs
        Only these runs, by name, separated by commas.
    workers
        Processes; 0: one per GPU, or one where there is none. They share the CPU's cores.
    provider
        What computes the graph; auto: TensorRT with --engine, else CUDA, beside a GPU; OpenVINO, else ONNX Runtime,
        on the CPU only without one. cpu: ONNX Runtime.
    tomo_type
        Reconstruction to read; default the one the graph was validated on.
    limit_hours
        Start no further run after this time and write the submission from what is done.
    engine
        engine.json that `tomopoint engine` or the build_engine notebook made for the model: used as it says.
    voxel_size
        Edge of their voxels in Angstrom, whatever the files say.
    voxel_spacing
        Which VoxelSpacing folders are read, where there are several.
    resample
        Other voxels than the graph's: auto, resampled on reading, with picks in the tomogram's own Angstrom; never,
        refused. Default auto, and never for projects.
    invert
        Graphs know dark protein. auto: where protein is light, values change their sign; yes or no: whatever they tell.
        Default auto, and no for projects.
    cluster
        Predict on many processes or machines by Dask: local:N, the address or file of a scheduler, or slurm:N, pbs:N,
        lsf:N, sge:N jobs, also as MIN-MAX. They share the disk that holds --data, --model and --out.
    """
    from tomopoint.data.reading import VOXEL_TOLERANCE, Reading
    from tomopoint.data.sources.find import find_tomograms
    from tomopoint.data.sources.tree import Choice
    from tomopoint.extras import require_module
    from tomopoint.files import PLAIN_NAME, is_plain_name
    from tomopoint.inference.engines.graph_metadata import read_pipeline
    from tomopoint.inference.predict_runs import PredictOptions, predict_runs
    from tomopoint.models.box import NEVER_SEEN_A_REAL_ONE, find_model, is_in_box

    model = find_model(model)
    if cluster is None:
        require_module("onnxruntime")  # no engine loads without; better said now than by workers that die of it
    if is_in_box(model):
        logger.warning("%s: %s", model.name, NEVER_SEEN_A_REAL_ONE)
    if tomo_type is not None and not is_plain_name(tomo_type):
        raise TomopointError(f"--tomo-type must be {PLAIN_NAME}, e.g. denoised; got {tomo_type!r}")
    if limit_hours is not None and not limit_hours >= 0:
        raise TomopointError(f"--limit-hours must not be negative, got {limit_hours}; leave it out for no limit")
    pipeline = read_pipeline(model)

    # What is meant by --data, and what is done to it on reading: nothing to a project, unless asked for.
    found = find_tomograms(data, split, Choice(voxel_spacing, tomo_type, pipeline.tomo_type), voxel_size)
    if not found.is_project or voxel_size or resample or invert:
        logger.info("%s", found.text)
        resample, invert = (
            resample or ("never" if found.is_project else "auto"),
            invert or ("no" if found.is_project else "auto"),
        )
        reading = Reading(pipeline.voxel_A, VOXEL_TOLERANCE, pipeline.tomo_type, resample, invert)
        found = found.read_as(reading)
    options = PredictOptions(workers, provider, found.tomo_type, limit_hours, engine)
    if cluster is None:
        summary = predict_runs(found.named(runs), model, out, options)
    else:
        from tomopoint.cluster.hiring import predict_on_cluster

        summary = predict_on_cluster(found.named(runs), model, out, options, cluster)
    return CommandResult(summary.text(), summary.figures(), summary.ok)


def status(out: Path, /) -> CommandResult:
    """Tell what a prediction is at.

    It may be at work, in another terminal or on another machine that shares the disk, or have died: done, running,
    failed and left runs, the rate, the expected end, the last warnings. Nothing is changed.

    Parameters
    ----------
    out
        Folder that `tomopoint predict` was given as --out.
    """
    from tomopoint.inference.status import prediction_status

    found = prediction_status(out)
    return CommandResult(found.text(), found.figures())


def verify(
    submission: Path,
    /,
    *,
    data: Path,
    split: Literal["train", "test"] = "test",
    out: Path | None = None,
    tomo_type: str | None = None,
    voxel_size: float | None = None,
    voxel_spacing: float | None = None,
) -> CommandResult:
    """Check a submission: what the competition takes, and what the prediction says.

    Looked at are columns, ids, numbers, names, whether each pick lies inside its tomogram, doubled picks, runs without
    a pick; and, of the prediction, whether the submission holds what its parts give, parts of another graph, damaged
    parts, runs that are not predicted, incomplete stores. All that is wrong is listed.

    Parameters
    ----------
    submission
        The CSV.
    data
        Project folder that holds the tomograms, or any other place of tomograms that tomopoint predict was given.
    split
        Which runs the submission is about.
    out
        Folder of the prediction, for its parts, log.jsonl and pipeline.json; default the folder of the submission.
    tomo_type
        Reconstruction, as tomopoint predict was told.
    voxel_size
        Edge of the voxels in Angstrom, as tomopoint predict was told.
    voxel_spacing
        VoxelSpacing folders, as tomopoint predict was told.
    """
    from tomopoint.data.sources.find import find_tomograms
    from tomopoint.data.sources.tree import Choice
    from tomopoint.inference.verify import predicted_tomo_type, verify_submission

    choice = Choice(voxel_spacing, tomo_type, predicted_tomo_type(out or submission.parent))
    source = find_tomograms(data, split, choice, voxel_size)
    found = verify_submission(submission, source, split, out)
    return CommandResult(found.text(), found.figures(), found.ok)


def rethreshold(
    picks: Path,
    /,
    *,
    out: Path = Path(SUBMISSION_NAME),
    thresholds: str = "",
    pipeline: Path | None = None,
    exclusive: bool | None = None,
) -> CommandResult:
    """Write another submission with other thresholds, without a GPU.

    It is made from all picks of a prediction, in seconds. A table that holds picks twice is refused.

    Parameters
    ----------
    picks
        picks.csv that `tomopoint predict` or the submit notebook left.
    out
        Submission to write.
    thresholds
        Changed thresholds, e.g. ribosome=0.3,thyroglobulin=0.2, or thresholds.json of tomopoint tune; the others stay
        as in the pipeline.
    pipeline
        pipeline.json with the thresholds; the one beside the picks unless given.
    exclusive
        One class per place: of picks of two classes nearer than the mean of their radii, the one further above its
        threshold stays. Default where the metric is not the competition's; --exclusive=no keeps both.
    """
    from tomopoint.data.selection import parse_thresholds
    from tomopoint.files import check_output
    from tomopoint.inference.submission import submission_of
    from tomopoint.pipeline import PIPELINE_NAME, Pipeline

    pipeline = pipeline or picks.with_name(PIPELINE_NAME)
    check_output(out, [picks, pipeline])
    chosen = Pipeline.load(pipeline).with_thresholds(parse_thresholds(thresholds))
    counts = submission_of(picks, chosen, out, exclusive)
    rows = [f"  {p.name:22} threshold {p.threshold:.3f}  {counts[p.name]} picks" for p in chosen.particles]
    figures = {
        "submission": str(out),
        "n_submitted": sum(counts.values()),
        "counts": counts,
        "thresholds": chosen.thresholds,
    }
    return CommandResult("\n".join([f"{out}: {sum(counts.values())} picks", *rows]), figures)
