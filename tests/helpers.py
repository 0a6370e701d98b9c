"""Synthetic inputs with known answers, and the check that every bad input goes through."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import settings

from actprune_gpu.errors import InputError
from actprune_gpu.moments import ClassMoments

# Few examples, always the same ones: a red build must be red again on the next run.
MODEST = settings(max_examples=30, deadline=None, derandomize=True)


@contextmanager
def complains(*words):
    """The block raises `InputError` in one line that contains every one of `words`."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert message.strip()
    assert "\n" not in message.strip(), f"more than one line: {message!r}"
    missing = [word for word in words if str(word).lower() not in message.lower()]
    assert not missing, f"{missing} not named in {message!r}"


def class_names(n_classes):
    return tuple(f"class{i}" for i in range(n_classes))


def moments_of(mean, std, count=50):
    """Moments with the given class means and standard deviations, [L, C] each."""
    mean = torch.as_tensor(mean, dtype=torch.float64)
    std = torch.as_tensor(std, dtype=torch.float64).expand_as(mean)
    count = torch.as_tensor(count, dtype=torch.int64).expand_as(mean).contiguous()
    return ClassMoments(count, mean.clone(), std**2 * count, class_names(len(mean)))


def planted_moments(n_groups, group_size, n_classes=12, jitter=0.02, seed=0):
    """Redundant channels: the channels of a group separate the same classes.

    Each channel is scaled and shifted on its own, which the distance does not see.

    Returns:
        The moments, and the group of each channel [C]. The channels are shuffled.
    """
    rng = np.random.default_rng(seed)
    n_channels = n_groups * group_size
    group = rng.permutation(np.repeat(np.arange(n_groups), group_size))
    mean = rng.normal(0, 2, (n_classes, n_groups))[:, group]
    std = np.exp(rng.normal(0, 0.5, (n_classes, n_groups)))[:, group]
    mean = mean + rng.normal(0, jitter, mean.shape)
    scale, shift = np.exp(rng.normal(0, 1, n_channels)), rng.normal(0, 3, n_channels)
    return moments_of(mean * scale + shift, std * scale), group


def random_moments(n_channels, n_classes=12, seed=0):
    """Channels without any structure but what chance gives them."""
    rng = np.random.default_rng(seed)
    shape = (n_classes, n_channels)
    return moments_of(rng.normal(0, 1, shape), np.exp(rng.normal(0, 0.5, shape)))


def planted_points(n_groups, group_size, seed=0, spread=0.15):
    """Round groups of points, centres on a jittered grid 4 apart: float32 [N, 2], group [N]."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n_groups)))
    cells = rng.permutation(side * side)[:n_groups]
    centres = 4.0 * np.stack([cells // side, cells % side], axis=1)
    centres = centres + rng.normal(0, 0.2, centres.shape)
    group = np.repeat(np.arange(n_groups), group_size)
    points = centres[group] + rng.normal(0, spread, (len(group), 2))
    return points.astype(np.float32), group


def same(a, b):
    """Two tensors of the same type, shape and bits."""
    return a.dtype == b.dtype and torch.equal(a, b)


def with_threads(n, run):
    """The result of `run()` on n threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        result = run()
        assert torch.get_num_threads() == n
        return result
    finally:
        torch.set_num_threads(before)
