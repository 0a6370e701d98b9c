"""The kernels give the committed bits, here and on machines that lack what the CPU's need."""

import json

import digests
import pytest
import torch
from cuda_device import DEVICE, ON_GPU, backend

WANT = json.loads(digests.FILE.read_text())


@pytest.mark.parametrize("size", digests.SIZES)
def test_the_cpu_gives_the_committed_bits(size):
    pytest.importorskip("numba", exc_type=ImportError)  # it may refuse the NumPy
    from actprune_gpu.backends.cpu import CpuBackend

    assert digests.digests(CpuBackend(), size, torch.device("cpu")) == WANT[size]


@pytest.mark.parametrize("size", digests.SIZES if ON_GPU else ["small"])
def test_the_cuda_kernels_give_the_committed_bits(size):
    assert digests.digests(backend(), size, DEVICE) == WANT[size]
