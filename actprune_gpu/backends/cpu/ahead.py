"""Compiling in another process, while this one compiles and runs what comes first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from .compile import Function, is_missing_on_disk
from .threads import n_threads

_PATIENCE = 120.0  # seconds


class Ahead:
    """A kernel that is compiled ahead of its first call.

    Numba compiles one function at a time in a process; what another process leaves on disk is
    loaded in this one. Where the other cannot run, or fails, the kernel is compiled when it is
    called.

    Args:
        kernel: What takes long to compile.
        there: Python code that compiles it.
        here: Compiles a part of it that is kept on disk by itself. That is done in this process
            while the other one starts.
    """

    def __init__(self, kernel: Function, there: str, here: Callable[[], None]) -> None:
        self._kernel = kernel
        self._there = there
        self._here = here
        self._process: subprocess.Popen[bytes] | None = None
        self._begun_by = os.getpid()

    def start(self) -> None:
        """Begin, unless it was begun or compiled before, or there is no second thread for it."""
        # In an application that has Python inside, the executable would be the application.
        is_frozen = getattr(sys, "frozen", False)
        is_python = Path(sys.executable or "").stem.startswith("python") and not is_frozen
        if self._process is not None or n_threads() == 1 or not is_python:
            return
        if not is_missing_on_disk(self._kernel):
            return
        self._begun_by = os.getpid()
        imports_alike = f"import sys; sys.path[:] = {sys.path!r}"
        alive_with_us = f"from {__name__} import end_with_parent; end_with_parent()"
        with suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{imports_alike}; {alive_with_us}; {self._there}"],
                stdin=subprocess.PIPE,  # its end tells the other that this one has ended
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._here()

    def wait(self) -> None:
        """Return when the kernel is on disk, if it was begun."""
        if self._process is not None and self._begun_by == os.getpid():  # not by a parent
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)


def end_with_parent() -> None:
    """End this process when the one that has the other end of its standard input does."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # nothing is ever written
        os._exit(1)

    Thread(target=watch, daemon=True).start()
