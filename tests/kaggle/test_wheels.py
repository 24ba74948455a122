"""The wheels that travel: what is locked, what is refused, and TensorRT's library wheel reduced to one architecture."""

import base64
import csv
import hashlib
import io
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tomopoint.errors import TomopointError
from tomopoint.files import sha256_of
from tomopoint.kaggle.slim import slim_wheel
from tomopoint.kaggle.wheels import (
    PYTHON_VERSION,
    check_wheels,
    normal_name,
    pip_words,
    read_image,
    read_lock,
    refuse_image_packages,
    slim_tensorrt,
)

WHEELS = Path(__file__).parents[2] / "wheels"
VERSION = "10.16.1.11"
LIBRARIES = {
    "libnvinfer.so.10": b"core" * 100,
    "libnvinfer_plugin.so.10": b"plugins" * 100,
    "libnvonnxparser.so.10": b"parser" * 100,
    "libnvinfer_builder_resource_sm75.so.10.16.1": b"turing" * 100,
    "libnvinfer_builder_resource_sm80.so.10.16.1": b"ampere" * 100,
    "libnvinfer_builder_resource_sm120.so.10.16.1": b"blackwell" * 100,
    "libnvinfer_builder_resource_ptx.so.10.16.1": b"ptx" * 100,
    "libnvinfer_lean.so.10": b"lean" * 100,
    "libnvinfer_dispatch.so.10": b"dispatch" * 100,
}


def write_wheel(path: Path, files: dict[str, bytes], info: str) -> Path:
    """Write a wheel with a correct RECORD."""
    rows = [(name, f"sha256={digest_of(data)}", len(data)) for name, data in files.items()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, f"{info}/RECORD": text.getvalue().encode()}.items():
            archive.writestr(name, data)
    return path


def digest_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


@pytest.fixture
def libs(tmp_path):
    """Return a wheel laid out as TensorRT 10.16's: same names, a few bytes in each library."""
    info = f"tensorrt_cu12_libs-{VERSION}.dist-info"
    files = {f"tensorrt_libs/{name}": data for name, data in LIBRARIES.items()}
    files["tensorrt_libs/__init__.py"] = b"LOADED = True\n"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: tensorrt_cu12_libs\nVersion: {VERSION}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-manylinux_2_28_x86_64\n\n"
    (tmp_path / "fetched").mkdir()
    name = f"tensorrt_cu12_libs-{VERSION}-py3-none-manylinux_2_28_x86_64.whl"
    return write_wheel(tmp_path / "fetched" / name, files, info)


def test_the_checkouts_lock_fits_its_wishes_and_leaves_the_image_alone():
    pins = read_lock(WHEELS / "kernel.lock")
    refuse_image_packages(pins, WHEELS / "image.txt")
    for wish in (WHEELS / "kernel.in").read_text().splitlines():
        if wish and wish[0] != "#":
            name, exact, version = re.fullmatch(r"([\w.-]+)(==)?([\d.]+)?.*", wish).groups()
            assert normal_name(name) in pins
            assert not exact or pins[normal_name(name)].version == version
    assert {"torch", "numpy", "scipy", "pandas", "pycuda"} <= read_image(WHEELS / "image.txt")
    assert pins["onnxruntime-gpu"].version == "1.26.0"  # the last for CUDA 12


def test_pip_is_asked_for_wheels_of_kaggles_python_only():
    words = pip_words("download")
    assert "--only-binary=:all:" in words
    assert words[words.index("--python-version") + 1] == PYTHON_VERSION == "3.12"
    assert "manylinux2014_x86_64" in words


@pytest.mark.parametrize("line", ["zarr==3.1.6", "zarr>=3 --hash=sha256:" + "0" * 64, "zarr==3 --hash=md5:0", "-e ."])
def test_a_lock_without_hash_or_version_is_refused(tmp_path, line):
    (tmp_path / "kernel.lock").write_text(f"# comment\n{line}\n")
    with pytest.raises(TomopointError, match="no pin with one hash"):
        read_lock(tmp_path / "kernel.lock")


