"""From class moments to the channels that stay: all stages together, and the baselines."""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import (
    MODEST,
    moments_of,
    planted_moments,
    random_moments,
    same,
    with_threads,
)
from hypothesis import given
from hypothesis import strategies as st
from reference import beyond_knee_ref, budget_bounds_ref, choose_by_weight_ref, combined_ref

from actprune_gpu import (
    LayerWeights,
    SelectionConfig,
    apply_budget,
    find_knee,
    jeffries_matusita,
    kmedoids_sweep,
    select_channels,
    tsne,
)

QUICK = {"n_iter": 300}
TENSORS = ("keep", "ks", "mss", "loss", "embedding", "cluster_labels", "medoids")


def weights_for(n_channels, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).permutation(n_channels) + 1.0)


@pytest.fixture(scope="module")
def planted():
    moments, group = planted_moments(8, 8)
    weights = weights_for(64)
    return moments, group, weights, select_channels(moments, weights)


def assert_same_selections(first, second):
    for field in TENSORS:
        assert same(getattr(first, field), getattr(second, field)), field
    assert (first.k, first.k_star, first.reason) == (second.k, second.k_star, second.reason)


def assert_consistent(selection, weights):
    """Whatever was selected, the result may not contradict itself."""
    keep = selection.keep.tolist()
    assert keep == sorted(set(keep))
    assert len(keep) == selection.k
    assert set(keep) <= set(range(selection.n_channels))
    assert selection.reason.strip()
    if selection.k < selection.n_channels:
        cluster_labels = selection.cluster_labels.numpy()
        assert keep == choose_by_weight_ref(cluster_labels, weights.numpy()).tolist()


# ---------------------------------------------------------------- the method
@pytest.mark.parametrize(("groups", "size"), [(4, 12), (8, 8), (24, 5)])
def test_each_planted_group_is_represented_once(groups, size):
    moments, group = planted_moments(groups, size)
    weights = weights_for(groups * size)
    selection = select_channels(moments, weights, config=SelectionConfig(budget=None))
    assert selection.k == selection.k_star == groups
    assert sorted(group[selection.keep]) == list(range(groups))
    for channel in selection.keep.tolist():  # and by its heaviest channel
        assert weights[channel] == weights[torch.from_numpy(group == group[channel])].max()


def test_the_stages_are_the_public_ones(planted):
    moments, _, weights, selection = planted
    separability = jeffries_matusita(moments)
    embedding = tsne(separability.matrix, perplexity=10.0, n_iter=1000, seed=0).embedding
    sweep = kmedoids_sweep(embedding)
    knee = find_knee(sweep.ks, sweep.mss_mean, method="interp1d")
    budget = apply_budget(knee.k, 64)
    clustering = sweep.clustering(budget.k)
    assert same(selection.embedding, embedding)
    assert same(selection.ks, sweep.ks)
    assert same(selection.loss, sweep.loss)
    assert same(selection.mss, sweep.mss_mean)
    assert (selection.k_star, selection.k) == (knee.k, budget.k)
    assert same(selection.cluster_labels, clustering.cluster_labels)
    assert same(selection.medoids, clustering.medoids)
    assert selection.n_channels == 64
    assert_consistent(selection, weights)


def test_default_budget_keeps_a_quarter_to_a_half(planted):
    _, group, _, selection = planted
    assert selection.k_star == 8
    assert selection.k == 16  # the knee is below a quarter of 64
    assert set(group[selection.keep]) == set(range(8))


@pytest.mark.parametrize(
    ("options", "ks"),
    [
        ({"budget": (0.5, 0.75), "round_to": 8}, {32}),
        ({"budget": (0.3, 0.6), "round_to": 8}, {24}),
        ({"budget": (1.0, 1.0)}, {64}),
        ({"budget": None, "min_channels": 11}, {11}),
        ({"budget": (0.0, 0.05), "min_channels": 2}, {3}),
    ],
)
def test_budgets_reach_the_selection(planted, options, ks):
    moments, _, weights, _ = planted
    selection = select_channels(moments, weights, config=SelectionConfig(**QUICK, **options))
    assert {selection.k} == ks
    assert_consistent(selection, weights)


