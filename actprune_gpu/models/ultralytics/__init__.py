"""Ultralytics models and data sets.

Only this folder knows Ultralytics, and it imports it inside functions: ``import actprune_gpu`` must
work, and be quick, without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ...errors import InputError


def ultralytics_module(name: str) -> Any:
    """Import a module of Ultralytics.

    Raises:
        InputError: If Ultralytics is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ultralytics":
            raise
        raise InputError(
            f"YOLO models need {error.name}, which is not installed: pip install ultralytics"
        ) from None
