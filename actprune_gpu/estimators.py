"""The method as estimators of scikit-learn: feature selection on tables is the same mathematics.

A channel is a feature, an object a sample. Needs scikit-learn: ``pip install scikit-learn``.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .kmedoids import kmedoids_sweep
from .knee import KneeMethod, find_knee
from .moments import ClassMoments
from .scalars import real_number, whole_number
from .selection import SelectionConfig, select_channels
from .separability import jeffries_matusita
from .silhouette import SilhouetteDefinition

try:
    from sklearn.base import BaseEstimator, ClusterMixin
    from sklearn.feature_selection import SelectorMixin, f_classif
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:  # pragma: no cover - what is missing is said in the message
    raise InputError(
        f"actprune_gpu.estimators needs scikit-learn 1.6 or newer ({error}): "
        "pip install scikit-learn"
    ) from None

_FEWEST = 3


class KMedoidsSweep(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """k-medoids in the plane, with a number of clusters found by the knee of the silhouettes.

    Attributes:
        n_clusters: k, in 2..N-1; found by itself if ``None``.
        silhouette: Definition of the simplified silhouette: ``"mean"`` or ``"nearest"``.
        knee: How the curve of silhouettes is smoothed: ``"interp1d"`` or ``"polynomial"``.
        n_clusters_: k.
        labels_: ``[N]`` int64, clusters of the points.
        medoid_indices_: ``[k]`` int64, ascending point numbers.
        cluster_centers_: ``[k, 2]`` the medoids.
        inertia_: Sum of the distances to the nearest medoids.
        ks_: ``[K]`` every k.
        scores_: ``[K]`` mean simplified silhouettes.
    """

    def __init__(
        self,
        n_clusters: int | None = None,
        *,
        silhouette: SilhouetteDefinition = "mean",
        knee: KneeMethod = "interp1d",
    ) -> None:
        self.n_clusters = n_clusters
        self.silhouette = silhouette
        self.knee = knee

    def fit(self, X: ArrayLike, y: Any = None) -> KMedoidsSweep:
        """Cluster points.

        Args:
            X: ``[N, 2]``, at least 3 points.
            y: Nothing; for pipelines.

        Raises:
            ValueError: If an argument does not fit.
        """
        points = validate_data(self, X, dtype=np.float64, ensure_min_samples=_FEWEST)
        if points.shape[1] != 2:
            raise InputError(
                f"X must have 2 features, the places of points in the plane, got {points.shape[1]}"
            )
        if self.silhouette not in ("mean", "nearest"):
            raise InputError(f"silhouette must be 'mean' or 'nearest', got {self.silhouette!r}")
        sweep = kmedoids_sweep(points)
        self.ks_ = np.asarray(sweep.ks)
        self.scores_ = np.asarray(
            sweep.mss_mean if self.silhouette == "mean" else sweep.mss_nearest
        )
        k = self.n_clusters
        if k is None:
            k = find_knee(self.ks_, self.scores_, method=self.knee).k
        else:
            k = whole_number(k, "n_clusters", 2, len(points) - 1)
        found = sweep.clustering(k)
        self.n_clusters_ = k
        self.labels_ = np.asarray(found.cluster_labels)
        self.medoid_indices_ = np.asarray(found.medoids)
        self.cluster_centers_ = points[self.medoid_indices_]
        self.inertia_ = float(found.loss)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return ``[N]``, the nearest medoid of each point, the first of equally near ones."""
        check_is_fitted(self)
        points = validate_data(self, X, dtype=np.float64, reset=False)
        distances = ((points[:, None] - self.cluster_centers_[None]) ** 2).sum(-1)
        nearest: NDArray[np.int64] = distances.argmin(1)
        return nearest

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


