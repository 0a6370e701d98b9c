"""What was left out of a data set, by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

from ...errors import InputError

_SHOWN = 3  # names that a one-line message lists in full


@dataclass(frozen=True)
class SkippedInputs:
    """Names of the inputs that could not be used, one field for each reason.

    Attributes:
        images_without_labels: Images that have no label file.
        labels_without_image: Label files that have no image.
        empty_label_files: Images whose label file holds no row.
        corrupt_images: Images that are missing or cannot be decoded.
        corrupt_label_rows: Rows that are no box and no polygon, as ``file:row``, rows from 1.
    """

    images_without_labels: tuple[str, ...] = ()
    labels_without_image: tuple[str, ...] = ()
    empty_label_files: tuple[str, ...] = ()
    corrupt_images: tuple[str, ...] = ()
    corrupt_label_rows: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return how many inputs were skipped, over all reasons."""
        return sum(len(names) for names in self.as_dict().values())

    def as_dict(self) -> dict[str, tuple[str, ...]]:
        """Return the names by reason."""
        return asdict(self)

    @classmethod
    def from_dict(cls, names: dict[str, list[str]]) -> SkippedInputs:
        """Return what `as_dict` wrote, also after a journey through JSON."""
        return cls(**{field.name: tuple(names.get(field.name, ())) for field in fields(cls)})

    def with_corrupt_images(self, names: tuple[str, ...]) -> SkippedInputs:
        """Return this report with more images that cannot be decoded."""
        return replace(self, corrupt_images=self.corrupt_images + names)

    def summary(self) -> str:
        """Return one line: how many of each kind, with the first names."""
        parts = []
        for reason, names in self.as_dict().items():
            if names:
                shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
                parts.append(f"{len(names)} {reason.replace('_', ' ')} ({shown})")
        return "; ".join(parts) or "nothing skipped"

    def require_none(self) -> None:
        """Stop a strict run.

        Raises:
            InputError: If anything was skipped.
        """
        if len(self):
            raise InputError(f"strict: the data set has {self.summary()}")
