"""What the CPU's kernels are made of: vectors of lanes, barriers, work shared out to threads."""

import threading
import time

import numpy as np
import pytest
import torch
from helpers import with_threads

from actprune_gpu.backends.cpu import compile as compiling
from actprune_gpu.backends.cpu.barrier import wait_for_all
from actprune_gpu.backends.cpu.lanes import (
    WIDE_VECTOR,
    butterfly,
    floor,
    fma,
    load,
    splat,
    square_root,
    store,
)
from actprune_gpu.backends.cpu.math import exp
from actprune_gpu.backends.cpu.threads import Tasks, in_step, in_threads, n_threads, single_threaded


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_calculate_as_numbers_do(dtype):
    width = 64 // np.dtype(dtype).itemsize

    def mixed(a, b, number, out):
        total = splat(number)
        for base in range(0, a.shape[0], width):
            at = np.uintp(base)
            x, y = load(a, at), load(b, at)
            term = (x * y - number) / (number + y * y) + floor(x) + max(y, x)
            store(out, at, square_root(max(term, number)))
            total += term
        return butterfly(total)

    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 3 * width)).astype(dtype)
    number, out = dtype(1.5), np.empty_like(a)
    terms = (a * b - number) / (number + b * b) + np.floor(a) + np.maximum(a, b)
    lanes = np.full(width, number)
    for row in terms.reshape(-1, width):
        lanes += row
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    result = compiling._compile(mixed)(a, b, number, out)
    assert dtype(result) == lanes[0]
    assert np.array_equal(out, np.sqrt(np.maximum(terms, number)))


def test_exp_of_vectors_is_that_of_numbers():
    def of_numbers(x, out):
        for i in range(x.shape[0]):
            out[i] = exp(x[i])

    def of_vectors(x, out):
        for base in range(0, x.shape[0], WIDE_VECTOR):
            store(out, np.uintp(base), exp(load(x, np.uintp(base))))

    x = np.linspace(-800.0, 700.0, 100 * WIDE_VECTOR)
    results = np.empty((2, len(x)))
    for function, out in zip((of_numbers, of_vectors), results, strict=True):
        compiling._compile(function)(x, out)
    assert np.array_equal(*results)
    assert np.allclose(results[0], np.exp(np.maximum(x, -708.0)), rtol=1e-15, atol=0.0)


@pytest.mark.parametrize(("dtype", "digits"), [(np.float32, 12), (np.float64, 27)])
def test_a_multiply_add_is_rounded_once(dtype, digits):
    def rest(a, c):
        return butterfly(fma(splat(a), splat(a), splat(c)))

    a = dtype(1.0 + 2.0**-digits)
    c = dtype(-1.0 - 2.0 ** (1 - digits))  # leaves what is lost where the product is rounded
    assert a * a + c == 0.0
    width = 64 // np.dtype(dtype).itemsize
    assert compiling._compile(rest)(a, c) == width * 2.0 ** (-2 * digits)


@pytest.mark.parametrize("n_parts", [1, 2, 3, 5])  # more than there are cores
def test_nobody_passes_a_barrier_before_all_are_there(n_parts):
    def go(arrivals, part, turns, early):
        passed = 0
        for turn in range(1, 201):
            turns[part] = turn
            passed += turns.shape[0]
            wait_for_all(arrivals, passed)
            for other in range(turns.shape[0]):
                early[part] += turns[other] != turn
            passed += turns.shape[0]
            wait_for_all(arrivals, passed)

    kernel = compiling._compile(go)
    turns, early = np.zeros((2, n_parts), np.int64)
    in_step(lambda arrivals, part: kernel(arrivals, part, turns, early), n_parts)
    assert turns.tolist() == [200] * n_parts
    assert not early.any()


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_who_waits_for_a_part_that_fails_is_let_go(bad, error):
    def go(arrivals):
        for turn in range(1, 11):
            wait_for_all(arrivals, 3 * turn)

    kernel = compiling._compile(go)
    ended = []

    def run(arrivals, part):
        if part == bad:
            raise error
        kernel(arrivals)
        ended.append(part)

    with pytest.raises(error):
        in_step(run, 3)
    assert sorted(ended) == sorted({0, 1, 2} - {bad})


def test_callers_on_several_threads_do_not_wait_for_each_other_for_ever():
    def meet(barrier):
        in_step(lambda arrivals, part: barrier.wait(timeout=30), 3)

    callers = [threading.Thread(target=meet, args=(threading.Barrier(3),)) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert not any(caller.is_alive() for caller in callers)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_tasks_are_all_done_and_the_caller_does_some(workers):
    done = []
    with Tasks(workers) as tasks:
        for number in range(20):
            tasks.add(lambda number: done.append((number, threading.get_ident())), number)
    assert sorted(number for number, _ in done) == list(range(20))
    assert len({thread for _, thread in done}) <= workers


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_in_a_task_reaches_the_caller_when_all_are_done(workers):
    done = []

    def fail():
        raise ValueError("no")

    def all_of_them():
        with Tasks(workers) as tasks:
            tasks.add(done.append, 1)
            tasks.add(fail)

    with pytest.raises(ValueError, match="no"):
        all_of_them()
    assert done == [1]


@pytest.mark.parametrize("inside", [False, True])
def test_nothing_more_is_begun_when_the_user_interrupts(inside):
    caller, begun = threading.get_ident(), []

    def run(number):
        begun.append(number)
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        time.sleep(0.05)

    def some():
        with Tasks(2) as tasks:
            for number in range(50):
                tasks.add(run, number)
            if inside:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        some()
    assert len(begun) < 50


def test_ranges_cover_all_items_once():
    seen = np.zeros(1000, int)

    def count(first, last):
        seen[first:last] += 1

    with_threads(3, lambda: in_threads(count, n_items=1000, work=1 << 20))
    assert (seen == 1).all()


def test_the_number_of_threads_is_pytorchs_but_for_those_busy_with_other_layers():
    def numbers():
        with single_threaded():
            inside = n_threads()
        return inside, n_threads()

    assert with_threads(3, numbers) == (1, 3)
    assert n_threads() == torch.get_num_threads()
