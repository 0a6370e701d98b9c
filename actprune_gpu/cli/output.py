"""What the commands print: progress bars, the table of layers, accuracy and files."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

from ..pruning.folder import ACCURACIES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..models.ultralytics.effect import Effect
    from ..pruning.plan import Costs
    from ..report import PlanDifference, Stability
    from ..yolo import PruneResult

_LOG_WIDTH = 200  # characters: in a file, a layer takes a line

_console = Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)


class Bars:
    """A progress bar on standard error for each kind of work, made when it begins."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
            console=Console(file=sys.stderr),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def update(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` is done of ``what``."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)

    def stop(self) -> None:
        """Leave the bars as they are and go on below them."""
        self._progress.stop()


def print_plan(result: PruneResult) -> None:
    """Print the table of layers and, where activations were gathered, what was gathered."""
    if result.gathered:
        account = result.gathered
        print(
            f"{account.images_done} images, {account.matched} of {account.objects} objects matched"
        )
        if len(account.skipped):
            print(account.skipped.summary())
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for heading in ("channels", "knee", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why")
    table.add_column("together with")
    for group in result.plan.groups:
        knee = "" if group.k_star is None else str(group.k_star)
        others = [layer for layer in group.members if layer != group.name.partition("[")[0]]
        table.add_row(
            group.name,
            str(group.channels),
            knee,
            str(len(group.keep)),
            group.reason,
            ", ".join(others),
        )
    channels = sum(group.channels for group in result.plan.groups)
    kept = sum(len(group.keep) for group in result.plan.groups)
    table.add_row("all", str(channels), "", str(kept), f"{kept / channels:.1%} kept")
    _console.print(table)


class _Comparison(Table):
    """A table of what was before and what is after."""

    def __init__(self) -> None:
        super().__init__(box=None, pad_edge=False)
        for heading in ("", "before", "after", "ratio"):
            self.add_column(heading, justify="right" if heading else "left", no_wrap=True)

    def compare(
        self, name: str, old: float, new: float, form: str, ratio: float | None = None
    ) -> None:
        """Add a row; the ratio is that of both numbers if left out."""
        share = new / old if ratio is None and old else ratio
        self.add_row(name, form.format(old), form.format(new), f"{share:.3f}" if share else "")


def print_cost(cost: Costs) -> None:
    """Print what pruning has brought as far as nothing need be measured."""
    table = _Comparison()
    table.compare("parameters", *cost.parameters, "{:,}")
    table.compare("GFLOPs", cost.flops[0] / 1e9, cost.flops[1] / 1e9, "{:.3f}")
    _console.print(table)


def print_effect(effect: Effect) -> None:
    """Print what pruning has brought: size, operations, latency and accuracy."""
    before, after = effect.before, effect.after
    table = _Comparison()
    table.compare("parameters", before.parameters, after.parameters, "{:,}")
    table.compare("GFLOPs", before.gflops, after.gflops, "{:.3f}")
    table.compare("file, MB", before.file_bytes / 1e6, after.file_bytes / 1e6, "{:.2f}")
    for part in ("median", "p20", "p80"):
        table.compare(
            f"latency {part}, ms",
            getattr(before.latency, part),
            getattr(after.latency, part),
            "{:.1f}",
            effect.latency_ratio if part == "median" else None,
        )
    old, new = before.accuracy or {}, after.accuracy or {}
    for key, name in ACCURACIES.items():
        if key in old and key in new:
            table.compare(name, old[key], new[key], "{:.4f}")
    _console.print(table)
    print(f"{effect.image_size} pixels, one image, {effect.device}, {effect.threads} threads")


def print_files(files: Mapping[str, Path]) -> None:
    """Print the paths of what was written, by kind."""
    for kind, path in files.items():
        print(f"{kind:9}{path}")


def print_comparison(difference: PlanDifference) -> None:
    """Print the layers in which two plans differ, and the settings in which they do."""
    for name, (old, new) in difference.settings.items():
        print(f"{name}: {old} in the first, {new} in the second")
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for heading in ("channels", "first", "second", "common", "Jaccard"):
        table.add_column(heading, justify="right")
    alike = 0
    for group in difference.groups:
        if group.common == group.first == group.second:
            alike += 1
            continue
        counts = (group.channels, group.first, group.second, group.common)
        table.add_row(group.name, *map(str, counts), f"{group.jaccard:.3f}")
    if table.row_count:
        _console.print(table)
    mean = sum(group.jaccard for group in difference.groups) / max(1, len(difference.groups))
    print(f"{alike} of {len(difference.groups)} alike, mean Jaccard index {mean:.3f}")


def print_stability(stability: Stability) -> None:
    """Print how far repeated selections agree with the plan."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for heading in (f"{stability.seeds} starts", f"{stability.resamples} draws", "by chance"):
        table.add_column(heading, justify="right")

    def text(mean: float | None) -> str:
        return "" if mean is None else f"{mean:.3f}"

    for name, group in stability.groups.items():
        table.add_row(name, text(group.starts.mean), text(group.images.mean), text(group.chance))
    _console.print(table)
    print("Jaccard index with the plan's channels; layers that keep all are left out")
