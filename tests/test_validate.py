"""Validation gives Ultralytics' own figures and leaves no traces."""

import os

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
    assert set(figures) == {"map50", "map50_95"}
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
    box = (
        ultralytics.YOLO(model)
        .val(data=str(file), imgsz=320, plots=False, verbose=False, project=str(tmp_path / "runs"))
        .box
    )
    assert figures == pytest.approx({"map50": box.map50, "map50_95": box.map}, abs=1e-6)
    assert figures["map50"] > 0.3


def test_bad_inputs(tiny_checkpoint, make_dataset, tmp_path):
    file = make_dataset(2)
    with complains("no model file"):
        validate(tmp_path / "none.pt", file)
    with complains("'val'"):
        validate(tiny_checkpoint, file)
