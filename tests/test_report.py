"""The report's facts, sentences and data; what the page makes of them is in test_page.py."""

import json
import re

import numpy as np
import pytest
import torch
from folders import ODD, make_folder
from helpers import complains

from actprune_gpu.pruning.folder import EFFECT_FILE, EFFECT_SCHEMA, PlanFolder
from actprune_gpu.pruning.plan import PruningPlan
from actprune_gpu.report import explain, write_report
from actprune_gpu.report.evidence import evidence_of
from actprune_gpu.report.payload import payload_of
from actprune_gpu.report.sentences import cases_of, sentence
from actprune_gpu.selection import select_channels
from actprune_gpu.separability import jeffries_matusita

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("report") / "out")


def joined(folder, group):
    """The separabilities of a group's members side by side, by the public functions alone."""
    return np.concatenate(
        [
            jeffries_matusita(folder.moments[layer]).matrix.double().numpy()[numbers]
            for layer, numbers in group.members.items()
        ],
        axis=1,
    )


# What is known of a channel


def test_correlations_are_those_of_the_separabilities_with_the_channel_that_stays(folder):
    for group in folder.plan.groups:
        evidence, rows = evidence_of(folder, group), joined(folder, group)
        labels = np.array(group.cluster_labels)
        for channel in range(group.channels):
            (keeper,) = [kept for kept in group.keep if labels[kept] == labels[channel]]
            assert evidence.keeper[channel] == keeper
            expected = np.corrcoef(rows[channel], rows[keeper])[0, 1]
            np.testing.assert_allclose(evidence.correlation[channel], expected, atol=1e-12)


def test_ranks_go_by_weight_and_the_lower_number_first(folder):
    for group in folder.plan.groups:
        order = sorted(range(group.channels), key=lambda at: (-group.weights[at], at))
        assert [order.index(at) + 1 for at in range(group.channels)] == evidence_of(
            folder, group
        ).rank.tolist()


def test_sentences_tell_the_truth(folder):
    """Every number in every sentence is looked up again, in the plan and the moments."""
    seen = set()
    for group in folder.plan.groups:
        evidence, rows = evidence_of(folder, group), joined(folder, group)
        labels = np.array(group.cluster_labels)
        for channel in range(group.channels):
            said = sentence(evidence, channel, folder.plan.config)
            assert said.startswith(f"Channel {channel} of {group.name} was ")
            dropped = channel not in group.keep
            assert ("was dropped" in said) is dropped
            seen.add(cases_of(evidence, folder.plan.config)[channel])
            if not dropped:
                others = re.search(r"speaks for channels? ([\d, ]+)", said)
                if others:
                    named = {int(text) for text in others[1].split(",")}
                    same = set(np.flatnonzero(labels == labels[channel])) - {channel}
                    assert named <= same
                    assert len(named) == min(8, len(same))
                continue
            keeper = int(re.search(r"channel (\d+)", said)[1])
            assert keeper in group.keep
            assert labels[keeper] == labels[channel]
            r = np.corrcoef(rows[channel], rows[keeper])[0, 1]
            assert float(re.search(r"correlation (-?[\d.]+)", said)[1]) == pytest.approx(
                r, abs=0.01
            )
            kind = "same" if r >= 0.9 else "much" if r >= 0.5 else "not much"
            assert {"same": "the same class", "much": "much the same", "not much": "not much"}[
                kind
            ] in said
            other, own = re.search(r"\(L1 norm ([\d.e-]+)(?: against ([\d.e-]+))?\)", said).groups()
            assert float(other) == pytest.approx(group.weights[keeper], rel=0.01)
            if own is None:
                assert group.weights[keeper] == group.weights[channel]
                assert keeper < channel
            else:
                assert float(own) == pytest.approx(group.weights[channel], rel=0.01)
                assert group.weights[keeper] > group.weights[channel]
    assert {"a", "w", "f"} <= seen
    assert {"m", "u"} & seen


