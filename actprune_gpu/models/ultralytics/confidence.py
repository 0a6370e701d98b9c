"""Class probabilities as high as they were, so that thresholds go on meaning what they meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .predictions import branches_of

# The convolutions that put out class scores, by branch of the head.
_SCORING = {"one2many": "cv3", "one2one": "one2one_cv3"}
# Logits are counted in steps of 1/64; beyond 32 probabilities are 1e-13 from 0 or 1.
_STEPS = 64
_LARGEST = 32
_ROUNDS = 100
_SHORTEST = 1e-9  # share of a step


def match_confidence(
    model: nn.Module, after: Any, before: Any, *, classes: Sequence[int] | None = None
) -> None:
    """Scale and shift the class scores of a repaired detector, in place.

    Repair fits the scores of the background as well as those of objects, so the latter end lower
    than they were, and a threshold would find less. One scale and one offset for all classes and
    sizes of objects are those under which the original's probabilities are likeliest (Platt 1999,
    with probabilities for labels). Which of two boxes of a class is the likelier one stays.

    Args:
        model: The network repaired, from Ultralytics.
        after: What it puts out in evaluation mode.
        before: What the original puts out for the same images.
        classes: The classes that count; all of them if left out.
    """
    head: Any = model.model[-1]  # type: ignore[index]
    was = branches_of(before)
    for branch, raw in branches_of(after).items():
        if branch not in was:
            continue
        now, wanted = raw["scores"], was[branch]["scores"]
        last = [level[-1] for level in getattr(head, _SCORING[branch])]
        if any(each.weight.shape[0] != now.shape[1] for each in last):
            continue  # they put out something else, as for words to be compared with
        if now.shape != wanted.shape or torch.equal(now, wanted):
            continue
        scale, offset = _likeliest(*_counted(now, wanted, classes))
        for each in last:
            each.weight.mul_(scale)
            each.bias.mul_(scale).add_(offset)


def _counted(
    now: Tensor, wanted: Tensor, classes: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``[L]`` float64 each: logits, how many there are, the sum of what they should be."""
    counting = slice(None) if classes is None else list(classes)
    bins = 2 * _LARGEST * _STEPS + 1
    logits = torch.linspace(-_LARGEST, _LARGEST, bins, dtype=torch.float64)
    count, hits = torch.zeros_like(logits), torch.zeros_like(logits)
    for number in range(len(now)):  # image by image: all at once would double what is held
        image, target = now[number, counting], wanted[number, counting]
        at = image.float().clamp(-_LARGEST, _LARGEST).add_(_LARGEST).mul_(_STEPS).round_()
        flat = at.long().flatten().cpu()  # in order there, so the sums are the same every time
        p = target.double().sigmoid().flatten().cpu()
        seen = p.isfinite() & image.isfinite().flatten().cpu()
        count += torch.bincount(flat[seen], minlength=bins)
        hits += torch.bincount(flat[seen], p[seen], minlength=bins)
    return logits, count, hits


def _likeliest(logits: Tensor, count: Tensor, hits: Tensor) -> tuple[float, float]:
    """Return scale and offset of the logits, by Newton's method; (1, 0) if none are sound."""
    x = torch.stack([logits, torch.ones_like(logits)])
    found = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def loss(at: Tensor) -> float:
        z = at @ x
        return float((count * nn.functional.softplus(z) - hits * z).sum())

    lowest = loss(found)
    for _ in range(_ROUNDS):
        p = (found @ x).sigmoid()
        slope = x @ (count * p - hits)
        step, singular = torch.linalg.solve_ex((x * (count * p * (1.0 - p))) @ x.T, slope)
        if singular or not step.isfinite().all():
            break  # all logits alike
        share = 1.0
        while share > _SHORTEST and not loss(found - share * step) < lowest:
            share /= 2.0
        if share <= _SHORTEST:
            break
        found = found - share * step
        lowest = loss(found)
    scale, offset = found.tolist()
    # With nothing found before, or the order turned round, there is nothing to match.
    sound = 0.0 < scale < _LARGEST and abs(offset) < _LARGEST
    return (scale, offset) if sound else (1.0, 0.0)
