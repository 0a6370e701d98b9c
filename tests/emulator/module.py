"""Builds a CUDA source with g++ and launches its kernels on NumPy arrays in guarded memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
import weakref
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
# No contraction: the bits must be those of IEEE 754, as on the GPU with --fmad=false.
_FAST = ["-O2", "-g1", "-march=native", "-ffp-contract=off", "-fsanitize=bounds,alignment"]
_RACE = [
    *("-O1", "-g", "-fsanitize=thread", "-DEMU_RACE"),
    *("--param=tsan-instrument-func-entry-exit=0", "--param=tsan-distinguish-volatile=1"),
]
_COMMON = [
    *("-std=c++17", "-fPIC", "-w", "-fno-strict-aliasing", "-fno-threadsafe-statics"),
    *("-fno-gnu-unique", "-fvisibility=hidden", f"-I{HERE}"),
]
_MAX_THREADS, _MAX_SHARED, _MAX_GRID_Y = 1024, 227 * 1024, 65535
_COOPERATIVE, _STRICT, _PREEMPT = 1, 2, 4
_SEGFAULT, _UNINITIALISED = 8, 4  # kinds of records besides races
_KERNEL = re.compile(r"__global__ void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")


def kernels_in(source: str) -> list[str]:
    """Return the names of the kernels in a source."""
    return _KERNEL.findall(source)


def _prose(code: str) -> str:
    if code[0] == "*":
        return "a pointer to " + ("a struct" if code[1] == "V" else np.dtype(code[1:]).name)
    return f"a NumPy {np.dtype(code).name}"


def misfit(kernel: str, position: int, want: str, got: str) -> TypeError:
    """Return the complaint that an argument does not fit the kernel's parameter."""
    return TypeError(f"{kernel}: argument {position} must be {_prose(want)}, got {got}")


class EmulatorError(RuntimeError):
    """A kernel did what no CUDA kernel may do."""


class RaceError(EmulatorError):
    """Two threads touched the same memory unordered, or memory was read before it was written."""


class _Race(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("first_site", "second_site")),
        *((name, ctypes.c_uint) for name in ("block1", "thread1", "block2", "thread2")),
        ("kind", ctypes.c_int),
        ("address", ctypes.c_void_p),
    )


@cache
def _headers() -> str:
    return "".join(path.read_text() for path in sorted(HERE.glob("*.hpp")))


def _build(source: str, kernels: list[str], flags: list[str]) -> Path:
    """Return the shared object of a source, built once for each text and set of flags."""
    exports = "".join(f"EMU_EXPORT({kernel})\n" for kernel in kernels)
    unit = f'#include "cudaemu.hpp"\n{source}\n#line 1 "exports"\n{exports}'
    key = hashlib.sha256((unit + _headers() + repr(flags)).encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"actprune_gpu_emulator_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    built = folder / f"{key}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=folder) as room:
            unit_file, object_file, library = (
                Path(room) / f"unit.{end}" for end in ("cpp", "o", "so")
            )
            unit_file.write_text(unit)
            _gxx(*flags, "-c", str(unit_file), "-o", str(object_file))
            # The sanitizers' hooks are in the headers: nothing of theirs is linked.
            _gxx("-shared", "-Wl,-z,defs", str(object_file), "-o", str(library))
            os.replace(library, built)
    return built


