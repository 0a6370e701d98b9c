"""The cases by name, and the sizes at which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import cases
from .cases import Case
from .gathering import gathering


@dataclass(frozen=True)
class CaseKind:
    """A case by name: how to make it and at which sizes."""

    make: Callable[[int], Case]
    sizes: tuple[int, ...]
    quick_sizes: tuple[int, ...]


CASES = {
    "gather": CaseKind(gathering, (64,), (16,)),
    "separability": CaseKind(cases.separability, (64, 128, 256, 512), (64,)),
    "tsne": CaseKind(cases.tsne_case, (64, 128, 256, 512, 2048), (64, 128)),
    "sweep": CaseKind(cases.sweep, (64, 128, 256, 512, 1024, 2048), (64, 128, 256)),
    "sweep-clustered": CaseKind(lambda n: cases.sweep(n, "clustered"), (256, 1024, 2048), (256,)),
    "sweep-uniform": CaseKind(lambda n: cases.sweep(n, "uniform"), (256, 1024, 2048), (256,)),
    "selection": CaseKind(cases.selection, (16, 64, 128, 256, 512), (16, 64)),
    "layers": CaseKind(cases.layers, (57,), (20,)),
    "large-separability": CaseKind(cases.large_separability, (512,), ()),
}
