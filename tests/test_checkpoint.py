"""Checkpoints: opened, written back as stock ones, and their prunable convolutions."""

import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from conftest import TINY_CLASSES
from helpers import complains
from torch import nn

from actprune_gpu.models.ultralytics import checkpoint as checkpoint_module
from actprune_gpu.models.ultralytics.checkpoint import (
    conv_blocks,
    excluded_blocks,
    load_checkpoint,
    save_checkpoint,
)

tasks = pytest.importorskip("ultralytics.nn.tasks")

# Opens checkpoints where this package cannot be imported, and predicts with each.
PREDICT_ELSEWHERE = """
import sys
sys.modules["actprune_gpu"] = None
import torch
from ultralytics import YOLO
torch.manual_seed(0)
image, boxes = torch.rand(1, 3, 64, 64), {}
for file in sys.argv[2:]:
    model = YOLO(file)
    boxes[file] = model.predict(image, conf=0.0, verbose=False)[0].boxes.data
torch.save({"names": model.names, "boxes": boxes}, sys.argv[1])
"""


def unpickled(path):
    return torch.load(path, map_location="cpu", weights_only=False)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


# Opening


def test_a_checkpoint_opens_in_single_precision(tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint)
    assert checkpoint.class_names == TINY_CLASSES
    assert checkpoint.dtype == torch.float16
    assert all(p.dtype == torch.float32 for p in checkpoint.model.parameters())
    assert not any(module.training for module in checkpoint.model.modules())
    assert checkpoint.contents["note"] == "kept"
    assert checkpoint.fingerprint == load_checkpoint(str(tiny_checkpoint)).fingerprint
    assert len(checkpoint.fingerprint) == 64


def test_averaged_weights_are_preferred(tiny_checkpoint, tmp_path):
    contents = unpickled(tiny_checkpoint)
    contents["ema"] = deepcopy(contents["model"]).float()
    with torch.no_grad():
        contents["ema"].model[0].conv.weight.fill_(0.25)
    torch.save(contents, tmp_path / "last.pt")
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert (checkpoint.model.model[0].conv.weight == 0.25).all()
    assert checkpoint.dtype == torch.float32


@pytest.mark.parametrize("name", ["yolov8n-coco-int8deq.pt", "yolov8n-railway6.pt"])
def test_real_checkpoints(realdata, name):
    checkpoint = load_checkpoint(realdata / name)
    assert len(checkpoint.class_names) == (80 if "coco" in name else 6)
    blocks = conv_blocks(checkpoint.model)
    assert len(blocks) == 45
    assert {"model.0", "model.2.cv2", "model.4.m.1.cv2", "model.9.cv1", "model.21.cv2"} <= set(
        blocks
    )
    assert not any(block.startswith("model.22") for block in blocks), "the head stays"
    assert excluded_blocks(checkpoint.model) == {}
    if "railway" in name:
        assert isinstance(blocks["model.9.cv1"].act, nn.Identity)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no model file", "bad.pt"]),
        (b"", ["bad.pt", "cannot be read"]),
        (b"not a pickle at all", ["bad.pt", "cannot be read"]),
        (b"PK\x03\x04 half a zip file", ["bad.pt", "cannot be read"]),
        ([1, 2], ["bad.pt", "no model"]),
        ({"weights": 1}, ["bad.pt", "no model"]),
        ({"model": "yolov8n.yaml"}, ["bad.pt", "no model"]),
        ({"model": nn.Sequential(nn.Conv2d(3, 3, 1))}, ["bad.pt", "detect", "Sequential"]),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, content, words):
    file = tmp_path / "bad.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with complains(*words):
        load_checkpoint(file)


def test_a_truncated_checkpoint(tiny_checkpoint, tmp_path):
    whole = tiny_checkpoint.read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    with complains("half.pt", "cannot be read"):
        load_checkpoint(tmp_path / "half.pt")


def test_a_checkpoint_of_classes_that_are_not_installed(tiny_checkpoint, tmp_path):
    module = type(sys)("elsewhere")
    module.Odd = type("Odd", (nn.Module,), {"__module__": "elsewhere", "__qualname__": "Odd"})
    sys.modules["elsewhere"] = module
    try:
        torch.save({"model": module.Odd()}, tmp_path / "odd.pt")
    finally:
        del sys.modules["elsewhere"]
    with complains("odd.pt", "elsewhere", "not installed"):
        load_checkpoint(tmp_path / "odd.pt")


