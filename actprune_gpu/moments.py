"""Class moments: all that the method needs to remember of the activations.

The Gaussian Jeffries-Matusita distance needs count, mean and variance of every channel in every
class. So nothing else is stored, memory is O(channels x classes) whatever the number of images, and
two sets merge exactly as the union of their samples would (Chan, Golub, LeVeque 1979).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .arrays import Array, to_tensor
from .backends import backend_of
from .errors import InputError
from .files import replace_file
from .scalars import whole_number

_FORMAT = "actprune_gpu.moments/1"


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Count, mean and sum of squared deviations of each channel in each class.

    Values that are NaN or infinite are left out, each for its own channel, so ``count`` may differ
    between the channels of a class.

    Attributes:
        count: ``[L, C]`` int64, finite samples seen.
        mean: ``[L, C]`` float64, 0 where nothing was seen.
        m2: ``[L, C]`` float64, sum of squared deviations from the mean.
        class_names: The L names.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    class_names: tuple[str, ...]

    @classmethod
    def zeros(
        cls, n_channels: int, class_names: Sequence[str], device: torch.device | str = "cpu"
    ) -> ClassMoments:
        """Return the moments of no samples at all.

        Raises:
            InputError: If there is no channel or no class.
        """
        names = tuple(str(name) for name in class_names)
        n_channels = whole_number(n_channels, "n_channels")
        if not names:
            raise InputError("class_names must not be empty, got none")
        shape = (len(names), n_channels)
        return cls(
            torch.zeros(shape, dtype=torch.int64, device=device),
            torch.zeros(shape, dtype=torch.float64, device=device),
            torch.zeros(shape, dtype=torch.float64, device=device),
            names,
        )

    @classmethod
    def from_activations(
        cls, activations: Array, labels: Array, class_names: Sequence[str]
    ) -> ClassMoments:
        """Return the moments of samples.

        Args:
            activations: ``[N, C]`` floating point.
            labels: ``[N]`` integers in 0..L-1.
            class_names: The names of the L classes.

        Raises:
            InputError: If an argument does not fit.
        """
        values = _floating(activations, "activations", "[N, C]")
        moments = cls.zeros(values.shape[1], class_names, values.device)
        moments.update(values, labels)
        return moments

    @property
    def n_classes(self) -> int:
        """L, the number of classes, absent ones included."""
        return self.count.shape[0]

    @property
    def n_channels(self) -> int:
        """C, the number of channels."""
        return self.count.shape[1]

    @property
    def variance(self) -> Tensor:
        """``[L, C]`` float64 population variance (ddof 0), 0 where nothing was seen."""
        return self.m2 / self.count.clamp(min=1)

    def update(self, activations: Array, labels: Array) -> None:
        """Take in samples, in their order (Welford 1962), in place.

        Args:
            activations: ``[N, C]`` floating point.
            labels: ``[N]`` integers in 0..L-1.

        Raises:
            InputError: If shapes do not fit or a label is out of range; nothing is changed then.
        """
        values = _floating(activations, "activations", "[N, C]")
        self._require_channels(values, "activations")
        classes = self._classes(labels, values.shape[0])
        cells = torch.zeros((values.shape[0], 3), dtype=torch.int64, device=self.count.device)
        cells[:, 0] = torch.arange(values.shape[0], device=cells.device)
        self._take_in(values[:, :, None, None], cells, classes)

    def update_at(self, features: Array, cells: Array, labels: Array) -> None:
        """Take in the feature vectors at some cells of feature maps, in their order, in place.

        Args:
            features: ``[B, C, H, W]`` floating point.
            cells: ``[N, 3]`` integers, rows (index in the batch, y, x).
            labels: ``[N]`` integers in 0..L-1.

        Raises:
            InputError: If shapes do not fit, or a cell or label is out of range; nothing is
                changed then.
        """
        values = _floating(features, "features", "[B, C, H, W]")
        where = to_tensor(cells, "cells", "[N, 3]", torch.int64)
        self._require_channels(values, "features")
        classes = self._classes(labels, where.shape[0])
        if where.shape[0]:
            for axis, name in ((0, "batch"), (2, "y"), (3, "x")):
                _require_range(where[:, max(axis - 1, 0)], f"cells ({name})", values.shape[axis])
        self._take_in(values, where, classes)

    def _classes(self, labels: Array, n_samples: int) -> Tensor:
        classes = to_tensor(labels, "labels", "[N]", torch.int64)
        if classes.shape[0] != n_samples:
            raise InputError(
                f"labels must be one for each of the {n_samples} samples, got {classes.shape[0]}"
            )
        if n_samples:
            _require_range(classes, "labels", self.n_classes)
        return classes

    def _take_in(self, values: Tensor, cells: Tensor, classes: Tensor) -> None:
        if not len(classes):
            return
        device = self.count.device
        backend_of(self.count).gather_class_moments(
            values.to(device),
            cells.to(device),
            classes.to(device),
            (self.count, self.mean, self.m2),
        )

    def _require_channels(self, values: Tensor, name: str) -> None:
        if values.shape[1] != self.n_channels:
            raise InputError(
                f"{name} must have {self.n_channels} channels like these moments, "
                f"got {values.shape[1]}"
            )

    def merge(self, other: ClassMoments) -> ClassMoments:
        """Return the moments of both sets of samples together (Chan et al. 1979, eq. 2.1).

        Raises:
            InputError: If channels or classes differ.
        """
        require_moments(other)
        if self.class_names != other.class_names or self.n_channels != other.n_channels:
            raise InputError(
                "other must have the same channels and classes: "
                f"{self.n_channels} channels and {self.n_classes} classes here, "
                f"{other.n_channels} and {other.n_classes} there"
                + ("" if self.n_classes != other.n_classes else ", or other class names")
            )
        count = self.count + other.count
        total = count.clamp(min=1).double()
        delta = other.mean - self.mean
        share = other.count / total
        mean = torch.where(other.count == count, other.mean, self.mean + delta * share)
        m2 = self.m2 + other.m2 + delta * delta * self.count * share
        return ClassMoments(count, mean, m2, self.class_names)

    def select(self, channels: Array) -> ClassMoments:
        """Return the moments of some channels, ``[K]`` integers, in that order.

        Raises:
            InputError: If there is none, or one is not in 0..C-1.
        """
        index = to_tensor(channels, "channels", "[K]", torch.int64)
        if not len(index):
            raise InputError("channels must hold at least one, got none")
        _require_range(index, "channels", self.n_channels)
        index = index.to(self.count.device)
        return ClassMoments(
            self.count[:, index], self.mean[:, index], self.m2[:, index], self.class_names
        )

    def heads(self, count: int) -> list[ClassMoments]:
        """Return the moments of heads that lie side by side, as D parts of one layer.

        Args:
            count: H, the number of heads of D = C / H channels each.

        Returns:
            D moments of H channels: the first channel of every head, the second, and so on.
            Together they stand for the heads: `select_channels` takes them as of channels that go
            together.

        Raises:
            InputError: If the channels cannot be divided so.
        """
        count = whole_number(count, "heads")
        if self.n_channels % count:
            raise InputError(f"heads must divide the {self.n_channels} channels, got {count}")
        rows = torch.arange(self.n_channels).reshape(count, -1)
        return [self.select(column) for column in rows.T]

    def copy(self) -> ClassMoments:
        """Return moments that share no memory with these."""
        return ClassMoments(
            self.count.clone(), self.mean.clone(), self.m2.clone(), self.class_names
        )

    def to(self, device: torch.device | str) -> ClassMoments:
        """Return these moments on ``device``."""
        return ClassMoments(
            self.count.to(device), self.mean.to(device), self.m2.to(device), self.class_names
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; an existing one is replaced whole or not at all."""
        save_moments(path, {"": self})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClassMoments:
        """Read what `save` wrote.

        Raises:
            InputError: If ``path`` is no such file.
        """
        moments, _ = load_moments(path)
        if set(moments) != {""}:
            raise InputError(
                f"path must be a file of one layer's moments, got {len(moments)} layers "
                f"in {os.fspath(path)}: use load_moments"
            )
        return moments[""]

    def __eq__(self, other: object) -> bool:
        """Return whether both hold the same classes and, bit for bit, the same numbers."""
        return (
            isinstance(other, ClassMoments)
            and self.class_names == other.class_names
            and torch.equal(self.count, other.count)
            and torch.equal(self.mean, other.mean)
            and torch.equal(self.m2, other.m2)
        )

    __hash__ = None  # type: ignore[assignment]  # the tensors inside can change


