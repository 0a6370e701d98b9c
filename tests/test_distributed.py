"""Several processes gather what one would, bit for bit; and stop together."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest
import torch
from ranks import network, part

from actprune_gpu import ClassMoments, gather_moments, load_moments

HERE = Path(__file__).parent


def launch(folder, count, what):
    """Run `ranks.py` in so many processes; return their exit codes."""
    return start([str(HERE / "ranks.py"), str(folder), what], count)[0]


def start(arguments, count):
    """Run Python in so many processes, as torchrun does; return exit codes and standard output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        environment = {
            **os.environ,
            **{"RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
        }
        command = [sys.executable, *arguments]
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        outputs = []
        for rank, process in enumerate(processes):
            output, errors = process.communicate(timeout=180)
            print(f"rank {rank} ended with {process.returncode}:\n{errors}")  # for a failure
            outputs.append(output)
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def alone(count):
    """The parts gathered one after the other in this process, and merged."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    parts = [
        gather_moments(network(), part(rank, count), layers=["0", "2"], classes=3)
        for rank in range(count)
    ]
    torch.set_num_threads(threads)
    return {layer: reduce(ClassMoments.merge, [each[layer] for each in parts]) for layer in "02"}


@pytest.mark.parametrize("count", [2, 3])
def test_all_ranks_get_what_one_process_merges(tmp_path, count):
    assert launch(tmp_path, count, "plain") == [0] * count
    for rank in range(count):
        assert load_moments(tmp_path / f"result{rank}.safetensors")[0] == alone(count)


def test_a_rank_that_dies_stops_the_others_and_they_go_on(tmp_path):
    codes = launch(tmp_path, 2, "killed")
    assert codes == [2, 9]
    message = (tmp_path / "error0.txt").read_text()
    assert "rank 0 of 2 lost another process" in message
    saved = tmp_path / "moments.rank0of2.safetensors"
    assert str(saved) in message
    assert "resume" in message
    assert "\n" not in message
    assert not (tmp_path / "result0.safetensors").exists()
    # The dead one had saved its first batch, as it was told to.
    assert load_moments(tmp_path / "moments.rank1of2.safetensors")[0]["0"].count[:, 0].sum() == 4
    assert launch(tmp_path, 2, "resumed") == [0, 0]
    assert load_moments(tmp_path / "result0.safetensors")[0] == alone(2)


def test_ranks_with_different_models_are_told_before_any_work(tmp_path):
    assert launch(tmp_path, 2, "other models") == [2, 2]
    for rank in range(2):
        message = (tmp_path / f"error{rank}.txt").read_text()
        assert "same model" in message
        assert "rank 0" in message
        assert "rank 1" in message
    assert not list(tmp_path.glob("*.safetensors"))


def test_all_ranks_get_one_pruned_network(tmp_path):
    assert launch(tmp_path, 3, "prune") == [0] * 3
    plans = [(tmp_path / f"plan{rank}.json").read_text() for rank in range(3)]
    assert plans[0] == plans[1] == plans[2]
    states = [torch.load(tmp_path / f"model{rank}.pt") for rank in range(3)]
    assert len(states[0]["0.bias"]) < 5
    for other in states[1:]:
        assert list(other) == list(states[0])
        assert all(torch.equal(other[name], states[0][name]) for name in other)


def test_the_command_line_gathers_in_parts_and_writes_once(tmp_path):
    pytest.importorskip("ultralytics")
    from actprune_gpu import yolo
    from actprune_gpu.demo import CHECKPOINT, write_shapes
    from actprune_gpu.pruning.plan import PruningPlan

    data = write_shapes(tmp_path / "data", n_train=21, n_val=2, seed=0)
    out = tmp_path / "out"
    options = ["--model", str(CHECKPOINT), "--data", str(data), "--layers", "model.4.*"]
    options += ["--repair-images", "4", "--no-val", "--device", "cpu", "--out", str(out)]
    codes, outputs = start(["-m", "actprune_gpu", "prune", *options], 2)
    assert codes == [0, 0]
    assert "plan.json" in outputs[0]
    assert outputs[1] == ""
    assert not list(out.glob("*rank*"))
    plan = PruningPlan.load(out / "plan.json")
    assert plan.gathering["images"] == 21

    checkpoint, dataset = yolo.load_checkpoint(CHECKPOINT), yolo.load_dataset(data)
    layers = list(dict.fromkeys(layer for group in plan.groups for layer in group.members))
    size = plan.gathering["image_size"]
    halves = [
        yolo.gather(checkpoint, replace(dataset, images=images), layers, image_size=size)
        for images in (dataset.images[:10], dataset.images[10:])
    ]
    merged, _ = load_moments(out / "moments.safetensors")
    for layer in layers:
        assert merged[layer] == halves[0].moments[layer].merge(halves[1].moments[layer])
    assert plan.gathering["matched"] == sum(half.matched for half in halves)
    assert plan.gathering["objects"] == sum(half.objects for half in halves)
    assert yolo.load_checkpoint(out / "pruned.pt").model is not None
