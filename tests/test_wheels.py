"""Wheels hold the CUDA sources and, where nvcc is found, binaries made of them."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from actprune_gpu.backends.cuda import binaries, sources

FATBINS = {f"{Path(file).stem}.fatbin" for file in sources.files()}
# Notes what it is asked for, knows no sm_120, and makes files of nothing.
NVCC = """#!/bin/sh
echo "$@" >> "$0.log"
[ "$1" = --list-gpu-arch ] && exec echo compute_80 compute_86 compute_89 compute_90 compute_100
while [ "$1" != -o ]; do shift; done
touch "$2"
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A function that builds a wheel with some nvcc and returns the names in it, by folder."""
    # Of a copy, so that nothing is left in the checkout, nor taken from it.
    root = tmp_path / "checkout"
    left_out = shutil.ignore_patterns(
        ".*", "*.egg-info", "__pycache__", "build", "runs", "tests", "bench"
    )
    shutil.copytree(sources.folder().parent, root, ignore=left_out)

    def built(nvcc):
        monkeypatch.setenv("ACTPRUNE_GPU_NVCC", str(nvcc))
        options = ["--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path)]
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(root)], check=True)
        (wheel,) = tmp_path.glob("*.whl")
        paths = [Path(name) for name in zipfile.ZipFile(wheel).namelist()]
        return {
            folder: {path.name for path in paths if path.parent == Path("actprune_gpu", folder)}
            for folder in ("csrc", "fatbin", "report/page")
        }

    return built


@pytest.fixture
def nvcc(tmp_path):
    script = tmp_path / "nvcc"
    script.write_text(NVCC)
    script.chmod(0o755)
    return script


def test_without_nvcc_wheels_hold_the_sources(build):
    names = build("0")
    assert names["csrc"] == {path.name for path in sources.folder().iterdir()}
    assert not names["fatbin"]
    page = sources.folder().parent / "actprune_gpu" / "report" / "page"
    assert names["report/page"] == {path.name for path in page.iterdir()}


def test_with_nvcc_they_hold_binaries_for_every_architecture_that_it_knows(build, nvcc):
    assert build(nvcc)["fatbin"] == FATBINS | {"digest.txt"}
    commands = nvcc.with_name("nvcc.log").read_text().splitlines()[1:]
    assert len(commands) == len(FATBINS)
    for sm in binaries.ARCHITECTURES[:-1]:
        assert all(f"code=sm_{sm} " in command for command in commands)
    assert all("code=compute_100 " in command for command in commands)
    assert not any("120" in command for command in commands)


def test_an_nvcc_that_fails_leaves_no_binaries(build, nvcc):
    nvcc.write_text(NVCC.replace("touch", "false"))
    names = build(nvcc)
    assert names["csrc"]
    assert not names["fatbin"]
