"""Several processes that gather together, as `torchrun` starts them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Its functions have the default group of the moment of their import as the default of an argument.
# Were it first imported (by torch itself, on the way to something else) while a group exists, the
# group and its threads would outlive destroy_process_group(), and a thread that still held a tensor
# when Python ends would abort the process ("terminate called without an active exception").
import torch.distributed.nn.functional
from torch import Tensor, nn

from .errors import InputError
from .moments import ClassMoments

Result = TypeVar("Result")


@contextmanager
def processes() -> Iterator[None]:
    """Let processes that `torchrun` has started know one another for the time of the block.

    Each gets the GPU of its number, where there are GPUs. A process alone needs nothing, nor does
    one that has called ``torch.distributed.init_process_group`` itself. The group ends with the
    block, however that ends: a process that ends with its group still up may abort instead of
    returning its exit code.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group()  # tensors on the CPU by gloo, those on GPUs by NCCL
    else:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Ranks:
    """This process among others.

    Attributes:
        rank: Number of this process.
        count: How many there are; 1 where `torch.distributed` does not run.
    """

    rank: int
    count: int

    @classmethod
    def current(cls) -> Ranks:
        """Return where this process stands."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)

    def own_path(self, path: Path) -> Path:
        """Return the file of this process: ``moments.rank1of2.safetensors``; one alone has all."""
        if self.count == 1:
            return path
        return path.with_name(f"{path.stem}.rank{self.rank}of{self.count}{path.suffix}")

    def require_same(self, settings: Mapping[str, Any]) -> None:
        """Raise ``InputError`` on every process unless all have the same settings."""
        if self.count == 1:
            return
        mine = json.dumps(settings, sort_keys=True)
        found: list[Any] = [None] * self.count
        self._collective(lambda: dist.all_gather_object(found, mine), None)
        for rank, theirs in enumerate(found):
            first, other = json.loads(found[0]), json.loads(theirs)
            differ = [name for name in first if first[name] != other.get(name)]
            if differ:
                raise InputError(
                    f"all processes must have the same {differ[0]}, got "
                    f"{_short(first[differ[0]])} on rank 0 and {_short(other[differ[0]])} "
                    f"on rank {rank}"
                )

    def on_first(self, compute: Callable[[], Result]) -> Result:
        """Return, on every process, what the first one computes, or raise its ``InputError``."""
        if self.count == 1:
            return compute()
        found: list[Any] = [None, None]
        if self.rank == 0:
            try:
                found[0] = compute()
            except InputError as error:
                found[1] = error
        self._collective(lambda: dist.broadcast_object_list(found), None)
        if found[1] is not None:
            raise found[1]
        result: Result = found[0]
        return result

    def all_of(self, value: Result) -> list[Result]:
        """Return the values of all processes, in the order of their ranks."""
        found: list[Any] = [value] * self.count
        if self.count > 1:
            self._collective(lambda: dist.all_gather_object(found, value), None)
        return found

    def as_first(self, model: nn.Module) -> None:
        """Give a network the parameters and buffers that it has on the first process."""
        if self.count > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                self._collective(partial(dist.broadcast, tensor.detach(), 0), None)

    def merge(
        self,
        moments: Mapping[str, ClassMoments],
        layers: Sequence[str],
        classes: Sequence[str],
        device: torch.device,
        path: Path | None,
    ) -> dict[str, ClassMoments]:
        """Return the moments of all processes, merged in the order of their ranks.

        The same bits come out as if the moments of the ranks had been gathered one after the other
        and merged in one process.

        Args:
            moments: Those of this process; empty if it had no samples.
            layers: The layers, in order.
            classes: Names of the classes.
            device: Where the collective takes place: the GPU with NCCL.
            path: Where this process has saved its moments, for the message if another has failed.
        """
        if self.count == 1:
            return dict(moments)
        widths = torch.zeros(len(layers), dtype=torch.int64, device=device)
        if moments:
            widths = torch.tensor([moments[n].n_channels for n in layers], device=device)
        all_widths = widths.clone()
        self._collective(lambda: dist.all_reduce(all_widths, dist.ReduceOp.MAX), path)
        if not int(all_widths.max()):
            return {}
        own = {
            name: moments[name].to(device)
            if moments
            else ClassMoments.zeros(int(width), classes, device)
            for name, width in zip(layers, all_widths.tolist(), strict=True)
        }
        packed = torch.cat([_pack(own[name]) for name in layers])
        received = [torch.empty_like(packed) for _ in range(self.count)]
        self._collective(lambda: dist.all_gather(received, packed), path)
        parts = [_unpack(each, own) for each in received]
        return {name: reduce(ClassMoments.merge, [part[name] for part in parts]) for name in layers}

    def _collective(self, run: Any, path: Path | None) -> None:
        try:
            run()
            return
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
        # Raised out here, as torch's error has frames that would keep the group up after its end.
        kept = "" if path is None else f"; its moments are in {path}, go on with resume"
        raise InputError(f"rank {self.rank} of {self.count} lost another process{kept}: {reason}")


def _pack(moments: ClassMoments) -> Tensor:
    """Return count, mean and m2 as one run of int64 with their bits."""
    parts = (moments.count, moments.mean, moments.m2)
    return torch.cat([part.contiguous().view(torch.int64).flatten() for part in parts])


def _unpack(packed: Tensor, like: Mapping[str, ClassMoments]) -> dict[str, ClassMoments]:
    """Return the moments in ``packed``, which have the shapes of ``like``."""
    found, start = {}, 0
    for name, layer in like.items():
        parts = []
        for tensor in (layer.count, layer.mean, layer.m2):
            piece = packed[start : start + tensor.numel()]
            parts.append(piece.view(tensor.dtype).reshape(tensor.shape))
            start += tensor.numel()
        found[name] = ClassMoments(parts[0], parts[1], parts[2], layer.class_names)
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:40] + "..."
