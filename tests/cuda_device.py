"""The CUDA kernels' tests run on a GPU if ACTPRUNE_GPU is set, else on the emulator."""

import os

import torch
from emulator.launcher import EmulatedLauncher

from actprune_gpu.backends.cuda import CudaBackend

ON_GPU = os.environ.get("ACTPRUNE_GPU", "0") != "0"
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
# Schedules of the emulator; a GPU has its own.
SEEDS = (0,) if ON_GPU else (0, 1, 2, 3)


def backend(**options):
    """The CUDA backend; options are those of the emulator."""
    if ON_GPU:
        from actprune_gpu.backends.cuda.cupy_launcher import CupyLauncher

        return CudaBackend(CupyLauncher(0))
    return CudaBackend(EmulatedLauncher(**options))
