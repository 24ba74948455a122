"""Every kind of file that tomopoint reads: how a good one is made, who reads it, and what a read one must hold.

A row of the table is all that a new kind of file needs; the properties in ``test_files.py`` hold for each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mrcfile
import numcodecs
import numpy as np
import onnx
import pandas as pd
import torch
import yaml
import zarr
from onnx import TensorProto, helper, numpy_helper

from tomopoint.data.particles import read_particles
from tomopoint.data.picks import read_picks
from tomopoint.data.stores import COMPETITION_SCALE_A
from tomopoint.data.tables import COORDINATES, PICK_COLUMNS, read_pick_table
from tomopoint.data.tomograms import describe_tomogram, read_tomogram
from tomopoint.errors import DataError, EngineError, PipelineError, TomopointError
from tomopoint.evaluation.history import parity_section, read_validation, timings_section
from tomopoint.inference.cost import GraphCost, read_cost
from tomopoint.inference.engines.engine_record import EngineRecord
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.parity import Outputs
from tomopoint.inference.parts import PartOrigin, read_part, write_part
from tomopoint.inference.reference import Reference
from tomopoint.kaggle.manifest import KitFile, Manifest
from tomopoint.kaggle.metadata import DatasetMetadata, load_config
from tomopoint.kaggle.wheels import PYTHON_VERSIONS, read_locks
from tomopoint.models.box import load_record as load_model_record
from tomopoint.networks.build import build_network, load_backbone
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.graph_weights import GraphNetworks
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Normalisation, Pipeline, ScoreMap
from tomopoint.simulate.particles.bead_table import read_beads
from tomopoint.simulate.particles.density_map import read_map
from tomopoint.simulate.particles.own import read_own_particles
from tomopoint.simulate.particles.structure import read_structure
from tomopoint.simulate.project import RunRecord, _read_record
from tomopoint.training.checkpoints import MemberRecord, load_member, mean_weights, save_weights
from tomopoint.training.last_checkpoint import FitState, load_checkpoint, save_checkpoint
from tomopoint.training.plan import TrainingPlan, open_folder
from tomopoint.training.pretrained import find_pretrained
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_recipe
from tomopoint.validation.ensemble_folder import training_folders_in
from tomopoint.validation.out_of_fold import record_if_done

CHECKOUT = Path(__file__).parents[2]
HASH = "ab" * 32


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    name
        Where it lies in its folder.
    good
        A good one: parsed content where there is `dump`, else bytes.
    read
        Reads the file as a command does, and asserts that what it took is sound.
    error
        What a bad one raises.
    dump
        Makes the text of parsed content; None: there is no such content.
    prepare
        Puts into the folder what belongs beside the file.
    named
        What the message must name: the file, or the store or folder that it is a part of.
    always
        What is read where others write, too: a bad one is passed over, never an error.
    """

    name: str
    good: Callable[[], Any]
    read: Callable[[Path], Any]
    error: type[TomopointError] = TomopointError
    dump: Callable[[Any], str] | None = None
    prepare: Callable[[Path], Any] = lambda folder: None
    named: Callable[[Path], Path] = lambda path: path
    always: bool = False

    def written(self, content: Any) -> bytes:
        """Return the bytes of a file with this content."""
        return content if self.dump is None else self.dump(content).encode(errors="surrogatepass")


def as_toml(value: Any) -> str:
    """Return the text of a TOML file with this content; what TOML cannot say becomes NaN."""

    def inline(item: Any) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {inline(part)}" for key, part in item.items()) + "}"
        if isinstance(item, list):
            return "[" + ", ".join(map(inline, item)) + "]"
        return json.dumps(item) if isinstance(item, (str, bool)) else "nan" if item is None else repr(item)

    if not isinstance(value, dict):
        return inline(value)
    return "".join(f"{json.dumps(key)} = {inline(item)}\n" for key, item in value.items())


def is_finite(value: Any) -> bool:
    """Tell whether no number in parsed JSON is NaN or infinite."""
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


# Pipelines, graphs, engines.

