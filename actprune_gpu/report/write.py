"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..files import replace_file
from ..pruning.folder import REPORT_FILE, FolderLike, open_folder
from .payload import payload_of

_SCRIPTS = ("words.js", "draw.js", "plots.js", "page.js", "layer.js")


def write_report(folder: FolderLike) -> Path:
    """Write ``report.html`` into a folder that holds a plan, and return its path.

    The page holds all of its data, styles and scripts, and asks the network for nothing.

    Args:
        folder: Its path, or what was read from it.

    Raises:
        InputError: If it holds no plan, or files that are damaged.
    """
    folder = open_folder(folder)
    page = page_of(payload_of(folder))
    replace_file(folder.path / REPORT_FILE, page.encode())
    return folder.path / REPORT_FILE


def page_of(payload: dict[str, Any]) -> str:
    """Return the page that shows a payload."""
    parts = files(__package__) / "page"
    # Inside a script nothing is unescaped, so nothing in it may look like a tag.
    data = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    values = {
        "title": html.escape(f"{payload['model']}, pruned"),
        "style": (parts / "page.css").read_text(encoding="utf-8"),
        "data": data.replace("<", "\\u003c"),
        "script": "(() => {\n'use strict';\n"
        + "".join((parts / name).read_text(encoding="utf-8") for name in _SCRIPTS)
        + "})();",
    }
    page = (parts / "page.html").read_text(encoding="utf-8")
    before, *rest = page.split("{{")
    for piece in rest:  # once through the template: what is put in is not looked at again
        name, _, after = piece.partition("}}")
        before += values[name] + after
    return before
