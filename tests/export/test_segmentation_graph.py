"""Graphs with segmentation networks: parity in both precisions, whose offsets they hold, static shapes, cost."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from random_networks import SEGRESNET, random_network

from tomopoint.errors import TomopointError
from tomopoint.export.graph_cost import count_graph
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.inference.engines.graph_metadata import NETWORKS_KEY, read_metadata, read_pipeline
from tomopoint.inference.parity import FP16, FP32_SMALL
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.graph_weights import GraphNetworks, GraphWeights
from tomopoint.pipeline import Member, Tiling
from tomopoint.training.pretrained import find_pretrained
from tomopoint.validation.validated import ValidatedEnsemble

WINDOW = (32, 32, 64)
UNET = NetworkConfig("unet", filters=(8, 16))
RESNET = NetworkConfig("flexible-unet", width=1 / 16, filters=(16, 12, 8, 8, 8), levels=2)
EFFICIENTNET = NetworkConfig(
    "flexible-unet", label="efficientnet", encoder="efficientnet-b3", width=1 / 16, filters=(16, 12, 8, 8, 8)
)


def ensemble_of(pipeline, configs):
    networks = tuple(random_network(config, seed) for seed, config in enumerate(configs))
    members = [
        Member("fold0", config.title, (), None, f"{k:064x}", weight=1.0 + k, kind=config.kind)
        for k, config in enumerate(configs)
    ]
    named = replace(pipeline, tiling=Tiling(WINDOW, (16, 16, 16))).of_members(members)
    return ValidatedEnsemble(networks, named, tuple(configs))


@pytest.fixture(scope="module")
def mixed(pipeline):
    return ensemble_of(pipeline, (UNET, SEGRESNET, replace(UNET, label="other", filters=(8, 8))))


def run(path, windows):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"volume": windows})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_mixed_graph_averages_all_scores_and_the_detectors_offsets(mixed, precision, tmp_path):
    report = export_merged(mixed, tmp_path / "e.onnx", ExportOptions(precision=precision))
    assert [row.subject for row in report.rows] == ["unet", "segresnet", "other", "whole graph"]
    assert all(row.ok for row in report.rows)
    windows = np.random.default_rng(5).standard_normal((1, 1, *WINDOW), dtype=np.float32)
    with torch.inference_mode():
        alone = [network(torch.from_numpy(windows)) for network in mixed.networks]
    scores, offsets = run(report.path, windows)
    expected = sum(weight * own[0].numpy() for weight, own in zip((1, 2, 3), alone, strict=True)) / 6
    tolerance = FP32_SMALL if precision == "fp32" else FP16
    np.testing.assert_allclose(scores, expected, atol=tolerance.scores)
    np.testing.assert_allclose(offsets, alone[1][1].numpy(), atol=tolerance.offsets_vox)
    assert np.ptp(alone[1][1].numpy()) > 0.5
    assert not read_pipeline(report.path).decoding.refine_peaks


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        (RESNET, "fp16"),
        pytest.param(RESNET, "fp32", marks=pytest.mark.slow),
        pytest.param(EFFICIENTNET, "fp16", marks=pytest.mark.slow),
    ],
)
def test_a_graph_of_segmentation_alone_keeps_the_contract(pipeline, config, precision, tmp_path):
    """Scores of the softmax, offsets of zeros, every shape known before it runs."""
    merged = ensemble_of(pipeline, (config,))
    report = export_merged(merged, tmp_path / "e.onnx", ExportOptions(precision=precision))
    windows = np.random.default_rng(6).standard_normal((1, 1, *WINDOW), dtype=np.float32)
    with torch.inference_mode():
        finest, *_ = merged.networks[0].logits(torch.from_numpy(windows))
    odds = np.exp(finest.numpy())
    scores, offsets = run(report.path, windows)
    tolerance = FP32_SMALL if precision == "fp32" else FP16
    np.testing.assert_allclose(scores, (odds / odds.sum(axis=1, keepdims=True))[:, :-1], atol=tolerance.scores)
    assert np.ptp(scores) > 0.2
    assert offsets.shape == (1, 3, 16, 16, 32)
    assert offsets.dtype == np.float32
    assert not offsets.any()
    assert read_pipeline(report.path).decoding.refine_peaks
    kinds = {node.op_type for node in onnx.load(report.path).graph.node}
    assert kinds.isdisjoint({"Shape", "If", "Loop", "BatchNormalization"})
    counted = count_graph(onnx_ir.load(report.path))
    assert report.cost.flop == counted.flop
    assert counted.convolution_flop > 0.8 * counted.flop


def test_the_flop_of_a_unets_convolutions_by_hand(pipeline, tmp_path):
    report = export_merged(ensemble_of(pipeline, (UNET,)), tmp_path / "e.onnx", ExportOptions(precision="fp32"))
    n = np.prod(WINDOW) // 8  # cells at stride 2; nothing is computed in finer ones
    first, bottom, head = 27 * 1 * 8, 27 * 8 * 16, 27 * 24 * 7
    shortcuts = 27 * 1 * 8 + 1 * 8 * 16  # of the residual units; MONAI's has the unit's kernel where it halves
    biases = 2 * 8 + 2 * 16 + 7
    counted = count_graph(onnx_ir.load(report.path))
    assert counted.convolution_flop == n * (2 * (first + bottom + head + shortcuts) + biases)


def test_what_a_graph_can_be_gone_on_from(pipeline, tmp_path):
    merged = ensemble_of(pipeline, (UNET,))
    path = tmp_path / "e.onnx"
    export_merged(merged, path, ExportOptions(precision="fp32"))
    networks = GraphNetworks.from_json(read_metadata(path)[NETWORKS_KEY], path)
    found = find_pretrained(str(path), UNET, 2, "fold0")
    assert found.candidate.title == "unet"
    weights = GraphWeights(path, networks, pipeline.particle_names, 2).read(0).weights
    for name, tensor in merged.networks[0].state_dict().items():
        torch.testing.assert_close(weights[name], tensor)
    with pytest.raises(TomopointError, match=r"have become part of its convolutions.*give the training folder"):
        find_pretrained(str(path), RESNET, 2, "fold0")
