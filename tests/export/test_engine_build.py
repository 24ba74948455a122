"""Graphs through TensorRT's real ONNX parser and, for a T4 that is not here, through TensorRT-RTX's compiler.

This proves that operators, shapes and types are accepted. It says nothing of numbers: those need the device.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tomopoint.errors import EngineError
from tomopoint.export import engine_build
from tomopoint.export.engine_build import (
    BuildOptions,
    Plan,
    _configure,
    attach_timing_cache,
    build_plan,
    write_bytes,
)
from tomopoint.export.graph import Graph
from tomopoint.export.graph_form import graph_form
from tomopoint.inference.engines.gpus import Gpu
from tomopoint.inference.engines.tensorrt_module import CLASSIC, RTX, TensorRT, load_tensorrt, logger_of
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NETWORK_NAMES, NetworkConfig
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, ScoreMap

N_CLASSES = 6
SMALL_ZYX = (64, 64, 64)
FULL_ZYX = (192, 256, 256)

NARROW = {
    "segresnet": NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=6, offset_width=4),
    "dynunet": NetworkConfig("dynunet", filters=(4, 8, 16), features=8, class_width=6, offset_width=4),
    "dynunet-residual": NetworkConfig(
        "dynunet-residual", filters=(4, 8, 16), features=8, class_width=6, offset_width=4
    ),
    "two levels": NetworkConfig("dynunet", filters=(4, 8, 8, 8), features=8, class_width=6, offset_width=4, levels=2),
    "heatmap": NetworkConfig("heatmap", init_filters=8, blocks_down=(1, 1, 1), class_width=6),
    "flexible-unet": NetworkConfig("flexible-unet", width=1 / 16, filters=(12, 10, 8, 6, 4), levels=2),
    "efficientnet-b3": NetworkConfig(
        "flexible-unet", encoder="efficientnet-b3", width=1 / 16, filters=(12, 10, 8, 6, 4)
    ),
    "unet": NetworkConfig("unet", filters=(4, 8, 8)),
}
FULL = {
    **{name: NetworkConfig(name) for name in NETWORK_NAMES},
    "efficientnet-b3": replace(NARROW["efficientnet-b3"], width=None, filters=None),
}


def test_every_network_is_tested():
    assert {config.name for config in NARROW.values()} == set(NETWORK_NAMES)


@pytest.fixture(scope="module")
def rtx() -> TensorRT:
    return load_tensorrt(RTX)


def export(module: nn.Module, path: Path, window_zyx=SMALL_ZYX, half: bool = True) -> Path:
    """Write a graph the way the exporter does."""
    Graph(graph_form(module, "fp16" if half else "fp32"), window_zyx, batch=1).save(path)
    return path


def network(name: str, config: NetworkConfig | None = None) -> nn.Module:
    torch.manual_seed(0)
    return build_network(config or NARROW[name], N_CLASSES, stride=2)


def tiny_graph(path: Path, nodes, size=(1, 3, 3), opset: int = 20, constants=None) -> Path:
    """Write a graph of some nodes from tensor `a` to tensor `b`; constants are vectors of ones, of some length."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name in "ab"]
    ones = [numpy_helper.from_array(np.ones(n, np.float32), name) for name, n in (constants or {}).items()]
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], ones)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


@pytest.mark.parametrize("name", NARROW)
def test_every_network_in_half_precision_compiles_for_a_t4(name, rtx, tmp_path):
    graph = export(network(name), tmp_path / "net.onnx")
    plan = build_plan(graph, rtx, BuildOptions())
    assert plan.compute_capability == "7.5"
    assert plan.n_layers > 30
    weights = sum(np.prod(tensor.dims) for tensor in onnx.load(graph).graph.initializer)
    assert plan.n_bytes > weights  # at least a byte of each weight is in it


def test_a_merged_graph_with_views_and_offsets_by_score_compiles_for_a_t4(rtx, tmp_path):
    ensemble = Ensemble(
        [network("segresnet"), network("dynunet")],
        weights=[2, 1],
        views=("identity", "flip_x"),
        offset_average="score",
    )
    plan = build_plan(export(ensemble, tmp_path / "merged.onnx"), rtx, BuildOptions())
    assert plan.n_bytes > 0


