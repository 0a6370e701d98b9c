"""The CUDA sources: where they are, and their text with the headers put in.

Every ``.cu`` file of csrc/ is compiled by itself. Headers are put in as text, so that NVRTC needs
no search path and a digest of the text tells whether anything changed.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)
_KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(', re.MULTILINE
)


@cache
def folder() -> Path:
    """Return the folder of the sources: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "csrc"
    return installed if installed.is_dir() else package.parent / "csrc"


def files() -> list[str]:
    """Return the names of the files that are compiled, such as ``"tsne.cu"``."""
    return sorted(path.name for path in folder().glob("*.cu"))


@cache
def text(file: str) -> str:
    """Return the text of a file with its headers put in, each one once."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        source = (folder() / name).read_text(encoding="utf-8")
        parts, line, start = [f'#line 1 "{name}"\n'], 1, 0
        for include in _INCLUDE.finditer(source):
            before = source[start : include.start()]
            line += before.count("\n") + 1
            parts += [before, expand(include[1]), f'#line {line} "{name}"\n']
            start = include.end()
        return "".join([*parts, source[start:]])

    return expand(file)


def kernels(file: str) -> list[str]:
    """Return the names of the kernels in a file."""
    return _KERNEL.findall(text(file))


@cache
def file_of(kernel: str) -> str:
    """Return the file that a kernel is in."""
    return next(file for file in files() if kernel in kernels(file))
