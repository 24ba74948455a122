"""Stage the dataset that carries everything Kaggle needs, and check a staged one.

A kit is one flat folder: package wheel, third-party wheels, graph, reference, Pipeline, manifest, and the graph's
model card where it has one. Flat, because the kaggle command line skips folders. The package wheel holds the models of
the box also where the graph is another: a few megabytes, for one and the same wheel everywhere.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from tomopoint import __version__
from tomopoint.data.project import DEFAULT_TOMO_TYPE
from tomopoint.errors import DataError, EngineError, PipelineError
from tomopoint.export.metadata import EXPORT_TOOLS, tool_versions
from tomopoint.files import sha256_of, write_atomically
from tomopoint.inference.reference import REFERENCE_NAME, Reference
from tomopoint.kaggle.kit_hours import kit_hours
from tomopoint.kaggle.manifest import MANIFEST, MODEL, KitFile, Manifest
from tomopoint.kaggle.metadata import (
    DATASET_METADATA,
    KERNELS_FOLDER,
    DatasetMetadata,
    as_json,
    dataset_metadata,
    load_config,
)
from tomopoint.kaggle.package_wheel import write_package_wheel
from tomopoint.kaggle.wheels import check_wheels
from tomopoint.models.box import card_of
from tomopoint.pipeline import PIPELINE_NAME, Pipeline

MODEL_CARD = "model-card.md"
"""What is known of the graph's networks, in a kit."""

logger = logging.getLogger(__name__)


def stage_dataset(model_path: Path, out: Path, home: Path, reference_path: Path | None = None) -> Manifest:
    """Fill `out` with a kit, all or nothing: an earlier kit there is replaced once the new one passes its check.

    Parameters
    ----------
    model_path
        Written by ``tomopoint export``. A model card beside it, of the same name, travels with it.
    out
        The kit's folder. The same inputs give the same files.
    home
        Folder with ``kernels/`` and ``wheels/``, from which third-party wheels are taken. The package's wheel is built
        from it where it is a checkout, see :mod:`tomopoint.kaggle.package_wheel`.
    reference_path
        The graph's ``reference.npz``; None: the one beside it.

    Raises
    ------
    EngineError, PipelineError
        The graph is no tomopoint graph, or not the one its reference was made with.
    DataError
        No graph or reference there, or `out` is a folder with something else in it.
    TomopointError
        The wheel cannot be built, ``kernels.toml`` breaks Kaggle's rules, or ``wheels/`` is not what its lock says.
    """
    metadata = dataset_metadata(load_config(home / KERNELS_FOLDER))
    if out.exists() and not (out.is_dir() and (Manifest.is_ours(out / MANIFEST) or not any(out.iterdir()))):
        raise DataError(f"{out} exists and is no kit, it is not overwritten; choose another --out or remove it")
    reference_path = reference_path or model_path.with_name(REFERENCE_NAME)
    pipeline = check_model(model_path, reference_path)
    if pipeline.tomo_type != DEFAULT_TOMO_TYPE:
        logger.warning(
            "%s reads %s tomograms; the competition's test runs are %s only",
            *(model_path, pipeline.tomo_type, DEFAULT_TOMO_TYPE),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as holder:
        kit = Path(holder) / "kit"
        kit.mkdir()
        # Everything that travels: wheels, graph, reference, Pipeline.
        logger.info("build the package wheel")
        write_package_wheel(home, kit)
        wheels = home / "wheels"
        if any(wheels.glob("*.whl")):
            for wheel in check_wheels(wheels):
                shutil.copyfile(wheel, kit / wheel.name)
        else:
            logger.warning(
                "no wheels in %s: this kit runs where zarr and ONNX Runtime are installed; `tomopoint wheels`", wheels
            )
        shutil.copyfile(model_path, kit / MODEL)
        shutil.copyfile(reference_path, kit / REFERENCE_NAME)
        if card := card_of(model_path):
            shutil.copyfile(card, kit / MODEL_CARD)
        pipeline.save(kit / PIPELINE_NAME)
        # What describes it. pip takes one entry where several Pythons have a wheel.
        files = {path.name: KitFile.of(path) for path in sorted(kit.iterdir())}
        distributions = {tuple(name.split("-")[:2]) for name in files if name.endswith(".whl")}
        install = tuple(sorted(f"{name}=={version}" for name, version in distributions))
        hours = kit_hours(kit / MODEL, pipeline, install)
        manifest = Manifest(
            tomopoint=__version__,
            onnx_sha256=files[MODEL].sha256,
            pipeline_digest=pipeline.digest,
            install=install,
            versions=tool_versions(EXPORT_TOOLS),
            files=files,
            time=None if hours is None else hours.to_dict(),
        )
        manifest.save(kit)
        write_atomically(kit / DATASET_METADATA, as_json(asdict(metadata)))
        logger.info("check the kit")
        check_dataset(kit)
        if out.exists():  # the earlier kit goes with the temporary folder
            out.rename(Path(holder) / "replaced")
        kit.rename(out)
    return manifest


def check_model(model_path: Path, reference_path: Path) -> Pipeline:
    """Check that a graph can be loaded and is the one its reference was made with; return its Pipeline."""
    from tomopoint.inference.engines.load import load_engine

    if not model_path.is_file():
        raise DataError(f"no graph {model_path}; write one with `tomopoint export`")
    reference = Reference.load(reference_path)
    reference.require_graph(sha256_of(model_path), model_path)
    engine, pipeline = load_engine(model_path, prefer="cpu")
    engine.close()
    if reference.windows.shape != (engine.batch, 1, *engine.window_zyx):
        raise EngineError(f"{reference_path} does not fit the input of {model_path}; export the graph again")
    return pipeline


def check_dataset(folder: Path) -> Manifest:
    """Verify a staged kit: hashes, nothing besides, the graph with its reference and Pipeline, Kaggle's rules.

    Raises
    ------
    TomopointError
        The first thing that is wrong, and what to do about it.
    """
    manifest = Manifest.load(folder)
    manifest.verify(folder)
    present = {path.name for path in folder.iterdir()} - {MANIFEST, DATASET_METADATA}
    if extra := sorted(present - set(manifest.files)):
        raise DataError(f"{folder} holds {', '.join(extra)}, which the manifest does not list; remove or stage again")
    if lacking := sorted({MODEL, REFERENCE_NAME, PIPELINE_NAME} - set(manifest.files)):
        raise DataError(f"{folder / MANIFEST} does not list {', '.join(lacking)}; stage the kit again")
    pipeline = check_model(folder / MODEL, folder / REFERENCE_NAME)
    digests = {pipeline.digest, Pipeline.load(folder / PIPELINE_NAME).digest, manifest.pipeline_digest}
    if len(digests) > 1 or manifest.onnx_sha256 != manifest.files[MODEL].sha256:
        raise PipelineError(
            f"manifest, {PIPELINE_NAME} and graph of {folder} do not belong together; stage the kit again"
        )
    if (folder / DATASET_METADATA).exists():
        DatasetMetadata.load(folder / DATASET_METADATA)
    return manifest
