"""Devices by name, the errors that name the missing piece, and the launcher's calls to CuPy."""

import logging
import sys
import types
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from actprune_gpu.backends import backend_of
from actprune_gpu.backends.cuda import binaries, sources
from actprune_gpu.cli.main import run
from actprune_gpu.devices import resolve_device
from actprune_gpu.errors import BackendUnavailableError, InputError


@pytest.fixture
def gpu(monkeypatch):
    """Two GPUs, as far as PyTorch says, and a CuPy that works."""
    for name, value in {
        "is_available": True,
        "device_count": 2,
        "current_device": 0,
        "get_device_capability": (9, 0),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, value=value: value)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    cupy = FakeCupy("cupy")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr("actprune_gpu.devices.find_spec", lambda name: object())
    return cupy


class FakeCupy(types.ModuleType):
    """What the launcher uses of CuPy; notes the launches."""

    class CUDADriverError(Exception):
        pass

    def __init__(self, name):
        super().__init__(name)
        self.launches, self.compiled, self.bad_binaries = [], [], False
        self.cuda = types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDeviceCount=lambda: 2),
            Device=FakeDevice,
            ExternalStream=lambda pointer, device: (pointer, device),
            driver=types.SimpleNamespace(
                CUDADriverError=self.CUDADriverError,
                occupancyMaxActiveBlocksPerMultiprocessor=lambda pointer, block, shared: 2,
            ),
        )

    def RawModule(self, code=None, path=None, options=(), backend="nvrtc"):
        return FakeModule(self, path or "code", options)


class FakeDevice:
    attributes = types.MappingProxyType(
        {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}
    )

    def __init__(self, index):
        assert index == 1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class FakeModule:
    def __init__(self, cupy, origin, options):
        self.cupy, self.origin, self.options = cupy, origin, options

    def compile(self):
        if self.origin != "code" and self.cupy.bad_binaries:
            raise self.cupy.CUDADriverError("invalid image")
        self.cupy.compiled.append((self.origin, self.options))

    def get_function(self, name):
        def launch(grid, block, args, **options):
            self.cupy.launches.append((name, grid, block, args, options))

        launch.ptr = 7
        return types.SimpleNamespace(kernel=launch, max_dynamic_shared_size_bytes=48 * 1024)


@pytest.mark.parametrize(
    ("name", "want"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("auto", "cuda:0"), ("cpu", "cpu")]
)
def test_names(gpu, name, want):
    assert resolve_device(name) == torch.device(want)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "cpu:0"])
def test_bad_names(name):
    with pytest.raises(InputError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:1'"):
        resolve_device(name)


def break_cupy(cupy, monkeypatch):
    def fail():
        raise RuntimeError("libcudart is\nmissing")

    cupy.cuda.runtime.getDeviceCount = fail


FAULTS = {
    "built without CUDA": lambda cupy, m: m.setattr(torch.version, "cuda", None),
    "no NVIDIA GPU or driver": lambda cupy, m: m.setattr(torch.cuda, "is_available", lambda: False),
    "compute capability is 7.5": lambda cupy, m: m.setattr(
        torch.cuda, "get_device_capability", lambda index: (7, 5)
    ),
    r"pip install 'actprune_gpu\[cuda13\]'": lambda cupy, m: m.setattr(
        "actprune_gpu.devices.find_spec", lambda name: None
    ),
    "CuPy does not work here .libcudart is missing.": break_cupy,
}


@pytest.mark.parametrize("message", FAULTS)
def test_the_missing_piece_is_named(gpu, monkeypatch, caplog, message):
    FAULTS[message](gpu, monkeypatch)
    with pytest.raises(BackendUnavailableError, match=message) as error:
        resolve_device("cuda:1")
    assert "\n" not in str(error.value)
    with caplog.at_level(logging.INFO, "actprune_gpu"):
        assert resolve_device("auto") == torch.device("cpu")
    assert "device 'auto' is the CPU" in caplog.text


def test_a_gpu_that_is_not_there(gpu):
    with pytest.raises(BackendUnavailableError, match="there are 2 GPUs"):
        resolve_device("cuda:2")


def test_tensors_elsewhere_have_no_kernels():
    with pytest.raises(BackendUnavailableError, match="'meta'"):
        backend_of(torch.empty(2, device="meta"))


@pytest.fixture
def launcher(gpu, monkeypatch):
    from actprune_gpu.backends.cuda.cupy_launcher import CupyLauncher

    stream = types.SimpleNamespace(cuda_stream=1234)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return CupyLauncher(1)


class DeviceTensor(torch.Tensor):
    """A tensor that says it lies on the second GPU."""

    device = torch.device("cuda", 1)


def test_launches(gpu, launcher):
    assert (launcher.n_multiprocessors, launcher.shared_memory) == (132, 232448)
    tensor = torch.ones(3).as_subclass(DeviceTensor)
    launcher.launch("tsne_divergence", (4, 2), 32, tensor, np.int32(3), shared=100_000)
    launcher.launch("tsne_optimise", 4, 32, np.float32(1), cooperative=True)
    name, grid, block, args, options = gpu.launches[0]
    assert (name, grid, block) == ("tsne_divergence", (4, 2), (32,))
    assert [type(value) for value in args] == [np.uintp, np.int32]
    assert args[0] == tensor.data_ptr()
    assert options == {
        "shared_mem": 100_000,
        "stream": (1234, 1),
        "enable_cooperative_groups": False,
    }
    assert gpu.launches[1][1] == (4,)
    assert gpu.launches[1][4]["enable_cooperative_groups"]
    assert gpu.compiled == [("code", binaries.OPTIONS)]  # once for the file
    assert launcher.loaded == {"tsne.cu": "nvrtc"}
    assert launcher.resident_blocks("tsne_optimise", 512) == 264


def test_tensors_of_another_device_are_refused(launcher):
    with pytest.raises(InputError, match="needs its arguments on cuda:1, got a tensor on cpu"):
        launcher.launch("tsne_divergence", 1, 32, torch.ones(3))


@pytest.mark.parametrize("bad", [False, True])
def test_binaries_are_preferred_where_the_driver_takes_them(gpu, launcher, monkeypatch, bad):
    gpu.bad_binaries = bad
    monkeypatch.setattr(binaries, "find", lambda file: Path(f"{file}.fatbin"))
    assert launcher.load("tsne.cu") == ("nvrtc" if bad else "fatbin")
    assert launcher.load("tsne.cu") == launcher.loaded["tsne.cu"]
    assert len(gpu.compiled) == 1


def test_env_says_what_is_there_and_what_is_missing(capsys):
    assert run(["env"]) == 0
    printed = capsys.readouterr().out
    assert version("torch") in printed
    assert f"CUDA {torch.version.cuda}" in printed
    if not torch.cuda.is_available():
        assert "PyTorch finds no NVIDIA GPU or driver" in printed
    if find_spec("cupy") is None:
        assert "pip install 'actprune_gpu[cuda13]'" in printed


def test_wheels_hold_the_sources(tmp_path, monkeypatch):
    import subprocess
    import zipfile

    root = sources.folder().parent
    monkeypatch.setenv("ACTPRUNE_GPU_NVCC", "0")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(root)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.removeprefix("actprune_gpu/csrc/") for name in names if "csrc/" in name}
    assert shipped == {path.name for path in sources.folder().iterdir()}
    assert not any("fatbin" in name for name in names)
