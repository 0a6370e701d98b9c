"""What every stage must compute, in NumPy float64, written to be read.

Nothing here is fast, nothing is shared with the package, and each function states the
definition it implements. A function `foo` of the package has its reference `foo_ref` here.

Dimensions: N samples or points, C channels, L classes, P = L(L-1)/2 pairs, k medoids.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


# ---------------------------------------------------------------- 1. class moments
def class_moments_ref(activations, labels, n_classes):
    """Count, mean and sum of squared deviations of the finite activations.

    Args:
        activations: [N, C] floats; NaN and infinite values are left out, channel by channel.
        labels: [N] integers in [0, n_classes).
        n_classes: L.

    Returns:
        count [L, C] int64, mean [L, C] and m2 [L, C] float64; all 0 where nothing was seen.
    """
    activations = np.asarray(activations, dtype=np.float64)
    labels = np.asarray(labels)
    n_channels = activations.shape[1]
    count = np.zeros((n_classes, n_channels), dtype=np.int64)
    mean = np.zeros((n_classes, n_channels))
    m2 = np.zeros((n_classes, n_channels))
    for label in range(n_classes):
        for channel in range(n_channels):
            samples = activations[labels == label, channel]
            samples = samples[np.isfinite(samples)]
            if len(samples) == 0:
                continue
            count[label, channel] = len(samples)
            mean[label, channel] = samples.mean()
            m2[label, channel] = ((samples - samples.mean()) ** 2).sum()
    return count, mean, m2


# ---------------------------------------------------------------- 2. separability
def jeffries_matusita_ref(count, mean, m2, std_floor=1e-10):
    """Jeffries-Matusita distance of every pair of classes, per channel.

    With the two classes taken as normal distributions,

        B  = (m1 - m2)^2 / (4 (v1 + v2)) + 1/2 ln((v1 + v2) / (2 s1 s2))
        JM = 2 (1 - exp(-B))

    s is the population standard deviation (ddof 0), no smaller than `std_floor`, and v = s^2.
    A class counts when at least one channel has two samples of it. A channel that has fewer
    than two samples of one of the classes has distance 0 in that pair.

    Args:
        count, mean, m2: [L, C], as `class_moments_ref` returns them.

    Returns:
        matrix [C, P] float64, pairs [P, 2] (positions among the used classes, i < j, row by
        row of the upper triangle), and the list of used classes.
    """
    count, mean, m2 = (np.asarray(a, dtype=np.float64) for a in (count, mean, m2))
    used = [label for label in range(len(count)) if (count[label] >= 2).any()]
    pairs = [(i, j) for i in range(len(used)) for j in range(i + 1, len(used))]
    n_channels = count.shape[1]
    matrix = np.zeros((n_channels, len(pairs)))
    for p, (i, j) in enumerate(pairs):
        first, second = used[i], used[j]
        for channel in range(n_channels):
            n1, n2 = count[first, channel], count[second, channel]
            if n1 < 2 or n2 < 2:
                continue
            s1 = max(math.sqrt(m2[first, channel] / n1), std_floor)
            s2 = max(math.sqrt(m2[second, channel] / n2), std_floor)
            v = s1**2 + s2**2
            distance = mean[first, channel] - mean[second, channel]
            b = distance**2 / (4 * v) + 0.5 * math.log(v / (2 * s1 * s2))
            matrix[channel, p] = 2 * (1 - math.exp(-b))
    return matrix, np.array(pairs).reshape(-1, 2), used


# ---------------------------------------------------------------- 3. t-SNE
def squared_distances_ref(x):
    """[N, D] -> [N, N] squared Euclidean distances."""
    x = np.asarray(x, dtype=np.float64)
    return np.array([((x - row) ** 2).sum(axis=1) for row in x])


def tsne_affinities_ref(x, perplexity):
    """Symmetric affinities P of t-SNE: [N, D] -> [N, N], zero diagonal, sum 1.

    Row i is a Gaussian around point i whose precision beta is searched by bisection until the
    entropy of the row is log(perplexity). Then P = (rows + rows^T) / 2N.
    """
    d2 = squared_distances_ref(x)
    n = len(d2)
    rows = np.zeros((n, n))
    for i in range(n):
        others = np.arange(n) != i
        d = d2[i, others]
        d = d - d.min()  # changes nothing in the normalised row, and avoids 0/0
        beta, low, high = 1.0, 0.0, math.inf
        for _ in range(200):
            p = np.exp(-beta * d)
            entropy = math.log(p.sum()) + beta * (d * p).sum() / p.sum()
            if abs(entropy - math.log(perplexity)) < 1e-10:
                break
            if entropy > math.log(perplexity):  # too wide: raise the precision
                low = beta
                beta = beta * 2 if high == math.inf else (low + high) / 2
            else:
                high = beta
                beta = (low + high) / 2
        rows[i, others] = p / p.sum()
    return (rows + rows.T) / (2 * n)


def tsne_kl_ref(affinities, embedding):
    """Kullback-Leibler divergence KL(P || Q) of an embedding [N, 2] from affinities [N, N].

    Q is the Student-t similarity, q_ij proportional to 1 / (1 + |y_i - y_j|^2), i != j.
    """
    q = 1 / (1 + squared_distances_ref(embedding))
    np.fill_diagonal(q, 0)
    q /= q.sum()
    positive = affinities > 0  # 0 log 0 = 0; the diagonal is among the zeros
    p = affinities[positive]
    return float((p * np.log(p / q[positive])).sum())


# ---------------------------------------------------------------- 4. k-medoids
def distances_ref(points):
    """[N, 2] -> [N, N] Euclidean distances."""
    return np.sqrt(squared_distances_ref(points))


def assign_ref(points, medoids):
    """Cluster of every point: position in `medoids` of the nearest, ties to the lowest.

    A medoid is always in its own cluster, also where another medoid lies on the same spot: no
    cluster is empty.
    """
    cluster_labels = distances_ref(points)[:, np.asarray(medoids)].argmin(axis=1)
    cluster_labels[np.asarray(medoids)] = np.arange(len(medoids))
    return cluster_labels


def loss_ref(points, medoids):
    """Sum over the points of the distance to the nearest medoid."""
    return float(distances_ref(points)[:, np.asarray(medoids)].min(axis=1).sum())


def best_swap_ref(distances, medoids):
    """The largest fall of the loss that one swap of a medoid for another point can bring.

    Every medoid is tried against every point. PAM has converged when this is <= 0.

    Args:
        distances: [N, N].
        medoids: [k], k >= 2.
    """
    medoids = list(medoids)
    loss = distances[:, medoids].min(axis=1).sum()
    best = -math.inf
    for removed in medoids:
        rest = [m for m in medoids if m != removed]
        nearest_left = distances[:, rest].min(axis=1)  # [N]
        for candidate in range(len(distances)):
            if candidate not in medoids:
                swapped = np.minimum(nearest_left, distances[:, candidate]).sum()
                best = max(best, loss - swapped)
    return float(best)


# ---------------------------------------------------------------- 5. simplified silhouette
def simplified_silhouette_ref(points, medoids, definition="mean"):
    """Mean simplified silhouette of a clustering around medoids.

    Per point, a = distance to its own (nearest) medoid and s = (b - a) / max(a, b), with

    - "mean": b = mean distance to all other medoids. Points with a = 0 are left out of the
      average, which is 1 when nothing is left.
    - "nearest": b = distance to the nearest other medoid. All points count; s = 0 for the only
      point of a cluster, and where a = b = 0.
    """
    distances = distances_ref(points)[:, np.asarray(medoids)]  # [N, k]
    cluster = distances.argmin(axis=1)
    scores = []
    for i, row in enumerate(distances):
        a = row[cluster[i]]
        others = np.delete(row, cluster[i])
        if definition == "mean":
            if a == 0:
                continue
            b = others.mean()
        else:
            b = others.min()
        alone = (cluster == cluster[i]).sum() == 1
        if max(a, b) == 0 or (definition == "nearest" and alone):
            scores.append(0.0)
        else:
            scores.append((b - a) / max(a, b))
    return float(np.mean(scores)) if scores else 1.0


# ---------------------------------------------------------------- 7. weighted choice
def choose_by_weight_ref(cluster_labels, weights):
    """In each cluster the channel of largest weight, ties to the lowest index; ascending."""
    keep = []
    for cluster in {int(c) for c in cluster_labels}:
        members = [i for i, c in enumerate(cluster_labels) if c == cluster]
        keep.append(max(members, key=lambda i: (weights[i], -i)))
    return np.array(sorted(keep), dtype=np.int64)


def combined_ref(parts):
    """How many channels each is heavier than, equal ones by half, summed over the kinds."""
    return np.array(
        [
            sum(((part < part[i]).sum() + ((part == part[i]).sum() - 1) / 2) for part in parts)
            for i in range(len(parts[0]))
        ]
    )


def beyond_knee_ref(knee_labels, weights, points, k):
    """One channel of each of the knee's clusters, then the heaviest; and who stands for whom."""
    keep = choose_by_weight_ref(knee_labels, weights).tolist()
    for channel in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        if len(keep) < k and channel not in keep:
            keep.append(channel)
    keep.sort()
    labels = []
    for channel in range(len(weights)):
        own = [kept for kept in keep if knee_labels[kept] == knee_labels[channel]]
        stands = min(own, key=lambda kept: (((points[kept] - points[channel]) ** 2).sum(), kept))
        labels.append(keep.index(channel if channel in keep else stands))
    return np.array(keep), np.array(labels)


