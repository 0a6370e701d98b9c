"""What people use today, called as they would call it. Imports are lazy: a peer may be missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..moments import ClassMoments

Floats = NDArray[np.floating[Any]]
_FLOOR = 1e-10


def statistics(moments: ClassMoments) -> tuple[Floats, Floats]:
    """Return means and standard deviations ``[L, C]`` as NumPy arrays."""
    return moments.mean.numpy(), np.maximum(moments.variance.sqrt().numpy(), _FLOOR)


def jm_double_loop(mean: Floats, std: Floats) -> Floats:
    """Return ``[C, P]`` by a loop over channels and class pairs, as in research code."""
    n_classes, n_channels = mean.shape
    out = np.empty((n_channels, n_classes * (n_classes - 1) // 2))
    for channel in range(n_channels):
        pair = 0
        for i in range(n_classes):
            for j in range(i + 1, n_classes):
                m1, m2, s1, s2 = (
                    mean[i, channel],
                    mean[j, channel],
                    std[i, channel],
                    std[j, channel],
                )
                v = s1**2 + s2**2
                b = (m1 - m2) ** 2 / (4 * v) + 0.5 * np.log(v / (2 * s1 * s2))
                out[channel, pair] = 2 * (1 - np.exp(-b))
                pair += 1
    return out


def jm_numpy(mean: Floats, std: Floats) -> Floats:
    """Return ``[C, P]`` by vectorised NumPy."""
    i, j = np.triu_indices(mean.shape[0], 1)
    v = std[i] ** 2 + std[j] ** 2
    b = (mean[i] - mean[j]) ** 2 / (4 * v) + 0.5 * np.log(v / (2 * std[i] * std[j]))
    result: Floats = (2 * (1 - np.exp(-b))).T
    return result


def tsne_sklearn(x: Floats, method: str, perplexity: float = 10.0) -> tuple[Floats, float]:
    """Return embedding and KL divergence by scikit-learn, ``"exact"`` or ``"barnes_hut"``."""
    from sklearn.manifold import TSNE

    model = TSNE(
        method=method, perplexity=perplexity, init="pca", random_state=0, max_iter=1000, n_jobs=2
    )
    return model.fit_transform(x), float(model.kl_divergence_)


def tsne_open(x: Floats, perplexity: float = 10.0) -> tuple[Floats, float]:
    """Return embedding and KL divergence by openTSNE: 250 exaggerated and 750 more iterations."""
    from openTSNE import TSNE

    model = TSNE(perplexity=perplexity, n_jobs=2, n_iter=750, random_state=0).fit(x)
    return np.asarray(model), float(model.kl_divergence)


def distances(points: Floats) -> Floats:
    """Return Euclidean distances ``[N, N]`` float64."""
    difference = points[:, None].astype(np.float64) - points[None]
    result: Floats = np.sqrt((difference**2).sum(-1))
    return result


def fasterpam(points: Floats, ks: NDArray[np.int64]) -> Floats:
    """Return the losses of FasterPAM from a random start for each of ``ks``."""
    import kmedoids

    matrix = distances(points)
    return np.array([kmedoids.fasterpam(matrix, int(k), random_state=0).loss for k in ks])


def dynmsc(points: Floats) -> float:
    """Walk from N - 1 medoids down to 2 by DynMSC; return the best medoid silhouette."""
    import kmedoids

    result = kmedoids.dynmsc(distances(points), len(points) - 1, 2)
    return float(np.max(result.rangeeval if hasattr(result, "rangeeval") else result.loss))


def simplified_silhouette(points: Floats, medoids: NDArray[np.int64]) -> float:
    """Return the mean simplified silhouette against the mean of the other medoids, by NumPy."""
    to_medoids = distances(points)[:, medoids]
    a = to_medoids.min(axis=1)
    inside = a > 0
    b = (to_medoids.sum(axis=1) - a) / (len(medoids) - 1)
    return float(((b - a) / np.maximum(a, b))[inside].mean())


def trustworthiness(x: Floats, embedding: Floats) -> float:
    """Return scikit-learn's trustworthiness of a map, or nan where that is not installed."""
    try:
        from sklearn.manifold import trustworthiness as measure
    except ImportError:
        return float("nan")
    return float(measure(x, embedding))


def pruning_importance(name: str) -> Callable[[nn.Module], Tensor]:
    """Return torch-pruning's importance of the channels that a convolution writes, ``[C]``."""

    def importance(convolution: nn.Module) -> Tensor:
        import torch_pruning

        module: Any = convolution
        # Its graph does not get through stock C2f blocks, so it is shown one convolution at a time.
        alone = nn.Sequential(module)
        graph = torch_pruning.DependencyGraph().build_dependency(
            alone, torch.zeros(1, module.in_channels, 8, 8)
        )
        prune = torch_pruning.prune_conv_out_channels
        group = graph.get_pruning_group(module, prune, list(range(module.out_channels)))
        score: Tensor = getattr(torch_pruning.importance, f"{name}Importance")()(group)
        return score.detach()

    return importance
