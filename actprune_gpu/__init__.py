"""Activation-based channel pruning: keep one channel of each kind, on the CPU or a GPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budget import Budget, apply_budget
    from .choice import choose_by_weight
    from .embedding import TSNEResult, tsne
    from .errors import BackendUnavailableError, InputError
    from .gather import gather_moments
    from .kmedoids import Clustering, KMedoidsSweep, kmedoids_sweep
    from .knee import Knee, find_knee
    from .moments import ClassMoments, load_moments, save_moments
    from .prune import ModelPruneResult, apply_plan, prune_model
    from .selection import ChannelSelection, SelectionConfig, select_channels
    from .separability import Separability, jeffries_matusita
    from .silhouette import simplified_silhouette
    from .weights import LayerWeights

__version__ = "0.1.0"

# Where each public name lives: it is imported when it is first asked for.
_HOMES = {
    "BackendUnavailableError": "errors",
    "Budget": "budget",
    "ChannelSelection": "selection",
    "ClassMoments": "moments",
    "Clustering": "kmedoids",
    "InputError": "errors",
    "KMedoidsSweep": "kmedoids",
    "Knee": "knee",
    "LayerWeights": "weights",
    "ModelPruneResult": "prune",
    "SelectionConfig": "selection",
    "Separability": "separability",
    "TSNEResult": "embedding",
    "apply_budget": "budget",
    "apply_plan": "prune",
    "choose_by_weight": "choice",
    "find_knee": "knee",
    "gather_moments": "gather",
    "jeffries_matusita": "separability",
    "kmedoids_sweep": "kmedoids",
    "load_moments": "moments",
    "prune_model": "prune",
    "save_moments": "moments",
    "select_channels": "selection",
    "simplified_silhouette": "silhouette",
    "tsne": "embedding",
}

# Modules that are imported when they are first asked for, too.
_MODULES = ("plot", "report", "yolo")

__all__ = [
    "BackendUnavailableError",
    "Budget",
    "ChannelSelection",
    "ClassMoments",
    "Clustering",
    "InputError",
    "KMedoidsSweep",
    "Knee",
    "LayerWeights",
    "ModelPruneResult",
    "SelectionConfig",
    "Separability",
    "TSNEResult",
    "__version__",
    "apply_budget",
    "apply_plan",
    "choose_by_weight",
    "find_knee",
    "gather_moments",
    "jeffries_matusita",
    "kmedoids_sweep",
    "load_moments",
    "prune_model",
    "save_moments",
    "select_channels",
    "simplified_silhouette",
    "tsne",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
