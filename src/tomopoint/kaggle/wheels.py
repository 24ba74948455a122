"""Third-party wheels for Kaggle: ``tomopoint wheels`` (``make wheels``) and ``tomopoint lock-wheels``.

``wheels/kernel.in`` says what is wanted, ``image.txt`` what Kaggle's image has and nobody may replace, ``kernel.lock``
what exactly is fetched: the wheels of each for every Python that the image may have, by hash. TensorRT's libraries are
on no public index: they come from NVIDIA's, unlocked, and reduced to what a T4 needs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError
from tomopoint.files import sha256_of, write_atomically
from tomopoint.inference.engines.gpus import T4_COMPUTE_CAPABILITY

WANTED, IMAGE, LOCK = "kernel.in", "image.txt", "kernel.lock"

PYTHON_VERSIONS = ("3.12", "3.13")
"""Kaggle's Pythons: the one of the image that ``image.txt`` describes, and the one to which the image moves (its base
did in August 2026). A kit carries wheels for both, and pip takes those that fit."""

PLATFORMS = tuple(f"{name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014"))
"""Kaggle's platform (Ubuntu 22.04, glibc 2.35), spelled out: pip adds no older ones by itself."""

TENSORRT_LIBS, TENSORRT_BINDINGS, RTX_LIBS = "tensorrt-cu12-libs", "tensorrt-cu12-bindings", "tensorrt-rtx-cu12-libs"

BY_HAND = frozenset({TENSORRT_LIBS})
"""Comes from no public index, so no lock holds it."""

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
    sha256
        Of its wheels: one that serves every Python, or one for each.
    sizes_mb
        Of the same wheels, for people.
    """

    version: str
    sha256: tuple[str, ...]
    sizes_mb: tuple[float, ...] = ()

    @property
    def line(self) -> str:
        """Options and comment after ``name==`` in the lock."""
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in self.sha256)
        return f"{self.version} {hashes}  # {' + '.join(f'{size:.2f}' for size in self.sizes_mb)} MB"


@dataclass(frozen=True)
class Wheel:
    """A wheel file by what its name says."""

    path: Path
    name: str
    version: str

    @classmethod
    def of(cls, path: Path) -> Wheel:
        """Read a file name."""
        parts = path.stem.split("-")
        if path.suffix != ".whl" or len(parts) < 5:
            raise TomopointError(f"{path} is no wheel; only wheels survive Kaggle's unpacking of archives, remove it")
        return cls(path, normal_name(parts[0]), parts[1])

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size


def normal_name(name: str) -> str:
    """Return a distribution's name in the one spelling that compares."""
    return re.sub(r"[-_.]+", "-", name).lower()


def fetch(
    *,
    folder: Path = Path("wheels"),
    tensorrt: str = TENSORRT_INDEX,
    compute_capability: str = T4_COMPUTE_CAPABILITY,
    dry_run: bool = False,
) -> CommandResult:
    """Fetch the wheels of kernel.lock, by hash, and TensorRT's libraries where they can be had; print what they weigh.

    Parameters
    ----------
    folder
        With kernel.lock and image.txt; wheels are put there, and other versions of them removed.
    tensorrt
        Where TensorRT's libraries come from: the address of NVIDIA's package index, or a tensorrt_cu12_libs wheel that
        was downloaded already. Of 4.3 GB what one kind of GPU needs is kept (0.4 GB); needs 10 GB of disk for a moment.
        Where there is no answer, the kit goes without them.
    compute_capability
        Of the GPU that TensorRT is reduced to; 7.5 is the T4's.
    dry_run
        Fetch nothing, say what would be fetched.
    """
    pins = read_lock(folder / LOCK)
    refuse_image_packages(pins, folder / IMAGE)
    if dry_run:
        return _show_plan(folder, pins, tensorrt)
    if _to_fetch(folder, pins):
        _fetch_locked(folder, pins)
    note = _add_tensorrt(folder, pins, tensorrt, compute_capability)
    wheels = check_wheels(folder)
    figures = {"wheels": {wheel.path.name: wheel.n_bytes for wheel in wheels}, "tensorrt": not note}
    return CommandResult("\n".join([_table(wheels), *filter(None, [note])]), figures)


