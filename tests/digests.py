"""Digests of what each kernel gives, to compare devices that are not in the same machine.

``python tests/digests.py`` writes those of the CPU to digests.json.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).with_suffix(".json")
# Names, numbers of channels, classes, and iterations of t-SNE.
SIZES = {
    "small": (24, 6, 60),
    "layer": (64, 20, 260),
    "wide": (400, 30, 300),
    "segments": (700, 20, 60),  # of k, and more points than threads in a block
    "large": (4500, 6, 10),  # more rows than warps on a device
}


def statistics(n_channels, n_classes):
    """Statistics of channels in groups that separate the same classes; exact on any machine."""
    from actprune_gpu.backends.protocol import ClassStatistics

    random = np.random.RandomState(n_channels)
    group = random.randint(0, max(2, n_channels // 5), n_channels)
    mean = random.randint(-400, 400, (n_channels, n_classes))[group]
    mean = (mean + random.randint(-9, 10, mean.shape)) / 128.0
    std = random.randint(50, 200, (n_channels, n_classes))[group] / 128.0
    count = torch.full((n_channels, n_classes), 9)
    return ClassStatistics(count, torch.from_numpy(mean), torch.from_numpy(std))


def outputs(backend, size, device):
    """What the kernels give, by name, and the channels kept at some k."""
    n, n_classes, n_iter = SIZES[size]
    values = statistics(n, n_classes)
    values = type(values)(*(part.to(device) for part in values))
    distances = backend.separability_distances(values)
    p = backend.affinities(distances.squared, min(10.0, (n - 1) / 3))
    axes = backend.principal_axes(distances.squared)
    runs = backend.tsne(p, axes * 1e-4, n_iter, 12.0, [n / 10.0, 50.0])
    (sweep,) = backend.kmedoids_sweep([runs[0][0]])
    medoids = torch.arange(0, n, 3, device=device)
    return {
        "jeffries_matusita": backend.jeffries_matusita(values),
        "squared": distances.squared,
        "row_mean": distances.row_mean,
        "affinities": p,
        "principal_axes": axes,
        "embedding": runs[0][0],
        "second_embedding": runs[1][0],
        "kl_divergence": torch.tensor([run[1] for run in runs], dtype=torch.float64),
        "loss": sweep.loss,
        "mss_mean": sweep.mss_mean,
        "mss_nearest": sweep.mss_nearest,
        "medoid_bits": sweep.medoid_bits,
        "silhouette": torch.tensor(backend.simplified_silhouette(runs[0][0], medoids)),
        "keep": keep_list(runs[0][0], sweep, n // 3),
    }


def keep_list(points, sweep, k):
    """The channels that are kept where k of them are, with weights that descend."""
    from actprune_gpu.choice import choose_by_weight
    from actprune_gpu.kmedoids import KMedoidsSweep

    ks = torch.arange(2, len(points))
    swept = KMedoidsSweep(ks, sweep.loss, sweep.mss_mean, sweep.mss_nearest, points.double(),
                          sweep.medoid_bits)  # fmt: skip
    weights = torch.arange(len(points), 0, -1, device=points.device)
    return choose_by_weight(swept.clustering(k).cluster_labels, weights)


def stages(device):
    """What the public functions give, from activations to the channels kept at some k."""
    from actprune_gpu import (
        ClassMoments,
        choose_by_weight,
        jeffries_matusita,
        kmedoids_sweep,
        simplified_silhouette,
        tsne,
    )

    n, n_classes, n_samples = 40, 7, 300
    random = np.random.RandomState(n)
    labels = random.randint(0, n_classes, n_samples)
    group = random.randint(0, 8, n)
    values = random.randint(-400, 400, (n_classes, n))[:, group][labels]
    values = (values + random.randint(-99, 100, values.shape)) / 128.0
    names = [str(label) for label in range(n_classes)]
    moments = ClassMoments.from_activations(
        torch.from_numpy(values).to(device), torch.from_numpy(labels).to(device), names
    )
    separability = jeffries_matusita(moments)
    embedded = tsne(separability.matrix, n_iter=120)
    sweep = kmedoids_sweep(embedded.embedding)
    clustering = sweep.clustering(n // 3)
    weights = torch.arange(n, 0, -1, device=device)
    return {
        "mean": moments.mean,
        "m2": moments.m2,
        "matrix": separability.matrix,
        "embedding": embedded.embedding,
        "loss": sweep.loss,
        "mss_mean": sweep.mss_mean,
        "mss_nearest": sweep.mss_nearest,
        "cluster_labels": clustering.cluster_labels,
        "silhouette": torch.tensor(simplified_silhouette(embedded.embedding, clustering.medoids)),
        "keep": choose_by_weight(clustering.cluster_labels, weights),
    }


def digests(outputs):
    """The digest of each output."""
    found = {}
    for name, value in outputs.items():
        array = value.cpu().contiguous().numpy()
        found[name] = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return found


def write():
    from actprune_gpu.backends.cpu import CpuBackend

    cpu = torch.device("cpu")
    found = {size: digests(outputs(CpuBackend(), size, cpu)) for size in SIZES}
    found["stages"] = digests(stages(cpu))
    FILE.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(write())
