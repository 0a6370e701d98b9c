"""No kernel has a race, and what the emulator knows of barriers would show if one were missing."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from emulator.launcher import EmulatedLauncher
from emulator.mutants import mutants, noticed_by
from helpers import random_moments

from actprune_gpu.backends.cpu import CpuBackend
from actprune_gpu.backends.cuda import CudaBackend, kmedoids, sources
from actprune_gpu.moments import ClassMoments
from actprune_gpu.separability import class_statistics

CPU = CpuBackend()
STATISTICS = class_statistics(random_moments(11, 6))[0]
SQUARED = CPU.separability_distances(STATISTICS).squared
POINTS = torch.rand((7, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MEDOIDS = torch.tensor([0, 2, 5])


def equal(kernel, *arguments):
    def check(launcher):
        ours = getattr(CudaBackend(launcher), kernel)(*arguments)
        theirs = getattr(CPU, kernel)(*arguments)
        assert str(ours) == str(theirs)

    return check


def check_affinities(launcher):
    equal("affinities", SQUARED, 3.0)(launcher)


def check_axes(launcher):
    equal("principal_axes", SQUARED)(launcher)


def check_tsne(launcher):
    start = CPU.principal_axes(SQUARED)
    equal("tsne", CPU.affinities(SQUARED, 3.0), start, 4, 12.0, [5.0, 50.0])(launcher)


def check_sweep(launcher):
    equal("kmedoids_sweep", [POINTS])(launcher)


def check_silhouette(launcher):
    equal("simplified_silhouette", POINTS, MEDOIDS)(launcher)


def check_separability(launcher):
    equal("separability_distances", STATISTICS)(launcher)
    equal("jeffries_matusita", STATISTICS)(launcher)


def check_moments(launcher):
    features = torch.rand((2, 5, 3, 4), generator=torch.Generator().manual_seed(0))
    cells = torch.tensor([[0, 1, 2], [1, 2, 3], [0, 0, 0], [1, 1, 1]])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        arguments = features.to(dtype), cells, torch.tensor([0, 2, 0, 1])
        ours, theirs = (ClassMoments.zeros(5, "abc") for _ in range(2))
        into = (ours.count, ours.mean, ours.m2)
        CudaBackend(launcher).gather_class_moments(*arguments, into)
        CPU.gather_class_moments(*arguments, (theirs.count, theirs.mean, theirs.m2))
        assert ours == theirs


CHECKS = {
    "affinities.cu": check_affinities,
    "principal_axes.cu": check_axes,
    "tsne.cu": check_tsne,
    "kmedoids.cu": check_sweep,
    "silhouette.cu": check_silhouette,
    "separability.cu": check_separability,
    "moments.cu": check_moments,
}


@pytest.mark.parametrize("file", CHECKS)
def test_no_races(file):
    launcher = EmulatedLauncher(race=True, seed=3, preempt=True)
    CHECKS[file](launcher)
    # Only many points need it, and those take too long here: see the test below.
    assert set(sources.kernels(file)) - set(launcher.launches) <= {"kmedoids_grow"}


def test_no_races_where_many_points_begin():
    launcher = EmulatedLauncher(race=True, seed=3, preempt=True)
    sweeps = kmedoids._Sweeps(launcher, [POINTS])
    (problem,) = sweeps.problems
    starts = torch.zeros((3, problem.n_words), dtype=torch.int32)
    starts[0] = sweeps.first_medoid(problem)
    wanted = torch.tensor([1, 2, 5], dtype=torch.int32)  # numbers of medoids to note down
    sweeps.run("kmedoids_grow", [problem.chain(0, 1, 3)._replace(rows=0)], starts, wanted)
    words = starts.flatten().tolist()
    assert [word.bit_count() for word in words] == [1, 2, 5]
    assert words[0] & words[1] & words[2] == words[0]  # none is given up


def noticed(mutant):
    """What notices a mutant: the race detector, or else one of four schedules."""
    check = CHECKS[mutant.file]
    return noticed_by(mutant, check, seeds=()) or noticed_by(mutant, check)


def test_missing_barriers_are_noticed():
    # A header's barriers are taken out in the file that needs all of them.
    needs = {"grid.cuh": "principal_axes.cu", "warp.cuh": "kmedoids.cu"}
    tried = [
        mutant
        for file in CHECKS
        for mutant in mutants(file)
        if needs.get(mutant.place.split(":")[0], file) == file
    ]
    # New processes: a copy of this one has none of the threads that the CPU's kernels wait for.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = zip(tried, pool.map(noticed, tried), strict=True)
        survivors = [f"{mutant.place} {mutant.barrier}" for mutant, notices in found if not notices]
    assert len(tried) >= 18
    assert len(survivors) <= len(tried) * 3 // 18, survivors
