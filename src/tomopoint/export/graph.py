"""One PyTorch module as one ONNX file: static shapes, named ports, nothing of this machine in it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from tomopoint.errors import TomopointError
from tomopoint.export.norms import with_graph_norms
from tomopoint.export.precision import with_half_networks

OPSET = 20
"""Every operator the networks need. From 21 on the exporter writes GroupNormalization, for which ONNX Runtime has no
kernel: it takes it apart into passes of float32."""

INPUT_NAME = "volume"
OUTPUT_NAMES = ("scores", "offsets")

MAX_FILE_BYTES = 2**31 - 1
"""A protobuf message cannot be larger; above it weights would need a second file, which nothing here travels with."""


def graph_form(module: nn.Module, precision: str) -> nn.Module:
    """Return the form in which a network, or an ensemble, is exported; `module` stays as it is.

    Parameters
    ----------
    module
        Honours the contract.
    precision
        ``"fp16"``, see :func:`~tomopoint.export.precision.with_half_networks`, or ``"fp32"``.
    """
    form = with_graph_norms(module)
    return with_half_networks(form) if precision == "fp16" else form


class Graph:
    """An exported module in memory.

    Parameters
    ----------
    module
        Honours the contract, in eval mode.
    window_zyx, batch
        Static input shape ``(batch, 1, D, H, W)``.
    opset
        Version of the operators.
    """

    def __init__(self, module: nn.Module, window_zyx: Sequence[int], batch: int, opset: int = OPSET) -> None:
        example = torch.zeros((batch, 1, *window_zyx))
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=list(OUTPUT_NAMES),
                verbose=False,
            )
        assert program is not None
        self._program: Any = program
        _forget_this_machine(self._program.model)

    @property
    def model(self) -> ir.Model:
        """The graph itself."""
        model: ir.Model = self._program.model
        return model

    def save(self, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write one self-contained file with `metadata` in it.

        Raises
        ------
        TomopointError
            The weights do not fit into one file.
        """
        n_bytes = sum(value.const_value.nbytes for value in self._program.model.graph.initializers.values())
        if n_bytes > MAX_FILE_BYTES:
            raise TomopointError(
                f"the weights take {n_bytes / 1e9:.1f} GB, one ONNX file holds 2.1 GB; export fewer networks or "
                "--precision fp16"
            )
        self._program.model.metadata_props.update(metadata or {})
        self._program.save(str(path), external_data=False)


def _forget_this_machine(model: Any) -> None:
    """Drop names, paths and source lines that the exporter attaches to nodes: they are large and differ by machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    model.graph.doc_string = None
    model.producer_name, model.producer_version = "tomopoint", None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter prints and warns about: its own deprecations and a missing torchvision."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
