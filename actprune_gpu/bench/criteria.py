"""``python -m actprune_gpu.bench criteria``: which channels to keep, judged by what is left of mAP.

Every criterion prunes the same layers of the same network to the same operations, is repaired on
the same images and validated on the same others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from .. import yolo
from ..errors import InputError
from ..files import replace_file
from ..models.hooks import resolve_layers
from ..models.ultralytics.calibration import load_calibration
from ..models.ultralytics.channels import shrink_model, trace_model
from ..models.ultralytics.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    stride_of,
)
from ..models.ultralytics.confidence import match_confidence
from ..models.ultralytics.dataset import load_dataset
from ..models.ultralytics.matching import known_classes
from ..models.ultralytics.mirror import boxes_of, mirror
from ..models.ultralytics.predictions import prediction_error
from ..moments import ClassMoments
from ..pruning.evidence import Evidence, observe
from ..pruning.graph import ChannelGraph, ChannelGroup
from ..pruning.groups import choose_groups, moments_of
from ..pruning.repair import parse_repair
from ..pruning.step import Targets, full_cost, remove_and_repair, select_groups
from ..scalars import whole_number
from ..selection import PRESETS, SelectionConfig
from .peers import pruning_importance
from .report import machine

_SEEDS = 3  # of the criterion random
_WEIGHTS = ("l1", "l2", "gamma", "activation", "std", "reconstruct")


# Name, settings, and weights of a peer's if it is one.
Contender = tuple[str, SelectionConfig, Callable[[nn.Module], Tensor] | None]


@dataclass(frozen=True)
class Judged:
    """A row: a criterion at a target.

    Attributes:
        criterion: What chose the channels.
        allocation: How the layers shared the target.
        settings: How channels were selected.
        target_flops: Share of the operations asked for.
        flops: Share of the operations left.
        params: Share of the parameters left.
        cut: mAP50 and mAP50-95 with nothing repaired.
        repaired: The same after repair, without training.
        tuned: The same after a short fine-tuning; ``None`` if there was none.
        seconds: How long selection and repair took.
    """

    criterion: str
    allocation: str
    settings: Mapping[str, Any]
    target_flops: float
    flops: float
    params: float
    cut: tuple[float, float]
    repaired: tuple[float, float]
    tuned: tuple[float, float] | None
    seconds: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Judged:
        """Return the row that was written as these values."""
        pairs = ("cut", "repaired", "tuned")
        return cls(**{**values, **{name: values[name] and tuple(values[name]) for name in pairs}})

    def is_of(self, contender: Contender, target: float) -> bool:
        """Return whether this is the row of a contender at a target."""
        name, config, _ = contender
        return (self.criterion, self.allocation, self.target_flops) == (
            name,
            config.allocation,
            target,
        )

    def stands(self, contender: Contender, epochs: int) -> bool:
        """Return whether the contender need not be judged again: it may have changed since."""
        unchanged = self.settings == contender[1].model_dump(mode="json")
        return unchanged and (self.tuned is not None or not epochs)


def contenders() -> list[Contender]:
    """Return who is compared, ours first."""
    found: list[Contender] = [("separability (default)", yolo.DEFAULT_CONFIG, None)]
    changes = {f"weight {weight}": {"weight": weight} for weight in _WEIGHTS}
    changes["clusters beyond the knee"] = {"beyond_knee": "clusters"}
    found += [
        (f"separability, {name}", SelectionConfig.preset("repair", **change), None)
        for name, change in changes.items()
    ]
    found += [
        (f"separability, preset {name}", SelectionConfig.preset(name), None)
        for name in PRESETS
        if name not in ("default", "repair")  # the latter is the first of all
    ]
    found.append(
        ("reconstruct", SelectionConfig(criterion="reconstruct", allocation="damage"), None)
    )
    # As people use them, with equal shares, and with ours: what is due to the shares alone?
    for allocation in ("proportion", "damage"):
        settings: dict[str, dict[str, Any]] = {
            name: {"criterion": name} for name in ("std", "gamma", "l1", "l2")
        }
        for seed in range(_SEEDS):
            settings[f"random, seed {seed}"] = {"criterion": "random", "seed": seed}
        found += [
            (name, SelectionConfig(**each, allocation=allocation), None)
            for name, each in settings.items()
        ]
    # Ready-made weights stand for those that the criterion names.
    peer = pruning_importance("LAMP")
    found.append(("LAMP (torch-pruning)", SelectionConfig(criterion="l1"), peer))
    return found


def judge(
    model: Path,
    data: Path,
    targets: Sequence[float],
    *,
    classes: Sequence[str] = (),
    only: Sequence[str] = (),
    repair_images: int = 128,
    epochs: int = 1,
    image_size: int | None = None,
    out: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Judged]:
    """Compare the criteria on a model and a data set.

    Args:
        model: The checkpoint.
        data: The data set: repaired and tuned on its split ``train``, validated on ``val``.
        targets: Shares of the operations to keep.
        classes: Prune for, and validate on, these classes only; all of them if left out.
        only: Names or patterns (``"random*"``) of contenders; all of them if left out.
        repair_images: Images to repair on.
        epochs: Of fine-tuning; 0 for none.
        image_size: Longer side of the network's input; what it was trained with if left out.
        out: A JSON file for the rows, written after each. Those that are in it already stand,
            unless they lack the fine-tuning or were selected by other settings; they must be of
            the same task.
        say: Called with a line about every row.

    Raises:
        InputError: If an argument does not fit, or a file cannot be read.
    """
    everybody = contenders()
    names = resolve_layers([name for name, _, _ in everybody], only, what="contender")
    chosen = [contender for contender in everybody if contender[0] in names]
    for target in targets:
        Targets(flops=target)  # or it complains
    repair_images = whole_number(repair_images, "repair_images")
    epochs = whole_number(epochs, "epochs", 0)
    checkpoint = load_checkpoint(model)
    size = image_size or yolo.trained_image_size(checkpoint)
    with _narrowed(data, classes) as task:
        bench = _Bench(checkpoint, data, task, size, repair_images, classes)
        rows = _read(out, bench.task)
        for target in targets:
            for contender in chosen:
                old = [row for row in rows if row.is_of(contender, target)]
                if any(row.stands(contender, epochs) for row in old):
                    continue
                rows = [row for row in rows if row not in old]
                rows.append(bench.judge(contender, target, epochs))
                say(line(rows[-1]))
                if out:
                    content = {
                        **machine(),
                        **bench.task,
                        "unpruned": bench.unpruned,
                        "epochs": epochs,
                        "rows": [asdict(row) for row in rows],
                    }
                    replace_file(out, (json.dumps(content, indent=1) + "\n").encode())
    return rows


def line(row: Judged) -> str:
    """Return a row as text."""
    tuned = "" if row.tuned is None else f"{row.tuned[0]:.3f} {row.tuned[1]:.3f}"
    return (
        f"{row.criterion:34} {row.allocation:10} {row.target_flops:.2f} {row.flops:.3f} "
        f"{row.params:.3f}  {row.cut[0]:.3f} {row.cut[1]:.3f}  "
        f"{row.repaired[0]:.3f} {row.repaired[1]:.3f}  {tuned}  {row.seconds:.0f} s"
    )


class _Bench:
    """What all criteria share: images, moments of the classes, and what images say.

    Attributes:
        task: What rows must have in common to be compared.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: Path,
        narrowed: Path,
        size: int,
        repair_images: int,
        classes: Sequence[str],
    ) -> None:
        self._checkpoint, self._data, self._narrowed, self._size = checkpoint, data, narrowed, size
        self._graph = trace_model(checkpoint.model)
        self._groups = choose_groups(self._graph)
        self._original = full_cost(self._graph)
        self._images = load_dataset(narrowed)
        self._known = known_classes(self._images.class_names, checkpoint.class_names)
        self._calibration = load_calibration(
            self._images.images[:repair_images],
            size,
            torch.device("cpu"),
            stride_of(checkpoint.model),
        )
        self.task: dict[str, Any] = {
            "model": checkpoint.path.name,
            "model_sha256": checkpoint.fingerprint,
            "data": data.name,
            "classes": list(classes),
            "image_size": size,
            "repair_images": len(self._calibration),
        }

    # What takes minutes is done when the first row needs it.

    @cached_property
    def unpruned(self) -> tuple[float, float]:
        """MAP50 and mAP50-95 of the network as it is."""
        return self._validate(self._checkpoint.model)

    @cached_property
    def _moments(self) -> Mapping[str, ClassMoments]:
        layers = list(dict.fromkeys(layer for g in self._groups for layer in g.members))
        # One class alone separates nothing: then all that are labelled are gathered.
        one_class = len(self.task["classes"]) == 1
        source = load_dataset(self._data) if one_class else self._images
        return yolo.gather(self._checkpoint, source, layers, image_size=self._size).moments

    @cached_property
    def _evidence(self) -> Evidence:
        return observe(
            self._checkpoint.model,
            self._graph,
            self._groups,
            self._calibration,
            error_of=partial(prediction_error, classes=self._known),
        )

    def judge(self, contender: Contender, target: float, epochs: int) -> Judged:
        name, config, importance = contender
        weights = None
        if importance:
            weights = {
                group.name: _summed(self._graph, group, importance) for group in self._groups
            }
        moments, evidence = self._moments, self._evidence
        began = time.perf_counter()
        selections = select_groups(
            self._graph,
            self._groups,
            moments_of(self._groups, moments),
            config=config,
            targets=Targets(flops=target),
            original=self._original,
            evidence=evidence,
            devices=[torch.device("cpu")],
            weights=weights,
        )
        keep = {group: selection.keep.tolist() for group, selection in selections.items()}
        repaired = self._without(keep, "reconstruct+bn")
        seconds = time.perf_counter() - began
        left = self._graph.cost(self._graph.kept(keep))
        return Judged(
            name,
            config.allocation,
            config.model_dump(mode="json"),
            target,
            left.flops / self._original.flops,
            left.parameters / self._original.parameters,
            self._validate(self._without(keep, "none")),
            self._validate(repaired),
            self._tuned(repaired, epochs) if epochs else None,
            seconds,
        )

    def _without(self, keep: Mapping[str, Sequence[int]], repair: str) -> nn.Module:
        return remove_and_repair(
            self._checkpoint.model,
            self._graph,
            keep,
            methods=parse_repair(repair),
            calibration=self._calibration,
            shrink=shrink_model,
            finish=partial(match_confidence, classes=self._known),
        )

    def _validate(self, model: nn.Module) -> tuple[float, float]:
        found = yolo.validate(model, self._narrowed, self._size)
        return found["map50"], found["map50_95"]

    def _tuned(self, model: nn.Module, epochs: int) -> tuple[float, float]:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "pruned.pt"
            save_checkpoint(self._checkpoint, model, file)
            result = yolo.train(
                file,
                self._narrowed,
                out=Path(folder) / "tuned",
                epochs=epochs,
                image_size=self._size,
                batch_size=8,
                # Gentle: the network is nearly trained. No mosaic, as in the last epochs of a run.
                optimizer="AdamW",
                lr0=2e-4,
                warmup_epochs=0.0,
                mosaic=0.0,
                workers=0,
            )
            return self._validate(load_checkpoint(result.last).model)


