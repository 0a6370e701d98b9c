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


def compiled(file: str, capability: int) -> Path:
    """Return a source's binary for a card, compiled if it is not in the cache.

    Args:
        file: Name of the source.
        capability: Compute capability of the card, 90 for 9.0. Where it is newer than NVRTC, the
            binary is PTX, which the driver compiles.

    Raises:
        BackendUnavailableError: If NVRTC cannot be loaded or fails.
        OSError: If the cache cannot be written.
    """
    import cupy

    nvrtc = cupy.cuda.nvrtc
    try:
        version, known = nvrtc.getVersion(), nvrtc.getSupportedArchs()
    except Exception as error:  # of several types, depending on CuPy's version
        raise BackendUnavailableError(
            f"CuPy cannot load NVRTC ({error}): install nvidia-cuda-nvrtc for CUDA 13, "
            "nvidia-cuda-nvrtc-cu12 for CUDA 12"
        ) from error
    architecture = max(sm for sm in known if sm <= capability)
    kind, suffix = ("sm", "cubin") if architecture == capability else ("compute", "ptx")
    options = (*binaries.OPTIONS, f"--gpu-architecture={kind}_{architecture}")
    made_of = sha256(repr((sources.text(file), options, version)).encode()).hexdigest()
    path = folder() / f"actprune_gpu-{Path(file).stem}-{made_of}.{suffix}"
    if not path.is_file():
        replace_file(path, _compile(nvrtc, file, options, suffix))
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
