"""Third-party wheels for Kaggle: ``make wheels``, or ``python -m tomopoint.kaggle.wheels [fetch|lock|slim-tensorrt]``.

``wheels/kernel.in`` says what is wanted, ``image.txt`` what Kaggle's image has and nobody may replace, ``kernel.lock``
what exactly is fetched: one wheel of each, by hash.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError
from tomopoint.files import sha256_of, write_atomically

WANTED, IMAGE, LOCK = "kernel.in", "image.txt", "kernel.lock"

PYTHON_VERSION = "3.12"
PLATFORMS = tuple(f"{name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014"))
"""Kaggle's Python and platform (Ubuntu 22.04, glibc 2.35), spelled out: pip adds no older ones by itself."""

BY_HAND = frozenset({"tensorrt-cu12-libs"})
"""Comes from no public index: `slim-tensorrt` makes it."""


@dataclass(frozen=True)
class Pin:
    """One locked distribution."""

    version: str
    sha256: str


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


def fetch(folder: Path = Path("wheels")) -> CommandResult:
    """Fetch the wheels of kernel.lock, by hash, and print what they weigh.

    Parameters
    ----------
    folder
        With kernel.lock and image.txt; wheels are put there, and other versions of them removed.
    """
    pins = read_lock(folder / LOCK)
    refuse_image_packages(pins, folder / IMAGE)
    with TemporaryDirectory(dir=folder, prefix=".fetch.") as holder:
        _pip("download", "--quiet", "--no-deps", "--require-hashes", "-r", str(folder / LOCK), "-d", holder)
        for path in sorted(Path(holder).iterdir()):
            wheel = Wheel.of(path)
            for other in sorted(folder.glob("*.whl")):
                if Wheel.of(other).name == wheel.name:
                    other.unlink()
            path.rename(folder / path.name)
    wheels = check_wheels(folder)
    return CommandResult(_table(wheels, pins), {"wheels": {w.path.name: w.n_bytes for w in wheels}})


def lock(folder: Path = Path("wheels")) -> CommandResult:
    """Resolve kernel.in for Kaggle's Python against the packages of its image, and write kernel.lock.

    Parameters
    ----------
    folder
        With kernel.in and image.txt.
    """
    image = read_image(folder / IMAGE)
    with TemporaryDirectory() as holder:
        report_path = Path(holder) / "report.json"
        words = ("--dry-run", "--quiet", "--ignore-installed", "--target", holder, "--report", str(report_path))
        _pip("install", *words, "-r", str(folder / WANTED), "-c", str(folder / IMAGE))
        report = json.loads(report_path.read_text())
    pins = {name: pin for name, pin in _pins_of(report).items() if name not in image}
    lines = [
        f"# From {WANTED} and {IMAGE} by `python -m tomopoint.kaggle.wheels lock`: Python {PYTHON_VERSION}, x86_64.",
        *(f"{name}=={pin.version} --hash=sha256:{pin.sha256}" for name, pin in sorted(pins.items())),
    ]
    write_atomically(folder / LOCK, "\n".join(lines) + "\n")
    listed = ", ".join(f"{name} {pin.version}" for name, pin in sorted(pins.items()))
    return CommandResult(f"{folder / LOCK}: {listed}\nnext: make wheels", {"locked": sorted(pins)})


def slim_tensorrt(source: str, folder: Path = Path("wheels"), compute_capability: str = "7.5") -> CommandResult:
    """Reduce TensorRT's library wheel (4.3 GB) to what one kind of GPU needs (0.4 GB), and put it beside the others.

    Parameters
    ----------
    source
        A tensorrt_cu12_libs wheel, or the address of NVIDIA's package index to fetch it from (see TensorRT's
        installation guide). Needs 10 GB of disk for a moment.
    folder
        With kernel.lock, whose tensorrt_cu12_bindings say which version.
    compute_capability
        Of the GPU; 7.5 is the T4's.
    """
    from tomopoint.kaggle.slim import slim_wheel

    version = read_lock(folder / LOCK)["tensorrt-cu12-bindings"].version
    with TemporaryDirectory(dir=folder, prefix=".tensorrt.") as holder:
        path = Path(source) if source.endswith(".whl") else _fetch_tensorrt(source, version, Path(holder))
        wheel = Wheel.of(path)
        if (wheel.name, wheel.version) != ("tensorrt-cu12-libs", version):
            raise TomopointError(
                f"{path.name} does not fit the bindings in {folder / LOCK}; give tensorrt_cu12_libs {version}"
            )
        for other in folder.glob("tensorrt_cu12_libs-*.whl"):
            if other.resolve() != path.resolve():
                other.unlink()
        slim = slim_wheel(path, folder, compute_capability)
    text = f"{slim.path}: {slim.path.stat().st_size / 1e6:.0f} MB, kept {', '.join(slim.kept)}"
    return CommandResult(text, {"wheel": str(slim.path), "kept": list(slim.kept), "dropped": list(slim.dropped)})


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
    for wheel in wheels:
        if wheel.name in BY_HAND:
            continue
        if wheel.name not in pins or sha256_of(wheel.path) != pins[wheel.name].sha256:
            raise TomopointError(f"{wheel.path} is not what {folder / LOCK} locks; remove it, then `make wheels`")
    missing = sorted(set(pins) - {wheel.name for wheel in wheels})
    if missing:
        raise TomopointError(f"{folder} lacks {', '.join(missing)}; run `make wheels`")
    return wheels


