"""The command line: ``python -m actprune_gpu`` and ``actprune-gpu``."""

from .main import main

__all__ = ["main"]
