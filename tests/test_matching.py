"""Which objects count as found, and in which cells they lie."""

import numpy as np
import pytest
import torch
from helpers import MODEST, complains
from hypothesis import given
from hypothesis import strategies as st

from actprune_gpu.models.ultralytics.matching import (
    box_iou,
    cells_of,
    match_objects,
    model_classes,
)


@st.composite
def box_sets(draw):
    """Boxes on a coarse grid, so that equal, touching, nested and empty ones are frequent."""
    n = draw(st.integers(0, 6))
    corners = st.tuples(*[st.integers(0, 6)] * 4)
    boxes = draw(st.lists(corners, min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))
    return (
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
    )


def iou_by_hand(a, b):
    def area(left, top, right, bottom):
        return max(right - left, 0) * max(bottom - top, 0)

    common = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - common
    return common / union if union > 0 else 0.0


@MODEST
@given(box_sets(), box_sets())
def test_box_iou_is_what_one_computes_by_hand(first, second):
    expected = [[iou_by_hand(a, b) for b in second[0].tolist()] for a in first[0].tolist()]
    shape = (len(first[0]), len(second[0]))
    np.testing.assert_allclose(
        box_iou(first[0], second[0]), np.array(expected).reshape(shape), atol=1e-12
    )


@MODEST
@given(box_sets(), box_sets(), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_match_objects_keeps_whatever_a_prediction_of_its_class_overlaps(
    objects, predicted, threshold
):
    (boxes, labels), (others, classes) = objects, predicted
    expected = [
        m
        for m in range(len(boxes))
        if any(
            classes[r] == labels[m] and iou_by_hand(boxes[m], others[r]) > threshold
            for r in range(len(others))
        )
    ]
    matched = match_objects(boxes, labels, others, classes, threshold)
    assert matched.dtype == torch.int64
    assert matched.tolist() == expected
    order = torch.randperm(len(others))
    assert match_objects(boxes, labels, others[order], classes[order], threshold).tolist() == (
        expected
    )


def test_match_objects_leaves_its_arguments_alone():
    boxes, labels = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([1])
    match_objects(boxes, labels, boxes, labels)
    assert boxes.tolist() == [[0, 0, 4, 4]]
    assert labels.tolist() == [1]


def test_one_prediction_may_serve_two_objects():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    labels = torch.tensor([0, 0])
    assert match_objects(boxes, labels, boxes[:1], labels[:1]).tolist() == [0, 1]


@MODEST
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 32),
    st.lists(st.tuples(st.floats(-50, 1400), st.floats(-50, 1400)), max_size=5),
)
def test_cells_of_finds_the_cell_that_holds_the_point(map_size, stride, points):
    input_size = (map_size[0] * stride, map_size[1] * stride)
    centres = torch.tensor(points, dtype=torch.float64).reshape(-1, 2)
    y, x = cells_of(centres, input_size, map_size)
    assert y.dtype == x.dtype == torch.int64
    for (point_x, point_y), row, column in zip(points, y.tolist(), x.tolist(), strict=True):
        assert row == min(max(int(np.floor(point_y / stride)), 0), map_size[0] - 1)
        assert column == min(max(int(np.floor(point_x / stride)), 0), map_size[1] - 1)


def test_cells_of_works_for_maps_that_are_no_whole_fraction_of_the_input():
    y, x = cells_of(torch.tensor([[99.9, 0.0], [50.0, 50.0]]), (100, 100), (7, 3))
    assert y.tolist() == [0, 3]
    assert x.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("names", "model_names", "expected"),
    [
        (["a", "b"], ["a", "b"], [0, 1]),
        (["a", "a"], ["a", "a"], [0, 1]),
        (["Dog", "emu"], ["cat", "dog", "owl"], [1, -1]),
        (["chien", "chat"], ["dog", "cat"], [0, 1]),
    ],
)
def test_model_classes_goes_by_name(names, model_names, expected):
    assert model_classes(names, model_names) == expected


def test_model_classes_needs_something_in_common():
    with complains("class", "emu", "cat"):
        model_classes(["emu"], ["cat", "dog"])