def test_channels_that_stay_beyond_the_knee_are_told_apart(tmp_path):
    settings = {"beyond_knee": "weight", "budget": (0.75, 0.75), "weight": "l1+activation"}
    folder = make_folder(tmp_path / "out", **settings)
    seen = set()
    for group in folder.plan.groups[1:]:
        assert group.k_star < len(group.keep)
        evidence = evidence_of(folder, group)
        first_dropped = min(
            evidence.rank[at] for at in range(group.channels) if at not in group.keep
        )
        for at, case in enumerate(cases_of(evidence, folder.plan.config)):
            seen.add(case)
            said = sentence(evidence, at, folder.plan.config)
            if case == "h":
                assert evidence.rank[at] < first_dropped
                own = f"by L1 norm and mean activation ({group.weights[at]:.3g})"
                assert f"{own} it is number {evidence.rank[at]} of {group.channels}" in said
            if case == "o":
                assert evidence.rank[at] > first_dropped
            if at not in group.keep:
                assert evidence.rank[evidence.keeper[at]] < evidence.rank[at]
    assert "h" in seen


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        ("gamma", ["BatchNorm scale", "number"]),
        ("std", ["standard deviation"]),
        ("random", ["lot"]),
    ],
)
def test_other_criteria_have_no_clusters(tmp_path, criterion, words):
    folder = make_folder(tmp_path, layers=2, criterion=criterion)
    group = folder.plan.groups[1]
    evidence = evidence_of(folder, group)
    for channel in range(group.channels):
        said = sentence(evidence, channel, folder.plan.config)
        assert "cluster" not in said
        assert all(word in said for word in words)
        if criterion != "random":
            rank = int(re.search(r"number (\d+) of 24", said)[1])
            assert (rank <= group.k) is (channel in group.keep)


def test_explain_speaks_in_the_numbers_of_the_layer(folder):
    group = folder.plan.groups[1]
    numbers = group.members["<i>second</i>"]
    (at,) = [number for number in range(group.channels) if numbers[number] == 17]
    said = explain(folder, "<i>second</i>", 17)
    ours = explain(folder, "layer.1", at)
    assert said.sentence.startswith("Channel 17 of <i>second</i> was ")
    assert ("kept" in said.sentence) is (at in group.keep)
    assert said.figures["together with"] == f"layer.1 channel {at}"
    assert ours.figures["together with"] == "<i>second</i> channel 17"
    same = {name: value for name, value in said.figures.items() if name != "together with"}
    assert same == {n: value for n, value in ours.figures.items() if n != "together with"}
    assert str(said).splitlines()[0] == said.sentence


@pytest.mark.parametrize(
    ("layer", "channel", "words"),
    [
        ("layer.9", 0, ["layer", "'layer.9'", "nearest", "layer.1"]),
        ("layer.1", 24, ["channel", "layer.1", "0..23", "24"]),
        ("layer.1", -1, ["channel", "0..23", "-1"]),
    ],
)
def test_explain_refuses_what_is_not_there(folder, layer, channel, words):
    with complains(*words):
        explain(folder, layer, channel)


# The data of the page


def test_heat_maps_hold_the_separabilities(folder):
    for group, shown in zip(folder.plan.groups, payload_of(folder)["groups"], strict=True):
        parts = joined(folder, group).reshape(group.channels, len(group.members), -1)
        values = parts.mean(1)
        heat = shown["heat"]
        assert sorted(shown["order"]) == list(range(group.channels))
        pairs = jeffries_matusita(folder.moments[group.name]).pairs.tolist()
        columns = [pairs.index(pair) for pair in heat["pairs"]]
        assert len(columns) == heat["all"] == 15
        cells = np.array([ALPHABET.index(letter) for letter in heat["cells"]]) / 63 * 2
        expected = values[np.ix_(shown["order"], columns)]
        np.testing.assert_allclose(cells.reshape(expected.shape), expected, atol=1 / 63 + 1e-9)
        means = values.mean(0)[columns]
        assert (np.diff(means) <= 1e-12).all(), "from the most separable pair down"
        assert heat["most"][0][:2] == heat["pairs"][0]
        assert heat["least"][0][:2] == heat["pairs"][-1]
        for channel, (first, second, value) in enumerate(heat["best"]):
            assert value == pytest.approx(values[channel].max(), abs=0.005)
            assert values[channel, pairs.index([first, second])] == values[channel].max()


