"""TensorRT's library wheel, reduced to what one GPU architecture needs.

Since 10.16 the builder's kernels come as one library per architecture. A T4 needs one of them beside the three that
the Python bindings are linked against: the core, the plugins and the ONNX parser.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tomopoint.errors import TomopointError
from tomopoint.files import whole_or_absent

LINKED = ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so")
BUILDER_RESOURCE = "libnvinfer_builder_resource"

PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class SlimWheel:
    """The new wheel, and the libraries that stayed and went."""

    path: Path
    kept: tuple[str, ...]
    dropped: tuple[str, ...]


def build_tag(compute_capability: str) -> str:
    """Return the build tag of a reduced wheel: ``1sm75`` for ``7.5``; wheels want a digit first."""
    return f"1sm{compute_capability.replace('.', '')}"


def slim_wheel(source: Path, folder: Path, compute_capability: str) -> SlimWheel:
    """Copy a wheel without the libraries that a GPU of `compute_capability` does not need.

    The copy carries a build tag (``1sm75``), so that its name says what it is, and a RECORD of what is in it.

    Parameters
    ----------
    source
        A ``tensorrt_cu12_libs`` wheel.
    folder
        Where the copy goes.
    compute_capability
        E.g. ``"7.5"``.

    Raises
    ------
    TomopointError
        Not a wheel, or one whose libraries are not laid out as expected.
    """
    build = build_tag(compute_capability)
    architecture = build.removeprefix("1")
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise TomopointError(f"{source} is no wheel ({error}); fetch it again") from error
    with archive:
        libraries = [name for name in archive.namelist() if re.search(r"\.so(\.|$)", name)]
        kept = _choose(libraries, architecture, source)
        name, version, *tags = source.stem.split("-")
        target = folder / "-".join([name, version, build, *tags[-3:]])
        target = target.with_name(target.name + ".whl")
        with whole_or_absent(target) as partial:
            _copy(archive, partial, set(libraries) - set(kept), build)
    base = [Path(library).name for library in libraries]
    return SlimWheel(
        target,
        tuple(sorted(Path(library).name for library in kept)),
        tuple(sorted(set(base) - {Path(library).name for library in kept})),
    )


def _choose(libraries: list[str], architecture: str, source: Path) -> list[str]:
    """Return the libraries to keep; each that is needed must be there."""
    needed = (*LINKED, f"{BUILDER_RESOURCE}_{architecture}.so")
    kept = []
    for stem in needed:
        found = [name for name in libraries if Path(name).name == stem or Path(name).name.startswith(f"{stem}.")]
        if not found:
            listed = ", ".join(sorted(Path(name).name for name in libraries)) or "no libraries"
            raise TomopointError(f"{source.name} has no {stem}, only {listed}; use TensorRT 10.16 or newer")
        kept += found
    return kept


def _copy(archive: zipfile.ZipFile, target: Path, dropped: set[str], build: str) -> None:
    """Write the wheel without `dropped`, RECORD last, as the wheel format wants it."""
    record_name = next((name for name in archive.namelist() if name.endswith(".dist-info/RECORD")), None)
    if record_name is None:
        raise TomopointError(f"{archive.filename} has no RECORD and is no wheel; fetch it again")
    rows: list[tuple[str, str, str]] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for entry in archive.infolist():
            if entry.filename in dropped or entry.filename == record_name or entry.is_dir():
                continue
            digest, n_bytes = _copy_entry(archive, copy, entry, build)
            rows.append((entry.filename, f"sha256={digest}", str(n_bytes)))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, (record_name, "", "")])
        copy.writestr(record_name, text.getvalue())


def _copy_entry(archive: zipfile.ZipFile, copy: zipfile.ZipFile, entry: zipfile.ZipInfo, build: str) -> tuple[str, int]:
    """Copy one file in pieces; return its hash as RECORD writes it, and its size."""
    digest, n_bytes = hashlib.sha256(), 0
    header = zipfile.ZipInfo(entry.filename, entry.date_time)
    header.external_attr, header.compress_type = entry.external_attr, zipfile.ZIP_DEFLATED
    with archive.open(entry) as stream, copy.open(header, "w", force_zip64=entry.file_size > 1 << 30) as out:
        while piece := stream.read(PIECE_BYTES):
            if entry.filename.endswith(".dist-info/WHEEL"):
                piece = piece.replace(b"Tag: ", f"Build: {build}\nTag: ".encode(), 1)
            digest.update(piece)
            n_bytes += len(piece)
            out.write(piece)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode(), n_bytes
