"""The commands that look at a folder of results: report, explain, compare, stability."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .commands import Device

Folder = Annotated[Path, typer.Argument(help="Folder with a plan.json, from prune or apply.")]
Pruned = Annotated[Path, typer.Argument(help="Folder from prune, with its moments.")]


def report_command(folder: Folder) -> None:
    """Write report.html: what went and why, in one page that opens from disk."""
    from ..report import write_report

    print(write_report(folder))


def explain_command(
    folder: Folder,
    layer: Annotated[str, typer.Option(help="A layer of the plan, such as model.6.cv2.")],
    channel: Annotated[int, typer.Option(help="Number of the channel before pruning, from 0.")],
) -> None:
    """Say why a channel was kept or dropped."""
    from ..report import explain

    print(explain(folder, layer, channel))


def compare_command(
    first: Folder, second: Annotated[Path, typer.Argument(help="Another folder.")]
) -> None:
    """Show where two plans for one model keep different channels."""
    from ..pruning.folder import load_plan
    from ..report import compare
    from .output import print_comparison

    print_comparison(compare(load_plan(first), load_plan(second)))


def stability_command(
    folder: Pruned,
    seeds: Annotated[int, typer.Option(help="Other starts of t-SNE to select from.")] = 10,
    resamples: Annotated[int, typer.Option(help="Draws of the images to select from.")] = 10,
    device: Device = "auto",
) -> None:
    """Select again from other starts of t-SNE and other images, and compare with the plan."""
    from ..devices import resolve_device
    from ..report import measure_stability, write_report
    from .output import Bars, print_stability

    where = resolve_device(device)
    with Bars() as bars:
        stability = measure_stability(
            folder,
            seeds=seeds,
            resamples=resamples,
            device=where,
            progress=lambda done, total: bars.update("repeats", done, total),
        )
    print_stability(stability)
    if resamples and not stability.resamples:
        print("The moments were not kept by parts of the images: only starts were varied.")
    print(write_report(folder))
