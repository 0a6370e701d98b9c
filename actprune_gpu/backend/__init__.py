"""The stages behind one small interface, for other people's pruning front-ends.

A front-end finds a backend by its name, `load`, and knows nothing else of it. Whoever writes one
registers it in the entry-point group ``actprune.backends`` and runs `check` on it.
"""

from .conformance import ConformanceError, check
from .own import ActpruneBackend
from .protocol import Backend, Clusters
from .registry import load, names

__all__ = [
    "ActpruneBackend",
    "Backend",
    "Clusters",
    "ConformanceError",
    "check",
    "load",
    "names",
]
