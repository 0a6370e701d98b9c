"""Channels leave: which belong together, what remains, and that nothing else changes."""

import io
from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers import complains
from networks import (
    Net,
    conv,
    difference,
    random_keep,
    randomise,
    run,
    silence,
    tensors,
    yolo_network,
)
from torch import nn

from actprune_gpu.pruning.remove import remove_channels
from actprune_gpu.pruning.trace import trace_channels
from actprune_gpu.pruning.zero import expand_channels

ARCHITECTURES = (
    *("yolov5nu", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n"),
    *("yolov8n-seg", "yolov8n-pose", "yolo11n-obb", "yolo26n-pose"),
)


class Case:
    """A network, what is to stay of it, and the network without the rest."""

    def __init__(self, name):
        from actprune_gpu.models.ultralytics.channels import shrink_model, trace_model

        self.model = yolo_network(name)
        self.graph = trace_model(self.model)
        self.keep = random_keep(self.graph, seed=1)
        self.stays = self.graph.kept(self.keep)
        self.full, self.cost = self.graph.cost(self.graph.kept({})), self.graph.cost(self.stays)
        self.shrunk, graph = deepcopy((self.model, self.graph))
        shrink_model(self.shrunk, graph, self.stays)
        self.image = torch.rand(2, 3, 96, 64)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Case(request.param)
    torch.set_num_threads(threads)


def test_costs_are_those_of_the_network_that_remains(case):
    from actprune_gpu.models.ultralytics.channels import trace_model

    assert case.full.parameters == sum(p.numel() for p in case.model.parameters())
    assert case.cost.parameters == sum(p.numel() for p in case.shrunk.parameters())
    assert case.cost.parameters < 0.8 * case.full.parameters
    assert case.cost.flops < 0.8 * case.full.flops
    again = trace_model(case.shrunk)
    assert again.cost(again.kept({})) == case.cost
    for name, kept in case.keep.items():
        if "[" not in name:  # the range in a name is another one now
            assert again[name].n_channels == len(kept)
    assert len(again.groups) == len(case.graph.groups)
    assert len(again.twins) == len(case.graph.twins)


def test_what_remains_is_the_network_with_silent_channels(case):
    silent = silence(deepcopy(case.model), case.graph, case.keep)
    small, whole = run(case.shrunk, case.image), run(silent, case.image)
    assert difference(small, whole) < 1e-4
    assert difference(small, run(case.model, case.image)) > 1e-3  # there was something to lose
    small, whole = deepcopy(case.shrunk).train(), silent.train()
    assert difference(run(small, case.image), run(whole, case.image)) < 1e-4
    assert all(p.grad is None for p in small.parameters())
    sum(t.square().mean() for t in tensors(small(case.image))).backward()
    assert any(p.grad is not None and p.grad.any() for p in small.parameters())


def test_what_remains_fits_back_into_the_old_shapes(case):
    whole, graph = deepcopy((case.model, case.graph))
    expand_channels(whole, case.shrunk, graph, case.stays)
    shapes = {name: value.shape for name, value in case.model.state_dict().items()}
    assert {name: value.shape for name, value in whole.state_dict().items()} == shapes
    assert difference(run(whole, case.image), run(case.shrunk, case.image)) < 1e-4


def test_what_remains_is_an_ordinary_network(case):
    for module in case.shrunk.modules():
        assert type(module).__module__.startswith(("ultralytics.", "torch.")), type(module)
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups)
            assert module.weight.shape[:2] == shape
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.shape == module.running_var.shape == (module.num_features,)
    expected = run(case.shrunk, case.image)
    fused = deepcopy(case.shrunk).fuse(verbose=False)
    with torch.no_grad():  # the rest differs: fusing drops a branch of some heads
        prediction, reference = fused(case.image)[0], case.shrunk(case.image)[0]
    assert difference(tensors(prediction), tensors(reference)) < 1e-4
    stream = io.BytesIO()
    torch.save(case.shrunk, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(run(loaded, case.image), expected, strict=True))


def test_blocks_remember_their_new_widths(case):
    """Some exports run C2f blocks by the width that they remember, not by halving."""
    by_width = deepcopy(case.shrunk)
    for module in by_width.modules():
        if hasattr(module, "forward_split"):
            module.forward = module.forward_split
    assert difference(run(by_width, case.image), run(case.shrunk, case.image)) < 1e-5


@pytest.mark.parametrize("name", ["yolov5n-p6", "yolov8n-p6", "yolo26n-p6"])
def test_networks_of_a_stride_of_64(name):
    case = Case(name)
    image = torch.rand(1, 3, 128, 64)
    silenced = silence(deepcopy(case.model), case.graph, case.keep)
    assert difference(run(case.shrunk, image), run(silenced, image)) < 1e-4
    # As of an image of 64 pixels a side, like the costs of all others.
    stem = case.graph.uses["model.0.conv"]
    assert stem.positions == 32 * 32