def test_a_model_of_another_task_is_named(tmp_path):
    config = {
        "nc": 2,
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        "backbone": [[-1, 1, "Conv", [8, 3, 2]]],
        "head": [[-1, 1, "Classify", ["nc"]]],
    }
    model = tasks.ClassificationModel(config, verbose=False)
    torch.save({"model": model}, tmp_path / "classifier.pt")
    with complains("detect", "ClassificationModel", "'classify'"):
        load_checkpoint(tmp_path / "classifier.pt")


# Writing


def test_a_written_checkpoint_opens_without_this_package(tiny_checkpoint, tmp_path):
    checkpoint = load_checkpoint(tiny_checkpoint)
    model = deepcopy(checkpoint.model)
    with torch.no_grad():
        model.model[1].conv.weight[3] = 0
    before = state_of(model)
    saved = tmp_path / "saved.pt"
    save_checkpoint(checkpoint, model, saved)
    assert same_state(state_of(model), before), "the caller's model was changed"

    original, written = unpickled(tiny_checkpoint), unpickled(saved)
    assert set(written) == set(original)
    assert written["ema"] is None
    assert written["optimizer"] is None
    for key in ("note", "train_args", "version", "epoch"):
        assert written[key] == original[key]
    assert all(p.dtype == torch.float16 for p in written["model"].parameters())
    assert same_state(written["model"].state_dict(), model.half().state_dict())
    assert {type(m) for m in written["model"].modules()} == {
        type(m) for m in original["model"].modules()
    }

    out, files = tmp_path / "predicted", [str(tiny_checkpoint), str(saved)]
    subprocess.run(
        [sys.executable, "-c", PREDICT_ELSEWHERE, str(out), *files], check=True, cwd=tmp_path
    )
    predicted = torch.load(out)
    assert tuple(predicted["names"].values()) == TINY_CLASSES
    first, second = (predicted["boxes"][file] for file in files)
    assert len(second) > 0
    assert not torch.equal(first, second)


def test_an_unchanged_checkpoint_survives_bit_for_bit(tiny_checkpoint, tmp_path):
    checkpoint = load_checkpoint(tiny_checkpoint)
    save_checkpoint(checkpoint, checkpoint.model, tmp_path / "new" / "same.pt")
    original, written = unpickled(tiny_checkpoint), unpickled(tmp_path / "new" / "same.pt")
    assert same_state(original["model"].state_dict(), written["model"].state_dict())


def test_a_failed_write_leaves_the_old_file(tiny_checkpoint, tmp_path, monkeypatch):
    checkpoint = load_checkpoint(tiny_checkpoint)
    file = tmp_path / "pruned.pt"
    file.write_bytes(b"old")

    def full_disk(contents, path):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module.torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(checkpoint, checkpoint.model, file)
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["pruned.pt"]


# Convolutions


def test_conv_blocks_come_in_forward_order(tiny_checkpoint):
    model = load_checkpoint(tiny_checkpoint).model
    before, modules = state_of(model), {type(m) for m in model.modules()}
    blocks = conv_blocks(model)
    assert list(blocks) == [
        "model.0",
        "model.1",
        "model.2.cv1",
        "model.2.m.0.cv1",
        "model.2.m.0.cv2",
        "model.2.cv2",
        "model.3",
        "model.5.cv1",
        "model.5.cv2",
    ]
    assert all(model.get_submodule(name) is block for name, block in blocks.items())
    assert excluded_blocks(model) == {"model.4": "its convolution has 24 groups"}
    assert same_state(state_of(model), before)
    assert {type(m) for m in model.modules()} == modules
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_conv_blocks_leave_the_training_mode_as_it_is(tiny_checkpoint):
    model = load_checkpoint(tiny_checkpoint).model.train()
    model.model[3].eval()
    before = [module.training for module in model.modules()]
    statistics = state_of(model)
    conv_blocks(model)
    assert [module.training for module in model.modules()] == before
    assert same_state(state_of(model), statistics)


def test_attention_and_branches_stay():
    config = tasks.yaml_model_load("yolo11n.yaml") | {"scale": "n"}
    model = tasks.DetectionModel(config, nc=2, verbose=False)
    excluded = excluded_blocks(model)
    assert "Attention" in excluded["model.10.m.0.attn.qkv"]
    assert not set(excluded) & set(conv_blocks(model))
    assert "model.10.cv1" in conv_blocks(model)
