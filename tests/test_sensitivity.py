"""What becomes of the predictions when channels are missing, tried out without removing any."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from networks import Net, conv, randomise
from torch import nn

from actprune_gpu.inputs import ModelInputs
from actprune_gpu.pruning.sampling import Calibration
from actprune_gpu.pruning.sensitivity import Sensitivity
from actprune_gpu.pruning.subset import input_moments, rank_by_reconstruction, views_of
from actprune_gpu.pruning.trace import trace_channels


def difference(after, before):
    return float((after - before).square().sum() / before.square().sum())


@pytest.fixture(autouse=True)
def _same_weights_whatever_ran_before():
    torch.manual_seed(0)


class Lab:
    """A network, its channels in the order in which they are worth keeping, and a few images."""

    def __init__(self, net):
        self.net = randomise(net).eval().requires_grad_(False)
        images = torch.randn(6, 3, 12, 10)
        content = torch.tensor([[0.0, 0.0, 10.0, 12.0]]).expand(6, 4)
        self.graph = trace_channels(self.net, images[:1])
        self.moments = input_moments(self.net, self.graph, Calibration.of_images(images, content))
        self.rankings = {
            group.name: rank_by_reconstruction(views_of(self.graph, group, self.moments))
            for group in self.graph.groups
        }
        self.sensitivity = Sensitivity(
            self.net, self.graph, self.rankings, self.moments, ModelInputs((images,)), difference
        )


def two_ways():
    """Both of 8 channels, of which b counts for little in what comes out."""
    net = Net(
        lambda n, x: n.c(n.a(x)) + 0.01 * n.d(n.b(x)),
        a=nn.Conv2d(3, 8, 3),
        b=nn.Conv2d(3, 8, 3),
        c=nn.Conv2d(8, 4, 1),
        d=nn.Conv2d(8, 4, 1),
    )
    return Lab(net)


def test_what_follows_from_the_others_is_no_loss():
    net = Net(lambda n, x: n.c(n.a(x)), a=nn.Conv2d(3, 8, 1), c=nn.Conv2d(8, 4, 1))
    with torch.no_grad():  # well conditioned: the kept ones span the three inputs alike
        nn.init.orthogonal_(net.a.weight.view(8, 3))
    lab = Lab(net)
    assert lab.sensitivity.error({"a": 8}) == 0.0
    assert lab.sensitivity.error({"a": 3}) < 1e-4  # 1 x 1 of three colours: three say all
    assert lab.sensitivity.error({"a": 1}) > 0.01


def test_fewer_channels_do_more_harm_and_nothing_stays_behind():
    lab = two_ways()
    before = deepcopy(lab.net.state_dict())
    errors = [lab.sensitivity.error({"a": count}) for count in (8, 6, 4, 2, 1)]
    assert errors == sorted(errors)
    assert errors[0] == 0.0 < errors[1]
    assert not any(module._forward_pre_hooks for module in lab.net.modules())
    assert all(torch.equal(before[name], value) for name, value in lab.net.state_dict().items())


def test_damage_is_what_half_of_the_channels_do_times_the_curve():
    lab = two_ways()
    calls = []
    damage = lab.sensitivity.damage(progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]
    for name, curve in damage.items():
        assert curve.shape == (9,)
        assert curve[-1] == 0.0
        assert np.all(np.diff(curve) <= 1e-12)
        assert curve[4] == pytest.approx(lab.sensitivity.error({name: 4}), rel=1e-6)
    assert damage["a"][4] > 100 * damage["b"][4] > 0


def test_twins_are_thinned_out_together():
    def halves(net, x):
        first, second = net.a(x).relu().chunk(2, 1)
        return net.c(torch.cat([first, net.b(second)], 1))

    lab = Lab(Net(halves, a=conv(3, 16), b=conv(8, 8), c=conv(16, 4)))
    (twins,) = lab.graph.twins
    damage = lab.sensitivity.damage()
    together = lab.sensitivity.error(dict.fromkeys(twins, 4))
    assert sum(damage[name][4] for name in twins) == pytest.approx(together, rel=1e-6)


def test_a_failure_leaves_no_hooks():
    lab = two_ways()

    def fails(after, before):
        raise ZeroDivisionError

    lab.sensitivity._error_of = fails
    with pytest.raises(ZeroDivisionError):
        lab.sensitivity.error({"a": 4})
    assert not any(module._forward_pre_hooks for module in lab.net.modules())


def test_prediction_errors_count_what_the_user_looks_at():
    from actprune_gpu.models.ultralytics.predictions import prediction_error

    torch.manual_seed(0)
    scores = torch.randn(2, 5, 30) - 3
    raw = {"scores": scores, "boxes": torch.randn(2, 4, 30), "feats": [torch.zeros(1)]}
    before = (torch.zeros(1), raw)
    assert prediction_error(before, before) == 0.0

    def changed(name, where):
        value = raw[name].clone()
        value[where] += 1.0
        return (None, {**raw, name: value})

    other_class = changed("scores", (slice(None), 4))
    assert prediction_error(other_class, before) > 0
    assert prediction_error(other_class, before, classes=[0, 1]) == 0.0
    # A box where something is found counts for more than one of the background.
    peak = scores.sigmoid().amax(1)[0]
    likely, unlikely = (
        changed("boxes", (0, slice(None), at)) for at in (peak.argmax(), peak.argmin())
    )
    assert prediction_error(likely, before) > prediction_error(unlikely, before) > 0
    # Heads with two branches predict with one.
    nested = (None, {"one2many": changed("scores", (0,))[1], "one2one": raw})
    assert prediction_error(nested, before) == 0.0
