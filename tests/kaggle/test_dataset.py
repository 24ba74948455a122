import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from tomopoint.errors import DataError, EngineError, PipelineError, TomopointError
from tomopoint.files import sha256_of
from tomopoint.inference.engines.graph_metadata import PIPELINE_KEY
from tomopoint.inference.reference import Reference
from tomopoint.kaggle.dataset import check_dataset, stage_dataset
from tomopoint.kaggle.manifest import KitFile, Manifest

CHECKOUT = Path(__file__).parents[2]


def _flip_byte(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def _relist(kit, name, **changes):
    """Make the manifest agree with a changed file, so that the checks behind the hashes are reached."""
    manifest = json.loads((kit / "manifest.json").read_text())
    manifest["files"][name] = vars(KitFile.of(kit / name))
    (kit / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_a_kit_holds_package_graph_reference_pipeline_and_their_hashes(staged, exported):
    manifest = Manifest.load(staged)
    names = {path.name for path in staged.iterdir()}
    wheels = {name for name in names if name.endswith(".whl")}
    assert names - wheels == {
        "ensemble.onnx", "reference.npz", "pipeline.json", "manifest.json", "dataset-metadata.json"
    }  # fmt: skip
    assert set(manifest.files) == names - {"manifest.json", "dataset-metadata.json"}
    assert all(manifest.files[name].sha256 == sha256_of(staged / name) for name in manifest.files)
    assert manifest.onnx_sha256 == exported.onnx_sha256
    assert manifest.pipeline_digest == exported.pipeline.digest
    assert f"tomopoint=={manifest.tomopoint}" in manifest.install
    assert not any(path.is_dir() for path in staged.iterdir())


def test_the_wheel_carries_the_package_and_the_recipes(staged):
    (wheel,) = staged.glob("tomopoint-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "tomopoint/kaggle/submit.py" in names
    assert any(name.startswith("tomopoint/recipes/") for name in names)


def test_staging_twice_gives_the_same_files_and_leaves_nothing_besides(staged, exported, tmp_path, checkout):
    out = tmp_path / "kit"
    shutil.copytree(staged, out)
    (out / "left-over.txt").write_text("of an earlier version")
    stage_dataset(exported.path, out, checkout)
    for path in staged.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in out.iterdir()} == {path.name for path in staged.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]


def test_a_folder_with_something_else_is_not_replaced(exported, tmp_path, checkout):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not overwritten"):
        stage_dataset(exported.path, tmp_path, checkout)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_check_accepts_the_kit(kit):
    assert check_dataset(kit) == Manifest.load(kit)
    (kit / "dataset-metadata.json").unlink()  # Kaggle does not mount it
    check_dataset(kit)


@pytest.mark.parametrize("name", ["ensemble.onnx", "reference.npz", "pipeline.json"])
def test_a_flipped_bit_is_found_and_named(kit, name):
    _flip_byte(kit / name, 200)
    with pytest.raises(DataError, match=rf"{name}.*SHA-256 differs"):
        check_dataset(kit)


def test_missing_truncated_and_unlisted_files_are_named(kit):
    (kit / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        check_dataset(kit)
    (kit / "notes.txt").unlink()
    data = (kit / "reference.npz").read_bytes()
    (kit / "reference.npz").write_bytes(data[:-10])
    with pytest.raises(DataError, match=rf"{len(data) - 10} bytes"):
        check_dataset(kit)
    (kit / "reference.npz").unlink()
    with pytest.raises(DataError, match=r"reference\.npz is missing"):
        check_dataset(kit)


def test_a_pipeline_of_another_export_is_refused(kit):
    path = kit / "pipeline.json"
    path.write_text(path.read_text().replace('"threshold": 0.25', '"threshold": 0.35'))
    _relist(kit, "pipeline.json")
    with pytest.raises(PipelineError, match="do not belong together"):
        check_dataset(kit)


def test_metadata_that_kaggle_refuses_is_found(kit):
    metadata = json.loads((kit / "dataset-metadata.json").read_text())
    (kit / "dataset-metadata.json").write_text(json.dumps({**metadata, "licenses": []}))
    with pytest.raises(TomopointError, match="licence"):
        check_dataset(kit)


def test_a_folder_without_manifest_is_no_kit(tmp_path):
    with pytest.raises(DataError, match="tomopoint stage"):
        check_dataset(tmp_path)


def _copy_export(exported, folder):
    for path in (exported.path, exported.reference_path):
        shutil.copy(path, folder / path.name)
    return folder / exported.path.name


def test_a_graph_changed_after_export_is_not_staged(exported, tmp_path, checkout):
    model = _copy_export(exported, tmp_path)
    _flip_byte(model, model.stat().st_size // 2)
    with pytest.raises(EngineError, match="damaged or replaced"):
        stage_dataset(model, tmp_path / "kit", checkout)
    assert not (tmp_path / "kit").exists()


def test_a_graph_without_tomopoint_metadata_is_not_staged(exported, tmp_path, checkout):
    model = _copy_export(exported, tmp_path)
    graph = onnx.load(model)
    del graph.metadata_props[:]
    onnx.save(graph, model)
    reference = Reference.load(exported.reference_path)
    Reference(reference.windows, reference.outputs, "fp32", sha256_of(model)).save(tmp_path / "reference.npz")
    with pytest.raises(TomopointError, match=r"tomopoint\.pipeline|export"):
        stage_dataset(model, tmp_path / "kit", checkout)


def test_a_graph_without_reference_is_not_staged(exported, tmp_path, checkout):
    model = _copy_export(exported, tmp_path)
    (tmp_path / "reference.npz").unlink()
    with pytest.raises(DataError, match=r"reference\.npz"):
        stage_dataset(model, tmp_path / "kit", checkout)


def test_a_reference_of_another_window_is_not_staged(exported, tmp_path, checkout):
    model = _copy_export(exported, tmp_path)
    reference = Reference.load(exported.reference_path)
    replace(reference, windows=reference.windows[..., 1:]).save(tmp_path / "reference.npz")
    with pytest.raises(EngineError, match="does not fit the input"):
        stage_dataset(model, tmp_path / "kit", checkout)


def test_a_pipeline_whose_window_is_not_the_graphs_is_not_staged(exported, tmp_path, checkout):
    model = _copy_export(exported, tmp_path)
    graph = onnx.load(model)
    tiling = replace(exported.pipeline.tiling, window_zyx=(24, 32, 48))
    for entry in graph.metadata_props:
        if entry.key == PIPELINE_KEY:
            entry.value = replace(exported.pipeline, tiling=tiling).to_json()
    onnx.save(graph, model)
    reference = Reference.load(exported.reference_path)
    replace(reference, onnx_sha256=sha256_of(model)).save(tmp_path / "reference.npz")
    with pytest.raises(PipelineError, match=r"its Pipeline needs windows of \(24, 32, 48\)"):
        stage_dataset(model, tmp_path / "kit", checkout)


def test_staging_checks_from_the_command_line(kit):
    words = [sys.executable, str(CHECKOUT / "build_dataset.py"), "--check", str(kit), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]
    _flip_byte(kit / "ensemble.onnx", 100)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ensemble.onnx" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wheel_that_is_not_locked_is_not_staged(exported, checkout, tmp_path):
    copy = Path(shutil.copytree(checkout, tmp_path / "checkout"))
    (copy / "wheels" / "zarr-2.18.0-py3-none-any.whl").write_bytes(b"old")
    with pytest.raises(TomopointError, match=r"zarr-2\.18\.0-py3-none-any\.whl is not what the locks beside it name"):
        stage_dataset(exported.path, tmp_path / "kit", copy)
    assert not (tmp_path / "kit").exists()