RING = Path(__file__).parents[2] / "docs" / "examples" / "ring.cif"
PIPELINE = Pipeline(
    COMPETITION_PARTICLES[:2],
    10.0,
    view_merge="gmean",
    members=(Member("fold0", "unet", ("TS_1",), 0.8, HASH, kind="segmentation", class_weights=(1.0, 2.0)),),
    score_maps=(ScoreMap("segmentation", "apo-ferritin", (0.0, 0.25, 1.0), (0.0, 0.5, 1.0)),),
)
MANIFEST = Manifest("0", HASH, HASH, ("zarr==3.1.5", "tomopoint==0.1"), {"torch": "2"}, {"a.whl": KitFile(HASH, 3)})
RECORD = EngineRecord(
    runtime="onnxruntime-cpu",
    runtime_version="1.26.0",
    onnx_sha256=HASH,
    pipeline_digest=HASH,
    precision="fp16",
    window_zyx=(192, 128, 128),
    batch=1,
    device="the CPU",
    parity={"scores_max": 0.001, "ok": True},
    seconds_per_tile=0.25,
    options={"threads": 2},
    passed_over=("nothing",),
)
COST = GraphCost((192, 128, 128), 2, "fp16", 1e12, 1e10, 1e9, 1e9, 1e8)
PARITY_ROW = {
    **{"subject": "whole graph", "runtime": "CPUExecutionProvider", "scores_max": 1e-4, "scores_mean": 1e-5},
    **{"offsets_max_vox": 1e-3, "top1_agreement": 1.0, "ok": True, "tolerance": {"scores": 0.02}},
}


def read_pipeline_file(path):
    pipeline = Pipeline.load(path)
    assert Pipeline.from_json(pipeline.to_json()).digest == pipeline.digest
    assert is_finite(asdict(pipeline))


def read_engine_record(path):
    record = EngineRecord.load(path)
    assert len(record.device.splitlines()) <= 1
    assert EngineRecord.from_json(record.to_json()) == record or "NaN" in record.to_json()


def read_manifest(path):
    Manifest.is_ours(path)
    manifest = Manifest.load(path.parent)
    assert all(not name.startswith(("/", "-")) and ".." not in Path(name).parts for name in manifest.files)


@cache
def graph() -> bytes:
    """A graph of one node, with all metadata of an exported one."""
    node = helper.make_node("Identity", ["volume"], ["scores"])
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2, 2]) for name in ("volume", "scores")]
    model = helper.make_model(helper.make_graph([node], "g", sides[:1], sides[1:]))
    helper.set_model_props(
        model,
        {
            "tomopoint.pipeline": PIPELINE.to_json(indent=None),
            "tomopoint.cost": COST.to_json(),
            "tomopoint.parity": json.dumps([PARITY_ROW]),
        },
    )
    return onnx.ModelProto.SerializeToString(model)


def read_graph(path):
    assert read_pipeline(path).particle_names
    read_cost(path)
    parity_section(path)


@cache
def reference() -> bytes:
    rng = np.random.default_rng(0)
    windows, scores, offsets = (
        rng.normal(size=(1, n, s, s, s)).astype(np.float32) for n, s in ((1, 4), (2, 2), (3, 2))
    )
    return bytes_of(lambda path: Reference(windows, Outputs(scores, offsets), "fp16", HASH).save(path), "reference.npz")


def read_reference(path):
    reference = Reference.load(path)
    for array in (reference.windows, reference.outputs.scores, reference.outputs.offsets):
        assert array.dtype == np.float32
        assert array.ndim == 5
        assert np.isfinite(array).all()
    assert min(*reference.window_zyx, reference.stride) > 0


# Picks.

PICKS = {
    "pickable_object_name": "ribosome",
    "run_name": "TS_1",
    "unit": "angstrom",
    "points": [{"location": {"x": 1.0, "y": 2, "z": 3.5}, "instance_id": 0}, {"location": {"x": 4, "y": 5, "z": 6}}],
    "trust_orientation": True,
}
HEADER = b"experiment,particle_type,x,y,z,score\n"
ROW = b"TS_1,ribosome,1.5,2,3,0.5\n"


ORIGIN = PartOrigin(HASH, "denoised")


@cache
def part() -> bytes:
    picks = pd.DataFrame([("NA", "ribosome", 1.5, 2.0, 3.0, 0.5)] * 3, columns=list(PICK_COLUMNS))
    return bytes_of(lambda path: write_part(path.parent, path.stem, picks, ORIGIN), "NA.csv")


