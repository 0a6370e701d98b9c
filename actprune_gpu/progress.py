"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


def part(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """Return the progress of one kind of work."""
    if progress is None:
        return None
    return lambda done, total: progress(what, done, total)
