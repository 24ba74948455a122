"""TensorRT's library wheel, reduced to what one GPU architecture needs.

Since 10.16 the builder's kernels come as one library per architecture. A T4 needs one of them beside the three that
the Python bindings are linked against: the core, the plugins and the ONNX parser.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tomopoint.errors import TomopointError
from tomopoint.files import put_in_place
from tomopoint.kaggle.wheels import run_tool

LINKED = ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so")
BUILDER_RESOURCE = "libnvinfer_builder_resource"


def build_tag(compute_capability: str) -> str:
    """Return the build tag of a reduced wheel: ``1sm75`` for ``7.5``; wheels want a digit first."""
    return f"1sm{compute_capability.replace('.', '')}"


def slim_wheel(source: Path, folder: Path, compute_capability: str) -> Path:
    """Copy a wheel without the libraries that a GPU of `compute_capability` does not need.

    Parameters
    ----------
    source
        A ``tensorrt_cu12_libs`` wheel.
    folder
        Where the copy goes. It is unpacked there for a moment.
    compute_capability
        E.g. ``"7.5"``.

    Returns
    -------
    Path
        The copy; its build tag (``1sm75``) says what it is.

    Raises
    ------
    TomopointError
        Not a wheel, a damaged one, or one whose libraries are not laid out as expected.
    """
    build = build_tag(compute_capability)
    with TemporaryDirectory(dir=folder, prefix=".slim.") as holder:
        run_tool("wheel", f"unpack {source} (is it a wheel, and whole?)", "unpack", str(source), "--dest", holder)
        (unpacked,) = Path(holder).iterdir()
        libraries = [path for path in unpacked.rglob("*") if ".so" in path.suffixes]
        kept: set[Path] = set()
        for stem in (*LINKED, f"{BUILDER_RESOURCE}_{build.removeprefix('1')}.so"):
            found = {path for path in libraries if path.name == stem or path.name.startswith(f"{stem}.")}
            if not found:
                listed = ", ".join(sorted(path.name for path in libraries)) or "no libraries"
                raise TomopointError(f"{source.name} has no {stem}, only {listed}; use TensorRT 10.16 or newer")
            kept |= found
        for path in set(libraries) - kept:
            path.unlink()
        run_tool("wheel", f"pack {build}", "pack", str(unpacked), "--dest-dir", holder, "--build-number", build)
        (packed,) = Path(holder).glob("*.whl")
        put_in_place(packed, folder / packed.name)
    return folder / packed.name
