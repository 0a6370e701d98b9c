"""Where two plans for one model differ."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..pruning.plan import GroupPlan, PruningPlan
from .stability import jaccard


@dataclass(frozen=True)
class GroupDifference:
    """What two plans do with a group of channels; one that is not in a plan keeps all channels.

    Attributes:
        name: Of the group.
        channels: How many it has.
        first: How many the first plan keeps.
        second: How many the second plan keeps.
        common: How many both keep.
        jaccard: ``common`` by how many either keeps.
    """

    name: str
    channels: int
    first: int
    second: int
    common: int
    jaccard: float


@dataclass(frozen=True)
class PlanDifference:
    """Where two plans for one model differ.

    Attributes:
        groups: The groups that are in either plan.
        settings: By name, the settings that differ, of the first and of the second plan.
    """

    groups: list[GroupDifference]
    settings: dict[str, tuple[str, str]]


def compare(first: PruningPlan, second: PruningPlan) -> PlanDifference:
    """Compare the channels that two plans keep.

    Raises:
        InputError: If they are for different models.
    """
    if first.model_sha256 != second.model_sha256:
        raise InputError(
            "plans to compare must be for one model, got "
            f"{first.model_name} (SHA-256 {first.model_sha256[:12]}) and "
            f"{second.model_name} (SHA-256 {second.model_sha256[:12]})"
        )
    ours, theirs = ({group.name: group for group in plan.groups} for plan in (first, second))
    names = [*ours, *(name for name in theirs if name not in ours)]
    groups = [_difference(ours.get(name), theirs.get(name)) for name in names]
    settings = {}
    for name, (old, new) in _settings(first, second).items():
        if old != new:
            settings[name] = (str(old), str(new))
    return PlanDifference(groups, settings)


def _difference(first: GroupPlan | None, second: GroupPlan | None) -> GroupDifference:
    known = first or second
    assert known is not None
    if first and second and first.channels != second.channels:
        raise InputError(
            f"plans to compare must be for one model, {known.name} has {first.channels} channels "
            f"in the first and {second.channels} in the second"
        )
    ours, theirs = (
        group.keep if group else list(range(known.channels)) for group in (first, second)
    )
    common = len(set(ours) & set(theirs))
    return GroupDifference(
        known.name, known.channels, len(ours), len(theirs), common, jaccard(ours, theirs)
    )


def _settings(first: PruningPlan, second: PruningPlan) -> dict[str, tuple[object, object]]:
    both = [
        {
            **plan.selection,
            **{f"target_{name}": share for name, share in plan.targets.items()},
            "data_sha256": plan.data_sha256[:12],
            "images": plan.gathering.get("images"),
            "split": plan.gathering.get("split"),
            "image_size": plan.gathering.get("image_size"),
            "steps": plan.steps,
        }
        for plan in (first, second)
    ]
    return {name: (both[0].get(name), both[1].get(name)) for name in {**both[0], **both[1]}}
