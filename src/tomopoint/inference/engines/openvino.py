"""OpenVINO: the exported graph on a CPU, in float32 or in the half precision that the CPU has units for.

OpenVINO takes a wish for a precision and may compile for another one without a word (asked for float16, a CPU without
its units gets bfloat16), so what a compiled graph really computes in is read from it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tomopoint.errors import EngineError, PipelineError
from tomopoint.inference.engines.engine import INPUT, OFFSETS, SCORES, Array
from tomopoint.inference.engines.graph_metadata import pipeline_in, read_metadata
from tomopoint.pipeline import Pipeline

OPENVINO = "openvino"
"""The runtime's name in ``engine.json``."""

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""What OpenVINO calls a precision when it is asked for it; and, in runtime graphs, when it computes in it."""
UNITS = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
"""What it calls it where it lists what a CPU has units for."""

LAYERS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul")
"""Operators that take the time, and that :class:`OpenVinoOptions` counts; those of a runtime graph are below."""
COMPILED_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")

INSTALL = "`pip install 'tomopoint[openvino]'` (in a checkout: make setup GPU=0)"


@dataclass(frozen=True)
class OpenVinoOptions:
    """How a graph is compiled.

    Attributes
    ----------
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``; it is what the graph gets, or there is an error.
    first, last
        So many convolutions after the input, and before the outputs, with all that lies between them, stay in float32
        where the precision is another.
    threads
        CPU threads; 0: all cores that this process may use.
    pinning
        Whether each thread stays on one core. Several processes that pin share the first cores between them, and leave
        the others idle.
    streams
        So many windows (of a graph with a batch: so many batches) are computed at once, each by its share of the
        threads: many cores do not all find work in one window of a narrow network.
    """

    precision: str = "fp32"
    first: int = 0
    last: int = 0
    threads: int = 0
    pinning: bool = False
    streams: int = 1

    def __post_init__(self) -> None:
        numbers = (self.first, self.last, self.threads, self.streams)
        if self.precision not in HINTS or not all(type(n) is int and n >= 0 for n in numbers) or self.streams < 1:
            raise EngineError(
                f"OpenVINO takes one of the precisions {', '.join(HINTS)}, numbers of layers and threads that are not "
                f"negative, and one stream or more; got {self.precision!r}, {numbers}"
            )


def installed_version() -> str:
    """Return the version of OpenVINO, which is not imported for it; EngineError where it is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError as error:
        raise EngineError(f"OpenVINO is not installed; {INSTALL}") from error


def load_openvino() -> Any:
    """Import OpenVINO, without its telemetry.

    Importing it makes a client's number, writes it into the user's home and sends an event to Google, unless the
    package that does so is missing: then it goes without. So for the time of the import it is missing.

    Raises
    ------
    EngineError
        It is not installed, or cannot be loaded here.
    """
    telemetry = "openvino_telemetry"
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(f"OpenVINO cannot be imported ({error}); {INSTALL}") from error
    finally:
        if hidden:
            del sys.modules[telemetry]


def precisions_here() -> tuple[str, ...]:
    """Return the half precisions that OpenVINO says it has units for in this CPU, the faster first."""
    with _told("cannot ask for this CPU's precisions"):
        units = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(precision for precision in ("bf16", "fp16") if UNITS[precision] in units)


