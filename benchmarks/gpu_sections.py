"""The sections of benchmarks/gpu.py. Heavy imports stand inside, so that a missing package costs its sections only."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

    from tomopoint.networks.point_network import PointNetwork
    from tomopoint.pipeline import Pipeline
    from tomopoint.training.crops.dataset import CropBatch

CHECKOUT = Path(__file__).resolve().parents[1]
VOXEL_A = 10.0124
SPREAD = 1.5
"""Of the heads' random weights: fresh ones answer almost constant maps, on which any graph agrees."""
PACKAGES = (
    *("torch", "triton", "monai", "lightning", "zarr", "numpy", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt_cu12", "tensorrt_cu13", "tensorrt_cu12_bindings", "tensorrt_rtx_cu12", "pycuda", "pytest", "tomopoint"),
)
N_POINTS = 181
"""Particles in the noise that training steps are timed on, as many as in a real run."""

Figures = Iterator[tuple[str, Any]]


class Skipped(Exception):
    """A section cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes
    ----------
    networks
        Options of each kind of network beside its name; none: the winner's widths.
    n_each
        Networks of each kind in the ensemble.
    batches, crop_zyx
        Of the training steps.
    window_zyx
        Of the ensemble; None: the Pipeline's default.
    tomogram_zyx
        One tomogram, for the host's work.
    seconds
        Longest time that one figure is timed for.
    simulated
        Options of `tomopoint simulate`.
    fit, crops, optimiser
        Of the short training, as in a recipe.
    """

    networks: dict[str, dict[str, Any]]
    n_each: int
    batches: dict[str, int]
    crop_zyx: tuple[int, int, int]
    window_zyx: tuple[int, int, int] | None
    tomogram_zyx: tuple[int, int, int]
    seconds: float
    simulated: tuple[str, ...]
    fit: dict[str, Any]
    crops: dict[str, Any]
    optimiser: dict[str, Any]


FULL = Size(
    networks={"segresnet": {}, "dynunet": {}},
    n_each=5,
    batches={"segresnet": 4, "dynunet": 6},
    crop_zyx=(96, 128, 128),
    window_zyx=None,
    tomogram_zyx=(184, 630, 630),
    seconds=8.0,
    simulated=("--train-runs", "6", "--test-runs", "0", "--shape", "184,320,320"),
    fit={"epochs": 5, "steps_per_epoch": 60, "batch_size": 4, "keep_best": 0, "validation_crops": 4, "max_minutes": 2},
    crops={"size_zyx": [96, 128, 128]},
    optimiser={"learning_rate": 0.001, "warmup_steps": 30},
)
MINIATURE = Size(
    networks={
        "segresnet": {"init_filters": 8, "blocks_down": (0, 1, 1), "class_width": 8, "offset_width": 8, "dropout": 0.0},
        "dynunet": {"filters": (4, 8, 16), "features": 8, "class_width": 8, "offset_width": 8},
    },
    n_each=1,
    batches={"segresnet": 2, "dynunet": 2},
    crop_zyx=(32, 32, 32),
    window_zyx=(32, 48, 48),
    tomogram_zyx=(40, 96, 96),
    seconds=0.2,
    simulated=("--train-runs", "2", "--test-runs", "0", "--shape", "48,96,96"),
    fit={"epochs": 1, "steps_per_epoch": 8, "batch_size": 2, "keep_best": 0, "validation_crops": 2},
    crops={"size_zyx": [32, 32, 32]},
    optimiser={"learning_rate": 0.002, "warmup_steps": 2},
)


def run(section: str, scratch: Path, miniature: bool) -> Figures:
    """Yield the figures of a section.

    Raises
    ------
    Skipped
        Something that it needs is not here.
    """
    size = MINIATURE if miniature else FULL
    if section not in ("machine", "host") and not miniature:
        _require_cuda()
    sections: dict[str, Callable[[], Figures]] = {
        "machine": machine,
        "tests": lambda: tests(scratch),
        "steps": lambda: steps(size),
        "eager": lambda: eager(size),
        "compiled": lambda: compiled(size),
        "host": lambda: host(size),
        "training": lambda: training(size, scratch),
        "graph": lambda: graph(size, scratch),
    }
    yield from sections[section]() if section in sections else runtime(section, scratch, miniature)


def machine() -> Figures:
    """What this ran on."""
    yield "python", platform.python_version()
    yield "cores", len(os.sched_getaffinity(0))
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    yield "versions", versions
    if shutil.which("nvidia-smi"):
        words = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        yield "driver", subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    import torch

    yield "torch", {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    names = ("name", "total_memory", "multi_processor_count", "major", "minor")
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    yield "gpus", [{name: getattr(gpu, name) for name in names} for gpu in found]
    if found:
        yield "bf16", torch.cuda.is_bf16_supported(including_emulation=False)


def tests(scratch: Path) -> Figures:
    """The tests marked `gpu`."""
    for name in ("pytest", "hypothesis", "monai", "lightning", "zarr", "cyclopts", "onnxruntime", "onnxscript"):
        importlib.import_module(name)  # without one of them the tests would fail where they are collected
    report = scratch / "tests.xml"
    report.unlink(missing_ok=True)
    words = [
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "tests/gpu",
    ]
    done = subprocess.run([sys.executable, *words, f"--junitxml={report}"], cwd=CHECKOUT, check=False)
    if not report.is_file():
        raise RuntimeError(f"pytest ended with status {done.returncode} and left no report")
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed: list[str] = []
    skipped: dict[str, int] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        verdict = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        kind = "passed" if verdict is None else "skipped" if verdict.tag == "skipped" else "failed"
        counts[kind] += 1
        why = "" if verdict is None else (verdict.get("message") or "")[:300]
        if kind == "failed":
            failed.append(f"{case.get('classname')}::{case.get('name')}: {why}")
        elif kind == "skipped":
            skipped[why] = skipped.get(why, 0) + 1
    yield "counts", counts
    yield "failed", failed
    yield "skipped, and why", skipped
    if failed or done.returncode:
        raise RuntimeError(f"{len(failed)} tests failed, pytest ended with status {done.returncode}")


def steps(size: Size) -> Figures:
    """Training steps: forward pass, loss, gradient, clipping, AdamW."""
    import torch

    device = _device()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    for kind in size.networks:
        loader = _loader(size, size.batches[kind])
        batch = next(iter(loader)).to(device)
        for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            if precision == "fp16" and device == "cpu":
                continue  # no training on a CPU uses it
            for layout in ("contiguous_format", "channels_last_3d"):
                name = f"{kind} {precision} {layout.removesuffix('_format')}"
                try:
                    step = _make_step(size, kind, dtype, getattr(torch, layout))
                    yield name, _time_steps(step, batch, size.seconds)
                except torch.OutOfMemoryError as error:
                    yield name, {"out of memory": str(error).splitlines()[0]}
                if layout == "contiguous_format" and precision == "bf16":
                    yield f"{kind} with its loader", _time_loaded(step, loader, size.seconds)
                step = None  # type: ignore[assignment]
                _free()


Step = Callable[["CropBatch"], None]


def _make_step(size: Size, kind: str, dtype: torch.dtype, layout: torch.memory_format) -> Step:
    """Return what does one optimiser step with a batch on the device, as training does."""
    import torch

    from tomopoint.pipeline import COMPETITION_PARTICLES
    from tomopoint.training.losses.build import build_loss
    from tomopoint.training.optimisation import parameter_groups
    from tomopoint.training.options.fitting import OptimiserOptions
    from tomopoint.training.options.losses import LossOptions

    device, options = _device(), OptimiserOptions()
    network = _network(size, kind, 0).train().to(device, memory_format=layout)  # type: ignore[call-overload]
    radii_vox = [particle.radius_A / VOXEL_A for particle in COMPETITION_PARTICLES]
    loss = build_loss(_config(size, kind), radii_vox, network.stride, LossOptions()).to(device)
    groups = parameter_groups(network, options)
    optimiser = torch.optim.AdamW(groups, lr=1e-5, betas=options.betas)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def step(batch: CropBatch) -> None:
        volume = batch.volume.contiguous(memory_format=layout)
        with torch.autocast(device, dtype):
            found = loss(*network.logits(volume), batch.points)
        optimiser.zero_grad()
        scaler.scale(found.total).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
        scaler.step(optimiser)
        scaler.update()

    return step


def _loader(size: Size, batch_size: int) -> DataLoader[CropBatch]:
    """Return training's loader over noise of a full tomogram with as many particles as a real one."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader

    from tomopoint.pipeline import COMPETITION_PARTICLES
    from tomopoint.training.crops.dataset import CropDataset, EpochSampler, collate_crops
    from tomopoint.training.crops.tomograms import TrainingTomogram
    from tomopoint.training.machine import Machine
    from tomopoint.training.options.crops import AugmentationOptions, CropOptions

    rng, shape = np.random.default_rng(0), size.tomogram_zyx
    volume = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).half()
    centres_zyx = rng.uniform(0, 1, (N_POINTS, 3)) * shape
    labels = rng.integers(0, len(COMPETITION_PARTICLES), len(centres_zyx))
    run = TrainingTomogram("TS_0", {"denoised": volume}, centres_zyx, labels, VOXEL_A)
    radii_vox = [particle.radius_A / VOXEL_A for particle in COMPETITION_PARTICLES]
    dataset = CropDataset([run], CropOptions(size.crop_zyx), AugmentationOptions(), 0, radii_vox=radii_vox)
    workers = Machine().loader_processes
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=EpochSampler(10_000 * batch_size),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate_crops,
        pin_memory=_device() == "cuda",
        prefetch_factor=4 if workers else None,
    )


def _time_steps(step: Step, batch: CropBatch, seconds: float) -> dict[str, float]:
    """Time steps on one batch that lies on the device."""
    import torch

    if _device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):  # the first chooses algorithms
        step(batch)
    figures = {"seconds_per_step": round(timed(lambda: step(batch), seconds), 4)}
    if _device() == "cuda":
        figures["peak_gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return figures


def _time_loaded(step: Step, loader: DataLoader[CropBatch], seconds: float) -> dict[str, float]:
    """Time steps on the loader's batches; its share is what they take beyond steps on a batch that is there.

    What the processes made ahead is used up first: only then their pace shows.
    """
    batches = iter(loader)
    first = next(batches).to(_device())
    step(first)
    fixed = timed(lambda: step(first), seconds)
    ahead = 1 + (loader.prefetch_factor or 0) * loader.num_workers
    end = time.perf_counter() + 3 * seconds
    for _ in range(ahead):
        if time.perf_counter() < end:
            step(next(batches).to(_device(), non_blocking=True))
    loaded = timed(lambda: step(next(batches).to(_device(), non_blocking=True)), seconds)
    return {
        "seconds_per_step": round(loaded, 4),
        "gpu_share": round(min(1.0, fixed / loaded), 3),
        "processes": loader.num_workers,
    }


def eager(size: Size) -> Figures:
    """The ensemble in torch: fp16 on a GPU, in two memory layouts."""
    import torch

    from tomopoint.networks.ensemble import Ensemble

    device, dtype = _device(), _inference_dtype()
    torch.backends.cudnn.benchmark = True
    for layout in ("contiguous_format", "channels_last_3d"):
        networks = [_network(size, kind, seed) for seed in range(size.n_each) for kind in size.networks]
        module = Ensemble(networks).eval()
        module = module.to(device, dtype, memory_format=getattr(torch, layout))  # type: ignore[call-overload]
        window = torch.randn(1, 1, *_pipeline(size).tiling.window_zyx).to(device, dtype)
        yield layout.removesuffix("_format"), _time_module(module, window, size.seconds)
        del module, networks
        _free()


def compiled(size: Size) -> Figures:
    """One network of each kind by torch.compile; the ensemble is so many of each."""
    import torch

    device, dtype = _device(), _inference_dtype()
    if device == "cuda":
        import triton  # type: ignore[import-not-found]

        yield "triton", triton.__version__
    elif shutil.which("c++") is None:
        raise Skipped("torch.compile needs a C++ compiler on a CPU")
    window = torch.randn(1, 1, *_pipeline(size).tiling.window_zyx).to(device, dtype)
    seconds = 0.0
    for kind in size.networks:
        network = _network(size, kind, 0).eval().to(device, dtype)
        start = time.perf_counter()
        module = torch.compile(network)
        with torch.inference_mode():
            module(window)
        _wait()
        compiling = round(time.perf_counter() - start, 1)
        figures = _time_module(module, window, size.seconds)
        seconds += size.n_each * figures.pop("seconds_per_window")
        yield kind, {**figures, "seconds_to_compile": compiling}
    yield "compiled", {"seconds_per_window": round(seconds, 4)}


def host(size: Size) -> Figures:
    """The CPU's share of one tomogram: normalise, cut, merge, decode; the networks' answers lie ready."""
    import numpy as np

    from tomopoint.inference.decode import decode_maps
    from tomopoint.inference.predict import prepare
    from tomopoint.inference.tiles import MapMerger

    pipeline, rng = _pipeline(size), np.random.default_rng(0)
    volume = 1e-5 * rng.standard_normal(size.tomogram_zyx, dtype=np.float32)
    cells = [length // pipeline.stride for length in pipeline.tiling.window_zyx]
    # A few particles of each class per window in maps that are almost empty, as those of a trained network.
    scores = rng.uniform(0, 0.02, (len(pipeline.particles), *cells)).astype(np.float32)
    for particle in scores:
        particle[tuple(rng.integers(0, cells, (3, 3)).T)] = 0.9
    offsets = rng.uniform(-1, 1, (3, *cells)).astype(np.float32)
    times = [time.perf_counter()]
    prepared = prepare(volume, pipeline)
    times.append(time.perf_counter())
    merger = MapMerger(prepared.plan, len(pipeline.particles), pipeline.tiling.edge_weight)
    for starts, _ in prepared.plan.batches(prepared.volume_zyx, 1):
        merger.add(starts[0], scores, offsets)
    maps = merger.maps()
    times.append(time.perf_counter())
    picks = decode_maps(maps, pipeline, VOXEL_A)
    times.append(time.perf_counter())
    parts = dict(zip(("normalise", "cut and merge", "decode"), np.diff(times).round(3).tolist(), strict=True))
    yield "parts", parts
    yield "picks", len(picks)
    yield "windows", len(prepared.plan.starts_zyx)
    yield "seconds", round(times[-1] - times[0], 3)


def training(size: Size, scratch: Path) -> Figures:
    """The commands a user types: simulate, train, validate. The score is of simulated tomograms."""
    import yaml

    folder = scratch / "training"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    networks = [{"name": kind, **_plain(options)} for kind, options in size.networks.items()]
    parts = {"crops": size.crops, "optimiser": size.optimiser, "fit": size.fit}
    recipe, data, out = folder / "recipe.yaml", folder / "data", folder / "run"
    recipe.write_text(yaml.safe_dump({"networks": networks, "folds": "kfold-2", **parts}))
    device = _device()
    seconds, made = _command("simulate", str(data), *size.simulated, "--device", device)
    yield "simulate", {"seconds": seconds, "seconds_per_run": made["seconds_per_run"], "device": device}
    options = ["--recipe", str(recipe), "--out", str(out), "--folds", "0", "--device", device, "--curves", "none"]
    seconds, made = _command("train", "--data", str(data), *options)
    yield "train", {"seconds": seconds, "trained": made["trained"]}
    window = [] if size.window_zyx is None else ["--window", ",".join(map(str, size.window_zyx))]
    overlap = ["--overlap", "16,16,16"] if window else []
    seconds, made = _command("validate", str(out), "--device", device, *window, *overlap)
    yield "validate", {"seconds": seconds, "simulated_F4": made["score"], "picks_per_run": made["picks_per_run"]}


def graph(size: Size, scratch: Path) -> Figures:
    """The ensemble as one graph with its networks in fp16, and as reference what PyTorch computes in fp32 on the GPU.

    An export computes its reference on the CPU, and ONNX Runtime's outputs to compare: minutes for ten full networks.
    Here the sections of the runtimes compare.
    """
    import torch

    from tomopoint.export.graph import OPSET, Graph
    from tomopoint.export.graph_cost import cost_of
    from tomopoint.export.graph_form import graph_form
    from tomopoint.export.metadata import graph_metadata
    from tomopoint.files import sha256_of
    from tomopoint.inference.parity import Outputs
    from tomopoint.inference.reference import REFERENCE_NAME, Reference, synthetic_windows
    from tomopoint.networks.ensemble import Ensemble
    from tomopoint.pipeline import Member

    precision, batch = "fp16", 1
    kinds = [(seed, kind) for seed in range(size.n_each) for kind in size.networks]
    members = tuple(Member(f"fold{fold}", kind, (), None, f"{index:064x}") for index, (fold, kind) in enumerate(kinds))
    pipeline = _pipeline(size, members)
    window_zyx = pipeline.tiling.window_zyx
    ensemble = Ensemble([_network(size, kind, seed) for seed, kind in kinds]).eval()
    path = _graph_path(scratch, must_exist=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    exported = Graph(graph_form(ensemble, precision), window_zyx, batch)
    cost = cost_of(exported.model, pipeline, precision, batch)
    export = {"precision": precision, "batch": batch, "opset": OPSET}
    exported.save(path, graph_metadata(pipeline, (), export, cost))
    yield "networks", len(kinds)
    yield "megabytes", round(path.stat().st_size / 1e6, 1)
    yield "seconds_to_export", round(time.perf_counter() - start, 1)
    del exported
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # 10 bits, as few as fp16 has
    windows = synthetic_windows(pipeline, window_zyx, batch)
    with torch.inference_mode():
        scores, offsets_vox = ensemble.to(_device())(torch.from_numpy(windows).to(_device()))
    outputs = Outputs(scores.cpu().numpy(), offsets_vox.cpu().numpy())
    Reference(windows, outputs, precision, sha256_of(path)).save(path.with_name(REFERENCE_NAME))
    yield "reference", {"device": _device(), "scores": [round(float(scores.min()), 4), round(float(scores.max()), 4)]}


def runtime(name: str, scratch: Path, miniature: bool) -> Figures:
    """The graph in one runtime, as the build_engine notebook tries it: build, load again, compare with PyTorch, time.

    In miniature without a GPU: ONNX Runtime on the CPU for the one on CUDA; TensorRT-RTX compiles, for a T4.
    """
    from tomopoint.errors import EngineError
    from tomopoint.export.engine_build import BuildOptions, build_plan
    from tomopoint.export.engine_trial import Bench, attempt
    from tomopoint.files import sha256_of
    from tomopoint.inference.engines.gpus import find_gpus
    from tomopoint.inference.engines.graph_metadata import read_pipeline
    from tomopoint.inference.reference import REFERENCE_NAME
    from tomopoint.kaggle.engine_kernel import CANDIDATES

    path, folder = _graph_path(scratch), scratch / "runtimes"
    no_gpu = miniature and _device() == "cpu"
    if name == "tensorrt-rtx" and no_gpu:
        plan = build_plan(path, _require_tensorrt("tensorrt_rtx"), BuildOptions())
        yield "plan", {"compute_capability": plan.compute_capability, "megabytes": round(plan.n_bytes / 1e6, 1)}
        yield "seconds_to_build", round(plan.build_seconds, 1)
        return
    if name == "onnxruntime-cuda" and no_gpu:
        name = "onnxruntime-cpu"
    else:
        _require_cuda()
    _require_runtime(name)
    gpus = find_gpus()
    candidate = next(candidate for candidate in CANDIDATES if candidate.name == name)
    bench = Bench(
        model=path,
        reference=path.with_name(REFERENCE_NAME),
        out=folder,
        timing_cache=folder / "timing.cache",
        onnx_sha256=sha256_of(path),
        pipeline_digest=read_pipeline(path).digest,
        gpu=gpus[0] if gpus else None,
    )
    folder.mkdir(exist_ok=True)
    start = time.perf_counter()
    try:
        record = attempt(candidate, bench)
    except EngineError as error:
        if "made no norm" in str(error):  # the plugin's variant would be the engine with TensorRT's own layers
            raise Skipped(str(error)) from error
        raise
    yield "version", record.runtime_version
    yield "seconds_in_all", round(time.perf_counter() - start, 1)  # of them the timing takes 20 on a GPU
    yield "parity", dict(record.parity or {})
    if record.seconds_per_tile is None:
        raise RuntimeError("the outputs are not PyTorch's, so they were not timed")
    hours = None if record.projected_hours is None else round(record.projected_hours, 2)
    yield name, {"seconds_per_window": round(record.seconds_per_tile, 5), "hours_for_the_competition": hours}


def _require_runtime(name: str) -> None:
    """Raise Skipped where a runtime, or what drives it, is not installed."""
    import onnxruntime

    providers = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}
    if name in providers and providers[name] not in onnxruntime.get_available_providers():
        raise Skipped(
            f"the onnxruntime {onnxruntime.__version__} that is installed is a build without {providers[name]}"
        )
    if "tensorrt" in name:
        _require_tensorrt("tensorrt_rtx" if name == "tensorrt-rtx" else "tensorrt")
    if name.startswith("tensorrt"):
        try:
            importlib.import_module("pycuda.driver")
        except ImportError as error:
            raise Skipped(f"pycuda cannot be imported ({error}); pip install 'tomopoint[pycuda]'") from error


def _time_module(module: Callable[[torch.Tensor], Any], window: torch.Tensor, seconds: float) -> dict[str, float]:
    import torch

    with torch.inference_mode():
        module(window)
        if _device() == "cuda":
            torch.cuda.reset_peak_memory_stats()
        figures = {"seconds_per_window": round(timed(lambda: module(window), seconds), 5)}
    if _device() == "cuda":
        figures["peak_gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return figures


def timed(call: Callable[[], object], seconds: float) -> float:
    """Return the median seconds of a call, over 3 to 50 calls and about so many seconds; warm up before."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    _wait()
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 50):
        start = time.perf_counter()
        call()
        _wait()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def _wait() -> None:
    """Return when the GPU has done what it was asked for."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _free() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _command(*words: str) -> tuple[float, dict[str, Any]]:
    """Run a command of tomopoint; return its seconds and figures."""
    start = time.perf_counter()
    words = (sys.executable, "-m", "tomopoint", *words, "--json")
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"tomopoint {words[3]} ended with status {done.returncode}, see the log")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return round(time.perf_counter() - start, 1), figures


def _network(size: Size, kind: str, seed: int) -> PointNetwork:
    """Return a network with random weights whose outputs use their range."""
    import torch

    from tomopoint.networks.build import build_network
    from tomopoint.pipeline import COMPETITION_PARTICLES

    torch.manual_seed(seed)
    network = build_network(_config(size, kind), len(COMPETITION_PARTICLES), stride=2).eval()
    with torch.no_grad():
        for parameter in network.head.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=SPREAD / parameter[0].numel() ** 0.5)
    return network


def _config(size: Size, kind: str) -> Any:
    from tomopoint.networks.config import NetworkConfig

    return NetworkConfig(kind, **size.networks[kind])


def _pipeline(size: Size, members: Sequence[Any] = ()) -> Pipeline:
    """Return the default Pipeline, at the size's window."""
    from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline, Tiling

    tiling = Tiling() if size.window_zyx is None else Tiling(size.window_zyx, (16, 16, 16))
    return Pipeline(COMPETITION_PARTICLES, VOXEL_A, tiling=tiling, members=tuple(members))


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _graph_path(scratch: Path, must_exist: bool = True) -> Path:
    path = scratch / "graph" / "ensemble.onnx"
    if must_exist and not path.is_file():
        raise Skipped("there is no graph: the section graph did not write one")
    return path


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _inference_dtype() -> torch.dtype:
    import torch

    return torch.float16 if _device() == "cuda" else torch.float32


def _require_cuda() -> None:
    if _device() == "cpu":
        import torch

        raise Skipped(f"torch {torch.__version__} finds no GPU; --miniature needs none")


def _require_tensorrt(flavour: str) -> Any:
    from tomopoint.errors import EngineError
    from tomopoint.inference.engines.tensorrt_module import load_tensorrt

    try:
        return load_tensorrt(flavour)
    except EngineError as error:
        raise Skipped(str(error)) from error
