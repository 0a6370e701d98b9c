"""Data sets in Ultralytics' YAML form: what is read, what is left out, what is refused."""

import json
import os
import shutil

import numpy as np
import pytest
from conftest import TINY_CLASSES, write_yaml
from helpers import complains

from actprune_gpu.models.ultralytics.dataset import label_path, load_dataset
from actprune_gpu.models.ultralytics.labels import parse_labels
from actprune_gpu.models.ultralytics.skipped import SkippedInputs


def tree(folder):
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.stat().st_size)
        for file in folder.rglob("*")
    }


def names_of(dataset):
    return [image.name for image in dataset.images]


# Reading


def test_real_data_set(realdata):
    dataset = load_dataset(realdata / "coco128" / "coco128.yaml")
    assert len(dataset.class_names) == 80
    assert dataset.class_names[:2] == ("person", "bicycle")
    assert len(dataset.images) == 126
    assert sum(len(image.classes) for image in dataset.images) == 929
    folder = "train2017/000000000"
    assert dataset.skipped == SkippedInputs(
        images_without_labels=(f"images/{folder}250.jpg", f"images/{folder}508.jpg"),
        labels_without_image=(f"labels/{folder}656.txt", f"labels/{folder}659.txt"),
    )
    assert len(load_dataset(realdata / "coco128" / "coco128.yaml", "val").images) > 100


def test_images_come_sorted_with_their_objects(make_dataset):
    file = make_dataset(5)
    before = tree(file.parent)
    dataset = load_dataset(file)
    assert names_of(dataset) == [f"images/train/{n:03d}.png" for n in range(5)]
    assert dataset.class_names == TINY_CLASSES
    assert dataset.root == file.parent
    assert len(dataset.skipped) == 0
    assert dataset.skipped.summary() == "nothing skipped"
    rows = np.loadtxt(file.parent / "labels" / "train" / "003.txt", ndmin=2)
    image = dataset.images[3]
    assert image.classes.tolist() == rows[:, 0].tolist()
    low, high = image.boxes[:, :2], image.boxes[:, 2:]
    np.testing.assert_allclose((low + high) / 2, rows[:, 1:3], atol=1e-12)
    np.testing.assert_allclose(high - low, rows[:, 3:], atol=1e-12)
    assert tree(file.parent) == before, "reading wrote into the user's folder"


