"""Our graph and one of somebody else as one graph that averages both.

The scores are the weighted mean, per particle over the graphs that know it; the other graph's are brought to the scale
of ours before, where there are runs to tell it by (:mod:`tomopoint.export.foreign_scale`). The offsets are that of the
graphs that predict them, as our Pipeline says: alike, or each in proportion to its highest score in the cell.

What is compared with what
--------------------------
Nobody has PyTorch's answers of a foreign graph. The merged graph is compared with the mean, taken in numpy, of what
ONNX Runtime makes of the two files. ``reference.npz`` holds that mean, with PyTorch's answers for our part where our
own reference is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import checker, compose, helper, numpy_helper

from tomopoint.data.project import Project
from tomopoint.errors import EngineError, TomopointError
from tomopoint.export.foreign import ForeignGraph, load_foreign, probe
from tomopoint.export.foreign_scale import ForeignScale, fit_foreign_scale
from tomopoint.export.graph import MAX_FILE_BYTES, OPSET
from tomopoint.export.graph_cost import cost_of
from tomopoint.export.metadata import graph_metadata
from tomopoint.export.rebuilt import reference_of
from tomopoint.files import check_output, put_in_place, sha256_of
from tomopoint.inference.cost import GraphCost, read_cost
from tomopoint.inference.engines.engine import INPUT, OFFSETS, SCORES, Array
from tomopoint.inference.engines.graph_metadata import precision_in, read_metadata
from tomopoint.inference.engines.onnx import OnnxEngine, answers_of
from tomopoint.inference.parity import CPU_PROVIDER, Outputs, ParityRow, compare, format_table, tolerance_for
from tomopoint.inference.reference import REFERENCE_NAME, Reference, synthetic_windows
from tomopoint.networks.ensemble import SMALLEST_SCORE
from tomopoint.networks.score_maps import segments_of
from tomopoint.pipeline import Knots, Member, MemberKind, Pipeline

FOREIGN = "foreign"
"""In the place of a fold, for a member that comes from a graph of somebody else."""

Doubles = npt.NDArray[np.float64]

OURS, THEIRS = "ours.", "theirs."
"""Before the names of all that came from one of the two graphs."""


@dataclass(frozen=True)
class MergeOptions:
    """How a foreign graph joins ours.

    Attributes
    ----------
    weight
        Of the foreign graph, where ours as a whole has 1.
    channels
        What its channels are; empty: its metadata say it.
    thresholds
        That differ from our Pipeline's.
    scale_on
        Project whose training runs tell how to bring the foreign scores to the scale of ours; None: as they come.
    """

    weight: float = 1.0
    channels: tuple[str, ...] = ()
    thresholds: Mapping[str, float] | None = None
    scale_on: Path | None = None


@dataclass(frozen=True)
class Share:
    """What the foreign scores count for.

    Attributes
    ----------
    weight
        Of the foreign graph, where ours as a whole has 1.
    maps
        Of each of our particles, in channel order: the knots that its foreign scores go through; None: as they come.
    """

    weight: float
    maps: tuple[Knots | None, ...]


@dataclass(frozen=True)
class MergeReport:
    """What was written, how well it agrees with the mean of both graphs, and what it costs."""

    path: Path
    reference_path: Path
    onnx_sha256: str
    n_bytes: int
    pipeline: Pipeline
    foreign: ForeignGraph
    scale: ForeignScale | None
    row: ParityRow
    cost: GraphCost


def merge_graphs(model: Path, foreign_path: Path, out: Path, options: MergeOptions) -> MergeReport:
    """Write the average of our graph and a foreign one, with ``reference.npz`` beside it.

    Parameters
    ----------
    model
        Written by ``tomopoint export``, or by this function.
    foreign_path
        See :mod:`tomopoint.export.foreign`.
    out
        File to write.
    options
        How.

    Raises
    ------
    EngineError, PipelineError, DataError
        The foreign graph does not fit ours, or the merged one does not compute their mean; nothing is written then.
    TomopointError
        A weight that is not positive, graphs too large for one file, or an `out` that may not be replaced.
    """
    if not 0 < options.weight < 1e6:
        raise TomopointError(f"--weight must be positive, got {options.weight:g}; ours as a whole has 1")
    for path in (out, out.with_name(REFERENCE_NAME)):
        check_output(path, [model, foreign_path, model.with_name(REFERENCE_NAME)])
    metadata = read_metadata(model)
    with closing(OnnxEngine(model, provider="cpu")) as engine:  # which checks ours
        pipeline, batch = engine.pipeline, engine.batch
    foreign = load_foreign(foreign_path, pipeline, batch, options.channels)
    if foreign.has_offsets and not pipeline.predicts_offsets:
        raise EngineError(
            f"{foreign_path} predicts offsets and none of the networks of {model} does: their mean would halve them; "
            f"merge the other way round, or leave the output {OFFSETS} out of the foreign graph"
        )
    halves = (precision_in(metadata) == "fp16", foreign.is_half)
    precision = "fp16" if any(halves) else "fp32"  # of the answers

    # What both make of the same windows, and their mean.
    with reference_of(model) as path:
        reference = Reference.load(path) if path.is_file() else None
    if reference is None:
        windows = synthetic_windows(pipeline, pipeline.tiling.window_zyx, batch)
    else:
        reference.require_graph(sha256_of(model), model)
        windows = reference.windows
    theirs = probe(foreign, windows, pipeline.stride)
    answers = answers_of(model, {INPUT: windows})
    ours = Outputs(answers[SCORES], answers[OFFSETS])
    scale = None
    if options.scale_on is not None:
        scale = fit_foreign_scale(model, foreign, pipeline, batch, Project(options.scale_on))
    maps = {} if scale is None else scale.maps
    share = Share(options.weight, tuple(maps.get(name) for name in pipeline.particle_names))
    expected = mean_of(ours, theirs, foreign, share, pipeline)

    merged = _merged(onnx.load(model), foreign, share, pipeline)
    deployed = _joined_pipeline(pipeline, foreign, options)
    if merged.ByteSize() > MAX_FILE_BYTES:
        raise TomopointError(
            f"both graphs take {merged.ByteSize() / 1e9:.1f} GB, one ONNX file holds 2.1 GB; merge ones in fp16"
        )
    earlier = read_cost(model)
    cost = replace(
        cost_of(ir.serde.deserialize_model(merged), deployed, "fp16" if all(halves) else "fp32", batch),
        n_networks=(earlier.n_networks if earlier else len(pipeline.members) * len(pipeline.views)) + 1,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        path = Path(folder) / "graph.onnx"
        how_made = {
            "precision": precision,
            "batch": batch,
            "opset": OPSET,
            "merged_from": _origin(model, foreign, scale),
        }
        _save(merged, path, graph_metadata(deployed, [], how_made))
        with closing(OnnxEngine(path, provider="cpu")) as engine:
            got = Outputs(*engine.infer(windows))
        tolerance = tolerance_for(precision, pipeline.tiling.window_zyx, CPU_PROVIDER)
        row = compare("merged graph", CPU_PROVIDER, expected, got, tolerance, pipeline.stride)
        if not row.ok:
            raise EngineError(
                f"the merged graph does not compute the mean of {model} and {foreign_path}, so {out} was not written:\n"
                f"{format_table([row])}"
            )
        _save(merged, path, graph_metadata(deployed, [row], how_made, cost))
        held = expected
        if reference is not None:
            held = mean_of(reference.outputs, theirs, foreign, share, pipeline)
        written = Reference(windows, held, precision, sha256_of(path))
        written.save(out.with_name(REFERENCE_NAME))
        put_in_place(path, out)
    return MergeReport(
        out, out.with_name(REFERENCE_NAME), written.onnx_sha256, out.stat().st_size, deployed, foreign, scale, row, cost
    )


def mean_of(
    ours: Outputs, theirs: Mapping[str, Array], foreign: ForeignGraph, share: Share, pipeline: Pipeline
) -> Outputs:
    """Return the weighted mean of both graphs' outputs, in float64: what the merged graph has to compute."""
    weight = share.weight
    scores = ours.scores.astype(np.float64)
    trust_ours, trust_theirs = scores.max(axis=1, keepdims=True), np.zeros_like(scores[:, :1])
    for index, channel in enumerate(foreign.channel_of):
        if channel is not None:
            given = theirs[SCORES][:, channel].astype(np.float64)
            if (knots := share.maps[index]) is not None:
                given = np.interp(given, *knots)
            trust_theirs[:, 0] = np.maximum(trust_theirs[:, 0], given)
            scores[:, index] = (scores[:, index] + weight * given) / (1 + weight)
    offsets = ours.offsets.astype(np.float64)
    if foreign.has_offsets:
        shares: tuple[float | Doubles, float | Doubles] = (1.0, weight)
        if pipeline.offset_average == "score":
            shares = (trust_ours + SMALLEST_SCORE, weight * (trust_theirs + SMALLEST_SCORE))
        offsets = (shares[0] * offsets + shares[1] * theirs[OFFSETS]) / (shares[0] + shares[1])
    return Outputs(scores.astype(np.float32), offsets.astype(np.float32))


