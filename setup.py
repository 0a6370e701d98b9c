"""Build entry point: what pyproject.toml cannot say is how the CUDA sources get into a wheel.

They lie in csrc/ and become actprune_gpu/csrc/, so that NVRTC can compile them on the user's
machine. Where nvcc is found, binaries go beside them, unless ACTPRUNE_GPU_NVCC is 0.
"""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithSources(build_py):
    """Copies csrc/ and builds the binaries, but not for an editable install, which has them."""

    def run(self):
        """Build the package and put the sources, and perhaps the binaries, into it."""
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "actprune_gpu"
        shutil.rmtree(package / "csrc", ignore_errors=True)
        shutil.copytree(ROOT / "csrc", package / "csrc")
        shutil.rmtree(package / "fatbin", ignore_errors=True)
        nvcc = shutil.which(os.environ.get("ACTPRUNE_GPU_NVCC", "nvcc"))
        if nvcc is None:
            print("no nvcc: without binaries, NVRTC will compile the kernels when they are used")
            return
        # The modules themselves, without their packages, which need torch.
        package_of_modules = types.ModuleType("kernels")
        package_of_modules.__path__ = [str(ROOT / "actprune_gpu" / "backends" / "cuda")]
        sys.modules["kernels"] = package_of_modules
        from kernels import binaries

        try:
            binaries.build(nvcc, package / "fatbin")
        except (OSError, subprocess.CalledProcessError):
            shutil.rmtree(package / "fatbin", ignore_errors=True)
            print(f"{nvcc} failed: without binaries, NVRTC will compile the kernels when used")


setup(cmdclass={"build_py": BuildWithSources})
