"""Checks and timings on a machine with a GPU: ``make gpu``.

Needs Python, torch, CuPy, NumPy and pytest, and no network. Runs the tests of the kernels on the
device, then compute-sanitizer over the small ones, then timings, which go to
``bench/results/DATE-DEVICE.json``: what each achieves, beside the two ceilings measured first.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests")]
import gpu_timings  # noqa: E402

TESTS = ["tests/test_cuda.py", "tests/test_cuda_selection.py", "tests/test_digests.py"]
# Every kernel on small inputs, and the one that only many points need.
SMALL = "(small and cuda) or gather or silhouette or (segments and uniform)"
SANITIZERS = ("memcheck", "racecheck", "initcheck")


def run(*command: str, **variables: str) -> bool:
    print("$", " ".join(command), flush=True)
    variables = os.environ | {"ACTPRUNE_GPU": "1"} | variables
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode == 0


def check() -> dict[str, str]:
    """Run the tests, and again under each sanitizer; return how each ended."""
    pytest = [sys.executable, "-m", "pytest", "-rs"]
    found = {"tests": "passed" if run(*pytest, *TESTS) else "FAILED"}
    small = [*pytest, "tests/test_cuda.py", "tests/test_digests.py", "-k", SMALL]
    # CUDA's own folder is often not among the paths.
    paths = os.environ.get("PATH", "") + os.pathsep + "/usr/local/cuda/bin"
    sanitizer = shutil.which("compute-sanitizer", path=paths)
    for tool in SANITIZERS:
        if sanitizer is None:
            found[tool] = "compute-sanitizer is not installed"
            continue
        options = ["--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
        # Every tensor an allocation of its own: inside PyTorch's pools nothing is out of bounds.
        passed = run(sanitizer, *options, *small, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        found[tool] = "passed" if passed else "FAILED"
    return found


def main() -> int:
    if not torch.cuda.is_available():
        print("make gpu needs a GPU that PyTorch can use")
        return 2
    from actprune_gpu.backends.cuda import CudaBackend
    from actprune_gpu.backends.cuda.cupy_launcher import CupyLauncher

    limits = gpu_timings.ceilings()
    checks = check()
    device = torch.cuda.get_device_name(0)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    launcher = CupyLauncher(0)
    result = {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "torch": torch.__version__,
        "commit": commit,
        "ceilings": limits,
        "checks": checks,
        "timings": gpu_timings.timings(CudaBackend(launcher), limits),
        "kernels": launcher.loaded,
    }
    name = re.sub(r"\W+", "-", device.lower()).strip("-")
    folder = ROOT / "bench" / "results"
    file = folder / f"{result['date']}-{name}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {file}")
    return 1 if "FAILED" in checks.values() else 0


if __name__ == "__main__":
    sys.exit(main())
