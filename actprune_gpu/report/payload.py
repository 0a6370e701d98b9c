"""The data of the page, as JSON: small, because a whole network goes into one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..pruning.folder import ACCURACIES, EFFECT_FILE, EFFECT_SCHEMA, PlanFolder
from ..pruning.plan import PruningPlan
from . import sentences
from .evidence import GroupEvidence, PairMatrix, evidence_of
from .stability import Repeats, Stability

# Distances from 0 to 2 in 64 steps, a character each.
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_COLUMNS = 48  # of the heat map: with fewer class pairs all of them
_NAMED = 5  # of the most and least separable pairs


def payload_of(folder: PlanFolder) -> dict[str, Any]:
    """Return all that the page shows."""
    plan = folder.plan
    stability = Stability.load(folder)
    figures, measured = _figures(folder)
    groups = [_group(evidence_of(folder, group), plan, stability) for group in plan.groups]
    return {
        "model": plan.model_name,
        "criterion": plan.config.criterion,
        "steps": plan.steps,
        "kind": sentences.kind_text(plan.config),
        "figures": figures,
        "measured": measured,
        "facts": _facts(plan),
        "notes": list(folder.notes),
        "templates": sentences.TEMPLATES,
        "larger": sentences.LARGER,
        "equal": sentences.EQUAL,
        "classes": _classes(groups),
        "stability": stability
        and {"seeds": stability.seeds, "resamples": stability.resamples, **_overall(stability)},
        "groups": groups,
    }


def _figures(folder: PlanFolder) -> tuple[list[dict[str, Any]], str]:
    """Return what is known of the network before and after, and how it was measured."""
    plan, effect = folder.plan, folder.read(EFFECT_FILE, EFFECT_SCHEMA)
    channels = sum(group.channels for group in plan.groups)
    kept = sum(len(group.keep) for group in plan.groups)
    figures = [_figure("Channels", "in the groups selected from", channels, kept)]
    if plan.cost:
        before, after = plan.cost.parameters
        figures.append(_figure("Parameters", "million", before / 1e6, after / 1e6))
        before, after = plan.cost.flops
        figures.append(_figure("Operations", "GFLOPs, one image", before / 1e9, after / 1e9))
    if effect is None:
        return figures, "Latency and accuracy were not measured."
    try:
        return figures + _measured(effect), (
            f"Latency: {effect['image_size']} pixels, one image, {effect['device']}, "
            f"{effect['threads']} threads; ratio of pairs of runs."
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder.path / EFFECT_FILE} is damaged: {error}") from None


def _measured(effect: Mapping[str, Any]) -> list[dict[str, Any]]:
    old, new = effect["before"], effect["after"]
    times = [old["latency"]["median"], new["latency"]["median"]]
    figures = [{**_figure("Latency", "ms, median", *times), "ratio": effect["latency_ratio"]}]
    first, second = old["accuracy"] or {}, new["accuracy"] or {}
    for key, name in ACCURACIES.items():
        if key in first and key in second:
            pair = (first[key], second[key])
            figures.append(_figure(name, "on the validation images", *pair))
    return figures


def _figure(name: str, unit: str, before: float, after: float) -> dict[str, Any]:
    ratio = after / before if before else None
    return {"name": name, "unit": unit, "before": before, "after": after, "ratio": ratio}


def _looked_at(gathering: Mapping[str, Any]) -> str:
    """Return what a plan was made from: images with objects, or samples of any kind."""
    if "images" not in gathering:
        return f"{gathering.get('samples', 0)} samples"
    return (
        f"{gathering['images']} images of {gathering['split']}, "
        f"{gathering['matched']} of {gathering['objects']} objects matched"
    )


def _facts(plan: PruningPlan) -> list[tuple[str, str]]:
    """Return what people want to know of how a plan came about, with its heading."""
    config = plan.config
    by = "" if config.criterion != "separability" else f", weight {config.weight}"
    facts = [
        ("Selected by", f"{config.criterion}{by}"),
        ("Looked at", _looked_at(plan.gathering)),
    ]
    targets = ", ".join(f"{share:.3g} of the {name}" for name, share in plan.targets.items())
    if targets:
        facts.append(("Target", f"{targets}, shared by {config.allocation}"))
    elif config.budget:
        least, most = config.budget
        facts.append(("Budget", f"{least:g} to {most:g} of every layer"))
    else:
        facts.append(("Budget", "none: every layer keeps its knee"))
    if plan.steps > 1:
        facts.append(("Steps", str(plan.steps)))
    on = f" on {plan.repair_images} images" if plan.repair_images else ""
    facts.append(("Repaired by", plan.repair + on))
    facts.append(("Mode", plan.mode))
    facts.append(("Seed", str(config.seed)))
    facts.append(("Model", f"{plan.model_name}, SHA-256 {plan.model_sha256[:12]}"))
    versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    facts.append(("Versions", versions))
    return facts


def _group(
    evidence: GroupEvidence, plan: PruningPlan, stability: Stability | None
) -> dict[str, Any]:
    group = evidence.group
    order = _order(evidence)
    found: dict[str, Any] = {
        "name": group.name,
        "layer": evidence.layer,
        "members": [[layer, _ranges(numbers)] for layer, numbers in group.numbers.items()],
        "channels": group.channels,
        "numbers": evidence.numbers.tolist(),
        "k": group.k,
        "knee": group.k_star,
        "kneeReason": group.knee_reason,
        "reason": group.reason,
        "kept": "".join("01"[int(stays)] for stays in evidence.kept),
        "cases": "".join(sentences.cases_of(evidence, plan.config)),
        "rank": evidence.rank.tolist(),
        "order": order.tolist(),
        "weights": [sentences.weight_text(weight) for weight in group.weights],
    }
    gone = sorted(set(range(group.channels)) - set(group.candidates))
    if gone:
        found["gone"] = [group.members[evidence.layer][number] for number in gone]
    if evidence.keeper is not None:
        found["keeper"] = evidence.keeper.tolist()
        found["tie"] = [
            number
            for number, keeper in enumerate(evidence.keeper)
            if keeper != number and group.weights[keeper] == group.weights[number]
        ]
    if evidence.correlation is not None:
        found["r"] = [sentences.hundredths(value) for value in evidence.correlation]
    if group.embedding is not None:
        found["xy"] = _thousandths(np.array(group.embedding))
    if group.curves is not None:
        found["ks"] = [group.curves.ks[0], group.curves.ks[-1]]
        found["mss"] = [round(value, 4) for value in group.curves.mss]
    if evidence.matrix is not None:
        found["heat"] = _heat(evidence.matrix, order)
    if stability and group.name in stability.groups:
        own = stability.groups[group.name]
        found["stability"] = {
            "chance": round(own.chance, 3),
            "starts": _repeats(own.starts),
            "images": _repeats(own.images),
        }
    return found


def _order(evidence: GroupEvidence) -> NDArray[np.int64]:
    """Return channels by cluster, the one that is kept first; without clusters by weight."""
    by_rank = np.argsort(evidence.rank)
    if evidence.keeper is None:
        return by_rank
    # The clusters by the rank of those that speak for them.
    return by_rank[np.argsort(evidence.rank[evidence.keeper[by_rank]], kind="stable")]


def _ranges(numbers: Sequence[int]) -> str:
    """Return channel numbers in words, consecutive ones together: ``"0-15, 20"``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in parts)


