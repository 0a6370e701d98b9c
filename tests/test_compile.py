"""Compiled code on disk: current when the sources are, and no two functions share it."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest

from actprune_gpu.backends.cpu import compile as compiling
from actprune_gpu.backends.cpu import separability, tsne
from actprune_gpu.backends.cpu.kmedoids.chain import chain, grow

KERNELS = [chain, grow, separability._jeffries_matusita_rows, tsne._optimise]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_compiled_code_is_stamped_with_all_sources(kernel):
    """Numba looks at the function's own file only, and once ran a kernel with old constants."""
    assert kernel._cache._cache_file._source_stamp == compiling._digest_of_sources()


def test_the_digest_changes_with_any_source(tmp_path, monkeypatch):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "compile.py").write_text("BLOCK = 16")
    other = tmp_path / "deeper" / "space.py"
    other.write_text("BLOCK = 16")
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "compile.py"))
    before = compiling._digest_of_sources()
    other.write_text("BLOCK = 32")
    assert compiling._digest_of_sources() != before


@pytest.mark.parametrize("was_on", [True, False])
def test_the_garbage_collector_rests_while_a_kernel_is_compiled(monkeypatch, was_on):
    seen = []
    compile_bytecode = numba.core.compiler.compile_extra

    def spy(*args, **options):
        seen.append(gc.isenabled())
        return compile_bytecode(*args, **options)

    monkeypatch.setattr(numba.core.compiler, "compile_extra", spy)

    @compiling.device
    def twice(x):
        return x + x

    @numba.njit
    def four_times(x):
        return twice(twice(x))

    four_times.py_func.__module__ = twice.py_func.__module__ = compiling.__name__
    if not was_on:
        gc.disable()
    try:
        assert four_times(1.0) == 4.0
        assert gc.isenabled() == was_on
    finally:
        gc.enable()
    assert seen == [False, False]


NOWHERE = """
import numba.core.caching as caching
for locator in vars(caching).values():
    if hasattr(locator, "from_function"):
        locator.from_function = classmethod(lambda *arguments: None)
"""
ADD_UP = """
import numpy, torch
from actprune_gpu.backends.cpu.lanes import add_up
from actprune_gpu.backends.cpu.ahead import Ahead
torch.set_num_threads({n_threads})
ahead = Ahead(add_up, {there!r}, lambda: print('here'))
ahead.start()
ahead.wait()
add_up(numpy.ones(64), numpy.zeros(32))
print(ahead._process is not None, sum(add_up.stats.cache_hits.values()))
"""
COMPILES = (
    "import numpy; from actprune_gpu.backends.cpu.lanes import add_up;"
    "add_up(numpy.ones(64), numpy.zeros(32))"
)


def in_a_new_process(code, cache):
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run


def test_kernels_run_where_nothing_can_be_written_to(tmp_path):
    """As in a container that is read-only, where Numba would not even define the function."""
    run = in_a_new_process(NOWHERE + ADD_UP.format(n_threads=2, there=COMPILES), tmp_path)
    assert not list(tmp_path.iterdir())
    assert run.stderr.count("set NUMBA_CACHE_DIR to a folder that can be written to") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_compiles_ahead_ends_with_the_process_that_began_it(tmp_path):
    forever = "import time; time.sleep(600)"
    code = ADD_UP.partition("ahead.wait()")[0] + "print(ahead._process.pid)"
    run = in_a_new_process(code.format(n_threads=2, there=forever), tmp_path)
    deadline = time.monotonic() + 60.0
    while is_running(int(run.stdout.split()[-1])):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(process):
    try:  # one that has ended may stay as a zombie until somebody asks
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("n_threads", "there", "found"),
    [
        (2, COMPILES, ["here", "True", "1"]),
        (1, COMPILES, ["False", "0"]),
        (2, "1 / 0", ["here", "True", "0"]),
    ],
    ids=["another process", "one thread", "it fails"],
)
def test_another_process_compiles_ahead_or_else_this_one(tmp_path, n_threads, there, found):
    code = ADD_UP.format(n_threads=n_threads, there=there)
    assert in_a_new_process(code, tmp_path).stdout.split() == found
    assert in_a_new_process(code, tmp_path).stdout.split() == ["False", "1"]  # it is on disk now


def test_the_sweep_is_compiled_ahead_from_the_first_step_on(tmp_path):
    code = """
import torch
from actprune_gpu.backends import backend_of
from actprune_gpu.backends.cpu.kmedoids.chain import ahead, evaluate
torch.set_num_threads(2)
backend_of(torch.zeros(1))
print(ahead._process is not None, len(evaluate.signatures))
ahead._process.kill()
ahead.wait()
"""
    assert in_a_new_process(code, tmp_path).stdout.split() == ["True", "1"]


def test_what_is_compiled_ahead_is_what_the_sweep_calls(tmp_path):
    code = """
import torch
from actprune_gpu.backends.cpu.kmedoids import chain, sweep
chain.compile_evaluate()
{there}
sweep.kmedoids_sweep([torch.rand(40, 2)])
print(len(chain.chain.signatures), len(chain.evaluate.signatures))
"""
    there = "exec(chain.ahead._there, {})"
    assert in_a_new_process(code.format(there=there), tmp_path).stdout.split() == ["1", "1"]
