"""Extras: what is imported has its place in pyproject.toml, and where it is missing a sentence says so."""

import ast
import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tomopoint.__main__ import COMMANDS
from tomopoint.extras import MODULES, how_to_install, missing_extra

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
NAMES = [name for commands in COMMANDS.values() for name in commands]
BROUGHT_BY = {
    "nbformat": "nbclient",
    "numcodecs": "zarr",
    "onnx-ir": "onnxscript",
    "llvmlite": "numba",
    "dask": "distributed",
    "qtpy": "napari",
    "magicgui": "napari",
}
"""Imported, and a dependency of what is asked for."""
MODULES_OF = {"pyyaml": "yaml", "pillow": "PIL", "onnxruntime-gpu": "onnxruntime", "tensorrt-rtx-cu12": "tensorrt_rtx"}
"""Distributions whose module has another name; most are not installed where the tests run."""
NOT_OURS_TO_BRING = {"wandb"}
"""An account elsewhere; its absence is said where it is asked for."""


def names_of(requirements):
    """Return the canonical names that requirements ask for, through extras of our own as well."""
    found = set()
    for line in requirements:
        requirement = Requirement(line)
        if requirement.name == "tomopoint":
            for extra in requirement.extras:
                found |= names_of(PROJECT["optional-dependencies"][extra])
        else:
            found.add(canonicalize_name(requirement.name))
    return found


def imported_modules():
    """Return the top-level modules of others that are imported anywhere in the package."""
    found = set()
    for path in (CHECKOUT / "src" / "tomopoint").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"tomopoint"}


def test_every_import_is_a_dependency_or_comes_with_the_extra_that_is_named():
    base = names_of(PROJECT["dependencies"])
    in_extras = {module for modules in MODULES.values() for module in modules}
    for module in imported_modules() - NOT_OURS_TO_BRING:
        distribution = canonicalize_name(module)
        assert module in in_extras or BROUGHT_BY.get(distribution, distribution) in base, module
        assert not (module in in_extras and distribution in base), module


@pytest.mark.parametrize(("extra", "module"), [(extra, name) for extra, names in MODULES.items() for name in names])
def test_an_extra_brings_what_it_is_said_to_bring(extra, module):
    asked = names_of(PROJECT["optional-dependencies"][extra])
    brought = {MODULES_OF.get(name, name.replace("-", "_")) for name in asked}
    brought |= {part.replace("-", "_") for part, of in BROUGHT_BY.items() if of in asked}
    aliases = {"tensorrt_cu12": "tensorrt"}
    assert module in {aliases.get(name, name) for name in brought}


def test_all_is_every_extra_of_a_machine_without_a_gpu():
    extras = PROJECT["optional-dependencies"]
    of_a_gpu = {"gpu", "gpu-cu12", "tensorrt", "tensorrt-rtx", "pycuda"}
    of_a_checkout = {"dev", "docs"}
    for name in extras.keys() - of_a_gpu - of_a_checkout:
        assert names_of(extras[name]) <= names_of(extras["all"]), f"{name} belongs into all"
    assert names_of(["tomopoint[gpu]"]).isdisjoint(names_of(extras["all"]))  # two builds of ONNX Runtime never meet


def test_what_is_missing_is_told_from_what_is_broken():
    assert missing_extra(ModuleNotFoundError(name="json.nothing")) is None  # its package is there
    assert missing_extra(ModuleNotFoundError(name="some_module_of_nobody")) is None
    assert missing_extra(ModuleNotFoundError()) is None
    assert how_to_install("torch.nn") == "needs torch, which is not installed: pip install 'tomopoint[train]'"
    assert how_to_install("onnxruntime").endswith("[cpu]', beside an NVIDIA GPU 'tomopoint[gpu]' instead")


ONLY_BASE = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions

allowed = set({allowed!r})
owners = packages_distributions()

class OnlyBase(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        of = owners.get(name.partition(".")[0], [])
        if of and not allowed & {{other.lower().replace("_", "-").replace(".", "-") for other in of}}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyBase
from tomopoint.__main__ import main
import contextlib, io, json
answers = []
for words in {commands!r}:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            answers.append((end.code or 0, out.getvalue(), err.getvalue()))
print("ANSWERS", json.dumps(answers))
"""


def base_closure():
    """Return the distributions that an installation without extras has, with what these depend on."""
    found, open_names = set(), names_of(PROJECT["dependencies"])
    while open_names:
        name = open_names.pop()
        found.add(name)
        for line in requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                open_names |= {canonicalize_name(requirement.name)} - found
    return sorted(found | {"tomopoint"})


def with_only_base(commands, cwd):
    """Run commands where everything but the base dependencies looks as if it were not installed."""
    code = ONLY_BASE.format(allowed=base_closure(), commands=commands)
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.partition("ANSWERS ")[2])


def test_every_command_has_its_help_with_only_the_base_dependencies(tmp_path):
    assert "pytest" in {name for owners in packages_distributions().values() for name in owners}
    answers = with_only_base([["--help"], *([name, "--help"] for name in NAMES)], tmp_path)
    assert [(status, err) for status, _, err in answers] == [(0, "")] * (len(NAMES) + 1)


def test_a_command_without_its_extra_is_one_sentence(tmp_path):
    ring = str(CHECKOUT / "docs" / "examples" / "ring.cif")
    (tmp_path / "tomograms").mkdir()
    expected = {
        ("simulate", "data"): "simulate needs torch, which is not installed: pip install 'tomopoint[train]'",
        ("train", "--data", "data", "--out", "t"): "[train]'",
        ("validate", "t"): "validate needs torch, which is not installed: pip install 'tomopoint[train]'",
        ("export", "t"): "export needs torch, which is not installed: pip install 'tomopoint[train]'",
        ("predict", "--data", "tomograms", "--model", "small", "--out", "p"): (
            "predict: this needs onnxruntime, which is not installed: pip install 'tomopoint[cpu]', beside an NVIDIA "
            "GPU 'tomopoint[gpu]' instead"
        ),
        ("engine", "small"): "needs torch, which is not installed: pip install 'tomopoint[train]'",
        ("stage", "--model", "small"): "needs torch, which is not installed: pip install 'tomopoint[train]'",
        ("stage", "--check", "."): "cannot read manifest.json",
        ("demo",): "needs torch, which is not installed: pip install 'tomopoint[train]'",
        ("picker", "--structure", f"ring={ring}"): "picker needs gemmi, which is not installed",
        ("lock-wheels", "--folder", str(CHECKOUT / "wheels")): "needs uv, which is not installed",
        ("kernels",): "kernels needs jupytext, which is not installed: pip install 'tomopoint[kit]'",
    }
    answers = with_only_base([list(words) for words in expected], tmp_path)
    for (words, sentence), (status, out, err) in zip(expected.items(), answers, strict=True):
        assert (status, out) == (1, ""), words
        assert sentence in err, words
        assert "Traceback" not in err
