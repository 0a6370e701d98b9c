"""The k-medoids sweep: chains along k, a block for each, of several problems at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ..plane import (
    at_random,
    distance_unit,
    fourth_pass,
    has_segments,
    is_kicked,
    middle,
    second_pass,
    segments,
    spatial_order,
    third_pass,
)
from ..protocol import Sweep
from .launch import Launcher
from .memory import fits, require

_MAX_POINTS = 16384
_LANES = 32
_BLOCK = 256
_MAX_BLOCK = 512
# Room for the state of a chain, for each point: see State in csrc/kmedoids_state.cuh.
_SAVED_BYTES = 4 * 8 + 9 * 4
_STATE_BYTES = _SAVED_BYTES + 5 * 4 + 8 + 2 * 4
_STATIC_SHARED = 2048  # bytes, at least what the kernels declare
_UNSEEN = 2**63 - 1


class Chain(NamedTuple):
    """Where a chain goes, and where its parts begin: struct Chain in csrc/kmedoids.cu."""

    n: int
    distances: int
    points: int
    chunks: int
    start: int
    k: int
    stop: int
    rows: int
    bits: int
    near: int
    crossed: bool
    room: int = 0


class Problem(NamedTuple):
    """The size of a problem, and where its arrays begin in those of all problems."""

    n: int
    distances: int
    points: int
    chunks: int
    rows: int
    bits: int
    near: int

    @property
    def n_words(self) -> int:
        """Words of 32 bits that flag medoids."""
        return -(-self.n // _LANES)

    @property
    def n_rows(self) -> int:
        """Values of k."""
        return self.n - 2

    def chain(self, start: int, k: int, stop: int, *, crossed: bool = False) -> Chain:
        """Return a chain from the medoids at ``start``, k of them, to before ``stop``."""
        return Chain(*self[:4], start, k, stop, *self[4:], crossed)


def _layout(sizes: Sequence[int]) -> list[Problem]:
    problems, begin = [], [0, 0, 0, 0, 0, 0]
    for n in sizes:
        problem = Problem(n, *begin)
        rows = problem.n_rows
        lengths = (n * n, n, problem.n_words, rows, rows * problem.n_words, rows * n)
        begin = [at + length for at, length in zip(begin, lengths, strict=True)]
        problems.append(problem)
    return problems


class _Sweeps:
    """The arrays of all problems, one behind another."""

    def __init__(self, launcher: Launcher, points: Sequence[Tensor]) -> None:
        self.launcher = launcher
        self.problems = _layout([len(values) for values in points])
        device = points[0].device
        last = self.problems[-1]
        n_rows = last.rows + last.n_rows
        n_bits = last.bits + last.n_rows * last.n_words
        integers: dict[str, Any] = {"dtype": torch.int32, "device": device}
        self.distances = torch.empty(last.distances + last.n**2, **integers)
        self.number, self.position = torch.empty((2, last.points + last.n), **integers)
        self.pivot, self.radius = torch.empty((2, last.chunks + last.n_words), **integers)
        self.loss = torch.full((n_rows,), _UNSEEN, dtype=torch.int64, device=device)
        self.mss_mean, self.mss_nearest = torch.empty(
            (2, n_rows), dtype=torch.float64, device=device
        )
        self.bits = torch.empty(n_bits, **integers)
        n_near = last.near + last.n_rows * last.n
        self.near = torch.empty(n_near, dtype=torch.int16, device=device)
        self.units = [
            self._measure(problem, values.double())
            for problem, values in zip(self.problems, points, strict=True)
        ]

    def _measure(self, problem: Problem, values: Tensor) -> float:
        """Order the points and fill in their distances; return the unit that those count."""
        n, unit = problem.n, distance_unit(values)
        order = spatial_order(values)
        position = torch.empty_like(order).scatter_(0, order, torch.arange(n, device=order.device))
        self.number[problem.points : problem.points + n] = order
        self.position[problem.points : problem.points + n] = position
        distances = self.distances_of(problem)
        self.launcher.launch(
            "kmedoids_distances",
            (-(-n // _BLOCK), n),
            _BLOCK,
            values[order].contiguous(),
            distances,
            np.int32(n),
            np.float64(1.0 / unit),
        )
        warps = _BLOCK // 2 // _LANES
        self.launcher.launch(
            "kmedoids_pivots",
            -(-problem.n_words // warps),
            _BLOCK // 2,
            distances,
            self.pivot[problem.chunks :],
            self.radius[problem.chunks :],
            np.int32(n),
        )
        return unit

    def distances_of(self, problem: Problem) -> Tensor:
        """Return the distances ``[n, n]`` of a problem."""
        n = problem.n
        return self.distances[problem.distances : problem.distances + n * n].view(n, n)

    def first_medoid(self, problem: Problem) -> Tensor:
        """Return the bits ``[words]`` of the point with the smallest sum of distances."""
        totals = self.distances_of(problem).sum(1, dtype=torch.int64)
        number = self.number[problem.points : problem.points + problem.n]
        first: Tensor = (totals * 2**16 + number).argmin()
        flags = torch.arange(_LANES * problem.n_words, device=first.device) == first
        return _words(flags)

    def every_point(self, problem: Problem) -> Tensor:
        """Return the bits ``[words]`` of all points."""
        lanes = torch.arange(_LANES * problem.n_words, device=self.bits.device)
        return _words(lanes < problem.n)

    def at_random(self, problem: Problem, counts: Sequence[int]) -> Tensor:
        """Return the bits of the first points of a random order, a row of words for each count."""
        n, device = problem.n, self.bits.device
        place = torch.full((_LANES * problem.n_words,), n, device=device)
        place[at_random(n).to(device)] = torch.arange(n, device=device)
        return _words(place < torch.tensor(counts, device=device)[:, None])

    def every_second(self, problem: Problem, counts: Sequence[int]) -> Tensor:
        """Return the bits of half of the medoids of the best clustering by twice each count."""
        rows = [problem.bits + (2 * k - 2) * problem.n_words for k in counts]
        best = torch.stack([self.bits[row : row + problem.n_words] for row in rows])
        flags = best[..., None] >> torch.arange(_LANES, device=best.device, dtype=torch.int32) & 1
        flags = flags.flatten(1)
        return _words(flags.bool() & (flags.cumsum(1) % 2 == 1))

    def run(self, kernel: str, chains: list[Chain], starts: Tensor, *arguments: Tensor) -> None:
        """Let the chains go, each from its medoids in ``starts``."""
        if not chains:
            return
        in_shared = self.launcher.shared_memory - _STATIC_SHARED
        rooms = [-(-chain.n * room_bytes(chain.n) // 16) * 16 for chain in chains]
        shared = max((room for room in rooms if room <= in_shared), default=0)
        apart = [0 if room <= in_shared else room for room in rooms]
        workspace = torch.empty(max(sum(apart), 1), dtype=torch.uint8, device=starts.device)
        begins = [0, *accumulate(apart)][: len(chains)]
        table = [chain._replace(room=at) for chain, at in zip(chains, begins, strict=True)]
        largest = max(chain.n for chain in chains)
        self.launcher.launch(
            kernel,
            len(chains),
            min(_MAX_BLOCK, max(2 * _LANES, -(-largest // _LANES) * _LANES)),
            torch.tensor(table, dtype=torch.int64, device=starts.device),
            self.distances,
            self.number,
            self.position,
            self.pivot,
            self.radius,
            starts,
            *arguments,
            workspace,
            np.int32(in_shared),
            shared=shared,
        )

    def walk(self, chains: list[Chain], starts: Tensor) -> None:
        """Let chains go and note the best they see for each k."""
        results = self.loss, self.mss_mean, self.mss_nearest, self.bits, self.near
        self.run("kmedoids_chain", chains, starts, *results)

    def result(self, problem: Problem, unit: float) -> Sweep:
        """Return the best for each k, with medoids by their number."""
        n = problem.n
        rows = slice(problem.rows, problem.rows + problem.n_rows)
        bits = self.bits.new_empty((problem.n_rows, problem.n_words))
        self.launcher.launch(
            "kmedoids_collect",
            (-(-problem.n_words // 128), problem.n_rows),
            128,
            self.bits[problem.bits : problem.bits + bits.numel()],
            self.position[problem.points : problem.points + n],
            bits,
            np.int32(n),
        )
        medoid_bits = bits.view(torch.uint8)[:, : -(-n // 8)].contiguous()
        loss = self.loss[rows].double() * unit
        # Copies, so as not to keep those of the other problems.
        return Sweep(loss, self.mss_mean[rows].clone(), self.mss_nearest[rows].clone(), medoid_bits)


def room_bytes(n: int) -> int:
    """Return the bytes for each point of a chain's state, and of the copy that kicks go back to."""
    return _STATE_BYTES + (_SAVED_BYTES if is_kicked(n) else 0)


