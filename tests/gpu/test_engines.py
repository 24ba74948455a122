"""Every engine on the GPU against PyTorch on the CPU: one small ensemble, one window, the tolerances of the kernels."""

from contextlib import closing
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tomopoint.errors import EngineError
from tomopoint.export import engine_trial
from tomopoint.export.engine_trial import Bench, attempt
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.files import sha256_of
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import TENSORRT_RUNTIMES, load_engine, load_recorded
from tomopoint.inference.engines.onnx import PROVIDERS, OnnxEngine
from tomopoint.inference.engines.tensorrt_module import load_tensorrt
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.inference.parity import FP16, Outputs, compare
from tomopoint.inference.reference import REFERENCE_NAME, Reference
from tomopoint.kaggle.engine_kernel import CANDIDATES
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, Tiling
from tomopoint.validation.validated import ValidatedEnsemble

WINDOW = (32, 48, 64)
CONFIGS = (
    NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=8, offset_width=8),
    NetworkConfig("dynunet", filters=(8, 8, 16), features=8, class_width=8, offset_width=8),
)
SPREAD = 1.5
ON_TENSOR_CORES = FP16
"""Of float32 convolutions, too: on Ampere and later they run as TF32, which rounds their inputs to 11 bits as fp16."""

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
RUNTIMES = [
    pytest.param(candidate.name, marks=[pytest.mark.gpu] if candidate.needs_gpu else [])
    for candidate in CANDIDATES
    if candidate.name != "tensorrt-norm-plugin"  # the parser decides whether there is one
]


@pytest.fixture(scope="module")
def networks():
    """Return two networks whose heads are spread: fresh ones answer nearly constant maps, where all engines agree."""
    made = []
    for seed, config in enumerate(CONFIGS):
        torch.manual_seed(seed)
        network = build_network(config, len(COMPETITION_PARTICLES), stride=2).eval().requires_grad_(False)
        for parameter in network.head.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=SPREAD / parameter[0].numel() ** 0.5)
        made.append(network)
    return tuple(made)


@pytest.fixture(scope="module", params=["fp16", pytest.param("fp32", marks=pytest.mark.gpu)])
def graph(request, networks, tmp_path_factory):
    members = tuple(Member(f"fold{k}", c.name, (), None, f"{k:064x}") for k, c in enumerate(CONFIGS))
    pipeline = Pipeline(COMPETITION_PARTICLES, 10.0, tiling=Tiling(WINDOW, (16, 16, 16)), members=members)
    path = tmp_path_factory.mktemp(request.param) / "ensemble.onnx"
    return export_merged(
        ValidatedEnsemble(networks, pipeline, CONFIGS), path, ExportOptions(precision=request.param)
    ).path


def reference_of(path):
    return Reference.load(path.with_name(REFERENCE_NAME))


def check(engine, reference):
    """An engine must compute what PyTorch did on the CPU in float32, and again."""
    assert np.ptp(reference.outputs.scores) > 0.5  # a constant would agree with anything
    for _ in range(2):
        got = Outputs(*engine.infer(reference.windows))
        row = compare("whole graph", "here", reference.outputs, got, ON_TENSOR_CORES, reference.stride)
        assert row.ok, row


@pytest.mark.parametrize("device", DEVICES)
def test_torch(networks, graph, device):
    with closing(TorchEngine(Ensemble(networks), WINDOW, device=device)) as engine:
        assert engine.describe()["device"].startswith(device)
        check(engine, reference_of(graph))


@pytest.mark.parametrize("provider", DEVICES)
def test_onnxruntime(graph, provider, needs_provider):
    needs_provider(PROVIDERS[provider])
    with closing(OnnxEngine(graph, provider)) as engine:
        assert engine.describe()["provider"] == PROVIDERS[provider]
        check(engine, reference_of(graph))


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_candidate_of_the_notebook(graph, name, needs_provider, tmp_path, monkeypatch):
    """Build, load as the submit notebook will, compare, time; then load it again by its record, twice."""
    monkeypatch.setattr(engine_trial, "TIMED_SECONDS", 0.0)  # what it warms up for is no matter here
    candidate = next(candidate for candidate in CANDIDATES if candidate.name == name)
    if candidate.provider in PROVIDERS.values():
        needs_provider(candidate.provider)
    if "tensorrt" in name:
        _needs_tensorrt("tensorrt_rtx" if name == "tensorrt-rtx" else "tensorrt")
    if name.startswith("tensorrt"):
        pytest.importorskip("pycuda.driver")
    reference, gpus = reference_of(graph), find_gpus()
    if reference.precision == "fp32" and candidate.needs_gpu:
        pytest.skip("float32 runs as TF32 on Ampere and later, beyond its own tolerance; RTX has none on Turing")
    paths = {"model": graph, "reference": graph.with_name(REFERENCE_NAME), "out": tmp_path, "timing_cache": None}
    identity = {"onnx_sha256": sha256_of(graph), "pipeline_digest": read_pipeline(graph).digest}
    record = attempt(candidate, Bench(**paths, **identity, gpu=gpus[0] if candidate.needs_gpu else None))
    assert record.runtime == candidate.runtime
    assert record.parity["ok"]
    assert record.seconds_per_tile > 0
    assert record.device == (gpus[0].name if candidate.needs_gpu else "the CPU")
    if record.runtime not in TENSORRT_RUNTIMES:
        return
    for _ in range(2):
        engine, pipeline = load_recorded(graph, record.save(tmp_path))
        with closing(engine):
            check(engine, reference)
        assert pipeline == read_pipeline(graph)


@pytest.mark.parametrize("device", DEVICES)
def test_the_automatic_choice_uses_what_is_there(graph, device, needs_provider, monkeypatch):
    needs_provider(PROVIDERS[device])
    if device == "cpu":
        monkeypatch.setattr("tomopoint.inference.engines.load.find_gpus", list)
    engine, _ = load_engine(graph)
    with closing(engine):
        described = engine.describe()
    if device == "cpu" and find_spec("openvino"):
        assert described["runtime"] == "openvino"
    else:
        assert described["provider"] == PROVIDERS[device]


def _needs_tensorrt(flavour):
    try:
        load_tensorrt(flavour)
    except EngineError as error:
        pytest.skip(str(error))