def test_a_graph_in_float32_parses_but_turing_has_no_such_convolution(rtx, tmp_path):
    graph = export(network("dynunet"), tmp_path / "net.onnx", half=False)
    with pytest.raises(EngineError, match=r"cannot build .*net\.onnx for compute capability 7\.5: .*FP32 3D"):
        build_plan(graph, rtx, BuildOptions())
    assert build_plan(graph, rtx, BuildOptions(compute_capability="8.0")).compute_capability == "8.0"


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("merge", ["gmean", "max"])
def test_a_blend_with_maps_weights_per_class_and_turned_views_compiles(merge, half, rtx, tmp_path):
    """In fp16 for a T4; in fp32 for the capability that has such convolutions."""
    particles = COMPETITION_PARTICLES
    score_map = ScoreMap("segmentation", "ribosome", (0.0, 0.001, 0.02, 0.1, 1.0), (0.0, 0.3, 0.6, 0.9, 1.0))
    members = (
        Member("fold0", "segresnet", (), None, "0", class_weights=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)),
        Member("fold0", "dynunet", (), None, "1", kind="segmentation"),
    )
    pipeline = Pipeline(
        particles,
        10.0,
        views=("identity", "transpose_flip_z"),
        view_merge=merge,
        members=members,
        score_maps=(score_map,),
    )
    ensemble = Ensemble.of_pipeline([network("segresnet"), network("dynunet")], pipeline)
    options = BuildOptions() if half else BuildOptions(compute_capability="8.0")
    assert build_plan(export(ensemble, tmp_path / "blend.onnx", half=half), rtx, options).n_bytes > 0


@pytest.mark.parametrize("operator", ["Det", "Frobnicate"])
def test_an_unsupported_operator_is_named_with_its_node(operator, rtx, tmp_path):
    domain = "" if operator == "Det" else "example"
    nodes = [helper.make_node("Relu", ["a"], ["c"]), helper.make_node(operator, ["c"], ["b"], "culprit", domain=domain)]
    graph = tiny_graph(tmp_path / "odd.onnx", nodes)
    with pytest.raises(EngineError, match=rf"cannot parse .*odd\.onnx: operator {operator} \(node culprit\)"):
        build_plan(graph, rtx, BuildOptions())


def test_what_is_no_graph_is_refused(rtx, tmp_path):
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 100)
    with pytest.raises(EngineError, match="cannot parse"):
        build_plan(tmp_path / "junk.onnx", rtx, BuildOptions())
    with pytest.raises(EngineError, match=r"no graph .*absent\.onnx"):
        build_plan(tmp_path / "absent.onnx", rtx, BuildOptions())


def test_open_sizes_are_refused(rtx, tmp_path):
    graph = tiny_graph(tmp_path / "open.onnx", [helper.make_node("Relu", ["a"], ["b"])], size=("n", 3, 3))
    with pytest.raises(EngineError, match=r"sizes of a open; export it with a static window"):
        build_plan(graph, rtx, BuildOptions())


def test_options_are_checked(rtx, tmp_path):
    graph = tiny_graph(tmp_path / "relu.onnx", [helper.make_node("Relu", ["a"], ["b"])])
    with pytest.raises(EngineError, match=r"builds for compute capability 7\.5, .*, not 6\.0"):
        build_plan(graph, rtx, BuildOptions(compute_capability="6.0"))
    with pytest.raises(EngineError, match="workspace"):
        BuildOptions(workspace_gib=0)
    with pytest.raises(EngineError, match="optimization-level"):
        BuildOptions(optimization_level=6)


def test_norms_that_no_plugin_takes_are_no_engine_of_their_own(rtx, tmp_path):
    """TensorRT-RTX has no plugins, so its parser makes layers of them whatever it is told: for real."""
    nodes = [helper.make_node("InstanceNormalization", ["a", "scale", "bias"], ["b"])]
    graph = tiny_graph(tmp_path / "norm.onnx", nodes, size=(1, 3, 4, 4, 4), constants={"scale": 3, "bias": 3})
    assert build_plan(graph, rtx, BuildOptions()).n_bytes > 0
    with pytest.raises(EngineError, match=r"made no norm of .*norm\.onnx a plugin"):
        build_plan(graph, rtx, BuildOptions(native_norms=False))


