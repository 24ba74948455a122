"""Third-party wheels for Kaggle: ``tomopoint wheels`` (``tomopoint wheels``) and ``tomopoint lock-wheels``.

``wheels/kernel.in`` says what is wanted, ``image.txt`` what Kaggle's image has and nobody may replace, and a lock for
every Python that the image may have which wheels are fetched, by hash: ``pylock.cp312.toml`` ... as uv writes them.
TensorRT's libraries are on no public index: they come from NVIDIA's, unlocked, and reduced to what a T4 needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError, reason_of
from tomopoint.extras import require_module
from tomopoint.files import sha256_of
from tomopoint.inference.engines.gpus import T4_COMPUTE_CAPABILITY
from tomopoint.strict_json import build, read_bytes

WANTED, IMAGE = "kernel.in", "image.txt"

PYTHON_VERSIONS = ("3.12", "3.13")
"""Kaggle's Pythons: the one of the image that ``image.txt`` describes, and the one to which the image moves (its base
did in August 2026). A kit carries wheels for both, and pip takes those that fit."""

PLATFORMS = tuple(f"{name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014"))
"""Kaggle's platform (Ubuntu 22.04, glibc 2.35), spelled out: pip adds no older ones by itself."""

UV_PLATFORM = "x86_64-manylinux_2_28"
"""The same for uv, which adds the older ones."""

TENSORRT_LIBS, TENSORRT_BINDINGS, RTX_LIBS = "tensorrt-cu12-libs", "tensorrt-cu12-bindings", "tensorrt-rtx-cu12-libs"

TENSORRT_INDEX = "https://pypi.nvidia.com"
"""NVIDIA's package index, as TensorRT's page on the public index names it."""

TENSORRT_GB, SLIM_GB = 4.3, 0.4
"""Size of the library wheel of TensorRT 10.16 and, estimated from its parts, of what a T4 needs of it."""


@dataclass(frozen=True)
class Pin:
    """One locked distribution.

    Attributes
    ----------
    version
        One for all Pythons.
    sizes
        Bytes of each wheel, by its SHA-256: of one that serves every Python, or one for each.
    """

    version: str
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def megabytes(self) -> float:
        """Size of all wheels."""
        return sum(self.sizes.values()) / 1e6


@dataclass(frozen=True)
class _Hashes:
    sha256: str


@dataclass(frozen=True)
class _Wheel:
    hashes: _Hashes
    size: int = 0


@dataclass(frozen=True)
class _Package:
    name: str
    version: str
    wheels: tuple[_Wheel, ...]


@dataclass(frozen=True)
class _Lock:
    """What is read of a lock; uv writes more into it."""

    packages: tuple[_Package, ...]


def fetch(
    *,
    folder: Path = Path("wheels"),
    tensorrt: str = TENSORRT_INDEX,
    compute_capability: str = T4_COMPUTE_CAPABILITY,
    dry_run: bool = False,
) -> CommandResult:
    """Fetch the locked wheels, by hash, and TensorRT's libraries where they can be had; print what they weigh.

    Parameters
    ----------
    folder
        With the locks and image.txt; wheels are put there, and other versions of them removed.
    tensorrt
        Where TensorRT's libraries come from: the address of NVIDIA's package index, or a tensorrt_cu12_libs wheel that
        was downloaded already. Of 4.3 GB what one kind of GPU needs is kept (0.4 GB); needs 15 GB of disk for a moment.
        Where there is no answer, the kit goes without them.
    compute_capability
        Of the GPU that TensorRT is reduced to; 7.5 is the T4's.
    dry_run
        Fetch nothing, say what would be fetched.
    """
    _require_folder(folder)
    pins = read_locks(folder)
    refuse_image_packages(pins, folder / IMAGE)
    missing = _missing(folder, pins)
    if dry_run:
        rows = [
            f"{pin.megabytes:9.2f} MB  {name} {pin.version}{'' if name in missing else ', here already'}"
            for name, pin in sorted(pins.items())
        ]
        total = sum(pins[name].megabytes for name in missing)
        rows.append(f"{total:9.2f} MB  to fetch, for Python {' and '.join(PYTHON_VERSIONS)}")
        if TENSORRT_BINDINGS in pins:
            libs = f"tensorrt_cu12_libs {pins[TENSORRT_BINDINGS].version} from {tensorrt}"
            rows.append(f"then {libs}: about {TENSORRT_GB} GB, of which {SLIM_GB} GB are kept")
        rows.append("dry run, nothing was fetched")
        figures = {"missing": missing, "megabytes": round(total, 1), "tensorrt": tensorrt}
        return CommandResult("\n".join(rows), figures)
    if missing:
        _fetch_locked(folder, pins)
    note = _add_tensorrt(folder, pins, tensorrt, compute_capability) if TENSORRT_BINDINGS in pins else ""
    wheels = check_wheels(folder)
    sizes = {path.name: path.stat().st_size for path in wheels}
    rows = [f"{n_bytes / 1e6:9.2f} MB  {name}" for name, n_bytes in sizes.items()]
    rows.append(f"{sum(sizes.values()) / 1e6:9.2f} MB  in all")
    return CommandResult("\n".join([*rows, *filter(None, [note])]), {"wheels": sizes, "tensorrt": not note})


