"""A graph that somebody else made, and whether it can be averaged with ours.

It has to have our ports: ``volume`` (B, 1, D, H, W) to ``scores`` (B, K, D/s, H/s, W/s) and, if it predicts them,
``offsets`` (B, 3, D/s, H/s, W/s), all float32, of the same static window, batch and stride as ours. It is given what
our Pipeline makes of a tomogram: voxels of its size, standardised, protein dark.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, checker, inliner, version_converter

from tomopoint.data.channels import parse_channels, particle_channels
from tomopoint.data.reading import VOXEL_TOLERANCE
from tomopoint.errors import EngineError, PipelineError, reason_of
from tomopoint.export.graph import OPSET
from tomopoint.files import sha256_of
from tomopoint.inference.engines.engine import INPUT, OFFSETS, SCORES, Array
from tomopoint.inference.engines.graph_metadata import PIPELINE_KEY
from tomopoint.inference.engines.onnx import answers_of
from tomopoint.pipeline import Pipeline

CHANNELS_KEY = "channels"
"""Metadata of a foreign graph that name its classes, separated by commas."""

ROUNDING = 1e-3
"""Scores may pass 0 and 1 by this much, which half precision leaves."""

FAR_CELLS = 8
"""Offsets of more cells are unlikely: they may be Angstrom."""

STANDARD_DOMAINS = ("", "ai.onnx")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForeignGraph:
    """A graph of somebody else, checked.

    Attributes
    ----------
    path, sha256
        The file.
    model
        The graph itself, in the operators' version of ours, without functions.
    channel_of
        Of each of our particles the channel of the scores, None where it does not know the particle.
    has_offsets
        Whether it predicts them.
    is_half
        Whether weights of it are float16.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto
    channel_of: tuple[int | None, ...]
    has_offsets: bool
    is_half: bool


def load_foreign(path: Path, pipeline: Pipeline, batch: int, channels: Sequence[str] = ()) -> ForeignGraph:
    """Read a foreign graph and check it against our Pipeline.

    Parameters
    ----------
    path
        The file.
    pipeline
        Of the graph that it is to be averaged with.
    batch
        Of that graph.
    channels
        Names of its classes in the order of its channels; empty: its own metadata say them.

    Raises
    ------
    EngineError
        No graph, other ports, shapes or types than ours, or operators that cannot be had in our version.
    PipelineError
        It was made for other voxels or another normalisation.
    DataError
        What its channels are is not said, or not known.
    """
    try:
        model = onnx.load(path)
        checker.check_model(model)
    except OSError as error:
        raise EngineError(f"cannot read {path} ({error.strerror}); name an ONNX file") from error
    except Exception as error:  # protobuf and the checker have no common base but Exception
        raise EngineError(f"{path} is not an ONNX graph ({reason_of(error)}); export it again") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    n_channels, has_offsets = _check_ports(model.graph, path, pipeline, batch)
    _check_origin(metadata, path, pipeline)
    channel_of = _channel_of(metadata, path, pipeline, n_channels, channels)
    is_half = any(weight.data_type == TensorProto.FLOAT16 for weight in model.graph.initializer)
    return ForeignGraph(path, sha256_of(path), _in_our_opset(model, path), channel_of, has_offsets, is_half)


