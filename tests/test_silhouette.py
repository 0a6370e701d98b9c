"""The simplified silhouette, in the two definitions in use."""

import numpy as np
import pytest
import torch
from helpers import MODEST, complains
from hypothesis import given
from hypothesis import strategies as st
from reference import simplified_silhouette_ref

from actprune_gpu.silhouette import simplified_silhouette

DEFINITIONS = ["mean", "nearest"]


@MODEST
@given(st.integers(3, 30), st.floats(0, 1), st.sampled_from([0, 1, 3]), st.integers(0, 2**32 - 1))
def test_silhouette_matches_reference(n, share, side, seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, side, (n, 2)) if side else rng.normal(0, 5, (n, 2))
    points = points.astype(np.float32)
    medoids = np.sort(rng.permutation(n)[: 2 + round(share * (n - 2))])
    for definition in DEFINITIONS:
        got = simplified_silhouette(points, medoids, definition=definition)
        assert isinstance(got, float)
        expected = simplified_silhouette_ref(points, medoids, definition)
        assert got == pytest.approx(expected, abs=1e-6)


def test_silhouette_worked_by_hand():
    # On a line: medoids 0, 10 and 30; points 2 and 9 in between.
    points = np.array([[0, 0], [2, 0], [9, 0], [10, 0], [30, 0]], dtype=np.float32)
    medoids = np.array([0, 3, 4])
    mean = [(18 - 2) / 18, (15 - 1) / 15]  # points 2 and 9; the medoids are left out
    nearest = [1, (8 - 2) / 8, (9 - 1) / 9, 1, 0]  # 30 is alone in its cluster
    got = [simplified_silhouette(points, medoids, definition=d) for d in DEFINITIONS]
    assert got == pytest.approx([np.mean(mean), np.mean(nearest)], abs=1e-6)
    assert simplified_silhouette(points, medoids) == got[0]  # "mean" is the default


def test_the_score_lies_between_0_and_1():
    # a is the distance to the nearest medoid, so b >= a and the score lies in [0, 1].
    points = np.random.default_rng(0).normal(0, 1, (50, 2))
    for definition in DEFINITIONS:
        assert 0 <= simplified_silhouette(points, np.arange(7), definition=definition) <= 1


def test_all_points_equal():
    points, medoids = np.ones((6, 2), dtype=np.float32), np.array([0, 1])
    assert simplified_silhouette(points, medoids, definition="mean") == 1.0
    assert simplified_silhouette(points, medoids, definition="nearest") == 0.0


def test_every_point_a_medoid():
    points = np.arange(10.0).reshape(5, 2)
    assert simplified_silhouette(points, np.arange(5), definition="mean") == 1.0
    assert simplified_silhouette(points, np.arange(5), definition="nearest") == 0.0


def test_order_of_the_medoids_does_not_matter():
    points = np.random.default_rng(0).normal(0, 1, (40, 2)).astype(np.float32)
    for definition in DEFINITIONS:
        scores = [
            simplified_silhouette(points, np.array(medoids), definition=definition)
            for medoids in ([3, 17, 21], [21, 3, 17])
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-12)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_kinds_and_layouts_agree(definition):
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    medoids = torch.tensor([1, 5, 30])
    expected = simplified_silhouette(points, medoids, definition=definition)
    buffer = torch.full((81, 4), 9.0)
    buffer[1::2, 1:3] = points
    spaced = torch.stack([medoids, medoids + 1], dim=1)
    for variant, chosen in [
        (points.numpy(), medoids.numpy()),
        (buffer[1::2, 1:3], medoids),
        (points.T.contiguous().T, spaced[:, 0]),
        (points.double(), medoids.int()),
    ]:
        assert simplified_silhouette(variant, chosen, definition=definition) == expected


good = torch.rand(6, 2)


@pytest.mark.parametrize(
    ("points", "medoids", "definition", "words"),
    [
        (torch.rand(6), [0, 1], "mean", ["points", "6"]),
        (torch.rand(6, 3), [0, 1], "mean", ["points", "6, 3"]),
        (torch.full((6, 2), float("nan")), [0, 1], "mean", ["points", "finite"]),
        (good.double() * 1e200, [0, 1], "nearest", ["points", "extend"]),
        (good, [[0, 1]], "mean", ["medoids", "1, 2"]),
        (good, [0.0, 1.0], "mean", ["medoids", "float32"]),
        (good, [0, 6], "mean", ["medoids", "6"]),
        (good, [-1, 2], "mean", ["medoids", "-1"]),
        (good, [3], "mean", ["medoids", "2", "[3]"]),
        (good, [3, 3], "mean", ["medoids"]),
        (good, [0, 1], "median", ["definition", "mean", "nearest", "median"]),
    ],
)
def test_bad_input_is_refused(points, medoids, definition, words):
    with complains(*words):
        simplified_silhouette(points, torch.tensor(medoids), definition=definition)
