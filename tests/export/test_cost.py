"""Hours from a cost, by hand; the figures of the competition itself."""

import json
from dataclasses import replace
from math import prod

import onnx
import pytest
from onnx import TensorProto, helper

from tomopoint.errors import EngineError
from tomopoint.export.advice import advice, time_warning
from tomopoint.export.cost import COMPETITION, Projection, Workload, format_projections, measured_hours, project
from tomopoint.inference.cost import GraphCost, n_windows, read_cost
from tomopoint.inference.engines.graph_metadata import COST_KEY
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, Tiling

TEN = GraphCost((192, 128, 128), 10, "fp16", 12.85e12, 227e9, 22e9, 1.2e9, 0.5e9)
"""Ten networks with float32 between their convolutions, as in docs/engines.md."""


def pipeline_of(window_zyx=(192, 128, 128), n_members=10, views=("identity",)):
    members = tuple(Member(f"fold{k}", "segresnet", (), None, f"{k:064x}") for k in range(n_members))
    tiling = Tiling(window_zyx, (64, 64, 64), 0.1)
    return Pipeline(COMPETITION_PARTICLES, 10.0, tiling=tiling, views=views, members=members)


def hours_of(cost, pipeline, workload=COMPETITION):
    return {projection.runtime: projection.hours for projection in project(cost, pipeline, workload)}


def test_windows_of_the_competition():
    assert n_windows(pipeline_of(), COMPETITION.shape_zyx) == 81
    assert n_windows(pipeline_of((192, 256, 256)), COMPETITION.shape_zyx) == 9
    assert n_windows(pipeline_of(), (192, 128, 128)) == 1


def test_the_default_tiling_reads_little_twice():
    default = Pipeline(COMPETITION_PARTICLES, 10.0)
    read = n_windows(default, COMPETITION.shape_zyx) * prod(default.tiling.window_zyx)
    assert read < 1.6 * prod(COMPETITION.shape_zyx)


def test_hours_of_ten_networks_by_hand():
    # 250 tomograms per GPU, 81 windows; the host works beside the engine.
    hours = hours_of(TEN, pipeline_of())
    assert hours["tensorrt"] == pytest.approx(250 * 81 * 12.85 / 9 / 3600, abs=0.01)
    assert hours["onnxruntime-cuda"] == pytest.approx(250 * 81 * (12.85 / 10 + 227 / 250) / 3600, abs=0.01)


def test_float32_is_projected_at_its_own_rate():
    hours = hours_of(replace(TEN, precision="fp32"), pipeline_of())
    assert hours["tensorrt"] == pytest.approx(250 * 81 * 12.85 / 3.3 / 3600, abs=0.01)


def test_the_hosts_share_follows_what_is_read_and_what_is_there():
    # No GPU time at all: the host alone. Merging scales with the voxels read, the rest with the tomogram.
    of_81 = 0.85 * 81 / 72 + 2.6
    plain = measured_hours(0, pipeline_of())
    assert plain == pytest.approx(251 * of_81 / 3600, abs=1e-6)
    large = measured_hours(0, pipeline_of((192, 256, 256)))
    assert plain - large == pytest.approx(251 * 0.85 * (81 - 36) / 72 / 3600, abs=1e-6)
    whole = Workload(1, (192, 128, 128), 1)
    host = 0.85 / 72 + 2.6 * (192 * 128 * 128) / (184 * 630 * 630)
    assert measured_hours(2.0, pipeline_of(), whole) * 3600 == pytest.approx(2.0 + host)


def test_the_slower_of_engine_and_host_decides():
    host_s = measured_hours(0, pipeline_of()) * 3600 / 251
    per_window = host_s / 81
    assert measured_hours(0.5 * per_window, pipeline_of()) == measured_hours(0, pipeline_of())
    assert measured_hours(2 * per_window, pipeline_of()) * 3600 == pytest.approx((2 * 250 + 1) * host_s)


