"""Segmentation, poses and rotated boxes: what is detection with more is pruned alike."""

from copy import deepcopy

import pytest
import torch
import yaml
from helpers import complains
from networks import assert_predicted, difference, randomise, tensors

from actprune_gpu import yolo
from actprune_gpu.cli.main import run
from actprune_gpu.demo import CHECKPOINT, write_shapes
from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint
from actprune_gpu.models.ultralytics.dataset import load_dataset
from actprune_gpu.models.ultralytics.detector import Detector
from actprune_gpu.models.ultralytics.images import load_windows, to_input

SHAPE = [2, 3]  # of key points
QUICK = {"target_flops": 0.7, "repair_images": 32, "image_size": 128}
MORE = {"segment": ["mask_"], "pose": ["pose_"], "obb": []}  # accuracies besides those of boxes


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """The built-in data set, and what pruning the built-in detector finds there."""
    data = write_shapes(tmp_path_factory.mktemp("boxes"), n_train=64, n_val=16, seed=0)
    out = tmp_path_factory.mktemp("detect")
    return data, yolo.prune(CHECKPOINT, data, out=out, **QUICK)


def with_head(task):
    """The built-in detector with a head that has more outputs, the new ones at random."""
    from ultralytics.nn import tasks

    torch.manual_seed(0)
    trained = load_checkpoint(CHECKPOINT).model
    layout = deepcopy(trained.yaml)
    *before, (source, count, _, arguments) = layout["head"]
    head, extra = {"segment": ("Segment", [8, 16]), "pose": ("Pose", [SHAPE]), "obb": ("OBB", [1])}[
        task
    ]
    layout["head"] = [*before, [source, count, head, [arguments[0], *extra]]]
    layout["kpt_shape"] = SHAPE
    kind = {"segment": "SegmentationModel", "pose": "PoseModel", "obb": "OBBModel"}[task]
    model = getattr(tasks, kind)(layout, nc=len(trained.names), verbose=False)
    weights = trained.state_dict()
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert missing
    assert all(".cv4." in name or ".proto." in name for name in missing)
    if task == "obb":  # no angle
        for branch in model.model[-1].cv4:
            torch.nn.init.zeros_(branch[-1].weight)
            torch.nn.init.constant_(branch[-1].bias, -1.0986123)
    model.kpt_shape = SHAPE  # as training leaves it
    model.names, model.task, model.args = trained.names, task, {**trained.args, "task": task}
    return model.eval()


