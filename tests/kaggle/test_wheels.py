"""The wheels that travel: what is locked, what is refused, and TensorRT's library wheel reduced to one architecture."""

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tomopoint.errors import TomopointError
from tomopoint.files import sha256_of
from tomopoint.kaggle.slim import slim_wheel
from tomopoint.kaggle.wheels import (
    PYTHON_VERSIONS,
    TENSORRT_INDEX,
    check_wheels,
    read_image,
    read_locks,
    refuse_image_packages,
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
    pins = read_locks(WHEELS)
    refuse_image_packages(pins, WHEELS / "image.txt")
    for wish in (WHEELS / "kernel.in").read_text().splitlines():
        if wish and wish[0] != "#":
            name, exact, version = re.fullmatch(r"([\w.-]+)(==)?([\d.]+)?.*", wish).groups()
            assert canonicalize_name(name) in pins
            assert not exact or pins[canonicalize_name(name)].version == version
    assert {"torch", "numpy", "scipy", "pandas", "pycuda"} <= read_image(WHEELS / "image.txt")
    assert pins["onnxruntime-gpu"].version == "1.26.0"  # the last for CUDA 12


def test_every_locked_package_has_a_wheel_for_each_of_kaggles_pythons():
    pins = read_locks(WHEELS)
    assert PYTHON_VERSIONS == ("3.12", "3.13")
    for name, pin in pins.items():
        assert len(pin.sizes) in (1, len(PYTHON_VERSIONS)), name  # one that serves all, or one for each
        assert min(pin.sizes.values()) > 0
    # Compiled for one Python each; TensorRT-RTX's libraries, without Python code of their own, serve all.
    assert {len(pins[name].sizes) for name in ("numcodecs", "onnxruntime-gpu", "tensorrt-rtx-cu12-bindings")} == {2}
    assert len(pins["tensorrt-rtx-cu12-libs"].sizes) == 1
    assert pins["tensorrt-rtx-cu12-libs"].version == pins["tensorrt-rtx-cu12-bindings"].version


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lock-version = 1", "packages"),
        ('[[packages]]\nname = "thing"\nwheels = []', "version"),
        ('[[packages]]\nname = "thing"\nversion = "1.0"\nwheels = [{hashes = {md5 = "0"}}]', "sha256"),
        ('[[packages]]\nname = "thing"\nversion = "2.0"\nwheels = []', "thing 2.0, but 1.0 in another lock"),
        ("packages = [1]", "must be an object"),
        ("= what", "Invalid statement"),
        (None, "No such file"),
    ],
)
def test_a_lock_without_hash_or_version_or_that_contradicts_the_other_is_refused(folder, text, sentence):
    path = folder / "pylock.cp313.toml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(TomopointError, match=rf"pylock\.cp313\.toml is no lock \(.*{sentence}.*lock again"):
        read_locks(folder)


def write_locks(folder: Path, packages: dict[tuple[str, str], str]) -> None:
    """Write the same lock for each Python: name and version of each package, and the hash of its one wheel."""
    parts = [
        f'[[packages]]\nname = "{name}"\nversion = "{version}"\nwheels = [{{hashes = {{sha256 = "{digest}"}}}}]\n'
        for (name, version), digest in packages.items()
    ]
    for python in PYTHON_VERSIONS:
        (folder / f"pylock.cp{python.replace('.', '')}.toml").write_text("\n".join(parts))


@pytest.fixture
def folder(tmp_path):
    """Return a folder with one locked wheel."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / "thing-1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    write_locks(folder, {("thing", "1.0"): sha256_of(wheel), ("tensorrt_cu12_bindings", VERSION): "0" * 64})
    (folder / "image.txt").write_text("# what is there\nNumPy==2.0.2  # exactly\ntyping_extensions\n")
    return folder


def complete(folder: Path) -> Path:
    """Lock no more than what lies there."""
    write_locks(folder, {("thing", "1.0"): sha256_of(folder / "thing-1.0-py3-none-any.whl")})
    return folder


def test_a_complete_folder_passes_with_and_without_tensorrts_libraries(folder, libs):
    assert [wheel.name for wheel in check_wheels(complete(folder))] == ["thing-1.0-py3-none-any.whl"]
    shutil.copy(libs, folder)
    assert [wheel.name for wheel in check_wheels(folder)] == [libs.name, "thing-1.0-py3-none-any.whl"]


def test_what_is_missing_or_does_not_belong_is_named(folder):
    with pytest.raises(TomopointError, match=r"lacks wheels of tensorrt-cu12-bindings; run `tomopoint wheels`"):
        check_wheels(folder)
    complete(folder)
    for name, sentence in {
        "thing-2.0-py3-none-any.whl": r"thing-2\.0-py3-none-any\.whl is not what the locks beside it name",
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
    assert slim == tmp_path / f"tensorrt_cu12_libs-{VERSION}-1sm75-py3-none-manylinux_2_28_x86_64.whl"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with zipfile.ZipFile(slim) as archive:
        names = archive.namelist()
        assert {name.partition("/")[2] for name in names if ".so" in name} == {
            "libnvinfer.so.10",
            "libnvinfer_plugin.so.10",  # the bindings are linked against it
            "libnvonnxparser.so.10",
            "libnvinfer_builder_resource_sm75.so.10.16.1",
        }
        info = f"tensorrt_cu12_libs-{VERSION}.dist-info"
        wheel = archive.read(f"{info}/WHEEL").decode().splitlines()
        assert {"Build: 1sm75", "Tag: py3-none-manylinux_2_28_x86_64"} <= set(wheel)
        rows = list(csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode())))
        assert sorted(row[0] for row in rows) == sorted(names)
        for name, digest, size in rows:
            if name != f"{info}/RECORD":
                data = archive.read(name)
                assert (digest, int(size)) == (f"sha256={digest_of(data)}", len(data))
        assert archive.read("tensorrt_libs/libnvinfer.so.10") == LIBRARIES["libnvinfer.so.10"]


def test_pip_installs_the_slim_wheel(libs, tmp_path):
    slim = slim_wheel(libs, tmp_path, "8.0")
    target = tmp_path / "target"
    words = ["install", "--quiet", "--no-index", "--no-deps", "--target", str(target), str(slim)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    found = {path.name for path in (target / "tensorrt_libs").glob("*.so*")}
    assert len(found) == 4
    assert "libnvinfer_builder_resource_sm80.so.10.16.1" in found


def test_a_wheel_of_another_layout_is_refused(libs, tmp_path):
    with pytest.raises(TomopointError, match=r"no libnvinfer_builder_resource_sm89\.so, only libnvinfer\.so\.10, "):
        slim_wheel(libs, tmp_path, "8.9")
    (tmp_path / "junk.whl").write_bytes(b"junk")
    with pytest.raises(TomopointError, match=r"wheel could not unpack .*junk\.whl \(is it a wheel, and whole\?\)"):
        slim_wheel(tmp_path / "junk.whl", tmp_path, "7.5")
    damaged = tmp_path / libs.name
    with zipfile.ZipFile(libs) as archive, zipfile.ZipFile(damaged, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name) + b"more" * ("nvinfer_plugin" in name))
    with pytest.raises(TomopointError, match=r"(?s)wheel could not unpack .*libnvinfer_plugin"):
        slim_wheel(damaged, tmp_path, "7.5")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


class Index:
    """A package index in a folder, as pip reads it over ``file:``, and the calls of the command that use it."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()

    @property
    def address(self) -> str:
        return f"file://{self.folder}"

    def add(self, wheel: Path) -> None:
        project = self.folder / canonicalize_name(wheel.name.split("-")[0])
        project.mkdir(exist_ok=True)
        shutil.copy(wheel, project)
        links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in sorted(project.glob("*.whl")))
        (project / "index.html").write_text(f"<html><body>{links}</body></html>")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of tomopoint with this index in the place of the public one."""
        pip = {"PIP_INDEX_URL": self.address, "PIP_CONFIG_FILE": os.devnull}
        uv = {"UV_DEFAULT_INDEX": self.address, "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1"}
        environment = {**os.environ, **pip, **uv}
        return subprocess.run(
            [sys.executable, "-m", "tomopoint", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


def small_wheel(folder: Path, name: str, version: str, tag: str) -> Path:
    """Write a wheel of a package with one line of code, which differs for every tag."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"TAG = {tag!r}\n".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n\n".encode(),
    }
    return write_wheel(folder / f"{name}-{version}-{tag}.whl", files, info)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Return an index with a package for every Python, the bindings for each, and a package of the image."""
    made = tmp_path_factory.mktemp("made")
    index = Index(made / "index")
    for name, version, tag in (
        ("thing", "1.0", "py3-none-any"),
        ("tensorrt_cu12_bindings", VERSION, "cp312-none-manylinux_2_28_x86_64"),
        ("tensorrt_cu12_bindings", VERSION, "cp313-none-manylinux_2_28_x86_64"),
        ("tensorrt_cu12_bindings", VERSION, "cp311-none-manylinux_2_28_x86_64"),
        ("numpy", "2.0.2", "cp312-cp312-manylinux_2_17_x86_64"),
    ):
        index.add(small_wheel(made, name, version, tag))
    return index


@pytest.fixture(scope="module")
def locked(public, tmp_path_factory):
    """Return a folder with wishes, the image's packages and the lock made of them."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "kernel.in").write_text(f"thing\nnumpy\ntensorrt_cu12_bindings=={VERSION}  # why\n")
    (folder / "image.txt").write_text("numpy==2.0.2\n")
    done = public.run("lock-wheels", "--folder", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def wished(locked, tmp_path):
    return Path(shutil.copytree(locked, tmp_path / "wished"))


BOTH_BINDINGS = {f"tensorrt_cu12_bindings-{VERSION}-cp31{minor}-none-manylinux_2_28_x86_64.whl" for minor in (2, 3)}
SLIM = f"tensorrt_cu12_libs-{VERSION}-1sm75-py3-none-manylinux_2_28_x86_64.whl"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.whl")}


def test_lock_and_fetch_end_to_end_with_tensorrts_libraries_from_the_vendors_index(public, wished, libs, tmp_path):
    """A stand-in archive of the real layout, through the one command that a user gives."""
    pins = read_locks(wished)
    assert {name: len(pin.sizes) for name, pin in pins.items()} == {"thing": 1, "tensorrt-cu12-bindings": 2}
    vendor = Index(tmp_path / "vendor")
    vendor.add(libs)
    earlier = wished / "tensorrt_cu12_libs-10.9.0.34-1sm75-py3-none-manylinux_2_28_x86_64.whl"
    earlier.write_bytes(b"")
    (wished / "thing-0.9-py3-none-any.whl").write_bytes(b"an earlier version")

    done = public.run("wheels", "--folder", str(wished), "--tensorrt", vendor.address)
    assert done.returncode == 0, done.stderr
    assert names_in(wished) == {"thing-1.0-py3-none-any.whl", *BOTH_BINDINGS, SLIM}
    with zipfile.ZipFile(wished / SLIM) as archive:
        kept = {name.partition("/")[2] for name in archive.namelist() if ".so" in name}
    assert kept == {
        "libnvinfer.so.10",
        "libnvinfer_plugin.so.10",
        "libnvonnxparser.so.10",
        "libnvinfer_builder_resource_sm75.so.10.16.1",
    }
    assert "without TensorRT" not in done.stdout
    assert [path.name for path in wished.iterdir() if path.name.startswith(".")] == []

    # Called again, nothing is fetched: there is nothing in these indexes.
    empty = Index(tmp_path / "empty")
    again = empty.run("wheels", "--folder", str(wished), "--tensorrt", empty.address)
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_where_the_vendors_index_does_not_answer_the_rest_is_fetched_and_one_line_says_what_is_missing(
    public, wished, tmp_path
):
    for source in (f"file://{tmp_path}/nowhere", "http://127.0.0.1:9/simple"):  # nobody listens on port 9
        done = public.run("wheels", "--folder", str(wished), "--tensorrt", source)
        assert done.returncode == 0, done.stderr
        assert names_in(wished) == {"thing-1.0-py3-none-any.whl", *BOTH_BINDINGS}
        (line,) = [line for line in done.stdout.splitlines() if "TensorRT" in line]
        assert line.startswith(f"without TensorRT's libraries ({source} does not answer or has no wheel of them): ")
        assert "by how many hours `tomopoint stage` says" in line


def test_a_dry_run_says_what_would_be_fetched_with_sizes_and_fetches_nothing(public, wished):
    for path, size in zip(sorted(wished.glob("pylock.*.toml")), (1_500_000, 2_250_000), strict=True):
        path.write_text(re.sub("hashes = ", f"size = {size}, hashes = ", path.read_text()))
    done = public.run("wheels", "--folder", str(wished), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert names_in(wished) == set()
    assert re.search(r" 2\.25 MB  thing 1\.0\n", done.stdout)
    assert re.search(r" 6\.00 MB  to fetch, for Python 3\.12 and 3\.13\n", done.stdout)
    assert f"tensorrt_cu12_libs {VERSION} from {TENSORRT_INDEX}: about 4.3 GB, of which 0.4 GB are kept" in done.stdout


def test_a_downloaded_library_wheel_is_taken_and_one_of_another_version_refused(public, wished, libs):
    other = Path(shutil.copy(libs, libs.with_name(libs.name.replace(VERSION, "10.9.0.34"))))
    done = public.run("wheels", "--folder", str(wished), "--tensorrt", str(other))
    assert done.returncode == 1
    assert f"give tensorrt_cu12_libs {VERSION}" in done.stderr
    done = public.run("wheels", "--folder", str(wished), "--tensorrt", str(libs))
    assert done.returncode == 0, done.stderr
    assert SLIM in names_in(wished)
    # For another card: the earlier reduction goes.
    done = public.run("wheels", "--folder", str(wished), "--tensorrt", str(libs), "--compute-capability", "8.0")
    assert done.returncode == 0, done.stderr
    assert {name for name in names_in(wished) if "libs" in name} == {SLIM.replace("sm75", "sm80")}


def test_make_hands_its_variables_on():
    if shutil.which("make") is None:
        pytest.skip("no make here")
    words = ["make", "-n", "wheels", "TENSORRT=https://index.example", "DRY=1"]
    shown = subprocess.run(words, cwd=WHEELS.parent, capture_output=True, text=True, check=True).stdout
    assert "-m tomopoint wheels --tensorrt https://index.example --dry-run" in shown
