"""Moments by parts of the images: they add up to the whole, and new sets are drawn from them."""

import numpy as np
import pytest
import torch
from helpers import complains, moments_of

from actprune_gpu.moments import ClassMoments
from actprune_gpu.shards import N_SHARDS, load_shards, resample, save_shards, shards_path

NAMES = ("a", "b/1", "c")


def parts(seed=0, n_channels=5, empty=()):
    """Samples of two layers by part, and their moments; some parts have none."""
    rng = np.random.default_rng(seed)
    shards, samples = [], []
    for number in range(N_SHARDS):
        if number in empty:
            shards.append({})
            continue
        labels = rng.integers(0, 2 if number else 3, 12)  # the third class is in the first alone
        rows = rng.normal(size=(12, n_channels))
        samples.append((torch.from_numpy(rows), torch.from_numpy(labels)))
        shards.append(
            {
                name: ClassMoments.from_activations(scale * samples[-1][0], samples[-1][1], NAMES)
                for name, scale in (("one", 1.0), ("two/x", 2.0))
            }
        )
    return shards, samples


def whole_of(samples):
    rows, labels = (torch.cat(kind) for kind in zip(*samples, strict=True))
    return {
        name: ClassMoments.from_activations(scale * rows, labels, NAMES)
        for name, scale in (("one", 1.0), ("two/x", 2.0))
    }


def test_what_is_written_is_read_again(tmp_path):
    shards, samples = parts(empty=(2, 5))
    path = shards_path(tmp_path / "moments.safetensors")
    assert path.name == "moments.shards.safetensors"
    save_shards(path, shards, {"note": "x"})
    loaded = load_shards(path, whole_of(samples), {"note": "x"})
    assert list(loaded) == shards


def test_those_of_another_state_or_no_file_are_none(tmp_path):
    shards, samples = parts()
    path = tmp_path / "x.shards.safetensors"
    assert load_shards(path, {}, {}) == ()
    save_shards(path, shards, {"done": "1"})
    assert load_shards(path, whole_of(samples), {"done": "2"}) == ()


def test_damaged_files_are_named(tmp_path):
    shards, samples = parts()
    path = tmp_path / "x.shards.safetensors"
    save_shards(path, shards, {})
    whole = whole_of(samples)
    with complains(path.name, "two/x"):
        load_shards(path, {"one": whole["one"]}, {})
    with complains(path.name, "one", "fit"):
        load_shards(path, {**whole, "one": ClassMoments.zeros(4, NAMES)}, {})
    save_shards(path, [{}] * N_SHARDS + [shards[0]], {})
    with complains(path.name, f"{N_SHARDS}/one"):
        load_shards(path, whole, {})
    path.write_bytes(b"nothing")
    with complains(path.name):
        load_shards(path, whole, {})


@pytest.mark.parametrize("seed", range(4))
def test_a_draw_is_the_moments_of_the_samples_drawn(seed):
    shards, samples = parts(empty=(3,))
    drawn = resample(shards, seed)
    places = np.random.RandomState(seed).randint(len(samples), size=len(samples))
    expected = whole_of([samples[place] for place in places])
    for name, moments in expected.items():
        assert torch.equal(drawn[name].count, moments.count)
        torch.testing.assert_close(drawn[name].mean, moments.mean)
        torch.testing.assert_close(drawn[name].m2, moments.m2)
    again = resample(shards, seed)
    assert all(drawn[name] == again[name] for name in drawn)


def test_draws_differ_and_need_two_parts():
    shards, _ = parts()
    assert any(resample(shards, 1)["one"] != resample(shards, seed)["one"] for seed in (2, 3))
    with complains("shards", "2", "got 1"):
        resample([{}, {"one": moments_of(np.zeros((2, 3)), 1.0)}], 0)


# Gathered with the whole


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint

    return load_checkpoint(tiny_checkpoint)


