"""Validation gives Ultralytics' own figures and leaves no traces."""

import os

import cv2
import numpy as np
import pytest
import torch
from conftest import write_yaml
from helpers import complains

from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint
from actprune_gpu.models.ultralytics.validate import validate

ultralytics = pytest.importorskip("ultralytics")


def tree(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


def test_validation_leaves_no_traces(tiny_checkpoint, make_dataset, tmp_path, monkeypatch, capfd):
    file = make_dataset(4)
    (file.parent / "labels" / "train" / "001.txt").unlink()
    write_yaml(file, val="images/train")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    before, threads = tree(file.parent), torch.get_num_threads()
    figures = validate(tiny_checkpoint, file, image_size=96)
    assert set(figures) == {"map50", "map50_95", "recall25"}
    assert all(0 <= value <= 1 for value in figures.values())
    assert tree(file.parent) == before
    assert os.listdir(work) == []
    assert torch.get_num_threads() == threads
    assert capfd.readouterr() == ("", "")

    checkpoint = load_checkpoint(tiny_checkpoint)
    state = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    assert validate(checkpoint.model, str(file), image_size=96) == figures
    assert all(torch.equal(state[n], v) for n, v in checkpoint.model.state_dict().items())


def test_figures_are_those_of_ultralytics(realdata, tmp_path):
    images = sorted((realdata / "coco128" / "images" / "val2017").iterdir())[:4]
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for image in images:
        (tmp_path / "images" / image.name).write_bytes(image.read_bytes())
        label = realdata / "coco128" / "labels" / "val2017" / f"{image.stem}.txt"
        (tmp_path / "labels" / label.name).write_bytes(label.read_bytes())
    model = realdata / "yolov8n-coco-int8deq.pt"
    names = list(load_checkpoint(model).class_names)
    file = write_yaml(
        tmp_path / "data.yaml", path=str(tmp_path), train="images", val="images", names=names
    )
    figures = validate(model, file, image_size=320)
    settings = {"data": str(file), "imgsz": 320, "plots": False, "verbose": False}
    settings["project"] = str(tmp_path / "runs")
    box = ultralytics.YOLO(model).val(**settings).box
    shown = ultralytics.YOLO(model).val(**settings, conf=0.25).box
    expected = {"map50": box.map50, "map50_95": box.map}
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert figures["map50"] > 0.3
    assert figures["recall25"] == pytest.approx(shown.r_curve[:, 0].mean(), abs=0.01)
    assert 0.2 < figures["recall25"] < box.r_curve[:, 0].mean()


def test_a_network_that_finds_nothing(tiny_checkpoint, make_dataset):
    model = load_checkpoint(tiny_checkpoint).model
    for level in model.model[-1].cv3:
        torch.nn.init.constant_(level[-1].bias, -100.0)
    file = write_yaml(make_dataset(2), val="images/train")
    found = validate(model, file, image_size=96)
    assert found == {"map50": 0.0, "map50_95": 0.0, "recall25": 0.0}


def test_images_that_cannot_be_decoded_are_left_out(tiny_checkpoint, make_dataset):
    file = write_yaml(make_dataset(4), val="images/train")
    figures = validate(tiny_checkpoint, file, image_size=96)
    images, labels = (file.parent / kind / "train" for kind in ("images", "labels"))
    (labels / "float.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    cv2.imwrite(str(images / "float.tif"), np.ones((40, 40), np.float32))
    (labels / "small.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    cv2.imwrite(str(images / "small.png"), np.ones((9, 40, 3), np.uint8))
    whole = cv2.imencode(".bmp", np.ones((40, 40, 3), np.uint8))[1].tobytes()
    (images / "without-label.bmp").write_bytes(whole[:2000])
    words = r"3 of 7 images of the 'val' split.*float\.tif.*small\.png.*without-label\.bmp"
    with pytest.warns(UserWarning, match=words):
        assert validate(tiny_checkpoint, file, image_size=96) == figures
    for image in images.glob("00*.png"):
        image.write_bytes(b"junk")
    with complains("7 of 7 images", "'val'", "cannot be decoded", "000.png"):
        validate(tiny_checkpoint, file, image_size=96)


def test_nothing_is_installed(tiny_checkpoint, make_dataset, monkeypatch):
    checks = pytest.importorskip("ultralytics.utils.checks")
    file = write_yaml(make_dataset(2), val="images/train")
    (file.parent / "images" / "train" / "a.heic").write_bytes(b"junk")
    asked = []
    monkeypatch.setattr(checks, "AUTOINSTALL", True)
    monkeypatch.setattr(
        checks, "check_requirements", lambda *args: asked.append(checks.AUTOINSTALL)
    )
    monkeypatch.setattr("ultralytics.utils.patches._pil_plugins_registered", False, raising=False)
    with pytest.warns(UserWarning, match=r"a\.heic"):
        validate(tiny_checkpoint, file, image_size=96)
    assert set(asked) == {False}
    assert checks.AUTOINSTALL


def test_names_that_are_not_utf_8(tiny_checkpoint, make_dataset):
    file = write_yaml(make_dataset(4), val="images/train")
    figures = validate(tiny_checkpoint, file, image_size=96)
    for old, new in ((b"002", b"\xff"), (b"003", b"\xfe")):
        for kind, suffix in ((b"images", b".png"), (b"labels", b".txt")):
            folder = os.path.join(os.fsencode(file.parent), kind, b"train")
            os.rename(os.path.join(folder, old + suffix), os.path.join(folder, new + suffix))
    assert validate(tiny_checkpoint, file, image_size=96) == pytest.approx(figures)
    os.remove(os.path.join(folder, b"\xff.txt"))  # a background image now
    validate(tiny_checkpoint, file, image_size=96)


def test_bad_inputs(tiny_checkpoint, make_dataset, tmp_path):
    file = make_dataset(2)
    with complains("no model file"):
        validate(tmp_path / "none.pt", file)
    with complains("'val'"):
        validate(tiny_checkpoint, file)
