"""Data sets in Ultralytics' YAML form, read without writing anything beside them.

Ultralytics' own data set classes leave cache files in the user's folders and repair images in
place, so they are not used here. Images are only listed; decoding them comes later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import escape, iglob
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ...errors import InputError
from . import ultralytics_module
from .labels import Labels, parse_labels
from .skipped import SkippedInputs

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpeg2000", ".jpg", ".mpo"),
    *(".png", ".tif", ".tiff", ".webp"),
)


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image and its objects.

    Attributes:
        name: Its path relative to the data set's folder, with forward slashes; printable.
        path: The file.
        classes: ``[M]`` int64 class numbers.
        boxes: ``[M, 4]`` float64 (left, top, right, bottom) relative to the image's size.
    """

    name: str
    path: Path
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """The labelled images of one split.

    Attributes:
        root: The data set's folder.
        split: Which part of it this is.
        class_names: The L names.
        images: Every image with at least one object, sorted by name.
        skipped: What was left out.
        fingerprint: SHA-256 of class names, image names, image sizes in bytes and labels, of what
            is used. It is the same wherever the data set lies.
        background: Images without objects by name: without label file, or with an empty one.
    """

    root: Path
    split: str
    class_names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    skipped: SkippedInputs
    fingerprint: str
    background: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetLayout:
    """Where a YAML file says that things are.

    Attributes:
        root: The data set's folder.
        class_names: The L names.
        sources: Folders of images, and text files that list images.
        key_points: Number of key points of an object, and of numbers for each; empty if the labels
            have none.
        description: What else the file says, by its keys.
    """

    root: Path
    class_names: tuple[str, ...]
    sources: tuple[Path, ...]
    key_points: tuple[int, ...] = ()
    description: Mapping[str, Any] = field(default_factory=dict)


def load_dataset(
    path: str | os.PathLike[str], split: str = "train", *, strict: bool = False
) -> Dataset:
    """Read the labels of a data set and list its images.

    Images without labels, labels without image, empty label files and corrupt label rows are left
    out and named in ``skipped``.

    Args:
        path: The YAML file, or the name of one of Ultralytics' own: ``train``/``val``/``test`` (a
            folder, a text file that lists images, or a list of those), ``names`` (or ``nc``),
            ``path``, relative to the YAML's folder, the working directory or Ultralytics' folder of
            data sets, and ``kpt_shape`` where objects have key points.
        split: Which of the splits to read.
        strict: Stop instead of leaving anything out.

    Raises:
        InputError: If the YAML, a folder or a key it needs is missing, a class index is out of
            range, no image has a label, or ``strict`` and something would be left out.
    """
    layout = read_layout(path, split)
    files = list_images(layout.sources)
    if not files:
        raise InputError(f"no images in {_listing(layout.sources)}, the {split!r} split of {path}")
    digest = hashlib.sha256(repr(layout.class_names).encode())
    images: list[LabelledImage] = []
    unlabelled: dict[str, Path] = {}
    empty: dict[str, Path] = {}
    missing, corrupt_rows = [], []
    n_key_points = prod(layout.key_points) if layout.key_points else 0
    for name, image in sorted((_relative(file, layout.root), file) for file in files):
        label_file = label_path(image)
        if not image.is_file():
            missing.append(name)
            continue
        if not label_file.is_file():
            unlabelled[name] = image
            continue
        content = _read(label_file)
        label_name = _relative(label_file, layout.root)
        labels = parse_labels(content, label_name, len(layout.class_names), n_key_points)
        corrupt_rows += [f"{label_name}:{row}" for row in labels.corrupt_rows]
        if len(labels.classes):
            images.append(LabelledImage(name, image, labels.classes, labels.boxes))
            _add_to(digest, name, image, labels)
        elif not labels.corrupt_rows:
            empty[name] = image
    skipped = SkippedInputs(
        images_without_labels=tuple(unlabelled),
        labels_without_image=tuple(
            sorted(_relative(file, layout.root) for file in _labels_without_image(files))
        ),
        empty_label_files=tuple(empty),
        corrupt_images=tuple(missing),
        corrupt_label_rows=tuple(corrupt_rows),
    )
    if strict:
        skipped.require_none()
    if not images:
        raise InputError(
            f"none of the {len(files)} images of the {split!r} split of {path} has a usable label: "
            f"{skipped.summary()}"
        )
    return Dataset(
        layout.root,
        split,
        layout.class_names,
        tuple(images),
        skipped,
        digest.hexdigest(),
        unlabelled | empty,
    )


def read_layout(path: str | os.PathLike[str], split: str) -> DatasetLayout:
    """Read the YAML file alone.

    Raises:
        InputError: If it is missing or unreadable, lacks a key, or names a place that is not there.
    """
    file = _description_file(path)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except Exception as error:  # an impossible date or number raises more than YAMLError
        reason = " ".join(str(error).split())
        raise InputError(f"cannot read the data set file {path}: {reason}") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path} must hold the keys {split}, names and path, got {type(content).__name__}"
        )
    if split == "val" and "val" not in content and "validation" in content:
        split = "validation"
    if not content.get(split):
        present = ", ".join(str(key) for key in content) or "none"
        raise InputError(f"{path} must have the key {split!r} with its images, got keys {present}")
    root = _root(content.get("path"), file)
    places = content[split] if isinstance(content[split], list) else [content[split]]
    sources = tuple(_source(str(place), root, f"the {split!r} split of {path}") for place in places)
    key_points = _key_points(content.get("kpt_shape"), path)
    return DatasetLayout(root, _class_names(content, path), sources, key_points, content)