def _joined_pipeline(pipeline: Pipeline, foreign: ForeignGraph, options: MergeOptions) -> Pipeline:
    """Return our Pipeline with the foreign graph among its members, and thresholds as they were given."""
    total = sum(member.weight for member in pipeline.members) or 1.0
    name = foreign.path.stem
    kind: MemberKind = "detection" if foreign.has_offsets else "segmentation"
    member = Member(FOREIGN, name, (), None, foreign.sha256, options.weight * total, kind)
    return pipeline.of_members((*pipeline.members, member)).with_thresholds(options.thresholds or {})


def _origin(model: Path, foreign: ForeignGraph, scale: ForeignScale | None) -> list[dict[str, Any]]:
    scaled = {} if scale is None else {"scale": asdict(scale)}
    return [
        {"file": model.name, "sha256": sha256_of(model)},
        {"file": foreign.path.name, "sha256": foreign.sha256, **scaled},
    ]


def _merged(ours: onnx.ModelProto, foreign: ForeignGraph, share: Share, pipeline: Pipeline) -> onnx.ModelProto:
    """Put both graphs beside each other on one input, and their mean behind them."""
    parts = [
        compose.add_prefix(model, prefix, rename_inputs=False).graph
        for model, prefix in ((ours, OURS), (foreign.model, THEIRS))
    ]
    weights = [tensor for part in parts for tensor in part.initializer]
    nodes = [node for part in parts for node in part.node]
    mean_nodes, constants = _mean(foreign, share, pipeline.offset_average == "score")
    graph = helper.make_graph(
        [*nodes, *mean_nodes],
        "merged",
        [port for port in ours.graph.input if port.name == INPUT],
        list(ours.graph.output),
        [*weights, *constants],
        value_info=[value for part in parts for value in part.value_info],
    )
    merged = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="tomopoint")
    merged.ir_version = ours.ir_version
    checker.check_model(merged)
    return merged


