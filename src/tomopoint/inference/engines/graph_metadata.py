"""The metadata of an ONNX file, read without loading its weights or any runtime.

An ONNX file is one protobuf message; its entries are either skipped by their length or, where they are metadata, read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tomopoint.errors import EngineError, PipelineError
from tomopoint.files import require_file
from tomopoint.pipeline import Pipeline
from tomopoint.strict_json import Malformed, parse

GRAPH_NAME = "ensemble.onnx"
"""The exported graph, unless its user names it otherwise; in a kit always."""

PIPELINE_KEY = "tomopoint.pipeline"
"""Under which a graph carries its Pipeline."""

PARITY_KEY = "tomopoint.parity"
"""Under which a graph carries the table of its differences from PyTorch."""

COST_KEY = "tomopoint.cost"
"""Under which a graph carries what it costs, see :mod:`tomopoint.inference.cost`."""

NETWORKS_KEY = "tomopoint.networks"
"""Under which a graph carries the architectures of its networks, see :mod:`tomopoint.networks.graph_weights`."""

EXPORT_KEY = "tomopoint.export"
"""Under which a graph carries how it was exported: precision, batch, versions."""

_METADATA_PROPS = 14  # ModelProto.metadata_props in onnx.proto, a StringStringEntryProto of key (1) and value (2)
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf
_MAX_VARINT_BYTES = 10


def read_pipeline(model_path: Path) -> Pipeline:
    """Read the Pipeline in a graph's metadata; PipelineError where there is none, EngineError where it is no graph."""
    return pipeline_in(read_metadata(model_path), model_path)


def pipeline_in(metadata: Mapping[str, str], model_path: Path) -> Pipeline:
    """Return the Pipeline in `metadata`, which is that of `model_path`; PipelineError where there is none."""
    if PIPELINE_KEY not in metadata:
        raise PipelineError(
            f"{model_path} carries no Pipeline in its metadata; write the graph with `tomopoint export`"
        )
    return Pipeline.from_json(metadata[PIPELINE_KEY], source=f"the metadata of {model_path}")


def precision_in(metadata: Mapping[str, str]) -> str:
    """Return the precision a graph was exported in; that of a graph that does not say so is taken for ``"fp32"``."""
    with suppress(Malformed, KeyError, TypeError):
        if parse(metadata[EXPORT_KEY])["precision"] == "fp16":
            return "fp16"
    return "fp32"


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a graph.

    Raises
    ------
    EngineError
        No such file, or not an ONNX file.
    """
    found: dict[str, str] = {}
    try:
        require_file(path)
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            while stream.tell() < size:
                number, wire, length = _read_tag(stream)
                if stream.tell() + length > size:
                    raise ValueError(f"an entry of {length} bytes is cut off")
                if number == _METADATA_PROPS and wire == _LENGTH:
                    key, value = _read_entry(stream, length)
                    found[key] = value
                else:
                    stream.seek(length, os.SEEK_CUR)
    except OSError as error:
        raise EngineError(f"cannot read {path} ({error.strerror}); write the graph with `tomopoint export`") from error
    except ValueError as error:
        raise EngineError(f"{path} is not an ONNX file ({error}); write the graph with `tomopoint export`") from error
    return found


def _read_tag(stream: BinaryIO) -> tuple[int, int, int]:
    """Return field number, wire type, and how many bytes of the entry follow."""
    tag = _read_varint(stream)
    number, wire = tag >> 3, tag & 7
    if number == 0:
        raise ValueError("a field number is 0")
    if wire == _VARINT:
        _read_varint(stream)
        return number, wire, 0
    if wire == _LENGTH:
        return number, wire, _read_varint(stream)
    if wire in (_FIXED64, _FIXED32):
        return number, wire, 8 if wire == _FIXED64 else 4
    raise ValueError(f"an entry has the unknown type {wire}")


def _read_entry(stream: BinaryIO, length: int) -> tuple[str, str]:
    """Read key and value of one piece of metadata."""
    end = stream.tell() + length
    texts = {1: "", 2: ""}
    while stream.tell() < end:
        number, _, size = _read_tag(stream)
        if size > end - stream.tell():
            raise ValueError(f"a text of {size} bytes is cut off")
        texts[number] = stream.read(size).decode()
    return texts[1], texts[2]


def _read_varint(stream: BinaryIO) -> int:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = stream.read(1)
        if not byte:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:
            return value
    raise ValueError("a number has too many bytes")
