"""ClassMoments: one pass, exact where exactness is promised, mergeable everywhere."""

import numpy as np
import pytest
import torch
from helpers import MODEST, class_names, complains, same
from hypothesis import example, given
from hypothesis import strategies as st
from reference import class_moments_ref

from actprune_gpu.moments import ClassMoments, load_moments, save_moments

shapes = st.tuples(st.integers(0, 40), st.integers(1, 7), st.integers(1, 5))
seeds = st.integers(0, 2**32 - 1)


def samples(shape, seed, bad=0.0):
    """Activations [N, C] of very different scales and labels [N]; a share of them not finite."""
    n, c, n_classes = shape
    rng = np.random.default_rng(seed)
    activations = rng.normal(rng.normal(0, 5, c), np.exp(rng.normal(0, 2, c)), (n, c))
    activations = activations.astype(np.float32)
    spoilt = rng.random((n, c)) < bad
    activations[spoilt] = rng.choice([np.nan, np.inf, -np.inf], spoilt.sum())
    labels = rng.integers(0, n_classes, n)
    return torch.from_numpy(activations), torch.from_numpy(labels)


def moments(activations, labels, n_classes):
    return ClassMoments.from_activations(activations, labels, class_names(n_classes))


def assert_close(a, b):
    """Equal counts; means and deviations equal but for float64 rounding."""
    assert same(a.count, b.count)
    scale = 1 + a.mean.abs()
    assert ((a.mean - b.mean).abs() <= 1e-12 * scale).all()
    energy = a.m2 + a.count * a.mean**2  # what cancels when deviations are summed
    assert ((a.m2 - b.m2).abs() <= 1e-12 * (1 + energy)).all()


@MODEST
@given(shapes, seeds, st.sampled_from([0.0, 0.3]))
def test_moments_match_reference(shape, seed, bad):
    activations, labels = samples(shape, seed, bad)
    got = moments(activations, labels, shape[2])
    count, mean, m2 = map(
        torch.from_numpy, class_moments_ref(activations.numpy(), labels.numpy(), shape[2])
    )
    assert got.mean.dtype == got.m2.dtype == torch.float64
    assert_close(got, ClassMoments(count, mean, m2, class_names(shape[2])))
    assert (got.n_classes, got.n_channels) == (shape[2], shape[1])


def test_moments_survive_a_large_offset():
    rng = np.random.default_rng(0)
    activations = 1e6 + rng.normal(0, 1e-2, (500, 3))  # sum of squares would lose all of it
    got = moments(torch.from_numpy(activations), torch.zeros(500, dtype=torch.int64), 1)
    _, mean, m2 = class_moments_ref(activations, np.zeros(500, dtype=int), 1)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(got.m2, m2, rtol=1e-6)


def test_variance_is_the_population_variance():
    got = moments(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([0, 0, 1]), 3)
    assert got.variance.shape == (3, 1)
    assert got.variance[0, 0] == 1.0
    assert got.variance[1, 0] == 0.0
    assert not got.variance.isnan().any()  # a class never seen has variance 0


@MODEST
@given(shapes, seeds, st.floats(0, 1), st.sampled_from([0.0, 0.3]))
@example((7, 3, 2), 0, 0.0, 0.0)
def test_two_updates_equal_one_bit_for_bit(shape, seed, cut, bad):
    activations, labels = samples(shape, seed, bad)
    at = round(cut * len(labels))
    once = ClassMoments.zeros(shape[1], class_names(shape[2]))
    once.update(activations, labels)
    twice = ClassMoments.zeros(shape[1], class_names(shape[2]))
    twice.update(activations[:at], labels[:at])
    twice.update(activations[at:], labels[at:])
    assert once == twice
    assert same(once.mean, twice.mean)
    assert same(once.m2, twice.m2)


@MODEST
@given(shapes, seeds, st.permutations([0, 1, 2, 3]), st.sampled_from([0.0, 0.3]))
def test_merging_shards_in_any_order_equals_one_pass(shape, seed, order, bad):
    activations, labels = samples(shape, seed, bad)
    shards = [moments(activations[i::4], labels[i::4], shape[2]) for i in range(4)]
    a, b, c, d = (shards[i] for i in order)
    whole = moments(activations, labels, shape[2])
    assert_close(whole, a.merge(b).merge(c).merge(d))
    assert_close(whole, a.merge(b.merge(c.merge(d))))
    assert_close(a.merge(b), b.merge(a))