def read_a_part(path):
    """A part has a checksum: it is taken only as it was written."""
    assert read_part(path, ORIGIN)["experiment"].tolist() == ["NA"] * 3


def read_points(path):
    picks = read_picks(path)
    assert picks.points_xyz_A.shape[1:] == (3,)
    assert np.isfinite(picks.points_xyz_A).all()


def read_table(path):
    table = read_pick_table(path)
    numbers = [name for name in (*COORDINATES, "score") if name in table.columns]
    assert np.isfinite(table[numbers].to_numpy(dtype=np.float64)).all()
    assert (table["experiment"].str.len() > 0).all()
    assert (table["particle_type"].str.len() > 0).all()


# Training folders.

SMALL = NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=4, offset_width=4)
RECIPE = {
    "base": "demo",
    "networks": [{"name": "segresnet", "init_filters": 8, "optimiser": {"clip_norm": 1.0}, "label": "small"}],
    "folds": [["TS_1"], ["TS_2"]],
    "particles": [asdict(particle) for particle in COMPETITION_PARTICLES[:2]],
    "crops": {"size_zyx": [32, 32, 32], "tomo_types": ["denoised", "wbp"]},
    "fit": {"epochs": 2, "max_minutes": 1.5, "precision": "fp32"},
    "seed": 3,
}
STORED = Recipe()


def as_yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False)


def read_recipe(path):
    recipe = load_recipe(str(path))
    assert is_finite(recipe.to_dict())
    assert all("/" not in network.title and network.title not in ("", ".", "..") for network in recipe.networks)


OWN_PARTICLES = {
    "particles": [
        {
            "name": "spike",
            "radius_A": 75.0,
            "weight": 2.0,
            "simulate": {"beads": [[0.0, 0.0, 0.0, 30.0], [0.0, 0.0, 60.0, 90.0]], "per_run": 3.0, "where": "lumen"},
        },
        {"name": "ribosome", "threshold": 0.4},
    ]
}


def read_particles_file(path):
    own = read_own_particles(path, "measured")
    assert all(is_finite(asdict(particle)) for particle in read_particles(path))
    assert all(np.isfinite(particle.blobs.positions_zyx_A).all() for particle in own.particles)
    assert all(0 < particle.blobs.integral < np.inf for particle in own.particles)


def read_bead_file(path):
    assert np.isfinite(read_beads(path, 9.0, "beads").positions_zyx_A).all()


def read_atoms(path):
    points = read_structure(path)
    assert np.isfinite(points.positions_zyx_A).all()
    assert points.weights.min() > 0


def density_map() -> bytes:
    def save(path: Path) -> None:
        with mrcfile.new(path) as made:
            made.set_data(np.indices((6, 5, 4)).sum(axis=0).astype(np.float32))
            made.voxel_size = 4.0

    return bytes_of(save, "map.mrc")


def read_density_map(path):
    points = read_map(path, threshold=5.0)
    assert np.isfinite(points.positions_zyx_A).all()
    assert np.isfinite(points.weights).all()


def open_training_folder(path):
    open_folder(TrainingPlan(STORED, "default", path.parent, path.parent, (), {}))


