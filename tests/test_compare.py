"""Where two plans for one model differ."""

import pytest
from folders import make_folder
from helpers import MODEST, complains
from hypothesis import given
from hypothesis import strategies as st

from actprune_gpu.report import compare
from actprune_gpu.report.stability import jaccard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("compare") / "out")


def test_compare_counts_channels(folder, tmp_path):
    other = make_folder(tmp_path, budget=(0.5, 0.75), seed=3)
    difference = compare(folder.plan, other.plan)
    assert difference.settings == {
        "budget": ("[0.25, 0.5]", "[0.5, 0.75]"),
        "seed": ("0", "3"),
    }
    for row, ours, theirs in zip(
        difference.groups, folder.plan.groups, other.plan.groups, strict=True
    ):
        assert (row.name, row.first, row.second) == (ours.name, ours.k, theirs.k)
        assert row.jaccard == row.common / (row.first + row.second - row.common)
    again = compare(folder.plan, folder.plan)
    assert again.settings == {}
    assert all(row.jaccard == 1.0 for row in again.groups)


def test_layers_of_one_plan_alone_keep_all_in_the_other(folder):
    short = folder.plan.model_copy(update={"groups": folder.plan.groups[:2]})
    for one, other, of in ((folder.plan, short, "second"), (short, folder.plan, "first")):
        rows = compare(one, other).groups
        assert [row.name for row in rows] == [group.name for group in folder.plan.groups]
        for row, group in zip(rows[2:], folder.plan.groups[2:], strict=True):
            assert getattr(row, of) == group.channels
            assert row.jaccard == group.k / group.channels


def test_plans_of_different_models_are_not_compared(folder):
    other = folder.plan.model_copy(update={"model_sha256": "9" * 64, "model_name": "other.pt"})
    with complains("one model", "net.pt", "other.pt", "0" * 12, "9" * 12):
        compare(folder.plan, other)


@MODEST
@given(st.sets(st.integers(0, 20), min_size=1), st.sets(st.integers(0, 20), min_size=1))
def test_jaccard(first, second):
    value = jaccard(sorted(first), sorted(second))
    assert value == jaccard(sorted(second), sorted(first))
    assert 0.0 <= value <= 1.0
    assert (value == 1.0) is (first == second)
    assert value * len(first | second) == pytest.approx(len(first & second))