class OpenVinoEngine:
    """An exported graph in OpenVINO, on the CPU.

    Parameters
    ----------
    path
        The graph, with its Pipeline in the metadata.
    options
        See :class:`OpenVinoOptions`.

    Attributes
    ----------
    layers
        How many convolutions are computed in which precision, by OpenVINO's name of it.

    Raises
    ------
    EngineError
        OpenVINO is missing, cannot read or compile the graph, or would not compute it in the precision asked for.
    PipelineError
        The metadata is missing, or the graph's inputs and outputs are not those of its Pipeline.
    """

    def __init__(self, path: Path, options: OpenVinoOptions | None = None) -> None:
        self.path = path
        self.options = options = options or OpenVinoOptions()
        self.pipeline = pipeline_in(read_metadata(path), path)
        self._openvino = load_openvino()
        with _told(f"cannot load {path} in {options.precision}"):
            core = self._openvino.Core()
            graph = core.read_model(path)
            self._batch, self.window_zyx = _check_signature(graph, self.pipeline, path)
            self.batch = options.streams * self._batch
            self._shapes = {name: tuple(graph.output(name).shape) for name in (SCORES, OFFSETS)}
            if options.first or options.last:
                graph = _with_float32_kept(self._openvino, core, graph, options)
            compiled = core.compile_model(graph, "CPU", _properties(options))
            self.layers = _precisions_of(compiled)
            self._requests = [compiled.create_infer_request() for _ in range(options.streams)]
        self._check_precision(compiled)

    def infer(self, windows: Array) -> tuple[Array, Array]:
        """Run the graph, see :class:`~tomopoint.inference.engines.engine.Engine`."""
        count = len(windows)
        n_calls = -(-count // self._batch)
        if padding := n_calls * self._batch - count:  # the graph's batch is fixed
            zeros = np.zeros((padding, *windows.shape[1:]), dtype=np.float32)
            windows = np.concatenate([windows, zeros])
        windows = np.require(windows, np.float32, ["C", "W"])  # OpenVINO takes no array that it might not write to
        outputs = {name: np.empty((len(windows), *shape[1:]), dtype=np.float32) for name, shape in self._shapes.items()}
        with _told(f"failed on {self.path}"):
            requests = self._requests[:n_calls]
            for index, request in enumerate(requests):
                # Arrays that OpenVINO reads and writes in place: new ones for every call, which stay the caller's.
                part = slice(index * self._batch, (index + 1) * self._batch)
                for name, array in ({INPUT: windows} | outputs).items():
                    request.set_tensor(name, self._openvino.Tensor(array[part], shared_memory=True))
                request.start_async()
            for request in requests:
                request.wait()
        return outputs[SCORES][:count], outputs[OFFSETS][:count]

    def describe(self) -> dict[str, Any]:
        """Return runtime, version, precision, and how many layers are computed in which."""
        return {
            "runtime": OPENVINO,
            "version": installed_version(),
            "model": str(self.path),
            "precision": self.options.precision,
            "layers": dict(self.layers),
            "batch": self.batch,
            "streams": self.options.streams,
            "window_zyx": list(self.window_zyx),
        }

    def close(self) -> None:
        """Let go of the compiled graph, and with it its memory."""
        del self._requests

    def _check_precision(self, compiled: Any) -> None:
        """Refuse a graph that was not compiled for the precision that was asked for."""
        wanted = HINTS[self.options.precision]
        hint = compiled.get_property("INFERENCE_PRECISION_HINT")
        others = set(self.layers) - {wanted, HINTS["fp32"]}
        if hint != getattr(self._openvino.Type, wanted) or others:
            raise EngineError(
                f"OpenVINO was asked for {self.options.precision} and computes {self.path} in {hint.get_type_name()}: "
                "this CPU has no units for it; take another precision"
            )
        if self.options.precision != "fp32" and not self.layers[wanted]:
            raise EngineError(f"no layer of {self.path} would be computed in {self.options.precision}; take fp32")


def _properties(options: OpenVinoOptions) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": HINTS[options.precision],
        "INFERENCE_NUM_THREADS": options.threads or len(os.sched_getaffinity(0)),
        "NUM_STREAMS": options.streams,
        "ENABLE_CPU_PINNING": options.pinning,
    }


def _precisions_of(compiled: Any) -> Counter[str]:
    """Count the layers of a compiled graph by what they are computed in."""
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return Counter(
        info["runtimePrecision"].astype(str) for info in infos if info["layerType"].astype(str) in COMPILED_LAYERS
    )


