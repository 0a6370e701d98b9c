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


def _raw(outputs: Any) -> dict[str, Tensor]:
    """Return the head's outputs by name, ``[B, values, places]``; not the maps that go along.

    Of two branches, those of the one that predicts: one2one predicts its best places, one2many all.
    """
    predicted, raw = outputs[0], outputs[1]
    if "one2one" in raw:
        places = raw["one2one"]["scores"].shape[-1]
        every = isinstance(predicted, Tensor) and predicted.shape[-1] == places
        raw = raw["one2many" if every else "one2one"]
    return {name: value for name, value in raw.items() if isinstance(value, Tensor)}
