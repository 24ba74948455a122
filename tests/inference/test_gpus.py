"""Asking the driver for GPUs, and TensorRT's demands on them."""

import ctypes

import pytest

from tomopoint.errors import EngineError
from tomopoint.inference.engines import tensorrt_module
from tomopoint.inference.engines.gpus import DRIVER_LIBRARY, Gpu, find_gpus
from tomopoint.inference.engines.tensorrt_module import load_tensorrt, logger_of, require_gpu

T4_BYTES = 16_106_127_360


class Driver:
    """The seven functions of libcuda that are called, as the CUDA driver API documents them."""

    def __init__(self, capabilities: list[tuple[int, int]], init: int = 0, broken: int | None = None) -> None:
        self.capabilities, self.init, self.broken = capabilities, init, broken

    def cuInit(self, flags):
        assert flags == 0
        return self.init

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.capabilities)
        return 0

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = 10 + ordinal  # a handle need not be the ordinal
        return 0

    def cuDeviceGetName(self, name, size, device):
        assert size == ctypes.sizeof(name)
        name.value = b"Tesla T4"
        return 999 if device.value - 10 == self.broken else 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.capabilities[device.value - 10][{75: 0, 76: 1}[attribute]]
        return 0

    def cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = T4_BYTES
        return 0


def gpus_of(driver: Driver) -> list[Gpu]:
    def load(name):
        assert name == DRIVER_LIBRARY
        return driver

    return find_gpus(load)


def test_gpus_are_described():
    assert gpus_of(Driver([(7, 5), (12, 1)])) == [
        Gpu(0, "Tesla T4", "7.5", T4_BYTES),
        Gpu(1, "Tesla T4", "12.1", T4_BYTES),
    ]


def test_no_driver_no_device_or_a_broken_one_is_no_gpu():
    def missing(name):
        raise OSError(name)

    assert find_gpus(missing) == []
    assert gpus_of(Driver([], init=100)) == []
    assert gpus_of(Driver([])) == []
    assert [gpu.index for gpu in gpus_of(Driver([(7, 5), (7, 5)], broken=0))] == [1]


def test_tensorrt_takes_the_first_gpu_and_refuses_what_it_does_not_support(monkeypatch):
    monkeypatch.setattr(
        tensorrt_module, "find_gpus", lambda: [Gpu(0, "Tesla T4", "7.5", 1), Gpu(1, "Tesla T4", "7.5", 1)]
    )
    assert require_gpu("this").index == 0
    monkeypatch.setattr(tensorrt_module, "find_gpus", lambda: [Gpu(0, "Tesla P100", "6.0", 1)])
    with pytest.raises(
        EngineError, match=r"this needs .*P100 has compute capability 6\.0, needed is 7\.5 or newer; on Kaggle choose"
    ):
        require_gpu("this")
    monkeypatch.setattr(tensorrt_module, "find_gpus", lambda: [Gpu(0, "B200", "10.0", 1)])  # 10 is more than 7
    assert require_gpu("this").name == "B200"
    monkeypatch.setattr(tensorrt_module, "find_gpus", list)
    with pytest.raises(EngineError, match="this needs an NVIDIA GPU and its driver: there is no GPU here"):
        require_gpu("this")


def test_an_unknown_or_missing_tensorrt_is_explained(monkeypatch):
    with pytest.raises(EngineError, match="unknown TensorRT flavour 'trt'; choose auto, tensorrt, tensorrt_rtx"):
        load_tensorrt("trt")
    monkeypatch.setattr(
        tensorrt_module, "_MODULES", {"tensorrt": ("nowhere_a", "nowhere_b"), "tensorrt_rtx": ("nowhere_c",)}
    )
    with pytest.raises(EngineError, match=r"tensorrt: No module named 'nowhere_b'; tensorrt_rtx: No module named"):
        load_tensorrt()


def test_tensorrts_own_messages_are_kept():
    rtx = load_tensorrt("tensorrt_rtx")
    log = logger_of(rtx)
    log.errors.clear()
    assert log.last_error == "it gives no reason"
    severity = rtx.module.ILogger.Severity
    log.log(severity.ERROR, " broken \n")
    log.log(severity.WARNING, "odd")
    log.log(severity.VERBOSE, "chatter")
    assert log.errors == ["broken"]
    assert log.last_error == "broken"
    assert rtx.title == f"TensorRT-RTX {rtx.version}"


def test_a_process_has_one_logger_per_tensorrt():
    """A second one would never be told anything while an object made with the first lives."""
    rtx = load_tensorrt("tensorrt_rtx")
    log = logger_of(rtx)
    builder = rtx.module.Builder(log)
    assert logger_of(load_tensorrt("tensorrt_rtx")) is log
    log.errors.clear()
    network = builder.create_network(0)
    parser = rtx.module.OnnxParser(network, logger_of(rtx))
    assert not parser.parse(b"no graph")
    assert log.errors  # what the second object had to say came to the one logger
