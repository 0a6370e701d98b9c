"""What the commands print: progress bars, the table of layers, accuracy and files."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

if TYPE_CHECKING:
    from ..yolo import PruneResult

_console = Console(highlight=False)


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
        table.add_column(heading, justify="right")
    table.add_column("why", no_wrap=True)
    for layer in result.plan.layers:
        knee = "" if layer.k_star is None else str(layer.k_star)
        table.add_row(layer.name, str(layer.channels), knee, str(layer.k), layer.reason)
    channels = sum(layer.channels for layer in result.plan.layers)
    kept = sum(layer.k for layer in result.plan.layers)
    table.add_row("all", str(channels), "", str(kept), f"{kept / channels:.1%} kept")
    _console.print(table)


def print_accuracy(before: dict[str, float], after: dict[str, float]) -> None:
    """Print mean average precision before and after."""
    for name, key in (("mAP50", "map50"), ("mAP50-95", "map50_95")):
        print(f"{name:9}{before[key]:.4f} before, {after[key]:.4f} after")


def print_files(result: PruneResult) -> None:
    """Print the paths of what was written."""
    for kind, path in result.files.items():
        print(f"{kind:9}{path}")
