"""The first call of a fresh process, which compiles the kernels or loads them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from .cases import OURS, Case, Contender

_FIRST_CALLS = """
import time
start = time.perf_counter()
import actprune_gpu, torch
from actprune_gpu.bench import inputs
imported = time.perf_counter()
for n in (16, {n_channels}):
    actprune_gpu.select_channels(inputs.class_moments(n), torch.ones(n))
print(imported - start, time.perf_counter() - imported)
"""
Seconds = tuple[float, float]


def cold_start(n_channels: int) -> Case:
    """A small and a large layer in a new process, with no compiled kernels on disk or with them."""
    cache = tempfile.TemporaryDirectory()

    def first_calls(directory: str) -> Seconds:
        run = subprocess.run(
            [sys.executable, "-c", _FIRST_CALLS.format(n_channels=n_channels)],
            env={**os.environ, "NUMBA_CACHE_DIR": directory},
            capture_output=True,
            text=True,
            check=True,
        )
        imports, calls = run.stdout.split()[-2:]
        return float(imports), float(calls)

    def compiling() -> Seconds:
        with tempfile.TemporaryDirectory() as empty:
            return first_calls(empty)

    first_calls(cache.name)  # compiles
    return Case(
        {
            OURS: Contender(compiling),
            "compiled before": Contender(lambda: first_calls(cache.name), equal_work=False),
        },
        quality=lambda result: f"imports {result[0]:.1f} s, first calls {result[1]:.1f} s",
        fault=lambda ours, other: "",
    )
