"""From a model file and a data set to a pruned model: `actprune_gpu.yolo`."""

import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import yaml
from helpers import complains
from networks import difference, run

pytest.importorskip("ultralytics")

from actprune_gpu import SelectionConfig, yolo
from actprune_gpu.demo import CHECKPOINT, write_shapes
from actprune_gpu.layers import select_layers
from actprune_gpu.models.hooks import capture_outputs
from actprune_gpu.models.ultralytics.channels import trace_model
from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint
from actprune_gpu.pruning.folder import open_folder
from actprune_gpu.pruning.groups import moments_of
from actprune_gpu.pruning.plan import PruningPlan
from actprune_gpu.pruning.step import full_cost

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
    names = list(dict.fromkeys(layer for group in plan.groups for layer in group.members))
    with capture_outputs(model, names) as outputs, torch.no_grad():
        model(image)
    for group in plan.groups:
        for layer, channels in group.members.items():
            at = np.array(channels)
            assert not outputs[layer][:, at[group.drop]].any(), (group.name, layer)
            assert outputs[layer][:, at[group.keep]].any(), (group.name, layer)


def width(model, layer):
    """Number of channels that a layer puts out."""
    block = model.get_submodule(layer)
    return getattr(block, "conv", block).out_channels


def test_everything_is_written_and_fits_together(pruned):
    assert sorted(path.name for path in pruned.files.values()) == [
        "moments.safetensors",
        "plan.json",
        "pruned.pt",
    ]
    assert PruningPlan.load(pruned.files["plan"]) == pruned.plan
    stored = load_checkpoint(pruned.files["model"])
    graph = trace_model(load_checkpoint(CHECKPOINT).model)
    assert [group.name for group in pruned.plan.groups] == [group.name for group in graph.groups]
    left = {}
    for group in pruned.plan.groups:
        assert len(group.keep) == group.k
        assert 0.25 * group.channels <= group.k <= 0.5 * group.channels
        assert group.curves.ks == list(range(2, group.channels))
        for layer in group.members:
            left[layer] = left.get(layer, 0) + group.k
    assert left == {layer: width(stored.model, layer) for layer in left}
    cost = trace_model(stored.model).cost(np.ones(trace_model(stored.model).n_channels, bool))
    assert cost == graph.cost(graph.kept(pruned.plan.keep))


def test_zeroed_channels_put_out_zero_and_the_rest_what_the_removed_model_does(pruned, tmp_path):
    with pytest.warns(UserWarning, match="needs a data set"):
        zeroed, removed = (
            load_checkpoint(
                yolo.apply(pruned.plan, CHECKPOINT, out=tmp_path / mode, mode=mode).files["model"]
            ).model
            for mode in ("zero", "remove")
        )
    shapes = {name: value.shape for name, value in zeroed.state_dict().items()}
    original = load_checkpoint(CHECKPOINT).model.state_dict()
    assert shapes == {name: value.shape for name, value in original.items()}
    image = torch.rand(1, 3, 96, 96)
    assert_dropped_channels_are_zero(zeroed, pruned.plan, image)
    assert difference(run(removed, image), run(zeroed, image)) < 1e-4


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


