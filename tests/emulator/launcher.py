"""A launcher for the CUDA backend that runs its kernels on the emulator."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from actprune_gpu.backends.cuda import sources

from .module import MAX_SWITCHES, EmulatorError, Module, kernels_in, misfit


class EmulatedLauncher:
    """Implements `actprune_gpu.backends.cuda.launch.Launcher` for tensors on the CPU.

    Tensors are copied into guarded memory of just their size and back, so that a kernel that leaves
    one is noticed.

    Args:
        race: Whether to look for races.
        seed: Of the schedule; 0 takes blocks and threads in order.
        preempt: Whether to change threads at atomics, too.
        n_multiprocessors: Of the device.
        shared_memory: Bytes of dynamic shared memory that a block can have at most.
        memory: Bytes that are free, as far as the backend can tell.
        texts: Sources that replace or join those of csrc/, by file.
        max_switches: From thread to thread, after which a launch fails.

    Attributes:
        launches: How often each kernel was started.
        switches: The most that a launch needed.
    """

    def __init__(
        self,
        *,
        race: bool = False,
        seed: int = 0,
        preempt: bool = False,
        n_multiprocessors: int = 3,
        shared_memory: int = 227 * 1024,
        memory: int = 1 << 40,
        texts: Mapping[str, str] | None = None,
        max_switches: int = MAX_SWITCHES,
    ) -> None:
        self.device = torch.device("cpu")
        self.n_multiprocessors = n_multiprocessors
        self.shared_memory = shared_memory
        self.memory = memory
        self.launches: Counter[str] = Counter()
        self._race, self._seed, self._preempt = race, seed, preempt
        self._max_switches = max_switches
        self.switches = 0
        self._texts = dict(texts or {})
        self._modules: dict[str, Module] = {}

    def free_bytes(self) -> int:
        """Return how many bytes of memory there are."""
        return self.memory

    def resident_blocks(self, kernel: str, block: int, shared: int = 0) -> int:
        """Return a number that makes cooperative kernels use several blocks."""
        return 2 * self.n_multiprocessors

    def launch(
        self,
        kernel: str,
        grid: int | tuple[int, int],
        block: int,
        *arguments: Tensor | np.generic,
        shared: int = 0,
        cooperative: bool = False,
    ) -> None:
        """Run a kernel to its end."""
        if shared > self.shared_memory:
            raise EmulatorError(
                f"{kernel}: {shared} bytes of shared memory, at most {self.shared_memory}"
            )
        resident = self.resident_blocks(kernel, block, shared)
        if cooperative and np.prod(grid) > resident:
            raise EmulatorError(
                f"{kernel}: cooperative launch of {grid} blocks, at most {resident}"
            )
        self.launches[kernel] += 1
        module = self._module(kernel)
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        guarded = _Guarded(module, tensors)
        wanted = module.wanted(kernel, len(arguments))
        switches = module.launch(
            kernel,
            grid,
            block,
            *(
                guarded.array(kernel, position, want, argument)
                if isinstance(argument, Tensor)
                else argument
                for position, (want, argument) in enumerate(zip(wanted, arguments, strict=True))
            ),
            shared=shared,
            cooperative=cooperative,
            preempt=self._preempt,
            seed=self._seed,
            max_switches=self._max_switches,
        )
        self.switches = max(self.switches, switches)
        guarded.write_back()

    def _module(self, kernel: str) -> Module:
        ours = (file for file, text in self._texts.items() if kernel in kernels_in(text))
        file = next(ours, None) or sources.file_of(kernel)
        if file not in self._modules:
            text = self._texts.get(file) or sources.text(file)
            self._modules[file] = Module(text, race=self._race)
        return self._modules[file]


class _Guarded:
    """Guarded copies of the memory of tensors; tensors that overlap lie in one copy."""

    def __init__(self, module: Module, tensors: Iterable[Tensor]) -> None:
        spans: list[tuple[int, int]] = []
        for begin, end in sorted(map(_span, tensors)):
            if spans and begin < spans[-1][1]:
                spans[-1] = spans[-1][0], max(end, spans[-1][1])
            else:
                spans.append((begin, end))
        self._copies = [(begin, end, module.array(_memory(begin, end))) for begin, end in spans]

    def array(self, kernel: str, position: int, want: str, tensor: Tensor) -> np.ndarray:
        """Return what the kernel gets for a tensor: its memory from the first element on."""
        if not _fits(tensor, want):
            raise misfit(kernel, position, want, f"a {tensor.dtype} tensor on {tensor.device}")
        first, last = _span(tensor)
        begin, copy = next(
            (begin, copy) for begin, end, copy in self._copies if begin <= first and last <= end
        )
        view = copy[first - begin : last - begin]
        return view if want.startswith("*V") else view.view(want[1:])

    def write_back(self) -> None:
        for begin, end, copy in self._copies:
            _memory(begin, end)[...] = copy


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the addresses of a tensor's first element and of the end of its last one."""
    begin = tensor.data_ptr()
    if not tensor.numel():
        return begin, begin
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    return begin, begin + (last + 1) * tensor.element_size()


def _memory(begin: int, end: int) -> np.ndarray:
    if begin == end:
        return np.empty(0, np.uint8)
    return np.frombuffer((ctypes.c_ubyte * (end - begin)).from_address(begin), np.uint8)


def _fits(tensor: Tensor, want: str) -> bool:
    if want[0] != "*" or tensor.device.type != "cpu":
        return False
    if want[1] == "V":
        return True
    # Kernels take float16 and bfloat16 as their bits.
    is_float = tensor.is_floating_point() and tensor.element_size() > 2
    return tensor.element_size() == int(want[2:]) and is_float == (want[1] == "f")