def test_channels_are_looked_at_in_parts_where_there_are_many_pairs(folder, monkeypatch):
    from actprune_gpu.report import evidence

    whole = payload_of(folder)
    monkeypatch.setattr(evidence, "_BATCH", 100)  # three or six channels
    assert [len(part) for part in evidence_of(folder, folder.plan.groups[1]).matrix.batches()] == (
        [3] * 8
    )
    for part, own in zip(payload_of(folder)["groups"], whole["groups"], strict=True):
        means, expected = part["heat"].pop("means"), own["heat"].pop("means")
        np.testing.assert_allclose(means, expected, atol=2e-3)
        assert part == own


def test_of_many_pairs_the_extremes_are_shown(tmp_path):
    names = [f"class {number}" for number in range(20)]
    folder = make_folder(tmp_path, layers=2, names=names)
    heat = payload_of(folder)["groups"][1]["heat"]
    assert heat["all"] == 190
    assert len(heat["pairs"]) == 48
    means = np.sort(joined(folder, folder.plan.groups[1]).reshape(24, 2, -1).mean((0, 1)))[::-1]
    np.testing.assert_allclose(heat["means"][:16], means[:16], atol=1e-3)
    np.testing.assert_allclose(heat["means"][-16:], means[-16:], atol=1e-3)


def test_clusters_stand_together_and_begin_with_the_channel_that_stays(folder):
    for group, shown in zip(folder.plan.groups, payload_of(folder)["groups"], strict=True):
        labels = np.array(group.cluster_labels)[shown["order"]]
        begins = np.flatnonzero(np.diff(labels, prepend=-1))
        assert len(begins) == len(set(labels.tolist()))
        assert sorted(shown["order"][at] for at in begins) == group.keep