@pytest.mark.parametrize("share", [0.0625, 0.125, 0.25, 0.5, 0.9, 1.0])
def test_beyond_the_knee_the_heaviest_are_kept(planted, share):
    moments, _, weights, _ = planted
    by_clusters, by_weight = (
        select_channels(
            moments,
            weights,
            config=SelectionConfig(budget=(share, share), beyond_knee=beyond_knee),
        )
        for beyond_knee in ("clusters", "weight")
    )
    assert_consistent(by_weight, weights)
    assert by_weight.k_star == 8
    if by_weight.k in (4, 8, 64):  # nothing is beyond the knee, or there is no choice
        assert_same_selections(by_weight, by_clusters)
        return
    assert by_weight.k == by_clusters.k
    knees = kmedoids_sweep(by_weight.embedding).clustering(8).cluster_labels.numpy()
    points = by_weight.embedding.double().numpy()
    keep, labels = beyond_knee_ref(knees, weights.numpy(), points, by_weight.k)
    assert by_weight.keep.tolist() == by_weight.medoids.tolist() == keep.tolist()
    assert by_weight.cluster_labels.tolist() == labels.tolist()
    assert same(by_weight.loss, by_clusters.loss)


def test_all_channels_may_be_kept(planted):
    moments, _, weights, _ = planted
    config = SelectionConfig(budget=(1.0, 1.0), **QUICK)
    assert select_channels(moments, weights, config=config).keep.tolist() == list(range(64))


def test_rescaling_channels_changes_nothing(planted):
    moments, _, weights, selection = planted
    factor = 2.0 ** torch.randint(-3, 4, (64,), generator=torch.Generator().manual_seed(0))
    rescaled = replace(moments, mean=moments.mean * factor, m2=moments.m2 * factor**2)
    assert_same_selections(select_channels(rescaled, weights), selection)


@pytest.mark.filterwarnings("ignore:.*perplexity")
@pytest.mark.parametrize("n_dead", [24, 29, 32])
def test_dead_channels_still_give_the_number_asked_for(n_dead):
    # Dead channels separate nothing: equal rows, hence equal points, more clusters than places.
    live = random_moments(32, n_classes=6, seed=1)
    mean, m2 = live.mean.clone(), live.m2.clone()
    mean[:, :n_dead], m2[:, :n_dead] = 0.0, 0.0
    weights = weights_for(32)
    config = SelectionConfig(budget=(0.5, 0.5), **QUICK)
    selection = select_channels(replace(live, mean=mean, m2=m2), weights, config=config)
    assert selection.k == 16
    assert len(set(selection.keep.tolist())) == 16


@MODEST
@given(
    st.integers(3, 14), st.integers(2, 4), st.integers(0, 2**32 - 1), st.sampled_from([0, 0.5, 1])
)
@pytest.mark.filterwarnings("ignore:.*perplexity")
def test_degenerate_layers_are_selected_from_too(n_channels, n_classes, seed, share_constant):
    rng = np.random.default_rng(seed)
    mean = rng.integers(0, 3, (n_classes, n_channels)).astype(float)  # duplicate rows
    std = np.where(rng.random(n_channels) < share_constant, 0.0, 1.0) * np.ones_like(mean)
    weights = weights_for(n_channels, seed)
    selection = select_channels(moments_of(mean, std), weights, config=SelectionConfig(**QUICK))
    fewest, most = budget_bounds_ref(n_channels, (0.25, 0.5))
    assert fewest <= selection.k <= most
    assert len(set(selection.keep.tolist())) == selection.k
    assert selection.embedding.isfinite().all()


def test_real_layers(real_moments):
    moments = next(m for m in real_moments.values() if m.n_channels == 64)
    weights = weights_for(moments.n_channels)
    for preset in ("default", "upstream", "paper"):
        config = SelectionConfig.preset(preset)
        selection = select_channels(moments, weights, config=config)
        assert_consistent(selection, weights)
        fewest, most = budget_bounds_ref(moments.n_channels, (0.25, 0.5))
        assert fewest <= selection.k <= most


