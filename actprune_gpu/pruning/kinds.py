"""The kinds of modules whose channels are followed."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_STATISTICS = {"weight", "bias", "running_mean", "running_var"}


def is_linear(module: nn.Module) -> bool:
    """Return whether it is a linear layer: its channels are along the last axis."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """Return whether it is the linear layer of Hugging Face's GPT-2, with weights ``[in, out]``."""
    named = any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)
    if not named or not hasattr(module, "nf") or isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        return False
    return getattr(getattr(module, "weight", None), "ndim", 0) == 2 and hasattr(module, "bias")


def is_convolution(module: nn.Module) -> bool:
    """Return whether it is a convolution; a linear layer is one of a single tap."""
    return isinstance(module, _CONVOLUTIONS) or is_linear(module)


def is_transposed(module: nn.Module) -> bool:
    """Return whether it is a transposed convolution."""
    return isinstance(module, _TRANSPOSED)


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether it is a batch normalization, by PyTorch."""
    return isinstance(module, _BATCH_NORMS)


def is_frozen(module: nn.Module) -> bool:
    """Return whether it is a batch normalization of buffers, as torchvision's detectors have."""
    buffers = {name for name, _ in module.named_buffers(recurse=False)}
    inside = [*module.children(), *module.parameters()]
    return "FrozenBatchNorm" in type(module).__name__ and buffers == _STATISTICS and not inside


def is_normalization(module: nn.Module) -> bool:
    """Return whether it normalizes every channel by itself."""
    return is_batch_norm(module) or isinstance(module, _INSTANCE_NORMS) or is_frozen(module)


def epsilon_of(norm: nn.Module) -> float:
    """Return what a batch normalization adds to the variances; Hugging Face's do not say."""
    return float(getattr(norm, "eps", 1e-5))


def is_channelwise(module: nn.Module) -> bool:
    """Return whether it treats every channel by itself, and is known as a whole only.

    Batch normalizations by PyTorch are known by the operation that they are.
    """
    if is_parametrized(module):
        return False
    if isinstance(module, nn.PReLU):
        return module.num_parameters > 1
    return is_normalization(module) and not is_batch_norm(module)


def output_axis(module: nn.Module) -> int:
    """Return along which axis the weights of a convolution that mixes have its outputs."""
    return int(is_transposed(module) or is_conv1d(module))
