"""``tomopoint export``: trained folds as one averaged graph; ``merge-graph``: with another's; ``engine``: an engine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tomopoint.command import CommandResult, parse_zyx
from tomopoint.errors import EngineError
from tomopoint.inference.engines.gpus import T4_COMPUTE_CAPABILITY
from tomopoint.inference.engines.graph_metadata import GRAPH_NAME

if TYPE_CHECKING:
    from tomopoint.export.engine_build import BuildOptions


def export(
    folders: list[Path],
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")] = Path(GRAPH_NAME),
    batch: int = 1,
    precision: Literal["fp16", "fp32"] = "fp16",
    tomogram: Path | None = None,
) -> CommandResult:
    """Merge all networks into one ONNX graph that equals PyTorch.

    The graph averages the networks of all folds. It is compared with PyTorch, and not written where it differs.

    The graph is what `tomopoint validate` calibrated: window, overlap, views, weights of the networks and the way
    offsets are averaged are options of that command, not of this one. What it costs is printed, with the hours that
    the competition's 500 tomograms would take on two T4s.

    Parameters
    ----------
    folders
        Training folders that `tomopoint validate` calibrated, all of them together; or the ensemble folder it made of
        several.
    out
        File to write; reference.npz is written beside it.
    batch
        Windows per call, fixed in the graph.
    precision
        fp16: networks in float16, sigmoid and averages in float32; fp32: float32 throughout.
    tomogram
        Store whose middle serves for the comparison with PyTorch; synthetic noise with dips unless given.
    """
    from tomopoint.export.advice import time_warning
    from tomopoint.export.cost import COMPETITION, format_projections, project
    from tomopoint.export.onnx_export import ExportOptions, export_ensemble
    from tomopoint.inference.cost import n_windows
    from tomopoint.inference.parity import format_table

    report = export_ensemble(folders, out, ExportOptions(batch=batch, precision=precision, tomogram_path=tomogram))
    members = ", ".join(f"{member.fold}/{member.network}" for member in report.pipeline.members)
    lines = [format_table(report.rows), format_projections(report.cost, report.pipeline)]
    warning = time_warning(report.cost, report.pipeline)
    text = (
        f"{report.path}: {len(report.pipeline.members)} networks averaged ({members}), {precision}, "
        f"{report.n_bytes / 1e6:.1f} MB, {report.seconds:.0f} s\n"
        + "".join(f"{line}\n" for line in (*lines, *([warning] if warning else [])))
        + f"next: tomopoint stage --model {report.path} --out dist/kaggle-dataset"
    )
    figures = {
        "model": str(report.path),
        "reference": str(report.reference_path),
        "onnx_sha256": report.onnx_sha256,
        "pipeline_digest": report.pipeline.digest,
        "n_bytes": report.n_bytes,
        "n_networks": len(report.pipeline.members),
        "parity": [row.to_dict() for row in report.rows],
        "cost": asdict(report.cost),
        "windows_per_tomogram": n_windows(report.pipeline, COMPETITION.shape_zyx),
        "hours": {p.runtime: round(p.hours, 2) for p in project(report.cost, report.pipeline)},
    }
    return CommandResult(text, figures)


def adapt(
    model: Path,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")],
    shape: str | None = None,
    machine: Literal["t4", "cpu"] = "t4",
    window: str | None = None,
    views: str | None = None,
    view_merge: Literal["mean", "gmean", "max"] | None = None,
    thresholds: str = "",
) -> CommandResult:
    """Write a graph again with another window, views, or other thresholds, from the networks in it.

    For tomograms of another shape, for a CPU, for more views, or with the thresholds of tomopoint tune. Nothing
    is trained; the new graph is compared with PyTorch, as by tomopoint export.

    Parameters
    ----------
    model
        Graph that `tomopoint export` wrote; or a model's name, see tomopoint models.
    out
        File to write; reference.npz is written beside it.
    shape
        Voxels of the tomograms, as z,y,x: the window that covers them with the fewest voxels computed is taken.
    machine
        What computes it, with --shape: t4, up to 192x256x256 voxels at once; cpu, up to 192x352x352.
    window
        Network input in voxels, as z,y,x, instead.
    views
        Views to merge, as their number (1, 2, 4, 8, 16) or by name, e.g. identity,flip_x,rot90: better and so many
        times slower.
    view_merge
        How scores of one network in several views are merged: mean, gmean (their geometric mean) or max. Default as
        they were, and max where there was one.
    thresholds
        E.g. ribosome=0.3,thyroglobulin=0.2, or thresholds.json of tomopoint tune; the others stay. Scores are others
        in another window, and in other views, so thresholds are best chosen for them.
    """
    from dataclasses import replace

    from tomopoint.data.selection import parse_thresholds
    from tomopoint.export.onnx_export import ExportOptions, export_merged
    from tomopoint.export.rebuilt import how_exported, rebuilt_networks
    from tomopoint.files import check_output
    from tomopoint.inference.cost import tomogram_cost
    from tomopoint.inference.parity import format_table
    from tomopoint.inference.reference import REFERENCE_NAME
    from tomopoint.inference.tiles import MACHINES, choose_tiling
    from tomopoint.models.box import find_model
    from tomopoint.networks.views import parse_views

    if not (shape or window or views or view_merge or thresholds):
        raise EngineError("nothing is to be changed; give --shape or --window, --views, --thresholds, or several")
    model = find_model(model)
    for path in (out, out.with_name(REFERENCE_NAME)):
        check_output(path, [model, *([Path(thresholds)] if thresholds and "=" not in thresholds else [])])
    rebuilt = rebuilt_networks(model)
    pipeline = rebuilt.pipeline.with_thresholds(parse_thresholds(thresholds))
    if shape or window:
        shapes = [_parse_shape(shape)] if shape else [pipeline.tiling.window_zyx]
        divisor = max(network.divisor for network in rebuilt.networks)
        window_zyx = None if window is None else parse_zyx("window", window)
        tiling = choose_tiling(shapes, divisor, window_zyx, largest=MACHINES[machine])
        pipeline = replace(pipeline, tiling=replace(tiling, edge_weight=pipeline.tiling.edge_weight))
    if views or view_merge:
        looks = parse_views(views) if views else pipeline.views
        if view_merge and len(looks) < 2:
            raise EngineError(f"--view-merge {view_merge}: there is one view and nothing to merge; give --views")
        merge = view_merge or (pipeline.view_merge if len(pipeline.views) > 1 else "max")
        pipeline = pipeline.with_views(looks, merge)
    report = export_merged(replace(rebuilt, pipeline=pipeline), out, ExportOptions(**how_exported(model)))
    lines = [f"{report.path}: {report.n_bytes / 1e6:.1f} MB", format_table(report.rows)]
    if shape:
        lines.append(tomogram_cost(pipeline, report.cost, parse_zyx("shape", shape)).text())
    if (shape or window or views or view_merge) and not thresholds:
        elsewhere = " and ".join(["in another window"] * bool(shape or window) + ["with other views"] * bool(views))
        lines.append(
            f"its thresholds were chosen {elsewhere}: predict runs of which the truth is known, `tomopoint tune`, and "
            "give thresholds.json to this command"
        )
    figures = {
        "model": str(report.path),
        "onnx_sha256": report.onnx_sha256,
        "window_zyx": list(pipeline.tiling.window_zyx),
        "views": list(pipeline.views),
        "thresholds": pipeline.thresholds,
        "parity": [row.to_dict() for row in report.rows],
    }
    return CommandResult("\n".join(lines), figures)


def plan(model: Path, /, *, shape: str = "184,630,630", tomograms: int = 500, gpus: int = 2) -> CommandResult:
    """Say what a graph costs on tomograms of some shape, before anything is computed.

    Windows, voxels computed per voxel of the tomogram, arithmetic, memory; the hours that many tomograms are estimated
    to take on T4s, and on this machine's CPU where the graph was tried there.

    Parameters
    ----------
    model
        Graph that `tomopoint export` wrote; or a model's name, see tomopoint models.
    shape
        Voxels of a tomogram, as z,y,x.
    tomograms
        How many.
    gpus
        T4s that share them.
    """
    from tomopoint.export.cost import TITLES, Workload, project
    from tomopoint.inference.cost import read_cost, tomogram_cost
    from tomopoint.inference.cpu_engine import decided_before
    from tomopoint.inference.engines.graph_metadata import read_pipeline
    from tomopoint.models.box import find_model

    if min(tomograms, gpus) < 1:
        raise EngineError(f"--tomograms and --gpus must be at least 1, got {tomograms} and {gpus}")
    shape_zyx = _parse_shape(shape)
    model = find_model(model)
    pipeline, cost = read_pipeline(model), read_cost(model)
    one = tomogram_cost(pipeline, cost, shape_zyx)
    lines = [f"{model.name}: {one.text()}"]
    hours: dict[str, float] = {}
    if cost is not None:
        projections = project(cost, pipeline, Workload(tomograms, shape_zyx, gpus))
        hours = {projection.runtime: projection.hours for projection in projections}
        listed = ", ".join(f"{TITLES[p.runtime]} {p.hours:.3g} h (at {p.basis})" for p in projections)
        lines.append(f"{tomograms} such tomograms on {gpus} T4{'s' * (gpus > 1)}, estimated: {listed}")
    if (record := decided_before(model)) is not None and record.seconds_per_tile is not None:
        hours["cpu"] = tomograms * one.n_windows * record.seconds_per_tile / 3600
        lines.append(
            f"on this CPU, by the {record.seconds_per_tile:.3g} s per window that it took when it was tried here: "
            f"{one.n_windows * record.seconds_per_tile:.3g} s a tomogram, {hours['cpu']:.3g} h"
        )
    figures = {
        "model": str(model),
        "shape_zyx": list(shape_zyx),
        "window_zyx": list(one.window_zyx),
        "windows": one.n_windows,
        "voxels_per_voxel": round(one.voxels_per_voxel, 4),
        "flop": one.flop,
        "activation_bytes": one.activation_bytes,
        "host_bytes": one.host_bytes,
        "hours": {name: round(value, 3) for name, value in hours.items()},
    }
    return CommandResult("\n".join(lines), figures)


def merge_graph(
    model: Path,
    foreign: Path,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")] = Path("merged") / GRAPH_NAME,
    weight: float = 1.0,
    channels: str = "",
    scale_on: Path | None = None,
    thresholds: str = "",
) -> CommandResult:
    """Average a graph of somebody else with ours, as one graph.

    It has to have our ports, volume to scores and, where it predicts them, offsets, with the same static shapes, and
    to take the same normalised voxels (docs/fusing.md). The merged graph is compared with the mean of both, and not
    written where it differs. Its thresholds are those of ours: nobody knows which runs the other one was trained on.

    Parameters
    ----------
    model
        Our graph, which tomopoint export wrote; or a model's name, see tomopoint models.
    foreign
        The other one.
    out
        File to write; reference.npz is written beside it.
    weight
        Of the foreign graph, where ours as a whole has 1.
    channels
        What its channels are, where its metadata do not say it, e.g. background,ribosome,apo-ferritin.
    scale_on
        Project whose training runs, unseen by either graph, both predict: scores of the other graph are brought to the
        scale of ours, on which an equal score promises an equal share of right picks. Averaged as they come unless
        given.
    thresholds
        Calibrated for the merged graph, e.g. ribosome=0.3, or thresholds.json of tomopoint tune; the others stay as in
        our graph.
    """
    from tomopoint.data.channels import parse_channels
    from tomopoint.data.selection import parse_thresholds
    from tomopoint.export.advice import time_warning
    from tomopoint.export.cost import format_projections
    from tomopoint.export.merge import MergeOptions, merge_graphs
    from tomopoint.inference.parity import format_table
    from tomopoint.models.box import find_model

    given = parse_thresholds(thresholds)
    report = merge_graphs(
        find_model(model), foreign, out, MergeOptions(weight, parse_channels(channels), given, scale_on)
    )
    known = [
        name
        for name, channel in zip(report.pipeline.particle_names, report.foreign.channel_of, strict=True)
        if channel is not None
    ]
    kept = [name for name in report.pipeline.particle_names if name not in given]
    lines = [
        f"{report.path}: {model} averaged with {foreign} (weight {weight:g} to 1; it knows {', '.join(known)}; offsets "
        f"of {'both' if report.foreign.has_offsets else 'ours alone'}), {report.n_bytes / 1e6:.1f} MB",
        *([] if report.scale is None else [report.scale.text]),
        format_table([report.row]),
        format_projections(report.cost, report.pipeline),
    ]
    if warning := time_warning(report.cost, report.pipeline):
        lines.append(warning)
    if not report.foreign.is_half:
        lines.append(
            f"{foreign} computes in float32: on a T4 that takes thrice as long, and TensorRT-RTX builds no such "
            "convolution for it; where its makers can, let them export it in float16 between float32 ports"
        )
    if kept:
        lines.append(
            f"NOT CALIBRATED: the thresholds of {', '.join(kept)} are those of {model}, chosen without {foreign}. "
            "Predict runs with truth that neither was trained on (tomopoint predict), choose thresholds (tomopoint "
            "tune), then run this again with --thresholds tuned/thresholds.json"
        )
    lines.append(f"next: tomopoint predict --data ROOT --model {report.path} --out picks")
    figures = {
        "model": str(report.path),
        "reference": str(report.reference_path),
        "onnx_sha256": report.onnx_sha256,
        "foreign_sha256": report.foreign.sha256,
        "pipeline_digest": report.pipeline.digest,
        "n_bytes": report.n_bytes,
        "parity": [report.row.to_dict()],
        "cost": asdict(report.cost),
        "not_calibrated": kept,
    }
    return CommandResult("\n".join(lines), figures)


def engine(
    model: Path,
    /,
    *,
    out: Path = Path("engine"),
    flavour: Literal["auto", "tensorrt", "tensorrt_rtx", "openvino"] = "auto",
    check_only: bool = False,
    workspace_gib: float = 8.0,
    optimization_level: int = 4,
    compute_capability: str = T4_COMPUTE_CAPABILITY,
    threads: int = 0,
    pinning: bool = False,
) -> CommandResult:
    """Build a TensorRT engine and check it on this machine's GPU; without a GPU, find OpenVINO's precision.

    It is compared with PyTorch and timed there; engine.json says the result. An engine serves one TensorRT version and
    one kind of GPU, or one version of OpenVINO and one kind of CPU. Without a GPU, --check-only says whether the graph
    would build.

    Parameters
    ----------
    model
        Graph that `tomopoint export` wrote, with reference.npz beside it; or a model's name, see tomopoint models.
    out
        Folder for ensemble.engine and engine.json.
    flavour
        Which runtime; auto: beside a GPU the TensorRT that is installed, without one OpenVINO.
    check_only
        Write nothing: parse and compile the graph with TensorRT-RTX, which needs no GPU.
    workspace_gib
        Most scratch memory a layer may take on the GPU.
    optimization_level
        0 to 5: more time for building, less for running.
    compute_capability
        With --check-only: GPU to compile for; 7.5 is the T4's.
    threads
        With OpenVINO: CPU threads; 0: all cores, shared between the workers of a prediction.
    pinning
        With OpenVINO: keep each thread on one core; for one worker that has the machine to itself.
    """
    from tomopoint.export.cost import COMPETITION
    from tomopoint.export.engine_build import BuildOptions
    from tomopoint.export.engine_trial import make_engine, record_cpu_engine
    from tomopoint.export.rebuilt import reference_of
    from tomopoint.inference.cpu_engine import verdict
    from tomopoint.inference.engines.engine_record import RECORD_NAME
    from tomopoint.inference.engines.gpus import find_gpus
    from tomopoint.inference.engines.openvino import OPENVINO, OpenVinoOptions
    from tomopoint.models.box import find_model

    model = find_model(model)
    options = BuildOptions(workspace_gib, optimization_level, compute_capability=compute_capability)
    if check_only:
        return _check_graph(model, flavour, options)
    following = f"next: tomopoint predict --data ROOT --model {model} --engine {out / RECORD_NAME} --out OUT"
    if flavour == OPENVINO or (flavour == "auto" and not find_gpus()):
        asked = OpenVinoOptions(threads=threads, pinning=pinning)
        with reference_of(model) as reference:
            record = record_cpu_engine(model, out, asked, reference)
        text = (
            f"{out}: OpenVINO {record.runtime_version} on {record.device} reproduces PyTorch, "
            f"{record.seconds_per_tile:.3g} s per window, in {verdict(record)}\n{following}"
        )
        return CommandResult(text, {"engine": str(out), **json.loads(record.to_json())})
    with reference_of(model) as reference:
        record = make_engine(model, out, flavour, options, reference)
    hours = f"{record.projected_hours:.3g} h"
    text = (
        f"{out}: {record.runtime} {record.runtime_version} for compute capability {record.compute_capability} "
        f"({record.device}) reproduces PyTorch, {record.seconds_per_tile:.3g} s per window: {hours} "
        f"for {COMPETITION.n_tomograms} tomograms of the competition on {COMPETITION.n_gpus} of these\n"
        f"{following}"
    )
    return CommandResult(text, {"engine": str(out), **json.loads(record.to_json())})


def _parse_shape(text: str) -> tuple[int, int, int]:
    """Read the shape of a tomogram, which is nowhere empty."""
    shape_zyx = parse_zyx("shape", text)
    if not all(shape_zyx):
        raise EngineError(f"--shape {text}: a tomogram has at least one voxel along every axis")
    return shape_zyx


def _check_graph(model: Path, flavour: str, options: BuildOptions) -> CommandResult:
    """Compile a graph for a GPU that need not be here, and say what that is worth."""
    from tomopoint.export.engine_build import build_plan
    from tomopoint.inference.engines.openvino import OPENVINO
    from tomopoint.inference.engines.tensorrt_module import CLASSIC, RTX, load_tensorrt

    if flavour in (CLASSIC, OPENVINO):
        raise EngineError("--check-only compiles with TensorRT-RTX; leave --flavour out or give tensorrt_rtx")
    trt = load_tensorrt(RTX)
    plan = build_plan(model, trt, options)
    text = (
        f"{model}: {plan.n_layers} layers parsed in {plan.parse_seconds:.1f} s and compiled for compute capability "
        f"{plan.compute_capability} in {plan.build_seconds:.1f} s by {trt.title}, {plan.n_bytes / 1e6:.1f} MB\n"
        "this proves that TensorRT's parser and a TensorRT compiler accept its operators, shapes and types; numbers, "
        "speed, memory\nand the choices of classic TensorRT show on the GPU only: the build_engine notebook tests them"
    )
    figures = {
        "tensorrt": trt.title,
        "compute_capability": plan.compute_capability,
        "layers": plan.n_layers,
        "parse_seconds": plan.parse_seconds,
        "build_seconds": plan.build_seconds,
        "n_bytes": plan.n_bytes,
    }
    return CommandResult(text, figures)
