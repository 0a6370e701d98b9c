"""The report of effect: counts are exact, times are taken in turns."""

import numpy as np
import pytest
import torch
from helpers import complains
from torch import nn

pytest.importorskip("ultralytics")

from actprune_gpu.models.ultralytics import effect
from actprune_gpu.models.ultralytics.channels import shrink_model, trace_model
from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint, save_checkpoint
from actprune_gpu.models.ultralytics.effect import measure_effect, network_cost


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pruned(tiny_checkpoint, tmp_path):
    checkpoint = load_checkpoint(tiny_checkpoint)
    graph = trace_model(checkpoint.model)
    keep = {group.name: range(group.n_channels // 2) for group in graph.groups}
    shrink_model(checkpoint.model, graph, graph.kept(keep))
    save_checkpoint(checkpoint, checkpoint.model, tmp_path / "pruned.pt")
    return tmp_path / "pruned.pt"


def counted_gflops(model, image_size):
    """Operations of the fused network's convolutions, without that which decodes boxes."""
    model.fuse(verbose=False)
    total = []

    def count(module, inputs, output):
        at = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        total.append(2 * module.weight.numel() * at[:, 0].numel())

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and ".dfl." not in name:
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, image_size, image_size))
    return sum(total) / 1e9


def test_figures(tiny_checkpoint, pruned):
    accuracy = {"map50": 0.5, "map50_95": 0.3}
    found = measure_effect(
        *(tiny_checkpoint, pruned),
        image_size=128,
        repeats=5,
        threads=1,
        device="cpu",
        accuracy_before=accuracy,
    )
    assert (found.image_size, found.repeats, found.device, found.threads) == (128, 5, "cpu", 1)
    for path, figures in ((tiny_checkpoint, found.before), (pruned, found.after)):
        model = load_checkpoint(path).model
        assert figures.parameters == sum(p.numel() for p in model.parameters())
        assert figures.gflops == pytest.approx(counted_gflops(model, 128))
        assert figures.file_bytes == path.stat().st_size
        assert 0 < figures.latency.p20 <= figures.latency.median <= figures.latency.p80
    assert found.after.parameters < found.before.parameters
    assert found.after.gflops < found.before.gflops
    assert found.latency_ratio > 0
    assert found.before.accuracy == accuracy
    assert found.after.accuracy is None


def test_operations_grow_with_the_image(tiny_checkpoint):
    model = load_checkpoint(tiny_checkpoint).model
    parameters, gflops = network_cost(model, 64)
    assert network_cost(model, 160) == (parameters, pytest.approx(gflops * 2.5**2))


def test_the_branch_that_only_training_needs_costs_nothing():
    """YOLOv10 trains two heads and predicts with one."""
    import ultralytics

    model = ultralytics.YOLO("yolov10n.yaml").model
    _, gflops = network_cost(model, 96)
    assert gflops == pytest.approx(counted_gflops(model, 96), rel=2e-3)


def test_runs_are_taken_in_turns_and_compared_in_pairs(tiny_checkpoint, monkeypatch):
    clock, order = [0.0], []

    def fake(name, seconds):
        def run():
            order.append(name)
            clock[0] += next(seconds)

        return run

    monkeypatch.setattr(effect.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(effect, "_WARM_UP_SECONDS", 0.0)
    warm = [9.0] * 3
    # The machine slows down from pair to pair; the ratio within each is one half.
    before, after = (iter([*warm, *(scale * s for s in (1, 2, 4, 8))]) for scale in (2, 1))
    first, second = effect.times(fake("before", before), fake("after", after), 4)
    assert order[:6] == ["before"] * 3 + ["after"] * 3
    assert order[6:] == ["before", "after", "after", "before"] * 2
    assert first == pytest.approx([2000, 4000, 8000, 16000])
    assert second == pytest.approx([1000, 2000, 4000, 8000])

    runs = iter([fake("a", iter([*warm, 2, 4, 8])), fake("b", iter([*warm, 1, 3, 2]))])
    monkeypatch.setattr(effect, "runner", lambda *_: next(runs))
    found = measure_effect(tiny_checkpoint, tiny_checkpoint, repeats=3, device="cpu")
    assert found.latency_ratio == pytest.approx(np.median([0.5, 0.75, 0.25]))
    assert found.before.latency.median == pytest.approx(4000)
    assert found.after.latency.p20 == pytest.approx(np.percentile([1000, 3000, 2000], 20))


def test_threads_are_set_for_the_time_of_the_runs(tiny_checkpoint, monkeypatch):
    seen = []
    monkeypatch.setattr(
        effect, "times", lambda *_: seen.append(torch.get_num_threads()) or ([1.0], [1.0])
    )
    assert measure_effect(tiny_checkpoint, tiny_checkpoint, threads=2, device="cpu").threads == 2
    assert seen == [2]
    assert torch.get_num_threads() == 1


def test_bad_inputs(tiny_checkpoint, tmp_path):
    for name, bad in (("repeats", 0), ("threads", -1), ("image_size", 64.0), ("repeats", True)):
        with complains(name, "from 1", repr(bad)):
            measure_effect(tiny_checkpoint, tiny_checkpoint, **{name: bad})
    with complains("multiple of 8", "100", "tiny.pt"):
        measure_effect(tiny_checkpoint, tiny_checkpoint, image_size=100)
    with complains("no model file"):
        measure_effect(tiny_checkpoint, tmp_path / "none.pt")
    with complains("device"):
        measure_effect(tiny_checkpoint, tiny_checkpoint, device="0,1")
