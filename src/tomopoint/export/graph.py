"""One PyTorch module as one ONNX file: static shapes, named ports, nothing of this machine in it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from tomopoint.errors import TomopointError
from tomopoint.inference.engines.engine import INPUT, OFFSETS, SCORES

OPSET = 20
"""Every operator the networks need. From 21 on the exporter writes GroupNormalization, for which ONNX Runtime has no
kernel: it takes it apart into passes of float32."""

MAX_FILE_BYTES = 2**31 - 1
"""A protobuf message cannot be larger; above it weights would need a second file, which nothing here travels with."""


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

    Attributes
    ----------
    model
        The graph itself.
    """

    def __init__(self, module: nn.Module, window_zyx: Sequence[int], batch: int, opset: int = OPSET) -> None:
        example = torch.zeros((batch, 1, *window_zyx))
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[SCORES, OFFSETS],
                verbose=False,
            )
        assert program is not None
        self._program: Any = program
        self.model: ir.Model = program.model
        # Names, paths and source lines that the exporter attaches to nodes are large and differ by machine.
        for node in self.model.graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
        self.model.graph.doc_string = None
        self.model.producer_name, self.model.producer_version = "tomopoint", None

    @property
    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """The tensors that it holds, by name."""
        values = self.model.graph.initializers.items()
        return {name: value.const_value.numpy() for name, value in values if value.const_value is not None}

    def save(self, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write one self-contained file with `metadata` in it.

        Raises
        ------
        TomopointError
            The weights do not fit into one file.
        """
        weights = (value.const_value for value in self.model.graph.initializers.values())
        n_bytes = sum(weight.nbytes for weight in weights if weight is not None)
        if n_bytes > MAX_FILE_BYTES:
            raise TomopointError(
                f"the weights take {n_bytes / 1e9:.1f} GB, one ONNX file holds 2.1 GB; export fewer networks or "
                "--precision fp16"
            )
        self.model.metadata_props.update(metadata or {})
        self._program.save(str(path), external_data=False)


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