def bytes_of(save: Callable[[Path], Any], name: str) -> bytes:
    """Return what a function writes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


@cache
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(SMALL, 2, 2)


@cache
def weights() -> bytes:
    return bytes_of(lambda path: save_weights(network().state_dict(), path), "weights.safetensors")


@cache
def member() -> dict[str, Any]:
    import hashlib

    record = MemberRecord(
        fold="fold0",
        network=SMALL.resolved(),
        particles=("ribosome", "thyroglobulin"),
        stride=2,
        voxel_A=10.0,
        normalisation=Normalisation(),
        training_runs=("TS_1",),
        validation_runs=("TS_2",),
        data_root="data",
        data_sha256=HASH,
        recipe_sha256=HASH,
        weights_sha256=hashlib.sha256(weights()).hexdigest(),
        recipe="demo",
        tomopoint="0",
        epochs=1,
        steps=1,
        kept="all",
        seconds=0.0,
        device="cpu",
        precision="fp32",
    )
    return json.loads(json.dumps({**asdict(record), "network": SMALL.resolved().to_dict()}))


def read_member(path):
    module, record = load_member(path.parent)
    assert is_finite(asdict(record))
    assert record.stride > 0
    assert record.voxel_A > 0
    assert all(torch.isfinite(tensor).all() for tensor in module.state_dict().values())


def adam() -> torch.optim.Optimizer:
    optimiser = torch.optim.AdamW(network().parameters())
    for parameter in network().parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    return optimiser


@cache
def checkpoint() -> bytes:
    state = FitState(1, 4, 2.0, ({"epoch": 0.0, "step": 4.0},), ((0.5, "epoch0000.safetensors"),))
    return bytes_of(lambda path: save_checkpoint(path, state, network(), None, adam()), "last.safetensors")


def read_checkpoint(path):
    state = load_checkpoint(path, network(), None, adam())
    assert 0 <= state.epoch == len(state.rows) <= state.step
    assert all("/" not in name for _, name in state.best)


@cache
def state_dict() -> bytes:
    return bytes_of(lambda path: torch.save(network().backbone.state_dict(), path), "pretrained.pt")


GRAPH_NETWORKS = GraphNetworks((SMALL,), constants={"networks.0.head.offset.6.bias": 0.0})


@cache
def trained_graph() -> bytes:
    """A graph of one node that holds a network's weights, as an exported one does."""
    tensors = {f"networks.0.{name}": tensor.half().numpy() for name, tensor in network().state_dict().items()}
    node = helper.make_node("Identity", ["volume"], ["scores"])
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2, 2]) for name in ("volume", "scores")]
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    model = helper.make_model(helper.make_graph([node], "g", sides[:1], sides[1:], stored))
    pipeline = Pipeline(COMPETITION_PARTICLES[:2], 10.0, members=(Member("fold0", SMALL.name, (), None, HASH),))
    metadata = {"tomopoint.pipeline": pipeline.to_json(indent=None), "tomopoint.networks": GRAPH_NETWORKS.to_json()}
    helper.set_model_props(model, metadata)
    return onnx.ModelProto.SerializeToString(model)


def read_trained_graph(path):
    found = find_pretrained(str(path), SMALL, 2, "fold0")
    assert found.candidate is not None
    assert all(torch.isfinite(tensor).all() for tensor in found.candidate.read().weights.values())


def read_graph_networks(path):
    """Read what a graph says of its networks, here in a file of its own, out of the graph."""
    if not path.is_file():
        raise TomopointError(f"{path} is no file; give the text of the metadata")
    try:
        found = GraphNetworks.from_json(path.read_bytes().decode(), path)
    except UnicodeDecodeError as error:
        raise TomopointError(f"{path} is no text; give the text of the metadata") from error
    assert is_finite(dict(found.constants))


MODEL_RECORD = {
    "onnx_sha256": HASH,
    "commands": ["tomopoint train --data DATA --out OUT"],
    "recipe": "small",
    "seeds": {"weights": 0},
    "simulated_scores": {"own world": 0.9},
}

VALIDATION = {
    "score": 0.7,
    "score_left_out": 0.6,
    "per_class": {"ribosome": {"f_beta": 0.7}},
    "per_class_left_out": {"ribosome": {"f_beta": 0.6}},
    "per_group": {"fold0": {"score": 0.7, "f_beta": {"ribosome": 0.7}, "curves": {"ribosome": [0.1, 0.7]}}},
    "thresholds": {"ribosome": {"threshold": 0.5, "flat_low": 0.4, "flat_high": 0.6, "from_curve": True}},
    "residual": {"n": 3, "mean_xyz_A": [0.0, 1.0, 2.0], "correction_xyz_A": [0.0, 0.0, 0.0]},
    "curves": {
        "ribosome": {"thresholds": [0.1, 0.5], "f_beta": [0.1, 0.7], "recall": [1, 0.5], "precision": [0.1, 0.9]}
    },
    "data_root": "data",
    "predictions": {"TS_1": {"seconds": 1.0}},
}
LOG = [
    {"time": 1.0, "event": "done", "run": "TS_1", "worker": 0, "n_picks": 3, "seconds": 2.0, "read_seconds": 0.5},
    {"time": 2.0, "event": "joined", "n_picks": 3, "n_submitted": 2, "total_seconds": 3.0},
]
SIMULATED = {
    **{"run": "TS_1", "split": "test", "index": 0, "counts": {"ribosome": 3}},
    **{"imaging": {"defocus": 2.0}, "device": "cpu", "seconds": 1.5},
}