def read_lock(path: Path) -> dict[str, Pin]:
    """Read a lock file: one ``name==version --hash=sha256:...`` per line."""
    pins = {}
    for line in _lines(path):
        match = re.fullmatch(r"(\S+)==(\S+) --hash=sha256:([0-9a-f]{64})", line)
        if match is None:
            raise TomopointError(f"{path} has a line that is no pin with one hash: {line!r}; lock again")
        pins[normal_name(match[1])] = Pin(match[2], match[3])
    return pins


def read_image(path: Path) -> set[str]:
    """Return the names of the packages that Kaggle's image has."""
    return {normal_name(re.split(r"[=<>!~ ;\[]", line, maxsplit=1)[0]) for line in _lines(path)}


def refuse_image_packages(names: Mapping[str, Pin] | Sequence[str], image_path: Path) -> None:
    """Raise TomopointError where one of the names is a package that the image brings."""
    both = sorted(set(names) & read_image(image_path))
    if both:
        raise TomopointError(f"{', '.join(both)} would replace what Kaggle's image has ({image_path}); remove it")


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text()
    except OSError as error:
        raise TomopointError(f"cannot read {path} ({error.strerror}); it belongs to the checkout") from error
    return [line for line in (raw.split(" #")[0].strip() for raw in text.splitlines()) if line and line[0] != "#"]


def _pins_of(report: Mapping[str, list[dict[str, dict[str, dict[str, dict[str, str]]]]]]) -> dict[str, Pin]:
    """Read pip's installation report."""
    pins = {}
    for item in report["install"]:
        metadata: dict[str, str] = item["metadata"]  # type: ignore[assignment]
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        pins[normal_name(metadata["name"])] = Pin(metadata["version"], sha256)
    return pins


def _fetch_tensorrt(index: str, version: str, folder: Path) -> Path:
    _pip("download", "--no-deps", "--index-url", index, f"tensorrt_cu12_libs=={version}", "-d", str(folder))
    return next(folder.glob("*.whl"))


def pip_words(verb: str, *words: str) -> list[str]:
    """Return a command of pip that chooses wheels for Kaggle's Python, whatever Python runs it."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    target = ["--only-binary=:all:", "--python-version", PYTHON_VERSION, "--implementation", "cp", *platforms]
    return [sys.executable, "-m", "pip", verb, "--disable-pip-version-check", *target, *words]


def _pip(verb: str, *words: str) -> None:
    done = subprocess.run(pip_words(verb, *words), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = "\n".join(errors or done.stderr.strip().splitlines()[-5:])
        raise TomopointError(f"pip could not {verb} the wheels for Python {PYTHON_VERSION}:\n{last}")


def _table(wheels: Sequence[Wheel], pins: Mapping[str, Pin]) -> str:
    rows = [f"{wheel.n_bytes / 1e6:9.2f} MB  {wheel.name} {wheel.version}" for wheel in wheels]
    total = sum(wheel.n_bytes for wheel in wheels)
    absent = BY_HAND - {wheel.name for wheel in wheels} if "tensorrt-cu12-bindings" in pins else frozenset()
    note = (
        "\nwithout TensorRT's libraries the kernels use ONNX Runtime; to add them: "
        "python -m tomopoint.kaggle.wheels slim-tensorrt (wheels/README.md)"
    )
    return "\n".join([*rows, f"{total / 1e6:9.2f} MB  in all"]) + (note if absent else "")


def main() -> None:
    """Run one of the three commands; `fetch` where none is named."""
    from tomopoint.__main__ import run_script

    words = sys.argv[1:]
    named = bool(words) and not words[0].startswith("-")
    commands = {"fetch": (), "lock": (), "slim-tensorrt": ("source",)}
    name = words[0] if named else "fetch"
    if name not in commands:
        sys.stderr.write(f"unknown command {name!r}; there are {', '.join(commands)}\n")
        sys.exit(2)
    target = f"tomopoint.kaggle.wheels:{name.replace('-', '_')}"
    run_script(target, words[1:] if named else words, positional=commands[name])


if __name__ == "__main__":
    main()
