"""The command `tomopoint validate`."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from tomopoint import __version__
from tomopoint.command import CommandResult, parse_zyx
from tomopoint.errors import TomopointError

logger = logging.getLogger(__name__)


def validate(
    folders: list[Path],
    /,
    *,
    out: Path | None = None,
    data: Path | None = None,
    weights: str = "equal",
    score_maps: Literal["out-of-fold", "none"] = "out-of-fold",
    views: str = "1",
    view_merge: Literal["mean", "gmean", "max"] = "max",
    offset_average: Literal["mean", "score"] = "mean",
    window: str | None = None,
    overlap: str | None = None,
    machine: Literal["t4", "cpu"] = "t4",
    thresholds: str = "curve",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    cluster: str | None = None,
) -> CommandResult:
    """Score held-out runs by networks that never saw them.

    Predicts each with the average of all networks that never saw it and chooses thresholds. Writes pipeline.json, which
    is what is exported: weights, views, tiling, merging and decoding are those of the submission. Picks of a run are
    kept in validation/ beside it and not made again while weights and settings stay the same.

    Parameters
    ----------
    folders
        Training folders, which `tomopoint train` wrote; several are calibrated together, as the one average they will
        be.
    out
        Ensemble folder for the results of several; default beside the first, their names joined by +.
    data
        Project folder, where it is no longer the one that was trained on.
    weights
        Shares of the networks: equal; out-of-fold, chosen on held-out runs for every architecture of every training
        folder and every particle, as far from equal as they gain on runs that had no part in the choice, which predicts
        every run once more; or your own, as segmentation=2,segmentation:ribosome=0.5.
    score_maps
        What brings scores of segmentation networks to the scale of detection networks before they are averaged:
        out-of-fold, fitted on held-out runs, which predicts every run once more; or none. Without both kinds nothing.
    views
        Views to merge, as their number (1, 2, 4, 8, 16) or by name, e.g. identity,flip_x,rot90: better and so many
        times slower, here and in the graph.
    view_merge
        How scores of one network in several views are merged: mean, gmean (their geometric mean) or max.
    offset_average
        score: offsets of the more certain networks count more.
    window
        Network input in voxels, as z,y,x; default the one that covers these tomograms with the fewest voxels computed,
        of no more voxels than --machine takes at once.
    overlap
        Smallest overlap of neighbouring windows in voxels, as z,y,x; default 64, at most half the window.
    machine
        What the graph is for, where no window is given: t4, up to 192x256x256 voxels at once; cpu, up to 192x352x352,
        which computes a sixth less and takes twice the memory.
    thresholds
        How they are chosen: curve (the centre of the plateau of F4), curve:0.5 (the same on average over tomograms in
        which scores are up to this share lower: for tomograms of another kind), counts or counts:1.5 (so many picks per
        true particle; 2 by default), or the path of another training folder's pipeline.json to take them from.
    device
        Where to predict.
    cluster
        Predict on many processes or machines by Dask, each a run: local:N, the address or file of a scheduler, or
        slurm:N, pbs:N, lsf:N, sge:N jobs, also as MIN-MAX. They share the disk with the folders and --data.
    """
    from tomopoint.data.tomograms import describe_tomogram
    from tomopoint.evaluation.calibration import calibrate
    from tomopoint.files import check_output, write_atomically
    from tomopoint.inference.tiles import MACHINES, choose_tiling
    from tomopoint.networks.views import parse_views
    from tomopoint.pipeline import PIPELINE_NAME, Pipeline
    from tomopoint.training.machine import Machine
    from tomopoint.validation.ensemble_folder import RESULT, load_ensemble, save_ensemble
    from tomopoint.validation.out_of_fold import is_held_out_run_there, predict_held_out, predict_held_out_run
    from tomopoint.validation.result import calibrated, parse_thresholds, validation_text
    from tomopoint.validation.run_task import ByCrew
    from tomopoint.validation.score_maps import are_kinds_there, fit_score_maps, predict_kinds, runs_of_all_kinds
    from tomopoint.validation.validated import state_of
    from tomopoint.validation.weights import (
        are_candidates_there,
        choose_weights,
        judged_candidates,
        parse_weights,
        predict_candidates,
        with_weights,
    )

    calibration_options = parse_thresholds(thresholds)
    if isinstance(calibration_options, Path) and weights == "out-of-fold":
        raise TomopointError(
            f"--weights {weights} needs picks to judge by, but --thresholds {thresholds} predicts nothing; "
            "give one of them"
        )
    processor = "cuda" if cluster is None and Machine(device).on_gpu else "cpu"

    # The networks, and the Pipeline of their average as the submission will compute it, not yet calibrated.
    ensemble = load_ensemble(folders, out)
    project = ensemble.project(data)
    names = [held_out.name for held_out in ensemble.held_out] or [run.name for run in project.runs("train")]
    shapes = [describe_tomogram(project.run(n, "train").tomogram_path(ensemble.tomo_type)).shape_zyx for n in names]
    window_zyx = None if window is None else parse_zyx("window", window)
    overlap_zyx = None if overlap is None else parse_zyx("overlap", overlap)
    pipeline = Pipeline(
        particles=ensemble.particles,
        voxel_A=ensemble.records[0].voxel_A,
        stride=ensemble.records[0].stride,
        normalisation=ensemble.records[0].normalisation,
        tiling=choose_tiling(shapes, ensemble.divisor, window_zyx, overlap_zyx, MACHINES[machine]),
        tomo_type=ensemble.tomo_type,
        offset_average=offset_average,
    )
    pipeline = pipeline.with_views(parse_views(views), view_merge).of_members(ensemble.members)
    if weights not in ("equal", "out-of-fold"):
        shares = parse_weights(weights, ensemble)
        pipeline = replace(pipeline, members=with_weights(pipeline.members, ensemble.siblings, shares))
    path = ensemble.folder / PIPELINE_NAME

    # Thresholds of another validation: nothing is predicted, so there is nothing to score.
    if isinstance(calibration_options, Path):
        check_output(path, [calibration_options])
        other = Pipeline.load(calibration_options)
        decoding = replace(pipeline.decoding, residual_xyz_A=other.decoding.residual_xyz_A)
        taken = other.score_maps if score_maps == "out-of-fold" and len(ensemble.of_kinds) > 1 else ()
        adopted = replace(pipeline, decoding=decoding, score_maps=taken).with_thresholds(other.thresholds)
        (ensemble.folder / RESULT).unlink(missing_ok=True)  # of thresholds that are no longer the ensemble's
        save_ensemble(ensemble)
        adopted.save(path)
        text = f"wrote {path} with the thresholds of {calibration_options}; nothing was predicted, so it holds no score"
        return CommandResult(text, {"pipeline": str(path), "thresholds": adopted.thresholds})
    if not ensemble.held_out:
        raise TomopointError(
            f"no network of {ensemble.command()} holds a run out, so thresholds cannot be measured; "
            "take those of a validated training folder with --thresholds FOLDER/pipeline.json, best of the same recipe "
            "trained on folds, or validate it together with one"
        )

    calibration_options = replace(calibration_options, floor=pipeline.decoding.floor)
    fitted = chosen = None
    with ExitStack() as stack:
        by_crew = None
        if cluster is not None:
            from tomopoint.cluster.hiring import hired

            hire = partial(hired, cluster, device)
            by_crew = ByCrew(hire, stack, ensemble, project, tuple(folders), out, device)
        held_out_names = [held_out.name for held_out in ensemble.held_out]

        # What makes scores of several kinds comparable, then how much each network counts. What a crew has predicted
        # is read back from its files.
        if score_maps == "out-of-fold" and len(ensemble.of_kinds) > 1:
            if by_crew:
                by_crew.predict(predict_kinds, are_kinds_there, pipeline, runs_of_all_kinds(ensemble), "score maps")
            fitted = fit_score_maps(ensemble, pipeline, project, processor)
            pipeline = replace(pipeline, score_maps=fitted.score_maps)
            logger.info("%s", fitted.text)
        if weights == "out-of-fold":
            if by_crew:
                judged_candidates(ensemble)  # says at once where there is nothing to choose
                by_crew.predict(predict_candidates, are_candidates_there, pipeline, held_out_names, "weights")
            chosen = choose_weights(ensemble, pipeline, project, processor, calibration_options)
            pipeline = replace(pipeline, members=with_weights(pipeline.members, ensemble.siblings, chosen.shares))
            logger.info("weights: %s", chosen.reason)

        # Predict every held-out run, and choose thresholds on all of these picks.
        if by_crew:
            by_crew.predict(predict_held_out_run, is_held_out_run_there, pipeline, held_out_names, "validate")
        picks, records = predict_held_out(ensemble, pipeline, project, processor)
    truth = ensemble.read_truth(project)
    calibration = calibrate(truth, picks, ensemble.groups, pipeline.particles, calibration_options)
    final = calibrated(pipeline, calibration)
    for name in calibration.best_at_floor:
        logger.warning(
            "F4 of %s still rises at %.3f, the lowest score that picks are kept at, so its threshold is no choice: the "
            "networks hardly know this particle; train longer, or show more of it (crops.class_balance)",
            *(name, pipeline.decoding.floor),
        )

    # Write: the Pipeline last, from then on it is what is exported.
    content = {
        "method": calibration_options.method,
        "score_loss": calibration_options.score_loss,
        "training_folders": [str(folder) for folder in ensemble.training_folders],
        "data_root": str(project.root.resolve()),
        "simulated": project.is_simulated,
        "without_score": [f"{ensemble.fold_of(i)}/{ensemble.records[i].network.title}" for i in ensemble.unjudged],
        "weights": chosen.to_dict() if chosen else None,
        "score_maps": fitted.to_dict() if fitted else None,
        "predictions": records,
        **calibration.to_dict(),
    }
    record = {"tomopoint": __version__, "pipeline_sha256": final.digest, "state_sha256": state_of(final), **content}
    save_ensemble(ensemble)
    write_atomically(ensemble.folder / RESULT, json.dumps(record) + "\n")
    final.save(path)

    lines = [validation_text(calibration, project.is_simulated)]
    lines += [ensemble.unjudged_text()] if ensemble.unjudged else []
    lines += [fitted.text] if fitted else []
    lines += [f"weights, {chosen.reason}"] if chosen else []
    lines += [f"wrote {path}", f"next: tomopoint export {ensemble.folder} -o ensemble.onnx"]
    figures = {name: value for name, value in content.items() if name not in ("curves", "per_group")}
    return CommandResult("\n".join(lines), {**figures, "pipeline": str(path)})
