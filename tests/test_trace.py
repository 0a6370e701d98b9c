"""Channels followed through linear layers, views and products of matrices."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from networks import Net, conv, difference, random_keep, randomise, run
from torch import nn
from torch.nn import functional

from actprune_gpu.inputs import ModelInputs
from actprune_gpu.pruning.remove import remove_channels
from actprune_gpu.pruning.trace import trace_channels
from actprune_gpu.pruning.zero import expand_channels


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def attention(n, x):
    x = tokens(n.a(x))
    q, k, v = n.qkv(x).reshape(*x.shape[:2], 3, -1, 3).permute(2, 0, 3, 1, 4).unbind(0)
    y = functional.scaled_dot_product_attention(q, k, v)
    return n.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))


def by_hand(n, x):
    x = tokens(n.a(x))
    q, k, v = (f(x).unflatten(-1, (-1, 3)).transpose(1, 2) for f in (n.q, n.k, n.v))
    weights = (q @ k.transpose(-2, -1) / 3**0.5).softmax(-1)
    return n.out((weights @ v).transpose(1, 2).flatten(2))


def shuffled(n, x):
    y = n.a(x)
    y = y.view(len(y), 2, 4, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
    return n.c(y)


def linear(n_in, n_out, **settings):
    return nn.Linear(n_in, n_out, **settings)


def sharing(net, first, second):
    first, second = net.get_submodule(first), net.get_submodule(second)
    first.weight = second.weight
    return net


# The network; the groups and how many channels each has; what holds others, in a word.
NETS = {
    "maps flattened into a linear layer": (
        lambda: Net(
            lambda n, x: n.d(n.c(n.a(x).relu().flatten(1)).relu()),
            a=conv(3, 6),
            c=linear(6 * 16, 8),
            d=linear(8, 3),
        ),
        {"a": 6, "c": 8},
        {"d": "puts them out"},
    ),
    "means of maps": (
        lambda: Net(lambda n, x: n.c(n.a(x).mean((2, 3))), a=conv(3, 6), c=linear(6, 3)),
        {"a": 6},
        {},
    ),
    "tokens, which do not lie in order": (
        lambda: Net(
            lambda n, x: n.d(n.c(tokens(n.a(x))).sigmoid()),
            a=conv(3, 6),
            c=linear(6, 8),
            d=linear(8, 3, bias=False),
        ),
        {"a": 6, "c": 8},
        {"d": "puts them out"},
    ),
    "a normalization over channels": (
        lambda: Net(
            lambda n, x: n.d(n.c(n.norm(tokens(n.a(x)))).relu()),
            a=conv(3, 6),
            norm=nn.LayerNorm(6),
            c=linear(6, 8),
            d=linear(8, 3),
        ),
        {"c": 8},
        {"a": "native_layer_norm"},
    ),
    "a batch normalization of vectors": (
        lambda: Net(
            lambda n, x: n.d(n.norm(n.c(n.a(x).mean((2, 3))))),
            a=conv(3, 6),
            c=linear(6, 8),
            norm=nn.BatchNorm1d(8),
            d=linear(8, 3),
        ),
        {"a": 6, "c": 8},
        {},
    ),
    "gated neurons": (
        lambda: Net(
            lambda n, x: n.d(functional.silu(n.gate(tokens(x))) * n.up(tokens(x))),
            gate=linear(3, 8),
            up=linear(3, 8),
            d=linear(8, 3),
        ),
        {"gate": 8},
        {},
    ),
    "gated neurons of one layer": (
        lambda: Net(
            lambda n, x: n.d((y := n.both(tokens(x)).chunk(2, -1))[0].sigmoid() * y[1]),
            both=linear(3, 16),
            d=linear(8, 3),
        ),
        {"both": 8},
        {},
    ),
    "attention of one layer": (
        lambda: Net(attention, a=conv(3, 6), qkv=linear(6, 36), out=linear(12, 3)),
        {"a": 6, "qkv": 4},
        {"out": "puts them out"},
    ),
    "attention by hand, of three": (
        lambda: Net(
            by_hand,
            **{"a": conv(3, 6), "q": linear(6, 12), "k": linear(6, 12), "v": linear(6, 12)},
            out=linear(12, 3),
        ),
        {"a": 6, "q": 4},
        {},
    ),
    "a shuffle of channels": (
        lambda: Net(shuffled, a=conv(3, 8), c=conv(8, 4)),
        {},
        {"a": "several axes"},
    ),
    "channels padded": (
        lambda: Net(
            lambda n, x: n.c(functional.pad(n.a(x), (0, 0, 0, 0, 1, 1))), a=conv(3, 6), c=conv(8, 4)
        ),
        {},
        {"a": "constant_pad_nd"},
    ),
    "channels shifted": (
        lambda: Net(
            lambda n, x: n.c(functional.pad(n.a(x), (0, 0, 0, 0, 1, -1))),
            a=conv(3, 6),
            c=conv(6, 4),
        ),
        {},
        {"a": "constant_pad_nd"},
    ),
    "maps padded": (
        lambda: Net(lambda n, x: n.c(functional.pad(n.a(x), (1, 1))), a=conv(3, 6), c=conv(6, 4)),
        {"a": 6},
        {},
    ),
    "a softmax over channels": (
        lambda: Net(lambda n, x: n.c(n.a(x).softmax(1)), a=conv(3, 6), c=conv(6, 4)),
        {},
        {"a": "softmax"},
    ),
    "a parameter for each channel": (
        lambda: Net(lambda n, x: n.c(n.a(x) * n.scale.weight), a=conv(3, 6), c=conv(6, 4),
                    scale=nn.ParameterDict({"weight": torch.rand(6, 1, 1)})),
        {},
        {"a": "mul"},
    ),
    "some of the channels": (
        lambda: Net(lambda n, x: n.c(n.a(x)[:, 1:5]), a=conv(3, 6), c=conv(4, 4)),
        {},
        {"a": "slice"},
    ),
    "a gate for all channels": (
        lambda: Net(
            lambda n, x: n.c((y := n.a(x)) * n.gate(y).sigmoid()),
            a=conv(3, 6),
            gate=conv(6, 1),
            c=conv(6, 4),
        ),
        {"a": 6},
        {"gate": "acts on many"},
    ),
    "a weight of two layers": (
        lambda: sharing(
            Net(
                lambda n, x: n.d(n.c(n.b(n.a(tokens(x)).relu()).relu()).relu()),
                **{"a": linear(3, 6), "b": linear(6, 6), "c": linear(6, 6)},
                d=linear(6, 3),
            ),
            "b",
            "c",
        ),
        {},
        {"a": "c shares"},
    ),
    "a weight that embeds as well": (
        lambda: sharing(
            Net(
                lambda n, x: n.d(n.c(n.a(n.e((9 * x[:, 0, 0]).long())).relu())),
                **{"e": nn.Embedding(9, 6), "a": linear(6, 8), "c": linear(8, 6)},
                d=linear(6, 9, bias=False),
            ),
            "d",
            "e",
        ),
        {"a": 8},
        {"c": "d shares"},
    ),
    "a layer that runs twice": (
        lambda: Net(
            lambda n, x: n.d(n.c(n.c(n.a(tokens(x)).relu()).relu()).relu()),
            **{"a": linear(3, 6), "c": linear(6, 6), "d": linear(6, 3)},
        ),
        {"a": 6},
        {},
    ),
    "joined to nothing, as caches begin": (
        lambda: Net(
            lambda n, x: n.c(torch.cat([torch.tensor([]), n.a(x)], -1)), a=conv(3, 6), c=conv(6, 4)
        ),
        {"a": 6},
        {},
    ),
    "halves that gate each other": (
        lambda: Net(lambda n, x: n.c(functional.glu(n.a(x), 1)), a=conv(3, 12), c=conv(6, 4)),
        {"a": 6},
        {},
    ),
    "halves of the rows that gate each other": (
        lambda: Net(lambda n, x: n.c(functional.glu(n.a(x), 2)), a=conv(3, 6), c=conv(6, 4)),
        {"a": 6},
        {},
    ),
    "maxima, deviations and norms over places": (
        lambda: Net(
            lambda n, x: n.c(
                (y := n.a(x)).amax((2, 3), keepdim=True)
                + y.flatten(2).max(2, keepdim=True)[0].unsqueeze(3)
                + torch.linalg.vector_norm(y, 2, (2, 3), keepdim=True)
            ),
            **{"a": conv(3, 6), "c": conv(6, 4)},
        ),
        {"a": 6},
        {},
    ),
    "the largest of the channels": (
        lambda: Net(
            lambda n, x: n.c(n.a(x).max(1, keepdim=True)[0]), a=conv(3, 6), c=conv(1, 4)
        ),
        {},
        {"a": "max"},
    ),
    "the deviation of everything": (
        lambda: Net(lambda n, x: n.c((y := n.a(x)) / y.var(False)), a=conv(3, 6), c=conv(6, 4)),
        {},
        {"a": "var"},
    ),
    "stacked": (
        lambda: Net(
            lambda n, x: n.c(torch.stack([n.a(x), n.b(x)], 1).sum(1)),
            **{"a": conv(3, 6), "b": conv(3, 6), "c": conv(6, 4)},
        ),
        {"a": 6},
        {},
    ),
    "a weight transposed": (
        lambda: Net(
            lambda n, x: n.d((n.a(tokens(x)) @ n.c.weight.T).relu()),
            **{"a": linear(3, 6), "c": linear(6, 8, bias=False), "d": linear(8, 3)},
        ),
        {"a": 6, "c": 8},
        {},
    ),
    "noise in the size of the maps": (
        lambda: Net(
            lambda n, x: n.c((y := n.a(x)) * torch.ones_like(y).mul_(0.5)),
            **{"a": conv(3, 6), "c": conv(6, 4)},
        ),
        {"a": 6},
        {},
    ),
    "pooled over channels": (
        lambda: Net(
            lambda n, x: n.c(functional.max_pool1d(n.a(tokens(x)), 3, 1, 1)),
            **{"a": linear(3, 6), "c": linear(6, 4)},
        ),
        {},
        {"a": "max_pool2d"},
    ),
    "enlarged along the channels": (
        lambda: Net(
            lambda n, x: n.c(functional.interpolate(n.a(tokens(x)), 6)),
            **{"a": linear(3, 6), "c": linear(6, 4)},
        ),
        {},
        {"a": "upsample_nearest1d"},
    ),
    "tokens joined": (
        lambda: Net(
            lambda n, x: n.d(torch.cat([n.c(tokens(x)), n.b(tokens(x))], 1)),
            b=linear(3, 6),
            c=linear(3, 6),
            d=linear(6, 3),
        ),
        {"c": 6},
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_what_is_followed_and_what_is_held(name):
    build, groups, held = NETS[name]
    torch.manual_seed(0)
    net, image = build(), torch.rand(2, 3, 4, 4)
    if name == "a parameter for each channel":
        net.scale.weight = net.scale["weight"]
    net = randomise(net).eval()
    graph = trace_channels(net, ModelInputs((image,)))
    assert {group.name: group.n_channels for group in graph.groups} == groups
    for layer, word in held.items():
        assert word in graph.held[layer], graph.held[layer]
    keep = random_keep(graph, seed=2)
    stays = graph.kept(keep)
    cost = graph.cost(stays)
    small, whole = deepcopy(net), deepcopy(net)
    remove_channels(graph.on(small), stays)
    assert sum(p.numel() for p in small.parameters()) == cost.parameters
    expand_channels(whole, small, graph.on(whole), stays)
    assert difference(run(small, image), run(whole, image)) < 1e-5
    if groups:
        assert cost.parameters < sum(p.numel() for p in net.parameters())
        assert difference(run(small, image), run(net, image)) > 1e-4


def test_heads_are_rows_of_query_key_and_value():
    torch.manual_seed(0)
    net = NETS["attention of one layer"][0]().eval()
    graph = trace_channels(net, torch.rand(2, 3, 4, 4))
    rows = graph["qkv"].members["qkv"]
    assert rows.shape == (4, 9)
    assert rows[1].tolist() == [3, 4, 5, 15, 16, 17, 27, 28, 29]
    three = trace_channels(NETS["attention by hand, of three"][0]().eval(), torch.rand(2, 3, 4, 4))
    assert {layer: rows.shape for layer, rows in three["q"].members.items()} == dict.fromkeys(
        "qkv", (4, 3)
    )


@pytest.mark.parametrize("kind", ["attention", "weight_norm", "functional"])
def test_operations_are_counted_wherever_the_weights_are(kind):
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # whose operations the counter does not see
    if kind == "attention":
        encoder = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
        net = Net(lambda n, x: n.c(n.e(x.flatten(2))), e=encoder, c=linear(24, 5))
        x = torch.rand(2, 3, 4, 6)
    elif kind == "weight_norm":
        normed = nn.utils.parametrizations.weight_norm(conv(6, 8))
        net = Net(lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 6), b=normed, c=conv(8, 4))
        x = torch.rand(2, 3, 4, 4)
    else:
        net = Net(
            lambda n, x: n.c(functional.linear(n.a(tokens(x)), n.b.weight)),
            **{"a": linear(3, 6), "b": linear(6, 8), "c": linear(8, 4)},
        )
        x = torch.rand(2, 3, 4, 4)
    try:
        graph = trace_channels(net.eval(), x)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    counted = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    expected = sum(n for op, n in counted.items() if "bmm" not in op and "attention" not in op)
    assert graph.cost(graph.kept({})).flops == expected


def test_operations_of_linear_layers_are_counted():
    net = NETS["gated neurons"][0]().eval()
    graph = trace_channels(net, torch.rand(2, 3, 4, 4))
    everything = np.ones(graph.n_channels, dtype=bool)
    assert graph.cost(everything).flops == 2 * 32 * (3 * 8 + 3 * 8 + 8 * 3)
