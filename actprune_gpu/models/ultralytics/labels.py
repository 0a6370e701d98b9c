"""Label files of the Ultralytics form: one object a row, relative to the image's size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError

_TOLERANCE = 0.01  # coordinates may leave the image by 1 %, as Ultralytics allows; they are clipped


@dataclass(frozen=True, eq=False)
class Labels:
    """The objects of one image.

    Attributes:
        classes: ``[M]`` int64 class numbers.
        boxes: ``[M, 4]`` float64 (left, top, right, bottom), relative to the image's width and
            height, in 0..1.
        corrupt_rows: Numbers, from 1, of rows that are no object.
    """

    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    corrupt_rows: tuple[int, ...]


def parse_labels(content: bytes, name: str, n_classes: int, n_key_points: int = 0) -> Labels:
    """Read a label file.

    Args:
        content: Rows ``class centre_x centre_y width height``, or ``class x1 y1 x2 y2 x3 y3 ...``
            for a polygon or a rotated box, of which the enclosing box is taken. Blank rows do not
            count as rows.
        name: The file's name, for the error message.
        n_classes: Number of classes of the data set.
        n_key_points: How many numbers for key points follow a box in every row, if any do.

    Raises:
        InputError: If a class number is not in 0..n_classes-1: then it is the list of classes that
            is wrong, and no row can be trusted.
    """
    classes, boxes, corrupt = [], [], []
    for number, row in enumerate(content.decode("utf-8-sig", "replace").splitlines(), start=1):
        if not row.strip():
            continue
        parsed = _parse_row(row, n_key_points)
        if parsed is None:
            corrupt.append(number)
            continue
        label, box = parsed
        if not 0 <= label < n_classes:
            raise InputError(
                f"class index in {name}, row {number}, must lie in 0..{n_classes - 1}, got {label}"
            )
        classes.append(label)
        boxes.append(box)
    return Labels(
        np.array(classes, dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        tuple(corrupt),
    )


def _parse_row(row: str, n_key_points: int) -> tuple[int, tuple[float, float, float, float]] | None:
    """Return class and box (left, top, right, bottom), or None for a row that is no object."""
    try:
        values = [float(part) for part in row.split()]
    except ValueError:
        return None
    if not all(math.isfinite(value) for value in values) or not values or values[0] % 1:
        return None
    label, coordinates = int(values[0]), values[1:]
    if n_key_points:
        if len(coordinates) != 4 + n_key_points:
            return None
        coordinates = coordinates[:4]
    if any(not -_TOLERANCE <= value <= 1 + _TOLERANCE for value in coordinates):
        return None
    if len(coordinates) == 4:
        x, y, width, height = coordinates
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(coordinates) >= 6 and len(coordinates) % 2 == 0:
        xs, ys = coordinates[::2], coordinates[1::2]
        box = (min(xs), min(ys), max(xs), max(ys))
    else:
        return None
    left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in box)
    return (label, (left, top, right, bottom)) if right > left and bottom > top else None
