"""Compiled code on disk: current when the sources are, and no two functions share it."""

import gc

import numba
import pytest

from actprune_gpu.backends.cpu import compile as compiling
from actprune_gpu.backends.cpu import separability, tsne
from actprune_gpu.backends.cpu.kmedoids import sweep

KERNELS = [sweep.chain, sweep.grow, separability._jeffries_matusita_rows, tsne._optimise]


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
