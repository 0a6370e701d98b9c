"""The commands and their options. Heavy imports wait until a command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..selection import SelectionConfig

Force = Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
NoVal = Annotated[
    bool,
    typer.Option("--no-val", help="Skip measuring file size, latency and mAP before and after."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
ModeOption = Annotated[str, typer.Option(help="remove or zero.")]


def prune_command(
    out: Out,
    model: Annotated[
        Path | None, typer.Option(help="YOLO checkpoint; a tiny one is built in.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data set, an Ultralytics YAML file; one is built in.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Layer or pattern such as 'model.6.*'; repeatable. [all]"),
    ] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option(help="Layer or pattern that keeps all channels; repeatable."),
    ] = None,
    target_flops: Annotated[
        float | None, typer.Option(help="Share of the operations to keep, in place of --budget.")
    ] = None,
    target_params: Annotated[
        float | None, typer.Option(help="Share of the parameters to keep, in place of --budget.")
    ] = None,
    mode: ModeOption = "remove",
    repair: Annotated[
        str, typer.Option(help="none, or some of mean, fold, reconstruct, bn joined by +.")
    ] = "reconstruct+bn",
    repair_images: Annotated[
        int, typer.Option(help="Measure damage and weights, and repair, on this many images.")
    ] = 128,
    steps: Annotated[int, typer.Option(help="Select and repair in so many steps.")] = 1,
    criterion: Annotated[
        str, typer.Option(help="separability, reconstruct, std, gamma, l1, l2 or random.")
    ] = "separability",
    preset: Annotated[str, typer.Option(help="repair, default, upstream or paper.")] = "repair",
    weight: Annotated[
        str | None,
        typer.Option(
            help="l1, l2, gamma, activation, std or reconstruct, or several joined by +. "
            "[activation+reconstruct; the preset's]"
        ),
    ] = None,
    beyond_knee: Annotated[
        str | None,
        typer.Option(
            help="Where more is kept than the knee says: weight (one of each of its clusters, then "
            "by weight) or clusters (as many clusters). [weight; the preset's]"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Share of the channels that every layer keeps, LOW:HIGH, or 'none'. "
            "[0.25:0.5, without a target]"
        ),
    ] = None,
    allocation: Annotated[
        str | None,
        typer.Option(
            help="How layers share a target: damage (measured) or proportion (to the knees). "
            "[damage; the preset's]"
        ),
    ] = None,
    round_to: Annotated[int, typer.Option(help="Keep multiples of this many channels.")] = 1,
    min_channels: Annotated[int, typer.Option(help="No layer keeps fewer.")] = 2,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    engine: Annotated[
        str, typer.Option(help="t-SNE: exact; tsnecuda or cuml, approximate, not reproducible.")
    ] = "exact",
    split: Annotated[str, typer.Option(help="Split to gather activations from.")] = "train",
    val_split: Annotated[str, typer.Option(help="Split to measure mAP on.")] = "val",
    images: Annotated[int | None, typer.Option(help="Gather from this many images. [all]")] = None,
    image_size: Annotated[
        int | None, typer.Option("--imgsz", help="Input size. [the model's]")
    ] = None,
    confidence: Annotated[
        float, typer.Option("--conf", help="Predictions below it do not count.")
    ] = 0.25,
    device: Device = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at bad images or labels.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")
    ] = False,
    force: Force = False,
    no_val: NoVal = False,
) -> None:
    """Prune a YOLO model: gather, select channels, remove the rest, repair."""
    config = _config(
        preset,
        criterion,
        weight,
        beyond_knee,
        allocation,
        budget,
        round_to=round_to,
        min_channels=min_channels,
        seed=seed,
        engine=engine,
        **({"init": "random"} if engine == "cuml" else {}),
    )
    has_target = target_flops is not None or target_params is not None
    _require_meaning(criterion, weight, beyond_knee, allocation, budget, has_target=has_target)
    from dataclasses import asdict

    from .. import yolo
    from ..devices import resolve_device
    from ..distributed import Ranks, processes
    from ..pruning.folder import EFFECT_FILE, EFFECT_SCHEMA, PlanFolder
    from ..pruning.plan import require_mode
    from ..report import write_report
    from .output import Bars, print_cost, print_effect, print_files, print_plan

    with processes(), _inputs(model, data) as (model_file, data_file), Bars() as bars:
        ranks = Ranks.current()
        first = ranks.rank == 0
        if not no_val:  # the first process does it, and finds out before work is done
            ranks.on_first(lambda: _require_labels(model_file, data_file, val_split))
        result = yolo.prune(
            model_file,
            data_file,
            out=out,
            layers=layers or (),
            protect=protect or (),
            config=config,
            target_flops=target_flops,
            target_params=target_params,
            mode=require_mode(mode),
            repair=repair,
            repair_images=repair_images,
            steps=steps,
            split=split,
            images=images,
            image_size=image_size,
            confidence=confidence,
            device=device,
            strict=strict,
            resume=resume,
            force=force,
            progress=bars.update if first else None,
        )
        bars.stop()
        if not first:
            return
        print_plan(result)
        if no_val:
            assert result.plan.cost is not None
            print_cost(result.plan.cost)
        else:
            size = int(result.plan.gathering["image_size"])
            before, after = (
                yolo.validate(file, data_file, size, resolve_device(device), split=val_split)
                for file in (model_file, result.files["model"])
            )
            effect = yolo.measure_effect(
                model_file,
                result.files["model"],
                image_size=size,
                device=device,
                accuracy_before=before,
                accuracy_after=after,
            )
            print_effect(effect)
            PlanFolder.load(out).write(EFFECT_FILE, EFFECT_SCHEMA, asdict(effect))
        print_files({**result.files, "report": write_report(out)})


def apply_command(
    plan: Annotated[Path, typer.Option(help="A plan.json.")],
    model: Annotated[Path, typer.Option(help="YOLO checkpoint.")],
    out: Out,
    data: Annotated[
        Path | None, typer.Option(help="Data set to repair on; without it nothing is repaired.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="remove or zero. [the plan's]")] = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Replay a plan on a model."""
    from .. import yolo
    from ..pruning.plan import require_mode
    from ..report import write_report
    from .output import Bars, print_files, print_plan

    with Bars() as bars:
        result = yolo.apply(
            plan,
            model,
            data,
            out=out,
            mode=None if mode is None else require_mode(mode),
            device=device,
            force=force,
            progress=bars.update,
        )
    print_plan(result)
    print_files({**result.files, "report": write_report(out)})