def _description_file(path: str | os.PathLike[str]) -> Path:
    """Return the YAML file: the one at the path, or the one of that name in Ultralytics."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"data must be the path of a YAML file, got a {type(path).__name__}")
    file = Path(path).absolute()
    if not file.is_file() and Path(path).parent == Path():
        with suppress(InputError):  # without Ultralytics there are none
            root = Path(ultralytics_module("ultralytics.utils").ROOT)
            file = root / "cfg" / "datasets" / path
    if not file.is_file():
        raise InputError(f"no data set file at {path}")
    return file


def label_path(image: Path) -> Path:
    """Return where an image's labels are: ``images`` becomes ``labels``, the suffix ``.txt``.

    The last folder called ``images`` counts; without one the labels lie beside the image.
    """
    folders = list(image.parts[:-1])
    for index in range(len(folders) - 1, 0, -1):
        if folders[index] == "images":
            folders[index] = "labels"
            break
    return Path(*folders, image.stem + ".txt")


def _root(path: Any, file: Path) -> Path:
    """Return the data set's folder: beside the YAML, or else where Ultralytics looks.

    That is the working directory, and its folder of data sets, for what it downloads itself.
    """
    if path is None or path == "":
        return file.parent.resolve()
    folders = [file.parent, Path.cwd()]
    with suppress(InputError):  # without Ultralytics there is no such folder
        folders.append(Path(ultralytics_module("ultralytics.utils").DATASETS_DIR))
    for folder in folders:
        if (folder / str(path)).is_dir():
            return (folder / str(path)).resolve()
    raise InputError(
        f"{file} names the folder {path!r}, which is not in {', '.join(map(str, folders))}"
    )


def _source(place: str, root: Path, what: str) -> Path:
    source = root / place
    if not source.exists() and place.startswith("../"):
        source = root / place[3:]  # a well-known exporter writes ../train/images for train/images
    if not source.exists():
        raise InputError(f"{what} names {place!r}, which is not in {root}")
    return source.resolve()


def _class_names(content: dict[Any, Any], path: str | os.PathLike[str]) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if count is not None and (not isinstance(count, int) or count < 1):
        raise InputError(f"nc in {path} must be a number of classes, got {count!r}")
    if names is None:
        if count is None:
            raise InputError(f"{path} must have the key 'names' with the classes' names")
        return tuple(f"class_{index}" for index in range(count))
    if isinstance(names, dict):
        names = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
        if set(names) != set(range(len(names))):
            raise InputError(
                f"names in {path} must have the keys 0..{len(names) - 1}, got {list(names)[:5]}..."
            )
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"names in {path} must be the classes' names, got {names!r}")
    if count is not None and count != len(names):
        raise InputError(f"nc in {path} must be the number of names, {len(names)}, got {count}")
    return tuple(str(name) for name in names)


def _key_points(shape: Any, path: str | os.PathLike[str]) -> tuple[int, ...]:
    if shape is None:
        return ()
    is_shape = isinstance(shape, list) and len(shape) == 2 and shape[1] in (2, 3)
    if not is_shape or type(shape[0]) is not int or shape[0] < 1:
        raise InputError(
            f"kpt_shape in {path} must be a number of key points and 2 or 3, got {shape!r}"
        )
    return tuple(shape)


def list_images(sources: Iterable[Path]) -> set[Path]:
    """Return the image files that folders hold and text files list; the latter may be missing."""
    files: set[Path] = set()
    for source in sources:
        if source.is_dir():
            # Unlike Path.rglob, this follows links to folders and leaves hidden files alone.
            found: Iterable[Path] = map(Path, iglob(f"{escape(str(source))}/**/*", recursive=True))
        else:
            lines = _read(source).decode("utf-8-sig", "replace").splitlines()
            found = (source.parent / line.strip() for line in lines if line.strip())
        files.update(file for file in found if file.suffix.lower() in IMAGE_SUFFIXES)
    return files


def _labels_without_image(images: set[Path]) -> set[Path]:
    """Return the label files beside those of ``images`` that belong to no image on the disk."""
    orphans: set[Path] = set()
    for folder in {image.parent for image in images}:
        labels = label_path(folder / "any.jpg").parent
        if labels.is_dir() and folder.is_dir():
            present = {
                file.stem for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES
            }
            # Labelling tools leave a list of the classes in the same folder.
            present.add("classes")
            orphans.update(file for file in labels.glob("*.txt") if file.stem not in present)
    return orphans


def _add_to(digest: Any, name: str, image: Path, labels: Labels) -> None:
    digest.update(f"{name}\0{image.stat().st_size}\0{len(labels.classes)}\0".encode())
    digest.update(labels.classes.astype("<i8").tobytes() + labels.boxes.astype("<f8").tobytes())


def _relative(file: Path, root: Path) -> str:
    return printable(Path(os.path.relpath(file, root)).as_posix())


def printable(name: str) -> str:
    """Return a file name with what is no UTF-8 in it escaped, so that it can be stored."""
    return name.encode(errors="backslashreplace").decode()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None


def _listing(sources: Sequence[Path]) -> str:
    return ", ".join(str(source) for source in sources)