def test_what_the_builder_is_told(rtx):
    """On the real configuration of TensorRT-RTX, which has every setting of the classic one that is used."""
    classic = TensorRT(CLASSIC, rtx.module, "10.16.1.11")
    builder = rtx.module.Builder(logger_of(rtx))
    usual = _configure(classic, builder, BuildOptions())
    assert usual.get_memory_pool_limit(rtx.module.MemoryPoolType.WORKSPACE) == 8 << 30
    assert (usual.max_aux_streams, usual.builder_optimization_level, usual.avg_timing_iterations) == (0, 4, 1)
    source = rtx.module.TacticSource
    assert usual.get_tactic_sources() == 1 << int(source.EDGE_MASK_CONVOLUTIONS) | 1 << int(source.JIT_CONVOLUTIONS)
    other = _configure(classic, builder, BuildOptions(optimization_level=3, other_tactics=True))
    assert other.get_tactic_sources() == 1 << int(source.EDGE_MASK_CONVOLUTIONS)
    assert (other.max_aux_streams, other.builder_optimization_level, other.avg_timing_iterations) == (0, 3, 8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_second_try_takes_no_timings_from_the_first(rtx, tmp_path, monkeypatch):
    classic = TensorRT(CLASSIC, rtx.module, "10.16.1.11")
    monkeypatch.setattr(engine_build, "require_gpu", lambda _: Gpu(0, "Tesla T4", "7.5", 15 << 30))
    graph = tiny_graph(tmp_path / "relu.onnx", [helper.make_node("Relu", ["a"], ["b"])])
    cache = tmp_path / "timing.cache"
    build_plan(graph, classic, BuildOptions(timing_cache_path=cache, other_tactics=True))
    assert not cache.exists()
    build_plan(graph, classic, BuildOptions(timing_cache_path=cache))
    assert cache.is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # RTX keeps these calls, as no-ops
def test_the_timing_cache_is_kept_and_a_damaged_one_replaced(rtx, tmp_path):
    config = rtx.module.Builder(logger_of(rtx)).create_builder_config()
    path = tmp_path / "kept" / "timing.cache"
    attach_timing_cache(config, path)
    empty = bytes(config.get_timing_cache().serialize())
    write_bytes(path, config.get_timing_cache().serialize())
    assert path.read_bytes() == empty
    path.write_bytes(b"not a cache")
    attach_timing_cache(config, path)
    assert bytes(config.get_timing_cache().serialize()) == empty


def test_a_build_says_when_it_begins_and_ends(rtx, tmp_path, caplog):
    graph = tiny_graph(tmp_path / "relu.onnx", [helper.make_node("Relu", ["a"], ["b"])])
    with caplog.at_level("INFO", logger="tomopoint.export.engine_build"):
        build_plan(graph, rtx, BuildOptions())
    begun, ended = (r.getMessage() for r in caplog.records if r.name == "tomopoint.export.engine_build")
    assert begun == f"{graph}: 1 layers parsed, building for compute capability 7.5"
    assert ended.startswith(f"{graph}: built in ")


def test_a_plan_is_written_whole(tmp_path):
    plan = Plan(b"serialised", "7.5", 1, 0.0, 0.0)
    write_bytes(tmp_path / "out" / "ensemble.engine", plan.data)
    assert (tmp_path / "out" / "ensemble.engine").read_bytes() == b"serialised"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ensemble.engine"]
    assert plan.n_bytes == 10


def test_too_little_scratch_memory_names_the_option(rtx, tmp_path):
    graph = export(network("efficientnet-b3"), tmp_path / "net.onnx")
    with pytest.raises(EngineError, match=r"workspace limit.*give more with --workspace-gib"):
        build_plan(graph, rtx, BuildOptions(workspace_gib=1e-9))


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_every_network_of_full_width_compiles_for_a_t4_at_the_full_window(name, rtx, tmp_path):
    graph = export(network(name, FULL[name]), tmp_path / "full.onnx", FULL_ZYX)
    plan = build_plan(graph, rtx, BuildOptions())
    assert plan.n_bytes > 2_000_000
    assert plan.n_bytes < 8 * graph.stat().st_size  # a depth-wise convolution may bring maps of zeros along