def test_the_busiest_gpu_decides():
    one, two, three = (measured_hours(1, pipeline_of(), Workload(n)) for n in (1, 3, 5))
    assert two - one == pytest.approx(three - two) == pytest.approx(81 / 3600)


def test_a_cost_survives_the_graphs_metadata(tmp_path):
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1,)) for name in "ab"]
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", ports[:1], ports[1:]))
    path = tmp_path / "g.onnx"
    onnx.save(model, path)
    assert read_cost(path) is None  # as the graphs of earlier versions
    helper.set_model_props(model, {COST_KEY: TEN.to_json()})
    onnx.save(model, path)
    assert read_cost(path) == TEN
    helper.set_model_props(model, {COST_KEY: TEN.to_json()[:-9]})
    onnx.save(model, path)
    with pytest.raises(EngineError, match=r"metadata of .*g\.onnx holds no cost"):
        read_cost(path)


@pytest.mark.parametrize(
    "change",
    [{"flop": "many"}, {"flop": float("nan")}, {"n_networks": 0}, {"precision": "int8"}, {"window_zyx": [1, 2]}],
)
def test_damaged_costs_are_refused(change):
    text = json.dumps({**json.loads(TEN.to_json()), **change})
    with pytest.raises(EngineError, match=r"a\.onnx holds no cost of a graph .*tomopoint export"):
        GraphCost.from_json(text, "a.onnx")
    with pytest.raises(EngineError, match=r"holds no cost"):
        GraphCost.from_json("[]", "a.onnx")


def test_advice_names_each_way_with_its_hours():
    text = advice(replace(TEN, n_networks=20, flop=2 * TEN.flop), pipeline_of(views=("identity", "flip_x")))
    # 9 windows of four times the volume instead of 81: 2.25 times less.
    larger = 250 * 9 * 4 * 25.7 / 9 / 3600
    assert f"192x256x256 (9 windows per tomogram instead of 81): TensorRT {larger:.1f} h" in text
    assert "one view instead of 2: TensorRT 8.0 h" in text
    # Ten networks in two views take 16.06 h, so 6.2 fit into 10.
    assert "fewer networks: of 10, 6 with TensorRT" in text
    assert "fp16" not in text
    assert "TensorRT in the kit" in text


def by_hand(kind, factor=1.0):
    """Return the ten networks' estimated hours, times a factor."""
    return factor * hours_of(TEN, pipeline_of())[kind]


def test_a_measured_time_corrects_every_way_and_is_the_reason_for_fewer_networks():
    # Estimated 8.03 h with TensorRT, measured 12.3: a factor of 1.53, and TensorRT is no way out.
    text = advice(TEN, pipeline_of(), kit_runtime="tensorrt", measured=Projection("tensorrt", 12.3))
    factor = 12.3 / by_hand("tensorrt")
    assert text.startswith("what would help (estimates, times the 1.5 by which TensorRT missed its):\n  - ")
    larger = factor * hours_of(replace(TEN, flop=4 * TEN.flop), pipeline_of((192, 256, 256)))["tensorrt"]
    assert larger == pytest.approx(5.5, abs=0.3)
    assert f"instead of 81): TensorRT {larger:.1f} h;" in text
    assert "fewer networks: of 10, 8 with TensorRT fit into 10 h" in text  # 10 * 10 / 12.3 = 8.1
    assert "in the kit" not in text
    assert "ONNX Runtime" not in text


