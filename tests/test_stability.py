"""How far keep lists depend on the start of t-SNE and on the images."""

import json

import numpy as np
import pytest
from folders import make_folder, shaken
from helpers import complains

from actprune_gpu.moments import load_moments
from actprune_gpu.pruning.folder import MOMENTS_FILE, STABILITY_FILE, PlanFolder
from actprune_gpu.report import Stability, explain, measure_stability
from actprune_gpu.report.payload import payload_of
from actprune_gpu.shards import save_shards, shards_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("stability") / "out")


@pytest.fixture(scope="module")
def measured(folder):
    seen = []
    found = measure_stability(folder, seeds=3, resamples=4, progress=lambda *at: seen.append(at))
    assert seen == [(number, 7) for number in range(1, 8)]
    return found


def test_repeats_are_counted_channel_by_channel(folder, measured):
    groups = {group.name: group for group in folder.plan.groups}
    assert list(measured.groups) == ["layer.1", "layer.2", "layer.3"], "the first keeps all"
    for name, stability in measured.groups.items():
        group = groups[name]
        for repeats, number in ((stability.starts, 3), (stability.images, 4)):
            assert len(repeats.jaccard) == len(repeats.knees) == number
            assert sum(repeats.kept) == number * group.k
            # From the counts alone: the mean overlap with the plan's channels.
            overlap = sum(repeats.kept[at] for at in group.keep)
            both = [value * 2 * group.k / (1 + value) for value in repeats.jaccard]
            assert sum(both) == pytest.approx(overlap)
            assert repeats.mean == pytest.approx(np.mean(repeats.jaccard))


def test_chance_is_what_random_lists_come_to(folder, measured):
    rng = np.random.default_rng(0)
    for group in folder.plan.groups[1:]:
        draws = [set(rng.permutation(group.channels)[: group.k].tolist()) for _ in range(2000)]
        values = [
            len(one & two) / len(one | two)
            for one, two in zip(draws[::2], draws[1::2], strict=True)
        ]
        assert measured.groups[group.name].chance == pytest.approx(np.mean(values), abs=0.03)


def test_the_same_again_is_the_same(folder, measured):
    before = (folder.path / STABILITY_FILE).read_bytes()
    again = measure_stability(folder, seeds=3, resamples=4)
    assert again == measured == Stability.load(folder)
    assert (folder.path / STABILITY_FILE).read_bytes() == before


def test_clear_groups_are_stable_and_noise_is_not(tmp_path):
    from helpers import planted_moments, random_moments

    from actprune_gpu.pruning.plan import GroupPlan
    from actprune_gpu.selection import select_channels

    found = {}
    for kind, own in (
        ("clear", planted_moments(8, 5, jitter=0.0, seed=1)[0]),
        ("noise", random_moments(40, seed=1)),
    ):
        weights = np.random.default_rng(0).uniform(0.1, 1, 40)

        def change(plan, own=own, weights=weights):
            selection = select_channels(
                own, weights, config=plan.config.model_copy(update={"budget": (0.2, 0.2)})
            )
            group = GroupPlan.of("layer.0", {"layer.0": range(40)}, selection, range(40))
            return plan.model_copy(update={"groups": [group]})

        folder = make_folder(tmp_path / kind, layers=1, change=change, shards=False, perplexity=4)
        folder = PlanFolder(folder.path, folder.plan, folder.digest, {"layer.0": own}, (), ())
        found[kind] = measure_stability(folder, seeds=6).groups["layer.0"].starts.mean
    assert found["clear"] == 1.0
    assert found["noise"] < 0.9


def test_draws_of_equal_parts_change_nothing(tmp_path):
    folder = make_folder(tmp_path)
    moments, notes = load_moments(tmp_path / MOMENTS_FILE)
    save_shards(shards_path(tmp_path / MOMENTS_FILE), [moments] * 8, notes)
    stability = measure_stability(PlanFolder.load(tmp_path), seeds=0, resamples=2)
    assert stability.seeds == 0
    for group in folder.plan.groups[1:]:
        assert stability.groups[group.name].images.jaccard == [1.0, 1.0]
        assert stability.groups[group.name].images.knees == [group.k_star] * 2
        assert stability.groups[group.name].starts.mean is None


def test_noisier_parts_are_less_stable(folder, measured, tmp_path):
    make_folder(tmp_path)
    moments, notes = load_moments(tmp_path / MOMENTS_FILE)
    wild = [shaken(moments, number, by=3.0) for number in range(8)]
    save_shards(shards_path(tmp_path / MOMENTS_FILE), wild, notes)
    calm = np.mean([group.images.mean for group in measured.groups.values()])
    found = measure_stability(PlanFolder.load(tmp_path), seeds=0, resamples=4)
    assert np.mean([group.images.mean for group in found.groups.values()]) < calm


def test_folders_without_shards_are_told_from_starts_alone(tmp_path):
    folder = make_folder(tmp_path, layers=2, shards=False)
    assert folder.shards == ()
    stability = measure_stability(folder, seeds=2)
    assert stability.resamples == 0
    assert stability.groups["layer.1"].images.jaccard == []
    shown = payload_of(folder)
    assert shown["stability"]["images"] is None
    assert shown["groups"][1]["stability"]["images"] is None


def test_report_and_explain_show_it(folder, measured):
    shown = payload_of(folder)
    assert shown["stability"]["seeds"] == 3
    assert "stability" not in shown["groups"][0]
    for group in shown["groups"][1:]:
        own = measured.groups[group["name"]]
        assert group["stability"]["starts"]["mean"] == round(own.starts.mean, 3)
        assert group["stability"]["images"]["kept"] == own.images.kept
    figures = explain(folder, "layer.2", 5).figures
    assert figures["other starts"].startswith(
        f"kept in {measured.groups['layer.2'].starts.kept[5]} of 3"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"seeds": -1}, ["seeds", "-1"]), ({"resamples": -2}, ["resamples", "-2"])],
)
def test_bad_numbers_are_refused(folder, changes, words):
    with complains(*words):
        measure_stability(folder, **changes)


def test_what_has_nothing_to_vary_is_refused(tmp_path):
    with complains("separability", "gamma"):
        measure_stability(make_folder(tmp_path / "ranked", layers=2, criterion="gamma"))
    make_folder(tmp_path / "bare", layers=2)
    (tmp_path / "bare" / MOMENTS_FILE).unlink()
    with complains("bare", "no moments"):
        measure_stability(PlanFolder.load(tmp_path / "bare"))
    assert not (tmp_path / "bare" / STABILITY_FILE).exists()


def test_damaged_files_are_named(tmp_path):
    folder = make_folder(tmp_path, layers=2)
    measure_stability(folder, seeds=1, resamples=0)
    content = json.loads((tmp_path / STABILITY_FILE).read_text())
    del content["groups"]["layer.1"]["chance"]
    (tmp_path / STABILITY_FILE).write_text(json.dumps(content))
    with complains(STABILITY_FILE):
        payload_of(folder)
