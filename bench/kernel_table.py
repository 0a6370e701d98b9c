"""Writes the table of registers, shared memory and occupancy into docs/kernels.md.

``python bench/kernel_table.py``; needs nvcc. Occupancy is the share of the warps of a
multiprocessor that fit: registers go out in units of 256 a warp, and each block takes 1 KiB of
shared memory on top of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from actprune_gpu.backends.cuda import binaries, kmedoids, sources, tsne  # noqa: E402

PAGE = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
SHARED_PER_MULTIPROCESSOR = {80: 164 << 10, 90: 228 << 10}
WARPS, BLOCKS, REGISTERS = 64, 32, 65536
POINTS = 2048
# Dynamic shared memory with that many points, in bytes.
DYNAMIC = {
    "tsne_optimise": 8 * POINTS,
    "principal_axes": tsne.TRIDIAGONAL_BYTES,
    "kmedoids_chain": kmedoids.room_bytes(POINTS) * POINTS,
    "kmedoids_grow": kmedoids.room_bytes(POINTS) * POINTS,
}
_USED = re.compile(
    r"Compiling entry function '(\w+)'.*?Used (\d+) registers(?:, used \d+ barriers)?"
    r"(?:, (\d+) bytes smem)?",
    re.DOTALL,
)


def usage(file: str, sm: int) -> dict[str, tuple[int, int]]:
    """Return registers a thread and static bytes of shared memory, by kernel."""
    with TemporaryDirectory() as room:
        command = ["nvcc", *binaries.OPTIONS, "-cubin", f"-arch=sm_{sm}", "-Xptxas", "-v"]
        output = ["-o", f"{room}/out.cubin", str(sources.folder() / file)]
        log = subprocess.run([*command, *output], capture_output=True, text=True, check=True).stderr
    return {name: (int(used), int(shared or 0)) for name, used, shared in _USED.findall(log)}


def block_sizes(file: str) -> dict[str, int]:
    """Return the most threads of a block, by kernel."""
    pattern = r"__launch_bounds__\((\d+)[^)]*\)\s*(\w+)\("
    return {name: int(threads) for threads, name in re.findall(pattern, sources.text(file))}


def occupancy(sm: int, threads: int, registers: int, shared: int) -> float:
    """Return the share of a multiprocessor's warps that are resident."""
    warps = threads // 32
    by_registers = REGISTERS // (-(-registers * 32 // 256) * 256 * warps)
    by_shared = SHARED_PER_MULTIPROCESSOR[sm] // (shared + 1024)
    return min(BLOCKS, WARPS // warps, by_registers, by_shared) * warps / WARPS


def table() -> str:
    """Return the table as text."""
    lines = [
        "| kernel (sm_80, sm_90) | threads | registers | shared, bytes | occupancy |",
        "|---|---|---|---|---|",
    ]
    for file in sources.files():
        found = {sm: usage(file, sm) for sm in SHARED_PER_MULTIPROCESSOR}
        for kernel, threads in block_sizes(file).items():
            columns = []
            for sm, used in found.items():
                registers, shared = used[kernel]
                dynamic = DYNAMIC.get(kernel, 0)
                # What does not fit lies in global memory.
                if shared + dynamic + 1024 <= SHARED_PER_MULTIPROCESSOR[sm]:
                    shared += dynamic
                share = occupancy(sm, threads, registers, shared)
                columns.append((str(registers), str(shared), f"{share:.0%}"))
            cells = " | ".join(", ".join(values) for values in zip(*columns, strict=True))
            lines.append(f"| `{kernel}` | {threads} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")