# ---------------------------------------------------------------- 8. budget
def budget_bounds_ref(n_channels, budget, min_channels=2):
    """Fewest and most channels that may stay.

    The shares are read as the decimals they are written as: 0.29 of 100 channels is 29, which
    `floor(0.29 * 100)` in floating point is not.
    """
    low, high = (0, 1) if budget is None else (Fraction(str(share)) for share in budget)
    fewest = max(math.ceil(low * n_channels), min_channels)
    most = max(math.floor(high * n_channels), min_channels)
    return min(fewest, n_channels), min(most, n_channels)


def budget_ref(k_star, n_channels, budget=(0.25, 0.5), round_to=1, min_channels=2):
    """The numbers of channels that the budget allows: the multiples of `round_to` nearest k.

    k = clip(k_star, ceil(low C), floor(high C)), then the nearest multiple of `round_to` that
    lies inside the bounds.

    Returns:
        A set: two numbers where k lies halfway; empty where no multiple lies inside the bounds,
        or where the bounds hold no whole number at all.
    """
    fewest, most = budget_bounds_ref(n_channels, budget, min_channels)
    k = min(max(k_star, fewest), most)
    allowed = [m for m in range(fewest, most + 1) if m % round_to == 0]
    nearest = min((abs(m - k) for m in allowed), default=0)
    return {m for m in allowed if abs(m - k) == nearest}
