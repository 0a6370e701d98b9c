"""The research code's names: values by the formulas, and whole scripts of theirs."""

from itertools import combinations

import numpy as np
import pytest
import torch
from helpers import complains
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actprune_gpu import compat


def bhattacharyya(p, q):
    m1, m2 = np.mean(p), np.mean(q)
    s1, s2 = (max(np.std(values), 1e-10) for values in (p, q))
    v1, v2 = s1**2, s2**2
    return (m1 - m2) ** 2 / (4 * (v1 + v2)) + 0.5 * np.log((v1 + v2) / (2 * s1 * s2))


def activations(n_channels=24, n_classes=4, seed=0):
    """Channels of six kinds; a class with one value, one that is missing from a channel."""
    rng = np.random.default_rng(seed)
    kinds = 3 * rng.normal(size=(6, n_classes))
    found = {
        channel: {
            label: list(kinds[channel % 6, label] + rng.normal(size=9))
            for label in range(n_classes)
        }
        for channel in range(n_channels)
    }
    for channel in found:
        found[channel][3] = found[channel][3][:1]
    found[5][1] = []
    return found


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8),
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8),
)
def test_distances_of_two_classes(p, q):
    b = bhattacharyya(p, q)
    assert compat.bhattacharyya_distance(p, q) == pytest.approx(b, rel=1e-9, abs=1e-9)
    assert compat.jm_distance(p, q) == pytest.approx(2 * (1 - np.exp(-b)), abs=1e-9)
    assert compat.jm_distance(q, p) == compat.jm_distance(p, q)
    assert -1e-12 <= compat.jm_distance(p, q) <= 2


def test_a_class_without_activations_is_not_separated():
    assert compat.jm_distance([], [1.0, 2.0]) == 0.0


def test_the_space_of_a_layer():
    given_ = activations()
    space = compat.YoloLayerPruner(given_).create_layer_space()
    matrix = space["separation_matrix"]
    assert matrix.shape == (24, 6)
    for channel, by_class in given_.items():
        for column, (a, b) in enumerate(combinations(range(4), 2)):
            want = compat.jm_distance(by_class[a], by_class[b])
            assert matrix[channel, column] == pytest.approx(want, abs=2e-5), (channel, a, b)
    again = compat.YoloLayerPruner(given_).create_layer_space()
    assert np.array_equal(space["reduced_matrix"], again["reduced_matrix"])
    assert space["reduced_matrix"].shape == (24, 2)


def test_a_class_that_nowhere_has_activations_keeps_its_columns():
    given_ = activations()
    for by_class in given_.values():
        by_class[2] = []
    matrix = compat.YoloLayerPruner(given_)._calculate_separation_matrix()
    assert matrix.shape == (24, 6)
    with_2 = [n for n, pair in enumerate(combinations(range(4), 2)) if 2 in pair]
    assert not matrix[:, with_2].any()
    assert matrix[:, [0]].any()
    for by_class in given_.values():
        by_class[0] = by_class[1] = []
    assert not compat.YoloLayerPruner(given_)._calculate_separation_matrix().any()
    with complains("activations", "one channel"):
        compat.YoloLayerPruner({})
    with complains("activations", "same classes"):
        compat.YoloLayerPruner({0: {0: [1.0]}, 1: {1: [1.0]}})


@pytest.mark.parametrize("k", [1, 2, 5, 11, 12])
def test_clusters(k):
    points = np.random.default_rng(1).normal(size=(12, 2))
    found = compat.kmedoids_fasterpam(points, k)
    assert len(found["medoids"]) == k
    assert np.array_equal(found["medoids_loc"], points[found["medoids"]])
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    near = distances[:, found["medoids"]]
    assert np.array_equal(near[np.arange(12), found["labels"]], near.min(1))
    loss = near.min(1).sum()
    for place in range(k):  # no exchange makes it better
        for other in range(12):
            swapped = np.array(found["medoids"])
            swapped[place] = other
            assert distances[:, swapped].min(1).sum() >= loss - 1e-6
    a, centres = near.min(1), found["medoids_loc"]
    if k == 1 or not a.any():
        assert compat.calc_mss_value(points, found) == 1.0
    else:
        b = [
            np.mean([np.linalg.norm(p - c) for n, c in enumerate(centres) if n != label])
            for p, label in zip(points, found["labels"], strict=True)
        ]
        want = np.mean([(y - x) / max(x, y) for x, y in zip(a, b, strict=True) if x > 0])
        assert compat.calc_mss_value(points, found) == pytest.approx(want)


def test_bad_clusters():
    points = np.zeros((5, 2))
    with complains("k", "1..5", "6"):
        compat.kmedoids_fasterpam(points, 6)
    with complains("data", "[N, 2]", "[5, 3]"):
        compat.kmedoids_fasterpam(np.zeros((5, 3)), 2)