@pytest.mark.parametrize("name", ["yolov8n", "yolov10n"])
def test_one_channel_of_every_group_is_enough(name):
    from actprune_gpu.models.ultralytics.channels import shrink_model, trace_model

    model = yolo_network(name)
    graph = trace_model(model)
    keep = random_keep(graph, seed=2, share=0)
    image = torch.rand(1, 3, 64, 64)
    expected = run(silence(deepcopy(model), graph, keep), image)
    cost = graph.cost(graph.kept(keep))
    shrink_model(model, graph, graph.kept(keep))
    assert difference(run(model, image), expected) < 1e-4
    again = trace_model(model)
    assert again.cost(again.kept({})) == cost


def test_keep_is_checked():
    from actprune_gpu.models.ultralytics.channels import trace_model

    graph = trace_model(pytest.importorskip("ultralytics").YOLO("yolov8n.yaml").model)
    first, second = graph.twins[0]
    assert graph[first].n_channels == graph[second].n_channels
    with complains("model.99", "no group"):
        graph.kept({"model.99": [0]})
    for bad in ([], [-1], [0, 16]):
        with complains("model.0", "0..15", str(bad)):
            graph.kept({"model.0": bad})
    with complains(first, second, "equally many", "3 and"):
        graph.kept({first: [0, 1, 2]})
    stays = graph.kept({first: [0, 1, 2], second: [3, 5, 4, 4], "model.0": range(3)})
    assert stays.sum() == graph.n_channels - 2 * (graph[first].n_channels - 3) - 13
    assert np.flatnonzero(stays[graph[second].channels]).tolist() == [3, 4, 5]


def test_other_heads_are_refused():
    from actprune_gpu.models.ultralytics.channels import trace_model

    ultralytics = pytest.importorskip("ultralytics")
    with complains("Classify", "'classify'", "detect, segment, pose, obb"):
        trace_model(ultralytics.YOLO("yolov8n-cls.yaml").model)
    with complains("detect, segment, pose, obb", "head"):
        trace_model(nn.Sequential(nn.Linear(2, 2)))


# Small networks, whose channels can be followed by hand.


class Block(nn.Sequential):
    """A convolution and its normalization, one layer to the user."""


def halves(net, x):
    first, second = net.a(x).relu().chunk(2, 1)
    return net.c(torch.cat([first, net.b(second)], 1))


def thirds(net, x):
    first, second = net.a(x).split([2, 6], 1)
    return net.c(first) + net.b(second)


def gated(net, x):
    features = net.a(x)
    return net.c(features * features.amax((2, 3), keepdim=True).mean(1, keepdim=True).sigmoid())


