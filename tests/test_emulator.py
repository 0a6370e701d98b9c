"""The emulator finds what it is there to find, and nothing in kernels that are right."""

from pathlib import Path

import numpy as np
import pytest
from emulator.module import EmulatorError, Module, RaceError

TEXT = Path(__file__).with_name("emulator").joinpath("selftest.cu").read_text()
SEEDS = range(4)
I32 = np.int32


def module(race=False, *defines):
    return Module(TEXT, race=race, defines=defines)


@pytest.fixture(scope="module", params=[False, True], ids=["fast", "race"])
def either(request):
    return module(request.param)


@pytest.fixture(scope="module")
def fast():
    return module()


@pytest.fixture(scope="module")
def race():
    return module(True)


def zeros(m, n):
    return m.array(np.zeros(n, np.int32))


def numbers(m, n):
    return m.array(np.arange(n, dtype=np.int32))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n", "grid", "block"), [(1, 1, 32), (1000, 3, 256), (4099, 2, 1024)])
def test_sums_over_blocks(either, n, grid, block, seed):
    out = zeros(either, 1)
    either.launch(
        "block_sum", grid, block, numbers(either, n), out, I32(n), seed=seed, preempt=True
    )
    assert out[0] == n * (n - 1) // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_grid_barriers_in_cooperative_launches(either, seed):
    n, steps = 100, 5
    a, b, arrivals = numbers(either, n), zeros(either, n), either.array(np.zeros(1, np.uint32))
    arguments = (a, b, arrivals, I32(n), I32(steps))
    either.launch("relax", 4, 32, *arguments, cooperative=True, seed=seed, preempt=True)
    want = np.arange(n)
    for _ in range(steps):
        want = np.r_[want[:1], want[:-1]] + np.r_[want[1:], want[-1:]]
    np.testing.assert_array_equal(b if steps % 2 else a, want)


def test_ballots_of_a_ragged_warp(either):
    x, out = numbers(either, 77), either.array(np.zeros(3, np.uint32))
    either.launch("ballots", 1, 96, x, out, I32(77), seed=5)
    assert out.tolist() == [0xAAAAAAAA, 0xAAAAAAAA, 0xAAA]


def test_a_grid_barrier_without_a_cooperative_launch_never_ends(fast):
    arguments = (numbers(fast, 9), zeros(fast, 9), fast.array(np.zeros(1, np.uint32)))
    with pytest.raises(EmulatorError, match="not cooperative"):
        fast.launch("relax", 4, 32, *arguments, I32(9), I32(1))


def test_random_schedules_show_a_missing_barrier():
    m = module(False, "NO_BARRIER")
    right = []
    for seed in range(6):
        y = m.empty(128, np.int32)
        m.launch("rotate", 1, 128, numbers(m, 128), y, shared=512, seed=seed)
        right.append(np.array_equal(y[1:], np.arange(127)))
    assert right[0]  # in order it goes well
    assert not any(right[1:])


@pytest.mark.parametrize(("kernel", "block"), [("rotate", 128), ("warp_sum", 32)])
def test_the_race_detector_names_both_sides(kernel, block, race):
    m = module(True, "NO_BARRIER")
    with pytest.raises(RaceError, match=r"race: \w+ at selftest|race: \w+ at \S+:\d+ by block 0"):
        m.launch(kernel, 1, block, numbers(m, block), m.empty(block, np.int32), shared=512)
    for seed in SEEDS:
        y = race.empty(block, np.int32)
        race.launch(kernel, 1, block, numbers(race, block), y, shared=512, seed=seed)


def test_a_grid_barrier_without_fences_is_a_race():
    m = module(True, "NO_FENCE")
    arguments = (numbers(m, 100), zeros(m, 100), m.array(np.zeros(1, np.uint32)))
    with pytest.raises(RaceError):
        m.launch("relax", 4, 32, *arguments, I32(100), I32(3), cooperative=True)


@pytest.mark.parametrize(
    ("kernel", "grid", "arguments"),
    [("blocks_collide", 2, lambda m: (zeros(m, 32),)),
     ("histogram", 2, lambda m: (zeros(m, 32), zeros(m, 5))),
     ("uninitialised", 1, lambda m: (zeros(m, 32),))],
)  # fmt: skip
def test_other_races(race, kernel, grid, arguments):
    with pytest.raises(RaceError):
        race.launch(kernel, grid, 32, *arguments(race), seed=1)


@pytest.mark.parametrize(
    ("kernel", "arguments", "message"),
    [("beyond_shared", lambda m: (zeros(m, 32),), "dynamic shared"),
     ("beyond_array", lambda m: (zeros(m, 32), I32(9)), "out of bounds"),
     ("misaligned", lambda m: (m.empty(200, np.float32), m.empty(32, np.float32)), "misaligned"),
     ("diverged", lambda m: (zeros(m, 32),), "divergence"),
     ("absent_lanes", lambda m: (zeros(m, 32),), "exited|mask"),
     ("block_sum", lambda m: (numbers(m, 10), zeros(m, 1), I32(11)), "0 bytes past the end")],
)  # fmt: skip
def test_what_is_not_allowed(fast, kernel, arguments, message):
    with pytest.raises(EmulatorError, match=message):
        fast.launch(kernel, 1, 32, *arguments(fast), shared=128)


@pytest.mark.parametrize(
    "arguments",
    [lambda m: (m.empty(3, np.float64), zeros(m, 1), I32(3)),
     lambda m: (zeros(m, 3), zeros(m, 1), np.int64(3)),
     lambda m: (zeros(m, 3), zeros(m, 1))],
)  # fmt: skip
def test_arguments_must_have_the_parameters_types(fast, arguments):
    with pytest.raises(TypeError, match="block_sum"):
        fast.launch("block_sum", 1, 32, *arguments(fast))


def test_compiler_errors_are_shown():
    with pytest.raises(EmulatorError, match="nothing_of_that_name"):
        Module('extern "C" __global__ void f() { nothing_of_that_name(); }')
