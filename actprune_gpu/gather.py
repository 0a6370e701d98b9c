"""Step 1 for any network: the class moments of its layers' activations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .batches import LabelOf, inputs_of, labels_of
from .distributed import Ranks
from .errors import InputError
from .models.fingerprint import fingerprint
from .models.hooks import capture_outputs, module_name, resolve_layers
from .models.modes import observed, unwrapped
from .moments import ClassMoments, load_moments, save_moments
from .reductions import (
    CustomReduction,
    Reduction,
    channels_last,
    labelled_samples,
    require_reduction,
    unfolded,
)
from .scalars import whole_number

_SCHEMA = "actprune_gpu.gather_moments/1"


def gather_moments(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Sequence[str],
    classes: Sequence[str] | int,
    label_of: LabelOf | None = None,
    reduce: Reduction | CustomReduction = "auto",
    state_path: str | os.PathLike[str] | None = None,
    resume: bool = False,
    save_every: int = 64,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, ClassMoments]:
    """Gather the class moments of some layers of any network, in one pass over labelled batches.

    The network runs in evaluation mode and without gradients, under the autocast of the caller, and
    is as before afterwards, also after an exception. Only the moments are stored.

    Where `torch.distributed` runs, every process passes its own part of the batches, and all get
    the moments of all: those of the processes merged in the order of their ranks.

    Args:
        model: The network; also compiled by `torch.compile` or wrapped for data parallelism.
        batches: Pairs of inputs and labels, or mappings with an entry ``labels`` and the arguments
            by name; see `actprune_gpu.batches.inputs_of`. They are moved to the network's device.
        layers: Names of modules or patterns (``"layer3.*.conv1"``). The channels of a layer are
            what its module puts out; with ``:input`` behind the name, what goes into it: the
            neurons of a perceptron behind their activation function (``"blocks.*.mlp.fc2:input"``),
            the heads of attention side by side (``"blocks.*.attn.proj:input"``, to be taken apart
            by `ClassMoments.heads`). A module that runs several times gives samples each time.
        classes: The names of the L classes, or L.
        label_of: Gives the labels of a batch, integers ``[B]``, or ``[B, ...]`` for each pixel or
            token; negative ones are left out. By default they are what the batch says.
        reduce: How the positions of a sample's features become one vector, where there is one label
            for each sample: see `actprune_gpu.reductions.labelled_samples`. Or a function of what a
            layer puts out and its name, which returns features ``[B, ..., C]``.
        state_path: A file that the state is saved to on the way, also on Ctrl-C, and at the end.
            Each of several processes has its own, with its rank in the name.
        resume: Go on with the state in ``state_path``, on the same batches in the same order. The
            result is that of a run without interruption, bit for bit.
        save_every: Number of batches between two savings.
        progress: Called with (batches done, batches in all, where that is known).

    Returns:
        The moments by layer, in the order of the network's modules, on the network's device.

    Raises:
        InputError: If a layer is not in the model or takes no part, labels are missing, do not fit
            or lie outside of 0..L-1, no batch has a label, the saved state does not fit, or the
            processes have different networks or settings.
    """
    require_reduction(reduce)
    network = unwrapped(model)
    if not isinstance(classes, Iterable):
        classes = [str(number) for number in range(whole_number(classes, "classes"))]
    names = tuple(str(name) for name in classes)
    if not names:
        raise InputError("classes must not be empty, got none")
    save_every = whole_number(save_every, "save_every")
    settings = _Settings(
        fingerprint(network),
        tuple(_resolve(network, layers)),
        names,
        reduce if isinstance(reduce, str) else getattr(reduce, "__qualname__", repr(reduce)),
    )
    ranks = Ranks.current()
    ranks.require_same(asdict(settings))
    path = None if state_path is None else ranks.own_path(Path(state_path))
    state = _State({}, 0)
    if resume:
        state = _State.load(path, settings)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    total = len(batches) if isinstance(batches, Sized) else None
    try:
        with observed(network):
            for batch in islice(batches, state.batches_done, None):
                found = _samples(network, batch, settings, label_of, reduce, device)
                # In place unless an interrupt may have to save the state as it was.
                state = state.with_samples(found, names, in_place=path is None)
                if progress:
                    progress(state.batches_done, total)
                if path and state.batches_done % save_every == 0:
                    state.save(path, settings)
    except BaseException:
        if path:
            state.save(path, settings)
        raise
    if path:
        state.save(path, settings)
    moments = ranks.merge(state.moments, settings.layers, names, device, path)
    if not moments:
        raise InputError(f"batches must hold labelled samples, got none in {state.batches_done}")
    return moments


@dataclass(frozen=True)
class _Settings:
    """All that the outcome depends on, besides the batches."""

    model: str
    layers: tuple[str, ...]
    classes: tuple[str, ...]
    reduce: str


@dataclass(frozen=True, eq=False)
class _State:
    """What has been gathered; each batch makes a new state."""

    moments: dict[str, ClassMoments]
    batches_done: int

    def with_samples(
        self, found: dict[str, tuple[Tensor, Tensor]], classes: Sequence[str], *, in_place: bool
    ) -> _State:
        """Return the state after a batch; this one is of no use afterwards if ``in_place``."""
        moments = {}
        for layer, (rows, labels) in found.items():
            before = self.moments.get(layer)
            if before is None:
                before = ClassMoments.zeros(rows.shape[1], classes, rows.device)
            moments[layer] = before if in_place else before.copy()
            moments[layer].update(rows, labels)
        return _State(moments or self.moments, self.batches_done + 1)

    def save(self, path: Path, settings: _Settings) -> None:
        """Write a file that `load` reads."""
        notes = {"schema": _SCHEMA, "settings": asdict(settings), "batches": self.batches_done}
        save_moments(path, self.moments, {"gather": json.dumps(notes)})

    @classmethod
    def load(cls, path: Path | None, settings: _Settings) -> _State:
        """Read a state that a run with these settings can go on with."""
        if path is None:
            raise InputError("resume needs state_path, the file to go on with, got None")
        moments, metadata = load_moments(path)
        try:
            notes = json.loads(metadata["gather"])
            if notes["schema"] != _SCHEMA:
                raise InputError(f"{path} must have schema {_SCHEMA!r}, got {notes['schema']!r}")
            then, done = notes["settings"], int(notes["batches"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{path} holds no state to go on with: {error}") from None
        now = json.loads(json.dumps(asdict(settings)))
        changed = [name for name in now if now[name] != then.get(name)]
        if changed:
            raise InputError(
                f"cannot resume from {path}: other {', '.join(changed)} then, "
                f"{str(then.get(changed[0]))[:60]}, not {str(now[changed[0]])[:60]}"
            )
        return cls(moments, done)


def _resolve(network: nn.Module, layers: Sequence[str]) -> list[str]:
    """Return the layers that patterns stand for, in the order of the modules."""
    if isinstance(layers, str) or not layers:
        raise InputError(f"layers must be a list of at least one name, got {layers!r}")
    modules = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
    found: dict[str, None] = {}
    for pattern in layers:
        bare = module_name(pattern)
        suffix = pattern[len(bare) :]
        found |= dict.fromkeys(name + suffix for name in resolve_layers(modules, [bare]))
    order = {name: number for number, name in enumerate(modules)}
    return sorted(found, key=lambda name: (order[module_name(name)], name))


def _samples(
    network: nn.Module,
    batch: Any,
    settings: _Settings,
    label_of: LabelOf | None,
    reduce: Reduction | CustomReduction,
    device: torch.device,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Run the network on a batch; return samples and labels by layer, none if nothing has any."""
    labels = labels_of(batch, label_of).to(device)
    n_classes = len(settings.classes)
    if labels.numel() and int(labels.max()) >= n_classes:
        raise InputError(f"labels must lie in 0..{n_classes - 1}, got {int(labels.max())}")
    inputs = inputs_of(batch).to(device)
    modules = dict(network.named_modules(remove_duplicate=False))
    mask = inputs.kwargs.get("attention_mask")
    runs: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in settings.layers}

    def keep(layer: str, output: Tensor) -> Tensor:
        try:
            if callable(reduce):
                features, how = reduce(output, layer), "auto"
            else:
                features, how = channels_last(output, modules[module_name(layer)]), reduce
            if labels.ndim == 1:
                features = unfolded(features, len(inputs))
            samples = labelled_samples(features, labels, how, mask)  # type: ignore[arg-type]
        except InputError as error:
            raise InputError(f"layer {layer!r}: {error}") from None
        runs[layer].append(samples)
        return output.new_empty(0)

    with capture_outputs(network, settings.layers, keep=keep):
        inputs.run(network)
    found = {}
    for layer, samples in runs.items():
        if not samples:
            raise InputError(f"layer {layer!r} takes no part in the model's forward pass")
        rows, kept = (torch.cat(parts) for parts in zip(*samples, strict=True))
        found[layer] = rows, kept
    return found if any(len(kept) for _, kept in found.values()) else {}
