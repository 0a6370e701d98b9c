"""``make gpu`` needs Python, torch, CuPy, NumPy and pytest, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Everything else that pyproject.toml names, and what comes with it.
ABSENT = (
    *("numba", "llvmlite", "kneed", "safetensors", "pydantic", "pydantic_core", "typer", "rich"),
    *("ultralytics", "cv2", "PIL", "yaml", "torchvision", "scipy", "sklearn", "pandas", "openTSNE"),
    *("kmedoids", "torch_pruning", "psutil", "matplotlib", "hypothesis", "onnx", "onnxruntime"),
)
PRELUDE = f"""
import importlib.abc, os, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.path[:0] = ["bench", "tests"]
os.environ |= {{"ACTPRUNE_GPU": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}}
import pytest
"""


def on_that_machine(code):
    """What the code prints in an interpreter that has no more than that machine's packages."""
    command = [sys.executable, "-c", PRELUDE + code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_its_tests_are_found_but_those_of_whole_selections():
    code = "import gpu; sys.exit(pytest.main(['--collect-only', '-rs', *gpu.TESTS]))"
    found = on_that_machine(code)
    assert "test_kmedoids_sweep_in_segments" in found
    assert "could not import 'kneed'" in found or "could not import 'numba'" in found
    assert found.count("SKIPPED") == 1


@pytest.mark.parametrize("words", ["small and cuda", "gather and offset", "silhouette and 77"])
def test_the_kernels_are_held_against_the_committed_bits(words):
    """The emulator stands in for the device."""
    code = f"import gpu; sys.exit(pytest.main(['-k', {words!r}, '-rA', *gpu.TESTS]))"
    assert "PASSED" in on_that_machine(code)


def test_what_the_sanitizers_run_is_there():
    code = "import gpu; sys.exit(pytest.main(['--collect-only', '-k', gpu.SMALL, *gpu.TESTS]))"
    found = on_that_machine(code)
    for name in ("cuda_kernels_give_the_committed_bits[small]", "segments[uniform", "test_gather"):
        assert name in found
    assert "committed_bits[layer]" not in found


def test_sanitizers_see_every_tensor_as_an_allocation():
    printed = on_that_machine(
        "import gpu\n"
        "calls = []\n"
        "gpu.run = lambda *command, **variables: calls.append((command, variables)) or True\n"
        "gpu.shutil.which = lambda name, path: f'/opt/{name}'\n"
        "assert set(gpu.check().values()) == {'passed'}\n"
        "assert calls[0][0][1:3] == ('-m', 'pytest') and not calls[0][1]\n"
        "for tool, (command, variables) in zip(gpu.SANITIZERS, calls[1:], strict=True):\n"
        "    assert command[:3] == ('/opt/compute-sanitizer', '--tool', tool)\n"
        "    assert variables == {'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}\n"
        "gpu.shutil.which = lambda name, path: None\n"
        "print(gpu.check())\n"
    )
    assert printed.count("compute-sanitizer is not installed") == 3


def test_the_timings_of_every_case():
    """On the emulator, with a clock that runs each case once."""
    rows = on_that_machine(
        "import gpu_timings\n"
        "from cuda_device import backend\n"
        "def once(function, *arguments):\n"
        "    function(*arguments)\n"
        "    return 2.0\n"
        "gpu_timings.milliseconds = once\n"
        "gpu_timings.yolov8x = lambda: [8, 12]\n"
        "limits = {gpu_timings.BYTES: 1e12, gpu_timings.OPERATIONS: 1e13}\n"
        "rows = gpu_timings.timings(backend(), limits, 'cpu', (12,))\n"
        "assert len({row['case'] for row in rows}) == 9\n"
        "assert all(0 < row['share_of_ceiling'] and row['achieved'] > 0 for row in rows)\n"
        "rows = gpu_timings.timings(backend(memory=1000), limits, 'cpu', (12,))\n"
        "assert 'sweep of 12 points needs' in rows[0]['error']\n"
    )
    assert "cpu_milliseconds" not in rows
