"""Data sets of links, for Ultralytics to work on.

Its data set classes leave caches beside the labels and repair some images in place, so they never
see the user's folders: they are given links to the images, and labels in the model's own classes.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ...errors import InputError
from .checkpoint import class_names_of, task_of
from .dataset import Dataset, label_path, list_images, load_dataset, printable, read_layout
from .images import read_image
from .matching import model_classes

# An image and the text of its label file; None if it has none.
Labelled = tuple[Path, str | None]


class _Form(NamedTuple):
    """What a row of a label file says of an object besides its class."""

    name: str
    holds: Callable[[int], bool]  # of how many numbers it is


_POLYGON = _Form("a polygon, 6 numbers or more", lambda n: n >= 6 and n % 2 == 0)
_LEAST_SIDE = 10  # Ultralytics passes over smaller images
_SHOWN = 3  # names that a one-line message lists


def mirror(
    splits: Mapping[str, Sequence[Labelled]],
    names: Sequence[str],
    folder: Path,
    **description: Any,
) -> Path:
    """Make a data set of links and return its YAML file.

    Images that Ultralytics cannot use are left out with a warning: some it would stop at.

    Args:
        splits: The images of each split.
        names: The names of the classes.
        folder: Where to make it.
        description: What else the YAML file is to say.

    Raises:
        InputError: If no image with labels is left in a split. Nothing has been made then.
    """
    usable = {split: _usable(images, split) for split, images in splits.items()}
    for split, images in usable.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number, (image, labels) in enumerate(images):
            _link(image, folder / "images" / split / f"{number:08d}{image.suffix}")
            if labels is not None:
                file = folder / "labels" / split / f"{number:08d}.txt"
                file.write_text(labels, encoding="utf-8")
    places = {split: f"images/{split}" for split in splits}
    content = {"path": str(folder), **places, "names": list(names), **description}
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


def splits_of(
    network: Any, data: str | os.PathLike[str], splits: Sequence[str]
) -> tuple[dict[str, list[Labelled]], dict[str, Any]]:
    """Return the labelled images of each split, for what a network does.

    Returns:
        The images by split, for `mirror`, and what else its YAML file is to say.

    Raises:
        InputError: If the data set cannot be read, or its labels are not what the task needs.
    """
    task, names = task_of(network), class_names_of(network)
    if task == "detect":
        return {split: boxes_of(load_dataset(data, split), names) for split in splits}, {}
    if task != "pose":
        return {split: rows_of(data, split, names, _POLYGON) for split in splits}, {}
    shape = tuple(network.model[-1].kpt_shape)
    layout = read_layout(data, splits[0])
    if (layout.key_points or shape) != shape:
        raise InputError(
            f"kpt_shape of {data} must be the model's, {list(shape)}, got {list(layout.key_points)}"
        )
    count = 4 + prod(shape)
    form = _Form(f"a box and key points, {count} numbers", lambda n: n == count)
    keys = ("flip_idx", "kpt_names", "kpt_oks_sigmas")
    said = {key: layout.description[key] for key in keys if key in layout.description}
    rows = {split: rows_of(data, split, names, form) for split in splits}
    return rows, {"kpt_shape": list(shape), **said}


def boxes_of(dataset: Dataset, names: Sequence[str]) -> list[Labelled]:
    """Return images and boxes of a split, in the model's classes, background images included.

    They come in the order of their names, which decides which images share a batch.
    """
    classes = np.array(model_classes(dataset.class_names, names))
    labelled = {image.name: image for image in dataset.images}
    files = {**dataset.background, **{name: image.path for name, image in labelled.items()}}
    found: list[Labelled] = []
    for name in sorted(files):
        text = None
        if name in labelled:
            image = labelled[name]
            known = classes[image.classes] >= 0
            low, high = image.boxes[known, :2], image.boxes[known, 2:]
            rows = np.column_stack([classes[image.classes[known]], (low + high) / 2, high - low])
            text = "".join("{:.0f} {:.9f} {:.9f} {:.9f} {:.9f}\n".format(*row) for row in rows)
        found.append((files[name], text))
    return found


def rows_of(
    data: str | os.PathLike[str], split: str, names: Sequence[str], form: _Form
) -> list[Labelled]:
    """Return images and label rows of a split as they are, but in the model's classes.

    Polygons, rotated boxes and key points stay what they are. Rows of classes that the model does
    not know are left out.

    Raises:
        InputError: If the data set cannot be read, or a row is not of the form, or its class none
            of the classes.
    """
    layout = read_layout(data, split)
    classes = model_classes(layout.class_names, names)
    images = sorted(file for file in list_images(layout.sources) if file.is_file())
    if not images:
        raise InputError(f"no images in the {split!r} split of {data}")
    return [(image, _in_classes(label_path(image), classes, form)) for image in images]


def _in_classes(file: Path, classes: Sequence[int], form: _Form) -> str | None:
    if not file.is_file():
        return None
    text = ""
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        label, *rest = line.split() or [""]
        try:
            index = int(float(label))
        except (ValueError, OverflowError):
            continue
        if not 0 <= index < len(classes):
            raise InputError(
                f"class index in {file}, row {number}, must lie in 0..{len(classes) - 1}, "
                f"got {index}"
            )
        if not form.holds(len(rest)):
            raise InputError(
                f"labels must be {form.name}, got {len(rest)} after the class in {file}, "
                f"row {number}"
            )
        if classes[index] >= 0:
            text += " ".join([str(classes[index]), *rest]) + "\n"
    return text


def _usable(images: Sequence[Labelled], split: str) -> list[Labelled]:
    # Only decoding tells: many a file whose header is sound gives no pixels.
    with ThreadPoolExecutor() as executor:
        decoded = list(executor.map(_can_be_used, (image for image, _ in images)))
    left = [labelled for labelled, good in zip(images, decoded, strict=True) if good]
    if len(left) == len(images):
        return left
    bad = [printable(str(i)) for (i, _), good in zip(images, decoded, strict=True) if not good]
    listed = ", ".join(bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
    what = (
        f"{len(bad)} of {len(images)} images of the {split!r} split cannot be decoded, or have "
        f"a side under {_LEAST_SIDE} pixels ({listed})"
    )
    if all(labels is None for _, labels in left):
        raise InputError(f"{what}: no image with labels is left")
    warnings.warn(f"{what}: left out", stacklevel=2)
    return left


def _can_be_used(image: Path) -> bool:
    pixels = read_image(image)
    return pixels is not None and min(pixels.shape[:2]) >= _LEAST_SIDE


def _link(file: Path, link: Path) -> None:
    with file.open("rb") as stream:
        start = stream.read(2)
        stream.seek(-len(start), os.SEEK_END)
        # A JPEG without its end mark is rewritten by Ultralytics: that must happen to a copy.
        unfinished = start == b"\xff\xd8" and stream.read(2) != b"\xff\xd9"
    if not unfinished:
        try:
            link.symlink_to(file.absolute())
            return
        except OSError:
            pass  # a file system without links
    shutil.copyfile(file, link)
