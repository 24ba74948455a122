"""The arrows of the design: who may import whom, and how light the path is that runs on Kaggle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tomopoint"

BASE = {
    "",
    "errors",
    "extras",
    "files",
    "processes",
    "progress",
    "command",
    "locks",
    "strict_json",
    "strict_yaml",
    "models",
    "tasks",
}
ALLOWED = {
    "models": BASE,
    "pipeline": BASE,
    "data": BASE | {"pipeline"},
    "formats": BASE | {"pipeline", "data"},
    "simulate": BASE | {"pipeline", "data", "cluster"},  # cluster: by the command alone, here and below
    "networks": BASE | {"pipeline", "data"},
    "inference": BASE | {"pipeline", "data", "cluster"},
    "tasks": BASE,
    "cluster": BASE | {"pipeline", "data", "inference"},
    "evaluation": BASE | {"pipeline", "data", "inference"},
    "fusion": BASE | {"pipeline", "data", "formats", "inference", "evaluation"},
    "training": BASE | {"pipeline", "data", "networks", "inference", "evaluation", "cluster"},
    "validation": BASE | {"pipeline", "data", "networks", "inference", "evaluation", "training", "cluster"},
    "experiments": BASE
    | {"pipeline", "data", "networks", "inference", "evaluation", "training", "validation", "baselines", "cluster"},
    "baselines": BASE | {"pipeline", "data", "inference", "evaluation", "training", "validation"},
    "export": BASE | {"pipeline", "data", "networks", "inference", "evaluation", "validation"},
    "inspection": BASE | {"pipeline", "data", "evaluation", "training"},
    "picker": BASE | {"pipeline", "data", "simulate", "inference", "evaluation", "road"},
    "view": BASE | {"pipeline", "data", "formats", "evaluation"},
    "kaggle": BASE | {"pipeline", "data", "inference", "evaluation", "export"},
}
ONLY_ENGINES_IMPORT = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "pycuda"}
NEVER_IN_THE_KERNEL_PATH = ("torch", "monai", "lightning", "pytorch_lightning", "onnx", "matplotlib", "jupytext")
COMMAND_LINE_ONLY = (
    *("distributed", "dask", "cyclopts", "attr", "attrs", "docstring_parser", "rich", "rich_rst", "markdown_it"),
    *("pygments", "fsspec", "aiohttp"),
)
KERNEL_PATH = ("kaggle.inputs", "kaggle.submit", "kaggle.engine_kernel", "inference", "data", "pipeline")
HEAVY = (
    "torch",
    "monai",
    "lightning",
    "onnxruntime",
    "openvino",
    "onnx",
    "matplotlib",
    "plotly",
    "napari",
    "dask",
    "qtpy",
    "optuna",
)


def _modules():
    return sorted(SOURCE.rglob("*.py"))


def _imports(path):
    """Absolute names imported anywhere in a file, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _package(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_lies_below_them(package):
    wrong = []
    for path in _modules():
        if _package(path) != package:
            continue
        for name in _imports(path):
            root, _, rest = name.partition(".")
            if root == "tomopoint":
                target = rest.split(".")[0] if (SOURCE / rest.split(".")[0]).is_dir() or _is_module(rest) else ""
                if target not in ALLOWED[package] | {package}:
                    wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert wrong == []


def test_only_commands_go_to_a_cluster():
    users = {
        str(path.relative_to(SOURCE))
        for path in _modules()
        if _package(path) != "cluster" and any(name.startswith("tomopoint.cluster") for name in _imports(path))
    }
    packages = ("experiments", "inference", "simulate", "training", "validation")
    assert users == {f"{package}/command.py" for package in packages}


def _is_module(rest):
    return (SOURCE / f"{rest.split('.')[0]}.py").is_file()


def test_only_the_engines_import_runtimes():
    wrong = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in _modules()
        for name in _imports(path)
        if name.split(".")[0] in ONLY_ENGINES_IMPORT and path.parent.name != "engines"
    ]
    assert wrong == []


def _kernel_modules():
    for path in _modules():
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        engine_of_torch = name == "inference.engines.torch"
        if name.startswith(KERNEL_PATH) and not engine_of_torch:
            yield f"tomopoint.{name}"


def _loaded_after(modules, suspects):
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
    code += f"print(*sorted(set({suspects!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_kernel_path_loads_neither_torch_nor_monai_nor_lightning():
    modules = list(_kernel_modules())
    assert "tomopoint.kaggle.submit" in modules
    assert "tomopoint.inference.predict" in modules
    assert _loaded_after(modules, NEVER_IN_THE_KERNEL_PATH + COMMAND_LINE_ONLY) == []


def test_commands_are_light_to_import():
    modules = [
        "tomopoint." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in _modules()
        if path.stem == "command" or path.stem.endswith("_command")
    ]
    assert _loaded_after([*modules, "tomopoint.__main__"], HEAVY) == []


def test_recipes_are_read_without_torch():
    assert _loaded_after(["tomopoint.training.recipe_files", "tomopoint.networks.config"], HEAVY) == []


def test_inspection_takes_recipes_from_training_and_nothing_else():
    taken = {
        name.removeprefix("tomopoint.training.").split(".")[0]
        for path in (SOURCE / "inspection").glob("*.py")
        for name in _imports(path)
        if name.startswith("tomopoint.training.")
    }
    assert taken == {"recipe", "recipe_files"}


def test_validation_takes_from_training_what_it_wrote_and_nothing_else():
    taken = {
        name.removeprefix("tomopoint.training.").split(".")[0]
        for path in (SOURCE / "validation").glob("*.py")
        for name in _imports(path)
        if name.startswith("tomopoint.training.")
    }
    assert taken <= {"checkpoints", "recipe", "recipe_files", "machine"}
