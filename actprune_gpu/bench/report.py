"""The header, the table, the JSON file and the plot."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..files import replace_file, replacing
from .runner import Row
from .timing import Ceilings

_PACKAGES = (
    *("actprune_gpu", "numpy", "torch", "numba", "scikit-learn", "openTSNE", "kmedoids"),
    *("ultralytics", "torch-pruning"),
)


def header(ceilings: Ceilings) -> dict[str, Any]:
    """Return machine, versions, commit and the ceilings."""
    return machine() | {"ceilings": asdict(ceilings)}


def machine() -> dict[str, Any]:
    """Return machine, versions and commit."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def print_header(facts: dict[str, Any]) -> None:
    """Print the header."""
    ceilings = facts["ceilings"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    print(f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, commit {facts['commit']}")
    print(f"Python {facts['python']}, {versions}")
    print(
        f"ceilings: copy {ceilings['bytes_per_second'] / 1e9:.1f} GB/s, "
        f"float32 {ceilings['float32_per_second'] / 1e9:.0f} GFLOP/s, "
        f"float64 {ceilings['float64_per_second'] / 1e9:.0f} GFLOP/s"
    )


def print_table(rows: list[Row]) -> None:
    """Print the rows."""
    table = Table(box=None, pad_edge=False)
    for heading in ("case", "size", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("p20 ms", "p50 ms", "p80 ms", "MiB", "ratio", "of floor"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("quality", no_wrap=True)
    table.add_column("note")
    for row in rows:
        table.add_row(
            row.case,
            str(row.size),
            row.contender,
            *(_number(value) for value in (row.p20, row.p50, row.p80, row.peak_mib, row.ratio)),
            "" if row.floor_share is None else f"{row.floor_share:.1%}",
            row.quality,
            row.note,
        )
    Console(width=170, highlight=False).print(table)


def write_json(path: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    """Write header and rows, whole or not at all."""
    content = {**facts, "rows": [row.as_dict() for row in rows]}
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def write_plot(path: Path, rows: list[Row]) -> None:
    """Draw median time over size, a panel a case and a line a contender, with its exponent."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(row.case for row in rows if row.p50))
    figure = Figure(figsize=(5.0 * len(cases), 4.2), layout="constrained")
    for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        sizes = sorted({row.size for row in rows if row.case == case})
        for contender in dict.fromkeys(row.contender for row in rows if row.case == case):
            points = [
                (row.size, row.p50)
                for row in rows
                if row.case == case and row.contender == contender and row.p50
            ]
            if not points:
                continue
            x, y = np.array(points).T
            label = contender
            if len(x) >= 2:
                label += f", size^{np.polyfit(np.log(x), np.log(y), 1)[0]:.1f}"
            axes.loglog(x, y, "o-", label=label)
        axes.set(title=case, xlabel="size", ylabel="median, ms")
        axes.set_xticks(sizes, map(str, sizes))
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=110)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    try:
        run = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()
