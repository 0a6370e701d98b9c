"""How much the channels kept depend on the start of t-SNE, and on the images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from ..budget import Budget
from ..errors import InputError
from ..layers import select_layers
from ..moments import ClassMoments
from ..pruning.folder import STABILITY_FILE, FolderLike, PlanFolder, open_folder
from ..pruning.plan import GroupPlan
from ..scalars import whole_number
from ..selection import Candidate, ChannelSelection, SelectionConfig
from ..shards import resample

SCHEMA = "actprune_gpu.stability/1"


@dataclass(frozen=True)
class Repeats:
    """What repeated selections of a group came to.

    Attributes:
        jaccard: Of each with the plan's keep list: how many channels both keep, by how many either
            does.
        knees: Of each.
        kept: By candidate, how many of the selections keep it.
    """

    jaccard: list[float] = field(default_factory=list)
    knees: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    @property
    def mean(self) -> float | None:
        """The mean Jaccard index, or ``None`` if there are no repeats."""
        return float(np.mean(self.jaccard)) if self.jaccard else None


@dataclass(frozen=True)
class GroupStability:
    """How stable the keep list of a group is.

    Attributes:
        chance: The Jaccard index of two random lists as long as the plan's.
        starts: Repeats from other starts of t-SNE.
        images: Repeats on other draws of the images; empty without shards.
    """

    chance: float
    starts: Repeats
    images: Repeats


@dataclass(frozen=True)
class Stability:
    """How stable a plan is; by group, without those that keep all channels.

    Attributes:
        seeds: Number of starts of t-SNE, which are random.
        resamples: Number of draws of the images, 0 if the moments have no shards.
        groups: By name.
    """

    seeds: int
    resamples: int
    groups: dict[str, GroupStability]

    @classmethod
    def load(cls, folder: PlanFolder) -> Stability | None:
        """Read what `measure_stability` has written about a folder's plan, if anything."""
        content = folder.read(STABILITY_FILE, SCHEMA)
        if content is None:
            return None
        try:
            groups = {
                name: GroupStability(
                    group["chance"], Repeats(**group["starts"]), Repeats(**group["images"])
                )
                for name, group in content["groups"].items()
            }
            return cls(content["seeds"], content["resamples"], groups)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder.path / STABILITY_FILE} is damaged: {error}") from None


def measure_stability(
    folder: FolderLike,
    *,
    seeds: int = 10,
    resamples: int = 10,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Stability:
    """Select again and again, and compare with the plan; the result is written beside it.

    Every group keeps as many channels as in the plan and its weights are those of the plan; what
    varies is the embedding, and the clusters in it. The plan's own t-SNE may start from principal
    axes, which know no seed, so the starts here are random ones, with the seeds after the plan's.
    Draws of the images keep the plan's start: the moments of parts of the images are drawn with
    replacement and merged (a bootstrap of blocks, Efron 1979, Kuensch 1989).

    Args:
        folder: Where plan and moments are, its path or what was read from it.
        seeds: Number of starts.
        resamples: Number of draws, from seeds 1, 2, ...; none without shards.
        device: Where to select.
        progress: Called with (selections done, selections in all).

    Raises:
        InputError: If there are no moments, or nothing in the plan depends on them.
    """
    seeds, resamples = whole_number(seeds, "seeds", 0), whole_number(resamples, "resamples", 0)
    folder = open_folder(folder)
    config = folder.plan.config
    if config.criterion != "separability":
        raise InputError(
            "stability is of the criterion 'separability': "
            f"{config.criterion!r} ranks by weights, which neither t-SNE nor the moments decide"
        )
    moments = folder.require_moments()
    groups = [
        group
        for group in folder.plan.groups
        if len(group.keep) < len(group.candidates) and folder.has_moments(group)
    ]
    draws = resamples if len([shard for shard in folder.shards if shard]) > 1 else 0
    found = {
        group.name: GroupStability(
            _chance(len(group.keep), len(group.candidates)), _nothing(group), _nothing(group)
        )
        for group in groups
    }
    for number in range(seeds + draws):
        if number < seeds:
            seed = (config.seed + number + 1) % 2**32
            settings = config.model_copy(update={"init": "random", "seed": seed})
            selections = _select(folder, groups, moments, settings, device)
        else:
            drawn = resample(folder.shards, number - seeds + 1)
            selections = _select(folder, groups, drawn, config, device)
        for group in groups:
            own = found[group.name]
            _add(own.starts if number < seeds else own.images, group, selections)
        if progress:
            progress(number + 1, seeds + draws)
    stability = Stability(seeds, draws, found)
    folder.write(STABILITY_FILE, SCHEMA, asdict(stability))
    return stability


def _select(
    folder: PlanFolder,
    groups: list[GroupPlan],
    moments: Mapping[str, ClassMoments],
    config: SelectionConfig,
    device: torch.device | str,
) -> dict[str, ChannelSelection]:
    """Select as many channels as the plan has."""

    def share(candidates: Mapping[str, Candidate]) -> dict[str, Budget]:
        return {group.name: Budget(len(group.keep), group.reason) for group in groups}

    missing = [layer for group in groups for layer in group.members if layer not in moments]
    if missing:
        raise InputError(f"the images drawn hold no object that {missing[0]} was gathered at")
    on_device = {
        group.name: [part.to(device) for part in folder.moments_of(group, moments)]
        for group in groups
    }
    weights: Any = {
        group.name: torch.tensor(group.weights, dtype=torch.float64) for group in groups
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few channels, as when the plan was made
        return select_layers(on_device, weights, config=config, share=share)


def _add(repeats: Repeats, group: GroupPlan, selections: Mapping[str, ChannelSelection]) -> None:
    selection = selections[group.name]
    assert selection.k_star is not None
    keep = selection.keep.tolist()
    repeats.jaccard.append(jaccard([group.candidates[number] for number in keep], group.keep))
    repeats.knees.append(selection.k_star)
    for number in keep:
        repeats.kept[number] += 1


def _nothing(group: GroupPlan) -> Repeats:
    return Repeats(kept=[0] * len(group.candidates))


def jaccard(first: list[int], second: list[int]) -> float:
    """Return the Jaccard index of two lists of channels: both by either (Jaccard 1901)."""
    return len(set(first) & set(second)) / len(set(first) | set(second))


def _chance(kept: int, channels: int) -> float:
    """Return the Jaccard index of two random lists with as many in common as expected."""
    common = kept * kept / channels
    return common / (2 * kept - common)