def test_merge_with_nothing_changes_nothing():
    activations, labels = samples((20, 4, 3), 1, 0.3)
    some = moments(activations, labels, 3)
    nothing = ClassMoments.zeros(4, class_names(3))
    assert some.merge(nothing) == some
    assert nothing.merge(some) == some


def test_merge_leaves_its_operands_alone():
    first, second = (moments(*samples((9, 4, 3), seed), 3) for seed in (1, 2))
    kept = [t.clone() for m in (first, second) for t in (m.count, m.mean, m.m2)]
    merged = first.merge(second)
    merged.update(*samples((5, 4, 3), 3))
    now = [t for m in (first, second) for t in (m.count, m.mean, m.m2)]
    assert all(same(a, b) for a, b in zip(kept, now, strict=True))


def test_equality_sees_every_field():
    activations, labels = samples((20, 4, 3), 1)
    first = moments(activations, labels, 3)
    assert first == moments(activations, labels, 3)
    assert first != moments(activations[1:], labels[1:], 3)
    assert first != ClassMoments.from_activations(activations, labels, ("a", "b", "c"))
    assert first != moments(activations[:, :3], labels, 3)
    assert first != "moments"


def test_update_at_reads_the_named_cells():
    features = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    features[1, 2, 3, 4] = float("nan")
    cells = torch.tensor([[1, 3, 4], [0, 0, 5], [2, 2, 0], [0, 0, 5]])  # batch, y, x
    labels = torch.tensor([1, 0, 1, 1])
    got = ClassMoments.zeros(5, class_names(2))
    got.update_at(features, cells, labels)
    batch, y, x = cells.T
    assert got == moments(features[batch, :, y, x], labels, 2)
    assert got.count[1].tolist() == [3, 3, 2, 3, 3]

    before = moments(features[batch, :, y, x], labels, 2)
    got.update_at(features, cells[:0], labels[:0])  # an image without objects
    assert got == before


def test_kinds_layouts_and_precisions_agree():
    activations, labels = samples((30, 6, 3), 4)
    expected = moments(activations, labels, 3)
    assert moments(activations.numpy(), labels.numpy(), 3) == expected
    assert moments(activations.double(), labels.int(), 3) == expected
    assert moments(activations.T.contiguous().T, labels, 3) == expected
    buffer = torch.full((33, 8), 7.0)
    buffer[2:32, 1:7] = activations
    assert moments(buffer[2:32, 1:7], labels, 3) == expected
    spaced = torch.stack([labels, labels + 1], dim=1)[:, 0]
    assert moments(activations, spaced, 3) == expected
    assert moments(activations.tolist(), labels.tolist(), 3) == expected
    for dtype in (torch.float16, torch.bfloat16):
        half = activations.to(dtype)
        assert moments(half, labels, 3) == moments(half.float(), labels, 3)


def test_update_detaches_and_leaves_activations_alone():
    activations = samples((9, 4, 2), 5)[0].requires_grad_()
    before = activations.detach().clone()
    got = moments(activations, torch.zeros(9, dtype=torch.int64), 2)
    assert not got.mean.requires_grad
    assert same(activations.detach(), before)


def test_save_and_load_round_trip(tmp_path):
    path = tmp_path / "moments.safetensors"
    stored = {
        "model.2.cv2": moments(*samples((20, 4, 3), 1, 0.2), 3),
        "model.7": ClassMoments.zeros(2, ("straße", "traffic light", "a,b")),
    }
    save_moments(path, {"old": stored["model.7"]}, {"layer": "old"})
    save_moments(path, stored, {"images": "128", "näme": "value"})
    loaded, metadata = load_moments(path)
    assert list(loaded) == list(stored)
    assert all(loaded[name] == stored[name] for name in stored)
    assert loaded["model.7"].class_names == ("straße", "traffic light", "a,b")
    assert {"images": "128", "näme": "value"}.items() <= metadata.items()
    assert "layer" not in metadata
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file left
    loaded["model.2.cv2"].update(*samples((5, 4, 3), 2))  # a run may be resumed from it


def test_loading_what_is_not_a_moments_file(tmp_path):
    with complains("missing.safetensors"):
        load_moments(tmp_path / "missing.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00\x01 not moments")
    with complains("broken.safetensors"):
        load_moments(broken)
    whole = tmp_path / "whole.safetensors"
    save_moments(whole, {"a": ClassMoments.zeros(4, class_names(2))})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-20])
    with complains("cut.safetensors"):
        load_moments(cut)