def read_simulated(path):
    assert isinstance(_read_record(path), RunRecord)


def read_log(path):
    timings_section(path.parent)


def read_picks_record(path):
    path.with_suffix(".csv").write_bytes(HEADER + ROW)
    record = record_if_done(path.with_suffix(".csv"), {"pipeline_sha256": HASH})
    assert record is None or record["pipeline_sha256"] == HASH


# Kaggle.

KERNELS = {
    "owner": "someone",
    "competition": "czii-cryo-et-object-identification",
    "accelerator": "NvidiaTeslaT4",
    "dataset": {"title": "tomopoint kit", "subtitle": "everything that the notebooks need", "license": "MIT"},
    "kernels": {"submit": {"title": "tomopoint submit", "uses_competition": True, "outputs_of": ["build_engine"]}},
}
DATASET = {
    **{"id": "someone/tomopoint-kit", "title": "tomopoint kit", "subtitle": "everything that the notebooks need"},
    "licenses": [{"name": "MIT"}],
}
LOCK = {
    "lock-version": "1.0",
    "packages": [{"name": "zarr", "version": "3.1.5", "wheels": [{"url": "x", "size": 3, "hashes": {"sha256": HASH}}]}],
}


def lock_name(python: str) -> str:
    return f"pylock.cp{python.replace('.', '')}.toml"


def write_other_locks(folder):
    for python in PYTHON_VERSIONS[1:]:
        (folder / lock_name(python)).write_text(as_toml(LOCK))


# Stores. Both formats, without compression, so that damage reaches what comes after the decoder.

COMPRESSORS = {"": None, "blosc": numcodecs.Blosc("lz4"), "gzip": numcodecs.GZip(), "zstd": numcodecs.Zstd()}
VOLUME = np.random.default_rng(7).normal(0, 5e-6, (6, 8, 8)).astype(np.float32)


def write_store(folder: Path, zarr_format: int, compressors: Any = None) -> None:
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    transformations = [{"type": "scale", "scale": list(COMPETITION_SCALE_A)}]
    multiscales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transformations}]}]
    attributes = {"multiscales": multiscales}
    store = zarr.open_group(str(folder / "a.zarr"), mode="w", zarr_format=zarr_format)
    store.attrs.update(attributes if zarr_format == 2 else {"ome": {**attributes, "version": "0.5"}})
    array = store.create_array("0", shape=VOLUME.shape, dtype="f4", chunks=(6, 8, 4), compressors=compressors)
    array[...] = VOLUME


@cache
def stored(zarr_format: int, name: str, codec: str = "") -> bytes:
    root = len(Path(name).parts) - 1
    return bytes_of(lambda path: write_store(path.parents[root], zarr_format, COMPRESSORS[codec]), name)


def store_of(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.suffix == ".zarr")


def read_store(path):
    described = describe_tomogram(store_of(path))
    tomogram = read_tomogram(store_of(path))
    assert tomogram.volume_zyx.dtype == np.float32
    assert tomogram.volume_zyx.shape == described.shape_zyx
    assert np.isfinite(tomogram.volume_zyx).all()
    assert 0 < tomogram.voxel_A < np.inf


def metadata_kind(zarr_format: int, name: str) -> Kind:
    """A file of a store's metadata."""
    return Kind(
        f"a.zarr/{name}",
        lambda: json.loads(stored(zarr_format, f"a.zarr/{name}")),
        read_store,
        DataError,
        json.dumps,
        lambda folder: write_store(folder, zarr_format),
        store_of,
    )


def chunk_kind(codec: str) -> Kind:
    """A chunk."""
    return Kind(
        "a.zarr/0/0.0.1",
        lambda: stored(2, "a.zarr/0/0.0.1", codec),
        read_store,
        DataError,
        None,
        lambda folder: write_store(folder, 2, COMPRESSORS[codec]),
        store_of,
    )


