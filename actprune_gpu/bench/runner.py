"""Running cases: check for equal work, time, and put it into rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch

from .cases import OURS, Case, Contender
from .timing import Ceilings, Timing, measure


@dataclass(frozen=True)
class Row:
    """One contender in one case.

    Attributes:
        case: Name of the case.
        size: Its size.
        contender: Who.
        p20: 20th percentile of the repeats, in milliseconds; ``None`` if it did not run.
        p50: Median.
        p80: 80th percentile.
        peak_mib: Memory taken on top of before, in MiB, sampled.
        quality: What the result is worth.
        ratio: Median of the pairwise ratios of its time to ours.
        floor_share: The least time possible over ours.
        note: What else a reader must know: what was scaled, what is wrong, what is missing.
        ok: Whether it did equal work.
    """

    case: str
    size: int
    contender: str
    p20: float | None = None
    p50: float | None = None
    p80: float | None = None
    peak_mib: float | None = None
    quality: str = ""
    ratio: float | None = None
    floor_share: float | None = None
    note: str = ""
    ok: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def run_case(
    name: str,
    size: int,
    case: Case,
    *,
    repeats: int,
    with_peers: bool,
    ceilings: Ceilings,
    device: torch.device,
) -> Iterator[Row]:
    """Yield a row for each contender; those that are missing or wrong say so.

    Our work on ``device``, if that is not the CPU, is a contender beside that on the CPU.
    """
    contenders = dict(case.contenders)
    if device.type != "cpu" and case.on_device:
        contenders[f"{OURS} on {device}"] = Contender(_waiting(case.on_device(device), device))
    present = {}
    for contender, how in contenders.items():
        if not contender.startswith(OURS) and not with_peers:
            continue
        if how.needs and find_spec(how.needs) is None:
            note = f"not installed: {how.needs}"
            yield Row(name, size, contender, note=note, ok=False)
        else:
            present[contender] = how
    if OURS not in present:
        return
    timings, results = measure({who: how.run for who, how in present.items()}, repeats)
    ours = timings[OURS]
    for contender, how in present.items():
        timing = _scaled(timings[contender], how.scale)
        notes = [case.notes.get(contender, "")]
        fault = ""
        if contender != OURS and how.equal_work:
            fault = case.fault(results[OURS], results[contender])
        pairs = zip(timing.milliseconds, ours.milliseconds, strict=True)
        ratios = sorted(theirs / mine for theirs, mine in pairs)
        floor = None
        if contender == OURS and case.floor_seconds:
            floor = 1e3 * case.floor_seconds(ceilings) / timing.percentile(50)
        yield Row(
            name,
            size,
            contender,
            timing.percentile(20),
            timing.percentile(50),
            timing.percentile(80),
            timing.peak_mib,
            case.quality(results[contender]),
            ratios[len(ratios) // 2],
            floor,
            "; ".join(note for note in [fault and f"NOT EQUAL WORK: {fault}", *notes] if note),
            not fault,
        )


def _waiting(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """Return what runs on a device and ends when the device has done it."""

    def done() -> Any:
        result = run()
        torch.cuda.synchronize(device)
        return result

    return done


def _scaled(timing: Timing, scale: float) -> Timing:
    return Timing(tuple(scale * time for time in timing.milliseconds), timing.peak_mib)
