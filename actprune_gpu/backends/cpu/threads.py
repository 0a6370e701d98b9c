"""Spreading a kernel over threads without letting their number into the result."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

# Below this many inner operations, about 0.1 ms, a second thread costs more than it gives.
_MIN_WORK = 1 << 17
# More arrivals than any barrier waits for.
_ALL_AND_MORE = 1 << 62
_local = threading.local()
# Parts that wait for each other are begun one after the other, none of another call between them.
_whole = threading.Lock()
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep the kernels that this thread calls to this thread: others are busy with other layers."""
    before = getattr(_local, "n_threads", None)
    _local.n_threads = 1
    try:
        yield
    finally:
        _local.n_threads = before


def n_threads() -> int:
    """Return on how many threads a kernel called from this thread may run: PyTorch's number."""
    return getattr(_local, "n_threads", None) or torch.get_num_threads()


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Return the threads, kept from call to call: starting some takes longer than a small layer.

    What runs on them is `single_threaded` or a kernel, so it never waits for them in turn.
    """
    return ThreadPoolExecutor(workers, thread_name_prefix="actprune_gpu")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads


def map_items(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Apply ``function`` to each item on one thread, as many at a time as there are threads."""

    def apply(item: Item) -> Result:
        with single_threaded():
            return function(item)

    if n_threads() == 1 or len(items) == 1:
        yield from map(function, items)
        return
    futures = [_pool(n_threads()).submit(apply, item) for item in items]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


class Tasks:
    """Independent tasks, begun in the order in which they are added; leaving waits for all.

    If one of the caller's fails, or the user interrupts, it waits for those that have begun.

    Use as a context manager. The caller's thread is one of the ``workers``: it does what is left
    when it leaves. It is awake, whereas of two threads that are woken up in turn the second one may
    get the core of the first, and milliseconds later the one that the caller has left.
    """

    def __init__(self, workers: int) -> None:
        self._pool = _pool(workers - 1) if workers > 1 else None
        self._waiting: deque[Callable[[], None]] = deque()
        self._futures: list[Future[None]] = []

    def __enter__(self) -> Tasks:
        return self

    def add(self, task: Callable[..., None], *arguments: Any) -> None:
        """Call ``task(*arguments)`` soon, on some thread; with one worker, now."""
        if self._pool is None:
            task(*arguments)
        else:
            self._waiting.append(partial(task, *arguments))
            self._futures.append(self._pool.submit(self._do_next))

    def _do_next(self) -> None:
        try:
            task = self._waiting.popleft()
        except IndexError:
            return
        task()

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            while self._waiting and kind is None:
                self._do_next()
        finally:
            self._waiting.clear()
            wait(self._futures)
        for future in self._futures:
            future.result()


def in_step(kernel: Callable[[NDArray[np.int64], int], None], n_parts: int) -> None:
    """Call ``kernel(arrivals, part)`` for all parts at once, which wait for each other.

    They do so by `wait_for_all` with ``arrivals``. If one fails, or the user interrupts, the others
    run to their end without waiting: their results are worth nothing.
    """
    arrivals = np.zeros(1, np.int64)

    def run_elsewhere(part: int) -> None:
        try:
            kernel(arrivals, part)
        except BaseException:  # the caller waits for this one, perhaps within the kernel
            arrivals[0] = _ALL_AND_MORE
            raise

    futures: list[Future[None]] = []
    try:
        if n_parts > 1:
            with _whole:
                pool = _pool(n_parts - 1)
                futures = [pool.submit(run_elsewhere, part) for part in range(1, n_parts)]
        kernel(arrivals, 0)
        for future in futures:
            future.result()
    except BaseException:
        arrivals[0] = _ALL_AND_MORE
        wait(futures)
        raise


def in_threads(kernel: Callable[[int, int], None], *, n_items: int, work: int) -> None:
    """Call ``kernel(first, last)`` for ranges that cover 0..n_items-1.

    The kernel must write each item's result by itself, so that the ranges do not matter.
    """
    parts = min(n_threads(), n_items) if work >= _MIN_WORK else 1
    if parts == 1:
        kernel(0, n_items)
        return
    with Tasks(parts) as tasks:
        for part in range(parts):
            tasks.add(kernel, n_items * part // parts, n_items * (part + 1) // parts)