def test_what_is_kept():
    labels = np.array([0, 1, 0, 2, 1, 2])
    weights = np.array([1.0, 5.0, 3.0, 2.0, 5.0, 1.0])
    assert compat.find_optimal_weighted_medoids(weights, labels, [0, 1, 3]) == [1, 2, 3]
    filters = np.zeros((6, 2, 3, 3))
    filters[:, 0, 0, 0] = weights  # four axes of them made the research code fail
    assert compat.find_optimal_weighted_medoids(filters, labels, [0, 1, 3]) == [1, 2, 3]
    with complains("medoids", "3 clusters", "2"):
        compat.find_optimal_weighted_medoids(weights, labels, [0, 1])

    space = compat.YoloLayerPruner(activations()).create_layer_space()
    values = np.random.default_rng(0).random(24)
    keep = compat.select_optimal_components(space, values, 24, 6)
    assert len(keep) == 6
    found = compat.kmedoids_fasterpam(space["reduced_matrix"], 6)
    for cluster in range(6):
        (chosen,) = [n for n in keep if found["labels"][n] == cluster]
        assert values[chosen] == values[found["labels"] == cluster].max()
    by_knee = compat.select_optimal_components(space, values, 24)
    curve = [
        compat.calc_mss_value(
            space["reduced_matrix"], compat.kmedoids_fasterpam(space["reduced_matrix"], k)
        )
        for k in range(2, 24)
    ]
    assert len(by_knee) == compat.get_knee(list(range(2, 24)), curve)
    assert compat.select_optimal_components(space, values, 2) == list(range(24))
    with complains("weights", "24", "3"):
        compat.select_optimal_components(space, values[:3], 24)


def test_a_curve_without_a_knee_gives_a_number():
    assert compat.get_knee([2, 3, 4, 5, 6], [0.5] * 5) == 2
    assert compat.get_knee([2, 3], [0.1, 0.2]) in (2, 3)


def test_weights_of_layers():
    conv, norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
    nn.init.normal_(norm.weight)
    want = np.sqrt((conv.weight.detach().numpy() ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(compat.extract_conv_weights_norm(conv), want, rtol=1e-5)
    assert np.array_equal(compat.extract_bn_gamma(norm), norm.weight.detach().abs().numpy())


def test_matches_become_activations():
    def match(label, values):
        return compat.DetectionMatch("a.jpg", "a.txt", 0, label, [], [], 0, 0, 0.9, values)

    found = compat.aggregate_activations_from_matches(
        [match(0, [1.0, 2.0]), match(2, [3.0, 4.0]), match(0, [5.0, 6.0]), match(9, [7.0, 8.0])],
        [0, 1, 2],
    )
    assert found == {
        0: {0: [1.0, 5.0], 1: [], 2: [3.0]},
        1: {0: [2.0, 6.0], 1: [], 2: [4.0]},
    }
    assert compat.aggregate_activations_from_matches([], [0]) == {}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Images and labels of the built-in data set, in the research code's form."""
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("ultralytics")
    from actprune_gpu.demo import write_shapes

    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, n_train=24, n_val=4, seed=0)
    found = []
    for image in sorted((folder / "images" / "train").iterdir()):
        label = folder / "labels" / "train" / f"{image.stem}.txt"
        rows = [row.split() for row in label.read_text().splitlines()]
        keys = ("x_center", "y_center", "width", "height")
        found.append(
            {
                "image": cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB),
                "label": [
                    {"class_id": int(row[0]), **dict(zip(keys, map(float, row[1:]), strict=True))}
                    for row in rows
                ],
                "image_path": str(image),
                "label_path": str(label),
            }
        )
    return found


def test_objects_of_an_image(samples):
    from ultralytics import YOLO

    from actprune_gpu.demo import CHECKPOINT

    model, network = YOLO(CHECKPOINT), YOLO(CHECKPOINT).model.eval()
    mini_net = nn.Sequential(*network.model[:3])
    odd = dict(samples[0], image=samples[0]["image"][:, :-10])  # no multiple of the stride
    objects = 0
    for sample in [*samples[:6], odd]:
        matched, missed = compat.process_sample_for_layer_idx_v8(sample, model, mini_net)
        assert sorted(each.object_index for each in matched + missed) == list(
            range(len(sample["label"]))
        )
        objects += len(matched)
        assert all(each.iou > 0.5 and len(each.pred_bbox) == 4 for each in matched)
        assert all(each.pred_bbox == [] for each in missed)
        if sample is odd:
            continue
        x = torch.from_numpy(sample["image"]).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            features = mini_net(x)[0]
        for each in matched:
            left, top, right, bottom = each.gt_bbox
            row = int((top + bottom) / 2 * features.shape[1] / x.shape[2])
            column = int((left + right) / 2 * features.shape[2] / x.shape[3])
            assert (each.patch_row, each.patch_col) == (row, column)
            torch.testing.assert_close(
                torch.tensor(each.patch_activation), features[:, row, column]
            )
    assert objects > 10


def test_a_convolution_in_a_block(samples):
    from ultralytics import YOLO

    from actprune_gpu.demo import CHECKPOINT

    before = YOLO(CHECKPOINT).model.model[3]
    pruned = compat.prune_conv2d_in_block_with_activations(
        CHECKPOINT, samples, [], list(range(8)), 3, 0
    )
    assert isinstance(pruned, YOLO)
    block = pruned.model.model[3]
    count = before.conv.out_channels
    with torch.no_grad():
        out = block.eval()(torch.randn(2, before.conv.in_channels, 8, 8))
    silent = (out == 0).all(dim=(0, 2, 3))
    assert int(silent.sum()) == count - count // 2
    assert torch.equal(block.conv.weight[~silent], before.conv.weight[~silent])
    again = compat.prune_conv2d_in_block_with_activations(
        CHECKPOINT, samples, [], list(range(8)), 3, 0
    )
    assert torch.equal(again.model.model[3].conv.weight, block.conv.weight)
    with complains("block_idx", "99"):
        compat.prune_conv2d_in_block_with_activations(CHECKPOINT, samples, [], [0], 99, 0)
    with complains("conv_in_block_idx", "0..0", "7"):
        compat.prune_conv2d_in_block_with_activations(CHECKPOINT, samples, [], [0], 3, 7)
    with complains("train_data", "none"):
        compat.prune_conv2d_in_block_with_activations(CHECKPOINT, [], [], [0], 3, 0)