def train_command(
    model: Annotated[Path, typer.Option(help="YOLO checkpoint, such as a pruned one.")],
    data: Annotated[Path, typer.Option(help="Data set, an Ultralytics YAML file.")],
    out: Out,
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = 100,
    image_size: Annotated[
        int | None, typer.Option("--imgsz", help="Input size. [the model's]")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch", help="Images in one step.")] = 16,
    lr0: Annotated[float | None, typer.Option(help="Initial learning rate. [automatic]")] = None,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted training in --out.")
    ] = False,
    force: Force = False,
) -> None:
    """Fine-tune a model and keep its pruned shapes."""
    from .. import yolo
    from .output import Bars

    # Ultralytics chooses the rate by itself together with the optimizer, unless that is given.
    rate = {} if lr0 is None else {"lr0": lr0, "optimizer": "SGD"}
    with Bars() as bars:
        result = yolo.train(
            model,
            data,
            out=out,
            epochs=epochs,
            image_size=image_size,
            batch_size=batch_size,
            device=device,
            resume=resume,
            force=force,
            progress=lambda done, total: bars.update("epochs", done, total),
            **rate,
        )
    for name, value in result.metrics.items():
        print(f"{name:22}{value:.4f}")
    print(f"{'best':9}{result.best}")
    print(f"{'last':9}{result.last}")


def _require_labels(model: Path, data: Path, split: str) -> None:
    """Raise ``InputError`` if a model could not be validated on a split."""
    from ..models.ultralytics.checkpoint import load_checkpoint
    from ..models.ultralytics.mirror import splits_of

    splits_of(load_checkpoint(model).model, data, [split])


def _require_meaning(
    criterion: str,
    weight: str | None,
    beyond_knee: str | None,
    allocation: str | None,
    budget: str | None,
    *,
    has_target: bool,
) -> None:
    """Raise ``InputError`` if an option was given that would change nothing."""
    if weight is not None and criterion != "separability":
        raise InputError(
            f"--weight is what the channels of a cluster compete by, criterion {criterion!r} makes "
            "no clusters"
        )
    if beyond_knee is not None and criterion != "separability":
        raise InputError(
            f"--beyond-knee is for criterion 'separability', criterion {criterion!r} finds no knee"
        )
    if budget is not None and has_target:
        raise InputError("--budget must not be given along with a target, which takes its place")
    if allocation is not None and not has_target:
        raise InputError(
            "--allocation says how layers share a target: give --target-flops or --target-params"
        )


def _config(
    preset: str,
    criterion: str,
    weight: str | None,
    beyond_knee: str | None,
    allocation: str | None,
    budget: str | None,
    **settings: Any,
) -> SelectionConfig:
    from ..selection import SelectionConfig

    given = {"weight": weight, "beyond_knee": beyond_knee, "allocation": allocation}
    settings |= {name: value for name, value in given.items() if value is not None}
    if budget is not None:
        settings["budget"] = _parse_budget(budget)
    return SelectionConfig.preset(preset, criterion=criterion, **settings)


def _parse_budget(text: str) -> tuple[float, float] | None:
    if text == "none":
        return None
    try:
        low, high = (float(share) for share in text.split(":"))
    except ValueError:
        raise InputError(f"budget must be LOW:HIGH, such as 0.25:0.5, got {text!r}") from None
    return low, high


@contextmanager
def _inputs(model: Path | None, data: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield model and data set: the user's own, or both built-in ones."""
    if model is not None and data is not None:
        yield model, data
        return
    if model is not None or data is not None:
        given, missing = ("model", "data") if data is None else ("data", "model")
        raise InputError(f"--{missing} must be given along with --{given}")
    from ..demo import CHECKPOINT, write_shapes

    with TemporaryDirectory() as folder:
        yield CHECKPOINT, write_shapes(Path(folder), n_train=256, n_val=128, seed=0)
