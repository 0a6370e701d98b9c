"""Plans changed by hand: refused by name, or understood; never a traceback."""

import json
from copy import deepcopy

import pytest
from folders import make_folder
from helpers import complains

from actprune_gpu.errors import InputError
from actprune_gpu.moments import load_moments
from actprune_gpu.pruning.folder import MOMENTS_FILE, PLAN_FILE
from actprune_gpu.pruning.plan import PruningPlan
from actprune_gpu.report import compare, explain, write_report

_GONE = object()
EDITS = {
    "gone": lambda value: _GONE,
    "null": lambda value: None,
    "a word": lambda value: "x",
    "empty": lambda value: [],
    "negative": lambda value: -5,
    "large": lambda value: 10**6,
    "a fraction": lambda value: 0.5,
    "not a number": lambda value: float("nan"),
    "half": lambda value: value[: len(value) // 2] if isinstance(value, list) else value,
}


@pytest.fixture(scope="module", params=["separability", "l1"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "folder"
    make_folder(path, layers=2, shards=False, criterion=request.param)
    return path


def places(value, place=()):
    """Every place in a JSON document; of lists the first and the last entry."""
    yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*place, key))
    elif isinstance(value, list) and value:
        for index in {0, len(value) - 1}:
            yield from places(value[index], (*place, index))


def edited(document, place, edit):
    document = deepcopy(document)
    at = document
    for key in place[:-1]:
        at = at[key]
    value = edit(at[place[-1]])
    if value is _GONE:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return document


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_no_edit_of_a_plan_ends_in_a_traceback(folder, edit):
    file = folder / PLAN_FILE
    text = file.read_text()
    original, refused = json.loads(text), 0
    plan = PruningPlan.load(file)
    try:
        for place in list(places(original))[1:]:
            file.write_text(json.dumps(edited(original, place, edit)))
            try:
                compare(plan, PruningPlan.load(file))
                write_report(folder)
                explain(folder, "layer.1", 3)
            except InputError:
                refused += 1
    finally:
        file.write_text(text)
    assert refused > 10


def group_with(**changes):
    return lambda plan: plan["groups"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (group_with(keep=[1, 0]), ["keep of layer.1", "ascend"]),
        (group_with(keep=[0, 24]), ["keep of layer.1", "0..23"]),
        (group_with(candidates=[]), ["candidates of layer.1"]),
        (group_with(candidates=[0, 1], keep=[0, 2]), ["some of its candidates"]),
        (group_with(weights=[1.0]), ["weights of layer.1", "24", "got 1"]),
        (group_with(medoids=[24]), ["medoids of layer.1", "0..23"]),
        (group_with(cluster_labels=[99] * 24), ["cluster_labels of layer.1"]),
        (group_with(members={"layer.1": [-1, *range(23)]}), ["members of layer.1", "negative"]),
        (lambda plan: plan["groups"][1]["curves"].update(ks=[2]), ["ks, mss and loss"]),
        (lambda plan: plan.update(repair="glue"), ["repair", "glue"]),
        (lambda plan: plan.update(repair_images=-5), ["repair_images", "0"]),
        (lambda plan: plan.update(mode="hide"), ["mode", "remove"]),
        (lambda plan: plan["selection"].update(seed=-1), ["seed"]),
        (lambda plan: plan["gathering"].pop("image_size"), ["gathering.image_size"]),
        (lambda plan: plan["groups"].append(plan["groups"][0]), ["names of their own"]),
    ],
)
def test_what_contradicts_itself_is_named(tmp_path, change, words):
    make_folder(tmp_path, layers=2, shards=False)
    file = tmp_path / PLAN_FILE
    plan = json.loads(file.read_text())
    change(plan)
    file.write_text(json.dumps(plan))
    with complains("not a valid plan", *words):
        PruningPlan.load(file)


@pytest.mark.parametrize(
    ("name", "value"), [("mean", float("nan")), ("m2", float("inf")), ("m2", -3.0), ("count", -1)]
)
def test_moments_that_cannot_be_are_refused(tmp_path, name, value):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    make_folder(tmp_path, layers=2, shards=False)
    file = tmp_path / MOMENTS_FILE
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    tensors = load_file(file)
    tensors[f"layer.0/{name}"][2, 3] = value
    save_file(tensors, file, header)
    with complains("damaged", "layer.0"):
        load_moments(file)