def _gxx(*arguments: str) -> None:
    done = subprocess.run(["g++", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulatorError(f"g++ failed:\n{done.stderr[:4000]}")


class Module:
    """The kernels of one source.

    Args:
        source: Text of a ``.cu`` file, with its headers put in.
        race: Whether to build with the race detector, about 50 times slower.
        defines: Names to define.
    """

    def __init__(self, source: str, *, race: bool = False, defines: tuple[str, ...] = ()) -> None:
        kernels = kernels_in(source)
        flags = [*_COMMON, *(_RACE if race else _FAST), *(f"-D{name}" for name in defines)]
        self._file = _build(source, kernels, flags)
        library = self._library = ctypes.CDLL(str(self._file))
        library.emu_alloc.restype = ctypes.c_void_p
        library.emu_alloc.argtypes = [ctypes.c_size_t]
        library.emu_free.argtypes = [ctypes.c_void_p]
        library.emu_sig.restype = library.emu_launch.restype = ctypes.c_char_p
        library.emu_launch.argtypes = [
            *(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t),
            *(ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p),
        ]
        # Of each kernel's parameters: "f8" is a double, "*i4" points to int.
        self.parameters = {
            kernel: library.emu_sig(kernel.encode()).decode().rstrip(",").split(",")
            for kernel in kernels
        }

    def empty(self, n: int, dtype: np.dtype | type | str) -> np.ndarray:
        """Return ``[n]`` poisoned numbers with a guard page right behind them."""
        n_bytes = max(n * np.dtype(dtype).itemsize, 1)
        address = self._library.emu_alloc(n_bytes)
        buffer = (ctypes.c_ubyte * n_bytes).from_address(address)
        weakref.finalize(buffer, self._library.emu_free, address)
        return np.frombuffer(buffer, dtype=dtype, count=n)

    def array(self, values: np.ndarray) -> np.ndarray:
        """Return a guarded copy."""
        values = np.ascontiguousarray(values)
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
    ) -> None:
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

        Raises:
            EmulatorError: If the kernel did what is not allowed; the message says where.
            TypeError: If an argument does not fit its parameter.
        """
        shape = _shape(grid) + _shape(block)
        threads = int(np.prod(shape[3:]))
        if threads > _MAX_THREADS or shared > _MAX_SHARED or shape[1] > _MAX_GRID_Y or 0 in shape:
            raise EmulatorError(
                f"{kernel}: invalid launch of {shape[:3]} blocks of {shape[3:]} threads "
                f"with {shared} bytes of shared memory"
            )
        values = self._values(kernel, arguments)
        pointers = [ctypes.addressof(value) for value in values]
        flags = _COOPERATIVE * cooperative | _STRICT | _PREEMPT * preempt
        error = self._library.emu_launch(
            kernel.encode(),
            (ctypes.c_uint * 6)(*shape),
            shared,
            flags,
            seed,
            (ctypes.c_void_p * max(len(pointers), 1))(*pointers),
        ).decode()
        found = (_Race * 64)()
        races = list(found[: self._library.emu_races(found, len(found))])
        if error:
            at = [f" at {self._where(r.first_site + 1)}" for r in races if r.kind == _SEGFAULT]
            raise EmulatorError(f"{kernel}: {error}{''.join(at[:1])}")
        if races:
            raise RaceError(f"{kernel}: " + "; ".join(map(self._describe, races)))

    def _values(self, kernel: str, arguments: tuple[np.ndarray | np.generic, ...]) -> list:
        wanted = self.parameters[kernel]
        if len(wanted) != len(arguments):
            raise TypeError(f"{kernel} takes {len(wanted)} arguments, got {len(arguments)}")
        values = []
        for position, (want, argument) in enumerate(zip(wanted, arguments, strict=True)):
            if not isinstance(argument, (np.ndarray, np.generic)):
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

    def _where(self, site: int) -> str:
        maps = Path("/proc/self/maps").read_text().splitlines()
        base = next(int(line.split("-")[0], 16) for line in maps if str(self._file) in line)
        command = ["addr2line", "-e", str(self._file), hex(site - 1 - base)]
        line = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return Path(re.sub(r" .*", "", line.strip())).name

    def _describe(self, race: _Race) -> str:
        second = f"{self._where(race.second_site)} by block {race.block2} thread {race.thread2}"
        if race.kind == _UNINITIALISED:
            return f"uninitialised shared memory read at {second}"
        first = f"{self._where(race.first_site)} by block {race.block1} thread {race.thread1}"
        kinds = ["write" if race.kind & bit else "read" for bit in (1, 2)]
        return f"race: {kinds[0]} at {first} / {kinds[1]} at {second}"


def _shape(sizes: int | tuple[int, ...]) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return sizes + (1,) * (3 - len(sizes))
