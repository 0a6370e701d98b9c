"""The cases by name, and the sizes at which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import cases, stages
from .cases import Case
from .cold import cold_start
from .gathering import gathering


@dataclass(frozen=True)
class CaseKind:
    """A case by name: how to make it and at which sizes; slow ones say how often to repeat."""

    make: Callable[[int], Case]
    sizes: tuple[int, ...]
    quick_sizes: tuple[int, ...]
    repeats: int | None = None


CASES = {
    "cold-start": CaseKind(cold_start, (256,), (), repeats=3),
    "gather": CaseKind(gathering, (64,), (16,)),
    "separability": CaseKind(cases.separability, (64, 128, 256, 512), (64, 128)),
    "tsne": CaseKind(cases.tsne_case, (64, 128, 256, 512, 2048), (64,)),
    "sweep": CaseKind(cases.sweep, (64, 128, 256, 512, 1024, 2048, 4096), (64, 128, 256)),
    "sweep-yolov8n": CaseKind(lambda n: cases.sweep(n, "yolov8n"), (128, 256), (128,)),
    "sweep-clustered": CaseKind(
        lambda n: cases.sweep(n, "clustered"), (256, 1024, 2048, 4096), (256,)
    ),
    "sweep-uniform": CaseKind(lambda n: cases.sweep(n, "uniform"), (256, 1024, 2048, 4096), (256,)),
    "sweep-large": CaseKind(lambda n: cases.sweep(n, "clustered"), (8192,), (), repeats=1),
    "silhouette": CaseKind(stages.silhouette, (64, 128, 256, 512), (64,)),
    "knee": CaseKind(stages.knee, (64, 128, 256, 512), (64,)),
    "budget-and-choice": CaseKind(stages.budget_and_choice, (64, 128, 256, 512), (64,)),
    "selection": CaseKind(cases.selection, (16, 64, 128, 256, 512), (16, 64)),
    "layers": CaseKind(cases.layers, (57,), (20,)),
    "large-separability": CaseKind(cases.large_separability, (2048,), (), repeats=1),
    "large-selection": CaseKind(cases.large_selection, (16384,), (), repeats=1),
}
