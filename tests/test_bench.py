"""The benchmark: rows are whole, unequal work and missing peers are said."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import complains

from actprune_gpu.bench.__main__ import app
from actprune_gpu.bench.cases import OURS, Case, Contender
from actprune_gpu.bench.inputs import YOLOV8N
from actprune_gpu.bench.registry import CASES
from actprune_gpu.bench.runner import Row, run_case
from actprune_gpu.bench.timing import Ceilings, measure
from actprune_gpu.cli.main import run

CEILINGS = Ceilings(1e10, 1e11, 5e10)
SETTINGS = {"with_peers": True, "ceilings": CEILINGS, "device": torch.device("cpu")}
FIELDS = set(Row("", 0, "").as_dict())


def rows_of(case, **options):
    settings = {"repeats": 2} | SETTINGS | options
    return {row.contender: row for row in run_case("case", 8, case, **settings)}


def doubles(factor=1.0, **more):
    """A case whose contender returns ``factor`` times our result."""
    return Case(
        {
            OURS: Contender(lambda: np.arange(8.0)),
            "peer": Contender(lambda: factor * np.arange(8.0), **more),
        },
        quality=lambda result: f"sum {result.sum():g}",
        fault=lambda ours, other: "" if np.array_equal(ours, other) else "other numbers",
        floor_seconds=lambda ceilings: 64 / ceilings.bytes_per_second,
    )


def test_equal_work_passes_and_unequal_work_is_flagged():
    good, bad = rows_of(doubles())["peer"], rows_of(doubles(2.0))["peer"]
    assert good.ok
    assert good.note == ""
    assert not bad.ok
    assert "NOT EQUAL WORK: other numbers" in bad.note
    assert bad.quality == "sum 56"


def test_our_row_has_the_floor_and_the_ratio_one():
    ours = rows_of(doubles())[OURS]
    assert ours.ratio == 1.0
    assert ours.floor_share == pytest.approx(1e3 * 64 / 1e10 / ours.p50)
    assert ours.p20 <= ours.p50 <= ours.p80


def test_a_scaled_part_counts_as_the_whole():
    rows = rows_of(doubles(scale=1e6))
    assert rows["peer"].ratio > 1e3


def test_a_missing_peer_is_listed():
    row = rows_of(doubles(needs="no_such_package_anywhere"))["peer"]
    assert row.p50 is None
    assert row.note == "not installed: no_such_package_anywhere"


def test_peers_can_be_left_out():
    assert set(rows_of(doubles(), with_peers=False)) == {OURS}


@pytest.mark.parametrize(
    "name", ["gather", "separability", "tsne", "sweep", "sweep-yolov8n", "selection", "layers"]
)
def test_small_cases_do_equal_work(name):
    pytest.importorskip("ultralytics")
    pytest.importorskip("kmedoids")
    pytest.importorskip("openTSNE")
    pytest.importorskip("sklearn")
    size = {"gather": 3, "layers": 4, "tsne": 64, "sweep-yolov8n": 128}.get(name, 24)
    rows = list(run_case(name, size, CASES[name].make(size), repeats=1, **SETTINGS))
    assert len(rows) >= 2
    for row in rows:
        assert row.ok, row
        assert row.p50 > 0


def test_real_points_are_of_two_sizes():
    with complains("case size", "128, 256", "got 100"):
        CASES["sweep-yolov8n"].make(100)


@pytest.mark.parametrize("name", ["separability", "tsne", "sweep", "selection", "layers"])
def test_the_work_on_a_device_is_compared_with_that_on_the_cpu(name):
    case = CASES[name].make(4 if name == "layers" else 20)
    elsewhere = case.on_device(torch.device("cpu"))
    assert case.fault(case.contenders[OURS].run(), elsewhere()) == ""


def test_short_runs_fill_a_repeat_and_their_mean_is_its_time():
    runs = {"short": 0, "long": 0}

    def take(name, seconds):
        runs[name] += 1
        time.sleep(seconds)

    how = {"short": lambda: take("short", 0.03), "long": lambda: take("long", 0.11)}
    timings, _ = measure(how, repeats=3)
    assert runs["long"] == 1 + 3
    # One for the result and one in the first repeat; then 3 or 4, fewer if the machine is busy.
    assert 2 + 2 < runs["short"] <= 2 + 2 * 4
    assert 30.0 <= timings["short"].percentile(50) < timings["long"].percentile(50)


def test_a_device_is_a_contender_that_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device = torch.device("cuda", 1)
    case = doubles()
    runs = []

    def work():
        runs.append(0)
        return np.arange(8.0)

    case = replace(case, on_device=lambda where: work)
    rows = rows_of(case, device=device, with_peers=False)
    assert set(rows) == {OURS, f"{OURS} on cuda:1"}
    assert waited == [device] * len(runs)
    assert rows[f"{OURS} on cuda:1"].ratio > 0


def test_yolov8n_has_its_widths():
    assert len(YOLOV8N) == 57
    assert YOLOV8N[0] == 16
    assert max(YOLOV8N) == 256


def test_command_writes_rows_and_plot(tmp_path):
    files = [tmp_path / "rows.json", tmp_path / "rows.svg"]
    cases = ["--case", "separability:16", "--case", "separability:32", "--repeats", "1"]
    outputs = ["--json", str(files[0]), "--plot", str(files[1])]
    done = subprocess.run(
        [sys.executable, "-m", "actprune_gpu.bench", *cases, *outputs],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "double loop" in done.stdout
    content = json.loads(files[0].read_text())
    assert {"cpu", "cores", "versions", "commit", "date", "ceilings"} <= content.keys()
    assert {row["size"] for row in content["rows"]} == {16, 32}
    assert all(row.keys() == FIELDS for row in content["rows"])
    assert "<svg" in files[1].read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--case", "magic"], ["case", "separability", "magic"]),
        (["--case", "sweep:two"], ["size", "sweep:two"]),
        (["--device", "gpu"], ["device", "cpu", "cuda"]),
        (["--repeats", "-1"], ["repeats", "-1"]),
        (["--plot", "plot.doc"], ["plot", ".png", "plot.doc"]),
    ],
)
def test_bad_options_are_one_line_and_status_2(capsys, options, words):
    assert run(options, app) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert all(word in error for word in words), error
