"""Compiles the sources for the card at hand, where no binary was made ahead of time.

This calls NVRTC itself: `cupy.RawModule` puts ``-ftz=true`` behind all options, and results would
lose the subnormal numbers that the CPU keeps.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...errors import BackendUnavailableError
from ...files import replace_file
from . import binaries, sources


def folder() -> Path:
    """Return where compiled sources are kept: CuPy's own cache."""
    return Path(os.environ.get("CUPY_CACHE_DIR", Path.home() / ".cupy" / "kernel_cache"))


def version() -> tuple[int, int]:
    """Return NVRTC's version.

    Raises:
        BackendUnavailableError: If it cannot be loaded.
    """
    import cupy

    try:
        major, minor = cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # of several types, depending on CuPy's version
        raise BackendUnavailableError(
            f"CuPy cannot load NVRTC ({error}): install nvidia-cuda-nvrtc for CUDA 13, "
            "nvidia-cuda-nvrtc-cu12 for CUDA 12"
        ) from error
    return major, minor


def compiled(file: str, capability: int) -> Path:
    """Return a source's binary for a card, compiled if it is not in the cache.

    Args:
        file: Name of the source.
        capability: Compute capability of the card, 90 for 9.0. Where it is newer than NVRTC, the
            binary is PTX, which the driver compiles.

    Raises:
        BackendUnavailableError: If NVRTC cannot be loaded or fails, or the cache not be written.
    """
    import cupy

    found, nvrtc = version(), cupy.cuda.nvrtc
    architecture = max(sm for sm in nvrtc.getSupportedArchs() if sm <= capability)
    kind, suffix = ("sm", "cubin") if architecture == capability else ("compute", "ptx")
    options = (*binaries.OPTIONS, f"--gpu-architecture={kind}_{architecture}")
    made_of = sha256(repr((sources.text(file), options, found)).encode()).hexdigest()
    path = folder() / f"actprune_gpu-{Path(file).stem}-{made_of}.{suffix}"
    if not path.is_file():
        binary = _compile(nvrtc, file, options, suffix)
        try:
            replace_file(path, binary)
        except OSError as error:
            raise BackendUnavailableError(
                f"compiled kernels must be kept in a folder, {path.parent} cannot be written "
                f"({error.strerror}): set CUPY_CACHE_DIR"
            ) from error
    return path


def _compile(nvrtc: Any, file: str, options: tuple[str, ...], suffix: str) -> bytes:
    program = nvrtc.createProgram(sources.text(file), file, (), ())
    try:
        nvrtc.compileProgram(program, options)
        if suffix == "ptx":
            text: bytes = nvrtc.getPTX(program)
            return text
        # CuPy takes the last byte for a terminating zero. It is the last of the program header: a
        # zero, too, but one that must be there in a file.
        cubin: bytes = nvrtc.getCUBIN(program)
        return cubin + b"\0"
    except nvrtc.NVRTCError as error:
        log = " ".join(nvrtc.getProgramLog(program).split())[:500]
        raise BackendUnavailableError(f"NVRTC cannot compile {file}: {log}") from error
    finally:
        nvrtc.destroyProgram(program)