@pytest.fixture
def folder(tmp_path):
    """Return a folder with one locked wheel."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / "thing-1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    (folder / "kernel.lock").write_text(
        f"thing==1.0 --hash=sha256:{sha256_of(wheel)}\ntensorrt_cu12_bindings=={VERSION} --hash=sha256:{'0' * 64}\n"
    )
    (folder / "image.txt").write_text("# what is there\nNumPy==2.0.2  # exactly\ntyping_extensions\n")
    return folder


def complete(folder: Path) -> Path:
    """Lock no more than what lies there."""
    (folder / "kernel.lock").write_text((folder / "kernel.lock").read_text().splitlines()[0] + "\n")
    return folder


def test_a_complete_folder_passes_with_and_without_tensorrts_libraries(folder, libs):
    assert [wheel.name for wheel in check_wheels(complete(folder))] == ["thing"]
    shutil.copy(libs, folder)
    assert [wheel.name for wheel in check_wheels(folder)] == ["tensorrt-cu12-libs", "thing"]


def test_what_is_missing_or_does_not_belong_is_named(folder):
    with pytest.raises(TomopointError, match=r"lacks tensorrt-cu12-bindings; run `make wheels`"):
        check_wheels(folder)
    complete(folder)
    for name, sentence in {
        "thing-2.0-py3-none-any.whl": r"thing-2\.0-py3-none-any\.whl is not what .*kernel\.lock locks",
        "other-1.0-py3-none-any.whl": r"other-1\.0-py3-none-any\.whl is not what",
        "numpy-2.1.0-cp312-cp312-any.whl": r"numpy would replace what Kaggle's image has",
        "typing.extensions-1-py3-none-any.whl": r"typing-extensions would replace",
        "asciitree-0.3.tar.gz": r"source archives \(asciitree-0\.3\.tar\.gz\)",
        "odd.whl": r"odd\.whl is no wheel",
    }.items():
        (folder / name).write_bytes(b"x")
        with pytest.raises(TomopointError, match=sentence):
            check_wheels(folder)
        (folder / name).unlink()
    (folder / "thing-1.0-py3-none-any.whl").write_bytes(b"whEel")
    with pytest.raises(TomopointError, match="is not what"):
        check_wheels(folder)


def test_the_slim_wheel_keeps_what_a_t4_needs_and_says_so(libs, tmp_path):
    slim = slim_wheel(libs, tmp_path, "7.5")
    assert slim.path.name == f"tensorrt_cu12_libs-{VERSION}-1sm75-py3-none-manylinux_2_28_x86_64.whl"
    assert set(slim.kept) == {
        "libnvinfer.so.10",
        "libnvinfer_plugin.so.10",  # the bindings are linked against it
        "libnvonnxparser.so.10",
        "libnvinfer_builder_resource_sm75.so.10.16.1",
    }
    assert set(slim.dropped) == set(LIBRARIES) - set(slim.kept)
    with zipfile.ZipFile(slim.path) as archive:
        names = archive.namelist()
        info = f"tensorrt_cu12_libs-{VERSION}.dist-info"
        assert b"Build: 1sm75\nTag: py3-none-manylinux_2_28_x86_64" in archive.read(f"{info}/WHEEL")
        rows = list(csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode())))
        assert sorted(row[0] for row in rows) == sorted(names)
        for name, digest, size in rows[:-1]:
            data = archive.read(name)
            assert (digest, int(size)) == (f"sha256={digest_of(data)}", len(data))
        assert rows[-1] == [f"{info}/RECORD", "", ""]
        assert archive.read("tensorrt_libs/libnvinfer.so.10") == LIBRARIES["libnvinfer.so.10"]


def test_pip_installs_the_slim_wheel(libs, tmp_path):
    slim = slim_wheel(libs, tmp_path, "8.0")
    target = tmp_path / "target"
    words = ["install", "--quiet", "--no-index", "--no-deps", "--target", str(target), str(slim.path)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    found = {path.name for path in (target / "tensorrt_libs").glob("*.so*")}
    assert found == set(slim.kept)
    assert "libnvinfer_builder_resource_sm80.so.10.16.1" in found


def test_a_wheel_of_another_layout_is_refused(libs, tmp_path):
    with pytest.raises(TomopointError, match=r"no libnvinfer_builder_resource_sm89\.so, only libnvinfer\.so\.10, "):
        slim_wheel(libs, tmp_path, "8.9")
    (tmp_path / "junk.whl").write_bytes(b"junk")
    with pytest.raises(TomopointError, match="is no wheel"):
        slim_wheel(tmp_path / "junk.whl", tmp_path, "7.5")
    assert not list(tmp_path.glob("*.partial"))


def test_the_command_takes_the_version_from_the_bindings(folder, libs):
    earlier = folder / "tensorrt_cu12_libs-10.9.0.34-1sm75-py3-none-manylinux_2_28_x86_64.whl"
    earlier.write_bytes(b"")
    result = slim_tensorrt(str(libs), folder)
    assert Path(result.figures["wheel"]).parent == folder
    assert "kept libnvinfer.so.10" in result.text
    assert not earlier.exists()
    other = libs.with_name(libs.name.replace(VERSION, "10.9.0.34"))
    shutil.copy(libs, other)
    with pytest.raises(TomopointError, match=rf"does not fit the bindings .*; give tensorrt_cu12_libs {VERSION}"):
        slim_tensorrt(str(other), folder)
