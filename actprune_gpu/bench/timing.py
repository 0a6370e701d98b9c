"""Timing: all contenders in turn, so that a slow spell hits them alike, and each of them warm.

A contender that takes less than a second does its work once untimed right before each repeat: the
one before it has had the caches to itself, and of a few milliseconds half would be the waiting for
one's own code and data.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_SAMPLE_SECONDS = 0.002
_MAX_WARM_UP_SECONDS = 1.0


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
    """Time each contender ``repeats`` times, in turn, after one run each that gives the results."""
    results: dict[str, Any] = {}
    peaks: dict[str, float | None] = {}
    latest: dict[str, float] = {}
    for name, run in contenders.items():
        with _Memory() as memory:
            latest[name], results[name] = _timed(run)
        peaks[name] = memory.peak_mib
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            if latest[name] < _MAX_WARM_UP_SECONDS:
                run()
            latest[name], _ = _timed(run)
            times[name].append(1e3 * latest[name])
    return {name: Timing(tuple(times[name]), peaks[name]) for name in contenders}, results


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds it took, and the result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


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
    import torch

    source = torch.rand(1 << 24)
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source))

    def rate(dtype: torch.dtype) -> float:
        a = torch.rand(1024, 1024, dtype=dtype)
        return 2 * 1024**3 / _best(lambda: a @ a)

    return Ceilings(2 * source.nbytes / copy, rate(torch.float32), rate(torch.float64))


def _best(run: Callable[[], Any], repeats: int = 7) -> float:
    return min(_timed(run)[0] for _ in range(repeats))
