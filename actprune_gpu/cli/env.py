"""The command ``env``: what is installed, what the kernels run on, and what is missing."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, distributions, version

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_PACKAGES = ("actprune_gpu", "torch", "numpy", "numba", "kneed", "safetensors", "ultralytics")
_CUPYS = ("cupy-cuda13x", "cupy-cuda12x")
_WIDTH = 160
_OPTIONAL = {
    "ultralytics": "pip install 'actprune_gpu[yolo]', for YOLO models",
    "cupy-cuda13x": "pip install 'actprune_gpu[cuda13]', for GPUs with CUDA 13",
    "cupy-cuda12x": "pip install 'actprune_gpu[cuda12]', for GPUs with CUDA 12",
}


def env_command() -> None:
    """Print versions, devices and kernels, and what is missing with the command that fixes it."""
    # Wide, so that commands are not broken up and can be copied.
    console = Console(width=_WIDTH, soft_wrap=True)
    console.print(_packages())
    console.print()
    console.print(_devices())
    console.print()
    console.print(_engines())


def _packages() -> Table:
    import torch

    table = Table("package", "version", "note", box=None, pad_edge=False)
    table.add_row("python", platform.python_version(), platform.platform())
    for name in (*_PACKAGES, *_cupys()):
        try:
            table.add_row(name, version(name), f"CUDA {torch.version.cuda}" * (name == "torch"))
        except PackageNotFoundError:
            note = _OPTIONAL.get(name, f"pip install {name}")
            table.add_row(name, "missing", escape(note))
    _add_cuda(table)
    return table


def _cupys() -> list[str]:
    """Return CuPy's package for PyTorch's CUDA, and what there is: two do not go together."""
    import torch

    fitting = f"cupy-cuda{(torch.version.cuda or '').partition('.')[0]}x"
    installed = {distribution.name for distribution in distributions()}
    return [name for name in _CUPYS if name == fitting or name in installed]


def _add_cuda(table: Table) -> None:
    """Add what the kernels are compiled with where there are no binaries, and the driver."""
    from ..backends.cuda import nvrtc
    from ..errors import BackendUnavailableError

    try:
        import cupy

        newest = cupy.cuda.runtime.driverGetVersion()
    except Exception:  # where the devices are, it says why CuPy does not work
        return
    try:
        table.add_row("NVRTC", "{}.{}".format(*nvrtc.version()), "compiles the kernels")
    except BackendUnavailableError as error:
        table.add_row("NVRTC", "missing", escape(str(error)))
    major, minor = newest // 1000, newest % 1000 // 10
    table.add_row("driver", f"CUDA {major}.{minor}" if newest else "missing", "of NVIDIA")


def _devices() -> Table:
    import torch

    from ..devices import cuda_fault

    table = Table("device", "what", "kernels", box=None, pad_edge=False)
    table.add_row("cpu", f"{torch.get_num_threads()} threads", "Numba, compiled when first used")
    if not torch.cuda.is_available():
        table.add_row("cuda", "none", escape(cuda_fault(None) or ""))
        return table
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        what = (
            f"{card.name}, compute capability {card.major}.{card.minor}, "
            f"{card.total_memory / 2**30:.0f} GiB, {card.multi_processor_count} multiprocessors"
        )
        table.add_row(f"cuda:{index}", what, escape(cuda_fault(index) or _kernels(index)))
    return table


def _engines() -> Table:
    """Say which engines for t-SNE can be started: some installed ones cannot."""
    from ..engines import INSTALL, require_engine
    from ..errors import BackendUnavailableError

    table = Table("t-SNE engine", "state", box=None, pad_edge=False)
    table.add_column("note", no_wrap=True)
    table.add_row("exact", "built in")
    for engine in INSTALL:
        try:
            require_engine(engine)
            table.add_row(engine, "can be started", "approximate, not reproducible")
        except BackendUnavailableError as error:
            cause = str(error).partition(f": {INSTALL[engine]}")[0]
            table.add_row(engine, escape(cause.partition(" cannot be used ")[2]), INSTALL[engine])
    return table


def _kernels(index: int) -> str:
    """Load all kernels on a device and say from where, or why they cannot be loaded."""
    from ..backends.cuda import sources
    from ..backends.cuda.cupy_launcher import CupyLauncher

    try:
        launcher = CupyLauncher(index)
        return ", ".join(f"{file}: {launcher.load(file)}" for file in sources.files())
    except Exception as error:  # this command is for those with whom something does not work
        return "cannot be loaded: " + " ".join(str(error).split())
