"""Telling networks apart without reading all of their weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

_SAMPLED = 256  # numbers of each tensor


def fingerprint(model: nn.Module) -> str:
    """Return a SHA-256 of the names, shapes and types of a network's tensors, and some of each."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // _SAMPLED)].cpu().contiguous()
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
