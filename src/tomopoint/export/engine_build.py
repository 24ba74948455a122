"""A TensorRT plan from an ONNX graph. One path for TensorRT and TensorRT-RTX: what is tested without a GPU runs on one.

Precision is in the graph, not in a flag (TensorRT 11 and RTX have none): networks are built strongly typed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from tomopoint.errors import EngineError
from tomopoint.files import whole_or_absent
from tomopoint.inference.engines.gpus import T4_COMPUTE_CAPABILITY
from tomopoint.inference.engines.tensorrt_module import CLASSIC, TensorRT, logger_of, register_plugins, require_gpu

BYTES_PER_GIB = 1 << 30

CAREFUL_TIMINGS = 8
"""Runs over which a kernel's time is averaged on a second try; TensorRT's own choice is 1."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    Attributes
    ----------
    workspace_gib
        Most scratch memory that may be taken on the device, GiB. A T4 has 15, which it shares with the weights of all
        networks and the activations of a window. Sixteen full-size networks at the default window need more than 4.
    optimization_level
        0 to 5: time the builder spends on looking for faster kernels.
    timing_cache_path
        Classic TensorRT only (RTX measures nothing): timings of kernels, read before and written after the build; a
        second build on the same kind of GPU is faster. None: not kept.
    compute_capability
        TensorRT-RTX only: GPU to build for, which need not be here. Classic TensorRT builds for the GPU at hand.
    native_norms
        False: classic TensorRT takes its plugin for instance norms, not its own layers; which is faster is to be
        measured (so the parser's documentation).
    other_tactics
        Classic TensorRT only, for a build whose outputs were wrong: choose among other kernels. Nothing in TensorRT's
        interface says how a convolution sums (some sum float16 in float16, NVIDIA/TensorRT issue 2942), so kernels
        that sum in float32 cannot be asked for; what can be done is to shut out the kernels compiled from source for
        this graph, to average timings, so that chance decides less, and to use no timing cache, which would lead to the
        same choices.
    """

    workspace_gib: float = 8.0
    optimization_level: int = 4
    timing_cache_path: Path | None = None
    compute_capability: str = T4_COMPUTE_CAPABILITY
    native_norms: bool = True
    other_tactics: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.workspace_gib < inf:
            raise EngineError(f"--workspace-gib must be positive, got {self.workspace_gib:g}")
        if not 0 <= self.optimization_level <= 5:
            raise EngineError(f"--optimization-level must lie between 0 and 5, got {self.optimization_level}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: what holds wherever it is built."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("timing_cache_path", "compute_capability")
        }


@dataclass(frozen=True)
class Plan:
    """A built plan.

    Attributes
    ----------
    data
        Buffer with the serialised engine.
    compute_capability
        GPU it is for.
    n_layers
        Layers of the parsed network.
    parse_seconds, build_seconds
        How long it took.
    """

    data: Any
    compute_capability: str
    n_layers: int
    parse_seconds: float
    build_seconds: float

    @property
    def n_bytes(self) -> int:
        """Size of the plan."""
        return int(memoryview(self.data).nbytes)


def build_plan(onnx_path: Path, trt: TensorRT, options: BuildOptions) -> Plan:
    """Build a plan.

    Parameters
    ----------
    onnx_path
        Graph with static shapes.
    trt
        From :func:`~tomopoint.inference.engines.tensorrt_module.load_tensorrt`.
    options
        Scratch memory, effort, target and what else the builder can be told.

    Raises
    ------
    EngineError
        No GPU where one is needed, a graph that TensorRT cannot parse (names the node and its operator) or cannot
        compile, shapes that are not static.
    """
    if trt.name == CLASSIC:  # its Builder fails without a device, its Runtime ends the process
        target = require_gpu(f"building an engine with {trt.title}").compute_capability
    else:
        target = options.compute_capability
    log = logger_of(trt)
    log.errors.clear()
    builder = trt.module.Builder(log)
    start = time.monotonic()
    network, _parser = _parse(onnx_path, trt, builder, options)
    parsed = time.monotonic()
    logger.info("%s: %d layers parsed, building for compute capability %s", onnx_path, network.num_layers, target)
    config = _configure(trt, builder, options)
    if trt.name != CLASSIC:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_find_capability(trt, target), 0)
    cache_path = options.timing_cache_path if trt.name == CLASSIC and not options.other_tactics else None
    if cache_path is not None:
        attach_timing_cache(config, cache_path)
    data = builder.build_serialized_network(network, config)
    if data is None:
        why = log.last_error
        if "FP32 3D convolution" in why:  # a limit of TensorRT-RTX on Turing
            why += "; export the graph with --precision fp16"
        if "OutOfMemory" in why or "workspace" in why:
            why += (
                f"; it may take {options.workspace_gib:g} GiB beside its weights: give more with --workspace-gib, or "
                "export fewer networks or a smaller window"
            )
        raise EngineError(f"{trt.title} cannot build {onnx_path} for compute capability {target}: {why}")
    if cache_path is not None:
        write_bytes(cache_path, config.get_timing_cache().serialize())
    plan = Plan(data, target, network.num_layers, parsed - start, time.monotonic() - parsed)
    logger.info("%s: built in %.0f s, %.1f MB", onnx_path, plan.build_seconds, plan.n_bytes / 1e6)
    return plan


def _parse(onnx_path: Path, trt: TensorRT, builder: Any, options: BuildOptions) -> tuple[Any, Any]:
    """Return the parsed network, and the parser, which must live as long: it owns the weights."""
    if not onnx_path.is_file():
        raise EngineError(f"no graph {onnx_path}; write one with `tomopoint export`")
    flags = 1 << int(trt.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.module.OnnxParser(network, logger_of(trt))
    if not options.native_norms:
        register_plugins(trt)
        parser.clear_flag(trt.module.OnnxParserFlag.NATIVE_INSTANCENORM)
    if not parser.parse_from_file(str(onnx_path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise EngineError(f"{trt.title} cannot parse {onnx_path}: {_describe_errors(errors)}")
    ports = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [port.name for port in ports if any(size < 0 for size in port.shape)]
    if dynamic:
        raise EngineError(
            f"{onnx_path} leaves sizes of {', '.join(dynamic)} open; export it with a static window and batch"
        )
    layers = (network.get_layer(index) for index in range(network.num_layers))
    if not options.native_norms and not any(layer.type.name.startswith("PLUGIN") for layer in layers):
        raise EngineError(
            f"{trt.title} made no norm of {onnx_path} a plugin: the engine with its own layers is the same"
        )
    return network, parser


def _describe_errors(errors: Sequence[Any]) -> str:
    """Name operator and node of each parser error, once."""
    lines = []
    for error in errors:
        where = f"operator {error.node_operator()} (node {error.node_name()})" if error.node_operator() else "the file"
        kind = error.code().name.lower().replace("_", " ")
        lines.append(f"{where}: {kind} ({error.desc().strip()})")
    return "; ".join(dict.fromkeys(lines)) or "it gives no reason"


def _configure(trt: TensorRT, builder: Any, options: BuildOptions) -> Any:
    """Return the builder's configuration."""
    config = builder.create_builder_config()
    n_bytes = int(options.workspace_gib * BYTES_PER_GIB)
    config.set_memory_pool_limit(trt.module.MemoryPoolType.WORKSPACE, n_bytes)
    config.builder_optimization_level = options.optimization_level
    config.max_aux_streams = 0  # ten networks are parallel branches: on streams of their own they share no activations
    if options.other_tactics and trt.name == CLASSIC:
        config.avg_timing_iterations = CAREFUL_TIMINGS
        compiled = getattr(trt.module.TacticSource, "JIT_CONVOLUTIONS", None)
        if compiled is not None:
            config.set_tactic_sources(config.get_tactic_sources() & ~(1 << int(compiled)))
    return config


def _find_capability(trt: TensorRT, compute_capability: str) -> Any:
    name = f"SM{compute_capability.replace('.', '')}"
    known = trt.module.ComputeCapability
    if name not in known.__members__:
        names = [f"{n[2:-1]}.{n[-1]}" for n in known.__members__ if n.startswith("SM")]
        raise EngineError(f"{trt.title} builds for compute capability {', '.join(names)}, not {compute_capability}")
    return getattr(known, name)


def attach_timing_cache(config: Any, path: Path) -> None:
    """Give the builder the cache stored at `path`, or a new one where there is none that fits."""
    stored = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        logger.info("the timing cache %s is of another TensorRT or GPU; starting a new one", path)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def write_bytes(path: Path, data: Any) -> None:
    """Write a buffer to `path`, atomically."""
    with whole_or_absent(path) as temporary, temporary.open("wb") as stream:
        stream.write(memoryview(data))