def test_where_the_window_is_large_already_only_fewer_networks_help():
    cost = replace(TEN, window_zyx=(192, 256, 256), flop=4 * TEN.flop, unfused_bytes=4 * TEN.unfused_bytes)
    pipeline = pipeline_of((192, 256, 256))
    text = advice(cost, pipeline, kit_runtime="tensorrt", measured=Projection("tensorrt", 12.3))
    assert text.splitlines()[1:] == ["  - fewer networks: of 10, 8 with TensorRT fit into 10 h"]
    tighter = advice(cost, pipeline, kit_runtime="tensorrt", measured=Projection("tensorrt", 9.0), limit_hours=5.0)
    assert "of 10, 5 with TensorRT fit into 5 h" in tighter  # 10 * 5 / 9 = 5.6
    slowest = advice(cost, pipeline, kit_runtime="tensorrt", measured=Projection("tensorrt", 1e4), limit_hours=0.5)
    assert "of 10, 0 with TensorRT" in slowest
    assert advice(cost, pipeline, kit_runtime="tensorrt") == "nothing has to change for 10 h"


def test_where_no_way_is_enough_the_networks_that_fit_with_all_of_them_are_said():
    views = ("identity", "flip_x")
    cost = replace(TEN, n_networks=20, flop=2 * TEN.flop)
    text = advice(cost, pipeline_of(views=views), kit_runtime="tensorrt", measured=Projection("tensorrt", 60.0))
    factor = 60 / hours_of(cost, pipeline_of(views=views))["tensorrt"]
    large = pipeline_of((192, 256, 256))
    both = hours_of(replace(TEN, flop=4 * TEN.flop), large)["tensorrt"] * factor
    now, then = int(10 * 10 / 60), int(10 * 10 / both)
    assert now < then < 10
    assert f"of 10, {now} with TensorRT fit into 10 h, with all of the above {then} with TensorRT" in text


@pytest.mark.parametrize("measured", [None, Projection("onnxruntime-cuda", 15.0)])
def test_tensorrt_is_proposed_only_to_a_kit_without_it(measured):
    factor = 1.0 if measured is None else 15.0 / by_hand("onnxruntime-cuda")
    now, better = by_hand("onnxruntime-cuda", factor), by_hand("tensorrt", factor)
    without = advice(TEN, pipeline_of(), kit_runtime="onnxruntime-cuda", measured=measured)
    assert f"TensorRT in the kit (`tomopoint wheels`): {better:.1f} h instead of {now:.1f} h without it" in without
    assert "in the kit" not in advice(TEN, pipeline_of(), kit_runtime="tensorrt", measured=measured)
    assert "in the kit" in advice(TEN, pipeline_of())


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx", "onnxruntime-tensorrt"])
def test_what_tensorrt_builds_is_measured_as_tensorrt(runtime):
    assert Projection.of_engine(runtime, 3.0) == Projection("tensorrt", 3.0)
    assert Projection.of_engine("onnxruntime-cuda", 3.0) == Projection("onnxruntime-cuda", 3.0)


def test_advice_on_float32_is_float16():
    single = replace(TEN, precision="fp32")
    text = advice(single, pipeline_of((192, 256, 256)))
    assert "--precision fp16: TensorRT" in text
    assert "a window of" not in text  # it is that large already


def test_a_warning_comes_above_ten_hours_and_only_there():
    assert hours_of(TEN, pipeline_of())["onnxruntime-cuda"] > 10
    warning = time_warning(TEN, pipeline_of())
    assert warning is not None
    assert "ONNX Runtime CUDA (12.3 h)" in warning
    assert "TensorRT (8.0 h)" not in warning
    assert "192,256,256" in warning
    assert time_warning(TEN, pipeline_of((192, 256, 256))) is None


def test_the_printed_lines_hold_cost_hours_and_rates():
    text = format_projections(TEN, pipeline_of())
    for part in (
        "12.85 TFLOP",
        "227.0 GB",
        "81 windows",
        "3.49 voxels computed per voxel",
        "1.04e+03 TFLOP",
        "1.2 GB of activations",
        "500 tomograms of 184x630x630",
        "2 T4s",
    ):
        assert part in text
    assert "TensorRT 8.0 h (at 9 TFLOP/s)" in text
    assert "ONNX Runtime CUDA 12.3 h (at 10 TFLOP/s and 250 GB/s)" in text
