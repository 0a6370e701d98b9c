"""From a model file and a data set to a pruned model: `actprune_gpu.yolo`."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from helpers import complains

pytest.importorskip("ultralytics")

from actprune_gpu import SelectionConfig, yolo
from actprune_gpu.demo import CHECKPOINT
from actprune_gpu.layers import select_layers
from actprune_gpu.models.hooks import capture_outputs
from actprune_gpu.models.ultralytics.checkpoint import conv_blocks, load_checkpoint
from actprune_gpu.pruning.plan import PruningPlan

# Opens and runs a checkpoint where this package cannot be imported.
ELSEWHERE = """
import sys
sys.modules["actprune_gpu"] = None
import numpy as np
from ultralytics import YOLO
model = YOLO(sys.argv[1])
boxes = model.predict(np.zeros((96, 96, 3), np.uint8), imgsz=96, verbose=False)[0].boxes
print(type(model.model).__module__, len(boxes))
"""


@pytest.fixture(scope="module")
def pruned(shapes, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return yolo.prune(CHECKPOINT, shapes, out=tmp_path_factory.mktemp("out") / "here")


def assert_dropped_channels_are_zero(model, plan, image):
    names = [layer.name for layer in plan.layers]
    with capture_outputs(model, names) as outputs, torch.no_grad():
        model(image)
        for layer in plan.layers:
            assert not outputs[layer.name][:, layer.drop].any(), layer.name
            assert outputs[layer.name][:, layer.keep].any(), layer.name


def test_everything_is_written_and_fits_together(pruned):
    assert sorted(path.name for path in pruned.files.values()) == [
        "moments.safetensors",
        "plan.json",
        "pruned.pt",
    ]
    assert PruningPlan.load(pruned.files["plan"]) == pruned.plan
    stored = load_checkpoint(pruned.files["model"])
    names = [layer.name for layer in pruned.plan.layers]
    assert names == list(conv_blocks(stored.model))
    for layer in pruned.plan.layers:
        assert len(layer.keep) == layer.k
        assert 0.25 * layer.channels <= layer.k <= 0.5 * layer.channels
        assert layer.curves.ks == list(range(2, layer.channels))
    assert_dropped_channels_are_zero(stored.model, pruned.plan, torch.rand(1, 3, 96, 96))


def test_the_model_opens_where_this_package_is_missing(pruned):
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(pruned.files["model"])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-2].startswith("ultralytics.")


def test_a_second_run_writes_the_same_plan(pruned, shapes, tmp_path):
    again = yolo.prune(CHECKPOINT, shapes, out=tmp_path / "again")
    assert again.files["plan"].read_bytes() == pruned.files["plan"].read_bytes()


def test_a_plan_is_replayed_without_data(pruned, tmp_path):
    replayed = yolo.apply(pruned.files["plan"], CHECKPOINT, out=tmp_path / "replayed")
    assert set(replayed.files) == {"model", "plan"}
    first = load_checkpoint(pruned.files["model"]).model.state_dict()
    second = load_checkpoint(replayed.files["model"]).model.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_plan_for_another_file_is_carried_out_with_a_warning(pruned, tmp_path):
    with pytest.warns(UserWarning, match="another file"):
        yolo.apply(pruned.plan, pruned.files["model"], out=tmp_path / "out")


def test_settings_reach_the_plan(shapes, tmp_path):
    config = SelectionConfig(criterion="gamma", budget=(0.5, 0.75), round_to=4)
    result = yolo.prune(
        CHECKPOINT, shapes, out=tmp_path / "out", layers=["model.6.*", "model.7"], config=config
    )
    assert [layer.name for layer in result.plan.layers][-1] == "model.7"
    assert all(layer.name.startswith(("model.6.", "model.7")) for layer in result.plan.layers)
    assert all(layer.k == layer.channels * 3 // 4 for layer in result.plan.layers)
    assert result.plan.config == config


def test_layers_in_one_call_are_layers_one_by_one(pruned):
    blocks = conv_blocks(load_checkpoint(CHECKPOINT).model)
    moments = {name: pruned.gathered.moments[name] for name in list(blocks)[:6]}
    weights = {name: yolo.layer_weights(blocks[name]) for name in moments}
    together = select_layers(moments, weights)
    assert list(together) == list(moments)
    for name in moments:
        alone = select_layers({name: moments[name]}, weights)[name]
        assert torch.equal(alone.keep, together[name].keep)
        assert torch.equal(alone.embedding, together[name].embedding)


def test_random_layers_differ(pruned):
    blocks = conv_blocks(load_checkpoint(CHECKPOINT).model)
    names = ["model.6.m.0.cv1", "model.6.m.0.cv2"]
    selections = select_layers(
        {name: pruned.gathered.moments[name] for name in names},
        {name: yolo.layer_weights(blocks[name]) for name in names},
        config=SelectionConfig(criterion="random"),
    )
    first, second = (selections[name].keep for name in names)
    assert len(first) == len(second)
    assert not torch.equal(first, second)


def test_an_interrupted_run_goes_on(pruned, shapes, tmp_path):
    out = tmp_path / "out"

    def interrupt(what, done, total):
        if what == "images" and done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        yolo.prune(CHECKPOINT, shapes, out=out, progress=interrupt)
    assert [file.name for file in out.iterdir()] == ["moments.safetensors"]
    with complains("out", "force"):
        yolo.prune(CHECKPOINT, shapes, out=out)
    resumed = yolo.prune(CHECKPOINT, shapes, out=out, resume=True)
    assert resumed.files["plan"].read_bytes() == pruned.files["plan"].read_bytes()


def test_bad_input_is_refused_before_anything_is_written(shapes, tmp_path):
    out = tmp_path / "out"
    with complains("no layer matches", "model.99", "nearest"):
        yolo.prune(CHECKPOINT, shapes, out=out, layers=["model.99"])
    with complains("no model file", "nowhere.pt"):
        yolo.prune(tmp_path / "nowhere.pt", shapes, out=out)
    with complains("image_size", "at least 1", "-1"):
        yolo.prune(CHECKPOINT, shapes, out=out, image_size=-1)
    with complains("no moments file"):
        yolo.prune(CHECKPOINT, shapes, out=out, resume=True)
    with complains("file", "no_folder"):
        (tmp_path / "no_folder").write_text("")
        yolo.prune(CHECKPOINT, shapes, out=tmp_path / "no_folder")
    assert not out.exists()


def test_a_plan_that_does_not_fit_is_refused(pruned, tiny_checkpoint, tmp_path):
    with complains("plan", "model.", tiny_checkpoint.name):
        yolo.apply(pruned.plan, tiny_checkpoint, out=tmp_path / "out")
    layer = pruned.plan.layers[0].model_copy(update={"channels": 99})
    other = pruned.plan.model_copy(update={"layers": [layer]})
    with complains(layer.name, "99", "8"):
        yolo.apply(other, CHECKPOINT, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: "not json", ["plan in JSON"]),
        (
            lambda content: json.dumps({**content, "schema_version": "x/9"}),
            ["schema_version", "x/9"],
        ),
        (lambda content: json.dumps([]), ["schema_version"]),
        (lambda content: json.dumps({**content, "layers": 3}), ["not a valid plan", "layers"]),
        (
            lambda content: json.dumps(
                {**content, "layers": [{**content["layers"][0], "keep": [1, 0]}]}
            ),
            ["not a valid plan", "ascend"],
        ),
    ],
)
def test_bad_plans_are_refused(pruned, tmp_path, change, words):
    path = tmp_path / "plan.json"
    path.write_text(change(json.loads(pruned.files["plan"].read_text())))
    with complains(*words):
        PruningPlan.load(path)


@pytest.mark.parametrize("name", ["yolov8n-coco-int8deq.pt", "yolov8n-railway6.pt"])
def test_real_models(realdata, tmp_path, name):
    """All convolutions of backbone and neck, twice; one model has activations nn.Identity."""
    model, data = realdata / name, realdata / "coco128" / "coco128.yaml"
    options = {"images": 20}
    if "railway" in name:
        # Its classes are not COCO's: label what it sees itself, however unsure it is.
        data = labels_by(model, realdata, tmp_path)
        options["confidence"] = 0.01
    first, second = (yolo.prune(model, data, out=tmp_path / f"out{i}", **options) for i in range(2))
    assert first.files["plan"].read_bytes() == second.files["plan"].read_bytes()
    stored = load_checkpoint(first.files["model"]).model
    assert_dropped_channels_are_zero(stored, first.plan, torch.rand(1, 3, 160, 160))


def labels_by(model, realdata, folder):
    """Write a data set whose labels are the model's own predictions on real images."""
    from conftest import write_yaml
    from ultralytics import YOLO

    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    network = YOLO(model)
    images = sorted((realdata / "coco128" / "images" / "train2017").glob("*.jpg"))[:20]
    for image in images:
        boxes = network.predict(image, conf=0.01, verbose=False)[0].boxes
        rows = [
            " ".join(map(str, [int(c), *xywh]))
            for c, xywh in zip(boxes.cls.tolist(), boxes.xywhn.tolist(), strict=True)
        ]
        (folder / "images" / image.name).symlink_to(image)
        (folder / "labels" / image.with_suffix(".txt").name).write_text("\n".join(rows))
    names = list(network.names.values())
    return write_yaml(folder / "data.yaml", train="images", names=names)
