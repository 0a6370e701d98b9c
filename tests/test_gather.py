"""Gathering: one pass for all layers, the right cells, resumable bit for bit."""

import json
import shutil
from copy import deepcopy

import pytest
import torch
from conftest import TINY_CLASSES, write_yaml
from helpers import complains
from networks import assert_predicted

from actprune_gpu.models.hooks import capture_outputs
from actprune_gpu.models.ultralytics.checkpoint import conv_blocks, load_checkpoint
from actprune_gpu.models.ultralytics.dataset import load_dataset
from actprune_gpu.models.ultralytics.detector import Detector, _inside
from actprune_gpu.models.ultralytics.gather import gather
from actprune_gpu.models.ultralytics.images import WINDOW, load_windows, to_input
from actprune_gpu.models.ultralytics.matching import match_objects
from actprune_gpu.models.ultralytics.result import GatherResult
from actprune_gpu.moments import ClassMoments

ultralytics = pytest.importorskip("ultralytics")

# Random weights find nothing on purpose, so in these tests any overlap with any prediction counts.
LOOSE = {"image_size": 96, "confidence": 0.0, "iou": 0.0}
LAYERS = ("model.0", "model.2.m.0.cv1", "model.5.cv2")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint)


def same_moments(first, second):
    return first.keys() == second.keys() and all(first[name] == second[name] for name in first)


def loaded(dataset, image_size=96):
    windows = load_windows(dataset.images, image_size, 32, batch_size=1)
    return [image for window in windows for batch in window.batches for image in batch]


# What is gathered


def test_predictions_are_those_of_yolo_predict(tiny_checkpoint, checkpoint, make_dataset):
    dataset = load_dataset(make_dataset(3))
    detector = Detector(
        checkpoint.model,
        LAYERS,
        range(3),
        confidence=0.0,
        iou=0.5,
        nms_iou=0.7,
        device=torch.device("cpu"),
    )
    yolo = ultralytics.YOLO(tiny_checkpoint)
    threads = torch.get_num_threads()
    for image in loaded(dataset):
        pixels = to_input([image], torch.device("cpu"))
        with torch.inference_mode():
            (ours,) = detector._suppress(detector._network(pixels))
        theirs = yolo.predict(image.source.path, imgsz=96, conf=0.0, device="cpu", verbose=False)
        expected = theirs[0].boxes
        assert len(ours) == len(expected) > 0
        torch.testing.assert_close(ours[:, 4], expected.conf, rtol=1e-3, atol=1e-6)
        assert_predicted(ours, expected.data, image.edges, theirs[0].orig_shape)
        inside = _inside(ours[:, :4], image.edges)
        assert bool((inside >= image.edges[[0, 1, 0, 1]]).all())
        assert bool((inside <= image.edges[[2, 3, 2, 3]]).all())
        assert detector.find([image]).predictions == len(expected)
    torch.set_num_threads(threads)  # YOLO.predict sets it for the process


