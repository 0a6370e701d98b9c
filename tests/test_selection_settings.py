"""Settings of a selection: the presets, and what bad settings and bad arguments are told."""

import pytest
import torch
from helpers import class_names, complains, random_moments

from actprune_gpu import ClassMoments, LayerWeights, SelectionConfig, select_channels


def test_presets():
    default, upstream, paper = map(SelectionConfig.preset, ("default", "upstream", "paper"))
    assert default == SelectionConfig()
    assert (default.silhouette, default.knee, default.weight) == ("mean", "interp1d", "l1")
    assert (upstream.silhouette, upstream.knee, upstream.weight) == ("mean", "polynomial", "l2")
    assert (paper.silhouette, paper.knee) == ("nearest", "interp1d")
    for preset in (default, upstream, paper):
        assert preset.criterion == "separability"
        assert (preset.perplexity, preset.n_iter) == (10.0, 1000)
    changed = SelectionConfig.preset("upstream", seed=3, budget=None)
    assert (changed.seed, changed.budget, changed.knee) == (3, None, "polynomial")
    assert default.budget == (0.25, 0.5)
    assert default.round_to == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "entropy"}, ["criterion", "separability", "random", "entropy"]),
        ({"weight": "l3"}, ["weight", "l1", "activation", "l3"]),
        ({"weight": "l1+l3"}, ["weight", "l1", "activation", "l1+l3"]),
        ({"weight": "l1+l1"}, ["weight", "l1+l1"]),
        ({"weight": ""}, ["weight", "activation"]),
        ({"weight": None}, ["weight", "None"]),
        ({"beyond_knee": "lot"}, ["beyond_knee", "clusters", "weight", "lot"]),
        ({"silhouette": "median"}, ["silhouette", "mean", "nearest", "median"]),
        ({"knee": "elbow"}, ["knee", "interp1d", "polynomial", "elbow"]),
        ({"init": "spectral"}, ["init", "pca", "random", "spectral"]),
        ({"perplexity": -1.0}, ["perplexity", "-1"]),
        ({"n_iter": 0}, ["n_iter", "0"]),
        ({"budget": (0.5, 0.25)}, ["budget", "0.5", "0.25"]),
        ({"budget": (0.5, 1.25)}, ["budget", "1.25"]),
        ({"round_to": 0}, ["round_to", "0"]),
        ({"min_channels": 0}, ["min_channels", "0"]),
        ({"seed": "zero"}, ["seed", "zero"]),
        ({"perplexty": 10}, ["perplexty"]),
    ],
)
def test_bad_settings_are_refused(options, words):
    with complains(*words):
        SelectionConfig(**options)
    with complains(*words):
        SelectionConfig.preset("default", **options)


def test_unknown_preset_is_refused():
    with complains("preset", "default", "upstream", "paper", "fastest"):
        SelectionConfig.preset("fastest")


@pytest.mark.parametrize(
    ("weights", "config", "words"),
    [
        (torch.ones(63), {}, ["weights", "64", "63"]),
        (torch.ones(63, 3, 3, 3), {}, ["weights", "64", "63"]),
        (torch.full((64,), float("nan")), {}, ["weights", "nan"]),
        (None, {}, ["weights", "None"]),
        ("l1", {}, ["weights", "str"]),
        (torch.ones(64, 3, 3, 3), {"weight": "gamma"}, ["weight", "gamma"]),
        (LayerWeights(torch.ones(64), torch.ones(64)), {"weight": "gamma"}, ["weight", "gamma"]),
        (LayerWeights(torch.ones(64), torch.ones(64)), {"criterion": "gamma"}, ["gamma"]),
        (LayerWeights(torch.ones(9), torch.ones(9)), {}, ["weights", "64", "9"]),
        (
            LayerWeights(torch.ones(64), torch.full((64,), float("nan"))),
            {"weight": "l1+l2"},
            ["weights", "nan"],
        ),
        (LayerWeights(torch.ones(64), torch.ones(9)), {"weight": "l1+l2"}, ["weights", "64", "9"]),
        (LayerWeights(torch.ones(9)), {"weight": "l1+activation"}, ["weights", "64", "9"]),
    ],
)
def test_bad_weights_are_refused(weights, config, words):
    with complains(*words):
        select_channels(random_moments(64), weights, config=SelectionConfig(**config))


def test_weights_of_one_of_two_layers_are_refused():
    with complains("weights", "2 layers", "1"):
        select_channels([random_moments(8)] * 2, [LayerWeights(torch.ones(8))])


def test_too_few_channels_or_classes_are_refused():
    for n_channels in (1, 2):
        with complains("channels", "3", n_channels):
            select_channels(random_moments(n_channels), torch.ones(n_channels))
    with complains("class", "2"):
        select_channels(random_moments(8, n_classes=1), torch.ones(8))
    with complains("class", "2", "0"):
        select_channels(ClassMoments.zeros(8, class_names(4)), torch.ones(8))
    with complains("moments", "ClassMoments"):
        select_channels(torch.zeros(8, 4), torch.ones(8))


def test_baselines_need_a_budget():
    for criterion in ("gamma", "l1", "l2", "random"):
        with complains("criterion", "budget", criterion):
            SelectionConfig(criterion=criterion, budget=None)
