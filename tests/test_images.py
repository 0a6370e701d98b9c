"""From image files to the network's input, as Ultralytics does it."""

import cv2
import numpy as np
import pytest
import torch
from helpers import MODEST, complains
from hypothesis import given
from hypothesis import strategies as st

from actprune_gpu.models.ultralytics import images as images_module
from actprune_gpu.models.ultralytics.calibration import affordable_images
from actprune_gpu.models.ultralytics.dataset import load_dataset
from actprune_gpu.models.ultralytics.images import WINDOW, Letterbox, load_windows, read_image

augment = pytest.importorskip("ultralytics.data.augment")


def order_of(windows):
    return [image.source.name for w in windows for batch in w.batches for image in batch]


@MODEST
@given(
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.sampled_from([64, 320, 640]),
    st.sampled_from([32, 64]),
)
def test_letterbox_is_that_of_ultralytics(shape, image_size, stride):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = augment.LetterBox((image_size, image_size), auto=True, stride=stride)(image=image)
    letterbox = Letterbox.fit(shape, image_size, stride)
    result = letterbox.apply(image)
    assert result.shape[:2] == letterbox.size
    assert np.array_equal(result, expected)


def test_boxes_move_with_the_image():
    letterbox = Letterbox.fit((100, 200), 640, 32)
    assert letterbox.size == (320, 640)
    assert letterbox.boxes(np.array([[0.0, 0, 1, 1]])).tolist() == [[0, 0, 640, 320]]
    letterbox = Letterbox.fit((300, 200), 640, 32)
    assert letterbox.size == (640, 448)
    assert letterbox.boxes(np.array([[0.0, 0, 1, 0.5]])).tolist() == [[10, 0, 437, 320]]


def test_windows_batch_equal_shapes_in_order(make_dataset):
    dataset = load_dataset(make_dataset(WINDOW + 5))
    windows = list(load_windows(dataset.images, 96, 32, batch_size=4))
    assert [window.n_images for window in windows] == [WINDOW, 5]
    for window in windows:
        for batch in window.batches:
            assert 1 <= len(batch) <= 4
            assert len({image.pixels.shape for image in batch}) == 1
            names = [image.source.name for image in batch]
            assert names == sorted(names)
    names = order_of(windows)
    assert sorted(names) == [image.name for image in dataset.images]
    single = load_windows(dataset.images, 96, 32, batch_size=1)
    assert order_of(single) == names, "the order must not depend on the batch size"


def test_images_are_decoded_one_window_ahead_and_no_further(make_dataset, monkeypatch):
    dataset = load_dataset(make_dataset(4 * WINDOW, n_objects=1))
    decoded = []
    read = images_module.read_image
    monkeypatch.setattr(
        images_module, "read_image", lambda image: decoded.append(image) or read(image)
    )
    windows = load_windows(dataset.images, 96, 32, batch_size=1)
    assert decoded == []
    next(windows)
    assert len(decoded) <= 2 * WINDOW
    next(windows)
    assert len(decoded) <= 3 * WINDOW
    windows.close()


def test_pixels_are_bytes_or_none(tmp_path):
    for dtype, found in ((np.uint8, True), (np.uint16, True), (np.float32, False)):
        cv2.imwrite(str(tmp_path / "a.tif"), np.ones((20, 30, 3), dtype))
        pixels = read_image(tmp_path / "a.tif")
        assert (pixels is not None) == found
        assert pixels is None or pixels.dtype == np.uint8


def test_decoding_installs_nothing(make_dataset, monkeypatch):
    checks = pytest.importorskip("ultralytics.utils.checks")
    file = make_dataset(2)
    image = file.parent / "images" / "train" / "000.png"
    image.unlink()
    image.with_suffix(".heic").write_bytes(b"junk")
    asked = []
    monkeypatch.setattr(checks, "AUTOINSTALL", True)
    monkeypatch.setattr(
        checks, "check_requirements", lambda *args: asked.append(checks.AUTOINSTALL)
    )
    monkeypatch.setattr("ultralytics.utils.patches._pil_plugins_registered", False, raising=False)
    windows = load_windows(load_dataset(file).images, 96, 32, batch_size=1)
    assert [window.corrupt for window in windows] == [("images/train/000.heic",)]
    assert asked == [False]
    assert checks.AUTOINSTALL


@pytest.mark.parametrize("size", [0, -32, 64.5])
def test_a_size_that_is_none(size):
    with complains("image_size", "from 1", size):
        affordable_images(None, size, torch.device("cpu"), 1)
