"""Folders of results made of synthetic moments: what `prune` leaves, without a network."""

from __future__ import annotations

import json

import numpy as np
import torch
from helpers import planted_moments

from actprune_gpu.moments import ClassMoments, save_moments
from actprune_gpu.pruning.folder import MOMENTS_FILE, PLAN_FILE, PlanFolder
from actprune_gpu.pruning.plan import Costs, GroupPlan, PruningPlan
from actprune_gpu.selection import SelectionConfig, select_channels
from actprune_gpu.shards import save_shards, shards_path

ODD = ('<script>alert("x")</script>', "dog & 'cat'", "日本", "</script><b>", "{{data}}", "\\u003c")


def make_folder(path, *, layers=4, shards=True, model="net.pt", names=ODD, change=None, **settings):
    """Writes a plan of some layers, their moments and shards, and returns the folder, read.

    The layers have 16, 24, ... channels in 4, 6, ... planted groups; the first keeps all of them,
    the second goes together with a second member, which puts its channels out in another order.
    """
    path.mkdir(parents=True, exist_ok=True)
    config = SelectionConfig(**{"budget": (0.25, 0.5), "n_iter": 300, "perplexity": 3} | settings)
    moments, groups = {}, []
    for number in range(layers):
        n_channels = 16 + 8 * number
        own, _ = planted_moments(n_channels // 4, 4, n_classes=len(names), jitter=0.3, seed=number)
        own = ClassMoments(own.count, own.mean, own.m2, tuple(names))
        name = f"layer.{number}"
        members = {name: list(range(n_channels))}
        moments[name] = own
        if number == 1:
            order = np.random.default_rng(1).permutation(n_channels)
            members["<i>second</i>"] = order.tolist()
            back = np.argsort(order)
            other, _ = planted_moments(n_channels // 4, 4, n_classes=len(names), seed=40)
            other = ClassMoments(other.count, other.mean, other.m2, tuple(names))
            moments["<i>second</i>"] = other.select(torch.from_numpy(back))
        parts = [moments[layer].select(torch.tensor(at)) for layer, at in members.items()]
        weights = torch.from_numpy(np.random.default_rng(number).uniform(0.1, 1, n_channels))
        weights[3] = weights[2]
        own_config = config.model_copy(update={"budget": (1.0, 1.0)}) if number == 0 else config
        selection = select_channels(parts, weights, config=own_config)
        groups.append(GroupPlan.of(name, members, selection, range(n_channels)))
    plan = PruningPlan(
        model_name=model,
        model_sha256="0" * 64,
        data_sha256="1" * 64,
        gathering={
            "split": "train",
            "n_images": 80,
            "images": 80,
            "image_size": 640,
            "objects": 400,
            "matched": 300,
        },
        selection=config.model_dump(mode="json"),
        mode="remove",
        repair="none",
        repair_images=0,
        targets={},
        steps=1,
        groups=groups,
        versions={"python": "3"},
        cost=Costs(parameters=(1000, 400), flops=(8_000_000, 3_000_000)),
    )
    if change:
        plan = change(plan)
    plan.save(path / PLAN_FILE)
    account = {
        "images_done": 80,
        "settings": {"data": "1" * 64, "model": "0" * 64, "n_images": 80},
    }
    notes = {"gather": json.dumps(account)}
    save_moments(path / MOMENTS_FILE, moments, notes)
    if shards:
        save_shards(shards_path(path / MOMENTS_FILE), [shaken(moments, n) for n in range(8)], notes)
    return PlanFolder.load(path)


def shaken(moments, seed, by=0.15):
    """The moments of an eighth of the images: a little different from those of all."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, layer in moments.items():
        noise = torch.from_numpy(rng.normal(0, by, layer.mean.shape))
        count = layer.count // 8
        spread = (layer.m2 / layer.count).sqrt()
        found[name] = ClassMoments(
            count, layer.mean + noise * spread, layer.m2 / 8, layer.class_names
        )
    return found
