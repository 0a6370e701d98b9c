"""Whether something fits into the memory of a device, asked before it is begun."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from ...errors import InputError
from .launch import Launcher

# PyTorch's allocator rounds up, and matrix products take a workspace.
_SLACK = 1.1
_ADVICE = "free some, or use the CPU, by device='cpu' or arrays that lie there"
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class MemoryShortageError(InputError):
    """The memory of a device does not suffice, now; the message says for what."""


def fits(launcher: Launcher, n_bytes: int) -> bool:
    """Return whether so many bytes can be had."""
    return n_bytes * _SLACK <= launcher.free_bytes()


def require(launcher: Launcher, n_bytes: int, what: str) -> None:
    """Raise unless so many bytes can be had.

    Raises:
        MemoryShortageError: If they cannot; the message says how many bytes are needed and what to
            do.
    """
    if not fits(launcher, n_bytes):
        raise MemoryShortageError(
            f"{what} needs {int(n_bytes * _SLACK):,} bytes on {launcher.device}, "
            f"{launcher.free_bytes():,} are free: {_ADVICE}"
        )


def told(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let PyTorch's complaint about memory, where an estimate was too low, be one of ours."""

    @wraps(function)
    def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except torch.cuda.OutOfMemoryError as error:
            # It begins with how many bytes were asked for, and how many the device has.
            cause = " ".join(str(error).split()).partition(" If reserved")[0][:400]
            raise MemoryShortageError(f"{cause} To do: {_ADVICE}") from error

    return call
