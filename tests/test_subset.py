"""Column subset selection against its definition, and what readers see of channels."""

import numpy as np
import pytest
import torch
from networks import Net, conv, randomise
from torch import nn

from actprune_gpu.pruning.sampling import Calibration
from actprune_gpu.pruning.subset import (
    View,
    input_moments,
    rank_by_reconstruction,
    views_of,
)
from actprune_gpu.pruning.trace import trace_channels


def unexplained(view, kept):
    """The signal behind the reader that the kept channels do not explain, by least squares."""
    covariance, metric = view.covariance.numpy(), view.metric.numpy()
    dropped = np.setdiff1d(np.arange(len(covariance)), kept)
    rest = covariance[np.ix_(dropped, dropped)]
    if len(kept):
        among, cross = covariance[np.ix_(kept, kept)], covariance[np.ix_(kept, dropped)]
        rest = rest - cross.T @ np.linalg.pinv(among, hermitian=True) @ cross
    return float((metric[np.ix_(dropped, dropped)] * rest).sum())


def views(n_channels, n_views, rank=None, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n_views):
        mixing = rng.normal(0, 1, (n_channels, rank or 2 * n_channels))
        weights = rng.normal(0, 1, (n_channels, 5))
        made.append(
            View(torch.from_numpy(mixing @ mixing.T), torch.from_numpy(weights @ weights.T))
        )
    return made


@pytest.mark.parametrize(("n_channels", "n_views"), [(1, 1), (7, 1), (12, 3)])
def test_every_choice_is_the_best_next_one(n_channels, n_views):
    made = views(n_channels, n_views)
    ranking = rank_by_reconstruction(made)
    order = ranking.order.tolist()
    assert sorted(order) == list(range(n_channels))
    whole = sum(unexplained(view, []) for view in made)
    for k in range(n_channels):
        kept = order[:k]
        left = sum(unexplained(view, kept) for view in made)
        assert float(ranking.error[k]) == pytest.approx(left / whole, rel=1e-6, abs=1e-9)
        ways = {
            c: sum(unexplained(view, [*kept, c]) for view in made)
            for c in range(n_channels)
            if c not in kept
        }
        assert ways[order[k]] == pytest.approx(min(ways.values()), rel=1e-6, abs=1e-6 * whole)
    assert float(ranking.error[-1]) == 0.0


def test_channels_that_follow_from_others_come_last():
    made = views(10, 2, rank=4)
    ranking = rank_by_reconstruction(made)
    assert float(ranking.error[8]) < 1e-6
    silent = View(torch.diag(torch.tensor([0.0, 1.0, 2.0]).double()), torch.eye(3).double())
    assert rank_by_reconstruction([silent]).order.tolist() == [2, 1, 0]


def test_readers_see_channels_through_their_weights_and_normalization():
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.norm(n.c(n.a(x))),
        a=conv(3, 6),
        c=nn.Conv2d(6, 4, 3, bias=False),
        norm=nn.BatchNorm2d(4),
    )
    randomise(net).eval().requires_grad_(False)
    images = torch.randn(5, 3, 9, 8)
    content = torch.tensor([[0.0, 0.0, 8.0, 9.0]]).expand(5, 4)
    graph = trace_channels(net, images[:1])
    moments = input_moments(net, graph, Calibration.of_images(images, content))
    read = net.a(images).movedim(1, 3).reshape(-1, 6).double()
    torch.testing.assert_close(moments["c"].mean, read.mean(0))
    torch.testing.assert_close(moments["c"].covariance, torch.cov(read.T, correction=0))
    (view,) = views_of(graph, graph["a"], moments)
    scale = (net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()).double()
    error = torch.randn(6).double()
    behind = torch.einsum("oiyx,i->oyx", net.c.weight.double(), error) * scale[:, None, None]
    assert float(error @ view.metric @ error) == pytest.approx(float(behind.square().sum()))
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_reader_that_gets_channels_twice_has_two_views():
    net = Net(
        lambda n, x: n.c(torch.cat([n.a(x), nn.functional.max_pool2d(n.a(x), 3, 1, 1)], 1)),
        a=conv(3, 5),
        c=conv(10, 2),
    )
    net.eval().requires_grad_(False)
    images = torch.randn(4, 3, 8, 8)
    content = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).expand(4, 4)
    graph = trace_channels(net, images[:1])
    moments = input_moments(net, graph, Calibration.of_images(images, content))
    seen = views_of(graph, graph["a"], moments)
    assert len(seen) == 2
    whole = moments["c"].covariance
    torch.testing.assert_close(seen[0].covariance, whole[:5, :5])
    torch.testing.assert_close(seen[1].covariance, whole[5:, 5:])


def test_every_run_of_a_reader_counts():
    net = Net(
        lambda n, x: n.c(n.a(x)).mean((2, 3)) + n.c(n.a(x)[:, :, ::2]).mean((2, 3)),
        **{"a": conv(3, 5), "c": conv(5, 2)},
    )
    net.eval().requires_grad_(False)
    images = torch.randn(4, 3, 8, 8)
    content = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).expand(4, 4)
    moments = input_moments(
        net, trace_channels(net, images[:1]), Calibration.of_images(images, content)
    )
    maps = net.a(images)
    read = torch.cat([x.movedim(1, 3).reshape(-1, 5) for x in (maps, maps[:, :, ::2])]).double()
    torch.testing.assert_close(moments["c"].mean, read.mean(0))
    torch.testing.assert_close(moments["c"].covariance, torch.cov(read.T, correction=0))
