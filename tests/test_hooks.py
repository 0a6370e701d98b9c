"""Layers found by pattern, and outputs captured by hooks that never stay behind."""

import pytest
import torch
from helpers import complains
from torch import nn

from actprune_gpu.models.hooks import capture_outputs, resolve_layers

NAMES = ["model.0", "model.2.cv1", "model.2.m.0.cv1", "model.2.cv2", "model.12.cv1"]


class Twice(nn.Module):
    """Gives two tensors, as no convolution does."""

    def forward(self, x):
        return x, x


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 5, 1)))


def n_hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["model.0"], ["model.0"]),
        (["model.2.cv2", "model.0"], ["model.0", "model.2.cv2"]),
        (["model.2.*"], ["model.2.cv1", "model.2.m.0.cv1", "model.2.cv2"]),
        (["*.cv1", "model.2.cv1"], ["model.2.cv1", "model.2.m.0.cv1", "model.12.cv1"]),
        (["model.?"], ["model.0"]),
        ([], NAMES),
    ],
)
def test_resolve_layers_keeps_the_order_of_the_names(patterns, expected):
    assert resolve_layers(NAMES, patterns) == expected


def test_resolve_layers_takes_a_name_with_brackets_for_itself():
    assert resolve_layers(["block[0].conv", "block0.conv"], ["block[0].conv"])[0] == "block[0].conv"


def test_resolve_layers_names_the_nearest():
    with complains("'model.2.cv3'", "model.2.cv1", "model.2.cv2"):
        resolve_layers(NAMES, ["model.0", "model.2.cv3"])
    with complains("no layer", "there are no layers"):
        resolve_layers([], ["x"])


def test_capture_outputs_gives_what_the_layers_put_out():
    model, x = network(), torch.rand(2, 3, 8, 8)
    with capture_outputs(model, ["2.0", "0"]) as outputs, torch.no_grad():
        result = model(x)
        assert set(outputs) == {"0", "2.0"}
        assert torch.equal(outputs["0"], model[0](x))
        assert torch.equal(outputs["2.0"], result)
        model(2 * x)
    assert torch.equal(outputs["0"], model[0](2 * x))
    assert n_hooks(model) == 0


def test_capture_outputs_keeps_only_what_is_asked_for():
    model = network()
    with capture_outputs(model, ["0"], keep=lambda layer, output: output[:, :, 0, 0]) as outputs:
        model(torch.rand(2, 3, 8, 8))
    assert outputs["0"].shape == (2, 4)


def test_capture_outputs_finds_a_module_under_each_of_its_names():
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(shared, shared)
    with capture_outputs(model, ["1"]) as outputs:
        model(torch.rand(1, 3, 4, 4))
    assert list(outputs) == ["1"]


def test_capture_outputs_leaves_no_hook_behind():
    model = network()
    with capture_outputs(model, ["0", "1"]):
        assert n_hooks(model) == 2
        with pytest.raises(RuntimeError, match="channels"):
            model(torch.rand(1, 2, 8, 8))
    assert n_hooks(model) == 0
    block = capture_outputs(model, ["0"])
    block.__enter__()
    block.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert n_hooks(model) == 0
    with complains("'9'", "no layer"), capture_outputs(model, ["0", "9"]):
        pass
    assert n_hooks(model) == 0


def test_capture_outputs_wants_tensors():
    model = nn.Sequential(Twice())
    with complains("'0'", "tensor", "tuple"), capture_outputs(model, ["0"]):
        model(torch.rand(1, 3, 4, 4))
    assert n_hooks(model) == 0
