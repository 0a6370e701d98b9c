"""What each process does in `test_distributed`: run by torchrun, or one by one."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from actprune_gpu import SelectionConfig, gather_moments, prune_model, save_moments
from actprune_gpu.distributed import processes
from actprune_gpu.errors import InputError

N_BATCHES = 6


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1)).eval()


def part(rank, count):
    """The batches of a rank: every count-th."""
    generator = torch.Generator().manual_seed(1)
    batches = [
        (
            torch.randn(4, 3, 6, 6, generator=generator),
            torch.randint(0, 3, (4,), generator=generator),
        )
        for _ in range(N_BATCHES)
    ]
    return batches[rank::count]


def main():
    folder, what = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    try:
        with processes():
            work(folder, what)
    finally:
        # One of gloo's threads that lives on may abort the process when Python ends. The system
        # may still list for a moment a thread that has been joined.
        end = time.monotonic() + 5
        while any("gloo" in name for name in threads()):
            assert time.monotonic() < end, threads()
            time.sleep(0.01)


def threads():
    """The names of this process's threads, where the system tells them."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # the thread has ended meanwhile
            names.append(path.read_text())
    return names


def work(folder, what):
    rank, count = dist.get_rank(), dist.get_world_size()

    def batches():
        for number, batch in enumerate(part(rank, count)):
            if what == "killed" and rank == 1 and number == 1:
                os._exit(9)
            yield batch

    if what == "prune":
        config = SelectionConfig(weight="reconstruct", allocation="damage", n_iter=100)
        result = prune_model(
            network(),
            [(x, y) for x, y in part(rank, count)],
            classes=3,
            config=config,
            target_params=0.7,
            repair_samples=9,
        )
        torch.save(result.model.state_dict(), folder / f"model{rank}.pt")
        result.plan.save(folder / f"plan{rank}.json")
        return
    try:
        moments = gather_moments(
            network(rank if what == "other models" else 0),
            list(part(rank, count)) if what != "killed" else batches(),
            layers=["0", "2"],
            classes=3,
            state_path=folder / "moments.safetensors",
            resume=what == "resumed",
            save_every=1,
        )
        save_moments(folder / f"result{rank}.safetensors", moments)
    except InputError as error:
        (folder / f"error{rank}.txt").write_text(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
