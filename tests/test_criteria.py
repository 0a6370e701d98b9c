"""The comparison of criteria: who takes part, equal operations, rows that stand."""

import json
from dataclasses import asdict
from typing import get_args

import pytest
import torch
from helpers import complains
from torch import nn

pytest.importorskip("ultralytics")
pytest.importorskip("torch_pruning")

from actprune_gpu.bench import criteria
from actprune_gpu.bench.criteria import contenders, judge, line
from actprune_gpu.bench.peers import pruning_importance
from actprune_gpu.cli.main import run
from actprune_gpu.demo import CHECKPOINT
from actprune_gpu.weights import WeightKind


def test_everybody_takes_part_once():
    everybody = contenders()
    keys = [(name, config.allocation) for name, config, _ in everybody]
    assert len(set(keys)) == len(keys)
    criteria = {config.criterion for _, config, _ in everybody}
    assert criteria == {"separability", "reconstruct", "std", "gamma", "l1", "l2", "random"}
    weights = {c.weight for _, c, _ in everybody if c.criterion == "separability"}
    assert weights == {"activation+reconstruct", *get_args(WeightKind)}
    assert sum(config.criterion == "random" for _, config, _ in everybody) == 6
    assert [name for name, _, peer in everybody if peer] == ["LAMP (torch-pruning)"]


def test_the_peer_sees_the_filters():
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 6, 3)
    convolution.weight.data *= torch.tensor([1.0, 3, 2, 6, 5, 4])[:, None, None, None]
    scores = pruning_importance("LAMP")(convolution)
    norms = convolution.weight.flatten(1).square().sum(1)
    assert scores.argsort().tolist() == norms.argsort().tolist()
    # LAMP: the share of a filter in all that are no smaller (Lee et al. 2021, eq. 2).
    ordered = norms.sort().values.detach()
    expected = ordered / ordered.flip(0).cumsum(0).flip(0)
    ratio = scores.sort().values / expected
    torch.testing.assert_close(ratio, ratio[:1].expand(6))


@pytest.fixture(scope="module")
def judged(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("criteria") / "rows.json"
    settings = {"only": ["*l2", "random, seed 0"], "repair_images": 8, "image_size": 96, "out": out}
    return out, settings, judge(CHECKPOINT, shapes, [0.7], epochs=0, **settings)


def test_rows_are_at_equal_operations(judged):
    _, _, rows = judged
    assert {(row.criterion, row.allocation) for row in rows} == {
        ("separability, weight l2", "damage"),
        ("l2", "proportion"),
        ("l2", "damage"),
        ("random, seed 0", "proportion"),
        ("random, seed 0", "damage"),
    }
    for row in rows:
        assert 0.69 < row.flops <= 0.7
        assert 0 < row.params < 1
        assert all(0 <= figure <= 1 for figure in (*row.cut, *row.repaired))
        assert row.tuned is None
        assert row.criterion in line(row)
    assert max(row.repaired[0] for row in rows) > 0.1


def test_rows_stand_until_they_lack_something(judged, shapes):
    out, settings, rows = judged
    stored = json.loads(out.read_text())
    assert stored["rows"] == json.loads(json.dumps([asdict(row) for row in rows]))
    assert stored["image_size"] == 96
    lines = []
    assert judge(CHECKPOINT, shapes, [0.7], epochs=0, say=lines.append, **settings) == rows
    assert not lines
    one = {**settings, "only": ["*weight l2"]}
    again = judge(CHECKPOINT, shapes, [0.7], epochs=1, say=lines.append, **one)
    assert len(lines) == 1
    assert {row.criterion: row.tuned is None for row in again} == {
        "separability, weight l2": False,
        "l2": True,
        "random, seed 0": True,
    }
    (tuned,) = (row for row in again if row.tuned)
    (untuned,) = (row for row in rows if row.criterion == tuned.criterion)
    assert tuned.repaired == untuned.repaired


def test_rows_of_other_settings_do_not_stand(judged, shapes, tmp_path):
    stored = json.loads(judged[0].read_text())
    for row in stored["rows"]:
        row["seconds"] = -1.0
        row["settings"]["perplexity"] += 5.0 * (row["criterion"] == "separability, weight l2")
    out = tmp_path / "rows.json"
    out.write_text(json.dumps(stored))
    rows = judge(CHECKPOINT, shapes, [0.7], epochs=0, **{**judged[1], "out": out})
    anew = [row.criterion for row in rows if row.seconds > 0]
    assert anew == ["separability, weight l2"]
    assert len(rows) == len(judged[2])


def test_nothing_is_observed_for_rows_that_stand(judged, shapes, monkeypatch):
    out, settings, rows = judged
    before = out.read_bytes()
    monkeypatch.delattr(criteria, "observe")
    standing = judge(CHECKPOINT, shapes, [0.7], epochs=0, **settings)
    assert sorted(row.repaired for row in standing) == sorted(row.repaired for row in rows)
    assert out.read_bytes() == before


def test_rows_of_another_task_do_not_stand(judged, shapes, tmp_path):
    out, settings, _ = judged
    before = out.read_bytes()
    for name, value in {"repair_images": 7, "image_size": 64, "classes": ["circle"]}.items():
        with complains("out must hold rows of the same", name, str(value)):
            judge(CHECKPOINT, shapes, [0.7], epochs=0, **{**settings, name: value})
    assert out.read_bytes() == before
    for content in ("[", "[]", '{"rows": [{"case": "tsne"}]}'):
        other = tmp_path / "other.json"
        other.write_text(content)
        with complains("out must be a file of such rows", str(other)):
            judge(CHECKPOINT, shapes, [0.7], epochs=0, **{**settings, "out": other})


def test_a_narrow_task_counts_its_classes_only(shapes, tmp_path):
    out = tmp_path / "narrow.json"
    options = ["--only", "*weight l2", "--epochs", "0", "--repair-images", "8", "--imgsz", "96"]
    from actprune_gpu.bench.__main__ import app

    arguments = ["criteria", "--model", str(CHECKPOINT), "--data", str(shapes), "--json", str(out)]
    arguments += ["--target-flops", "0.8", "0.7", "--classes", "circle", *options]
    assert run(arguments, app) == 0
    stored = json.loads(out.read_text())
    assert stored["classes"] == ["circle"]
    assert [row["target_flops"] for row in stored["rows"]] == [0.8, 0.7]


def test_what_is_unknown_is_named(shapes):
    with complains("classes", "unicorn"):
        judge(CHECKPOINT, shapes, [0.7], classes=["unicorn"])
    with complains("no contender matches", "magic", "nearest"):
        judge(CHECKPOINT, shapes, [0.7], only=["magic"])
    for target in (-0.5, 1.5):
        with complains("target_flops", str(target)):
            judge(CHECKPOINT, shapes, [0.7, target])
    with complains("repair_images", "0"):
        judge(CHECKPOINT, shapes, [0.7], repair_images=0)
    with complains("epochs", "-1"):
        judge(CHECKPOINT, shapes, [0.7], epochs=-1)
