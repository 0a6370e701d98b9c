"""``python -m actprune_gpu.bench``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..cli.main import run
from ..devices import resolve_device
from ..errors import InputError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    case: Annotated[
        list[str] | None, typer.Option(help="Case, or case:size; repeatable. [all]")
    ] = None,
    peers: Annotated[bool, typer.Option(help="Time the peers as well.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, under a minute.")] = False,
    repeats: Annotated[
        int, typer.Option(help="Paired repeats. [5; 3 with --quick]", show_default=False)
    ] = 0,
    device: Annotated[str, typer.Option(help="Time ours there, too: cpu, cuda, cuda:1.")] = "cpu",
    json: Annotated[Path | None, typer.Option(help="Write the rows here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the rows here, as PNG or SVG.")] = None,
) -> None:
    """Time every stage against the libraries that people use, after checking for equal work."""
    if context.invoked_subcommand:
        return
    where = resolve_device(device)
    if repeats < 0:
        raise InputError(f"repeats must be at least 1, got {repeats}")
    if plot and plot.suffix not in (".png", ".svg"):
        raise InputError(f"plot must end in .png or .svg, got {plot}")
    from . import report
    from .registry import CASES
    from .runner import Row, run_case
    from .timing import measure_ceilings

    chosen = [(name, size) for wanted in case or CASES for name, size in _sizes(wanted, quick)]
    ceilings = measure_ceilings()
    facts = report.header(ceilings)
    report.print_header(facts)
    rows: list[Row] = []
    for name, size in chosen:
        typer.echo(f"{name} {size} ...", err=True)
        rows += run_case(
            name,
            size,
            CASES[name].make(size),
            repeats=repeats or CASES[name].repeats or (3 if quick else 5),
            with_peers=peers,
            ceilings=ceilings,
            device=where,
        )
        if json:  # after every case: an interrupt loses one, not all
            report.write_json(json, facts, rows)
    report.print_table(rows)
    if plot:
        report.write_plot(plot, rows)


@app.command()
def criteria(
    model: Annotated[Path, typer.Option(help="YOLO detection checkpoint.")],
    data: Annotated[Path, typer.Option(help="Data set with the splits train and val.")],
    target_flops: Annotated[
        list[float], typer.Option(help="Shares of the operations to keep; several may follow.")
    ],
    more_targets: Annotated[list[float] | None, typer.Argument(hidden=True)] = None,
    classes: Annotated[
        list[str] | None, typer.Option(help="Prune for this class only; repeatable. [all]")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Criterion or pattern such as 'random*'; repeatable. [all]"),
    ] = None,
    repair_images: Annotated[int, typer.Option(help="Repair on this many images.")] = 128,
    epochs: Annotated[int, typer.Option(help="Of fine-tuning; 0 for none.")] = 1,
    image_size: Annotated[
        int | None, typer.Option("--imgsz", help="Input size. [the model's]")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the rows here; those in it already stand.")
    ] = None,
) -> None:
    """Compare criteria by what is left of mAP: cut, repaired, and fine-tuned."""
    from .criteria import judge

    judge(
        model,
        data,
        [*target_flops, *(more_targets or ())],
        classes=classes or (),
        only=only or (),
        repair_images=repair_images,
        epochs=epochs,
        image_size=image_size,
        out=json,
        say=typer.echo,
    )


def _sizes(wanted: str, quick: bool) -> list[tuple[str, int]]:
    """Return the (case, size) that ``case`` or ``case:size`` stands for."""
    from .registry import CASES

    name, _, size = wanted.partition(":")
    if name not in CASES:
        raise InputError(f"case must be one of {', '.join(CASES)}, got {name!r}")
    if not size:
        kind = CASES[name]
        return [(name, each) for each in (kind.quick_sizes if quick else kind.sizes)]
    if not size.isdigit() or int(size) < 3:
        raise InputError(f"case size must be a number of at least 3, got {wanted!r}")
    return [(name, int(size))]


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], app))