def lock(*, folder: Path = Path("wheels")) -> CommandResult:
    """Resolve kernel.in for Kaggle's Pythons against the packages of its image, and write kernel.lock.

    Parameters
    ----------
    folder
        With kernel.in and image.txt.
    """
    image, (first, *others) = read_image(folder / IMAGE), PYTHON_VERSIONS
    with TemporaryDirectory() as holder:
        report_path, fetched = Path(holder) / "report.json", Path(holder) / "wheels"
        words = ("--dry-run", "--quiet", "--ignore-installed", "--target", holder, "--report", str(report_path))
        _pip("install", first, *words, "-r", str(folder / WANTED), "-c", str(folder / IMAGE))
        versions = {
            name: version for name, version in _versions_in(json.loads(report_path.read_text())) if name not in image
        }
        # The image's versions (numpy 2.0.2 ...) have no wheels for a later Python: there, only what is locked is asked
        # for, in the same version.
        wanted = [f"{name}=={version}" for name, version in versions.items()]
        for python in (first, *others):
            _pip("download", python, "--quiet", "--no-deps", *wanted, "-d", str(fetched))
        pins = {name: Pin(version, *_hashes_and_sizes(fetched, name)) for name, version in versions.items()}
    lines = [
        f"# From {WANTED} and {IMAGE} by `python -m tomopoint.kaggle.wheels lock`: "
        f"Python {' and '.join(PYTHON_VERSIONS)}, x86_64.",
        *(f"{name}=={pin.line}" for name, pin in sorted(pins.items())),
    ]
    write_atomically(folder / LOCK, "\n".join(lines) + "\n")
    listed = ", ".join(f"{name} {pin.version}" for name, pin in sorted(pins.items()))
    return CommandResult(f"{folder / LOCK}: {listed}\nnext: make wheels", {"locked": sorted(pins)})


def check_wheels(folder: Path) -> list[Wheel]:
    """Return the wheels in a folder, each of which is locked, whole and not the image's.

    Raises
    ------
    TomopointError
        A locked wheel is missing or another one lies there: says which.
    """
    pins = read_lock(folder / LOCK)
    archives = [path.name for path in folder.iterdir() if path.suffix in (".gz", ".zip", ".bz2")]
    if archives:
        raise TomopointError(
            f"{folder} holds source archives ({', '.join(archives)}), which cannot travel; remove them"
        )
    wheels = [Wheel.of(path) for path in sorted(folder.glob("*.whl"))]
    refuse_image_packages([wheel.name for wheel in wheels], folder / IMAGE)
    present = {wheel.path: sha256_of(wheel.path) for wheel in wheels if wheel.name not in BY_HAND}
    locked = {digest for pin in pins.values() for digest in pin.sha256}
    if foreign := [path for path, digest in present.items() if digest not in locked]:
        raise TomopointError(f"{foreign[0]} is not what {folder / LOCK} locks; remove it, then `make wheels`")
    if missing := _incomplete(pins, present.values()):
        raise TomopointError(f"{folder} lacks wheels of {', '.join(missing)}; run `make wheels`")
    return wheels


def _incomplete(pins: Mapping[str, Pin], present: Collection[str]) -> list[str]:
    """Return the distributions of which a wheel is missing among the hashes `present`."""
    return [name for name, pin in sorted(pins.items()) if not set(pin.sha256) <= set(present)]


def _to_fetch(folder: Path, pins: Mapping[str, Pin]) -> list[str]:
    return _incomplete(pins, [sha256_of(path) for path in folder.glob("*.whl")])


def read_lock(path: Path) -> dict[str, Pin]:
    """Read a lock file: one ``name==version --hash=sha256:...`` per line, with one hash or more."""
    pins = {}
    for line in _lines(path, comments=True):
        text, _, comment = line.partition(" #")
        match = re.fullmatch(r"(\S+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)", text.strip())
        if match is None:
            raise TomopointError(f"{path} has a line that is no pin with its hashes: {line!r}; lock again")
        sizes = tuple(map(float, re.findall(r"\d+\.\d+", comment)))
        pins[normal_name(match[1])] = Pin(match[2], tuple(re.findall(r"[0-9a-f]{64}", match[3])), sizes)
    return pins


def read_image(path: Path) -> set[str]:
    """Return the names of the packages that Kaggle's image has."""
    return {normal_name(re.split(r"[=<>!~ ;\[]", line, maxsplit=1)[0]) for line in _lines(path)}


def refuse_image_packages(names: Mapping[str, Pin] | Sequence[str], image_path: Path) -> None:
    """Raise TomopointError where one of the names is a package that the image brings."""
    both = sorted(set(names) & read_image(image_path))
    if both:
        raise TomopointError(f"{', '.join(both)} would replace what Kaggle's image has ({image_path}); remove it")


def _lines(path: Path, comments: bool = False) -> list[str]:
    """Return the lines that say something, with or without what stands behind ``#``."""
    try:
        text = path.read_text()
    except OSError as error:
        raise TomopointError(f"cannot read {path} ({error.strerror}); it belongs to the checkout") from error
    lines = (raw.strip() if comments else raw.split(" #")[0].strip() for raw in text.splitlines())
    return [line for line in lines if line and line[0] != "#"]


