"""Class probabilities after repair: one scale and offset, the likeliest ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from actprune_gpu.models.ultralytics.confidence import match_confidence

CLASSES, PLACES = 3, 200


def head(*names):
    """Return a detector that is a head and nothing else: two levels for each branch."""
    torch.manual_seed(0)
    levels = {
        name: [nn.Sequential(nn.Conv2d(4, CLASSES, 1)) for _ in range(2)]
        for name in names or ["cv3"]
    }
    return SimpleNamespace(model=[SimpleNamespace(**levels)])


def outputs(scores, **branches):
    """Return what a detector puts out in evaluation mode, as far as it matters here."""
    raw = {name: {"scores": each, "feats": [each]} for name, each in branches.items()}
    return None, raw or {"scores": scores, "feats": [scores]}


def matched(after, before, classes=None):
    """Return scale and offset that a convolution of weights 1 and bias 0 gets."""
    model = head()
    last = [level[-1].requires_grad_(False) for level in model.model[0].cv3]
    with torch.no_grad():
        for convolution in last:
            convolution.weight.fill_(1.0)
            convolution.bias.zero_()
        match_confidence(model, outputs(after), outputs(before), classes=classes)
    found = {(float(c.weight[k, 0]), float(c.bias[k])) for c in last for k in range(CLASSES)}
    assert len(found) == 1
    return found.pop()


def noise(seed):
    return torch.randn(2, CLASSES, PLACES, generator=torch.Generator().manual_seed(seed))


def scores(seed=0):
    return noise(seed) * 3 - 2


# Smaller scales would mean logits beyond those that are counted.
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(0.5, 3.0), st.floats(-4.0, 4.0), st.integers(0, 5))
def test_what_was_scaled_and_shifted_is_put_back(scale, offset, seed):
    before = scores(seed)
    found = matched((before - offset) / scale, before)
    assert found == pytest.approx((scale, offset), abs=0.01)


def test_the_likeliest_of_all_scales_and_offsets():
    before = scores()
    after = 0.5 * before - 1.0 + noise(7)
    logits, wanted = after.double().numpy().ravel(), before.double().sigmoid().numpy().ravel()

    def loss(at):
        z = at[0] * logits + at[1]
        return np.sum(np.logaddexp(0.0, z) - wanted * z)

    reference = minimize(loss, [1.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x
    scale, offset = matched(after, before)
    assert (scale, offset) == pytest.approx(tuple(reference), abs=2e-3)
    # So as much is found as before, which without it is far from so.
    found = torch.sigmoid(scale * after + offset).sum()
    assert float(found) == pytest.approx(float(before.sigmoid().sum()), rel=2e-3)
    assert float(after.sigmoid().sum()) < 0.9 * float(before.sigmoid().sum())


def test_only_the_classes_that_count_do():
    before = scores()
    after = before.clone()
    after[:, 0] -= 2.0
    after[:, 1:] += 5.0
    assert matched(after, before, classes=[0]) == pytest.approx((1.0, 2.0), abs=0.01)


@pytest.mark.parametrize(
    ("after", "before"),
    [
        (scores(), scores()),  # nothing has changed
        (scores() - 3.0, torch.full((2, CLASSES, PLACES), -200.0)),  # nothing to be found
        (torch.full((2, CLASSES, PLACES), -3.0), scores()),  # all places alike
        (-scores(), scores()),  # the wrong way round
        (torch.full((2, CLASSES, PLACES), torch.nan), scores()),
    ],
)
def test_left_alone_where_there_is_nothing_to_match(after, before):
    assert matched(after, before) == (1.0, 0.0)


def test_places_without_a_number_do_not_count():
    before = scores()
    after = before - 1.5
    after[0, 0, ::7] = torch.nan
    before[1, 1, ::5] = torch.nan
    assert matched(after, before) == pytest.approx((1.0, 1.5), abs=0.01)


def test_convolutions_that_put_out_something_else_stay():
    model, before = head("cv3"), scores()
    wide = torch.cat([before, before], 1)
    old = [level[-1].weight.clone() for level in model.model[0].cv3]
    with torch.no_grad():
        match_confidence(model, outputs(wide - 2.0), outputs(wide))
    for weight, level in zip(old, model.model[0].cv3, strict=True):
        assert torch.equal(level[-1].weight, weight)


def test_each_branch_by_itself():
    model, before = head("cv3", "one2one_cv3"), scores()
    weights = [level[-1].weight.clone() for level in model.model[0].cv3]
    others = [level[-1].weight.clone() for level in model.model[0].one2one_cv3]
    with torch.no_grad():
        match_confidence(
            model,
            outputs(None, one2many=before / 2.0, one2one=before / 0.5),
            outputs(None, one2many=before, one2one=before),
        )
    for scale, old, levels in ((2.0, weights, "cv3"), (0.5, others, "one2one_cv3")):
        for weight, level in zip(old, getattr(model.model[0], levels), strict=True):
            torch.testing.assert_close(level[-1].weight, weight * scale, rtol=0.01, atol=0.01)