def row_of(task, label, x, y, width, height):
    corners = [
        (x + right * width / 2, y + down * height / 2)
        for right, down in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    polygon = " ".join(f"{a:.6f} {b:.6f}" for a, b in corners)
    if task == "pose":
        return f"{label} {x} {y} {width} {height} {x} {y} 2 {x} {y} 1"
    return f"{label} {polygon}"


@pytest.fixture
def data_of(boxes, tmp_path):
    def make(task):
        """The built-in data set with labels for a task."""
        data = write_shapes(tmp_path / "data", n_train=64, n_val=16, seed=0)
        for file in (data.parent / "labels").rglob("*.txt"):
            rows = [line.split() for line in file.read_text().splitlines()]
            file.write_text("".join(row_of(task, r[0], *map(float, r[1:])) + "\n" for r in rows))
        if task == "pose":
            content = yaml.safe_load(data.read_text()) | {"kpt_shape": SHAPE}
            data.write_text(yaml.safe_dump(content))
        return data

    return make


@pytest.mark.parametrize("task", MORE)
def test_models_for_more_than_boxes_are_pruned(boxes, task, data_of, tmp_path):
    from ultralytics import YOLO

    _, detected = boxes
    model, data = with_head(task), data_of(task)
    torch.save({"model": model, "train_args": {"imgsz": 128}}, tmp_path / "model.pt")
    result = yolo.prune(tmp_path / "model.pt", data, out=tmp_path / "out", **QUICK)
    assert result.gathered.objects == detected.gathered.objects
    if task == "obb":  # overlaps of rotated boxes decide which of them stay
        assert result.gathered.matched >= 0.98 * detected.gathered.matched
    else:
        assert result.gathered.matched == detected.gathered.matched
    assert result.plan.cost.flops[1] <= 0.7 * result.plan.cost.flops[0]

    pruned = YOLO(result.files["model"])
    assert pruned.task == task
    assert type(pruned.model.model[-1]) is type(model.model[-1])
    assert len(pruned.predict(torch.rand(1, 3, 128, 128), verbose=False)) == 1
    zeroed = yolo.apply(result.plan, tmp_path / "model.pt", data, out=tmp_path / "z", mode="zero")
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        apart = difference(tensors(zeroed.model(image)), tensors(result.model(image)))
    assert apart < 1e-4

    before = yolo.validate(tmp_path / "model.pt", data, 128)
    after = yolo.validate(result.model, data, 128)
    names = {f"{kind}{name}" for kind in ("", *MORE[task]) for name in ("map50", "map50_95")}
    assert set(before) == set(after) == names | {"recall25"}
    if task == "pose":  # of key points that are anywhere near, at the centre of their box
        assert before["pose_map50"] != before["map50"]
    assert before["map50"] > 0.9
    assert after["map50"] > 0.6


@pytest.mark.parametrize("task", ["segment", "pose"])
def test_labels_of_another_form_are_named(boxes, task, tmp_path, capsys):
    data, _ = boxes
    torch.save({"model": with_head(task)}, tmp_path / "model.pt")
    form = {"segment": "a polygon", "pose": "a box and key points, 10 numbers"}[task]
    with complains(form, "got 4", "row 1"):
        yolo.validate(tmp_path / "model.pt", data)
    with complains(form, "got 4", "row 1"):
        yolo.train(tmp_path / "model.pt", data, out=tmp_path / "out", epochs=1)
    # Before work is done, if accuracy is to be measured after it.
    files = ["--model", str(tmp_path / "model.pt"), "--data", str(data)]
    assert run(["prune", *files, "--out", str(tmp_path / "out")]) == 2
    assert f"labels must be {form}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_yolo_is_validated_as_its_network(boxes):
    from ultralytics import YOLO

    data, _ = boxes
    assert yolo.validate(YOLO(CHECKPOINT), data, 128) == yolo.validate(CHECKPOINT, data, 128)
    with complains("model must be the path", "YOLO"):
        yolo.prune(YOLO(CHECKPOINT), data, out="nowhere")
    with complains("data must be the path", "dict"):
        yolo.prune(CHECKPOINT, {}, out="nowhere")


@pytest.mark.parametrize(
    "name",
    ["yolov8n-seg", "yolo11n-pose", "yolo11n-obb", "yolo26n-pose", "yolo26n-obb"],
)
def test_predictions_are_those_of_yolo_predict(name, make_dataset, tmp_path):
    from ultralytics import YOLO

    torch.manual_seed(0)
    file = tmp_path / "model.pt"
    network = randomise(YOLO(f"{name}.yaml").model)
    network.kpt_shape = getattr(network.model[-1], "kpt_shape", None)  # as training leaves it
    torch.save({"model": network, "train_args": {"imgsz": 96}}, file)
    checkpoint = load_checkpoint(file)
    (window,) = load_windows(load_dataset(make_dataset(2)).images, 96, 32, 1)
    options = {"confidence": 0.0, "iou": 0.5, "nms_iou": 0.7, "device": torch.device("cpu")}
    detector = Detector(checkpoint.model, ["model.4.cv1"], range(3), **options)
    threads = torch.get_num_threads()
    for (image,) in window.batches:
        with torch.inference_mode():
            (ours,) = detector._suppress(detector._network(to_input([image], torch.device("cpu"))))
        (theirs,) = YOLO(file).predict(image.source.path, imgsz=96, conf=0.0, verbose=False)
        expected = theirs.obb if checkpoint.task == "obb" else theirs.boxes
        assert len(expected) > 0
        if checkpoint.task == "segment":  # predict leaves out objects with an empty mask
            assert len(ours) >= len(expected)
        else:
            assert len(ours) == len(expected)
        rows = torch.cat([expected.xyxy, expected.conf[:, None], expected.cls[:, None]], 1)
        assert_predicted(ours, rows, image.edges, theirs.orig_shape)
    torch.set_num_threads(threads)  # YOLO.predict sets it for the process


def test_poses_need_the_shape_of_their_key_points(data_of, tmp_path):
    data = data_of("pose")
    content = yaml.safe_load(data.read_text())
    del content["kpt_shape"]
    data.write_text(yaml.safe_dump(content))
    torch.save({"model": with_head("pose")}, tmp_path / "model.pt")
    with complains("kpt_shape", "poses"):
        yolo.prune(tmp_path / "model.pt", data, out=tmp_path / "out")


def test_networks_that_are_no_yolo_are_not_validated(boxes):
    from ultralytics import YOLO

    data, _ = boxes
    for network in (torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1)), YOLO("yolov8n-cls.yaml")):
        with complains("model must hold a YOLO model for detect, segment, pose, obb"):
            yolo.validate(network, data)