every = np.arange
# The network; what each group's members are; twins; why layers must stay, in a word.
NETS = {
    "a chain with a norm": (
        lambda: Net(
            lambda n, x: n.c(n.a(x).relu()),
            a=Block(conv(3, 8, bias=False), nn.BatchNorm2d(8)),
            c=conv(8, 4),
        ),
        {"a": {"a": every(8)}},
        (),
        {"c": "puts them out"},
    ),
    "a residual sum": (
        lambda: Net(
            lambda n, x: n.c((y := n.a(x).relu()) + n.b(y)),
            a=conv(3, 8),
            b=conv(8, 8),
            c=conv(8, 4),
        ),
        {"a": {"a": every(8), "b": every(8)}},
        (),
        {"c": "puts them out"},
    ),
    "a concatenation with the image": (
        lambda: Net(
            lambda n, x: n.c(torch.cat([n.b(x), x, n.a(x)], 1)),
            a=conv(3, 4),
            b=conv(3, 6),
            c=conv(13, 4),
        ),
        {"b": {"b": every(6)}, "a": {"a": every(4)}},
        (),
        {"c": "puts them out"},
    ),
    "the same channels twice": (
        lambda: Net(
            lambda n, x: n.c(torch.cat([(y := n.a(x)), y.relu()], 1)), a=conv(3, 4), c=conv(8, 4)
        ),
        {"a": {"a": every(4)}},
        (),
        {"c": "puts them out"},
    ),
    "halves": (
        lambda: Net(halves, a=conv(3, 8), b=conv(4, 6), c=conv(10, 4)),
        {"a[0:4]": {"a": every(4)}, "a[4:8]": {"a": every(4, 8)}, "b": {"b": every(6)}},
        (("a[0:4]", "a[4:8]"),),
        {"c": "puts them out"},
    ),
    "a split in unequal parts": (
        lambda: Net(thirds, a=conv(3, 8), b=conv(6, 4), c=conv(2, 4)),
        {},
        (),
        {"a": "a fixed number", "c": "puts them out"},
    ),
    "a depthwise convolution": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 8), b=conv(8, 8, groups=8), c=conv(8, 4)
        ),
        {"a": {"a": every(8), "b": every(8)}},
        (),
        {"c": "puts them out"},
    ),
    "a convolution of two groups": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 8), b=conv(8, 6, groups=2), c=conv(6, 4)
        ),
        {},
        (),
        {"a": "2 groups", "c": "puts them out"},
    ),
    "a transposed convolution": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.a(x))),
            a=conv(3, 8),
            b=nn.ConvTranspose2d(8, 6, 2, 2),
            c=conv(6, 4),
        ),
        {"a": {"a": every(8)}, "b": {"b": every(6)}},
        (),
        {"c": "puts them out"},
    ),
    "a module that runs twice": (
        lambda: Net(
            lambda n, x: n.c(n.b(n.b(n.a(x)).relu())), a=conv(3, 8), b=conv(8, 8), c=conv(8, 4)
        ),
        {"a": {"a": every(8), "b": every(8)}},
        (),
        {"c": "puts them out"},
    ),
    "an operation that nobody knows": (
        lambda: Net(
            lambda n, x: n.d(n.c(n.a(x)).cumsum(1)), a=conv(3, 8), c=conv(8, 4), d=conv(4, 5)
        ),
        {"a": {"a": every(8)}},
        (),
        {"c": "cumsum, which is not followed", "d": "puts them out"},
    ),
    "a gate of one number for each image": (
        lambda: Net(gated, a=conv(3, 8), c=conv(8, 4)),
        {},
        (),
        {"a": "which is not followed", "c": "puts them out"},
    ),
    "a module that fixes its channels": (
        lambda: Net(
            lambda n, x: n.c(n.fixed(n.a(x))),
            a=conv(3, 8),
            fixed=nn.Sequential(conv(8, 8), conv(8, 6)),
            c=conv(6, 4),
        ),
        {},
        (),
        {
            **{"a": "Sequential fixes", "fixed.0": "Sequential fixes"},
            **{"fixed.1": "Sequential fixes", "c": "puts them out"},
        },
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_channels_that_belong_together(name):
    build, groups, twins, held = NETS[name]
    torch.manual_seed(0)
    net, image = randomise(build()).eval(), torch.rand(2, 3, 8, 8)

    def layer_of(module):
        first = module.partition(".")[0]
        return first if isinstance(net.get_submodule(first), Block) else module

    graph = trace_channels(
        net, image, holds=lambda module: type(module) is nn.Sequential, layer_of=layer_of
    )
    found = {group.name: group.members for group in graph.groups}
    assert list(found) == list(groups)
    for group, members in groups.items():
        assert {layer: rows.tolist() for layer, rows in found[group].items()} == {
            layer: rows.tolist() for layer, rows in members.items()
        }
    assert graph.twins == twins
    assert not set(graph.held) & {layer for members in groups.values() for layer in members}
    for layer, word in held.items():
        assert word in graph.held[layer], layer

    full = graph.cost(graph.kept({}))
    assert full.parameters == sum(p.numel() for p in net.parameters())
    keep = random_keep(graph, seed=3)
    expected = run(silence(deepcopy(net), graph, keep), image)
    stays = graph.kept(keep)
    cost = graph.cost(stays)
    remove_channels(graph, stays)
    assert difference(run(net, image), expected) < 1e-5
    assert cost.parameters == sum(p.numel() for p in net.parameters())
    assert (cost.parameters < full.parameters) == bool(groups)


def test_flops_count_a_multiplication_and_an_addition():
    net = Net(
        lambda n, x: n.c(n.b(n.a(x))),
        a=conv(3, 8, stride=2),
        b=conv(8, 8, groups=8),
        c=nn.ConvTranspose2d(8, 4, 2, 2),
    )
    graph = trace_channels(net, torch.rand(1, 3, 8, 6))
    at = 4 * 3  # places of the halved map, which the transposed convolution reads
    expected = 2 * at * (3 * 8 * 9 + 8 * 9 + 8 * 4 * 4)
    assert graph.cost(graph.kept({})).flops == expected
    assert graph.cost(graph.kept({"a": [1, 5]})).flops == 2 * at * (3 * 2 * 9 + 2 * 9 + 2 * 4 * 4)


def test_what_only_training_needs_costs_no_operations():
    whole = Net(
        lambda n, x: (n.b(n.a(x)), n.extra(n.a(x))), a=conv(3, 4), b=conv(4, 2), extra=conv(4, 5)
    )
    predicting = Net(lambda n, x: n.b(n.a(x)), a=whole.a, b=whole.b)
    graph = trace_channels(whole, torch.rand(1, 3, 4, 4), predicting=predicting)
    assert graph.uses["extra"].positions == 0
    assert graph.uses["a"].positions == graph.uses["b"].positions == 16
    assert graph["a"].active
    assert graph.cost(graph.kept({})).flops == 2 * 16 * (3 * 4 * 9 + 4 * 2 * 9)


def test_gradients_and_flags_survive_removal():
    net = Net(lambda n, x: n.c(n.a(x)), a=conv(3, 8), c=conv(8, 4)).double()
    net.a.weight.requires_grad_(False)
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    graph = trace_channels(net, image)
    remove_channels(graph, graph.kept({"a": [0, 2]}))
    assert net.a.weight.shape == (2, 3, 3, 3)
    assert net.a.weight.dtype == torch.float64
    assert not net.a.weight.requires_grad
    assert net.c.weight.requires_grad
    net(image).sum().backward()
    assert net.c.weight.grad.shape == (4, 2, 3, 3)
