"""Takes barriers and fences out of the kernels, one at a time: do the tests notice?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
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


def noticed_by(
    mutant: Mutant, check: Check, seeds: Iterable[int] = range(4), seconds: float = 10.0
) -> list[str]:
    """Return what notices a mutant, nothing if it survives.

    Args:
        mutant: The mutant.
        check: What the tests do; small, as it runs with the race detector, too.
        seeds: Schedules to try besides the race detector, which notices most.
        seconds: After which a launch counts as an error: without a barrier it may never end.

    Returns:
        Words such as ``"race build: RaceError"`` and ``"seed 2: wrong"``.
    """
    noticed = []
    tried = {f"seed {seed}": {"seed": seed, "preempt": seed > 0} for seed in seeds}
    for name, options in ({"race build": {"race": True, "seed": 1}} | tried).items():
        launcher = EmulatedLauncher(texts={mutant.file: mutant.text}, seconds=seconds, **options)
        try:
            check(launcher)
        except AssertionError:
            noticed.append(f"{name}: wrong")
        except EmulatorError as error:
            noticed.append(f"{name}: {type(error).__name__}")
    return noticed