def _thousandths(points: NDArray[np.float64]) -> list[list[int]]:
    """Return points in a square of 1000, both axes with one scale."""
    low, high = points.min(0), points.max(0)
    scale = 1000.0 / max(float((high - low).max()), 1e-12)
    shift = (1000.0 - (high - low) * scale) / 2.0
    placed: list[list[int]] = ((points - low) * scale + shift).round().astype(int).tolist()
    return placed


def _heat(matrix: PairMatrix, order: NDArray[np.int64]) -> dict[str, Any]:
    """Return the heat map: rows in the page's order, columns from the most separable pair down.

    Of many class pairs, a third of the columns are the most and a third the least separable ones,
    and the rest lie evenly between.
    """
    total = sum(matrix.rows(batch).sum(0) for batch in matrix.batches())
    mean = np.asarray(total) / len(order)
    by_mean = np.argsort(-mean, kind="stable")
    columns = _columns(by_mean)
    cells, best, own = [], [], []
    for batch in matrix.batches():
        rows = matrix.rows(batch)
        cells.append(rows[:, columns])
        own.append(rows.mean(1))
        for row, pair in zip(rows, rows.argmax(1), strict=True):
            best.append([*matrix.pairs[pair].tolist(), round(float(row[pair]), 2)])
    levels = (np.concatenate(cells)[order] / 2.0 * 63.0).round().astype(int)
    return {
        "classes": list(matrix.classes),
        "all": len(by_mean),
        "pairs": matrix.pairs[columns].tolist(),
        "means": mean[columns].round(3).tolist(),
        "most": [_pair(matrix, pair, mean) for pair in by_mean[:_NAMED]],
        "least": [_pair(matrix, pair, mean) for pair in by_mean[::-1][:_NAMED]],
        "best": best,
        "mean": np.concatenate(own).round(3).tolist(),
        "cells": "".join(_ALPHABET[level] for level in levels.flatten()),
    }


def _columns(by_mean: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs that are drawn, of those in the order of their means."""
    n = len(by_mean)
    if n <= _COLUMNS:
        return by_mean
    third = _COLUMNS // 3
    between = np.linspace(third, n - third - 1, _COLUMNS - 2 * third).round().astype(int)
    places = np.concatenate([np.arange(third), between, np.arange(n - third, n)])
    columns: NDArray[np.int64] = by_mean[places]
    return columns


def _pair(matrix: PairMatrix, pair: int, mean: NDArray[np.float64]) -> list[Any]:
    return [*matrix.pairs[pair].tolist(), round(float(mean[pair]), 2)]


def _classes(groups: list[dict[str, Any]]) -> list[str]:
    """Number the class names of all heat maps once; in the groups, put numbers for names."""
    names: dict[str, int] = {}
    for group in groups:
        for name in group.get("heat", {}).get("classes", ()):
            names.setdefault(name, len(names))
    for group in groups:
        if "heat" in group:
            group["heat"]["classes"] = [names[name] for name in group["heat"]["classes"]]
    return list(names)


def _repeats(repeats: Repeats) -> dict[str, Any] | None:
    if repeats.mean is None:
        return None
    return {
        "mean": round(repeats.mean, 3),
        "jaccard": [round(value, 3) for value in repeats.jaccard],
        "knees": [min(repeats.knees), max(repeats.knees)],
        "kept": repeats.kept,
    }


def _overall(stability: Stability) -> dict[str, Any]:
    """Return the means over groups."""
    found: dict[str, Any] = {}
    groups = list(stability.groups.values())
    for name in ("starts", "images"):
        means = [getattr(group, name).mean for group in groups]
        known = [mean for mean in means if mean is not None]
        found[name] = round(float(np.mean(known)), 3) if known else None
    found["chance"] = round(float(np.mean([g.chance for g in groups])), 3) if groups else None
    return found
