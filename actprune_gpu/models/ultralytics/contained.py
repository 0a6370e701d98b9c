"""Running Ultralytics' validator and trainer without their side effects."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from . import ultralytics_module


@contextmanager
def installing_nothing() -> Iterator[None]:
    """Keep Ultralytics from calling pip, as it does for a file that it takes for a HEIC image."""
    with mock.patch.object(ultralytics_module("ultralytics.utils.checks"), "AUTOINSTALL", False):
        yield


@contextmanager
def contained() -> Iterator[None]:
    """Silence Ultralytics, keep it off the network, and undo what it sets for the process."""
    logger: logging.Logger = ultralytics_module("ultralytics.utils").LOGGER
    level, threads = logger.level, torch.get_num_threads()
    logger.setLevel(logging.ERROR)  # its progress bars go by it as well
    try:
        with (
            # Checking a data set makes it download a font, for plots that nobody draws.
            mock.patch("ultralytics.data.utils.check_font"),
            installing_nothing(),
            # Loggers on the network, and reports of use to its makers.
            mock.patch("ultralytics.utils.callbacks.add_integration_callbacks"),
        ):
            yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads)  # its choice of a device comes with a number of threads
