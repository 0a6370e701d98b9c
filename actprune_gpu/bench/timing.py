"""Timing: warm up, then repeat all contenders in turn, so that a slow spell hits them alike.

Where a run takes milliseconds, a repeat, after the first one, is as many of them as fill a tenth of
a second, and its time their mean, as timeit has it: a single run would be about how the contender
before it left the machine.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_SAMPLE_SECONDS = 0.002
_MIN_REPEAT_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """Wall-clock times of the repeats, in milliseconds, and memory taken on top of before."""

    milliseconds: tuple[float, ...]
    peak_mib: float | None

    def percentile(self, share: int) -> float:
        """Return a percentile of the times."""
        return float(np.percentile(self.milliseconds, share))


def measure(
    contenders: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Time each contender ``repeats`` times, in turn, after one run each that gives the results.

    Each finds PyTorch's number of threads as it is now: Ultralytics sets it for the process.
    """
    n_threads = torch.get_num_threads()
    results: dict[str, Any] = {}
    peaks: dict[str, float | None] = {}
    seconds = dict.fromkeys(contenders, math.inf)  # that a run took, last time
    for name, run in contenders.items():
        torch.set_num_threads(n_threads)
        with _Memory() as memory:
            results[name] = run()
        peaks[name] = memory.peak_mib
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            torch.set_num_threads(n_threads)
            seconds[name] = _seconds(run, math.ceil(_MIN_REPEAT_SECONDS / seconds[name]) or 1)
            times[name].append(1e3 * seconds[name])
    torch.set_num_threads(n_threads)
    return {name: Timing(tuple(times[name]), peaks[name]) for name in contenders}, results


def _seconds(run: Callable[[], Any], n_runs: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(n_runs):
        run()
    return (time.perf_counter() - start) / n_runs


class _Memory:
    """Samples the memory of this process while a block runs."""

    peak_mib: float | None = None

    def __enter__(self) -> _Memory:
        try:
            import psutil
        except ImportError:
            return self
        process = psutil.Process()
        before = peak = process.memory_info().rss
        self._done = threading.Event()

        def sample() -> None:
            nonlocal peak
            while not self._done.wait(_SAMPLE_SECONDS):
                peak = max(peak, process.memory_info().rss)
            self.peak_mib = (max(peak, process.memory_info().rss) - before) / 2**20

        self._thread = threading.Thread(target=sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "_thread"):
            self._done.set()
            self._thread.join()


@dataclass(frozen=True)
class Ceilings:
    """What this machine can do at best, measured.

    Attributes:
        bytes_per_second: Of a large copy, bytes read plus bytes written.
        float32_per_second: Operations of a large float32 matrix product.
        float64_per_second: Of a float64 one.
    """

    bytes_per_second: float
    float32_per_second: float
    float64_per_second: float


def measure_ceilings() -> Ceilings:
    """Measure the ceilings against which the floors are computed."""
    source = torch.rand(1 << 24)
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source))

    def rate(dtype: torch.dtype) -> float:
        a = torch.rand(1024, 1024, dtype=dtype)
        return 2 * 1024**3 / _best(lambda: a @ a)

    return Ceilings(2 * source.nbytes / copy, rate(torch.float32), rate(torch.float64))


def _best(run: Callable[[], Any], repeats: int = 7) -> float:
    return min(_seconds(run) for _ in range(repeats))
