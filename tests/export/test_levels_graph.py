"""Graphs of detectors that predict at several strides: parity, static shapes, and weights that can be gone on from."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from random_networks import DYNUNET, SEGRESNET, random_network

from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.export.rebuilt import rebuilt_networks
from tomopoint.inference.parity import FP16, FP32_SMALL
from tomopoint.pipeline import Member, Tiling
from tomopoint.validation.validated import ValidatedEnsemble

WINDOW = (32, 32, 48)
TWO = replace(SEGRESNET, blocks_down=(1, 1, 1, 1), levels=2)
DEEP = replace(DYNUNET, filters=(8, 8, 8, 8, 8), levels=2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_levels_are_merged_in_the_graph_as_in_the_networks(pipeline, precision, tmp_path):
    networks = tuple(random_network(config, seed) for seed, config in enumerate((TWO, DEEP)))
    members = [Member("fold0", config.title, (), None, f"{k:064x}") for k, config in enumerate((TWO, DEEP))]
    named = replace(pipeline, tiling=Tiling(WINDOW, (16, 16, 16))).of_members(members)
    report = export_merged(
        ValidatedEnsemble(networks, named, (TWO, DEEP)), tmp_path / "e.onnx", ExportOptions(precision=precision)
    )
    assert all(row.ok for row in report.rows)
    windows = np.random.default_rng(5).standard_normal((1, 1, *WINDOW), dtype=np.float32)
    with torch.inference_mode():
        alone = [network(torch.from_numpy(windows)) for network in networks]
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    scores, offsets = session.run(None, {"volume": windows})
    tolerance = FP32_SMALL if precision == "fp32" else FP16
    expected = [sum(pair).numpy() / 2 for pair in zip(*alone, strict=True)]
    np.testing.assert_allclose(scores, expected[0], atol=tolerance.scores)
    np.testing.assert_allclose(offsets, expected[1], atol=tolerance.offsets_vox)
    assert np.ptp(offsets) > 2  # further than the fine level reaches
    operators = {node.op_type for node in onnx.load(report.path).graph.node}
    assert not operators & {"Shape", "ConstantOfShape", "NonZero", "Loop", "If"}
    # The weights in the graph are those of the networks, level by level.
    again = rebuilt_networks(report.path).networks
    assert [network.head.levels[-1].stride for network in again] == [4, 4]
    for first, second in zip(networks, again, strict=True):
        for name, tensor in first.state_dict().items():
            torch.testing.assert_close(
                second.state_dict()[name], tensor, atol=1e-6, rtol=2**-10
            )  # float16, small ones subnormal
