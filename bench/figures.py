"""Writes docs/figures.md from bench/results: ``python bench/figures.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "figures.md"

HEAD = """# Figures

Written by `bench/figures.py` from the files in the repository's `bench/results`, which have the
machine, the versions and the commit. Measure yours, against the libraries that people use today;
every contender is first checked for having computed the same:

```bash
python -m actprune_gpu.bench --quick --case knee --case silhouette:64 --json quick.json
```

Which channels to keep is judged by what is left of mAP, at equal operations, layers, repair and
images:

```text
python -m actprune_gpu.bench criteria --model yolov8n.pt --data coco128.yaml --target-flops 0.75 0.5
```

How many channels each layer keeps counts for far more than which ones: random channels, chosen
both ways, come to 0.54 of mAP50 with shares by measured damage and to 0.29 with equal ones, at
75 % of the operations. There nothing is clearly above random channels at the same shares; at 50 %
the method leads them, for many classes, for eight and for one.
"""


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for file in sorted(RESULTS.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        rows = found["rows"]
        table = _criteria(found) if "criterion" in rows[0] else _stages(rows)
        machine = f"{found['cpu']}, {found['cores']} cores, {found['date'][:10]}"
        parts.append(f"## {file.stem}\n\n{machine}; commit {found['commit']}.\n\n{table}\n")
    return "\n".join(parts)


def _criteria(found: dict[str, Any]) -> str:
    head = (
        "mAP50 / mAP50-95 cut, repaired without training, and then, where that was tried, "
        f"fine-tuned for an epoch on the train images; unpruned {_pair(found['unpruned'])}.\n\n"
    )
    lines = [
        "| channels chosen by | shares by | FLOPs kept | cut | repaired | fine-tuned |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        results = " | ".join(_pair(row[stage]) for stage in ("cut", "repaired", "tuned"))
        lines.append(
            f"| {row['criterion']} | {row['allocation']} | {row['flops']:.0%} | {results} |"
        )
    return head + "\n".join(lines)


def _pair(values: list[float] | None) -> str:
    return " / ".join(f"{value:.3f}" for value in values or ())


def _stages(rows: list[dict[str, Any]]) -> str:
    head = "Median milliseconds; the ratio is to ours, the median of paired repeats.\n\n"
    lines = [
        "| case | size | contender | ms | ratio | MiB | quality |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        lines.append(
            f"| {row['case']} | {row['size']} | {row['contender']} | {row['p50']:.4g} | {ratio} "
            f"| {row['peak_mib']:.4g} | {row['quality']} |"
        )
    return head + "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
