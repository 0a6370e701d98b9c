"""Builds a CUDA source with g++ and launches its kernels on NumPy arrays in guarded memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
_RUNTIME = ("schedule.cpp", "context.cpp", "memory.cpp", "races.cpp")
_COMMON = ["-std=c++17", "-fPIC", "-fvisibility=hidden"]
_UNIT = [
    *_COMMON,
    *("-w", f"-I{HERE}"),
    # The bits must be those of IEEE 754, operation by operation.
    "-ffp-contract=off",
    # Kernels read memory as other types than it was written, as CUDA C++ allows.
    "-fno-strict-aliasing",
    # Plain variables for __shared__: no guards, no wrappers, none shared with other modules.
    *("-fno-threadsafe-statics", "-fno-extern-tls-init", "-fno-gnu-unique"),
    # For file and line of a fault; addr2line mistakes the file in version 5 after #line.
    *("-g1", "-gdwarf-4"),
]
_FAST = ["-O2", "-march=native", "-fsanitize=bounds,alignment"]
_RACE = ["-O1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
_KERNEL = re.compile(r"__global__ void\s+(?:__launch_bounds__\s*\(([^)]*)\)\s*)?(\w+)\s*\(")
_MAX_THREADS, _MAX_GRID_Y = 1024, 65535
MAX_SWITCHES = 1 << 32  # from thread to thread in a launch: minutes
_LOCK = threading.Lock()  # a launch is for one thread at a time


class EmulatorError(RuntimeError):
    """A kernel did what no CUDA kernel may do."""


class RaceError(EmulatorError):
    """Two threads touched the same memory unordered, or memory was read before it was written."""


class _Race(ctypes.Structure):
    FIRST_WRITES, SECOND_WRITES, UNINITIALISED = 1, 2, 4
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("first_site", "second_site")),
        *((name, ctypes.c_uint) for name in ("first_block", "first_thread")),
        *((name, ctypes.c_uint) for name in ("second_block", "second_thread")),
        ("kind", ctypes.c_int),
    )


def kernels_in(source: str) -> list[str]:
    """Return the names of the kernels in a source."""
    return [kernel for _, kernel in _KERNEL.findall(source)]


def _bounds_in(source: str) -> dict[str, int]:
    """Return how many threads a block of each kernel can have."""
    found = ((kernel, bounds.split(",")[0]) for bounds, kernel in _KERNEL.findall(source))
    return {kernel: int(bound) if bound.isdigit() else _MAX_THREADS for kernel, bound in found}


def misfit(kernel: str, position: int, want: str, got: str) -> TypeError:
    """Return the complaint that an argument does not fit its parameter, "f8" or "*f8"."""
    return TypeError(f"{kernel}: argument {position} must be {_prose(want)}, got {got}")


def _prose(code: str) -> str:
    if code[0] == "*":
        return "a pointer to " + ("a struct" if code[1] == "V" else np.dtype(code[1:]).name)
    return "a struct" if code[0] == "V" else f"a NumPy {np.dtype(code).name}"


@cache
def _text(file: str) -> str:
    return (HERE / file).read_text()


def _cached(suffix: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the file that ``build`` makes; it is made once for each key, by any process."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"actprune_gpu_emulator_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{digest}{suffix}"
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=folder) as room:
            build(Path(room) / file.name)
            os.replace(Path(room) / file.name, file)
    return file


def _gxx(*arguments: str | Path) -> None:
    done = subprocess.run(["g++", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulatorError(f"g++ failed:\n{done.stderr[:4000]}")


def _runtime() -> Path:
    """Return the part of the emulator that is the same for all kernels, compiled."""
    flags = [*_COMMON, "-O2"]
    key = "".join(map(_text, (*_RUNTIME, "state.hpp", "runtime.hpp"))) + repr(flags)
    files = [HERE / file for file in _RUNTIME]
    return _cached(".o", key, lambda out: _gxx(*flags, "-r", "-nostdlib", *files, "-o", out))


def _library(source: str, flags: list[str]) -> Path:
    """Return the shared object of a source."""
    runtime = _runtime()
    exports = "".join(f"EMU_EXPORT({kernel})\n" for kernel in kernels_in(source))
    unit = f'#include "cudaemu.hpp"\n{source}\n#line 1 "exports"\n{exports}'

    def build(out: Path) -> None:
        unit_file, object_file = out.with_suffix(".cpp"), out.with_suffix(".o")
        unit_file.write_text(unit)
        _gxx(*flags, "-c", unit_file, "-o", object_file)
        # Linked without the flags: what sanitizers call is in the runtime.
        _gxx("-shared", "-Wl,-z,defs", object_file, runtime, "-o", out)

    return _cached(".so", f"{unit}{_text('cudaemu.hpp')}{flags}{runtime}", build)


class Module:
    """The kernels of one source.

    Args:
        source: Text of a ``.cu`` file, with its headers put in.
        race: Whether to build with the race detector, which is slow.
        defines: Names to define.

    Attributes:
        parameters: Of each kernel, the types of its parameters: "f8" for a double, "*i4" for a
            pointer to int, V for a struct.
    """

    def __init__(self, source: str, *, race: bool = False, defines: tuple[str, ...] = ()) -> None:
        flags = [*_UNIT, *(_RACE if race else _FAST), *(f"-D{name}" for name in defines)]
        self._file = _library(source, flags)
        self._bounds = _bounds_in(source)
        library = self._library = ctypes.CDLL(str(self._file))
        library.emu_allocate.restype = library.emu_fault_site.restype = ctypes.c_void_p
        library.emu_allocate.argtypes = [ctypes.c_size_t]
        library.emu_free.argtypes = [ctypes.c_void_p]
        library.emu_switches.restype = ctypes.c_uint64
        library.emu_launch.restype = ctypes.c_char_p
        library.emu_launch.argtypes = [
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
            *(ctypes.c_bool, ctypes.c_bool, ctypes.c_uint64, ctypes.c_uint64),
        ]
        # A process can have so many maps of memory, and every stack is two.
        weakref.finalize(self, library.emu_release_stacks)
        self.parameters = {kernel: self._parameters(kernel) for kernel in self._bounds}

    def _parameters(self, kernel: str) -> list[str]:
        function = self._library[f"emu_parameters_{kernel}"]
        function.restype = ctypes.c_char_p
        return function().decode().split(",")[:-1]

    def empty(self, n: int, dtype: np.dtype | type | str) -> np.ndarray:
        """Return ``[n]`` poisoned numbers that end where a page ends that nobody may touch."""
        n_bytes = n * np.dtype(dtype).itemsize
        address = self._library.emu_allocate(n_bytes)
        if address is None:
            raise MemoryError(f"no {n_bytes} bytes")
        buffer = (ctypes.c_ubyte * n_bytes).from_address(address)
        weakref.finalize(buffer, self._library.emu_free, address)
        return np.ndarray(n, dtype, buffer)

    def array(self, values: np.ndarray) -> np.ndarray:
        """Return a guarded copy."""
        copy = self.empty(values.size, values.dtype).reshape(values.shape)
        copy[...] = values
        return copy

    def launch(
        self,
        kernel: str,
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        *arguments: np.ndarray | np.generic,
        shared: int = 0,
        cooperative: bool = False,
        preempt: bool = False,
        seed: int = 0,
        max_switches: int = MAX_SWITCHES,
    ) -> int:
        """Run a kernel to its end.

        Args:
            kernel: Its name.
            grid: Blocks by axis.
            block: Threads by axis.
            arguments: Arrays from `empty` or `array` for pointers, NumPy scalars for numbers.
            shared: Bytes of dynamic shared memory.
            cooperative: Whether all blocks are resident at once.
            preempt: Whether to change threads at atomics, too.
            seed: Of the schedule; 0 takes blocks and threads in order.
            max_switches: From thread to thread, after which the launch fails.

        Returns:
            The number of switches: barriers, warp operations and spins, by thread.

        Raises:
            EmulatorError: If the kernel did what is not allowed; the message says where.
            TypeError: If an argument does not fit its parameter.
        """
        shape = _shape(grid) + _shape(block)
        n_threads = int(np.prod(shape[3:]))
        if not 0 < n_threads <= self._bounds[kernel] or 0 in shape or shape[1] > _MAX_GRID_Y:
            raise EmulatorError(
                f"{kernel}: invalid launch of {grid} blocks of {block} threads, at most "
                f"{self._bounds[kernel]}"
            )
        values = self._values(kernel, arguments)
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        with _LOCK:
            error = self._library.emu_launch(
                self._library[f"emu_call_{kernel}"],
                pointers,
                (ctypes.c_uint * 6)(*shape),
                *(shared, cooperative, preempt, seed, max_switches),
            ).decode()
            found = ctypes.POINTER(_Race)()
            races = found[: self._library.emu_races(ctypes.byref(found))]
            fault = self._library.emu_fault_site()
            if error:
                at = f" at {self._where(fault)}" if fault else ""
                raise EmulatorError(f"{kernel}: {error}{at}")
            if races:
                raise RaceError(f"{kernel}: {'; '.join(map(self._describe, races))}")
            return int(self._library.emu_switches())

    def wanted(self, kernel: str, n_arguments: int) -> list[str]:
        """Return the types of a kernel's parameters, if there are as many arguments."""
        wanted = self.parameters[kernel]
        if len(wanted) != n_arguments:
            raise TypeError(f"{kernel} takes {len(wanted)} arguments, got {n_arguments}")
        return wanted

    def _values(self, kernel: str, arguments: tuple[np.ndarray | np.generic, ...]) -> list:
        wanted = self.wanted(kernel, len(arguments))
        values = []
        for position, (want, argument) in enumerate(zip(wanted, arguments, strict=True)):
            if not isinstance(argument, np.ndarray | np.generic):
                raise misfit(kernel, position, want, f"a {type(argument).__name__}")
            dtype = argument.dtype
            got = f"{dtype.kind}{dtype.itemsize}".replace("b1", "u1")
            if isinstance(argument, np.ndarray):
                got = "*" + got
                values.append(ctypes.c_void_p(argument.ctypes.data))
            else:
                values.append((ctypes.c_ubyte * dtype.itemsize)(*argument.tobytes()))
            if got != want and not (want.startswith("*V") and got[0] == "*"):
                raise misfit(kernel, position, want, _prose(got))
        return values

    def _describe(self, race: _Race) -> str:
        second = f"{self._where(race.second_site - 1)} by block {race.second_block} thread "
        second += str(race.second_thread)
        if race.kind == race.UNINITIALISED:
            return f"uninitialised shared memory read at {second}"
        first = f"{self._where(race.first_site - 1)} by block {race.first_block} thread "
        first += str(race.first_thread)
        kinds = ["read", "write"]
        return (
            f"race: {kinds[bool(race.kind & race.FIRST_WRITES)]} at {first} / "
            f"{kinds[bool(race.kind & race.SECOND_WRITES)]} at {second}"
        )

    def _where(self, address: int) -> str:
        """Return file and line of an instruction."""
        maps = Path("/proc/self/maps").read_text().splitlines()
        base = next(int(line.split("-")[0], 16) for line in maps if str(self._file) in line)
        command = ["addr2line", "-e", self._file, hex(address - base)]
        line = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return Path(line.split(" ")[0].strip()).name


def _shape(sizes: int | tuple[int, ...]) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return sizes + (1,) * (3 - len(sizes))
