"""The plan: what was kept of which layer and why, as a JSON file that can be replayed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError
from ..files import replace_file
from ..markup import layer_markup, table_markup
from ..selection import ChannelSelection, SelectionConfig
from .graph import ChannelGraph
from .repair import parse_repair

Mode = Literal["remove", "zero"]

SCHEMA = "actprune_gpu.plan/3"
PLAN_FILE = "plan.json"
# The second form lacks what has a default here.
_READABLE = ("actprune_gpu.plan/2", SCHEMA)


def require_mode(mode: str) -> Mode:
    """Return what is to be done with dropped channels.

    Raises:
        InputError: If it is none of what can be done.
    """
    if mode not in get_args(Mode):
        raise InputError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    return cast("Mode", mode)


class _Record(BaseModel):
    # Before 2.10 Pydantic takes names that begin with model_ for its own.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class Curves(_Record):
    """The sweep of a layer: one entry for each number of clusters."""

    ks: list[int]
    mss: list[float]
    loss: list[float]

    @model_validator(mode="after")
    def _check_lengths(self) -> Curves:
        if not len(self.ks) == len(self.mss) == len(self.loss):
            raise ValueError("ks, mss and loss must have as many entries each")
        return self


class SeparabilityRecord(_Record):
    """What the classes said: see `actprune_gpu.selection.SeparabilitySummary`."""

    classes: list[str]
    left_out: list[str]
    mean: list[float]
    max: list[float]


class Costs(_Record):
    """What a network costs before and after: see `actprune_gpu.pruning.graph.Cost`."""

    parameters: tuple[int, int]
    flops: tuple[int, int]


class GroupPlan(_Record):
    """What is kept of channels that go together, and why: see `actprune_gpu.ChannelSelection`.

    Attributes:
        name: Of the group.
        members: Layers that put these channels out, and their numbers there; a list of them for
            each where each is several, as a head of attention is.
        channels: How many they are.
        keep: Those that are kept, as numbers within the group.
        candidates: The channels that the selection was made from, as numbers within the group:
            all, or those that earlier steps have left. Weights, clusters, medoids and embedding are
            about them.
    """

    name: str
    members: dict[str, list[int] | list[list[int]]]
    channels: int
    candidates: list[int]
    keep: list[int]
    k: int
    reason: str
    weights: list[float]
    k_star: int | None = None
    knee_reason: str | None = None
    cluster_labels: list[int] | None = None
    medoids: list[int] | None = None
    embedding: list[tuple[float, float]] | None = None
    kl_divergence: float | None = None
    curves: Curves | None = None
    separability: SeparabilityRecord | None = None

    @property
    def numbers(self) -> dict[str, list[int]]:
        """Layers and numbers of the channels, the first one of those that are several."""
        return {
            layer: [each if isinstance(each, int) else each[0] for each in numbers]
            for layer, numbers in self.members.items()
        }

    @property
    def drop(self) -> list[int]:
        """The channels not kept, ascending."""
        return sorted(set(range(self.channels)) - set(self.keep))

    def _repr_html_(self) -> str:
        return layer_markup(
            self.name,
            self.channels,
            self.keep,
            self.reason,
            knee=self.k_star,
            k=self.k,
            mss=self.curves.mss if self.curves else None,
        )

    @model_validator(mode="after")
    def _check_channels(self) -> GroupPlan:
        for what, numbers in (("keep", self.keep), ("candidates", self.candidates)):
            if not numbers or numbers != sorted(set(numbers)):
                raise ValueError(f"{what} of {self.name} must ascend and not be empty")
            if numbers[0] < 0 or numbers[-1] >= self.channels:
                raise ValueError(f"{what} of {self.name} must lie in 0..{self.channels - 1}")
        if not set(self.keep) <= set(self.candidates):
            raise ValueError(f"keep of {self.name} must be some of its candidates")
        if not self.members or any(len(at) != self.channels for at in self.members.values()):
            raise ValueError(f"members of {self.name} must have {self.channels} channels each")
        if min(min(numbers) for numbers in self.numbers.values()) < 0:
            raise ValueError(f"members of {self.name} must not have negative numbers")
        return self

    @model_validator(mode="after")
    def _check_candidates(self) -> GroupPlan:
        """What is said of each candidate must be said of all."""
        seen = self.separability
        said = {
            "weights": self.weights,
            "cluster_labels": self.cluster_labels,
            "embedding": self.embedding,
            "separability.mean": seen.mean if seen else None,
            "separability.max": seen.max if seen else None,
        }
        n_candidates = len(self.candidates)
        for what, values in said.items():
            if values is not None and len(values) != n_candidates:
                raise ValueError(
                    f"{what} of {self.name} must have {n_candidates} entries, as candidates has, "
                    f"got {len(values)}"
                )
        for medoid in self.medoids or ():
            if not 0 <= medoid < n_candidates:
                raise ValueError(f"medoids of {self.name} must lie in 0..{n_candidates - 1}")
        n_clusters = len(self.medoids or ())
        if not all(0 <= label < n_clusters for label in self.cluster_labels or ()):
            raise ValueError(f"cluster_labels of {self.name} must lie in 0..{n_clusters - 1}")
        return self

    @classmethod
    def of(
        cls,
        name: str,
        members: Mapping[str, Sequence[Any]],
        selection: ChannelSelection,
        candidates: Sequence[int],
    ) -> GroupPlan:
        """Write down the selection of a group; the channels are numbered as its members are."""
        summary = selection.separability
        return cls(
            name=name,
            members={layer: list(numbers) for layer, numbers in members.items()},
            channels=len(next(iter(members.values()))),
            candidates=list(candidates),
            keep=[candidates[number] for number in selection.keep.tolist()],
            k=selection.k,
            reason=selection.reason,
            weights=selection.weights.tolist(),
            k_star=selection.k_star,
            knee_reason=selection.knee_reason,
            cluster_labels=_list(selection.cluster_labels),
            medoids=_list(selection.medoids),
            embedding=_list(selection.embedding),
            kl_divergence=selection.kl_divergence,
            curves=None
            if selection.ks is None
            else Curves(
                ks=_list(selection.ks), mss=_list(selection.mss), loss=_list(selection.loss)
            ),
            separability=None
            if summary is None
            else SeparabilityRecord(
                classes=list(summary.classes),
                left_out=list(summary.left_out),
                mean=summary.mean.tolist(),
                max=summary.max.tolist(),
            ),
        )


class PruningPlan(_Record):
    """Everything that decides the pruned model, and what it came from.

    Attributes:
        schema_version: Name and version of this form.
        model_name: File name of the model.
        model_sha256: Fingerprint of that file.
        data_sha256: Fingerprint of the data that the activations came from.
        gathering: Settings and counts of the gathering.
        selection: Settings of the selection.
        mode: ``"remove"`` or ``"zero"``.
        repair: The methods of repair, joined by ``+``, or ``"none"``.
        repair_images: On how many images.
        targets: What the pruned model was to cost, as shares: ``{"flops": 0.5}``.
        steps: In how many steps channels were selected.
        cost: Of the network before and after, for an image of the size in ``gathering``.
        groups: The groups of channels, in the order in which the network runs them.
        versions: Of the packages involved.
    """

    schema_version: str = SCHEMA
    model_name: str
    model_sha256: str
    data_sha256: str
    gathering: dict[str, Any]
    selection: dict[str, Any]
    mode: Mode
    repair: str
    repair_images: int = Field(ge=0)
    targets: dict[str, float]
    steps: int = Field(ge=1)
    groups: list[GroupPlan]
    versions: dict[str, str]
    cost: Costs | None = None

    @model_validator(mode="after")
    def _check_settings(self) -> PruningPlan:
        parse_repair(self.repair)
        SelectionConfig(**self.selection)
        if "images" in self.gathering:  # else samples of any network
            for name in ("n_images", "images", "image_size", "objects", "matched"):
                if not isinstance(self.gathering.get(name), int):
                    raise ValueError(f"gathering.{name} must be a whole number")
            if not isinstance(self.gathering.get("split"), str):
                raise ValueError("gathering.split must be a name")
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError("groups must have names of their own")
        return self

    @property
    def keep(self) -> dict[str, list[int]]:
        """The channels kept, by group."""
        return {group.name: group.keep for group in self.groups}

    @property
    def config(self) -> SelectionConfig:
        """The settings of the selection."""
        return SelectionConfig(**self.selection)

    def require_fit(self, graph: ChannelGraph, model_name: str) -> None:
        """Raise ``InputError`` unless a model has the plan's groups of channels.

        Args:
            graph: Of the model.
            model_name: What messages call it.
        """
        groups = {group.name: group for group in graph.groups}
        for planned in self.groups:
            if planned.name not in groups:
                raise InputError(
                    f"the plan's {planned.name} is not in {model_name}, "
                    f"which has {', '.join(list(groups)[:3])}..."
                )
            group = groups[planned.name]
            if group.n_channels != planned.channels:
                raise InputError(
                    f"the plan's {planned.name} has {planned.channels} channels, "
                    f"that of {model_name} has {group.n_channels}"
                )
            members = {layer: at.tolist() for layer, at in group.members.items()}
            if members != planned.members:
                raise InputError(
                    f"the plan's {planned.name} goes together with {', '.join(planned.members)}, "
                    f"that of {model_name} with {', '.join(members)}"
                )
        graph.kept(self.keep)

    def _repr_html_(self) -> str:
        rows = [
            (group.name, group.channels, len(group.keep), group.k_star, group.reason)
            for group in self.groups
        ]
        kept = sum(len(group.keep) for group in self.groups)
        channels = sum(group.channels for group in self.groups)
        note = f"{self.model_name}: {kept} of {channels} channels kept"
        if self.cost:
            shares = {"parameters": self.cost.parameters, "operations": self.cost.flops}
            note += "".join(
                f", {after / before:.1%} of the {name}" for name, (before, after) in shares.items()
            )
        return table_markup(rows, note)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False)
        replace_file(Path(path), (text + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningPlan:
        """Read a plan.

        Args:
            path: The file, or the folder that ``prune`` has written it into.

        Raises:
            InputError: If ``path`` is missing or no plan of this version.
        """
        file = Path(path)
        if file.is_dir():
            file /= PLAN_FILE
        if not file.is_file():
            raise InputError(f"no plan at {file}")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{file} must be a plan in JSON, got: {error}") from None
        found = content.get("schema_version") if isinstance(content, dict) else None
        if found not in _READABLE:
            raise InputError(f"{file} must have schema_version {SCHEMA!r}, got {found!r}")
        try:
            return cls(**{**content, "schema_version": SCHEMA})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{file} is not a valid plan: {where}: {first['msg']}") from None


def _list(tensor: Any) -> Any:
    return None if tensor is None else tensor.tolist()
