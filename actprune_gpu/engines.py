"""Other people's t-SNE on the GPU: approximate, and not reproducible from run to run.

They are imported only when asked for, and whatever goes wrong in them becomes one line.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .errors import BackendUnavailableError, InputError

Engine = Literal["exact", "tsnecuda", "cuml"]
_MODULES = {"tsnecuda": "tsnecuda", "cuml": "cuml.manifold"}
# What to do where they are missing or do not work.
INSTALL = {
    "tsnecuda": "conda install -c conda-forge tsnecuda (its wheels need CUDA 10.2 and MKL)",
    "cuml": "pip install cuml-cu13, or cuml-cu12 for CUDA 12",
}
_NEIGHBOURS = 32


def require_engine(engine: str) -> None:
    """Raise unless a t-SNE engine can be started.

    Raises:
        InputError: If there is no such engine.
        BackendUnavailableError: If it cannot; the message says why and what to do.
    """
    if engine != "exact":
        # tsnecuda looks for its libraries when it is made, not when it is imported.
        _call(engine, _class_of(engine))


def embed(
    engine: str,
    rows: Tensor,
    initial: Tensor,
    *,
    perplexity: float,
    n_iter: int,
    early_exaggeration: float,
    learning_rate: float,
    seed: int,
) -> Tensor:
    """Embed ``rows [N, F]`` in the plane with another engine.

    tsnecuda starts from ``initial [N, 2]`` and has no seed; cuml starts from a random place that
    ``seed`` gives, without promising the same result for it.

    Returns:
        ``[N, 2]`` float32 on the device of ``rows``.

    Raises:
        BackendUnavailableError: If the engine fails, or gives something else than an embedding.
    """
    n = rows.shape[0]
    made = _class_of(engine)
    options: dict[str, Any] = {
        "n_components": 2,
        "perplexity": perplexity,
        "early_exaggeration": early_exaggeration,
        "learning_rate": learning_rate,
    }
    data, start = (value.float().cpu().numpy() for value in (rows, initial))
    neighbours = min(n - 1, max(_NEIGHBOURS, int(3 * perplexity)))
    arguments: tuple[Any, ...] = (data,)
    if engine == "tsnecuda":
        options |= {"n_iter": n_iter, "num_neighbors": neighbours}
        options["device"] = rows.device.index or 0
        arguments = (data, start)
    else:
        # Newer versions name the iterations as scikit-learn does.
        names = _call(engine, lambda: inspect.signature(made).parameters)
        options["max_iter" if "max_iter" in names else "n_iter"] = n_iter
        options |= {"n_neighbors": neighbours, "init": "random", "random_state": seed}
    found: Tensor = _call(engine, lambda: _to_tensor(made(**options).fit_transform(*arguments)))
    if list(found.shape) != [n, 2] or not bool(torch.isfinite(found).all()):
        raise BackendUnavailableError(
            f"engine {engine!r} gave no finite embedding [{n}, 2], got {list(found.shape)}: "
            "use engine 'exact'"
        )
    return found.to(rows.device)


def _to_tensor(result: Any) -> Tensor:
    """Return an array of NumPy or, by its ``get``, of CuPy as a tensor on the CPU."""
    on_cpu = result.get() if type(result).__module__.startswith("cupy") else result
    return torch.from_numpy(np.array(on_cpu, np.float32))


def _class_of(engine: str) -> Callable[..., Any]:
    if engine not in _MODULES:
        raise InputError(f"engine must be 'exact', 'tsnecuda' or 'cuml', got {engine!r}")
    found: Callable[..., Any] = _call(
        engine, lambda: importlib.import_module(_MODULES[engine]).TSNE
    )
    return found


def _call(engine: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    # Whatever they raise: ImportError, OSError, CUDA's own, or even the wish to leave.
    except (Exception, SystemExit) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise BackendUnavailableError(
            f"engine {engine!r} cannot be used ({cause}): {INSTALL[engine]}, or use engine 'exact'"
        ) from None
