"""What PyTorch's operations do to the channels of their operands."""

from __future__ import annotations

import re
from typing import Any

import torch

# By name, without the number of axes of the maps: "max_pool2d" is "max_pool".
_KINDS = {
    "convolution": {"convolution"},
    "linear": {"addmm", "mm"},
    "products": {"bmm"},
    "normalization": {"native_batch_norm", "_native_batch_norm_legit_no_training"},
    "same": {
        *("detach", "alias", "clone", "contiguous", "_to_copy", "lift_fresh", "native_dropout"),
        *("as_strided_", "hardswish", "hardswish_", "leaky_relu", "leaky_relu_"),
        *("log_sigmoid_forward", "rrelu_with_noise", "rrelu_with_noise_"),
    },
    "maps": {
        *("max_pool_with_indices", "avg_pool", "_adaptive_avg_pool", "adaptive_max_pool"),
        *("upsample_nearest", "_upsample_nearest_exact", "upsample_linear", "upsample_bilinear"),
        *("upsample_bicubic", "upsample_trilinear"),
        *("constant_pad_nd", "reflection_pad", "replication_pad"),
    },
    "reshape": {
        *("view", "_unsafe_view", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand"),
    },
    "reduction": {
        *("mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp"),
        "linalg_vector_norm",
    },
    "pointwise": {"_prelu_kernel"},  # PyTorch says so of most others
    "halves": {"glu"},
    "softmax": {"_softmax", "_log_softmax", "_safe_softmax"},
    "cut": {"split", "split_with_sizes", "unbind", "select", "slice"},
    "cat": {"cat"},
    "stack": {"stack"},
    # New tensors, of which only shape and type are taken from another.
    "fresh": {
        *("new_zeros", "new_ones", "new_empty", "new_full", "zeros_like", "ones_like"),
        *("empty_like", "full_like", "new_empty_strided", "rand_like", "randn_like"),
    },
}
# What of a weight is still that weight.
WEIGHT_VIEWS = {
    *("t", "transpose", "permute", "expand", "view", "_unsafe_view", "unsqueeze", "detach"),
    "_to_copy",
}

_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
_N_AXES = re.compile("([123])d")


def kind_of(func: Any) -> str | None:
    """Return what sort of operation it is; ``None`` if nothing is known of it."""
    name = func.overloadpacket.__name__
    kind = _KIND_OF.get(_N_AXES.sub("", name))
    if kind is not None:
        return kind
    # Not every version says of all operations in place what it says of their twins.
    twin = getattr(getattr(torch.ops.aten, name.removesuffix("_"), func), func._overloadname, func)
    return "pointwise" if torch.Tag.pointwise in {*func.tags, *twin.tags} else None


def changed_axes(func: Any, args: Any) -> set[int]:
    """Return the axes along which an operation pools, resizes or pads maps."""
    name, last = func.overloadpacket.__name__, args[0].ndim - 1
    if name == "constant_pad_nd":
        sides = zip(args[1][::2], args[1][1::2], strict=True)
        return {last - axis for axis, (before, after) in enumerate(sides) if before or after}
    n_axes = _N_AXES.search(name)
    assert n_axes is not None
    return {last - axis for axis in range(int(n_axes[1]))}


def reduced_dims(func: Any, args: Any, kwargs: Any) -> set[int] | None:
    """Return the axes that a reduction takes away; ``None`` if that is not said."""
    at = 2 if func.overloadpacket.__name__ == "linalg_vector_norm" else 1
    dims = args[at] if len(args) > at else kwargs.get("dim")
    if dims is None or isinstance(dims, bool | torch.dtype | torch.Tensor):
        return None
    n_axes = args[0].ndim
    return {dim % n_axes for dim in ([dims] if isinstance(dims, int) else dims)} or None


def cut_dim(func: Any, args: Any) -> int:
    """Return the axis along which an operation takes parts."""
    at = 2 if func.overloadpacket.__name__ in ("split", "split_with_sizes") else 1
    return int(args[at]) if len(args) > at else 0
