"""The emulator finds what it is there to find, and nothing in kernels that are right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from emulator.launcher import EmulatedLauncher
from emulator.module import EmulatorError, Module, RaceError, kernels_in
from emulator.mutants import mutants

from actprune_gpu.backends.cuda import sources

TEXT = Path(__file__).with_name("emulator").joinpath("selftest.cu").read_text()
TEXT = f'#line 1 "selftest.cu"\n{TEXT}'
SEEDS = range(4)
I32 = np.int32


@pytest.fixture(scope="module")
def fast():
    return Module(TEXT)


@pytest.fixture(scope="module")
def race():
    return Module(TEXT, race=True)


@pytest.fixture(scope="module", params=["fast", "race"])
def either(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def wrong():
    """The kernels that BUG makes wrong."""
    return Module(TEXT, defines=("BUG",))


@pytest.fixture(scope="module")
def wrong_race():
    return Module(TEXT, race=True, defines=("BUG",))


def zeros(m, n, dtype=np.int32):
    return m.array(np.zeros(n, dtype))


def numbers(m, n, dtype=np.int32):
    return m.array(np.arange(n, dtype=dtype))


# Kernels that are right, with their launch, arguments and the right result. ---------------------


def block_sum(m, **options):
    for n, grid, block in [(1, 1, 32), (1000, 3, 256), (4099, 2, 1024)]:
        out = zeros(m, 1)
        m.launch("block_sum", grid, block, numbers(m, n), out, I32(n), **options)
        assert out[0] == n * (n - 1) // 2


def rotate(m, **options):
    y = zeros(m, 128)
    m.launch("rotate", 1, 128, numbers(m, 128), y, shared=512, **options)
    assert y.tolist() == np.roll(np.arange(128), 1).tolist()


def tiles(m, **options):
    x = np.arange(8.0 * 40).reshape(8, 40)
    y = zeros(m, 64, float)
    m.launch("tiles", 1, (8, 8), m.array(x), y, I32(40), **options)
    columns = x.reshape(8, 5, 8).sum((0, 1))
    np.testing.assert_array_equal(y.reshape(8, 8), columns + x.sum(1)[:, None])


def warp_sum(m, **options):
    y = zeros(m, 1)
    m.launch("warp_sum", 1, 32, numbers(m, 32), y, **options)
    assert y[0] == 31 * 16


def shuffled_order(m, **options):
    y = zeros(m, 32)
    m.launch("shuffled_order", 1, 32, y, **options)
    assert y.tolist() == [1] * 32


def relax(m, cooperative=True, **options):
    n, steps = 100, 5
    a, b, arrivals = numbers(m, n), zeros(m, n), zeros(m, 1, np.uint32)
    arguments = (a, b, arrivals, I32(n), I32(steps))
    m.launch("relax", 4, 32, *arguments, cooperative=cooperative, **options)
    want = np.arange(n)
    for _ in range(steps):
        want = np.r_[want[:1], want[:-1]] + np.r_[want[1:], want[-1:]]
    np.testing.assert_array_equal(b, want)


def last_block(m, **options):
    out = zeros(m, 1)
    ticket = zeros(m, 1, np.uint32)
    m.launch("last_block", 5, 32, numbers(m, 5), zeros(m, 5), ticket, out, **options)
    assert out[0] == 10


def flag(m, **options):
    y = zeros(m, 1)
    m.launch("flag", 1, 64, y, **options)
    assert y[0] == 7


def histogram(m, **options):
    counts = zeros(m, 5)
    m.launch("histogram", 3, 64, m.array(np.arange(64, dtype=np.int32) % 5), counts, **options)
    assert counts.tolist() == [39, 39, 39, 39, 36]


RIGHT = [
    *(block_sum, rotate, tiles, warp_sum, shuffled_order),
    *(relax, last_block, flag, histogram),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kernel", RIGHT)
def test_right_kernels_pass(either, kernel, seed):
    kernel(either, seed=seed, preempt=True)


# What is wrong. ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [kernel for kernel in RIGHT if kernel is not block_sum])
def test_the_race_detector_names_both_sides(wrong_race, kernel):
    threads = r"(read|write) at selftest\.cu:\d+ by block \d thread \d+"
    with pytest.raises(RaceError, match=rf"^{kernel.__name__}: .*race: {threads} / {threads}"):
        kernel(wrong_race)


@pytest.mark.parametrize("kernel", [rotate, tiles])
def test_random_schedules_show_a_missing_barrier(wrong, kernel):
    for seed in range(1, 4):
        with pytest.raises(AssertionError):
            kernel(wrong, seed=seed)


@pytest.mark.parametrize("preempt", [False, True])
def test_a_grid_barrier_without_a_cooperative_launch_never_ends(either, preempt):
    with pytest.raises(EmulatorError, match="not cooperative"):
        relax(either, cooperative=False, preempt=preempt, seed=1)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [("blocks_collide", r"race: write at \S+ by block 0 .* / write at \S+ by block 1"),
     ("uninitialised", r"uninitialised shared memory read at selftest\.cu:\d+")],
)  # fmt: skip
def test_other_races(race, kernel, message):
    with pytest.raises(RaceError, match=message):
        race.launch(kernel, 2, 32, zeros(race, 32))


@pytest.mark.parametrize(
    ("kernel", "arguments", "message"),
    [("beyond_shared", lambda m: (zeros(m, 32),), "byte 128 of 128 bytes of dynamic shared"),
     ("beyond_array", lambda m: (zeros(m, 32), I32(9)), r"index 9 out of bounds at selftest\.cu:"),
     ("in_front", lambda m: (zeros(m, 32),), "in front of a buffer of 128 bytes"),
     ("block_sum", lambda m: (numbers(m, 10), zeros(m, 1), I32(11)),
      r" 0 bytes past the end of a buffer of 40 bytes .* at selftest\.cu:\d+"),
     ("misaligned", lambda m: (m.empty(200, np.float32), m.empty(32, np.float32)), "misaligned"),
     ("diverged", lambda m: (zeros(m, 32),), r"barrier divergence: .* selftest\.cu:\d+"),
     ("left_early", lambda m: (zeros(m, 32),), "divergence"),
     ("absent_lanes", lambda m: (zeros(m, 32),), "divergence|names lanes")],
)  # fmt: skip
def test_what_is_not_allowed(fast, kernel, arguments, message):
    for seed in SEEDS:
        with pytest.raises(EmulatorError, match=f"{kernel}: .*{message}"):
            fast.launch(kernel, 1, 32, *arguments(fast), shared=128, seed=seed)


def test_blocks_must_be_as_small_as_the_kernel_says(fast):
    fast.launch("few_threads", 1, 64, zeros(fast, 96))
    with pytest.raises(EmulatorError, match="96 threads, at most 64"):
        fast.launch("few_threads", 1, 96, zeros(fast, 96))


def test_a_kernel_that_never_ends_is_stopped(fast):
    with pytest.raises(EmulatorError, match="did not end"):
        fast.launch("endless", 1, 32, zeros(fast, 32), max_switches=1000)


def test_compiler_errors_name_the_line():
    text = '#line 7 "mistaken.cu"\nextern "C" __global__ void f() { nothing_of_that_name(); }'
    with pytest.raises(EmulatorError, match=r"mistaken\.cu:7:\d+: error: .nothing_of_that_name"):
        Module(text)


# The device API. ---------------------------------------------------------------------------------


def test_shuffles(either):
    types = (np.int32, np.uint32, np.int64, np.float32, np.float64)
    out = [zeros(either, 160, dtype) for dtype in types]
    either.launch("shuffles", 1, 32, *out, seed=3)
    lane = np.arange(32)
    sources = [
        np.full(32, 5),
        lane // 8 * 8 + (lane + 1) % 8,
        np.where(lane >= 2, lane - 2, lane),
        np.where(lane % 16 + 3 < 16, lane + 3, lane),
        lane ^ 6,
    ]
    for got in out:
        np.testing.assert_array_equal(got, (np.concatenate(sources) * -3).astype(got.dtype))


def test_votes(fast):  # all lanes write the same, which the race detector would not like
    x = np.r_[np.arange(32) - 5, np.arange(32) * 3 + 1].astype(np.int32)
    out = zeros(fast, 15)
    fast.launch("votes", 1, 64, fast.array(x), out, seed=1)
    bits = [int((half & 1) @ (1 << np.arange(32))) for half in (x[:32], x[32:])]
    warps = [[bits[0], 1, 0, x[:32].sum(), -5, 26], [bits[1], 1, 1, x[32:].sum(), 1, 94]]
    want = [*warps[0], *warps[1], (x & 1).sum(), 1, 0]
    np.testing.assert_array_equal(out, np.array(want).astype(np.uint32).view(np.int32))


def test_ballots_of_a_ragged_warp(either):
    out = zeros(either, 3, np.uint32)
    either.launch("ragged", 1, 96, numbers(either, 77), out, I32(77), seed=5)
    assert out.tolist() == [0xAAAAAAAA, 0xAAAAAAAA, 0xAAA]


def test_atomics(either):
    out = [either.array(np.array([0, 99, 0, 0, 0, 0, 2080], t)) for t in ("i4", "u4", "i8", "u8")]
    either.launch("atomics", 2, 32, *out, seed=2, preempt=True)
    for got in out:
        assert got.tolist() == [1056, 1, 32, 63, 9, 7, 1024]


def test_intrinsics(either):
    out, real = zeros(either, 12), zeros(either, 8, np.float64)
    either.launch("intrinsics", 1, 32, out, real)
    assert out.tolist() == [4, 64, 4, 0, 41, 31, 32, 63, 0x3F800000, 2, 3, 2]
    want = [1.5, np.sqrt(np.float32(2)), np.sqrt(2), -1.0, 2.5, float(0x3FF << 52), 2.0, 9.0]
    assert real.tolist() == want


# The launcher. -----------------------------------------------------------------------------------


def launcher(**options):
    return EmulatedLauncher(texts={"selftest.cu": TEXT}, **options)


def add_strided(y, x, n, **options):
    launcher(**options).launch(
        "add_strided", 3, 32, y, x, np.int64(y.stride(0)), np.int64(x.stride(0)), np.int32(n)
    )


def test_views_reach_from_their_first_to_their_last_element():
    y, x = torch.ones(7, 5), torch.arange(70.0).view(10, 7)
    add_strided(y[:, 4], x[3:, 2], 7)
    want = torch.ones(7, 5)
    want[:, 4] += x[3:, 2]
    assert torch.equal(y, want)
    for arguments in [(y[:6, 4], x[3:, 2]), (y[:, 4], x[4:, 2]), (y[:0, 4], x[3:, 2])]:
        with pytest.raises(EmulatorError, match="past the end"):
            add_strided(*arguments, 7)


def test_tensors_that_overlap_share_memory():
    y = torch.arange(12.0)
    add_strided(y, y, 12)
    assert torch.equal(y, 2 * torch.arange(12.0))
    add_strided(y[::2], y[1::2], 6)
    assert torch.equal(y[::2], 2 * (4 * torch.arange(6.0) + 1))
    # A thread reads what another one writes: in memory of its own, it would not.
    with pytest.raises(RaceError):
        add_strided(y[1:], y, 11, race=True)


def test_tensors_of_all_types_are_passed_by_their_bits():
    out = torch.zeros(5, dtype=torch.int64)
    truth = torch.tensor([True])
    for half in (torch.bfloat16, torch.float16):
        arguments = [torch.tensor([-2]).to(t) for t in (half, torch.int8, torch.int32, torch.int64)]
        launcher().launch("copy_bits", 1, 1, *arguments, truth, out)
        want = [arguments[0].view(torch.int16).item() & 0xFFFF, 0xFE, 0xFFFFFFFE, -2, 1]
        assert out.tolist() == want


@pytest.mark.parametrize(
    ("position", "argument", "words"),
    [(0, torch.zeros(3, dtype=torch.float64), ("pointer to float32", "torch.float64 tensor")),
     (1, torch.zeros(3, dtype=torch.int32), ("pointer to float32", "torch.int32 tensor")),
     (1, np.float32(1), ("pointer to float32", "NumPy float32")),
     (2, torch.zeros(1, dtype=torch.int64), ("NumPy int64", "torch.int64 tensor")),
     (3, np.int32(1), ("NumPy int64", "NumPy int32")),
     (4, 3, ("NumPy int32", "int"))],
)  # fmt: skip
def test_arguments_must_have_the_parameters_types(position, argument, words):
    arguments = [torch.zeros(3), torch.zeros(3), np.int64(1), np.int64(1), np.int32(3)]
    arguments[position] = argument
    with pytest.raises(TypeError) as caught:
        launcher().launch("add_strided", 1, 32, *arguments)
    for word in ("add_strided", f"argument {position}", *words):
        assert word in str(caught.value)


def test_a_launch_must_have_as_many_arguments_as_the_kernel():
    with pytest.raises(TypeError, match="add_strided takes 5 arguments, got 2"):
        launcher().launch("add_strided", 1, 32, torch.zeros(3), torch.zeros(3))


def test_a_launch_must_fit_on_the_device():
    emulated = launcher(n_multiprocessors=2, shared_memory=1000)
    y = torch.zeros(32, dtype=torch.int32)
    emulated.launch("blocks_collide", (2, 2), 32, y, shared=1000, cooperative=True)
    with pytest.raises(EmulatorError, match="1001 bytes of shared memory, at most 1000"):
        emulated.launch("blocks_collide", 1, 32, y, shared=1001)
    with pytest.raises(EmulatorError, match="cooperative launch of 5 blocks, at most 4"):
        emulated.launch("blocks_collide", 5, 32, y, cooperative=True)
    assert emulated.launches == {"blocks_collide": 1}


def test_the_same_kernels_are_found_as_by_the_package():
    for file in sources.files():
        assert kernels_in(sources.text(file)) == sources.kernels(file)


def test_mutants_lack_one_barrier_each():
    original, found = sources.text("tsne.cu"), mutants("tsne.cu")
    places = [mutant.place.split(":") for mutant in found]
    assert {"tsne.cu", "grid.cuh", "warp.cuh"} <= {file for file, _ in places}
    for mutant, (file, line) in zip(found, places, strict=True):
        lines = (sources.folder() / file).read_text().splitlines()
        assert mutant.barrier in lines[int(line) - 1]
        assert len(mutant.text) == len(original) - len(mutant.barrier) + 1
        assert original.count(mutant.barrier) == mutant.text.count(mutant.barrier) + 1
