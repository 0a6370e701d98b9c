"""NVRTC through ctypes: compiles without a driver."""

import ctypes
from pathlib import Path


def find(major):
    """The library of one CUDA version among the installed packages, None if it is not there."""
    import site

    for root in site.getsitepackages():
        for folder in ("cuda_nvrtc", "cu13"):
            library = Path(root) / "nvidia" / folder / "lib" / f"libnvrtc.so.{major}"
            if library.is_file():
                return library
    return None


def compile_ptx(library, text, name, options):
    """The PTX of a source; raises AssertionError with the compiler's log."""
    nvrtc = ctypes.CDLL(str(library))
    program = ctypes.c_void_p()
    made = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), name.encode(), 0, None, None
    )
    assert made == 0, f"nvrtcCreateProgram: error {made}"
    arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), arguments)
    assert not failed, _read(nvrtc, program, "ProgramLog")
    return _read(nvrtc, program, "PTX")


def _read(nvrtc, program, what):
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()