@pytest.mark.parametrize(
    "changes",
    [
        {"path": None},
        {"path": ""},
        {"names": dict(enumerate(TINY_CLASSES))},
        {"nc": 3},
        {"train": ["images/train"]},
        {"train": "../images/train"},
        {"train": None, "validation": "images/train"},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_forms_of_the_yaml_file(make_dataset, changes):
    file = make_dataset(3)
    write_yaml(file, **changes)
    split = "val" if "validation" in changes else "train"
    assert len(load_dataset(file, split).images) == 3


def test_absolute_path_and_another_folder(make_dataset, tmp_path):
    root = make_dataset(3).parent
    file = write_yaml(tmp_path / "elsewhere.yaml", path=str(root))
    assert names_of(load_dataset(file))[0] == "images/train/000.png"
    write_yaml(file, path="data")
    assert len(load_dataset(file).images) == 3


def test_class_names_may_be_missing_where_their_number_is_given(make_dataset):
    file = write_yaml(make_dataset(3), names=None, nc=4)
    assert load_dataset(file).class_names == ("class_0", "class_1", "class_2", "class_3")


def test_a_text_file_lists_images(make_dataset):
    file = make_dataset(4)
    images = file.parent / "images" / "train"
    lists = ["./images/train/002.png", "", f"{images}/000.png", "images/train/002.png"]
    (file.parent / "some.txt").write_text("\n".join(lists))
    write_yaml(file, train="some.txt")
    dataset = load_dataset(file)
    assert names_of(dataset) == ["images/train/000.png", "images/train/002.png"]
    assert len(dataset.skipped) == 0, "labels of unlisted images are not orphans"
    write_yaml(file, train=["some.txt", "images/train"])
    assert len(load_dataset(file).images) == 4


def test_sub_folders_and_labels_beside_the_images(make_dataset, tmp_path):
    file = make_dataset(2)
    for kind in ("images", "labels"):
        (file.parent / kind / "train" / "more").mkdir()
        for source in list((file.parent / kind / "train").glob("001.*")):
            shutil.move(source, source.parent / "more")
    assert names_of(load_dataset(file)) == ["images/train/000.png", "images/train/more/001.png"]
    flat = tmp_path / "flat"
    flat.mkdir()
    for source in file.parent.rglob("00?.*"):
        shutil.copy(source, flat)
    assert len(load_dataset(write_yaml(tmp_path / "flat.yaml", train="flat")).images) == 2


def test_the_last_images_folder_becomes_labels(tmp_path):
    image = tmp_path / "images" / "a" / "images" / "b" / "images.old.jpg"
    assert label_path(image) == tmp_path / "images" / "a" / "labels" / "b" / "images.old.txt"


def test_fingerprint_follows_the_content_and_not_the_place(make_dataset, tmp_path):
    file = make_dataset(3)
    original = load_dataset(file).fingerprint
    assert load_dataset(file).fingerprint == original
    moved = shutil.copytree(file.parent, tmp_path / "moved")
    assert load_dataset(moved / "data.yaml").fingerprint == original
    label = moved / "labels" / "train" / "001.txt"
    label.write_text(label.read_text().replace("0.", "0.1", 1))
    assert load_dataset(moved / "data.yaml").fingerprint != original
    shutil.copy(file.parent / "labels" / "train" / "001.txt", label)
    with (moved / "images" / "train" / "001.png").open("ab") as image:
        image.write(b"x")
    assert load_dataset(moved / "data.yaml").fingerprint != original
    write_yaml(file, names=["x", "y", "z"])
    assert load_dataset(file).fingerprint != original


# Label rows


def test_polygons_become_boxes():
    labels = parse_labels(b"2 0.1 0.2 0.5 0.3 0.4 0.9\n1.0 0.5 0.5 0.2 0.4\n", "x.txt", 3)
    assert labels.classes.tolist() == [2, 1]
    np.testing.assert_allclose(labels.boxes, [[0.1, 0.2, 0.5, 0.9], [0.4, 0.3, 0.6, 0.7]])
    assert labels.corrupt_rows == ()


def test_boxes_are_clipped_to_the_image():
    labels = parse_labels("\ufeff0 0.95 0.5 0.2 1.01".encode(), "x.txt", 1)
    np.testing.assert_allclose(labels.boxes, [[0.85, 0.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    "row",
    [
        "0 0.5 0.5 0.2",
        "0 0.5 0.5 0.2 0.2 0.9",
        "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4",
        "0",
        "cat 0.5 0.5 0.2 0.2",
        "0.5 0.5 0.5 0.2 0.2",
        "0 nan 0.5 0.2 0.2",
        "nan 0.5 0.5 0.2 0.2",
        "0 0.5 0.5 inf 0.2",
        "0 320 240 50 50",
        "0 0.5 -0.5 0.2 0.2",
        "0 0.5 0.5 0 0.2",
        "0 0.5 0.5 0.2 -0.2",
        "0,0.5,0.5,0.2,0.2",
        "\x00\xff\x89PNG",
    ],
)
def test_corrupt_rows_are_counted_by_number(row):
    content = f"0 0.5 0.5 0.2 0.2\n\n{row}\n1 0.5 0.5 0.2 0.2".encode("latin-1")
    labels = parse_labels(content, "x.txt", 2)
    assert labels.classes.tolist() == [0, 1]
    assert labels.corrupt_rows == (3,)


@pytest.mark.parametrize("label", [-1, 3, 80])
def test_a_class_out_of_range_is_an_error(make_dataset, label):
    file = make_dataset(3)
    with (file.parent / "labels" / "train" / "001.txt").open("a") as rows:
        rows.write(f"{label} 0.5 0.5 0.2 0.2\n")
    with complains("labels/train/001.txt", "row 4", "0..2", label):
        load_dataset(file)


# What is left out


def spoil(root, kind):
    """Make one of the six images unusable and return its entry in the report."""
    labels, images = root / "labels" / "train", root / "images" / "train"
    if kind == "images_without_labels":
        (labels / "002.txt").unlink()
        return "images/train/002.png"
    if kind == "labels_without_image":
        (images / "002.png").unlink()
        return "labels/train/002.txt"
    if kind == "empty_label_files":
        (labels / "002.txt").write_text("\n\n")
        return "images/train/002.png"
    (labels / "002.txt").write_text("0 0.5 0.5\n")
    return "labels/train/002.txt:1"


@pytest.mark.parametrize(
    "kind",
    ["images_without_labels", "labels_without_image", "empty_label_files", "corrupt_label_rows"],
)
def test_unusable_inputs_are_named(make_dataset, kind):
    file = make_dataset()
    name = spoil(file.parent, kind)
    dataset = load_dataset(file)
    assert len(dataset.images) == 5
    assert dataset.skipped == SkippedInputs(**{kind: (name,)})
    assert dataset.skipped.summary() == f"1 {kind.replace('_', ' ')} ({name})"
    with complains("strict", name):
        load_dataset(file, strict=True)


def test_an_image_keeps_its_good_rows(make_dataset):
    file = make_dataset(2)
    with (file.parent / "labels" / "train" / "000.txt").open("a") as rows:
        rows.write("hello\n")
    dataset = load_dataset(file)
    assert [len(image.classes) for image in dataset.images] == [3, 3]
    assert dataset.skipped.corrupt_label_rows == ("labels/train/000.txt:4",)


def test_a_listed_image_that_is_not_there(make_dataset):
    file = make_dataset(2)
    (file.parent / "list.txt").write_text("images/train/000.png\nimages/train/999.png\n")
    write_yaml(file, train="list.txt")
    dataset = load_dataset(file)
    assert len(dataset.images) == 1
    assert dataset.skipped.corrupt_images == ("images/train/999.png",)


def test_a_list_of_classes_is_no_label_file(make_dataset):
    file = make_dataset(2)
    (file.parent / "labels" / "train" / "classes.txt").write_text("cat\ndog\nowl\n")
    assert len(load_dataset(file, strict=True).images) == 2


def test_names_that_are_not_utf_8_are_escaped(make_dataset):
    file = make_dataset(4)
    images, labels = (
        os.path.join(os.fsencode(file.parent), kind, b"train") for kind in (b"images", b"labels")
    )
    os.rename(os.path.join(images, b"001.png"), os.path.join(images, b"b\xff.png"))
    os.rename(os.path.join(labels, b"001.txt"), os.path.join(labels, b"b\xff.txt"))
    os.rename(os.path.join(labels, b"002.txt"), os.path.join(labels, b"c\xff.txt"))
    os.rename(os.path.join(images, b"002.png"), os.path.join(images, b"d\xff.png"))
    dataset = load_dataset(file)
    assert names_of(dataset)[-1] == "images/train/b\\udcff.png"
    assert dataset.images[-1].path.is_file()
    assert dataset.skipped == SkippedInputs(
        images_without_labels=("images/train/d\\udcff.png",),
        labels_without_image=("labels/train/c\\udcff.txt",),
    )
    assert [image.is_file() for image in dataset.background.values()] == [True]
    json.dumps(dataset.skipped.as_dict(), ensure_ascii=False).encode()


def test_skipped_inputs_survive_json():
    skipped = SkippedInputs(corrupt_images=("a", "b", "c", "d"), empty_label_files=("e",))
    lists = {reason: list(names) for reason, names in skipped.as_dict().items()}
    assert SkippedInputs.from_dict(lists) == skipped
    assert len(skipped) == 5
    assert skipped.summary() == "1 empty label files (e); 4 corrupt images (a, b, c, ...)"


# What is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": None}, ["train", "got keys names, path"]),
        ({"train": ""}, ["train"]),
        ({"names": None}, ["names"]),
        ({"names": []}, ["names"]),
        ({"names": {1: "a", 2: "b"}}, ["names", "0..1"]),
        ({"names": "cat"}, ["names", "'cat'"]),
        ({"nc": 4}, ["nc", "3", "4"]),
        ({"nc": "many"}, ["nc", "'many'"]),
        ({"path": "nowhere"}, ["nowhere"]),
        ({"path": "/nowhere/at/all"}, ["/nowhere/at/all"]),
        ({"train": "images/test"}, ["images/test", "train"]),
        ({"train": ["images/train", "images/more"]}, ["images/more"]),
        ({"train": "labels"}, ["no images", "labels"]),
    ],
)
def test_yaml_files_that_are_refused(make_dataset, changes, words):
    file = write_yaml(make_dataset(2), **changes)
    with complains(*words):
        load_dataset(file)


def test_other_splits_must_be_there_too(make_dataset):
    with complains("'val'", "train"):
        load_dataset(make_dataset(2), "val")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no data set file", "broken.yaml"]),
        (b"names: [a, b", ["cannot read", "broken.yaml"]),
        (b"\xff\xfe\x00\x01", ["cannot read", "broken.yaml"]),
        (b"just words", ["names", "str"]),
        (b"", ["names", "NoneType"]),
        (b"- a\n- b\n", ["names", "list"]),
        (b"released: 2024-02-30", ["cannot read", "broken.yaml"]),
        (b"a: 0x_", ["cannot read", "broken.yaml"]),
        (b"a: !!int ''", ["cannot read", "broken.yaml"]),
        (b"[" * 3000, ["cannot read", "broken.yaml"]),
    ],
)
def test_files_that_are_no_yaml_file(tmp_path, content, words):
    file = tmp_path / "broken.yaml"
    if content is not None:
        file.write_bytes(content)
    with complains(*words):
        load_dataset(file)