def _fetch_locked(folder: Path, pins: Mapping[str, Pin]) -> None:
    """Fetch every locked wheel; other versions of them go."""
    with TemporaryDirectory(dir=folder, prefix=".fetch.") as holder:
        for python in PYTHON_VERSIONS:
            words = ("--quiet", "--no-deps", "--require-hashes", "-r", str(folder / LOCK), "-d", holder)
            _pip("download", python, *words)
        for path in sorted(folder.glob("*.whl")):
            if Wheel.of(path).name in pins:
                path.unlink()
        for path in sorted(Path(holder).iterdir()):
            path.rename(folder / path.name)


def _add_tensorrt(folder: Path, pins: Mapping[str, Pin], source: str, compute_capability: str) -> str:
    """Put TensorRT's reduced libraries beside their bindings; return why there are none, or nothing."""
    from tomopoint.kaggle.slim import build_tag, slim_wheel

    if TENSORRT_BINDINGS not in pins:
        return ""
    version = pins[TENSORRT_BINDINGS].version
    earlier = sorted(folder.glob("tensorrt_cu12_libs-*.whl"))
    if [path.name.split("-")[1:3] for path in earlier] == [[version, build_tag(compute_capability)]]:
        return ""
    with TemporaryDirectory(dir=folder, prefix=".tensorrt.") as holder:
        if source.endswith(".whl"):
            path = Path(source)
            if (Wheel.of(path).name, Wheel.of(path).version) != (TENSORRT_LIBS, version):
                raise TomopointError(
                    f"{path.name} does not fit the bindings in {folder / LOCK}; give tensorrt_cu12_libs {version}"
                )
        else:
            try:
                path = _fetch_tensorrt(source, version, Path(holder))
            except TomopointError as error:
                return _without_tensorrt(str(error))
        slim_wheel(path, folder, compute_capability)
    for path in earlier:
        if Wheel.of(path).version != version or build_tag(compute_capability) not in path.name:
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


def _without_tensorrt(reason: str) -> str:
    """Say in one line what is missing and what it costs."""
    return (
        f"without TensorRT's libraries ({' '.join(reason.split())}): a submission must rely on ONNX Runtime's CUDA "
        "provider, which is slower, by how many hours `tomopoint stage` says; to add them run `make wheels` where "
        "NVIDIA's index answers, or `make wheels TENSORRT=WHEEL` (wheels/README.md)"
    )


def _show_plan(folder: Path, pins: Mapping[str, Pin], tensorrt: str) -> CommandResult:
    """Say what a fetch would do, from the lock alone."""
    missing = _to_fetch(folder, pins)
    rows = [
        f"{sum(pin.sizes_mb):9.2f} MB  {name} {pin.version}{'' if name in missing else ', here already'}"
        for name, pin in sorted(pins.items())
    ]
    total = sum(sum(pins[name].sizes_mb) for name in missing)
    rows.append(f"{total:9.2f} MB  to fetch, for Python {' and '.join(PYTHON_VERSIONS)}")
    if TENSORRT_BINDINGS in pins:
        version = pins[TENSORRT_BINDINGS].version
        rows.append(
            f"then tensorrt_cu12_libs {version} from {tensorrt}: about {TENSORRT_GB} GB, of which {SLIM_GB} GB are kept"
        )
    rows.append("dry run, nothing was fetched")
    return CommandResult("\n".join(rows), {"missing": missing, "megabytes": round(total, 1), "tensorrt": tensorrt})


def _versions_in(report: Mapping[str, list[dict[str, dict[str, str]]]]) -> list[tuple[str, str]]:
    """Read names and versions from pip's installation report."""
    found = [(normal_name(item["metadata"]["name"]), item["metadata"]["version"]) for item in report["install"]]
    return sorted(found)


def _hashes_and_sizes(folder: Path, name: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    wheels = [wheel for wheel in map(Wheel.of, sorted(folder.iterdir())) if wheel.name == name]
    return tuple(sha256_of(wheel.path) for wheel in wheels), tuple(wheel.n_bytes / 1e6 for wheel in wheels)


def pip_words(verb: str, python: str, *words: str) -> list[str]:
    """Return a command of pip that chooses wheels for a Python of Kaggle's, whatever Python runs it."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
    return [sys.executable, "-m", "pip", verb, "--disable-pip-version-check", *target, *words]


def _pip(verb: str, python: str, *words: str) -> None:
    done = subprocess.run(pip_words(verb, python, *words), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = "\n".join(errors or done.stderr.strip().splitlines()[-5:])
        raise TomopointError(f"pip could not {verb} the wheels for Python {python}:\n{last}")


def _table(wheels: Sequence[Wheel]) -> str:
    rows = [f"{wheel.n_bytes / 1e6:9.2f} MB  {wheel.path.name}" for wheel in wheels]
    return "\n".join([*rows, f"{sum(wheel.n_bytes for wheel in wheels) / 1e6:9.2f} MB  in all"])
