"""Folders that `prune` leaves: moments and plan belong to each other, channel by channel."""

import numpy as np
import pytest
import torch

pytest.importorskip("ultralytics")

from actprune_gpu import select_channels, yolo
from actprune_gpu.demo import CHECKPOINT
from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint
from actprune_gpu.models.ultralytics.effect import network_cost
from actprune_gpu.pruning.folder import PlanFolder
from actprune_gpu.report import explain, measure_stability
from actprune_gpu.selection import SelectionConfig


@pytest.fixture(scope="module", params=[1, 2])
def folder(request, shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("folder") / "out"
    yolo.prune(
        CHECKPOINT,
        shapes,
        out=out,
        layers=["model.4.*", "model.6.*"],
        config=SelectionConfig(weight="l2", budget=(0.6, 0.8), perplexity=4),
        steps=request.param,
        repair="bn",
        repair_images=8,
    )
    return PlanFolder.load(out)


def test_the_moments_select_what_the_plan_keeps(folder):
    """Of the last step: the layers may have lost channels before, in several groups at once."""
    plan, earlier = folder.plan, 0
    assert any(len(group.members) > 1 for group in plan.groups)
    for group in plan.groups:
        moments = folder.moments_of(group, folder.moments)
        assert all(part.n_channels == len(group.candidates) for part in moments)
        earlier += group.channels - len(group.candidates)
        low, high = (len(group.keep) / len(group.candidates),) * 2
        config = plan.config.model_copy(update={"budget": (low, high)})
        weights = torch.tensor(group.weights, dtype=torch.float64)
        selection = select_channels(moments, weights, config=config)
        assert [group.candidates[at] for at in selection.keep.tolist()] == group.keep
        assert selection.k_star == group.k_star
        np.testing.assert_array_equal(selection.embedding, group.embedding)
    assert (earlier > 0) is (plan.steps > 1)


def test_the_plan_says_what_the_network_costs(folder):
    size = folder.plan.gathering["image_size"]
    for place, file in enumerate((CHECKPOINT, folder.path / "pruned.pt")):
        parameters, gflops = network_cost(load_checkpoint(file).model, size)
        assert folder.plan.cost.parameters[place] == parameters
        assert folder.plan.cost.flops[place] == pytest.approx(gflops * 1e9)


def test_stability_and_explain_work_on_it(folder):
    stability = measure_stability(folder.path, seeds=1, resamples=2)
    assert stability.resamples == 2
    names = [group.name for group in folder.plan.groups if group.k < len(group.candidates)]
    assert list(stability.groups) == names
    for group in folder.plan.groups[:3]:
        layer, numbers = next(reversed(group.members.items()))
        for at in (group.keep[0], group.drop[0]):
            said = explain(folder.path, layer, numbers[at]).sentence
            assert said.startswith(f"Channel {numbers[at]} of {layer} was ")
            assert ("kept" in said.split(":")[0]) is (at in group.keep)