class SeparabilitySelector(SelectorMixin, BaseEstimator):  # type: ignore[misc]
    """Keeps one feature of each kind: of those that separate the same pairs of classes.

    The features are compared by the Jeffries-Matusita distances between the classes, embedded by
    t-SNE and clustered; of each cluster the feature with the largest weight stays (Levin and
    Singer 2024 keep the medoid).

    Attributes:
        n_features_to_select: How many features, or, as a number below 1, which share; the knee of
            the silhouettes if ``None``.
        weight: By which the features of a cluster compete: ``"anova"``, the F value of the classes'
            means; ``"separability"``, its mean over the pairs of classes, which is large where a
            feature is nearly constant in a class; ``"std"``, of the whole column.
        silhouette: Definition of the simplified silhouette.
        knee: How the curve of silhouettes is smoothed.
        perplexity: Of t-SNE; clamped for few features.
        random_state: Seed of t-SNE, an integer.
        classes_: The classes.
        labels_: ``[n_features]`` cluster of each feature.
        medoid_indices_: ``[k]`` the features in the middle of their clusters.
        embedding_: ``[n_features, 2]``.
        weights_: ``[n_features]``.
        n_features_: How many are kept.
    """

    def __init__(
        self,
        n_features_to_select: float | None = None,
        *,
        weight: str = "anova",
        silhouette: SilhouetteDefinition = "mean",
        knee: KneeMethod = "interp1d",
        perplexity: float = 10.0,
        random_state: int = 0,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.weight = weight
        self.silhouette = silhouette
        self.knee = knee
        self.perplexity = perplexity
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> SeparabilitySelector:
        """Choose features.

        Args:
            X: ``[N, n_features]``. Of fewer than 3 features all are kept.
            y: ``[N]`` classes, at least two of them with two samples.

        Raises:
            ValueError: If an argument does not fit.
        """
        table, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y must have at least 2 classes, got {len(self.classes_)} class")
        if self.weight not in ("anova", "separability", "std"):
            raise InputError(
                f"weight must be 'anova', 'separability' or 'std', got {self.weight!r}"
            )
        n_features = table.shape[1]
        if n_features < _FEWEST:
            return self._keep_all(n_features)
        config = SelectionConfig(
            budget=self._budget(n_features),
            silhouette=self.silhouette,
            knee=self.knee,
            perplexity=self.perplexity,
            seed=self.random_state,
            min_channels=1,
        )
        moments = ClassMoments.from_activations(
            table, numbers, [str(label) for label in self.classes_]
        )
        self.weights_ = _weights(self.weight, table, numbers, moments)
        found = select_channels(moments, self.weights_, config=config)
        assert found.cluster_labels is not None
        assert found.medoids is not None
        assert found.embedding is not None
        self.labels_ = found.cluster_labels.numpy()
        self.medoid_indices_ = found.medoids.numpy()
        self.embedding_ = found.embedding.numpy()
        self.n_features_ = found.k
        self._kept = np.zeros(n_features, dtype=bool)
        self._kept[found.keep.numpy()] = True
        return self

    def _keep_all(self, n_features: int) -> SeparabilitySelector:
        self.labels_ = self.medoid_indices_ = np.arange(n_features)
        self.embedding_ = np.zeros((n_features, 2))
        self.weights_ = np.ones(n_features)
        self.n_features_ = n_features
        self._kept = np.ones(n_features, dtype=bool)
        return self

    def _budget(self, n_features: int) -> tuple[float, float] | None:
        wanted = self.n_features_to_select
        if wanted is None:
            return None
        wanted = real_number(wanted, "n_features_to_select")
        count = max(2.0, round(wanted * n_features)) if 0.0 < wanted < 1.0 else wanted
        if not (2 <= count <= n_features and count == int(count)):
            raise InputError(
                f"n_features_to_select must be in 2..{n_features} or a share of 1, got {wanted}"
            )
        return count / n_features, count / n_features

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self)
        return self._kept

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _weights(
    kind: str, table: NDArray[np.float64], labels: NDArray[np.int64], moments: ClassMoments
) -> NDArray[np.float64]:
    weights: NDArray[np.float64]
    if kind == "std":
        weights = table.std(0)
    elif kind == "separability":
        weights = jeffries_matusita(moments).matrix.double().mean(1).numpy()
    else:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant features have none
            weights = f_classif(table, labels)[0]
    # A feature that is constant in every class, and not in all, has an infinite F.
    return np.nan_to_num(weights, posinf=np.finfo(np.float64).max)
