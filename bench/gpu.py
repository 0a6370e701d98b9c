"""Checks and timings on a machine with a GPU: ``make gpu``.

Needs Python, torch, CuPy, NumPy and pytest, and no network. Runs the tests of the kernels on the
device, then compute-sanitizer over the small ones, then timings: what each kernel achieves, beside
the two ceilings measured first. All of it goes to ``DATE-DEVICE.json`` as soon as it is known;
parts that run one by one (``python bench/gpu.py tests``) go to the same file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests")]
import gpu_timings  # noqa: E402

TESTS = ["tests/test_cuda.py", "tests/test_cuda_selection.py", "tests/test_digests.py"]
# Every kernel on small inputs, and the one that only many points need.
SMALL = "(small and cuda) or gather or silhouette or (segments and uniform)"
SANITIZERS = ("memcheck", "racecheck", "initcheck")
PARTS = ("tests", "sanitizers", "timings")
PYTEST = (sys.executable, "-m", "pytest", "-rs")
SOMETHING = "import torch; torch.ones(1, device='cuda').item()"


def run(*command: str, **variables: str) -> bool:
    print("$", " ".join(command), flush=True)
    variables = os.environ | {"ACTPRUNE_GPU": "1"} | variables
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode == 0


def sanitize(tool: str) -> str:
    """Run the small tests under a sanitizer; return how that ended."""
    # CUDA's own folder is often not among the paths.
    paths = os.environ.get("PATH", "") + os.pathsep + "/usr/local/cuda/bin"
    sanitizer = shutil.which("compute-sanitizer", path=paths)
    if sanitizer is None:
        return "compute-sanitizer is not installed"
    # CuPy asks for attributes that devices lack, and does not mind the error.
    options = ("--tool", tool, "--error-exitcode", "9", "--report-api-errors", "no")
    if not run(sanitizer, *options, sys.executable, "-c", SOMETHING):
        return "compute-sanitizer does not work on this machine"
    small = (*PYTEST, "tests/test_cuda.py", "tests/test_digests.py", "-k", SMALL)
    options = (*options, "--target-processes", "all")
    # Every tensor an allocation of its own: inside PyTorch's pools nothing is out of bounds.
    passed = run(sanitizer, *options, *small, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return "passed" if passed else "FAILED"


def head() -> str:
    """Return the commit, if there is Git and a repository."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


class Results:
    """What was found, in a file that is written anew with every part."""

    def __init__(self, folder: Path, device: str) -> None:
        date = datetime.date.today().isoformat()
        name = re.sub(r"\W+", "-", device.lower()).strip("-")
        self.file = folder / f"{date}-{name}.json"
        own = {"date": date, "device": device, "torch": torch.__version__, "commit": head()}
        found = json.loads(self.file.read_text()) if self.file.is_file() else {}
        goes_on = all(found.get(key) == value for key, value in own.items())
        self.found: dict[str, Any] = found if goes_on else {**own, "checks": {}}

    def note(self, **found: Any) -> None:
        self.found |= found
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.found, indent=1) + "\n")

    def note_check(self, name: str, ended: str) -> None:
        self.note(checks=self.found["checks"] | {name: ended})


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks and timings on a machine with a GPU.")
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder")
    parser.add_argument("--no-cpu", action="store_true", help="do not time the CPU as well")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if not set(parts) <= set(PARTS):
        parser.error(f"parts must be some of {', '.join(PARTS)}, got {' '.join(parts)}")
    if not torch.cuda.is_available():
        print("make gpu needs a GPU that PyTorch can use")
        return 2
    results = Results(options.out, torch.cuda.get_device_name(0))
    if "tests" in parts:
        results.note_check("tests", "passed" if run(*PYTEST, *TESTS) else "FAILED")
    for tool in SANITIZERS if "sanitizers" in parts else ():
        results.note_check(tool, sanitize(tool))
    if "timings" in parts:
        measure(results, with_cpu=not options.no_cpu)
    print(f"wrote {results.file}")
    return 1 if "FAILED" in results.found["checks"].values() else 0


def versions() -> dict[str, object]:
    """Return the versions of what the kernels are compiled and run by."""
    found: dict[str, object] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    with suppress(ImportError):
        import cupy

        found |= {"cupy": cupy.__version__, "driver": cupy.cuda.runtime.driverGetVersion()}
    return found


def measure(results: Results, *, with_cpu: bool) -> None:
    """Note the ceilings, and the time of every case as it comes."""
    from actprune_gpu.backends.cuda import CudaBackend
    from actprune_gpu.backends.cuda.cupy_launcher import CupyLauncher

    results.note(versions=versions())
    launcher = CupyLauncher(0)
    limits = gpu_timings.ceilings()
    rows: list[dict[str, object]] = []
    for row in gpu_timings.timings(CudaBackend(launcher), limits, with_cpu=with_cpu):
        rows.append(row)
        results.note(ceilings=limits, timings=rows, kernels=launcher.loaded)


if __name__ == "__main__":
    sys.exit(main())
