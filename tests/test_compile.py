"""Compiled code on disk: current when the sources are, and no two functions share it."""

import pytest

from actprune_gpu.backends.cpu import compile as compiling
from actprune_gpu.backends.cpu import separability, tsne
from actprune_gpu.backends.cpu.kmedoids import sweep

KERNELS = [sweep.chain, sweep.grow, separability._jeffries_matusita_rows, tsne._optimise_parallel]


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


def test_the_parallel_kernel_is_cached_apart_from_the_serial_one():
    """The cache knows functions by file, line and name: a twin was once loaded as the other."""
    serial, parallel = tsne._optimise_serial.py_func, tsne._optimise_parallel.py_func
    assert serial.__code__.co_firstlineno == parallel.__code__.co_firstlineno
    assert serial.__qualname__ != parallel.__qualname__
    assert tsne._optimise_parallel.targetoptions["parallel"]