# ---------------------------------------------------------------- weights
def as_layer_weights():
    rng = np.random.default_rng(5)
    filters = torch.from_numpy(rng.normal(0, 1, (64, 3, 3, 3)))
    gamma = torch.from_numpy(rng.normal(0, 1, 64)).abs()
    flat = filters.flatten(1)
    return filters, LayerWeights(l1=flat.abs().sum(1), l2=flat.square().sum(1).sqrt(), gamma=gamma)


@pytest.mark.parametrize("weight", ["l1", "l2", "gamma"])
def test_the_weight_decides_inside_the_clusters(planted, weight):
    moments = planted[0]
    filters, layer_weights = as_layer_weights()
    config = SelectionConfig(weight=weight, **QUICK)
    selection = select_channels(moments, layer_weights, config=config)
    expected = getattr(layer_weights, weight)
    assert_consistent(selection, expected)
    if weight != "gamma":
        from_filters = select_channels(moments, filters, config=config)
        assert_same_selections(from_filters, selection)
    as_vector = select_channels(moments, expected, config=config)
    assert_same_selections(as_vector, selection)


@pytest.mark.parametrize("members", [1, 2])
def test_weights_of_several_kinds_add_up_their_places(planted, members):
    moments = planted[0]
    layer_weights = as_layer_weights()[1]
    config = SelectionConfig(weight="gamma+l2+activation", beyond_knee="weight", **QUICK)
    selection = select_channels([moments] * members, [layer_weights] * members, config=config)
    activation = layer_weights.of_kind("activation", moments).numpy()
    parts = [activation, layer_weights.l2.numpy(), layer_weights.gamma.numpy()]
    assert selection.weights.tolist() == combined_ref(parts).tolist()
    assert_consistent(selection, selection.weights)
    turned = config.model_copy(update={"weight": "l2+activation+gamma"})
    again = select_channels([moments] * members, [layer_weights] * members, config=turned)
    assert_same_selections(again, selection)


def test_weights_of_filters():
    filters, expected = as_layer_weights()
    signed = expected.gamma * torch.tensor([1.0, -1.0]).repeat(32)
    got = LayerWeights.from_filters(filters, signed)
    for kind in ("l1", "l2", "gamma"):
        torch.testing.assert_close(getattr(got, kind), getattr(expected, kind))
    assert LayerWeights.from_filters(filters).gamma is None


def test_weights_do_not_move_the_clusters(planted):
    moments, _, weights, selection = planted
    other = select_channels(moments, weights.flip(0))
    assert same(other.cluster_labels, selection.cluster_labels)
    assert not torch.equal(other.keep, selection.keep)


def test_weight_activation_comes_from_the_moments(planted):
    moments, group, _, _ = planted
    loudest = torch.tensor([np.flatnonzero(group == g)[3] for g in range(8)])
    factor = torch.full((64,), 0.01, dtype=torch.float64)
    factor[loudest] = 1e4
    loud = replace(moments, mean=moments.mean * factor, m2=moments.m2 * factor**2)
    config = SelectionConfig(weight="activation", budget=None)
    for weights in as_layer_weights():
        selection = select_channels(loud, weights, config=config)
        assert selection.keep.tolist() == sorted(loudest.tolist())


def test_negative_activations_are_magnitudes_too(planted):
    moments = planted[0]
    negative = replace(moments, mean=-moments.mean)
    config = SelectionConfig(weight="activation", **QUICK)
    weights = as_layer_weights()[1]
    first, second = (select_channels(m, weights, config=config) for m in (moments, negative))
    assert_same_selections(first, second)


def test_kinds_and_layouts_of_the_weights_agree(planted):
    moments, _, weights, selection = planted
    buffer = torch.zeros(130, dtype=torch.float64)
    buffer[2::2] = weights
    assert_same_selections(select_channels(moments, buffer[2::2]), selection)
    assert_same_selections(select_channels(moments, weights.float().requires_grad_()), selection)
    from_numpy = select_channels(moments, weights.numpy())
    assert np.asarray(from_numpy.keep).tolist() == selection.keep.tolist()