def lock(*, folder: Path = Path("wheels")) -> CommandResult:
    """Resolve kernel.in for Kaggle's Pythons against the packages of its image, and write the locks.

    Versions that are locked already stay, unless kernel.in or image.txt rule them out.

    Parameters
    ----------
    folder
        With kernel.in and image.txt.
    """
    _require_folder(folder)
    image = folder / IMAGE
    # The image's versions (numpy 2.0.2 ...) have no wheels for a later Python: there, the same versions are taken as
    # for the first, whatever the image may bring.
    against_image = ["-c", str(image), *(f"--no-emit-package={name}" for name in sorted(read_image(image)))]
    pins: dict[str, Pin] = {}
    with TemporaryDirectory() as holder:
        for python in PYTHON_VERSIONS:
            same = Path(holder) / "versions.txt"
            same.write_text("".join(f"{name}=={pin.version}\n" for name, pin in pins.items()))
            words = ["--excludes", str(image), "-c", str(same)] if pins else against_image
            words += ["--python-version", python, "--python-platform", UV_PLATFORM, "--only-binary=:all:"]
            words += ["--quiet", "--no-header", "--no-annotate", "-o", str(_lock_path(folder, python))]
            run_tool("uv", f"lock {WANTED} for Python {python}", "pip", "compile", str(folder / WANTED), *words)
            pins = read_locks(folder, [python])
    listed = ", ".join(f"{name} {pin.version}" for name, pin in sorted(pins.items()))
    return CommandResult(f"{folder}: locked {listed}\nnext: tomopoint wheels", {"locked": sorted(pins)})


def _require_folder(folder: Path) -> None:
    if not (folder / IMAGE).is_file():
        raise TomopointError(
            f"{folder} has no {IMAGE}: change into a checkout of tomopoint, or into the folder where "
            "`tomopoint kernels` wrote kernels/ and wheels/"
        )


def check_wheels(folder: Path) -> list[Path]:
    """Return the wheels in a folder, each of which is locked, whole and not the image's.

    Raises
    ------
    TomopointError
        A locked wheel is missing or another one lies there: says which.
    """
    pins = read_locks(folder)
    archives = [path.name for path in folder.iterdir() if path.suffix in (".gz", ".zip", ".bz2")]
    if archives:
        raise TomopointError(
            f"{folder} holds source archives ({', '.join(archives)}), which cannot travel; remove them"
        )
    wheels = {path: distribution_of(path) for path in sorted(folder.glob("*.whl"))}
    refuse_image_packages(wheels.values(), folder / IMAGE)
    locked = {digest for pin in pins.values() for digest in pin.sizes}
    for path, name in wheels.items():
        if name != TENSORRT_LIBS and sha256_of(path) not in locked:  # which no public index has, so no lock holds it
            raise TomopointError(f"{path} is not what the locks beside it name; remove it, then `tomopoint wheels`")
    if missing := _missing(folder, pins):
        raise TomopointError(f"{folder} lacks wheels of {', '.join(missing)}; run `tomopoint wheels`")
    return list(wheels)


def _missing(folder: Path, pins: Mapping[str, Pin]) -> list[str]:
    """Return the locked distributions of which a wheel is not there."""
    present = {sha256_of(path) for path in folder.glob("*.whl")}
    return [name for name, pin in sorted(pins.items()) if not pin.sizes.keys() <= present]


def distribution_of(wheel: Path) -> str:
    """Return the distribution that a wheel file is of, by its name."""
    try:
        return parse_wheel_filename(wheel.name)[0]
    except InvalidWheelFilename as error:
        raise TomopointError(
            f"{wheel} is no wheel; only wheels survive Kaggle's unpacking of archives, remove it"
        ) from error


def _lock_path(folder: Path, python: str) -> Path:
    return folder / f"pylock.cp{python.replace('.', '')}.toml"


def read_locks(folder: Path, pythons: Sequence[str] = PYTHON_VERSIONS) -> dict[str, Pin]:
    """Read the locks (PEP 751) for some Pythons, which must agree on versions; TomopointError says what is wrong."""
    pins: dict[str, Pin] = {}
    for python in pythons:
        path = _lock_path(folder, python)
        try:
            for package in build(_Lock, tomllib.loads(read_bytes(path).decode()), ignore_unknown=True).packages:
                pin = pins.setdefault(canonicalize_name(package.name), Pin(package.version))
                if pin.version != package.version:
                    raise ValueError(f"{package.name} {package.version}, but {pin.version} in another lock")
                pin.sizes.update({wheel.hashes.sha256: wheel.size for wheel in package.wheels})
        except (OSError, ValueError, RecursionError) as error:
            raise TomopointError(
                f"{path} is no lock ({reason_of(error)}); lock again: tomopoint lock-wheels"
            ) from error
    return pins


