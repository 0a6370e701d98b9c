"""A procedurally drawn object-detection data set: nothing to download, nothing to store.

Every image is drawn from its own random stream, seeded by (seed, split, index). So the same seed
gives the same bytes, a longer data set begins with the shorter one, and train and val never share
an image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actprune_gpu.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Box = tuple[float, float, float, float]  # x1, y1, x2, y2
    Outline = tuple[NDArray[np.float64], ...]  # contours [corners, 2]: the outer one, then holes
    Image = NDArray[np.uint8]  # [image_size, image_size, 3]

SHAPES: tuple[str, ...] = (
    "circle",
    "ring",
    "semicircle",
    "triangle",
    "square",
    "star",
    "cross",
    "arrow",
)
"""The class names; the position is the class index."""

IMAGE_SIZE: int = 160
"""Side of the images, in pixels, unless another is asked for; the checkpoint was trained on it."""

SPLITS = ("train", "val")
MIN_IMAGE_SIZE = 64

OBJECTS = (2, 8)  # per image, both included
RADIUS = (0.075, 0.2)  # of an object's circumscribed circle, in image sides
MAX_OVERLAP = 0.2  # of the smaller of two boxes: occlusion stays mild
PLACEMENT_ATTEMPTS = 40
MIN_CONTRAST = 60  # between object and background, in the channel where they differ most
MARGIN = 1.0  # pixels kept free at the border, where anti-aliasing would be cut off
SUBPIXEL_BITS = 4  # fractional bits of OpenCV's polygon coordinates
JPEG_QUALITY = 95


def write_shapes(
    folder: str | Path,
    *,
    n_train: int = 512,
    n_val: int = 128,
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
) -> Path:
    """Draw a data set of coloured shapes and write it in Ultralytics' YAML form.

    The folder receives `images/{train,val}/shape-*.jpg`, `labels/{train,val}/shape-*.txt` and
    `shapes.yaml`. A data set that an earlier call left there is replaced.

    Args:
        folder: Where to write; created if need be.
        n_train: Number of training images, at least 1.
        n_val: Number of validation images, at least 1.
        image_size: Side of the square images in pixels, at least 64.
        seed: Any integer from 0; the same seed gives the same bytes.

    Returns:
        The path of `shapes.yaml`, absolute.

    Raises:
        InputError: An argument has the wrong type or is out of range, or `folder` is a file.
    """
    n_train = _integer("n_train", n_train, at_least=1)
    n_val = _integer("n_val", n_val, at_least=1)
    image_size = _integer("image_size", image_size, at_least=MIN_IMAGE_SIZE)
    seed = _integer("seed", seed, at_least=0)
    root = Path(folder).resolve()
    if root.exists() and not root.is_dir():
        raise InputError(f"folder: expected a directory, got the file {str(root)!r}")

    for split, count in zip(SPLITS, (n_train, n_val), strict=True):
        _write_split(root, split, count, image_size, seed)

    yaml_path = root / "shapes.yaml"
    lines = [
        f"path: {json.dumps(str(root), ensure_ascii=False)}",  # a JSON string is a YAML string
        *(f"{split}: images/{split}" for split in SPLITS),
        "names:",
        *(f"  {index}: {name}" for index, name in enumerate(SHAPES)),
    ]
    yaml_path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return yaml_path


def draw_shapes(rng: np.random.Generator, image_size: int) -> tuple[Image, list[tuple[int, Box]]]:
    """Draw one image.

    Args:
        rng: The image's own random stream.
        image_size: Side in pixels.

    Returns:
        The image `[image_size, image_size, 3]` uint8, and for each object, in drawing order, its
        class index and its box (x1, y1, x2, y2) in pixels. A box bounds the whole shape, also
        where a later object hides a part of it.
    """
    image, base = _background(rng, image_size)
    objects: list[tuple[int, Box]] = []
    for _ in range(int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))):
        label = int(rng.integers(len(SHAPES)))
        outline = _posed(rng, _OUTLINES[SHAPES[label]], image_size)
        box = _place(rng, outline, [placed for _, placed in objects], image_size)
        if box is None:  # no room is left in this image
            continue
        _paint(rng, image, tuple(part + box[:2] for part in outline), base)
        objects.append((label, box))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(3, 12))
    return (image + noise).clip(0, 255).astype(np.uint8), objects


def _integer(name: str, value: object, *, at_least: int) -> int:
    """Return `value` as an int, or raise an InputError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise InputError(f"{name}: expected an integer from {at_least}, got {value!r}")
    return int(value)


