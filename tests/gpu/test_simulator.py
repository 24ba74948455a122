"""The simulator with its Fourier transforms on the GPU."""

import numpy as np
import pytest

from tomopoint.simulate.optics import NOISE_SD
from tomopoint.simulate.options import SimulationOptions
from tomopoint.simulate.tomogram import simulate_tomogram

EQUAL = 1e-4
"""Of the noise's standard deviation: float32 transforms of two libraries."""


@pytest.mark.gpu
@pytest.mark.parametrize("shape_zyx", [(64, 128, 128), (47, 90, 101)])
def test_gpu_and_cpu_agree(shape_zyx):
    cpu, gpu = (simulate_tomogram(SimulationOptions(), shape_zyx, 5, device) for device in ("cpu", "cuda"))
    assert cpu.points_xyz_A.keys() == gpu.points_xyz_A.keys()
    for name, points in cpu.points_xyz_A.items():
        np.testing.assert_array_equal(points, gpu.points_xyz_A[name])
    np.testing.assert_allclose(gpu.volume_zyx, cpu.volume_zyx, rtol=0, atol=EQUAL * NOISE_SD)
    assert cpu.volume_zyx.std() > NOISE_SD / 2


@pytest.mark.gpu
def test_the_same_seed_makes_the_same_tomogram_again():
    first, again = (simulate_tomogram(SimulationOptions(), (64, 96, 96), 7, "cuda") for _ in range(2))
    np.testing.assert_allclose(first.volume_zyx, again.volume_zyx, rtol=0, atol=EQUAL * NOISE_SD)
