"""Takes barriers and fences out of the kernels, one at a time: do the tests notice?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from actprune_gpu.backends.cuda import sources

from .launcher import EmulatedLauncher
from .module import EmulatorError

_BARRIER = re.compile(r"\b(?:__syncthreads|__syncwarp|__threadfence|grid_barrier)\([^;{]*\);")
_LINE = re.compile(r'#line (\d+) "(.*)"')

# Asserts that kernels give what they should.
Check = Callable[[EmulatedLauncher], None]


class Mutant(NamedTuple):
    """A source without one of its barriers.

    Attributes:
        file: What is compiled, such as ``"tsne.cu"``.
        place: File and line of the barrier, such as ``"grid.cuh:9"``.
        barrier: What is missing.
        text: The source, with its headers put in.
    """

    file: str
    place: str
    barrier: str
    text: str


def mutants(file: str) -> list[Mutant]:
    """Return the mutants of a file and the headers that it includes."""
    text = sources.text(file)
    found, name, number, start = [], file, 0, 0
    for line in text.splitlines(keepends=True):
        if directive := _LINE.match(line):
            name, number = directive[2], int(directive[1]) - 1
        else:
            number += 1
            for match in _BARRIER.finditer(line):
                first, end = start + match.start(), start + match.end()
                without = f"{text[:first]};{text[end:]}"
                found.append(Mutant(file, f"{name}:{number}", match[0], without))
        start += len(line)
    return found


def noticed_by(mutant: Mutant, check: Check, seeds: Iterable[int] = range(4)) -> list[str]:
    """Return what notices a mutant, nothing if it survives.

    Args:
        mutant: The mutant.
        check: What the tests do; small, as it runs with the race detector, too.
        seeds: Schedules to try besides the race detector, which notices most.

    Returns:
        Words such as ``"race build: RaceError"`` and ``"seed 2: wrong"``.
    """
    noticed = []
    for name, race, seed in [("race build", True, 1), *((f"seed {s}", False, s) for s in seeds)]:
        launcher = EmulatedLauncher(
            race=race,
            seed=seed,
            preempt=seed > 0,
            texts={mutant.file: mutant.text},
            # Without a barrier a kernel may never end.
            max_switches=10 * _switches_needed(check, race, seed) + 100_000,
        )
        try:
            check(launcher)
        except AssertionError:
            noticed.append(f"{name}: wrong")
        except EmulatorError as error:
            noticed.append(f"{name}: {type(error).__name__}")
    return noticed


@cache
def _switches_needed(check: Check, race: bool, seed: int) -> int:
    launcher = EmulatedLauncher(race=race, seed=seed, preempt=seed > 0)
    check(launcher)
    return launcher.switches
