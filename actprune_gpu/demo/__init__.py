"""The embedded default: a tiny trained detector and the data set it was trained on."""

from pathlib import Path

from actprune_gpu.demo.shapes import IMAGE_SIZE, SHAPES, write_shapes

CHECKPOINT: Path = Path(__file__).with_name("shapes-yolov8.pt")
"""The trained checkpoint that comes with the package (AGPL-3.0, see the README beside it)."""

__all__ = ["CHECKPOINT", "IMAGE_SIZE", "SHAPES", "write_shapes"]
