"""Whether something fits into the memory of a device, asked before it is begun."""

from __future__ import annotations

from ...errors import InputError
from .launch import Launcher

# PyTorch's allocator rounds up, and matrix products take a workspace.
_SLACK = 1.1


def fits(launcher: Launcher, n_bytes: int) -> bool:
    """Return whether so many bytes can be had."""
    return n_bytes * _SLACK <= launcher.free_bytes()


def require(launcher: Launcher, n_bytes: int, what: str) -> None:
    """Raise unless so many bytes can be had.

    Raises:
        InputError: If they cannot; the message says how many bytes are needed and what to do.
    """
    if not fits(launcher, n_bytes):
        raise InputError(
            f"{what} needs {int(n_bytes * _SLACK):,} bytes on {launcher.device}, "
            f"{launcher.free_bytes():,} are free: free some, or use device='cpu'"
        )
