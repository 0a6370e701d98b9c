"""Steps 2 to 8 in one call: from class moments to the channels to keep, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from .arrays import Array, require_finite, sum_in_order, to_tensor
from .backends import backend_of
from .budget import Budget, KeepBounds, apply_budget, require_budget
from .choice import by_weight, choose_by_weight, divided, with_heaviest
from .embedding import Init, TSNEResult, require_init, tsne_of_distances
from .engines import Engine, require_engine
from .errors import InputError
from .kmedoids import KMedoidsSweep, kmedoids_sweep
from .knee import Knee, KneeMethod, find_knee
from .markup import LayerMarkup
from .moments import ClassMoments, require_moments
from .separability import class_statistics
from .silhouette import SilhouetteDefinition
from .weights import LayerWeights, WeightKind, combined, parse_weight

Criterion = Literal["separability", "reconstruct", "std", "gamma", "l1", "l2", "random"]
Allocation = Literal["proportion", "damage"]
BeyondKnee = Literal["clusters", "weight"]
_MIN_CHANNELS = 3


class SelectionConfig(BaseModel):
    """How channels are selected; the fields' defaults are the preset ``"default"``.

    Attributes:
        criterion: ``"separability"``, the method, or a baseline that ranks single channels:
            ``"reconstruct"``, ``"std"``, BatchNorm ``"gamma"``, ``"l1"``, ``"l2"`` or ``"random"``.
            A baseline has no knee: it keeps as many channels as the budget allows.
        weight: What the channels of a cluster compete by: a `WeightKind`, or several joined by
            ``+``, whose places are then added up: see `actprune_gpu.weights.combined`.
        silhouette: Definition of the simplified silhouette.
        knee: How kneed smooths the MSS curve.
        perplexity: Of t-SNE; clamped for few channels.
        n_iter: Iterations of t-SNE.
        init: Initialisation of t-SNE.
        engine: What does t-SNE; only ``"exact"`` is reproducible, see `tsne`.
        budget: Smallest and largest share of the channels to keep, or ``None``.
        beyond_knee: Where more channels are kept than the knee says: ``"clusters"``, the clustering
            for that many, or ``"weight"``, one of each of the knee's clusters and then the heaviest
            of the others.
        allocation: How layers share what a whole model may cost: in ``"proportion"`` to their
            knees, or equally where a criterion finds none; or so that the predictions suffer the
            least ``"damage"``, which is measured on images.
        round_to: The number kept becomes a multiple of it.
        min_channels: No layer keeps fewer.
        seed: Of t-SNE's random numbers and of the criterion ``"random"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    criterion: Criterion = "separability"
    weight: str = "l1"
    silhouette: SilhouetteDefinition = "mean"
    knee: KneeMethod = "interp1d"
    perplexity: float = Field(10.0, ge=1.0, allow_inf_nan=False)
    n_iter: int = Field(1000, ge=1)
    init: Init = "pca"
    engine: Engine = "exact"
    budget: KeepBounds | None = (0.25, 0.5)
    beyond_knee: BeyondKnee = "clusters"
    allocation: Allocation = "proportion"
    round_to: int = Field(1, ge=1)
    min_channels: int = Field(2, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)

    def __init__(self, **settings: Any) -> None:
        """Check the settings; an ``InputError`` names the first bad one."""
        try:
            super().__init__(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # a rule of ours, its message is complete
                raise InputError(first["msg"].removeprefix("Value error, ")) from None
            name = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{name}: {first['msg']}, got {first['input']!r}") from None

    @model_validator(mode="after")
    def _check_together(self) -> SelectionConfig:
        require_budget(self.budget)
        require_init(self.init, self.engine)
        parse_weight(self.weight)
        if self.budget is None and self.criterion != "separability":
            raise InputError(f"criterion {self.criterion!r} needs a budget, it finds no knee")
        return self

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> SelectionConfig:
        """Return the settings of a preset, some of them overridden.

        ``"default"``: what follows the data best (mean silhouette, interpolated curve, L1).
        ``"repair"``: what leaves most of a network that is repaired (two weights, which also decide
        beyond the knee, and shares of a target by measured damage), as `yolo.prune` and
        `prune_model` do by default. It needs samples to look at.
        ``"upstream"``: the published code's choices (mean silhouette, polynomial, L2).
        ``"paper"``: the method's description to the letter (nearest silhouette, interpolated, L1).

        Raises:
            InputError: If there is no such preset, or an override does not fit.
        """
        if name not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def weight_kinds(self) -> tuple[WeightKind, ...]:
        """What channels compete by; of nothing for the criterion ``"random"``."""
        if self.criterion == "separability":
            return parse_weight(self.weight)
        return () if self.criterion == "random" else (self.criterion,)


PRESETS: dict[str, dict[str, str]] = {
    "default": {},
    "upstream": {"silhouette": "mean", "knee": "polynomial", "weight": "l2"},
    "paper": {"silhouette": "nearest", "knee": "interp1d", "weight": "l1"},
    # Where what is left is repaired, and there are samples to look at: that of `prune`.
    "repair": {
        "weight": "activation+reconstruct",
        "beyond_knee": "weight",
        "allocation": "damage",
    },
}


@dataclass(frozen=True, eq=False)
class SeparabilitySummary:
    """What is kept of the separability matrix.

    Attributes:
        classes: Names of the classes used.
        left_out: Names of the classes with fewer than two samples.
        mean: ``[C]`` float64, mean over the class pairs.
        max: ``[C]`` float64, of the best separated pair.
    """

    classes: tuple[str, ...]
    left_out: tuple[str, ...]
    mean: Tensor
    max: Tensor


@dataclass(frozen=True, eq=False)
class ChannelSelection(LayerMarkup):
    """Which channels of a layer to keep, and why.

    The baselines rank channels and do nothing else: they leave everything behind ``weights`` empty.

    Attributes:
        keep: ``[k]`` int64, ascending.
        n_channels: C.
        criterion: What selected them.
        k: Number of channels kept.
        reason: The rules that set k.
        weights: ``[C]`` float64 by which channels competed.
        k_star: The knee, before the budget.
        knee_reason: How the knee was found.
        ks: ``[K]`` int64, every number of clusters tried.
        mss: ``[K]`` float64, mean simplified silhouettes.
        loss: ``[K]`` float64, k-medoids losses.
        embedding: ``[C, 2]`` float32.
        kl_divergence: Of the embedding.
        cluster_labels: ``[C]`` int64, cluster of each channel at k. Where weights decide beyond the
            knee, its clusters, divided among the channels kept.
        medoids: ``[k]`` int64; where clusters are divided, the channels kept.
        separability: Summary of the separability matrix.
    """

    keep: Tensor
    n_channels: int
    criterion: str
    k: int
    reason: str
    weights: Tensor
    k_star: int | None = None
    knee_reason: str | None = None
    ks: Tensor | None = None
    mss: Tensor | None = None
    loss: Tensor | None = None
    embedding: Tensor | None = None
    kl_divergence: float | None = None
    cluster_labels: Tensor | None = None
    medoids: Tensor | None = None
    separability: SeparabilitySummary | None = None

    @property
    def drop(self) -> Tensor:
        """``[C - k]`` int64, ascending: the channels not kept."""
        dropped = torch.ones(self.n_channels, dtype=torch.bool, device=self.keep.device)
        dropped[self.keep] = False
        return dropped.nonzero().flatten()


# What stands for a layer, or for each of the layers whose channels must go together.
SomeMoments = ClassMoments | Sequence[ClassMoments]
SomeWeights = LayerWeights | Array | Sequence[LayerWeights]


def select_channels(
    moments: SomeMoments,
    weights: SomeWeights,
    *,
    config: SelectionConfig | None = None,
) -> ChannelSelection:
    """Select the channels of one layer, or of several layers whose channels must go together.

    Args:
        moments: Class moments of its C channels; of several layers, a sequence. Then what separates
            the classes in any of them counts: the rows of their separability matrices are joined.
        weights: `LayerWeights`, or the layer's filters ``[C, ...]``, from which the norms follow,
            or ready-made weights ``[C]`` that stand for whatever ``config`` names. Of several
            layers, one `LayerWeights` of them together, or a sequence, which is summed.
        config: How; `SelectionConfig()` if left out.

    Returns:
        The selection, its tensors on the device of ``moments``.

    Raises:
        InputError: If an argument does not fit, the layer has fewer than 3 channels, or fewer than
            two classes have samples.
    """
    candidate = prepare(moments, weights, settings_of(config))
    if candidate.embedded:
        candidate = score(candidate, kmedoids_sweep(candidate.embedded.embedding))
    return finish(candidate)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer on its way through the steps; baselines have weights and nothing else.

    Attributes:
        weights: ``[C]`` float64 by which channels compete.
        config: How they are selected.
        embedded: The channels in two dimensions.
        separability: Summary of the separability matrix.
        sweep: The clusterings for every k.
        knee: The knee of their silhouettes.
    """

    weights: Tensor
    config: SelectionConfig
    embedded: TSNEResult | None = None
    separability: SeparabilitySummary | None = None
    sweep: KMedoidsSweep | None = None
    knee: Knee | None = None

    @property
    def n_channels(self) -> int:
        """C, the number of channels."""
        return self.weights.shape[0]

    def proportion(self, scale: float) -> float:
        """Return how many channels to keep if the whole model keeps more or less.

        It grows with ``scale``, from 0 to all C. At 1 the method keeps its knee k* and a baseline
        half; elsewhere C (k* / C)^(1 / scale): so small shares stay smaller and none exceeds 1.
        """
        if scale <= 0.0:
            return 0.0
        share = self.knee.k / self.n_channels if self.knee else 0.5
        return float(self.n_channels * share ** (1.0 / scale))


def settings_of(
    config: SelectionConfig | None, default: SelectionConfig | None = None
) -> SelectionConfig:
    """Return the settings given, or else the default ones.

    Raises:
        InputError: If they are no `SelectionConfig`.
    """
    if config is None:
        return default or SelectionConfig()
    if not isinstance(config, SelectionConfig):
        raise InputError(f"config must be a SelectionConfig, got {type(config).__name__}")
    return config


def prepare(moments: SomeMoments, weights: SomeWeights, config: SelectionConfig) -> Candidate:
    """Check the arguments of `select_channels` and do the steps up to the embedding."""
    if not isinstance(moments, Sequence):
        require_moments(moments)
        moments = [moments]
    layers = list(moments)
    for layer in layers:
        require_moments(layer)
    if len({layer.n_channels for layer in layers}) != 1:
        raise InputError(
            "moments must be of at least one layer, all with as many channels, "
            f"got {[layer.n_channels for layer in layers]}"
        )
    n_channels = layers[0].n_channels
    if n_channels < _MIN_CHANNELS:
        raise InputError(f"moments must have at least {_MIN_CHANNELS} channels, got {n_channels}")
    values = _channel_weights(weights, layers, config)
    if config.criterion != "separability":
        return Candidate(values, config)
    require_engine(config.engine)
    backend = backend_of(layers[0].count)
    statistics = [class_statistics(layer) for layer in layers]
    parts = [backend.separability_distances(found[0]) for found in statistics]
    rows = None
    if config.engine != "exact":
        rows = torch.cat([backend.jeffries_matusita(found[0]) for found in statistics], 1)
    embedded = tsne_of_distances(
        sum_in_order([part.squared for part in parts]),
        perplexity=config.perplexity,
        n_iter=config.n_iter,
        init=config.init,
        seed=config.seed,
        engine=config.engine,
        rows=rows,
    )
    mean = sum_in_order([part.row_mean for part in parts])
    summary = SeparabilitySummary(
        statistics[0][1],
        statistics[0][2],
        mean / torch.full_like(mean, len(parts)),
        torch.stack([part.row_max for part in parts]).amax(0),
    )
    return Candidate(values, config, embedded, summary)


def score(candidate: Candidate, sweep: KMedoidsSweep) -> Candidate:
    """Find the knee in the clusterings of the embedding."""
    mss = sweep.mss_mean if candidate.config.silhouette == "mean" else sweep.mss_nearest
    ks = torch.arange(2, candidate.n_channels)  # those of the sweep, which may be on a GPU
    knee = find_knee(ks, mss, method=candidate.config.knee)
    return replace(candidate, sweep=sweep, knee=knee)


def finish(candidate: Candidate, budget: Budget | None = None) -> ChannelSelection:
    """Choose as many channels as the budget says, by default that of the configuration."""
    budget = budget or own_budget(candidate)
    if candidate.sweep is None:
        return _by_rank(candidate, budget)
    return _by_separability(candidate, budget)


def own_budget(candidate: Candidate) -> Budget:
    """Return how many channels a layer keeps by its knee and its own bounds."""
    config = candidate.config
    found = apply_budget(
        candidate.knee.k if candidate.knee else candidate.n_channels,
        candidate.n_channels,
        budget=config.budget,
        round_to=config.round_to,
        min_channels=config.min_channels,
    )
    return found if candidate.knee or found.reason != "knee" else Budget(found.k, "budget")


def _channel_weights(
    weights: SomeWeights, layers: Sequence[ClassMoments], config: SelectionConfig
) -> Tensor:
    """Return the ``[C]`` float64 weights that the criterion needs."""
    n_channels, device = layers[0].n_channels, layers[0].count.device
    if config.criterion == "random":
        order = np.random.RandomState(config.seed).permutation(n_channels)
        return torch.from_numpy(order).double().to(device)
    if not isinstance(weights, LayerWeights) and getattr(weights, "ndim", 1) > 1:
        weights = LayerWeights.from_filters(cast(Array, weights))
    parts = weights if isinstance(weights, list | tuple) else [weights]
    if any(isinstance(part, LayerWeights) for part in parts):
        found = [_of_kind(kind, weights, layers) for kind in config.weight_kinds]
    else:
        found = [to_tensor(weights, "weights", "[C]", torch.float64).to(device)]
    for values in found:  # before they are places, which are always finite
        if values.shape[0] != n_channels:
            raise InputError(
                f"weights must be one for each of the {n_channels} channels, got {values.shape[0]}"
            )
        require_finite(values, "weights")
    return combined(found)


def _of_kind(kind: WeightKind, weights: Any, layers: Sequence[ClassMoments]) -> Tensor:
    """Return the weights of one kind, of one or several layers."""
    if isinstance(weights, LayerWeights):  # of all together: activations alone are the layers' own
        layers = layers if kind == "activation" else layers[:1]
        weights = [weights] * len(layers)
    if not all(isinstance(part, LayerWeights) for part in weights):
        raise InputError("weights must all be LayerWeights where one of them is")
    if len(weights) != len(layers):
        raise InputError(
            f"weights must be of the {len(layers)} layers of moments, got {len(weights)}"
        )
    device = layers[0].count.device
    parts = [part.of_kind(kind, of).to(device) for part, of in zip(weights, layers, strict=True)]
    if len({len(part) for part in parts}) > 1:
        raise InputError(
            f"weights must have as many channels each, got {[len(part) for part in parts]}"
        )
    return sum_in_order(parts)


def _by_rank(candidate: Candidate, budget: Budget) -> ChannelSelection:
    weights = candidate.weights
    keep = by_weight(weights)[: budget.k].sort().values
    return ChannelSelection(
        keep, len(weights), candidate.config.criterion, budget.k, budget.reason, weights
    )


def _by_separability(candidate: Candidate, budget: Budget) -> ChannelSelection:
    weights, embedded = candidate.weights, candidate.embedded
    sweep, knee = candidate.sweep, candidate.knee
    assert embedded is not None
    assert sweep is not None
    assert knee is not None
    labels = keep = medoids = torch.arange(len(weights), device=weights.device)
    if budget.k < len(weights):
        most = knee.k if candidate.config.beyond_knee == "weight" else budget.k
        clustering = sweep.clustering(min(budget.k, most))
        labels, medoids = clustering.cluster_labels, clustering.medoids
        keep = choose_by_weight(labels, weights)
        if len(keep) < budget.k:
            keep = medoids = with_heaviest(keep, weights, budget.k)
            labels = divided(labels, embedded.embedding, keep)
    return ChannelSelection(
        keep,
        len(weights),
        candidate.config.criterion,
        budget.k,
        budget.reason,
        weights,
        k_star=knee.k,
        knee_reason=knee.reason,
        ks=sweep.ks,
        mss=sweep.mss_mean if candidate.config.silhouette == "mean" else sweep.mss_nearest,
        loss=sweep.loss,
        embedding=embedded.embedding,
        kl_divergence=embedded.kl_divergence,
        cluster_labels=labels,
        medoids=medoids,
        separability=candidate.separability,
    )
