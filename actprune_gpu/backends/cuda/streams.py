"""Independent items at once: each in a thread and on a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from .memory import MemoryShortageError, told

_MAX_STREAMS = 16
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_items(
    device: torch.device, function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result]:
    """Apply ``function`` to each item, on a device, in order of the items.

    What the items hold may still be in the making on the current stream. An item for which memory
    is short beside the others is done alone, after them.
    """
    function = told(function)
    if len(items) == 1 or device.type != "cuda":
        yield from map(function, items)
        return
    ready = torch.cuda.current_stream(device).record_event()

    def apply(item: Item) -> Result | None:
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            stream.wait_event(ready)
            try:
                result = function(item)
            except MemoryShortageError:
                return None  # not the error: its traceback would keep what memory there was
        # The caller goes on with the result on a stream of its own. The futures keep it to the end,
        # and the streams of the next call begin behind what the caller has asked for by then.
        stream.synchronize()
        return result

    with ThreadPoolExecutor(min(len(items), _MAX_STREAMS)) as pool:
        futures = [pool.submit(apply, item) for item in items]
        try:
            for item, future in zip(items, futures, strict=True):
                result = future.result()
                if result is None:
                    wait(futures)
                    result = function(item)
                yield result
        finally:
            for future in futures:
                future.cancel()