def test_the_page_needs_nothing_else_and_escapes_what_users_wrote(folder):
    page = write_report(folder).read_text(encoding="utf-8")
    assert not re.search(r"(src|href|action)\s*=|@import|url\(|fetch\(|XMLHttp|WebSocket", page)
    assert set(re.findall(r"https?://[^'\" ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "<i>second" not in page
    assert '<script>alert("x")' not in page
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert set(json.loads(data)["classes"]) == set(ODD)
    assert json.loads(data) == json.loads(json.dumps(payload_of(folder)))


def test_reports_are_the_same_every_time(folder):
    first = write_report(folder).read_bytes()
    assert write_report(folder.path).read_bytes() == first


def test_figures_of_another_plan_are_left_out(folder, tmp_path):
    other = make_folder(tmp_path / "other", layers=2)
    latency = {"median": 2.0, "p20": 1.0, "p80": 3.0}
    sides = {
        "parameters": 1, "gflops": 1.0, "file_bytes": 1, "latency": latency, "accuracy": None
    }  # fmt: skip
    effect = {"before": sides, "after": sides, "latency_ratio": 0.5, "image_size": 64}
    effect |= {"repeats": 1, "device": "cpu", "threads": 1}
    other.write(EFFECT_FILE, EFFECT_SCHEMA, effect)
    names = [figure["name"] for figure in payload_of(other)["figures"]]
    assert names == ["Channels", "Parameters", "Operations", "Latency"]
    (other.path / "plan.json").write_text((folder.path / "plan.json").read_text())
    figures = payload_of(PlanFolder.load(other.path))["figures"]
    assert [figure["name"] for figure in figures] == ["Channels", "Parameters", "Operations"]
    for broken in ("{", "[]", "{}", '{"schema_version": "x/9"}'):
        (other.path / EFFECT_FILE).write_text(broken)
        with complains(EFFECT_FILE):
            payload_of(PlanFolder.load(other.path))


# Folders that lack something


def test_without_moments_the_plan_says_what_it_can(tmp_path):
    folder = make_folder(tmp_path)
    (tmp_path / "moments.safetensors").unlink()
    folder = PlanFolder.load(tmp_path)
    assert folder.moments is None
    assert "no moments" in folder.notes[0]
    payload = payload_of(folder)
    assert payload["notes"] == list(folder.notes)
    assert all("heat" not in group and "xy" in group for group in payload["groups"])
    group = folder.plan.groups[1]
    dropped = group.drop[0]
    said = explain(folder, group.name, dropped)
    assert "same cluster" in said.sentence
    assert "correlation" not in said.sentence
    assert "note" in said.figures


def test_moments_of_another_run_are_left_aside(tmp_path):
    make_folder(tmp_path)

    def other_data(plan):
        return plan.model_copy(update={"data_sha256": "2" * 64})

    plan = other_data(PruningPlan.load(tmp_path / "plan.json"))
    plan.save(tmp_path / "plan.json")
    folder = PlanFolder.load(tmp_path)
    assert folder.moments is None
    assert "not of this plan" in folder.notes[0]


def test_the_second_form_of_a_plan_can_still_be_read(tmp_path):
    folder = make_folder(tmp_path, layers=2)
    content = json.loads((tmp_path / "plan.json").read_text())
    del content["cost"]
    content["schema_version"] = "actprune_gpu.plan/2"
    (tmp_path / "plan.json").write_text(json.dumps(content))
    old = PlanFolder.load(tmp_path)
    assert old.plan.cost is None
    assert old.plan.keep == folder.plan.keep
    old.plan.save(tmp_path / "again.json")
    assert PruningPlan.load(tmp_path / "again.json") == old.plan
    assert [figure["name"] for figure in payload_of(old)["figures"]] == ["Channels"]


def test_one_class_separates_nothing_and_other_criteria_still_have_a_page(tmp_path):
    folder = make_folder(tmp_path, layers=2, criterion="std")
    lone = {
        name: type(layer)(
            torch.where(torch.arange(len(ODD))[:, None] == 0, layer.count, 0),
            layer.mean,
            layer.m2,
            layer.class_names,
        )
        for name, layer in folder.moments.items()
    }
    folder = PlanFolder(folder.path, folder.plan, folder.digest, lone, (), ())
    assert all("heat" not in group for group in payload_of(folder)["groups"])
    assert "std" in str(payload_of(folder)["facts"])


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
def test_folders_without_a_plan_are_refused(tmp_path, what):
    path = tmp_path / "out"
    if what == "file":
        path.write_text("no folder")
    elif what == "empty":
        path.mkdir()
    with complains(str(path)):
        write_report(path)


# Steps


def test_channels_that_earlier_steps_dropped_are_told_apart(tmp_path):
    folder = make_folder(tmp_path / "one", layers=2)
    first = folder.plan.groups[1]
    left = first.keep
    parts = folder.moments_of(first, folder.moments)
    index = torch.tensor(left)
    weights = torch.tensor(first.weights)[index]
    config = folder.plan.config
    selection = select_channels([part.select(index) for part in parts], weights, config=config)

    def second_step(plan):
        group = type(first).of(first.name, first.members, selection, left)
        return plan.model_copy(update={"steps": 2, "groups": [plan.groups[0], group]})

    make_folder(tmp_path / "two", layers=2, change=second_step)
    # What the network puts out in the second step: the channels that are left, in their order.
    from actprune_gpu.moments import load_moments, save_moments

    file = tmp_path / "two" / "moments.safetensors"
    moments, notes = load_moments(file)
    for layer in first.members:
        stood = sorted(first.members[layer][at] for at in left)
        moments[layer] = moments[layer].select(torch.tensor(stood))
    save_moments(file, moments, notes | {"of": "the second step"})
    folder = PlanFolder.load(tmp_path / "two")
    group = folder.plan.groups[1]
    for part, old in zip(folder.moments_of(group, folder.moments), parts, strict=True):
        assert part == old.select(index)
    gone = next(at for at in range(24) if at not in left)
    assert "earlier step" in explain(folder, first.name, gone).sentence
    shown = payload_of(folder)["groups"][1]
    assert shown["numbers"] == left
    assert shown["gone"] == [at for at in range(24) if at not in left]
    assert f"of {first.name}" in explain(folder, first.name, left[0]).sentence
    assert folder.shards == (), "those of the first step are left aside"
