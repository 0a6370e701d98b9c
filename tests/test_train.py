"""Fine-tuning keeps a pruned network's shapes, goes on after an interrupt, leaves no traces."""

import json
import os
import shutil
import socket
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import write_yaml
from helpers import complains

pytest.importorskip("ultralytics")

from actprune_gpu.models.ultralytics.channels import shrink_model, trace_model
from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint, save_checkpoint
from actprune_gpu.models.ultralytics.train import train

# Opens and runs checkpoints where this package cannot be imported.
ELSEWHERE = """
import sys
sys.modules["actprune_gpu"] = None
import numpy as np
from ultralytics import YOLO
for file in sys.argv[1:]:
    model = YOLO(file)
    model.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False, device="cpu")
    print(sum(p.numel() for p in model.model.parameters()), sorted(model.ckpt["train_args"]))
"""
# A step for every batch: by default so small a data set gets one step, at a learning rate of 0.
QUICK = {"epochs": 2, "image_size": 64, "batch_size": 4, "device": "cpu", "nbs": 4}


def tree(folder):
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in folder.rglob("*")}


def files_of(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def half_of(model):
    graph = trace_model(model)
    keep = {group.name: range(max(1, group.n_channels // 2)) for group in graph.groups}
    shrink_model(model, graph, graph.kept(keep))
    return model


@pytest.fixture(scope="module")
def pruned(tiny_checkpoint, tmp_path_factory):
    checkpoint = load_checkpoint(tiny_checkpoint)
    path = tmp_path_factory.mktemp("pruned") / "pruned.pt"
    save_checkpoint(checkpoint, half_of(checkpoint.model), path)
    return path


@pytest.fixture
def data(make_dataset):
    return write_yaml(make_dataset(6), val="images/train")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was asked for {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_training_keeps_the_shapes(pruned, data, tmp_path, monkeypatch, capfd, offline):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (data.parent / "labels" / "train" / "001.txt").unlink()
    before, model_before, threads = tree(data.parent), pruned.read_bytes(), torch.get_num_threads()
    seen = []
    result = train(
        pruned, data, out=tmp_path / "out", progress=lambda *at: seen.append(at), **QUICK
    )
    assert seen == [(1, 2), (2, 2)]
    assert result.epochs == 2
    assert {"metrics/mAP50(B)", "metrics/mAP50-95(B)"} <= set(result.metrics)
    assert all(np.isfinite(value) for value in result.metrics.values())
    assert tree(data.parent) == before
    assert pruned.read_bytes() == model_before
    assert os.listdir(work) == []
    assert torch.get_num_threads() == threads
    assert capfd.readouterr() == ("", "")
    assert sorted(
        str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")
    ) == ["results.csv", "training.json", "weights/best.pt", "weights/last.pt"]

    start = load_checkpoint(pruned)
    for file in (result.best, result.last):
        trained = load_checkpoint(file)
        assert shapes(trained.model) == shapes(start.model)
        assert trained.class_names == start.class_names
        assert trained.dtype == torch.float16
        assert trained.contents["epoch"] == -1
        assert trained.contents["train_args"]["data"] == str(data)
        settings = {**trained.contents["train_args"], "data": None}
        assert str(tmp_path) not in repr({**trained.contents, "train_args": settings})
        values = zip(trained.model.parameters(), start.model.parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in values)
    # It can be trained again, and pruned again.
    half_of(trained.model)(torch.rand(1, 3, 64, 64))


def test_the_checkpoints_open_where_this_package_is_missing(pruned, data, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):  # the checkpoint of an unfinished training too
        train(pruned, data, out=tmp_path / "out", progress=stop, **QUICK)
    files = [str(tmp_path / "out" / "weights" / name) for name in ("last.pt", "best.pt")]
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *files], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    n_parameters = sum(p.numel() for p in load_checkpoint(pruned).model.parameters())
    lines = [line for line in run.stdout.splitlines() if line.split()[0].isdigit()]
    assert [int(line.split()[0]) for line in lines] == [n_parameters] * 2


def test_an_interrupted_training_goes_on(pruned, data, tmp_path):
    def interrupt(done, total):
        if done == 1:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        train(pruned, data, out=out, progress=interrupt, lr0=0.001, optimizer="SGD", **QUICK)
    state = torch.load(out / "weights" / "last.pt", weights_only=False)
    assert state["epoch"] == 0
    assert state["optimizer"] is not None
    assert sorted(os.listdir(out / "weights")) == ["best.pt", "last.pt"]
    with complains("epochs must be 2", "3"):
        train(
            pruned, data, out=out, resume=True, lr0=0.001, optimizer="SGD", **QUICK | {"epochs": 3}
        )
    with complains("lr0 must be 0.001", "None"):
        train(pruned, data, out=out, resume=True, optimizer="SGD", **QUICK)

    seen = []
    result = train(
        *(pruned, data),
        out=out,
        resume=True,
        progress=lambda *at: seen.append(at),
        lr0=0.001,
        optimizer="SGD",
        **QUICK,
    )
    assert seen == [(2, 2)]
    assert result.epochs == 2
    rows = (out / "results.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert shapes(load_checkpoint(result.last).model) == shapes(load_checkpoint(pruned).model)
    with complains("finished"):
        train(pruned, data, out=out, resume=True, lr0=0.001, optimizer="SGD", **QUICK)


def test_an_interrupt_after_the_last_epoch_costs_nothing(pruned, data, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    out, once = tmp_path / "out", QUICK | {"epochs": 1}
    with pytest.raises(KeyboardInterrupt):
        train(pruned, data, out=out, progress=interrupt, **once)
    result = train(pruned, data, out=out, resume=True, **once)
    assert result.epochs == 1
    assert "metrics/mAP50(B)" in result.metrics
    assert load_checkpoint(result.best).contents["epoch"] == -1


def test_a_damaged_training_is_not_resumed(pruned, data, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        train(pruned, data, out=out, progress=interrupt, **QUICK)

    def refused(file, content, *words):
        sound = file.read_bytes()
        file.write_bytes(content)
        before = tree(out)
        with complains(file, *words):
            train(pruned, data, out=out, resume=True, **QUICK)
        assert tree(out) == before
        file.write_bytes(sound)

    for content in (b"{", b"", b"[]", b"null", b"\xff", b"[" * 100_000):
        refused(out / "training.json", content)
    last = out / "weights" / "last.pt"
    refused(last, b"")
    refused(last, last.read_bytes()[: last.stat().st_size // 2])
    for strange in ([1], {"optimizer": 1}):
        torch.save(strange, tmp_path / "strange.pt")
        refused(last, (tmp_path / "strange.pt").read_bytes(), "must", "got")
    assert train(pruned, data, out=out, resume=True, **QUICK).epochs == 2


def test_a_model_that_force_would_delete(pruned, data, tmp_path):
    out = tmp_path / "out"
    (out / "weights").mkdir(parents=True)
    for name in ("best.pt", "last.pt"):
        model = shutil.copy(pruned, out / "weights" / name)
        (tmp_path / name).symlink_to(model)
        before = tree(out)
        for path in (model, tmp_path / name):
            with complains("force deletes", path, "another out"):
                train(path, data, out=out, force=True, **QUICK)
        assert tree(out) == before


def test_images_that_cannot_be_decoded_are_no_part_of_training(
    pruned, data, make_dataset, tmp_path
):
    junk = make_dataset(3, folder="junk")
    for image in (junk.parent / "images" / "train").iterdir():
        image.write_bytes(b"junk")
    out = tmp_path / "out"
    for train_on, val_on, split in (("data", "junk", "'val'"), ("junk", "data", "'train'")):
        places = {"train": f"../{train_on}/images/train", "val": f"../{val_on}/images/train"}
        with complains("3 of 3 images", split, "cannot be decoded", "000.png"):
            train(pruned, write_yaml(junk, **places), out=out, **QUICK)
        assert not out.exists()
    shutil.copy(
        junk.parent / "images" / "train" / "000.png", data.parent / "images" / "train" / "001.png"
    )
    with pytest.warns(UserWarning, match=r"1 of 6 images of the 'train' split.*001\.png.*left out"):
        result = train(pruned, data, out=out, **QUICK | {"epochs": 1})
    assert result.epochs == 1


@pytest.mark.parametrize("name", ["yolov8n-seg", "yolo11n-obb", "yolo26n-pose"])
def test_other_heads_are_trained(name, data, tmp_path, offline):
    import ultralytics

    model = half_of(ultralytics.YOLO(f"{name}.yaml").model)
    model.names = {0: "owl", **{index: f"other{index}" for index in range(1, len(model.names))}}
    file = tmp_path / "model.pt"
    torch.save({"model": deepcopy(model).half(), "train_args": {"imgsz": 64}}, file)
    rows = {
        "segment": "2 0.2 0.2 0.7 0.25 0.6 0.8 0.3 0.7\n0 0.1 0.1 0.5 0.1 0.5 0.5\n",
        "obb": "2 0.2 0.2 0.7 0.25 0.6 0.8 0.1 0.7\n",
        "pose": "2 0.5 0.5 0.6 0.6" + " 0.4 0.6 2" * 17 + "\n",
    }[model.task]
    for label in (data.parent / "labels" / "train").iterdir():
        label.write_text(rows)
    before = tree(data.parent)
    result = train(file, data, out=tmp_path / "out", **QUICK | {"epochs": 1, "image_size": 32})
    trained = load_checkpoint(result.best)
    assert shapes(trained.model) == shapes(model)
    assert trained.task == model.task
    assert tree(data.parent) == before


def test_bad_inputs(pruned, data, make_dataset, tmp_path):
    import ultralytics

    out = tmp_path / "out"
    with complains("no model file"):
        train(tmp_path / "none.pt", data, out=out)
    for bad in (0, -1, 1.5, True):
        with complains("epochs", "from 1", repr(bad)):
            train(pruned, data, out=out, epochs=bad)
    with complains("image_size", "0"):
        train(pruned, data, out=out, image_size=0)
    with complains("batch_size", "'all'"):
        train(pruned, data, out=out, batch_size="all")
    for device in ("0,1", [0, 1], "cuda:0,1"):
        with complains("device", str(device)):
            train(pruned, data, out=out, device=device)
    with complains("lr_zero", "unknown to Ultralytics"):
        train(pruned, data, out=out, lr_zero=0.1)
    with complains("plots", "is decided by train"):
        train(pruned, data, out=out, plots=True)
    with complains("lr0", "fast"):
        train(pruned, data, out=out, lr0="fast")
    with complains("resume", "none in"):
        train(pruned, data, out=out, resume=True)
    with complains("'val'"):
        train(pruned, make_dataset(2, folder="unvalidated"), out=out)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("")
    with complains("empty folder", "force"):
        train(pruned, data, out=out)
    with complains("must be a folder"):
        train(pruned, data, out=out / "mine.txt")
    classifier = tmp_path / "classifier.pt"
    torch.save({"model": ultralytics.YOLO("yolov8n-cls.yaml").model}, classifier)
    with complains("detect, segment, pose, obb", "'classify'"):
        train(classifier, data, out=tmp_path / "new")
    assert os.listdir(out) == ["mine.txt"]


@pytest.mark.parametrize("fault", ["optimizer", "trainer"])
def test_what_cannot_begin_leaves_an_earlier_training(pruned, data, tmp_path, monkeypatch, fault):
    once = QUICK | {"epochs": 1}
    new, old = tmp_path / "new" / "deeper", tmp_path / "old"
    train(pruned, data, out=old, **once)
    before = {file: file.read_bytes() for file in files_of(old)}
    if fault == "trainer":

        def refuse(**overrides):
            raise ValueError("no")

        monkeypatch.setattr(
            "actprune_gpu.models.ultralytics.train.trainer_class", lambda task: refuse
        )
        bad = once
    else:
        bad = once | {"optimizer": "foo"}
    for out in (new, old):
        with complains("Ultralytics cannot train", str(data)):
            train(pruned, data, out=out, force=True, **bad)
    assert not new.parent.exists()
    assert {file: file.read_bytes() for file in files_of(old)} == before
    empty = tmp_path / "empty"
    empty.mkdir()
    with complains("Ultralytics cannot train"):
        train(pruned, data, out=empty, **bad)
    assert not list(empty.iterdir())


def test_a_forced_training_begins_anew(pruned, data, tmp_path):
    out = tmp_path / "out"
    (out / "weights").mkdir(parents=True)
    (out / "weights" / "last.pt").write_text("of another training")
    result = train(pruned, data, out=out, force=True, **QUICK | {"epochs": 1})
    assert result.epochs == 1
    assert load_checkpoint(result.last).class_names == load_checkpoint(pruned).class_names
    settings = json.loads((out / "training.json").read_text())
    assert settings["epochs"] == 1
    assert settings["model_sha256"] == load_checkpoint(pruned).fingerprint
