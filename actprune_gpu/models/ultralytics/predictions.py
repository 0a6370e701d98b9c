"""How far the predictions of Ultralytics' networks are from what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def prediction_error(after: Any, before: Any, classes: Sequence[int] | None = None) -> float:
    """Return how far predictions are off, from 0, in units of what they were.

    The squared error of the class probabilities, relative to their squares, and that of everything
    else that the head puts out (boxes, masks, key points), relative to its variance. There a place
    counts by the probability of an object in it, as nobody looks at the boxes of the background.

    Args:
        after: What the network puts out in evaluation mode.
        before: What it put out before.
        classes: The classes that count; all of them if left out.
    """
    was, now = _raw(before), _raw(after)
    p, q = (raw["scores"].sigmoid() for raw in (was, now))
    if classes is not None:
        p, q = p[:, classes], q[:, classes]
    found = float((p - q).square().sum() / p.square().sum().clamp(min=1e-12))
    weight = p.amax(1, keepdim=True)
    weight = weight / weight.sum().clamp(min=1e-12)
    for name, values in was.items():
        if name != "scores" and values.shape[-1] == p.shape[-1]:
            mean = (values * weight).sum((0, 2), keepdim=True)
            spread = ((values - mean).square() * weight).sum().clamp(min=1e-12)
            found += float(((now[name] - values).square() * weight).sum() / spread)
    return found


def branches_of(outputs: Any) -> dict[str, dict[str, Tensor]]:
    """Return the head's outputs by branch and name, ``[B, values, places]``; no maps that go along.

    A head with one branch has one2many.
    """
    raw = outputs[1]
    branches = raw if "one2one" in raw else {"one2many": raw}
    return {
        branch: {name: value for name, value in found.items() if isinstance(value, Tensor)}
        for branch, found in branches.items()
        if found
    }


def _raw(outputs: Any) -> dict[str, Tensor]:
    """Return the outputs of the branch that predicts: one2one its best places, one2many all."""
    predicted, branches = outputs[0], branches_of(outputs)
    if "one2one" not in branches:
        return branches["one2many"]
    places = branches["one2one"]["scores"].shape[-1]
    every = isinstance(predicted, Tensor) and predicted.shape[-1] == places
    return branches["one2many" if every else "one2one"]
