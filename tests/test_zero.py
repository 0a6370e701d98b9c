"""Zeroing: the dropped channels put out exactly 0, the others what they put out before."""

import pytest
import torch
from helpers import complains
from torch import nn

from actprune_gpu.pruning.zero import zero_channels

DROP = [0, 3, 4]
KEEP = [1, 2, 5]


class Block(nn.Module):
    """A convolution block as Ultralytics builds it."""

    def __init__(self, act, bias=False, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        if norm:
            self.bn = nn.BatchNorm2d(6)
            nn.init.normal_(self.bn.bias)
            nn.init.normal_(self.bn.running_mean)
        self.act = act

    def forward(self, x):
        x = self.conv(x)
        return self.act(self.bn(x) if hasattr(self, "bn") else x)


@pytest.mark.parametrize(
    "act", [nn.SiLU(), nn.Identity(), nn.ReLU(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Softplus()]
)
@pytest.mark.parametrize(("bias", "norm"), [(False, True), (True, True), (True, False)])
def test_dropped_channels_are_zero_and_the_others_unchanged(act, bias, norm):
    torch.manual_seed(0)
    block = Block(act, bias, norm).eval()
    image = torch.randn(2, 3, 5, 7)
    before = block(image)
    zero_channels(block, DROP)
    after = block(image)
    assert torch.equal(after[:, DROP], torch.zeros(2, 3, 5, 7))
    assert torch.equal(after[:, KEEP], before[:, KEEP])
    assert before[:, DROP].abs().max() > 0.1


def test_stock_activations_stay_as_they_are():
    block = Block(nn.SiLU())
    zero_channels(block, DROP)
    assert type(block.act) is nn.SiLU


def test_a_bare_convolution_and_nothing_to_drop():
    conv = nn.Conv2d(3, 6, 1)
    before = conv.weight.clone()
    zero_channels(conv, [])
    assert torch.equal(conv.weight, before)
    zero_channels(conv, torch.tensor(DROP))
    assert torch.equal(conv(torch.randn(1, 3, 4, 4))[:, DROP], torch.zeros(1, 3, 4, 4))


def test_half_precision_stays_half():
    block = Block(nn.Sigmoid()).half()
    zero_channels(block, DROP)
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float16}


@pytest.mark.parametrize(
    ("block", "drop", "words"),
    [
        (nn.ReLU(), [0], ["block", "convolution", "ReLU"]),
        (Block(nn.SiLU()), [6], ["drop", "0..5", "6"]),
        (Block(nn.SiLU()), [-1], ["drop", "0..5", "-1"]),
        (Block(nn.SiLU()), [0.5], ["drop", "integers"]),
    ],
)
def test_bad_input_changes_nothing(block, drop, words):
    before = {name: value.clone() for name, value in block.state_dict().items()}
    with complains(*words):
        zero_channels(block, drop)
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name])
