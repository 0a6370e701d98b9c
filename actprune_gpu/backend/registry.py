"""Backends by name, from the entry points of the packages that are installed."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from ..errors import InputError
from .protocol import Backend

GROUP = "actprune.backends"


def names() -> list[str]:
    """Return the names of the backends there are."""
    return sorted(_entries())


def load(name: str = "actprune_gpu") -> Backend:
    """Return the backend of a name.

    Raises:
        InputError: If there is none, it cannot be imported, or it is no backend; the message says
            which there are.
    """
    entries = _entries()
    if name not in entries:
        raise InputError(f"backend must be one of {', '.join(names()) or 'none'}, got {name!r}")
    try:
        found = entries[name].load()
        backend = found() if isinstance(found, type) else found
    except Exception as error:
        raise InputError(
            f"backend {name!r} ({entries[name].value}) cannot be loaded: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    if not isinstance(backend, Backend):
        lacking = [part for part in _PARTS if not hasattr(backend, part)]
        raise InputError(f"backend {name!r} must have {', '.join(lacking)}, got none")
    return backend


_PARTS = ("name", "separability", "embed", "cluster_sweep", "score", "knee", "choose", "select")


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