def read_image(path: Path) -> set[str]:
    """Return the names of the packages that Kaggle's image has."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise TomopointError(f"cannot read {path} ({error.strerror}); it belongs to the checkout") from error
    return {canonicalize_name(re.split(r"[=<>!~ ;\[]", line)[0]) for line in lines if line and line[0] != "#"}


def refuse_image_packages(names: Iterable[str], image_path: Path) -> None:
    """Raise TomopointError where one of the names is a package that the image brings."""
    both = sorted(set(names) & read_image(image_path))
    if both:
        raise TomopointError(f"{', '.join(both)} would replace what Kaggle's image has ({image_path}); remove it")


def _fetch_locked(folder: Path, pins: Mapping[str, Pin]) -> None:
    """Fetch every locked wheel; other versions of them go."""
    with TemporaryDirectory(dir=folder, prefix=".fetch.") as holder:
        wanted, fetched = Path(holder) / "wanted.txt", Path(holder) / "wheels"
        hashes = {name: "".join(f" --hash=sha256:{digest}" for digest in pin.sizes) for name, pin in pins.items()}
        wanted.write_text("".join(f"{name}=={pin.version}{hashes[name]}\n" for name, pin in pins.items()))
        for python in PYTHON_VERSIONS:
            words = ("--quiet", "--no-deps", "--require-hashes", "-r", str(wanted), "-d", str(fetched))
            _pip("download", python, *words)
        for path in folder.glob("*.whl"):
            if distribution_of(path) in pins:
                path.unlink()
        for path in fetched.iterdir():
            path.rename(folder / path.name)


def _add_tensorrt(folder: Path, pins: Mapping[str, Pin], source: str, compute_capability: str) -> str:
    """Put TensorRT's reduced libraries beside their bindings; return why there are none, or nothing."""
    from tomopoint.kaggle.slim import build_tag, slim_wheel

    version = pins[TENSORRT_BINDINGS].version
    earlier = set(folder.glob("tensorrt_cu12_libs-*.whl"))
    fitting = set(folder.glob(f"tensorrt_cu12_libs-{version}-{build_tag(compute_capability)}-*.whl"))
    if not earlier - fitting and fitting:
        return ""
    with TemporaryDirectory(dir=folder, prefix=".tensorrt.") as holder:
        path = Path(source)
        if not source.endswith(".whl"):
            try:
                path = _fetch_tensorrt(source, version, Path(holder))
            except TomopointError as error:
                return (
                    f"without TensorRT's libraries ({' '.join(str(error).split())}): a submission must rely on ONNX "
                    "Runtime's CUDA provider, which is slower, by how many hours `tomopoint stage` says; to add them "
                    "run `tomopoint wheels` where NVIDIA's index answers, or `tomopoint wheels --tensorrt WHEEL` "
                    "(wheels/README.md)"
                )
        elif (distribution_of(path), path.name.split("-")[1]) != (TENSORRT_LIBS, version):
            raise TomopointError(f"{path.name} does not fit the locked bindings; give tensorrt_cu12_libs {version}")
        made = slim_wheel(path, folder, compute_capability)
    for path in earlier - {made}:
        path.unlink()
    return ""


def _fetch_tensorrt(index: str, version: str, folder: Path) -> Path:
    """Fetch TensorRT's library wheel, once the index has said that it has it: gigabytes are worth a question first."""
    python, name = PYTHON_VERSIONS[0], "tensorrt_cu12_libs"
    try:
        _pip("index", python, "versions", name, "--index-url", index, "--retries", "0", "--timeout", "20")
    except TomopointError as error:
        raise TomopointError(f"{index} does not answer or has no wheel of them") from error
    _pip("download", python, "--no-deps", "--index-url", index, f"{name}=={version}", "-d", str(folder))
    return next(folder.glob("*.whl"))


def _pip(verb: str, python: str, *words: str) -> None:
    """Run pip so that it chooses wheels for a Python of Kaggle's, whatever Python runs it."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
    run_tool("pip", f"{verb} the wheels for Python {python}", verb, "--disable-pip-version-check", *target, *words)


def run_tool(module: str, task: str, *words: str) -> None:
    """Run a Python module as a command; TomopointError with what it wrote where it fails."""
    require_module(module)
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = "\n".join(errors or done.stderr.strip().splitlines()[-5:])
        raise TomopointError(f"{module} could not {task}:\n{last}")
