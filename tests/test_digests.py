"""The kernels give the committed bits, here and on machines that lack what the CPU's need."""

import json

import digests
import pytest
import torch
from cuda_device import DEVICE, ON_GPU, backend

from actprune_gpu import backends

WANT = json.loads(digests.FILE.read_text())


@pytest.mark.parametrize("size", digests.SIZES)
def test_the_cpu_gives_the_committed_bits(size):
    pytest.importorskip("numba", exc_type=ImportError)  # it may refuse the NumPy
    from actprune_gpu.backends.cpu import CpuBackend

    found = digests.outputs(CpuBackend(), size, torch.device("cpu"))
    assert digests.digests(found) == WANT[size]


@pytest.mark.parametrize("size", digests.SIZES if ON_GPU else ["small", "layer"])
def test_the_cuda_kernels_give_the_committed_bits(size):
    assert digests.digests(digests.outputs(backend(), size, DEVICE)) == WANT[size]


def test_the_public_stages_give_the_committed_bits_on_the_cpu():
    pytest.importorskip("numba", exc_type=ImportError)
    assert digests.digests(digests.stages(torch.device("cpu"))) == WANT["stages"]


def test_the_public_stages_give_the_committed_bits_by_cuda(monkeypatch):
    if not ON_GPU:
        cuda = backend()
        monkeypatch.setattr(backends, "_backend", lambda device: cuda)
    assert digests.digests(digests.stages(DEVICE)) == WANT["stages"]
