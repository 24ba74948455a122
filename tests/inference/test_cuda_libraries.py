"""CUDA's libraries in packages that lie elsewhere than ONNX Runtime, as on Kaggle: found, in order, loaded for all."""

import shutil
import sys
from pathlib import Path

import onnxruntime
import pytest

from tomopoint.errors import EngineError
from tomopoint.inference.engines import onnx
from tomopoint.inference.engines.cuda_libraries import preload_cuda

LIBRARIES = {  # as in the wheels nvidia-*-cu12
    "cublas": ["libcublas.so.12", "libcublasLt.so.12", "libnvblas.so.12"],
    "cuda_nvrtc": ["libnvrtc.so.12", "libnvrtc-builtins.so.12.8"],
    "cuda_runtime": ["libcudart.so.12"],
    "cudnn": ["libcudnn.so.9", "libcudnn_ops.so.9", "libcudnn_graph.so.9"],
    "cufft": ["libcufft.so.11", "libcufftw.so.11"],
    "curand": ["libcurand.so.10"],
    "nccl": ["libnccl.so.2"],
}
NEEDED = [  # each after what it is linked against
    "libcudart.so.12", "libnvrtc.so.12", "libcublasLt.so.12", "libcublas.so.12", "libcurand.so.10", "libcufft.so.11",
    "libcudnn.so.9",
]  # fmt: skip


@pytest.fixture
def image(tmp_path, monkeypatch):
    """Return the image's packages on ``sys.path``, behind those of the notebook, which have no CUDA."""
    packages = tmp_path / "dist-packages"
    for package, names in LIBRARIES.items():
        (packages / "nvidia" / package / "lib").mkdir(parents=True)
        for name in names:
            (packages / "nvidia" / package / "lib" / name).touch()
    (tmp_path / "temp" / "packages" / "onnxruntime").mkdir(parents=True)
    # Set first, so that what a test imports under this name is forgotten after it.
    monkeypatch.setitem(sys.modules, "nvidia", None)
    monkeypatch.delitem(sys.modules, "nvidia")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "temp" / "packages"), str(packages)])
    return packages


def test_what_is_needed_is_loaded_in_the_order_of_dependencies(image):
    asked = []
    loaded = preload_cuda(asked.append)
    assert [Path(path).name for path in asked] == NEEDED
    assert loaded == [Path(path) for path in asked]
    assert all(path.is_relative_to(image / "nvidia") for path in loaded)


def test_a_second_copy_further_down_the_path_is_left_alone(image, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(image, tmp_path / "older"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(copy)])
    loaded = preload_cuda(lambda path: None)
    assert [path.name for path in loaded] == NEEDED
    assert all(path.is_relative_to(image) for path in loaded)


def test_a_library_that_does_not_load_is_logged_and_passed_over(image, caplog):
    def load(path):
        if "libcufft" in path:
            raise OSError("libnvJitLink.so.12: cannot open shared object file")

    with caplog.at_level("INFO", logger="tomopoint.inference.engines.cuda_libraries"):
        loaded = preload_cuda(load)
    assert [path.name for path in loaded] == [name for name in NEEDED if "cufft" not in name]
    assert "libcufft.so.11 was not loaded: libnvJitLink.so.12: cannot open" in caplog.text


def test_without_nvidias_packages_nothing_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)
    assert preload_cuda() == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_library_is_really_loaded(image):
    small = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_shared.so"
    path = image / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
    shutil.copyfile(small, path)
    assert preload_cuda() == [path]  # the other files are empty
    assert str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "cpu"])
def test_libraries_are_loaded_before_the_session_that_needs_them(provider, blob_model, monkeypatch):
    calls = []
    monkeypatch.setattr(onnx, "preload_cuda", lambda: calls.append("nvidia"))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: calls.append("system"))

    def session(*args, enable_fallback, **kwargs):
        calls.append("session")
        assert enable_fallback == 0
        raise RuntimeError("libnvinfer.so.10 is missing")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(onnx.PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(EngineError, match=r"with \w+ExecutionProvider \(libnvinfer\.so\.10 is missing\)"):
        onnx.OnnxEngine(blob_model, provider)
    assert calls == (["session"] if provider == "cpu" else ["nvidia", "system", "session"])