def _mean(foreign: ForeignGraph, share: Share, by_score: bool) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes that average the outputs of both graphs, and the numbers that they need."""
    weight = share.weight
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def number(name: str, value: npt.ArrayLike, kind: type = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    knows = np.array([channel is not None for channel in foreign.channel_of])
    part = (knows * weight / (1 + weight)).reshape(1, -1, 1, 1, 1)
    picked = number("mean.channels", [channel or 0 for channel in foreign.channel_of], np.int64)
    theirs = node("Gather", [THEIRS + SCORES, picked], "mean.their_channels", axis=1)
    if any(share.maps):
        mapped = []
        for index, (slope, shift, height) in enumerate(segments_of(share.maps)):
            shape = (1, -1, 1, 1, 1)
            names = [
                number(f"scale.{what}_{index}", numbers.reshape(shape))
                for what, numbers in (("slope", slope), ("shift", shift), ("height", height))
            ]
            risen = node("Add", [node("Mul", [theirs, names[0]], f"scale.sloped_{index}"), names[1]], f"scale.{index}")
            limits = [number(f"scale.{what}_{index}", value) for what, value in (("low", 0.0), ("high", 1.0))]
            clipped = node("Clip", [risen, *limits], f"scale.clipped_{index}")
            mapped.append(node("Mul", [clipped, names[2]], f"scale.risen_{index}"))
        theirs = node("Sum", mapped, "scale.scores")
    weighed = node("Mul", [theirs, number("mean.their_share", part)], "mean.theirs")
    ours = node("Mul", [OURS + SCORES, number("mean.our_share", 1 - part)], "mean.ours")
    node("Add", [ours, weighed], SCORES)
    if not foreign.has_offsets:
        node("Identity", [OURS + OFFSETS], OFFSETS)
        return nodes, constants
    whole = weight / (1 + weight)
    first, second = number("mean.our_part", 1 - whole), number("mean.their_part", whole)
    if not by_score:
        moved = [
            node("Mul", [OURS + OFFSETS, first], "mean.our_offsets"),
            node("Mul", [THEIRS + OFFSETS, second], "mean.their_offsets"),
        ]
        node("Add", moved, OFFSETS)
        return nodes, constants
    axis, least = number("mean.axis", [1], np.int64), number("mean.least", SMALLEST_SCORE)
    known = node("Mul", [theirs, number("mean.known", knows.reshape(1, -1, 1, 1, 1))], "mean.known_scores")
    trusts, sums = [], []
    for name, scores, own, offsets in (("our", OURS + SCORES, first, OURS), ("their", known, second, THEIRS)):
        highest = node("ReduceMax", [scores, axis], f"mean.{name}_highest", keepdims=1)
        above = node("Add", [highest, least], f"mean.{name}_above")
        trusts.append(node("Mul", [above, own], f"mean.{name}_trust"))
        sums.append(node("Mul", [offsets + OFFSETS, trusts[-1]], f"mean.{name}_offsets"))
    node("Div", [node("Add", sums, "mean.offsets"), node("Add", trusts, "mean.trust")], OFFSETS)
    return nodes, constants


def _save(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str]) -> None:
    del model.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))
