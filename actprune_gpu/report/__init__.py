"""What went and why: the page, single sentences, and how far a plan can be relied on."""

from .compare import PlanDifference, compare
from .explain import Explanation, explain
from .stability import Stability, measure_stability
from .write import write_report

__all__ = [
    "Explanation",
    "PlanDifference",
    "Stability",
    "compare",
    "explain",
    "measure_stability",
    "write_report",
]
