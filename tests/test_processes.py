"""What is freed in a process is there for what it needs next."""

import platform
import subprocess
import sys

import pytest

FAULTS_OF_AN_INFERENCE = """
import resource, numpy, torch
from tomopoint.inference.engines import torch as engines
torch.set_num_threads(1)
if {forgets}:
    engines.keep_freed_memory = lambda: None
convolution = torch.nn.Conv3d(1, 8, 3, padding=1)
two = torch.nn.Sequential(convolution, torch.nn.ReLU(), torch.nn.Conv3d(8, 9, 3, padding=1))
class Both(torch.nn.Module):
    def forward(self, x):
        maps = two(x)
        return maps[:, :6], maps[:, 6:]
engine = engines.TorchEngine(Both(), (96, 96, 128))
window = numpy.zeros((1, 1, 96, 96, 128), numpy.float32)
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    engine.infer(window)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have their own ways")
def test_an_inference_on_the_cpu_computes_in_the_memory_of_the_one_before():
    """Its maps are 38 MB each: 9,216 pages of 4 kB, if they are new memory."""

    def faults(forgets: bool) -> int:
        code = FAULTS_OF_AN_INFERENCE.format(forgets=forgets)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    assert faults(False) < 0.6 * faults(True)