def save_moments(
    path: str | os.PathLike[str],
    moments: Mapping[str, ClassMoments],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the moments of several layers, and notes, into one safetensors file.

    An existing file is replaced whole or not at all. Notes must not be called ``format`` or
    ``class_names``, which the file has of its own.
    """
    from safetensors.torch import save

    tensors = {
        f"{name}/{part}": getattr(layer, part).cpu().contiguous().clone()  # no two share memory
        for name, layer in moments.items()
        for part in ("count", "mean", "m2")
    }
    names = {name: layer.class_names for name, layer in moments.items()}
    header = {
        **(metadata or {}),
        "format": _FORMAT,
        "class_names": json.dumps(names, ensure_ascii=False),
    }
    replace_file(Path(path), save(tensors, metadata=header))


def load_moments(path: str | os.PathLike[str]) -> tuple[dict[str, ClassMoments], dict[str, str]]:
    """Read what `save_moments` wrote, the moments by layer and the notes.

    Raises:
        InputError: If ``path`` is missing or no such file, or it holds what no moments can be.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if not file.is_file():
        raise InputError(f"no moments file at {file}")
    try:
        with safe_open(file, framework="pt") as tensors:
            header = dict(tensors.metadata() or {})
            if header.get("format") != _FORMAT:
                raise InputError(
                    f"{file} must have format {_FORMAT!r}, got {header.get('format')!r}"
                )
            names: dict[str, list[str]] = json.loads(header["class_names"])
            moments = {
                name: ClassMoments(
                    tensors.get_tensor(f"{name}/count"),
                    tensors.get_tensor(f"{name}/mean"),
                    tensors.get_tensor(f"{name}/m2"),
                    tuple(classes),
                )
                for name, classes in names.items()
            }
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{file} is not a moments file: {error}") from None
    for name, found in moments.items():
        possible = (found.count >= 0) & found.mean.isfinite() & found.m2.isfinite()
        if not (possible & (found.m2 >= 0)).all():
            raise InputError(
                f"{file} is damaged: counts and m2 of {name} must not be negative, and m2 and mean "
                "must be finite"
            )
    del header["format"], header["class_names"]
    return moments, header


def require_moments(value: object) -> None:
    """Raise ``InputError`` unless ``value`` is `ClassMoments`."""
    if not isinstance(value, ClassMoments):
        raise InputError(f"moments must be ClassMoments, got {type(value).__name__}")


def _floating(value: Array, name: str, shape: str) -> Tensor:
    """Return ``value`` in its own floating-point type and order: the kernel widens and strides."""
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return to_tensor(value, name, shape, dtype, contiguous=False)
    return to_tensor(value, name, shape, torch.float64, contiguous=False)


def _require_range(values: Tensor, name: str, end: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= end:
        raise InputError(f"{name} must lie in 0..{end - 1}, got {low if low < 0 else high}")