LOOSE = {"image_size": 96, "confidence": 0.0, "iou": 0.0}
LAYERS = ("model.0", "model.5.cv2")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_shards_of_a_gather_are_eighths_of_the_images(checkpoint, make_dataset, batch_size):
    from actprune_gpu.yolo import gather, load_dataset

    dataset = load_dataset(make_dataset(40))
    result = gather(checkpoint, dataset, LAYERS, **LOOSE, batch_size=batch_size)
    assert len(result.shards) == N_SHARDS
    for number in (0, 7):
        some = dataset_of(dataset, range(5 * number, 5 * number + 5))
        own = gather(checkpoint, load_dataset(some), LAYERS, **LOOSE).moments
        for layer in LAYERS:
            shard = result.shards[number][layer]
            assert torch.equal(shard.count, own[layer].count)
            torch.testing.assert_close(shard.mean, own[layer].mean, rtol=1e-4, atol=1e-5)
    for layer in LAYERS:
        merged = result.shards[0][layer]
        for shard in result.shards[1:]:
            merged = merged.merge(shard[layer])
        whole = result.moments[layer]
        assert torch.equal(merged.count, whole.count)
        torch.testing.assert_close(merged.mean, whole.mean)
        torch.testing.assert_close(merged.m2, whole.m2)


def dataset_of(dataset, numbers):
    """A YAML file of some of a data set's images."""
    from conftest import write_yaml

    folder = dataset.images[0].path.parents[2]
    file = folder / f"some-{min(numbers)}.txt"
    file.write_text("\n".join(str(dataset.images[number].path) for number in numbers))
    return write_yaml(folder / f"some-{min(numbers)}.yaml", train=file.name)


@pytest.mark.parametrize("at", [1, 34])  # in the first window of images and in the second
def test_resumed_shards_are_bit_for_bit_those_of_an_uninterrupted_run(
    checkpoint, make_dataset, tmp_path, at
):
    from actprune_gpu.models.ultralytics.images import WINDOW
    from actprune_gpu.models.ultralytics.result import GatherResult
    from actprune_gpu.yolo import gather, load_dataset

    dataset = load_dataset(make_dataset(WINDOW + 8))
    path = tmp_path / "moments.safetensors"

    def stop(done, total):
        if done >= at:
            raise KeyboardInterrupt

    whole = gather(checkpoint, dataset, LAYERS, **LOOSE)
    with pytest.raises(KeyboardInterrupt):
        gather(checkpoint, dataset, LAYERS, **LOOSE, state_path=path, progress=stop)
    resumed = gather(checkpoint, dataset, LAYERS, **LOOSE, state_path=path, resume=True)
    assert list(resumed.shards) == list(whole.shards)
    assert list(GatherResult.load(path).shards) == list(whole.shards)


def test_a_run_that_is_gone_on_with_without_its_shards_has_none(checkpoint, make_dataset, tmp_path):
    from actprune_gpu.models.ultralytics.images import WINDOW
    from actprune_gpu.yolo import gather, load_dataset

    dataset = load_dataset(make_dataset(WINDOW + 8))
    path = tmp_path / "moments.safetensors"

    def stop(done, total):
        if done > WINDOW:
            raise KeyboardInterrupt

    whole = gather(checkpoint, dataset, LAYERS, **LOOSE)
    with pytest.raises(KeyboardInterrupt):
        gather(checkpoint, dataset, LAYERS, **LOOSE, state_path=path, progress=stop)
    shards_path(path).unlink()
    without = gather(checkpoint, dataset, LAYERS, **LOOSE, state_path=path, resume=True)
    assert without.shards == ()
    assert not shards_path(path).exists()
    assert all(without.moments[layer] == whole.moments[layer] for layer in LAYERS)


def test_large_shards_are_not_kept(checkpoint, make_dataset, monkeypatch):
    from actprune_gpu.models.ultralytics import gather as module
    from actprune_gpu.yolo import gather, load_dataset

    dataset = load_dataset(make_dataset(3))
    kept = gather(checkpoint, dataset, LAYERS, **LOOSE)
    monkeypatch.setattr(module, "_MOST_SHARD_BYTES", 1000)
    without = gather(checkpoint, dataset, LAYERS, **LOOSE)
    assert without.shards == ()
    assert all(without.moments[layer] == kept.moments[layer] for layer in LAYERS)
