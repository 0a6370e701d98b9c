"""Runs the kernels on a GPU through CuPy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from . import binaries, nvrtc, sources
from .launch import Argument

_log = logging.getLogger(__name__)


class _Stream(NamedTuple):
    """What CuPy reads of a stream; its `ExternalStream` warns at every launch, being deprecated."""

    ptr: int


class CupyLauncher:
    """Implements `actprune_gpu.backends.cuda.launch.Launcher` for one device.

    Binaries made ahead of time are preferred; where there are none, or the driver does not take
    them, NVRTC compiles the sources for the card at hand. Threads may launch at once, each on its
    current stream.

    Args:
        index: Number of the device.

    Attributes:
        device: The device.
        n_multiprocessors: Of the device.
        shared_memory: Bytes of dynamic shared memory that a block can have at most.
        loaded: For each source in use, ``"fatbin"`` or ``"nvrtc"``.
    """

    def __init__(self, index: int) -> None:
        import cupy

        self._cupy = cupy
        self.device = torch.device("cuda", index)
        card = cupy.cuda.Device(index)
        attributes = card.attributes
        self._capability = int(card.compute_capability)
        self.n_multiprocessors = int(attributes["MultiProcessorCount"])
        self.shared_memory = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self.loaded: dict[str, str] = {}
        self._kernels: dict[str, Any] = {}
        self._modules: dict[str, Any] = {}
        self._lock = threading.Lock()

    def launch(
        self,
        kernel: str,
        grid: int | tuple[int, int],
        block: int,
        *arguments: Argument,
        shared: int = 0,
        cooperative: bool = False,
    ) -> None:
        """Start a kernel on the current torch stream of the device."""
        values = tuple(self._value(kernel, argument) for argument in arguments)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        with self._on_device():
            function = self._kernel(kernel, shared).kernel
            function(
                grid if isinstance(grid, tuple) else (grid,),
                (block,),
                values,
                shared_mem=shared,
                stream=_Stream(stream),
                enable_cooperative_groups=cooperative,
            )

    def resident_blocks(self, kernel: str, block: int, shared: int = 0) -> int:
        """Return how many blocks of a cooperative launch fit on the device at once."""
        with self._on_device():
            pointer = self._kernel(kernel, shared).kernel.ptr
            driver = self._cupy.cuda.driver
            blocks = driver.occupancyMaxActiveBlocksPerMultiprocessor(pointer, block, shared)
        return int(blocks) * self.n_multiprocessors

    def free_bytes(self) -> int:
        """Return how many bytes can still be had: free ones, and those that PyTorch keeps ready."""
        free, _ = torch.cuda.mem_get_info(self.device)
        ready = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(free + ready)

    def load(self, file: str) -> str:
        """Load a source's kernels and return what they were loaded from."""
        with self._on_device(), self._lock:
            self._module(file)
        return self.loaded[file]

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        with self._cupy.cuda.Device(self.device.index) as device:
            # Calls to the driver need the device's context, which a new thread has only after this.
            device.use()
            yield

    def _value(self, kernel: str, argument: Argument) -> np.generic:
        if not isinstance(argument, Tensor):
            return argument
        if argument.device != self.device:
            raise InputError(f"{kernel} needs its arguments on {self.device}, got a tensor on "
                             f"{argument.device}")  # fmt: skip
        return np.uintp(argument.data_ptr())

    def _kernel(self, name: str, shared: int) -> Any:
        with self._lock:
            if name not in self._kernels:
                self._kernels[name] = self._module(sources.file_of(name)).get_function(name)
            kernel = self._kernels[name]
            # Without being asked, a kernel gets 48 KiB, less what it declares itself. CuPy keeps
            # kernels: another launcher may have asked.
            if shared and shared > kernel.max_dynamic_shared_size_bytes:
                needed = shared + kernel.shared_size_bytes
                if needed > self.shared_memory:
                    raise InputError(
                        f"{name} needs {needed} bytes of shared memory for a block, {self.device} "
                        f"has {self.shared_memory}: use fewer points"
                    )
                kernel.max_dynamic_shared_size_bytes = shared
        return kernel

    def _module(self, file: str) -> Any:
        if file not in self._modules:
            self._modules[file] = self._from_binary(file) or self._from_source(file)
            _log.info("kernels of %s loaded from %s", file, self.loaded[file])
        return self._modules[file]

    def _from_binary(self, file: str) -> Any:
        binary = binaries.find(file)
        if binary is None:
            return None
        module = self._cupy.RawModule(path=str(binary))
        try:
            module.compile()
        except self._cupy.cuda.driver.CUDADriverError as error:
            _log.warning("%s: the driver does not take %s (%s)", file, binary.name, error)
            return None
        self.loaded[file] = "fatbin"
        return module

    def _from_source(self, file: str) -> Any:
        module = self._cupy.RawModule(path=str(nvrtc.compiled(file, self._capability)))
        module.compile()
        self.loaded[file] = "nvrtc"
        return module
