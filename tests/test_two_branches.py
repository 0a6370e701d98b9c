"""Heads that train two branches and predict with one, which is up to the head: YOLOv10, YOLO26."""

import numpy as np
import pytest
import torch
from conftest import TINY_CLASSES, write_yaml
from helpers import complains
from networks import difference, randomise, run, tensors

from actprune_gpu import yolo
from actprune_gpu.models.ultralytics.calibration import load_calibration
from actprune_gpu.models.ultralytics.channels import trace_model
from actprune_gpu.models.ultralytics.detector import Detector
from actprune_gpu.models.ultralytics.images import load_windows, to_input
from actprune_gpu.models.ultralytics.predictions import branches_of, prediction_error
from actprune_gpu.pruning.groups import choose_groups
from actprune_gpu.selection import SelectionConfig

ultralytics = pytest.importorskip("ultralytics")
tasks = pytest.importorskip("ultralytics.nn.tasks")

SIZE = 64
FAMILIES = ("yolov10n", "yolo26n")
L1 = SelectionConfig(criterion="l1", budget=(0.5, 0.5))


class Case:
    """A network and images of which it finds the labelled objects: those that it has predicted."""

    def __init__(self, name, end2end, folder):
        import cv2

        torch.manual_seed(0)
        self.end2end = end2end
        self.model = folder / f"{name}.pt"
        network = tasks.DetectionModel(f"{name}.yaml", nc=3, verbose=False)
        network.names, network.task = dict(enumerate(TINY_CLASSES)), "detect"
        head = randomise(network.eval()).model[-1]
        head._end2end = end2end
        with torch.no_grad():
            outputs = network(torch.zeros(1, 3, SIZE, SIZE))[1]
        if bool(head.end2end) != end2end or "one2one" not in outputs:
            pytest.skip("this version of Ultralytics predicts with one2one")
        for scale in (*head.cv3, *head.one2one_cv3):  # several classes
            scale[-1].weight.data *= 20
            scale[-1].bias.data.zero_()
        if head.reg_max > 1:  # boxes that lie within the image
            for scale in (*head.cv2, *head.one2one_cv2):
                scale[-1].bias.data.view(4, -1)[:, 1] += 10
        torch.save({"model": network, "train_args": {"task": "detect"}}, self.model)
        for kind in ("images", "labels"):
            (folder / kind / "train").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number in range(3):
            image = folder / "images" / "train" / f"{number}.png"
            cv2.imwrite(str(image), rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
            boxes = self.predict(image)
            found = [
                (kind, f"{kind} {' '.join(f'{x:.6f}' for x in box)}\n")
                for kind, box in zip(boxes.cls.int().tolist(), boxes.xywhn.tolist(), strict=True)
                if min(box[2:]) > 0.05
            ]
            rows = [row for kind in range(3) for row in [r for k, r in found if k == kind][:3]]
            (folder / "labels" / "train" / f"{number}.txt").write_text("".join(rows))
        self.data = write_yaml(folder / "data.yaml")

    def predict(self, image, model=None):
        """The boxes that Ultralytics predicts."""
        branch = {"nms": False} if self.end2end else {}
        settings = {"imgsz": SIZE, "conf": 0.0, "device": "cpu", "verbose": False}
        threads = torch.get_num_threads()
        (result,) = ultralytics.YOLO(model or self.model).predict(image, **settings, **branch)
        torch.set_num_threads(threads)  # YOLO.predict sets it for the process
        return result.boxes

    def prune(self, out, **settings):
        """Prune it quickly."""
        settings = {"config": L1, "repair": "none", "repair_images": 2} | settings
        return yolo.prune(
            *(self.model, self.data), out=out, image_size=SIZE, confidence=0.0, **settings
        )


@pytest.fixture(
    scope="module",
    params=[(name, end2end) for name in FAMILIES for end2end in (False, True)],
    ids=lambda param: f"{param[0]}-{'one2one' if param[1] else 'one2many'}",
)
def case(request, tmp_path_factory):
    return Case(*request.param, tmp_path_factory.mktemp("case"))


def test_gathering_sees_every_layer_that_the_groups_need(case):
    checkpoint, dataset = yolo.load_checkpoint(case.model), yolo.load_dataset(case.data, "train")
    graph = trace_model(checkpoint.model)
    groups = choose_groups(graph)
    layers = list(dict.fromkeys(layer for group in groups for layer in group.members))
    found = yolo.gather(checkpoint, dataset, layers, image_size=SIZE, confidence=0.0)
    assert set(found.moments) == set(layers)
    assert found.matched > 0
    assert found.predictions == sum(len(case.predict(i.path)) for i in dataset.images)
    # What lies in one branch alone goes only if that branch predicts.
    for group in graph.groups:
        if all(layer.startswith("model.23.") for layer in group.members):
            (one2one,) = {"one2one" in layer for layer in group.members}
            assert (group in groups) == group.active == (one2one == case.end2end)


def test_predictions_are_those_of_yolo_predict(case):
    checkpoint, dataset = yolo.load_checkpoint(case.model), yolo.load_dataset(case.data, "train")
    device = torch.device("cpu")
    detector = Detector(
        *(checkpoint.model, ["model.0"], range(len(TINY_CLASSES))),
        confidence=0.0,
        iou=0.5,
        nms_iou=0.7,
        device=device,
    )
    for window in load_windows(dataset.images, SIZE, 32, batch_size=1):
        for (image,) in window.batches:
            with torch.inference_mode():
                (ours,) = detector._suppress(detector._network(to_input([image], device)))
            theirs = case.predict(image.source.path)
            assert len(ours) == len(theirs) > 0
            torch.testing.assert_close(ours[:, 4], theirs.conf, rtol=1e-3, atol=1e-6)


def test_the_error_is_that_of_the_branch_that_predicts(case):
    model = yolo.load_checkpoint(case.model).model
    with torch.no_grad():
        predicted, raw = model(torch.rand(1, 3, SIZE, SIZE))
    for branch in ("one2many", "one2one"):
        values = {**raw[branch], "scores": raw[branch]["scores"] + 1}
        error = prediction_error((predicted, {**raw, branch: values}), (predicted, raw))
        assert (error > 0) == ((branch == "one2one") == case.end2end)


def test_both_branches_are_repaired_and_as_sure_as_before(case, tmp_path):
    result = case.prune(tmp_path / "out", repair="fold+bn", repair_images=3)
    images = yolo.load_dataset(case.data, "train").images
    calibration = load_calibration(images, SIZE, torch.device("cpu"))
    models = (
        yolo.load_checkpoint(case.model).model,
        result.model,
        case.prune(tmp_path / "cut").model,
    )
    with torch.no_grad():
        found = [branches_of(calibration.inputs.run(model)) for model in models]
    before, after, cut = (
        {branch: float(raw["scores"].sigmoid().sum()) for branch, raw in branches.items()}
        for branches in found
    )
    assert before.keys() == {"one2many", "one2one"}
    assert after == pytest.approx(before, rel=0.01)
    assert cut != pytest.approx(before, rel=0.01)
    for branch in before:
        was, repaired, torn = (branches[branch]["boxes"] for branches in found)
        assert (repaired - was).square().mean() < 0.5 * (torn - was).square().mean()


def test_pruned_by_filters(case, tmp_path):
    result = case.prune(tmp_path / "out")
    before, image = yolo.load_checkpoint(case.model).model, torch.rand(1, 3, SIZE, SIZE)
    after = ultralytics.YOLO(result.files["model"]).model.float().eval()
    assert after.model[-1].end2end == case.end2end
    assert [t.shape for t in run(after, image)] == [t.shape for t in run(before, image)]
    assert sum(p.numel() for p in after.parameters()) < 0.6 * sum(
        p.numel() for p in before.parameters()
    )
    for group in result.plan.groups:
        assert len(group.keep) < group.channels
    photo = yolo.load_dataset(case.data, "train").images[0].path
    assert len(case.predict(photo, result.files["model"])) > 0
    # Without channels, or with zeros in their places: the same network.
    zero = case.prune(tmp_path / "zero", mode="zero").model
    shapes = {name: value.shape for name, value in before.state_dict().items()}
    assert {name: value.shape for name, value in zero.state_dict().items()} == shapes
    with torch.no_grad():
        branches = (net.float().eval()(image)[1] for net in (zero, result.model))
        assert difference(*(tensors(branch) for branch in branches)) < 1e-4


def test_pruned_and_repaired_as_by_default(case, tmp_path):
    settings = {"config": yolo.DEFAULT_CONFIG, "repair": yolo.DEFAULT_REPAIR, "mode": "zero"}
    result = case.prune(tmp_path, layers=["model.23.*"], target_flops=0.9, **settings)
    before, after = result.plan.cost.flops
    assert after <= 0.9 * before
    assert all(value.isfinite().all() for value in result.model.state_dict().values())
    assert result.model.model[-1].end2end == case.end2end


def test_versions_that_run_one_branch_alone_are_refused(monkeypatch):
    """As some 8.4 do with end2end=False, whose fusing leaves nothing that predicts."""
    network = tasks.DetectionModel("yolo26n.yaml", nc=3, verbose=False)
    kind = type(network.model[-1])
    monkeypatch.setattr(kind, "end2end", False)
    monkeypatch.setattr(kind, "fuse", lambda head: setattr(head, "cv2", None))
    with complains("end2end", "True", "False"):
        trace_model(network)