def test_a_plan_is_replayed(pruned, shapes, tmp_path):
    replayed = yolo.apply(pruned.files["plan"], CHECKPOINT, shapes, out=tmp_path / "replayed")
    assert set(replayed.files) == {"model", "plan"}
    first = load_checkpoint(pruned.files["model"]).model.state_dict()
    second = load_checkpoint(replayed.files["model"]).model.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_plan_is_replayed_from_its_folder_on_the_images_that_it_tried(tmp_path):
    data = write_shapes(tmp_path / "data", n_train=12, n_val=2, seed=0)
    image = sorted((data.parent / "images" / "train").iterdir())[2]
    image.write_bytes(image.read_bytes()[:60])
    settings = {"layers": ["model.7"], "repair_images": 6}
    first = yolo.prune(CHECKPOINT, data, out=tmp_path / "out", **settings)
    again = yolo.apply(tmp_path / "out", CHECKPOINT, data, out=tmp_path / "again")
    assert first.gathered.skipped.corrupt_images
    assert first.plan.repair_images == 6
    for value, replayed in zip(
        first.model.state_dict().values(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, replayed)


def test_several_steps_of_knees_alone_are_refused(shapes, tmp_path):
    config = SelectionConfig(budget=None)
    with complains("steps", "3", "knee", "target", "budget"):
        yolo.prune(CHECKPOINT, shapes, out=tmp_path / "out", steps=3, config=config)


def test_weights_that_a_layer_lacks_are_missed_before_work_starts(shapes, tmp_path):
    import ultralytics

    model = ultralytics.YOLO("yolov8n-seg.yaml").model
    model.names = {0: "circle", **{number: f"other{number}" for number in range(1, 80)}}
    file = tmp_path / "model.pt"
    torch.save({"model": model.half(), "train_args": {"imgsz": 64}}, file)
    words = "'gamma'", "criterion or weight", "model.22.proto.upsample", "protect"
    for name in ("criterion", "weight"):
        config = SelectionConfig(**{name: "gamma"})
        with complains(*words):
            yolo.prune(file, shapes, out=tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_without_data_a_plan_is_carried_out_but_nothing_repaired(pruned, tmp_path):
    with pytest.warns(UserWarning, match=r"reconstruct\+bn, needs a data set"):
        replayed = yolo.apply(pruned.files["plan"], CHECKPOINT, out=tmp_path / "replayed")
    assert replayed.plan.repair == "none"
    assert replayed.plan.keep == pruned.plan.keep
    cut = load_checkpoint(replayed.files["model"]).model.state_dict()
    original = load_checkpoint(CHECKPOINT).model.state_dict()
    group = pruned.plan.groups[0]
    kept = np.array(group.members[group.name])[group.keep]
    name = f"{group.name}.conv.weight"
    assert torch.equal(cut[name], original[name][kept])


def test_a_plan_for_another_file_is_carried_out_with_a_warning(pruned, tmp_path):
    other = tmp_path / "other.pt"
    contents = torch.load(CHECKPOINT, weights_only=False)
    torch.save({**contents, "note": "not the same file"}, other)
    with pytest.warns(UserWarning, match="another file"):
        yolo.apply(pruned.plan.model_copy(update={"repair": "none"}), other, out=tmp_path / "out")


def test_settings_reach_the_plan(shapes, tmp_path):
    config = SelectionConfig(criterion="gamma", budget=(0.5, 0.75), round_to=4)
    result = yolo.prune(
        CHECKPOINT,
        shapes,
        out=tmp_path / "out",
        layers=["model.6.*", "model.7"],
        protect=["model.6.m.*"],
        config=config,
        repair="mean",
        repair_images=8,
    )
    plan = result.plan
    assert [group.name for group in plan.groups] == ["model.6.cv2", "model.7"]
    assert all(group.k == group.channels * 3 // 4 for group in plan.groups)
    assert plan.config == config
    assert (plan.repair, plan.repair_images, plan.mode) == ("mean", 8, "remove")


@pytest.mark.parametrize(
    ("targets", "round_to"),
    [
        ({"target_flops": 0.5}, 1),
        ({"target_params": 0.6}, 1),
        ({"target_flops": 0.7, "target_params": 0.4}, 1),
        ({"target_flops": 0.5}, 4),
    ],
)
def test_targets_are_met_within_a_hundredth(shapes, tmp_path, targets, round_to):
    config = SelectionConfig(criterion="l1", round_to=round_to, min_channels=4)
    result = yolo.prune(
        CHECKPOINT, shapes, out=tmp_path / "out", config=config, repair="none", images=16, **targets
    )
    before = full_cost(trace_model(load_checkpoint(CHECKPOINT).model))
    after = full_cost(trace_model(load_checkpoint(result.files["model"]).model))
    shares = {
        "target_flops": after.flops / before.flops,
        "target_params": after.parameters / before.parameters,
    }
    assert all(shares[name] <= share for name, share in targets.items())
    # With several targets one of them is the narrow one.
    assert max(shares[name] / share for name, share in targets.items()) > 0.99
    assert all(group.k % round_to == 0 and group.k >= 4 for group in result.plan.groups)
    assert result.plan.targets == {
        name.removeprefix("target_"): share for name, share in targets.items()
    }


def test_steps_meet_the_target_together(shapes, tmp_path):
    calls = []
    result = yolo.prune(
        CHECKPOINT,
        shapes,
        out=tmp_path / "out",
        config=SelectionConfig(criterion="l2"),
        target_flops=0.5,
        steps=2,
        repair="bn",
        repair_images=8,
        images=16,
        progress=lambda *call: calls.append(call),
    )
    before = full_cost(trace_model(load_checkpoint(CHECKPOINT).model))
    stored = load_checkpoint(result.files["model"]).model
    after = full_cost(trace_model(stored))
    assert 0.49 < after.flops / before.flops <= 0.5
    assert sum(call == ("images", 16, 16) for call in calls) == 2
    for group in result.plan.groups:
        assert set(group.keep) <= set(group.candidates)
        assert len(group.weights) == len(group.candidates)
        assert all(width(stored, layer) >= len(group.keep) for layer in group.members)
    assert any(len(group.candidates) < group.channels for group in result.plan.groups)


def test_what_a_step_leaves_too_few_channels_of_stays_in_the_next(shapes, tmp_path):
    result = yolo.prune(
        CHECKPOINT,
        shapes,
        out=tmp_path / "out",
        layers=["model.2.m.*", "model.6.m.*"],  # of 8 and of 32 channels
        config=SelectionConfig(criterion="l2", budget=(0.02, 0.04)),
        steps=2,
        repair_images=8,
        images=16,
    )
    stored = load_checkpoint(result.files["model"]).model
    assert {len(group.keep) for group in result.plan.groups} == {2}
    assert {group.channels for group in result.plan.groups} == {8, 32}
    for group in result.plan.groups:
        assert (len(group.candidates) < group.channels) == (group.channels == 32)
        assert set(group.keep) <= set(group.candidates)
    assert width(stored, "model.2.m.0.cv1") == width(stored, "model.6.m.0.cv1") == 2
    folder = open_folder(tmp_path / "out")
    assert not folder.notes  # the second step's moments, of what that still looked at
    known = [folder.has_moments(group) for group in result.plan.groups]
    assert any(known)
    assert not all(known)


def test_a_target_is_not_missed_for_want_of_channels_to_take(shapes, tmp_path):
    # The first step could reach its own target by leaving every layer two channels.
    with complains("target_flops", "out of reach", "smallest model", "more layers"):
        yolo.prune(
            CHECKPOINT,
            shapes,
            out=tmp_path / "out",
            layers=["model.2.m.*"],
            config=SelectionConfig(criterion="l2", allocation="proportion"),
            target_flops=0.9433,
            steps=2,
            repair="none",
            images=16,
        )


def test_repair_brings_accuracy_back(shapes, tmp_path):
    # Equal shares: where damage decides, the demo hardly needs repair.
    config = SelectionConfig(criterion="l2")
    pruned = yolo.prune(
        CHECKPOINT, shapes, out=tmp_path / "pruned", config=config, target_flops=0.75
    )
    with pytest.warns(UserWarning, match="needs a data set"):
        cut = yolo.apply(pruned.plan, CHECKPOINT, out=tmp_path / "cut")
    size = yolo.trained_image_size(load_checkpoint(CHECKPOINT))
    before, after = (yolo.validate(model, shapes, size) for model in (cut.model, pruned.model))
    assert before["map50"] < 0.5
    assert after["map50"] > 0.8


def test_groups_in_one_call_are_groups_one_by_one(pruned):
    groups = trace_model(load_checkpoint(CHECKPOINT).model).groups[:6]
    moments = moments_of(groups, pruned.gathered.moments)
    weights = {group.name: torch.rand(group.n_channels) for group in groups}
    together = select_layers(moments, weights)
    assert list(together) == list(moments)
    for name in moments:
        alone = select_layers({name: moments[name]}, weights)[name]
        assert torch.equal(alone.keep, together[name].keep)
        assert torch.equal(alone.embedding, together[name].embedding)


def test_random_groups_differ(pruned):
    groups = [
        g for g in trace_model(load_checkpoint(CHECKPOINT).model).groups if g.n_channels == 32
    ]
    selections = select_layers(
        moments_of(groups[:2], pruned.gathered.moments),
        {group.name: torch.ones(group.n_channels) for group in groups},
        config=SelectionConfig(criterion="random"),
    )
    first, second = (selection.keep for selection in selections.values())
    assert len(first) == len(second)
    assert not torch.equal(first, second)


def test_an_interrupted_run_goes_on(pruned, shapes, tmp_path):
    out = tmp_path / "out"

    def interrupt(what, done, total):
        if what == "images" and done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        yolo.prune(CHECKPOINT, shapes, out=out, progress=interrupt)
    kept = ["moments.safetensors", "moments.shards.safetensors"]
    assert sorted(file.name for file in out.iterdir()) == kept
    with complains("out", "force"):
        yolo.prune(CHECKPOINT, shapes, out=out)
    resumed = yolo.prune(CHECKPOINT, shapes, out=out, resume=True)
    assert resumed.files["plan"].read_bytes() == pruned.files["plan"].read_bytes()


def test_an_interrupted_later_step_goes_on(shapes, tmp_path):
    out, steps = tmp_path / "out", []
    settings = {
        "layers": ["model.2.m.*", "model.4.m.*"],
        "target_flops": 0.95,
        "steps": 2,
        "images": 16,
        "repair_images": 4,
    }
    whole = yolo.prune(CHECKPOINT, shapes, out=tmp_path / "whole", **settings)

    def interrupt(what, done, total):
        if what == "repair" and done == total:
            steps.append(what)
        if what == "images" and done >= 16 and steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        yolo.prune(CHECKPOINT, shapes, out=out, progress=interrupt, **settings)
    assert (out / "step-2-moments.safetensors").is_file()
    resumed = yolo.prune(CHECKPOINT, shapes, out=out, resume=True, **settings)
    for name in ("model", "plan"):
        assert resumed.files[name].read_bytes() == whole.files[name].read_bytes(), name
    assert not list(out.glob("step-*"))
    with complains("resume needs an unfinished run", "is finished"):
        yolo.prune(CHECKPOINT, shapes, out=out, resume=True, **settings)
    with complains("cannot resume", "model"):  # of another model it is no finished run
        other = settings | {"target_flops": 1.0}
        yolo.prune(whole.files["model"], shapes, out=out, resume=True, **other)


@pytest.mark.parametrize("criterion", ["l1", "separability"])
def test_few_images_do_not_make_channels_look_dispensable(shapes, tmp_path, criterion):
    """Four images have fewer cells than channels in the last maps."""
    result = yolo.prune(
        CHECKPOINT,
        shapes,
        out=tmp_path,
        config=yolo.DEFAULT_CONFIG.model_copy(update={"criterion": criterion}),
        target_flops=1.0,
        images=16,
        repair_images=4,
    )
    assert {len(group.keep) - group.channels for group in result.plan.groups} == {0}


def with_names(shapes, tmp_path, names):
    folder = shutil.copytree(shapes.parent, tmp_path / "data")
    content = yaml.safe_load(shapes.read_text()) | {"path": ".", "names": names}
    (folder / shapes.name).write_text(yaml.safe_dump(content))
    return folder / shapes.name


def test_one_class_is_too_few_for_separability(shapes, tmp_path):
    data = with_names(shapes, tmp_path, ["circle"])
    for file in (data.parent / "labels").rglob("*.txt"):
        rows = [line for line in file.read_text().splitlines() if line.startswith("0 ")]
        file.write_text("\n".join(rows))
    out = tmp_path / "out"
    with complains("two classes", "got circle", "criterion reconstruct"):
        yolo.prune(CHECKPOINT, data, out=out)
    assert not out.exists()
    config = yolo.DEFAULT_CONFIG.model_copy(update={"criterion": "reconstruct"})
    quick = {"images": 8, "repair_images": 8, "target_flops": 0.8}
    assert yolo.prune(CHECKPOINT, data, out=out, config=config, **quick).gathered.matched


def test_classes_that_the_model_does_not_know_are_named(shapes, tmp_path):
    known = load_checkpoint(CHECKPOINT).class_names
    quick = {"images": 24, "repair": "none", "layers": ["model.4.m.*"]}
    data = with_names(shapes, tmp_path, ["wolf", "bear", *known[2:]])
    with pytest.warns(UserWarning, match=f"2 of {len(known)} classes .* do not count: wolf, bear$"):
        yolo.prune(CHECKPOINT, data, out=tmp_path / "some", **quick)
    data = with_names(shapes, tmp_path / "other", [f"x{number}" for number in range(len(known))])
    with pytest.warns(UserWarning, match=f"knows none .* agree, {known[0]} for x0 and so on$"):
        yolo.prune(CHECKPOINT, data, out=tmp_path / "none", **quick)


def test_bad_input_is_refused_before_anything_is_written(shapes, tmp_path):
    out = tmp_path / "out"
    with complains("no layer matches", "model.99", "nearest"):
        yolo.prune(CHECKPOINT, shapes, out=out, layers=["model.99"])
    with complains("no model file", "nowhere.pt"):
        yolo.prune(tmp_path / "nowhere.pt", shapes, out=out)
    with complains("image_size", "whole number from 1", "-1"):
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
    group = pruned.plan.groups[0]
    for change, words in (
        ({"channels": 99}, ["99", "8"]),
        ({"name": "model.99"}, ["model.99", CHECKPOINT.name]),
        ({"members": {"model.1": [0]}}, ["together", "model.1"]),
    ):
        other = group.model_copy(update=change)
        with complains(other.name, *words):
            yolo.apply(
                pruned.plan.model_copy(update={"groups": [other]}), CHECKPOINT, out=tmp_path / "out"
            )
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
        (lambda content: json.dumps({**content, "groups": 3}), ["not a valid plan", "groups"]),
        (
            lambda content: json.dumps(
                {**content, "groups": [{**content["groups"][0], "keep": [1, 0]}]}
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
    """All convolutions that may shrink, twice; one model has activations nn.Identity."""
    model, data = realdata / name, realdata / "coco128" / "coco128.yaml"
    options = {"images": 20, "repair_images": 4, "mode": "zero"}
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