def _summed(
    graph: ChannelGraph, group: ChannelGroup, importance: Callable[[nn.Module], Tensor]
) -> Tensor:
    """Return a peer's scores of a group, summed over the convolutions that write it."""
    total = torch.zeros(group.n_channels, dtype=torch.float64)
    for use in graph.uses.values():
        if use.layer in group.members and use.is_convolution and use.mixes:
            total += importance(use.module)[torch.from_numpy(group.members[use.layer])].double()
    return total


@contextmanager
def _narrowed(data: Path, classes: Sequence[str]) -> Iterator[Path]:
    """Yield the data set with the labels of these classes only."""
    if not classes:
        yield data
        return
    with TemporaryDirectory() as folder:
        splits = {split: load_dataset(data, split) for split in ("train", "val")}
        unknown = set(classes) - set(splits["train"].class_names)
        if unknown:
            raise InputError(f"classes must be in the data set, got {', '.join(sorted(unknown))}")
        labelled = {split: boxes_of(dataset, list(classes)) for split, dataset in splits.items()}
        yield mirror(labelled, list(classes), Path(folder))


def _read(out: Path | None, task: Mapping[str, Any]) -> list[Judged]:
    """Return the rows in a file, which must be of the same task."""
    if out is None or not out.is_file():
        return []
    try:
        found = json.loads(out.read_text(encoding="utf-8"))
        rows = [Judged.of(row) for row in found["rows"]]
    except (ValueError, TypeError, KeyError):
        raise InputError(f"out must be a file of such rows or none yet, got {out}") from None
    for name, value in task.items():
        if found.get(name, value) != value:
            raise InputError(
                f"out must hold rows of the same {name} or be another file, "
                f"got {found[name]} in {out}, not {value}"
            )
    return rows
