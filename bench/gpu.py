"""Checks and timings on a machine with a GPU: ``make gpu``.

Needs Python, torch, CuPy, NumPy and pytest, and no network. Runs the tests of the kernels on the
device, then compute-sanitizer over the small ones, then timings, which go to
``bench/results/DATE-DEVICE.json`` beside the floors that follow from the two ceilings measured
first. Times are medians between CUDA events, with the L2 cache flushed before each run.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
TESTS = ["tests/test_cuda.py", "tests/test_cuda_selection.py", "tests/test_digests.py"]
SANITIZERS = ("memcheck", "racecheck", "initcheck")
REPEATS = 10
FLUSH_BYTES = 1 << 28
# Operations of one pair of points in an iteration of t-SNE, none of them fused; a division counts
# as eight.
TSNE_OPERATIONS = 25


def run(*command: str) -> bool:
    print("$", " ".join(command), flush=True)
    variables = os.environ | {"ACTPRUNE_GPU": "1"}
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode == 0


def check() -> dict[str, str]:
    """Run the tests, and again under each sanitizer; return how each ended."""
    found = {"tests": "passed" if run(sys.executable, "-m", "pytest", *TESTS) else "FAILED"}
    small = [sys.executable, "-m", "pytest", "tests/test_digests.py", "-k", "small and cuda"]
    sanitizer = shutil.which("compute-sanitizer")
    for tool in SANITIZERS:
        if sanitizer is None:
            found[tool] = "compute-sanitizer is not installed"
            continue
        options = ["--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
        found[tool] = "passed" if run(sanitizer, *options, *small) else "FAILED"
    return found


def milliseconds(function: Callable[..., object], *arguments: object) -> float:
    """Return the median time of a call, after a warm-up, from a cold L2 cache."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    function(*arguments)
    times = []
    for _ in range(REPEATS):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function(*arguments)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """Bytes a second of a copy, read and written, and operations a second in float32."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy = milliseconds(target.copy_, source)
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.randn((8192, 8192), device="cuda")
    product = milliseconds(torch.matmul, a, a)
    return {
        "bytes_per_second": 2e3 * source.nbytes / copy,
        "float32_per_second": 2e3 * 8192**3 / product,
    }


def timings(limits: dict[str, float]) -> list[dict[str, object]]:
    """Time the kernels, and the CPU's in the same run where that ends within reason."""
    import digests

    from actprune_gpu.backends.cuda import CudaBackend
    from actprune_gpu.backends.cuda.cupy_launcher import CupyLauncher

    cuda, rows = CudaBackend(CupyLauncher(0)), []
    try:
        from actprune_gpu.backends.cpu import CpuBackend

        cpu = CpuBackend()
    except ImportError:
        cpu = None

    def add(kernel: str, n: int, floor: float, *arguments: object) -> None:
        time = milliseconds(getattr(cuda, kernel), *moved(arguments, "cuda"))
        row = {"kernel": kernel, "n": n, "milliseconds": time}
        row |= {"floor_milliseconds": floor, "floor_share": floor / time}
        if cpu is not None and n <= 2048:
            here = moved(arguments, "cpu")
            getattr(cpu, kernel)(*here)
            start = perf_counter()
            getattr(cpu, kernel)(*here)
            row["cpu_milliseconds"] = 1e3 * (perf_counter() - start)
        rows.append(row)
        print(row, flush=True)

    # Half of what fused multiply-adds would do: there are none.
    unfused = limits["float32_per_second"] / 2
    for n in (64, 128, 256, 512, 1024, 2048, 4096, 16384):
        if n <= 4096:
            values = moved(digests.statistics(n, 80), "cuda")
            n_bytes = 4 * n * (80 * 79 // 2)
            add("jeffries_matusita", n, 1e3 * n_bytes / limits["bytes_per_second"], values)
            squared = cuda.separability_distances(values).squared
            start = cuda.principal_axes(squared) * 1e-4
            floor = 1e3 * 1000 * TSNE_OPERATIONS * n * n / unfused
            rates = [max(n / 10.0, 50.0)]
            add("tsne", n, floor, cuda.affinities(squared, 10.0), start, 1000, 12.0, rates)
        points = torch.rand((n, 2), generator=torch.Generator().manual_seed(n))
        # Every distance written and read once is the least that any sweep does.
        add("kmedoids_sweep", n, 8e3 * n * n / limits["bytes_per_second"], [points])
    return rows


def moved(value: Any, device: str) -> Any:
    """Return a value with all tensors in it on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if hasattr(value, "_fields"):
        return type(value)(*(moved(part, device) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(moved(part, device) for part in value)
    return value


def main() -> int:
    if not torch.cuda.is_available():
        print("make gpu needs a GPU that PyTorch can use")
        return 2
    limits = ceilings()
    checks = check()
    device = torch.cuda.get_device_name(0)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "torch": torch.__version__,
        "commit": commit,
        "ceilings": limits,
        "checks": checks,
        "timings": timings(limits),
    }
    name = re.sub(r"\W+", "-", device.lower()).strip("-")
    folder = ROOT / "bench" / "results"
    file = folder / f"{result['date']}-{name}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {file}")
    return 1 if "FAILED" in checks.values() else 0


if __name__ == "__main__":
    sys.exit(main())
