"""How the sources are compiled, and the binaries made of them ahead of time.

A wheel built where nvcc was found holds a fat binary for each source, beside a digest of what they
were made of: binaries of other sources are not used.
"""

from __future__ import annotations

import subprocess
from hashlib import sha256
from pathlib import Path

from . import sources

# No multiply-adds fused but by fmaf, no approximate division: the bits must be those of the CPU.
OPTIONS = ("--std=c++17", "--fmad=false")
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
_DIGEST = "digest.txt"


def folder() -> Path:
    """Return where the package keeps its binaries."""
    return Path(__file__).resolve().parents[2] / "fatbin"


def digest() -> str:
    """Return the digest of all sources and of how they are compiled."""
    texts = "".join(sources.text(file) for file in sources.files())
    return sha256((texts + repr((OPTIONS, ARCHITECTURES))).encode()).hexdigest()


def find(file: str) -> Path | None:
    """Return the binary of a source, ``None`` if there is none of just these sources."""
    made_of = folder() / _DIGEST
    binary = folder() / f"{Path(file).stem}.fatbin"
    if not (made_of.is_file() and binary.is_file()):
        return None
    return binary if made_of.read_text() == digest() else None


def build(nvcc: str, out: Path) -> None:
    """Compile every source for every architecture that nvcc knows into ``out``.

    Drivers compile for newer ones from PTX.

    Raises:
        subprocess.CalledProcessError: If nvcc fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = [nvcc, "--list-gpu-arch"]
    known = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    architectures = [sm for sm in ARCHITECTURES if f"compute_{sm}" in known]
    targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in architectures]
    targets += [f"-gencode=arch=compute_{sm},code=compute_{sm}" for sm in architectures[-1:]]
    for file in sources.files():
        binary = out / f"{Path(file).stem}.fatbin"
        source = str(sources.folder() / file)
        command = [nvcc, *OPTIONS, "--threads=0", "--fatbin", "-Xfatbin=-compress-all", *targets]
        subprocess.run([*command, "-o", str(binary), source], check=True)
    (out / _DIGEST).write_text(digest())
