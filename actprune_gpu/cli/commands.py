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
NoVal = Annotated[bool, typer.Option("--no-val", help="Skip mAP before and after.")]


def prune_command(
    out: Out,
    model: Annotated[
        Path | None, typer.Option(help="YOLO detection checkpoint; a tiny one is built in.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data set, an Ultralytics YAML file; one is built in.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Layer or pattern such as 'model.6.*'; repeatable. [all]"),
    ] = None,
    criterion: Annotated[
        str, typer.Option(help="separability, gamma, l1, l2 or random.")
    ] = "separability",
    preset: Annotated[str, typer.Option(help="default, upstream or paper.")] = "default",
    weight: Annotated[
        str | None, typer.Option(help="l1, l2, gamma or activation. [the preset's]")
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Share of the channels to keep, LOW:HIGH, or 'none'.")
    ] = "0.25:0.5",
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at bad images or labels.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")
    ] = False,
    force: Force = False,
    no_val: NoVal = False,
) -> None:
    """Prune a YOLO detection model: gather activations, select channels, zero the rest."""
    config = _config(
        preset,
        criterion,
        weight,
        budget,
        round_to=round_to,
        min_channels=min_channels,
        seed=seed,
        engine=engine,
        **({"init": "random"} if engine == "cuml" else {}),
    )
    from .. import yolo
    from ..devices import resolve_device
    from .output import Bars, print_accuracy, print_files, print_plan

    with _inputs(model, data) as (model_file, data_file), Bars() as bars:
        result = yolo.prune(
            model_file,
            data_file,
            out=out,
            layers=layers or (),
            config=config,
            split=split,
            images=images,
            image_size=image_size,
            confidence=confidence,
            device=device,
            strict=strict,
            resume=resume,
            force=force,
            progress=bars.update,
        )
        bars.stop()
        print_plan(result)
        if not no_val:
            size = int(result.plan.gathering["image_size"])
            print_accuracy(
                *(
                    yolo.validate(file, data_file, size, resolve_device(device), split=val_split)
                    for file in (model_file, result.files["model"])
                )
            )
        print_files(result)


def apply_command(
    plan: Annotated[Path, typer.Option(help="A plan.json.")],
    model: Annotated[Path, typer.Option(help="YOLO detection checkpoint.")],
    out: Out,
    force: Force = False,
) -> None:
    """Replay a plan on a model, without data."""
    from .. import yolo
    from .output import print_files, print_plan

    result = yolo.apply(plan, model, out=out, force=force)
    print_plan(result)
    print_files(result)


def _config(
    preset: str, criterion: str, weight: str | None, budget: str, **settings: Any
) -> SelectionConfig:
    from ..selection import SelectionConfig

    if weight is not None:
        settings["weight"] = weight
    return SelectionConfig.preset(
        preset, criterion=criterion, budget=_parse_budget(budget), **settings
    )


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
