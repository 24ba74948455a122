"""What is in the wheel, and that it needs no checkout: it writes notebooks and locks, and stages a kit."""

import hashlib
import json
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

import tomopoint
from tomopoint.__main__ import COMMANDS

CHECKOUT = Path(__file__).parents[2]
NAMES = [name for commands in COMMANDS.values() for name in commands]


def tracked(*folders):
    """Return the files that git has in some folders, or all that lie there where there is no git."""
    words = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    try:
        listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout, which says what belongs to it")
    return sorted(name for name in listed if name and (CHECKOUT / name).is_file())


def contents(wheel):
    """Return the hash of every file in a wheel but RECORD, by name."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith(("/", "/RECORD"))]
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


def test_the_wheel_holds_the_package_its_recipes_kernels_and_locks_and_nothing_else(wheel):
    expected = {name.removeprefix("src/") for name in tracked("src")}
    expected |= {f"tomopoint/{name}" for name in tracked("recipes")}
    expected |= {f"tomopoint/kaggle/packaged/{name}" for name in tracked("kernels", "wheels")}
    found = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert found == expected
    assert "tomopoint/models/small.onnx" in found


def test_the_wheel_says_what_it_is(wheel):
    assert wheel.name == f"tomopoint-{tomopoint.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        prefix = f"tomopoint-{tomopoint.__version__}.dist-info"
        assert "tomopoint = tomopoint.__main__:main" in archive.read(f"{prefix}/entry_points.txt").decode()
        assert f"{prefix}/licenses/LICENSE" in archive.namelist()
        metadata = archive.read(f"{prefix}/METADATA").decode()
    assert "License-Expression: MIT" in metadata
    assert "# tomopoint\n" in metadata  # README


def test_recipes_and_the_model_are_found_in_the_wheel(run_installed, installed):
    code = (
        "from tomopoint.training.recipe_files import load_recipe, recipes_folder\n"
        "from tomopoint.models.box import find_model\n"
        "print(recipes_folder(), load_recipe('winner').stride, find_model('small'))"
    )
    done = run_installed("-c", code)
    assert done.stdout.split() == [
        str(installed / "tomopoint" / "recipes"),
        "2",
        str(installed / "tomopoint" / "models" / "small.onnx"),
    ], done.stderr


def test_kernels_are_written_into_an_empty_folder_and_generated_there(run_installed, tmp_path):
    done = run_installed("-m", "tomopoint", "kernels", "--json")
    assert done.returncode == 0, done.stderr
    names = tracked("kernels", "wheels")
    assert json.loads(done.stdout)["changed"] == names
    assert all((tmp_path / name).read_bytes() == (CHECKOUT / name).read_bytes() for name in names)
    config = tmp_path / "kernels" / "kernels.toml"
    config.write_text(config.read_text().replace("your-kaggle-name", "some-one"))
    again = json.loads(run_installed("-m", "tomopoint", "kernels", "--json").stdout)["changed"]
    assert again == [f"kernels/{name}/kernel-metadata.json" for name in ("build_engine", "submit")]
    listed = run_installed("-m", "tomopoint", "wheels", "--dry-run")
    assert "dry run, nothing was fetched" in listed.stdout, listed.stderr


def test_a_folder_that_is_half_there_is_left_alone(run_installed, tmp_path):
    (tmp_path / "wheels").mkdir()
    done = run_installed("-m", "tomopoint", "kernels")
    assert done.returncode == 1
    assert f"{tmp_path / 'wheels'} is there, but no kernels/kernels.toml" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["wheels"]


def test_a_kit_is_staged_without_a_checkout_and_holds_the_wheel_that_was_installed(run_installed, wheel, tmp_path):
    """Packed again, to the same bytes every time."""
    done = run_installed("-m", "tomopoint", "stage", "--model", "small", "--out", "kit")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "kit" / wheel.name) == contents(wheel)
    code = "from pathlib import Path; from tomopoint.kaggle.package_wheel import write_package_wheel as write\n"
    (tmp_path / "again").mkdir()
    assert run_installed("-c", f"{code}write(Path('.'), Path('again'))").returncode == 0
    assert (tmp_path / "again" / wheel.name).read_bytes() == (tmp_path / "kit" / wheel.name).read_bytes()


@pytest.mark.slow  # it fetches what the package depends on
def test_every_command_has_its_help_with_nothing_but_the_base_dependencies(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    program = tmp_path / "venv" / "bin"
    pip = [str(program / "python"), "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    for name in NAMES:
        words = [str(program / "tomopoint"), name, "--help"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), name
        assert f"tomopoint {name}" in done.stdout
    lacking = subprocess.run(
        [str(program / "tomopoint"), "simulate", "data"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert lacking.stderr == (
        "tomopoint simulate needs torch, which is not installed: pip install 'tomopoint[train]'\n"
    )