def test_a_folder_is_no_yaml_file(tmp_path):
    with complains("no data set file"):
        load_dataset(tmp_path)


def test_a_data_set_without_labels(make_dataset):
    file = make_dataset(2)
    shutil.rmtree(file.parent / "labels")
    with complains("2 images", "usable label", "without labels"):
        load_dataset(file)


def test_folders_are_looked_for_where_ultralytics_does(make_dataset, tmp_path, monkeypatch):
    file = make_dataset(2)
    elsewhere = tmp_path / "yaml" / "data.yaml"
    elsewhere.parent.mkdir()
    write_yaml(elsewhere, path=file.parent.name)
    with complains("names the folder", "is not in"):
        load_dataset(elsewhere)
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset(elsewhere).images) == 2


def test_descriptions_of_ultralytics_are_found_by_name(tmp_path, monkeypatch):
    pytest.importorskip("ultralytics")
    monkeypatch.setattr("ultralytics.utils.DATASETS_DIR", tmp_path)
    monkeypatch.chdir(tmp_path)
    with complains("coco8.yaml", "names the folder 'coco8'"):
        load_dataset("coco8.yaml")
    with complains("no data set file at none8.yaml"):
        load_dataset("none8.yaml")


def test_numbers_of_classes_may_be_text(make_dataset):
    file = make_dataset(1)
    write_yaml(file, names={str(n): name for n, name in enumerate(TINY_CLASSES)})
    assert load_dataset(file).class_names == tuple(TINY_CLASSES)


def test_of_objects_with_key_points_the_box_counts(make_dataset):
    file = make_dataset(1)
    (label,) = (file.parent / "labels" / "train").iterdir()
    label.write_text("1 0.5 0.5 0.2 0.4 0.1 0.9 2 0 0 0\n0 0.5 0.5 0.2 0.4\n")
    write_yaml(file, kpt_shape=[2, 3])
    dataset = load_dataset(file)
    assert dataset.images[0].classes.tolist() == [1]
    assert np.allclose(dataset.images[0].boxes, [[0.4, 0.3, 0.6, 0.7]])
    assert len(dataset.skipped.corrupt_label_rows) == 1


@pytest.mark.parametrize("shape", [3, [2], [0, 3], [2, 4], ["2", 3], {}])
def test_shapes_of_key_points_that_are_none(make_dataset, shape):
    with complains("kpt_shape", repr(shape)):
        load_dataset(write_yaml(make_dataset(1), kpt_shape=shape))