def _write_split(root: Path, split: str, count: int, image_size: int, seed: int) -> None:
    """Write the images and label files of one split, in place of those of an earlier call."""
    import cv2

    images, labels = root / "images" / split, root / "labels" / split
    for directory in (images, labels):
        directory.mkdir(parents=True, exist_ok=True)
        for stale in directory.glob("shape-*"):
            stale.unlink()
    # Ultralytics caches labels by the sizes of the files: a new seed might not invalidate it.
    (root / "labels" / f"{split}.cache").unlink(missing_ok=True)

    for index in range(count):
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        image, objects = draw_shapes(rng, image_size)
        encoded, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not encoded:
            raise RuntimeError("OpenCV could not encode a JPEG image")
        stem = f"shape-{index:06d}"
        (images / f"{stem}.jpg").write_bytes(jpeg.tobytes())
        lines = (_label_line(label, box, image_size) for label, box in objects)
        (labels / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")


def _label_line(label: int, box: Box, image_size: int) -> str:
    """Return `class x_centre y_centre width height`, in image sides."""
    x1, y1, x2, y2 = (edge / image_size for edge in box)
    return f"{label} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n"


def _background(rng: np.random.Generator, size: int) -> tuple[Image, NDArray[np.float64]]:
    """Return a cloudy, cluttered background `[size, size, 3]` and its mean colour `[3]`."""
    import cv2

    base = rng.uniform(40, 215, 3)
    cells = int(rng.integers(2, 17))  # from a smooth gradient to a fine mottle
    depth = rng.uniform(5, 35)
    clouds = (base + rng.uniform(-depth, depth, (cells, cells, 3))).astype(np.float32)
    clouds = np.asarray(cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC))
    image = clouds.clip(0, 255).astype(np.uint8)  # OpenCV anti-aliases 8-bit images only
    for _ in range(int(rng.integers(0, 7))):  # thin clutter that is no object
        start, end = rng.integers(0, size, (2, 2)).tolist()
        colour = (base + rng.uniform(-70, 70, 3)).tolist()
        cv2.line(image, start, end, colour, int(rng.integers(1, 3)))
    return image, base


def _posed(rng: np.random.Generator, outline: Outline, size: int) -> Outline:
    """Return the outline stretched, turned and scaled, its box beginning at the origin."""
    radius = size * rng.uniform(*RADIUS)
    stretch = np.array([1.0, rng.uniform(0.75, 1.0)])
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    parts = [part * stretch @ turn * radius for part in outline]
    corner = parts[0].min(axis=0)
    return tuple(part - corner for part in parts)


def _place(
    rng: np.random.Generator,
    outline: Outline,
    placed: list[Box],
    size: int,
) -> Box | None:
    """Return a box for the outline that hides little of the others, or None if there is none."""
    width, height = outline[0].max(axis=0).tolist()
    room = (size - 2 * MARGIN - width, size - 2 * MARGIN - height)
    for x, y in (rng.random((PLACEMENT_ATTEMPTS, 2)) * room + MARGIN).tolist():
        box = (x, y, x + width, y + height)
        if all(_overlap(box, other) <= MAX_OVERLAP for other in placed):
            return box
    return None


def _overlap(a: Box, b: Box) -> float:
    """Return the area that two boxes share, as a part of the smaller one."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _paint(
    rng: np.random.Generator,
    image: Image,
    outline: Outline,
    base: NDArray[np.float64],
) -> None:
    """Fill the outline, in place, with a colour that stands out from the background."""
    import cv2

    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - base).max() < MIN_CONTRAST:
        colour = rng.uniform(0, 255, 3)
    points = [np.rint(part * (1 << SUBPIXEL_BITS)).astype(np.int32) for part in outline]
    cv2.fillPoly(image, points, colour.tolist(), cv2.LINE_AA, SUBPIXEL_BITS)
    if rng.random() < 0.3:
        edge = (colour * rng.uniform(0.3, 0.7)).tolist()
        cv2.polylines(image, points, True, edge, 1, cv2.LINE_AA, SUBPIXEL_BITS)


def _regular(corners: int, radius: float = 1.0) -> NDArray[np.float64]:
    """Return the corners of a regular polygon, `[corners, 2]`."""
    return _arc(np.arange(corners) * 2 * np.pi / corners, radius)


def _arc(angles: NDArray[np.float64], radius: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points at those angles of a circle, `[len(angles), 2]`."""
    return np.stack([np.cos(angles) * radius, np.sin(angles) * radius], axis=1)


# Every shape within the unit circle.
_OUTLINES: dict[str, Outline] = {
    "circle": (_regular(48),),
    "ring": (_regular(48), _regular(48, 0.55)),
    "semicircle": (_arc(np.linspace(0, np.pi, 25), 1.0),),
    "triangle": (_regular(3),),
    "square": (_regular(4),),
    "star": (_arc(np.arange(10) * np.pi / 5, np.tile([1.0, 0.42], 5)),),
    "cross": (
        np.array(
            [[3, 1, 1, -1, -1, -3, -3, -1, -1, 1, 1, 3], [1, 1, 3, 3, 1, 1, -1, -1, -3, -3, -1, -1]]
        ).T
        / np.sqrt(10),
    ),
    "arrow": (np.array([(10, 0), (1, 7), (1, 3), (-9, 3), (-9, -3), (1, -3), (1, -7)]) / 10.0,),
}