JSON = json.dumps
KINDS: dict[str, Kind] = {
    "Pipeline": Kind("pipeline.json", lambda: json.loads(PIPELINE.to_json()), read_pipeline_file, PipelineError, JSON),
    "engine record": Kind("engine.json", lambda: json.loads(RECORD.to_json()), read_engine_record, EngineError, JSON),
    "manifest": Kind("manifest.json", lambda: json.loads(JSON(asdict(MANIFEST))), read_manifest, DataError, JSON),
    "graph": Kind("ensemble.onnx", graph, read_graph),
    "reference": Kind("reference.npz", reference, read_reference, DataError),
    "picks": Kind("ribosome.json", lambda: PICKS, read_points, DataError, JSON),
    "pick table": Kind("picks.csv", lambda: HEADER + ROW * 3, read_table, DataError),
    "part": Kind("NA.csv", part, read_a_part, DataError),
    "recipe": Kind("mine.yaml", lambda: RECIPE, read_recipe, dump=as_yaml),
    "particles": Kind("particles.yaml", lambda: OWN_PARTICLES, read_particles_file, DataError, as_yaml),
    "beads": Kind("beads.csv", lambda: b"x,y,z,weight\n0,1,2,30\n5,1,2,40\n", read_bead_file, DataError),
    "structure": Kind("ring.cif", RING.read_bytes, read_atoms, DataError),
    "density map": Kind("map.mrc", density_map, read_density_map, DataError),
    "stored recipe": Kind("recipe.yaml", STORED.to_dict, open_training_folder, dump=as_yaml),
    "data of a training": Kind(
        "data.json", lambda: {"data_root": "data", "runs": {"TS_1": HASH}}, open_training_folder, dump=JSON
    ),
    "member": Kind(
        "member.json",
        member,
        read_member,
        dump=JSON,
        prepare=lambda folder: (folder / "weights.safetensors").write_bytes(weights()),
        named=lambda path: path.parent,
    ),
    "weights": Kind(
        "weights.safetensors",
        weights,
        read_member,
        prepare=lambda folder: (folder / "member.json").write_text(JSON(member())),
        named=lambda path: path.parent,
    ),
    "candidate": Kind("epoch0001.safetensors", weights, lambda path: mean_weights([path])),
    "checkpoint": Kind("last.safetensors", checkpoint, read_checkpoint),
    "graph to start from": Kind("trained.onnx", trained_graph, read_trained_graph),
    "networks of a graph": Kind(
        "networks.json", lambda: json.loads(GRAPH_NETWORKS.to_json()), read_graph_networks, dump=JSON
    ),
    "record of a model": Kind(
        "small.json",
        lambda: MODEL_RECORD,
        lambda path: load_model_record(path.with_suffix(".onnx")),
        dump=JSON,
    ),
    "pretrained weights": Kind("pretrained.pt", state_dict, lambda path: load_backbone(network(), path)),
    "ensemble": Kind(
        "ensemble.json",
        lambda: {"training_folders": ["a"]},
        lambda path: training_folders_in(path.parent),
        dump=JSON,
        prepare=lambda folder: (folder / "a").mkdir(),
    ),
    "validation": Kind(
        "validation.json", lambda: VALIDATION, lambda path: read_validation(path.parent), DataError, JSON
    ),
    "record of picks": Kind(
        "TS_1.json", lambda: {"pipeline_sha256": HASH, "seconds": 1.5}, read_picks_record, dump=JSON, always=True
    ),
    "log": Kind("log.jsonl", lambda: "".join(JSON(event) + "\n" for event in LOG).encode(), read_log, always=True),
    "simulated run": Kind("TS_1.json", lambda: SIMULATED, read_simulated, DataError, JSON),
    "kernels.toml": Kind("kernels.toml", lambda: KERNELS, lambda path: load_config(path.parent), dump=as_toml),
    "dataset": Kind("dataset-metadata.json", lambda: DATASET, DatasetMetadata.load, dump=JSON),
    "lock": Kind(
        lock_name(PYTHON_VERSIONS[0]),
        lambda: LOCK,
        lambda path: read_locks(path.parent),
        dump=as_toml,
        prepare=write_other_locks,
        named=lambda path: path.parent,
    ),
    "store 0.4, group": metadata_kind(2, ".zattrs"),
    "store 0.4, array": metadata_kind(2, "0/.zarray"),
    "store 0.5, group": metadata_kind(3, "zarr.json"),
    "store 0.5, array": metadata_kind(3, "0/zarr.json"),
    "chunk, Blosc": chunk_kind("blosc"),
    "chunk, gzip": chunk_kind("gzip"),
    "chunk, zstd": chunk_kind("zstd"),
}