def test_moments_are_those_of_the_features_at_the_box_centres(checkpoint, make_dataset):
    dataset = load_dataset(make_dataset(5))
    seen = []
    result = gather(
        checkpoint,
        dataset,
        LAYERS,
        **LOOSE,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(n, 5) for n in range(1, 6)]
    assert (result.images_done, result.objects, result.complete) == (5, 15, True)
    assert 0 < result.matched <= 15
    assert result.predictions > 0
    assert result.unknown_classes == ()
    assert len(result.skipped) == 0

    # The same with plain means: the network as it is, whole feature maps, loops.
    rows, labels = {name: [] for name in LAYERS}, []
    nms = pytest.importorskip("ultralytics.utils.nms").non_max_suppression
    for image in loaded(dataset):
        pixels = to_input([image], torch.device("cpu"))
        with capture_outputs(checkpoint.model, LAYERS) as outputs, torch.no_grad():
            (predicted,) = nms(checkpoint.model(pixels), 0.0, 0.7)
        classes = torch.from_numpy(image.source.classes)
        found = match_objects(image.boxes, classes, predicted[:, :4].double(), predicted[:, 5], 0.0)
        for index in found.tolist():
            left, top, right, bottom = image.boxes[index].tolist()
            labels.append(int(classes[index]))
            for name in LAYERS:
                stride = pixels.shape[2] // outputs[name].shape[2]
                y, x = int((top + bottom) / 2 // stride), int((left + right) / 2 // stride)
                rows[name].append(outputs[name][0, :, y, x])
    assert len(labels) == result.matched
    for name in LAYERS:
        expected = ClassMoments.from_activations(
            torch.stack(rows[name]), torch.tensor(labels), TINY_CLASSES
        )
        assert torch.equal(result.moments[name].count, expected.count)
        torch.testing.assert_close(result.moments[name].mean, expected.mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(result.moments[name].m2, expected.m2, rtol=1e-2, atol=1e-4)


def test_gathering_leaves_the_model_alone(checkpoint, make_dataset):
    before = deepcopy(checkpoint.model.state_dict())
    gather(checkpoint, load_dataset(make_dataset(2)), list(conv_blocks(checkpoint.model)), **LOOSE)
    after = checkpoint.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks for module in checkpoint.model.modules())


def test_batches_change_nothing_but_the_rounding(checkpoint, make_dataset):
    dataset = load_dataset(make_dataset(8))
    one = gather(checkpoint, dataset, LAYERS, **LOOSE)
    four = gather(checkpoint, dataset, LAYERS, **LOOSE, batch_size=4)
    assert one.matched == four.matched
    for name in LAYERS:
        torch.testing.assert_close(one.moments[name].mean, four.moments[name].mean)


def test_limit_takes_the_first_images(checkpoint, make_dataset):
    file = make_dataset(6)
    dataset = load_dataset(file)
    limited = gather(checkpoint, dataset, LAYERS, **LOOSE, limit=3)
    for number in (3, 4, 5):
        (file.parent / "images" / "train" / f"{number:03d}.png").unlink()
    short = gather(checkpoint, load_dataset(file), LAYERS, **LOOSE)
    assert limited.images_done == 3
    assert same_moments(limited.moments, short.moments)
    assert gather(checkpoint, dataset, LAYERS, **LOOSE, limit=99).settings.n_images == 6


def test_classes_are_told_by_name(checkpoint, make_dataset):
    file = make_dataset(4)
    ours = gather(checkpoint, load_dataset(file), LAYERS, **LOOSE)
    renumbered = shutil.copytree(file.parent, file.parent.parent / "renumbered")
    for labels in (renumbered / "labels" / "train").iterdir():
        rows = [row.split() for row in labels.read_text().splitlines()]
        labels.write_text("".join(f"{3 - int(n)} {' '.join(box)}\n" for n, *box in rows))
    other = load_dataset(write_yaml(renumbered / "data.yaml", names=["emu", "Owl", "dog", "cat"]))
    theirs = gather(checkpoint, other, LAYERS, **LOOSE)
    assert theirs.unknown_classes == ("emu",)
    assert theirs.matched == ours.matched
    for name in LAYERS:
        assert torch.equal(theirs.moments[name].mean[[3, 2, 1]], ours.moments[name].mean)


@pytest.mark.parametrize("name", ["yolov8n-coco-int8deq.pt", "yolov8n-railway6.pt"])
def test_real_inputs(realdata, name):
    checkpoint = load_checkpoint(realdata / name)
    dataset = load_dataset(realdata / "coco128" / "coco128.yaml")
    layers = ["model.2.cv2", "model.9.cv1", "model.21.cv2"]
    loose = {"confidence": 0.01, "iou": 0.2, "image_size": 320} if "railway" in name else {}
    result = gather(checkpoint, dataset, layers, limit=8, **loose)
    assert (result.images_done, result.objects) == (8, 30)
    assert result.moments["model.9.cv1"].class_names == dataset.class_names
    if "railway" in name:
        assert len(result.unknown_classes) == 78, "only Person and Car have the same names"
        assert result.matched > 0
    else:
        assert result.unknown_classes == ()
        assert 18 <= result.matched <= 20, "one more or less may round over the threshold"


# Images that cannot be decoded


@pytest.mark.parametrize("damage", ["empty", "text", "half"])
def test_corrupt_images_are_left_out_and_named(checkpoint, make_dataset, damage):
    file = make_dataset(4)
    image = file.parent / "images" / "train" / "001.png"
    whole = image.read_bytes()
    image.write_bytes({"empty": b"", "text": b"hello", "half": whole[: len(whole) // 2]}[damage])
    dataset = load_dataset(file)
    result = gather(checkpoint, dataset, LAYERS, **LOOSE)
    assert result.skipped.corrupt_images == ("images/train/001.png",)
    assert (result.images_done, result.objects) == (4, 9)
    with complains("strict", "images/train/001.png"):
        gather(checkpoint, dataset, LAYERS, **LOOSE, strict=True)


def test_strict_also_stops_for_what_the_data_set_has_left_out(checkpoint, make_dataset):
    file = make_dataset(3)
    (file.parent / "labels" / "train" / "001.txt").unlink()
    with complains("strict", "images/train/001.png"):
        gather(checkpoint, load_dataset(file), LAYERS, **LOOSE, strict=True)


# Interrupt and resume


def interrupt_at(n):
    def progress(done, total):
        if done == n:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("stop", [1, WINDOW + 3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(
    checkpoint, make_dataset, tmp_path, stop, batch_size
):
    file = make_dataset(WINDOW + 8)
    (file.parent / "images" / "train" / "002.png").write_bytes(b"")
    dataset = load_dataset(file)
    state_path = tmp_path / "moments.safetensors"
    options = {**LOOSE, "batch_size": batch_size}
    whole = gather(checkpoint, dataset, LAYERS, **options)
    seen = []
    # The number of images done grows by whole batches, after the corrupt one.
    passed = {"state_path": state_path, "progress": lambda done, _: seen.append(done)}
    gather(checkpoint, dataset, LAYERS, **options, **passed)
    state_path.unlink()
    at = next(done for done in seen if done >= stop)
    with pytest.raises(KeyboardInterrupt):
        gather(
            checkpoint,
            dataset,
            LAYERS,
            **options,
            state_path=state_path,
            progress=interrupt_at(at),
        )
    state = GatherResult.load(state_path)
    assert state.images_done == (0 if stop < WINDOW else WINDOW)
    assert not state.complete
    assert len(state.skipped.corrupt_images) == (0 if stop < WINDOW else 1)
    resumed = gather(checkpoint, dataset, LAYERS, **options, state_path=state_path, resume=True)
    assert same_moments(resumed.moments, whole.moments)
    assert resumed.metadata == whole.metadata
    assert resumed.skipped.corrupt_images == ("images/train/002.png",)
    stored = GatherResult.load(state_path)
    assert stored.complete
    assert same_moments(stored.moments, whole.moments)
    assert stored.metadata == whole.metadata


def test_states_are_saved_on_the_way(checkpoint, make_dataset, tmp_path):
    dataset = load_dataset(make_dataset(2 * WINDOW + 1, n_objects=1))
    path = tmp_path / "moments.safetensors"
    saved = []

    def progress(done, total):
        saved.append(GatherResult.load(path).images_done if path.exists() else None)

    gather(
        checkpoint,
        dataset,
        LAYERS[:1],
        **LOOSE,
        state_path=path,
        save_every=WINDOW,
        progress=progress,
    )
    assert saved == [None] * WINDOW + [WINDOW] * WINDOW + [2 * WINDOW]


def test_a_complete_state_needs_no_images(checkpoint, make_dataset, tmp_path):
    file = make_dataset(3)
    dataset = load_dataset(file)
    path = tmp_path / "moments.safetensors"
    first = gather(checkpoint, dataset, LAYERS, **LOOSE, state_path=path)
    shutil.rmtree(file.parent / "images")
    again = gather(checkpoint, dataset, LAYERS, **LOOSE, state_path=path, resume=True)
    assert same_moments(first.moments, again.moments)


def test_the_notes_name_everything(checkpoint, make_dataset):
    dataset = load_dataset(make_dataset(3))
    notes = json.loads(gather(checkpoint, dataset, LAYERS, **LOOSE).metadata["gather"])
    assert notes["schema"] == "actprune_gpu.gather/1"
    assert notes["images_done"] == 3
    assert notes["objects"] == 9
    assert notes["settings"]["model"] == checkpoint.fingerprint
    assert notes["settings"]["data"] == dataset.fingerprint
    assert notes["settings"]["layers"] == list(LAYERS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 64}, ["image_size (96 then, 64 now)"]),
        ({"confidence": 0.1}, ["confidence (0.0 then, 0.1 now)"]),
        ({"batch_size": 2}, ["batch_size (1 then, 2 now)"]),
        ({"limit": 2}, ["n_images (3 then, 2 now)"]),
        ({"layers": LAYERS[:2]}, ["layers (3:", "2:"]),
        ({"iou": 0.5, "nms_iou": 0.5}, ["iou (0.0 then", "nms_iou (0.7 then"]),
        ({"data": 1}, ["data ("]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_state_of_other_settings_is_refused(checkpoint, make_dataset, tmp_path, changes, words):
    path = tmp_path / "moments.safetensors"
    dataset = load_dataset(make_dataset(3))
    gather(checkpoint, dataset, LAYERS, **LOOSE, state_path=path)
    if changes.pop("data", None):
        dataset = load_dataset(make_dataset(3, folder="other", seed=1))
    layers = changes.pop("layers", LAYERS)
    before = path.read_bytes()
    with complains("cannot resume", "differ", *words):
        gather(checkpoint, dataset, layers, **(LOOSE | changes), state_path=path, resume=True)
    assert path.read_bytes() == before


def test_files_that_cannot_be_resumed(checkpoint, make_dataset, tmp_path):
    dataset = load_dataset(make_dataset(2))
    with complains("resume", "state_path"):
        gather(checkpoint, dataset, LAYERS, **LOOSE, resume=True)
    path = tmp_path / "state.safetensors"
    with complains("state.safetensors"):
        gather(checkpoint, dataset, LAYERS, **LOOSE, state_path=path, resume=True)
    ClassMoments.zeros(3, TINY_CLASSES).save(path)
    with complains("state.safetensors", "gather"):
        gather(checkpoint, dataset, LAYERS, **LOOSE, state_path=path, resume=True)


# Bad arguments


def test_no_matched_object_is_an_error(checkpoint, make_dataset, tmp_path):
    path = tmp_path / "moments.safetensors"
    with complains("no labelled object", "6 objects", "0 predictions", "2 images"):
        gather(
            checkpoint,
            load_dataset(make_dataset(2)),
            LAYERS,
            image_size=96,
            confidence=1.0,
            state_path=path,
        )
    assert not path.exists()


def test_images_that_cannot_be_decoded_are_why_nothing_was_found(checkpoint, make_dataset):
    dataset = load_dataset(make_dataset(2))
    for image in dataset.images:
        image.path.write_bytes(b"no image")
    with complains("no labelled object", "2 images; 2 cannot be decoded", dataset.images[0].name):
        gather(checkpoint, dataset, LAYERS, **LOOSE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 0}, ["image_size", "0"]),
        ({"batch_size": 0}, ["batch_size", "1..32", "0"]),
        ({"batch_size": 33}, ["batch_size", "1..32", "33"]),
        ({"limit": 0}, ["limit", "0"]),
        ({"confidence": 1.5}, ["confidence", "1.5"]),
        ({"iou": -0.1}, ["iou", "-0.1"]),
        ({"nms_iou": float("nan")}, ["nms_iou", "nan"]),
        ({"device": "quantum"}, ["device", "quantum"]),
        ({"layers": []}, ["layers"]),
        ({"layers": ["model.0", "model.0"]}, ["layers", "twice"]),
        ({"layers": ["model.0", "model.77"]}, ["model.77", "nearest"]),
        ({"layers": ["model.6"]}, ["model.6", "tensor"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(checkpoint, make_dataset, changes, words):
    dataset = load_dataset(make_dataset(2))
    layers = changes.pop("layers", LAYERS)
    with complains(*words):
        gather(checkpoint, dataset, layers, **(LOOSE | changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_gpu_where_there_is_none(checkpoint, make_dataset):
    dataset = load_dataset(make_dataset(2))
    for device in ("cuda", "cuda:1"):
        with complains(device, "cannot be used", "GPU"):
            gather(checkpoint, dataset, LAYERS, **LOOSE, device=device)


def test_a_data_set_of_other_classes(checkpoint, make_dataset):
    file = write_yaml(make_dataset(2), names=["a", "b", "c", "d"])
    with complains("class", "a, b, c, d", "cat"):
        gather(checkpoint, load_dataset(file), LAYERS, **LOOSE)
