"""benchmarks/gpu.py: a section that crashes, hangs or lacks a package costs itself only; all of it in miniature."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).parents[2]
BENCHMARKS = CHECKOUT / "benchmarks"

sys.path.insert(0, str(BENCHMARKS))

import gpu  # noqa: E402

LONG_SECONDS = 60.0
FIGURE = """print('@figure ["before", 1]', flush=True)"""


@pytest.fixture
def run(tmp_path):
    """Run some code as a section; return its outcome, the log, and the figures known each time it told."""

    def run_code(code, seconds=LONG_SECONDS):
        told = []
        with (tmp_path / "log").open("w") as log:
            words = [sys.executable, "-c", code]
            outcome = gpu.run_section(words, seconds, log, lambda found: told.append(dict(found.figures)))
        return outcome, (tmp_path / "log").read_text(), told

    return run_code


def test_what_a_crashing_section_found_is_kept(run):
    outcome, log, told = run(f"import os\nprint('hello')\n{FIGURE}\nos.abort()")
    assert (outcome.status, outcome.figures, told) == ("crashed", {"before": 1}, [{"before": 1}])
    assert "SIGABRT" in outcome.reason
    assert log == "hello\n"
    assert outcome.bad


def test_a_section_that_hangs_is_ended_with_what_it_started(run):
    code = f"{FIGURE}\nimport json, subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
    code += "print('@figure ' + json.dumps(['child', child.pid]), flush=True)\nchild.wait()"
    outcome, _, _ = run(code, seconds=5.0)
    assert (outcome.status, outcome.reason) == ("out of time", "not done after 5 s")
    assert outcome.figures["before"] == 1
    state = Path(f"/proc/{outcome.figures['child']}/stat")
    end = time.monotonic() + LONG_SECONDS
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < end:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_an_error_is_told_and_fails_the_section(run):
    code = f"import sys, pathlib\nsys.path.insert(0, {str(BENCHMARKS)!r})\nimport gpu, gpu_sections\n"
    code += "def broken(*given):\n    yield 'first', 2\n    raise ValueError('no room')\n"
    code += "gpu_sections.run = broken\nsys.exit(gpu.hand_over('steps', pathlib.Path('.'), True))"
    outcome, _, _ = run(code)
    assert (outcome.status, outcome.reason, outcome.figures) == ("failed", "ValueError: no room", {"first": 2})


def test_a_missing_package_skips_the_section_that_needs_it(run):
    code = f"import sys, pathlib\nsys.modules['monai'] = None\nsys.path.insert(0, {str(BENCHMARKS)!r})\n"
    code += "import gpu\nsys.exit(gpu.hand_over('eager', pathlib.Path('.'), True))"
    outcome, _, _ = run(code)
    assert (outcome.status, outcome.reason) == ("skipped", "the package monai is not installed")
    assert not outcome.bad


def test_the_benchmark_itself_needs_nothing_but_python():
    code = "import sys\nsys.path.insert(0, sys.argv[1])\nimport gpu\nprint(*sorted(sys.modules))"
    words = [sys.executable, "-I", "-S", "-c", code, str(BENCHMARKS)]  # -S: no installed packages
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "gpu_sections" in done.stdout.split()
    assert not {"torch", "numpy", "tomopoint"} & set(done.stdout.split())


def test_seconds_per_tomogram_are_the_windows_and_the_hosts():
    host = gpu.Outcome("done", figures={"windows": 81, "seconds": 6.3, "parts": {"decode": 1.0}})
    eager = gpu.Outcome("done", figures={"contiguous": {"seconds_per_window": 0.1}, "note": "x"})
    table = gpu.summary({"host": host, "eager": eager})
    assert table == {
        "eager contiguous": {"seconds_per_window": 0.1, "seconds_per_tomogram": 14.4, "gpu_share": 0.562}  # 8.1 / 14.4
    }
    assert gpu.summary({"eager": eager}) == {}


def test_the_sections_have_half_an_hour_and_every_gpu_test_is_among_them():
    assert sum(gpu.BUDGETS_MINUTES.values()) == pytest.approx(30.0)
    marked = [path for path in (CHECKOUT / "tests").rglob("test_*.py") if "pytest.mark." + "gpu" in path.read_text()]
    assert marked
    assert {path.parent for path in marked} == {CHECKOUT / "tests" / "gpu"}


def benchmark(tmp_path, *words):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--scratch", str(tmp_path / "scratch"), *words]
    environment = {**os.environ, "OUT": str(tmp_path / "out")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    printed = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    assert not printed or json.loads((tmp_path / "out" / "gpu.json").read_text()) == printed
    return done, printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_full_size_says_so(tmp_path):
    done, printed = benchmark(tmp_path, "--sections", "eager")
    assert done.returncode == 0
    assert printed["sections"]["eager"]["status"] == "skipped"
    assert "finds no GPU" in printed["sections"]["eager"]["reason"]


def test_an_unknown_section_is_refused(tmp_path):
    done, _ = benchmark(tmp_path, "--sections", "eager,speed")
    assert done.returncode == 2
    assert "no section speed" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the benchmark itself")
def test_the_whole_in_miniature(tmp_path):
    done, printed = benchmark(tmp_path, "--miniature")
    log = (tmp_path / "out" / "gpu.log").read_text()
    assert done.returncode == 0, done.stdout + log
    status = {name: section["status"] for name, section in printed["sections"].items()}
    assert list(status) == list(gpu.BUDGETS_MINUTES)
    need_a_gpu = {"onnxruntime-tensorrt", "tensorrt", "tensorrt-norm-plugin"}
    assert {name for name, value in status.items() if value != "done"} == need_a_gpu
    figures = {name: section["figures"] for name, section in printed["sections"].items()}
    assert figures["tests"]["counts"]["failed"] == 0
    assert figures["tests"]["counts"]["skipped"] > 10
    assert figures["steps"]["dynunet bf16 channels_last_3d"]["seconds_per_step"] > 0
    assert 0 < figures["steps"]["segresnet with its loader"]["gpu_share"] <= 1
    assert figures["host"]["picks"] > 0
    assert figures["training"]["train"]["trained"] == ["fold0/segresnet", "fold0/dynunet"]
    assert 0 <= figures["training"]["validate"]["simulated_F4"] <= 1
    assert figures["graph"]["networks"] == 2
    assert figures["onnxruntime-cuda"]["parity"]["ok"]
    assert figures["tensorrt-rtx"]["plan"]["compute_capability"] == "7.5"
    cpu = "onnxruntime-cuda onnxruntime-cpu"
    assert set(printed["summary"]) == {"eager contiguous", "eager channels_last_3d", "compiled", cpu}
    assert all(0 < row["gpu_share"] < 1 for row in printed["summary"].values())