def probe(foreign: ForeignGraph, windows: Array, stride: int) -> dict[str, Array]:
    """Run it on some windows, and return its outputs by name.

    Parameters
    ----------
    foreign
        Which.
    windows
        ``(B, 1, D, H, W)`` float32, normalised.
    stride
        Voxels per cell.

    Raises
    ------
    EngineError
        Scores or offsets that are not finite, scores outside [0, 1], or the same wherever one looks.
    """
    answers = answers_of(foreign.path, {INPUT: windows})
    for name in (SCORES, OFFSETS) if foreign.has_offsets else (SCORES,):
        if not np.isfinite(answers[name]).all():
            raise EngineError(f"{foreign.path} returns {name} that are not finite on a window of noise and dips")
    low, high = float(answers[SCORES].min()), float(answers[SCORES].max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise EngineError(
            f"{foreign.path} returns scores from {low:g} to {high:g}, not from 0 to 1; export it with its sigmoid or "
            "softmax inside"
        )
    if high - low == 0:
        raise EngineError(
            f"{foreign.path} returns {high:g} everywhere on a window of noise and dips; was it trained on voxels of "
            "mean 0 and standard deviation 1?"
        )
    furthest = float(np.abs(answers[OFFSETS]).max()) if foreign.has_offsets else 0.0
    if furthest > FAR_CELLS * stride:
        logger.warning(
            "%s has offsets of up to %.3g; they are taken as voxels, in the order z, y, x", foreign.path, furthest
        )
    return answers


def _check_ports(graph: onnx.GraphProto, path: Path, pipeline: Pipeline, batch: int) -> tuple[int, bool]:
    """Return the number of classes, and whether there are offsets."""
    weights = {weight.name for weight in graph.initializer}  # old exporters list them among the inputs
    inputs = {port.name: port for port in graph.input if port.name not in weights}
    outputs = {port.name: port for port in graph.output}
    if set(inputs) != {INPUT} or SCORES not in outputs or not set(outputs) <= {SCORES, OFFSETS}:
        raise EngineError(
            f"{path} maps {', '.join(inputs) or 'nothing'} to {', '.join(outputs)}; it has to map {INPUT} to {SCORES} "
            f"and, where it predicts them, {OFFSETS}: export it with these names"
        )
    ports = {**inputs, **outputs}
    if wrong := [name for name, port in ports.items() if port.type.tensor_type.elem_type != TensorProto.FLOAT]:
        raise EngineError(f"{', '.join(wrong)} of {path} must be float32; export it with casts at its ports")
    window = pipeline.tiling.window_zyx
    cells = tuple(size // pipeline.stride for size in window)
    shapes = {name: _shape(port) for name, port in ports.items()}
    n_channels = shapes[SCORES][1] if len(shapes[SCORES]) == 5 else None
    wanted: dict[str, tuple[int | str | None, ...]] = {
        INPUT: (batch, 1, *window),
        SCORES: (batch, n_channels, *cells),
        OFFSETS: (batch, 3, *cells),
    }
    for name, shape in shapes.items():
        if shape != wanted[name] or not all(isinstance(size, int) for size in shape):
            needed = ("classes" if size == n_channels and name == SCORES else size for size in wanted[name])
            raise EngineError(
                f"{name} of {path} has shape ({', '.join(map(str, shape))}), ours needs "
                f"({', '.join(map(str, needed if name == SCORES else wanted[name]))}), all of it static; export it "
                f"for this window, or ours for that one (tomopoint validate --window, tomopoint export --batch)"
            )
    assert isinstance(n_channels, int)
    return n_channels, OFFSETS in outputs


def _shape(port: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    dims = port.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)


def _check_origin(metadata: Mapping[str, str], path: Path, pipeline: Pipeline) -> None:
    """Refuse a graph of this project that was made for other tomograms than ours."""
    if PIPELINE_KEY not in metadata:
        return
    theirs = Pipeline.from_json(metadata[PIPELINE_KEY], source=f"the metadata of {path}")
    if abs(theirs.voxel_A / pipeline.voxel_A - 1) > VOXEL_TOLERANCE:
        raise PipelineError(
            f"{path} was trained at voxels of {theirs.voxel_A:.3f} A, ours at {pipeline.voxel_A:.3f} A; both read the "
            "same windows, so that they have to agree"
        )
    if theirs.normalisation != pipeline.normalisation:
        raise PipelineError(
            f"{path} normalises tomograms otherwise ({theirs.normalisation}) than ours ({pipeline.normalisation}); "
            "both read the same windows, so that they have to agree"
        )
    if theirs.tomo_type != pipeline.tomo_type:
        logger.warning("%s was validated on %s tomograms, ours on %s", path, theirs.tomo_type, pipeline.tomo_type)


def _channel_of(
    metadata: Mapping[str, str], path: Path, pipeline: Pipeline, n_channels: int, channels: Sequence[str]
) -> tuple[int | None, ...]:
    names = tuple(channels)
    if not names and PIPELINE_KEY in metadata:
        names = Pipeline.from_json(metadata[PIPELINE_KEY], source=f"the metadata of {path}").particle_names
    names = names or parse_channels(metadata.get(CHANNELS_KEY, ""))
    found = particle_channels(path, names, n_channels, pipeline.particle_names)
    return tuple(found.get(name) for name in pipeline.particle_names)


def _in_our_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return a graph without functions whose operators are of :data:`~tomopoint.export.graph.OPSET`."""
    model = inliner.inline_local_functions(model)
    if others := sorted({node.domain for node in model.graph.node} - set(STANDARD_DOMAINS)):
        raise EngineError(
            f"{path} has operators of {', '.join(others)}, which other runtimes do not have; export it with the "
            "standard ones"
        )
    versions = {entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS}
    if versions == {OPSET}:
        return model
    try:
        converted: Any = version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises what it runs into
        raise EngineError(
            f"{path} has operators of opset {max(versions)}, and they cannot be had in ours ({reason_of(error)}); "
            f"export it with opset {OPSET}"
        ) from error
    logger.info("%s: operators of opset %d converted to %d", path, max(versions), OPSET)
    return converted  # type: ignore[no-any-return]