def _words(flags: Tensor) -> Tensor:
    """Pack ``flags [..., 32 W]`` into int32, one behind another, the first in the lowest bit."""
    powers = 2 ** torch.arange(_LANES, device=flags.device)
    words = (flags.view(-1, _LANES) * powers).sum(1)
    return torch.where(words < 2**31, words, words - 2**32).int()


def _bytes(n: int) -> int:
    """Return what a problem takes: distances, results, starts, and room for its chains."""
    n_words = -(-n // _LANES)
    n_chains = max(2 * len(segments(n, 2)), len(third_pass(n)), len(fourth_pass(n)))
    return n * n * 6 + 3 * n * (n_words * 4 + 24) + n_chains * n * room_bytes(n)


def kmedoids_sweep(launcher: Launcher, points: Sequence[Tensor]) -> list[Sweep]:
    batch: list[Tensor] = []
    sweeps: list[Sweep] = []
    for values in points:
        n = len(values)
        if n > _MAX_POINTS:
            raise InputError(f"points must be at most {_MAX_POINTS} on a GPU, got {n}: use the CPU")
        require(launcher, _bytes(n), f"the k-medoids sweep of {n} points")
        if not fits(launcher, sum(_bytes(len(other)) for other in [*batch, values])):
            sweeps += _sweep(launcher, batch)
            batch = []
        batch.append(values)
    return sweeps + _sweep(launcher, batch)


def _sweep(launcher: Launcher, points: Sequence[Tensor]) -> list[Sweep]:
    """Sweep several problems at once."""
    sweeps = _Sweeps(launcher, points)
    starts: list[Tensor] = []
    n_words = 0

    def put(words: Tensor) -> int:
        nonlocal n_words
        starts.append(words.flatten())
        n_words += words.numel()
        return n_words - words.numel()

    # With few points from both ends to the middle, else up in segments.
    chains: list[Chain] = []
    growing: list[Chain] = []
    start_ks: list[int] = []
    for problem in sweeps.problems:
        first = sweeps.first_medoid(problem)
        if not has_segments(problem.n):
            meet = middle(problem.n)
            chains.append(problem.chain(put(first), 1, meet))
            chains.append(problem.chain(put(sweeps.every_point(problem)), problem.n, meet - 1))
            continue
        ranges = segments(problem.n, 2)
        rows = torch.zeros((len(ranges), problem.n_words), dtype=torch.int32, device=first.device)
        rows[0] = first
        at = put(rows)
        # BUILD is nested: one run of it passes by the start of every segment.
        growing.append(problem.chain(at, 1, len(ranges))._replace(rows=len(start_ks)))
        start_ks += [k - 1 for k, _ in ranges]
        chains += [
            problem.chain(at + row * problem.n_words, k - 1, stop)
            for row, (k, stop) in enumerate(ranges)
        ]
    start = torch.cat(starts)
    sweeps.run("kmedoids_grow", growing, start, start.new_tensor(start_ks))
    sweeps.walk(chains, start)
    # From what was noted before any of these begins.
    chains, starts, n_words = [], [], 0
    for problem in sweeps.problems:
        for k, stop in second_pass(problem.n):
            row = problem.bits + (k - 2) * problem.n_words
            at = put(sweeps.bits[row : row + problem.n_words])
            chains.append(problem.chain(at, k, stop, crossed=True))
    sweeps.walk(chains, torch.cat(starts))
    for steps_of, starts_of in (third_pass, sweeps.at_random), (fourth_pass, sweeps.every_second):
        chains, starts, n_words = [], [start[:0]], 0
        for problem in sweeps.problems:
            if steps := steps_of(problem.n):
                at = put(starts_of(problem, [k for k, _ in steps]))
                chains += [
                    problem.chain(at + row * problem.n_words, k, stop, crossed=True)
                    for row, (k, stop) in enumerate(steps)
                ]
        sweeps.walk(chains, torch.cat(starts))
    return [
        sweeps.result(problem, unit)
        for problem, unit in zip(sweeps.problems, sweeps.units, strict=True)
    ]
