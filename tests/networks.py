"""Networks whose channels leave, and how two of them are compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from actprune_gpu.pruning.kinds import is_normalization


def yolo_network(name):
    """A network of Ultralytics with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return randomise(pytest.importorskip("ultralytics").YOLO(f"{name}.yaml").model).eval()


def randomise(model):
    """As after training: no two channels alike, in running statistics too."""
    for module in model.modules():
        if is_normalization(module):
            if module.running_mean is not None:
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.4)
    return model


def tensors(result):
    """All tensors that a network puts out, but for the feature maps that go along."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, dict):
        return [t for key, value in result.items() if key != "feats" for t in tensors(value)]
    return [t for value in result for t in tensors(value)]


def assert_predicted(ours, expected, edges, shape):
    """Each row of a box, its confidence and class in an image of ``shape`` is one of ours.

    Ours are in pixels of the network's input, where the image has ``edges``. Rows of equal
    confidence may come in another order.
    """
    from scipy.optimize import linear_sum_assignment

    left, top, right, bottom = edges.tolist()
    height, width = shape
    scale = torch.tensor([width / (right - left), height / (bottom - top)] * 2)
    limits = torch.tensor([width, height] * 2)
    boxes = ((ours[:, :4] - torch.tensor([left, top] * 2)) * scale).clamp(min=0).minimum(limits)
    wanted = expected[:, :4].clamp(min=0).minimum(limits)
    # In units of what may differ by rounding; classes may not at all.
    apart = torch.cdist(wanted, boxes, p=torch.inf) / 0.5
    confidence, other = expected[:, 4, None], ours[None, :, 4]
    apart = apart.maximum((confidence - other).abs() / (1e-3 * confidence + 1e-6))
    apart = apart + 1e6 * (expected[:, 5, None] != ours[None, :, 5])
    rows, columns = linear_sum_assignment(apart.numpy())
    assert len(rows) == len(expected) > 0
    assert float(apart[rows, columns].max()) < 1.0


def run(model, image):
    with torch.no_grad():
        return tensors(model(image))


def difference(first, second):
    """The largest difference, relative to the largest value of its tensor."""
    assert [t.shape for t in first] == [t.shape for t in second]
    assert all(torch.isfinite(t).all() for t in (*first, *second))
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1))
        for a, b in zip(first, second, strict=True)
    )


def random_keep(graph, seed, share=0.6):
    """A random part of every group; groups of one size, as twins are, keep equally many."""
    rng = np.random.default_rng(seed)
    return {
        group.name: rng.permutation(group.n_channels)[: max(1, int(share * group.n_channels))]
        for group in graph.groups
    }


def silence(model, graph, keep):
    """Make what is not in ``keep`` zero wherever it is written, by each group's list of members.

    Zero stays zero in all that these networks do between convolutions.
    """
    for name, numbers in keep.items():
        dropped = np.setdiff1d(np.arange(graph[name].n_channels), numbers)
        for layer, rows in graph[name].members.items():
            for module in model.get_submodule(layer).modules():
                if isinstance(module, nn.ConvTranspose2d):
                    module.weight.data[:, rows[dropped]] = 0
                elif isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                    module.weight.data[rows[dropped]] = 0
                if getattr(module, "bias", None) is not None:
                    module.bias.data[rows[dropped]] = 0
    return model


class Net(nn.Module):
    """Runs ``wire(net, image)`` over named convolutions."""

    def __init__(self, wire, **modules):
        super().__init__()
        self.wire = wire
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.wire(self, x)


def conv(n_in, n_out, size=3, **settings):
    return nn.Conv2d(n_in, n_out, size, padding=size // 2, **settings)