# ---------------------------------------------------------------- baselines
@pytest.mark.parametrize("criterion", ["l1", "l2", "gamma"])
def test_baselines_keep_the_heaviest(planted, criterion):
    moments = planted[0]
    filters, layer_weights = as_layer_weights()
    weight = getattr(layer_weights, criterion)
    for budget in ((0.25, 0.5), (0.5, 0.5), (0.3, 0.6)):
        config = SelectionConfig(criterion=criterion, budget=budget, **QUICK)
        selection = select_channels(moments, layer_weights, config=config)
        fewest, most = budget_bounds_ref(64, budget)
        assert fewest <= selection.k <= most
        heaviest = torch.argsort(weight, descending=True, stable=True)[: selection.k]
        assert selection.keep.tolist() == sorted(heaviest.tolist())
        assert selection.n_channels == 64
        assert selection.criterion == criterion
    if criterion != "gamma":
        assert same(select_channels(moments, filters, config=config).keep, selection.keep)


def test_baseline_ties_go_to_the_lowest_index(planted):
    config = SelectionConfig(criterion="l1", budget=(0.5, 0.5))
    selection = select_channels(planted[0], torch.ones(64), config=config)
    assert selection.keep.tolist() == list(range(32))


def test_random_baseline_follows_its_seed(planted):
    moments, _, weights, _ = planted

    def keep(seed):
        config = SelectionConfig(criterion="random", seed=seed, budget=(0.5, 0.5))
        return select_channels(moments, weights, config=config).keep

    assert same(keep(0), keep(0))
    assert same(keep(1), keep(1))
    assert not torch.equal(keep(0), keep(1))
    drawn = torch.stack([torch.bincount(keep(seed), minlength=64) for seed in range(40)])
    assert (drawn.sum(dim=1) == 32).all()
    assert drawn.max() == 1
    assert drawn.float().mean(dim=0).min() > 0.1  # 32 of 64: every channel has its chance
    assert drawn.float().mean(dim=0).max() < 0.9


# ---------------------------------------------------------------- presets and settings
def test_presets_score_with_their_own_definitions(planted):
    moments, _, weights, default = planted
    sweep = kmedoids_sweep(default.embedding)
    upstream, paper = (
        select_channels(moments, weights, config=SelectionConfig.preset(name))
        for name in ("upstream", "paper")
    )
    assert same(upstream.mss, sweep.mss_mean)
    assert upstream.k_star == find_knee(sweep.ks, sweep.mss_mean, method="polynomial").k
    assert same(paper.mss, sweep.mss_nearest)
    assert paper.k_star == find_knee(sweep.ks, sweep.mss_nearest, method="interp1d").k


def test_results_and_settings_are_frozen(planted):
    with pytest.raises((AttributeError, TypeError, ValueError)):
        planted[3].k = 3
    with pytest.raises((AttributeError, TypeError, ValueError)):
        SelectionConfig().seed = 3
    assert dataclasses.is_dataclass(planted[3]) or hasattr(planted[3], "model_dump")


# ---------------------------------------------------------------- determinism
def test_two_calls_give_the_same_bits(planted):
    moments, _, weights, selection = planted
    assert_same_selections(select_channels(moments, weights), selection)


def test_number_of_threads_does_not_matter():
    moments, weights = planted_moments(20, 11)[0], weights_for(220)  # enough to be shared out
    config = SelectionConfig(init="random", seed=5, **QUICK)
    first, second, third = (
        with_threads(n, lambda: select_channels(moments, weights, config=config)) for n in (1, 2, 3)
    )
    assert_same_selections(first, second)
    assert_same_selections(first, third)


def test_a_fresh_process_gives_the_same_bits(planted):
    code = (
        "import json, torch\n"
        "from helpers import planted_moments\n"
        "from test_selection import weights_for\n"
        "from actprune_gpu import select_channels\n"
        "s = select_channels(planted_moments(8, 8)[0], weights_for(64))\n"
        "bits = s.embedding.view(torch.int32).tolist()\n"
        "print(json.dumps([s.keep.tolist(), s.loss.tolist(), s.mss.tolist(), bits]))"
    )
    folder = os.path.dirname(__file__)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    path = [folder, os.path.dirname(folder), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    keep, loss, mss, bits = json.loads(done.stdout)
    here = planted[3]
    assert keep == here.keep.tolist()
    assert loss == here.loss.tolist()
    assert mss == here.mss.tolist()
    assert bits == here.embedding.view(torch.int32).tolist()
