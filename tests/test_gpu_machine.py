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


@pytest.mark.parametrize(
    "words", ["small and cuda", "stages and by_cuda", "gather and offset", "silhouette and 77"]
)
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
        "assert gpu.sanitize('racecheck') == 'passed'\n"
        "(tried, none), (command, variables) = calls\n"
        "assert tried[-2:] == ('-c', gpu.SOMETHING) and not none\n"
        "assert command[:3] == tried[:3] == ('/opt/compute-sanitizer', '--tool', 'racecheck')\n"
        "assert variables == {'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}\n"
        "gpu.run = lambda *command, **variables: 'pytest' not in command\n"
        "print(gpu.sanitize('memcheck'))\n"
        "gpu.run = lambda *command, **variables: False\n"
        "print(gpu.sanitize('memcheck'))\n"
        "gpu.shutil.which = lambda name, path: None\n"
        "print(gpu.sanitize('memcheck'))\n"
    )
    assert printed.splitlines() == [
        "FAILED",
        "compute-sanitizer does not work on this machine",
        "compute-sanitizer is not installed",
    ]


def test_what_is_known_is_in_the_file_already(tmp_path):
    """The tests fail and the timings are interrupted; the rest follows in another call."""
    on_that_machine(
        "import gpu, json, pathlib\n"
        f"folder = pathlib.Path({str(tmp_path)!r}) / 'new'\n"
        "gpu.torch.cuda.is_available = lambda: True\n"
        "gpu.torch.cuda.get_device_name = lambda index: 'NVIDIA H100 80GB'\n"
        "import actprune_gpu.backends.cuda.cupy_launcher as launchers\n"
        "launchers.CupyLauncher = lambda index: type('Fake', (), {'loaded': {}, 'device': 0})()\n"
        "def timings(kernels, limits, with_cpu):\n"
        "    assert not with_cpu\n"
        "    yield {'case': 'tsne'}\n"
        "    raise KeyboardInterrupt\n"
        "gpu.gpu_timings.timings = timings\n"
        "gpu.gpu_timings.ceilings = lambda: {'bytes': 1.0}\n"
        "gpu.subprocess.run = lambda *command, **options: 1 / 0\n"
        "gpu.head = lambda: ''\n"
        "gpu.run = lambda *command, **variables: False\n"
        "sys.argv = ['gpu.py', 'tests', 'timings', '--no-cpu', '--out', str(folder)]\n"
        "with pytest.raises(KeyboardInterrupt):\n"
        "    gpu.main()\n"
        "gpu.sanitize = lambda tool: 'passed'\n"
        "sys.argv = ['gpu.py', 'sanitizers', '--out', str(folder)]\n"
        "assert gpu.main() == 1\n"
        "(file,) = folder.iterdir()\n"
        "assert file.name.endswith('-nvidia-h100-80gb.json')\n"
        "found = json.loads(file.read_text())\n"
        "assert found['checks'] == {'tests': 'FAILED', **dict.fromkeys(gpu.SANITIZERS, 'passed')}\n"
        "assert found['timings'] == [{'case': 'tsne'}] and found['ceilings']\n"
    )


def test_git_is_not_needed():
    on_that_machine("import gpu; os.environ['PATH'] = ''; assert gpu.head() == ''")


def test_the_timings_of_every_case():
    """On the emulator, with a clock that runs each case once."""
    rows = on_that_machine(
        "import gpu_timings\n"
        "from cuda_device import backend\n"
        "def once(function, *arguments):\n"
        "    function(*arguments)\n"
        "    return [1.0, 2.0, 6.0]\n"
        "gpu_timings.milliseconds = once\n"
        "gpu_timings.MANY = 12, 9\n"
        "import actprune_gpu.backends\n"
        "emulated = backend()\n"
        "actprune_gpu.backends._backend = lambda device: emulated\n"
        "gpu_timings.yolov8x = lambda: [8, 12]\n"
        "limits = {gpu_timings.BYTES: 1e12, gpu_timings.OPERATIONS: 1e13}\n"
        "rows = list(gpu_timings.timings(emulated, limits, 'cpu', (12,)))\n"
        "assert len({row['case'] for row in rows}) == 10\n"
        "assert {(row['milliseconds'], row['slowest']) for row in rows} == {(2.0, 6.0)}\n"
        "assert all(0 < row['share_of_ceiling'] and row['achieved'] > 0 for row in rows)\n"
        "rows = list(gpu_timings.timings(backend(memory=1000), limits, 'cpu', (12,)))\n"
        "assert 'sweep of 12 points needs' in rows[0]['error']\n"
    )
    assert "cpu_milliseconds" not in rows