def test_failing_to_save_leaves_what_was_there(tmp_path):
    path = tmp_path / "moments.safetensors"
    old = ClassMoments.zeros(2, class_names(2))
    save_moments(path, {"old": old})
    with pytest.raises(TypeError):
        save_moments(path, {"new": old}, {"notes": object()})
    with pytest.raises((FileExistsError, NotADirectoryError)):
        save_moments(path / "inside a file.safetensors", {"new": old})
    assert load_moments(path)[0] == {"old": old}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


good = torch.zeros(4, 3)
good_labels = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("activations", "labels", "words"),
    [
        (torch.zeros(4), good_labels, ["activations", "4"]),
        (torch.zeros(4, 5), good_labels, ["activations", "3", "5"]),
        (torch.zeros(4, 3, dtype=torch.complex64), good_labels, ["activations", "complex64"]),
        (good, good_labels[:3], ["labels", "4", "3"]),
        (good, good_labels[:, None], ["labels", "4, 1"]),
        (good, good_labels.float(), ["labels", "float32"]),
        (good, torch.tensor([0, 0, 2, 0]), ["labels", "2"]),
        (good, torch.tensor([0, 0, -1, 0]), ["labels", "-1"]),
        ([[0.0] * 3, [0.0]], good_labels, ["activations", "list"]),
        ("activations", good_labels, ["activations", "str"]),
    ],
)
def test_bad_samples_are_refused_whole(activations, labels, words):
    got = ClassMoments.zeros(3, class_names(2))
    with complains(*words):
        got.update(activations, labels)
    assert got == ClassMoments.zeros(3, class_names(2))


@pytest.mark.parametrize(
    ("features", "cells", "labels", "words"),
    [
        (torch.zeros(2, 3, 4), [[0, 0, 0]], [0], ["features", "2, 3, 4"]),
        (torch.zeros(2, 5, 4, 4), [[0, 0, 0]], [0], ["features", "3", "5"]),
        (torch.zeros(2, 3, 4, 4), [[0, 0]], [0], ["cells", "1, 2"]),
        (torch.zeros(2, 3, 4, 4), [[2, 0, 0]], [0], ["cells"]),
        (torch.zeros(2, 3, 4, 4), [[0, 4, 0]], [0], ["cells"]),
        (torch.zeros(2, 3, 4, 4), [[0, 0, -1]], [0], ["cells"]),
        (torch.zeros(2, 3, 4, 4), [[0, 0, 0]], [0, 1], ["labels", "1", "2"]),
        (torch.zeros(2, 3, 4, 4), [[0, 0, 0]], [7], ["labels", "7"]),
    ],
)
def test_bad_cells_are_refused_whole(features, cells, labels, words):
    got = ClassMoments.zeros(3, class_names(2))
    with complains(*words):
        got.update_at(features, torch.tensor(cells), torch.tensor(labels))
    assert got == ClassMoments.zeros(3, class_names(2))


def test_moments_of_different_layers_do_not_merge():
    with complains("4", "3"):
        ClassMoments.zeros(4, class_names(2)).merge(ClassMoments.zeros(3, class_names(2)))
    with complains("class"):
        ClassMoments.zeros(4, ("a", "b")).merge(ClassMoments.zeros(4, ("a", "c")))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.select([]), ["channels", "at least one"]),
        (lambda m: m.select([4]), ["channels", "0..3", "4"]),
        (lambda m: m.heads("2"), ["heads", "'2'"]),
        (lambda m: m.heads(3), ["heads", "4", "3"]),
        (lambda m: m.merge(3), ["ClassMoments", "int"]),
        (lambda m: ClassMoments.zeros("4", ["a"]), ["n_channels", "'4'"]),
        (lambda m: ClassMoments.zeros(4, []), ["class_names", "empty"]),
    ],
)
def test_bad_arguments_are_named(call, words):
    with complains(*words):
        call(ClassMoments.zeros(4, class_names(2)))


def test_moments_of_two_layers_may_be_the_same(tmp_path):
    one = ClassMoments.zeros(4, class_names(2))
    save_moments(tmp_path / "two.safetensors", {"a": one, "b": one})
    assert load_moments(tmp_path / "two.safetensors")[0] == {"a": one, "b": one}
