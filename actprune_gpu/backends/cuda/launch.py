"""What a launcher of kernels must do: CuPy's runs them on a GPU, the tests' on an emulator."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

# Tensors are passed by address, numbers by value in the exact type of the kernel's parameter.
Argument = Tensor | np.generic


class Launcher(Protocol):
    """Runs the kernels of csrc/ on one device, on the current torch stream.

    Attributes:
        device: The device.
        n_multiprocessors: Of the device.
        shared_memory: Bytes of dynamic shared memory that a block can have at most.
    """

    device: torch.device
    n_multiprocessors: int
    shared_memory: int

    def launch(
        self,
        kernel: str,
        grid: int | tuple[int, int],
        block: int,
        *arguments: Argument,
        shared: int = 0,
        cooperative: bool = False,
    ) -> None:
        """Start ``kernel`` on ``grid`` blocks of ``block`` threads.

        Args:
            kernel: Name of an ``extern "C" __global__`` function of csrc/.
            grid: Blocks along x, or along (x, y).
            block: Threads of a block.
            arguments: The kernel's arguments. Tensors must lie on the device; what they hold where
                the kernel starts is what was last enqueued for them on the current stream.
            shared: Bytes of dynamic shared memory.
            cooperative: Whether all blocks must run at once, for barriers across the grid.
        """

    def resident_blocks(self, kernel: str, block: int, shared: int = 0) -> int:
        """Return how many blocks of a cooperative launch fit on the device at once."""

    def free_bytes(self) -> int:
        """Return how many bytes of the device's memory can still be had."""