def _with_float32_kept(openvino: Any, core: Any, graph: Any, options: OpenVinoOptions) -> Any:
    """Return the graph with its first and last layers marked to be computed in float32.

    The mark is an attribute of OpenVINO's own (``DisablePrecisionConversion``), which its Python interface can read
    from a file only, not make. A version that does not know it computes everything in the precision asked for, which
    the comparison with float32 then judges.
    """
    kept = first_and_last(graph, options.first, options.last)
    with TemporaryDirectory(prefix="tomopoint.") as folder:
        xml = Path(folder) / "graph.xml"
        openvino.serialize(graph, str(xml), str(xml.with_suffix(".bin")))
        tree = ElementTree.parse(xml)
        for layer in tree.iter("layer"):
            if layer.get("name") in kept and layer.get("type") not in ("Const", "Parameter", "Result"):
                _mark(layer)
        tree.write(xml)
        return core.read_model(xml)


def _mark(layer: ElementTree.Element) -> None:
    """Give a layer of OpenVINO's XML the attribute that keeps it from being computed in less than float32."""
    info = layer.find("rt_info")
    if info is None:
        info = ElementTree.Element("rt_info")
        ports = [index for index, child in enumerate(layer) if child.tag in ("input", "output")]
        layer.insert(ports[0], info)  # before the ports, where OpenVINO itself writes it
    ElementTree.SubElement(
        info, "attribute", {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
    )


def first_and_last(graph: Any, first: int, last: int) -> set[str]:
    """Return the names of the operators of an OpenVINO graph that lie next to its input or to its outputs.

    Parameters
    ----------
    graph
        As OpenVINO read it.
    first
        Those that no more than so many layers lead to, themselves included.
    last
        Those that fewer than so many layers follow.
    """
    operators = graph.get_ordered_ops()
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for node in operators:
        inputs = [node.input_value(port).get_node().get_friendly_name() for port in range(node.get_input_size())]
        before[node.get_friendly_name()] = max((before[name] for name in inputs), default=0) + _is_layer(node)
    for node in reversed(operators):
        users = [
            target.get_node()
            for port in range(node.get_output_size())
            for target in node.output(port).get_target_inputs()
        ]
        after[node.get_friendly_name()] = max(
            (after[user.get_friendly_name()] + _is_layer(user) for user in users), default=0
        )
    return {name for name in before if before[name] <= first or after[name] < last}


def _is_layer(node: Any) -> int:
    return int(node.get_type_name() in LAYERS)


def _check_signature(graph: Any, pipeline: Pipeline, path: Path) -> tuple[int, tuple[int, int, int]]:
    """Return batch and window of a graph; PipelineError where its ports are not those of its Pipeline."""
    ports = {port.get_any_name(): port for port in (*graph.inputs, *graph.outputs)}
    found = {
        name: list(port.shape) if port.get_partial_shape().is_static else str(port.get_partial_shape())
        for name, port in ports.items()
    }
    batch, window = found.get(INPUT, [0])[0], pipeline.tiling.window_zyx
    cells = [size // pipeline.stride for size in window]
    expected = {
        INPUT: [batch, 1, *window],
        SCORES: [batch, len(pipeline.particles), *cells],
        OFFSETS: [batch, 3, *cells],
    }
    types = {port.get_element_type().get_type_name() for port in ports.values()}
    if found != expected or types != {"f32"}:
        raise PipelineError(
            f"{path} maps and takes {found} ({', '.join(sorted(types))}), its Pipeline needs {expected} in float32; "
            "graph and metadata do not belong together, export it again"
        )
    return int(batch), window


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn OpenVINO's errors into EngineError."""
    try:
        yield
    except (EngineError, PipelineError):
        raise
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        # OpenVINO tells where in its source it threw, line by line; the last lines say what.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(line for line in lines if not line.startswith("Exception from")) or repr(error)
        raise EngineError(
            f"OpenVINO {what} ({reason}); take another precision, or ONNX Runtime (--provider cpu)"
        ) from error


def options_in(recorded: Mapping[str, Any], precision: str) -> OpenVinoOptions:
    """Return the options that an ``engine.json`` holds; EngineError where they are none."""
    try:
        first, last = recorded["kept_in_fp32"]
        streams = recorded.get("streams", 1)  # records of earlier versions say nothing of it
        return OpenVinoOptions(precision, first, last, recorded["threads"], recorded["pinning"] is True, streams)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"engine.json does not say how OpenVINO was asked ({error}); record it again") from error
