"""What a backend must compute.

Every kernel takes and returns contiguous tensors on the backend's device, trusts its arguments (the
stages have checked them) and gives the same bits on every device, from run to run and on any number
of threads: reductions are either exact (integers) or have one fixed order. See the method's page on
determinism for how each of them gets there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

# Separability lies on the grid of multiples of 2**-15: rows are then small integers, and sums of
# products of rows are exact in float64 whatever their order.
SEPARABILITY_STEP = 2.0**-15
MIN_SAMPLES = 2  # of a class, for a variance


Item = TypeVar("Item")
Result = TypeVar("Result")


class ClassStatistics(NamedTuple):
    """Moments of the classes that take part, channel-major for the kernels' inner loop."""

    n_samples: Tensor  # [C, L] int64
    mean: Tensor  # [C, L] float64
    std: Tensor  # [C, L] float64, population, floored, > 0


class SeparabilityDistances(NamedTuple):
    """Distances between the rows of the separability matrix, and what one pass over it yields."""

    squared: Tensor  # [C, C] float64, exact integers in units of SEPARABILITY_STEP**2
    row_mean: Tensor  # [C] float64, mean separability of each channel
    row_max: Tensor  # [C] float64, largest separability of each channel


class Sweep(NamedTuple):
    """A clustering of N points for every k = 2..N-1; row r belongs to k = r + 2."""

    loss: Tensor  # [K] float64, sum of distances to the nearest medoid
    mss_mean: Tensor  # [K] float64, mean simplified silhouette, b = mean distance
    mss_nearest: Tensor  # [K] float64, mean simplified silhouette, b = nearest other medoid
    medoid_bits: Tensor  # [K, ceil(N / 8)] uint8, bit n % 8 of byte n // 8: is point n a medoid


class Backend(Protocol):
    """The kernels of the nine steps."""

    name: str

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Apply a function that calls these kernels to independent items, in order of the items.

        The backend spreads them over the cores, or devices, that it has.
        """

    def gather_class_moments(
        self, features: Tensor, cells: Tensor, labels: Tensor, moments: tuple[Tensor, ...]
    ) -> None:
        """Update ``(count, mean, m2)`` ``[L, C]`` in place, object after object (Welford).

        ``features [B, C, H, W]`` floating point, ``cells [N, 3]`` int64 rows (batch, y, x),
        ``labels [N]`` int64.
        """

    def class_statistics(
        self, count: Tensor, mean: Tensor, m2: Tensor, std_floor: float
    ) -> tuple[ClassStatistics, Tensor]:
        """Return the statistics of the classes in which a channel has MIN_SAMPLES, and which.

        ``count``, ``mean`` and ``m2`` ``[L, C]`` are those of `ClassMoments`, the classes that take
        part ``[L]`` bool.
        """

    def jeffries_matusita(self, statistics: ClassStatistics) -> Tensor:
        """Return the separability ``[C, P]`` float32 on the grid of SEPARABILITY_STEP."""

    def separability_distances(self, statistics: ClassStatistics) -> SeparabilityDistances:
        """Return the distances between the rows of `jeffries_matusita`, tile by tile."""

    def pairwise_distances(self, rows: Tensor) -> Tensor:
        """Return squared distances ``[N, N]`` float64 between integer rows ``[N, F]`` float64."""

    def affinities(self, squared: Tensor, perplexity: float) -> Tensor:
        """Return t-SNE's joint probabilities ``[N, N]`` float32 from squared distances."""

    def principal_axes(self, squared: Tensor) -> Tensor:
        """Return the first two principal components ``[N, 2]`` float64 of the points.

        The first one has unit population standard deviation; a component without variance is 0.
        """

    def tsne(
        self,
        affinities: Tensor,
        initial: Tensor,
        n_iter: int,
        early_exaggeration: float,
        learning_rates: Sequence[float],
    ) -> list[tuple[Tensor, float, int]]:
        """Return, for each learning rate, a run from ``initial [N, 2]``.

        A run is ``(embedding [N, 2] float32, kl_divergence, n_iter)``.
        """

    def kmedoids_sweep(self, points: Sequence[Tensor]) -> list[Sweep]:
        """Cluster each of several sets of points ``[N, 2]`` float for every k = 2..N-1."""

    def simplified_silhouette(self, points: Tensor, medoids: Tensor) -> tuple[float, float]:
        """Return the mean simplified silhouette, ``(mean, nearest)``, of ``medoids [k]`` int64."""
