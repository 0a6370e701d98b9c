"""What pruning has brought: size, operations and latency, before and after."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...devices import resolve_device
from ...errors import InputError
from ...scalars import whole_number
from .channels import at_size, trace_model
from .checkpoint import Checkpoint, load_checkpoint

_WARM_UP_SECONDS = 1.0
_LEAST_WARM_UP = 3  # runs


@dataclass(frozen=True)
class Latency:
    """How long one image takes.

    Attributes:
        median: In milliseconds.
        p20: A fifth of the runs took less.
        p80: A fifth of the runs took more.
    """

    median: float
    p20: float
    p80: float


@dataclass(frozen=True)
class NetworkFigures:
    """What one network costs.

    Attributes:
        parameters: Number of its parameters as it is trained.
        gflops: 10^9 floating point operations of its convolutions for one image as it predicts,
            counted as for the plan: branches that fusing merges one by one, and without the fixed
            convolution that decodes boxes.
        file_bytes: Size of its checkpoint.
        latency: Of the fused network for one image, without pre- and postprocessing.
        accuracy: What `validate` has found, if it was given.
    """

    parameters: int
    gflops: float
    file_bytes: int
    latency: Latency
    accuracy: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Effect:
    """Two networks side by side.

    Attributes:
        before: The figures of the network that was pruned.
        after: Those of the pruned network.
        latency_ratio: Median over pairs of runs, one right after the other, of the time after by
            the time before: what else the machine does meanwhile slows both alike.
        image_size: Side of the square image in pixels.
        repeats: Number of pairs.
        device: Where they ran.
        threads: Threads of PyTorch on the CPU.
    """

    before: NetworkFigures
    after: NetworkFigures
    latency_ratio: float
    image_size: int
    repeats: int
    device: str
    threads: int


def measure_effect(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    image_size: int = 640,
    repeats: int = 30,
    threads: int | None = None,
    device: str = "auto",
    accuracy_before: Mapping[str, float] | None = None,
    accuracy_after: Mapping[str, float] | None = None,
) -> Effect:
    """Compare a checkpoint with its pruned successor, on this machine.

    Args:
        before: The checkpoint that was pruned.
        after: The pruned checkpoint.
        image_size: Side of the square image in pixels, a multiple of the networks' stride.
        repeats: How often each network is timed.
        threads: Threads of PyTorch on the CPU; as many as it has now if left out.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        accuracy_before: What `validate` has found for ``before``, to be passed on.
        accuracy_after: The same for ``after``.

    Raises:
        InputError: If an argument is bad, or a file holds no YOLO model with a detection head.
    """
    repeats, image_size = whole_number(repeats, "repeats"), whole_number(image_size, "image_size")
    threads = None if threads is None else whole_number(threads, "threads")
    where = resolve_device(device)
    pair = (load_checkpoint(before), load_checkpoint(after))
    for checkpoint in pair:
        network: Any = checkpoint.model
        stride = int(torch.as_tensor(network.stride).max())
        if image_size % stride:
            raise InputError(
                f"image_size must be a multiple of {stride}, the stride of "
                f"{checkpoint.path.name}, got {image_size}"
            )
    with _threads(threads) as used:
        runs = [runner(checkpoint.model, image_size, where) for checkpoint in pair]
        first, second = times(runs[0], runs[1], repeats)
    accuracies = (accuracy_before, accuracy_after)
    figures = [
        _figures(checkpoint, image_size, _latency(milliseconds), accuracy)
        for checkpoint, milliseconds, accuracy in zip(
            pair, (first, second), accuracies, strict=True
        )
    ]
    return Effect(
        figures[0],
        figures[1],
        float(np.median(np.array(second) / np.array(first))),
        image_size,
        repeats,
        str(where),
        used,
    )


def network_cost(model: nn.Module, image_size: int) -> tuple[int, float]:
    """Return the parameters of a network as it is trained, and its GFLOPs as it predicts.

    All of its operations grow in proportion to the image, whose sides are ``image_size`` pixels.
    """
    graph = trace_model(model)
    cost = at_size(graph.cost(graph.kept({})), image_size)
    return cost.parameters, cost.flops / 1e9


def runner(model: nn.Module, image_size: int, device: torch.device) -> Callable[[], None]:
    """Return a function that runs a network once on one image, set up as ``YOLO.predict`` does."""
    network: Any = deepcopy(model)
    network = network.fuse(verbose=False).to(device).eval().requires_grad_(False)
    image = torch.rand(1, 3, image_size, image_size, device=device)
    if device.type == "cpu":
        network = network.to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            network(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def times(
    before: Callable[[], None], after: Callable[[], None], repeats: int
) -> tuple[list[float], list[float]]:
    """Return the milliseconds of ``repeats`` runs of each, taken in turns after a warm-up.

    Which of the two comes first alternates, so that neither finds the caches warmer.
    """
    runs = (before, after)
    for run in runs:
        end, done = time.perf_counter() + _WARM_UP_SECONDS / 2, 0
        while done < _LEAST_WARM_UP or (time.perf_counter() < end and done < repeats):
            run()
            done += 1
    milliseconds: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            runs[which]()
            milliseconds[which].append(1e3 * (time.perf_counter() - began))
    return milliseconds


def _figures(
    checkpoint: Checkpoint,
    image_size: int,
    latency: Latency,
    accuracy: Mapping[str, float] | None,
) -> NetworkFigures:
    parameters, gflops = network_cost(checkpoint.model, image_size)
    size = Path(checkpoint.path).stat().st_size
    return NetworkFigures(parameters, gflops, size, latency, accuracy)


def _latency(milliseconds: list[float]) -> Latency:
    p20, median, p80 = np.percentile(milliseconds, [20, 50, 80]).tolist()
    return Latency(median, p20, p80)


@contextmanager
def _threads(number: int | None) -> Iterator[int]:
    """Give PyTorch a number of threads for the time of the block."""
    usual = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(usual)
