"""Devices by name, the errors that name the missing piece, and the launcher's calls to CuPy."""

import logging
import re
import struct
import sys
import types
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from actprune_gpu.backends import backend_of
from actprune_gpu.backends.cuda import binaries, nvrtc
from actprune_gpu.cli.main import run
from actprune_gpu.devices import resolve_device, resolve_devices
from actprune_gpu.errors import BackendUnavailableError, InputError


@pytest.fixture
def gpu(monkeypatch, tmp_path):
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
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
    return cupy


class FakeCupy(types.ModuleType):
    """What the launcher uses of CuPy; notes the launches."""

    class CUDADriverError(Exception):
        pass

    def __init__(self, name):
        super().__init__(name)
        self.launches, self.loads, self.granted, self.bad_binaries = [], [], [], False
        self.cuda = types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDeviceCount=lambda: 2, driverGetVersion=lambda: 13020),
            Device=FakeDevice,
            nvrtc=FakeNvrtc(),
            driver=types.SimpleNamespace(
                CUDADriverError=self.CUDADriverError,
                occupancyMaxActiveBlocksPerMultiprocessor=lambda pointer, block, shared: 2,
            ),
        )

    def RawModule(self, path):
        return FakeModule(self, Path(path))


class FakeNvrtc:
    class NVRTCError(Exception):
        pass

    def __init__(self):
        self.compilations, self.bad_source, self.open = [], False, 0

    def getVersion(self):
        return 13, 0

    def getSupportedArchs(self):
        return 75, 80, 90

    def createProgram(self, text, name, headers, include_names):
        self.open += 1
        return name

    def compileProgram(self, program, options):
        self.compilations.append((program, options))
        if self.bad_source:
            raise self.NVRTCError

    def getCUBIN(self, program):
        return b"cubin"

    def getPTX(self, program):
        return b"ptx"

    def getProgramLog(self, program):
        return "tsne.cu(3):\n  error"

    def destroyProgram(self, program):
        self.open -= 1


class FakeDevice:
    compute_capability = "90"
    attributes = types.MappingProxyType(
        {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}
    )

    def __init__(self, index):
        assert index == 1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def use(self):
        pass


class FakeModule:
    def __init__(self, cupy, path):
        self.cupy, self.path = cupy, path

    def compile(self):
        if self.path.suffix == ".fatbin" and self.cupy.bad_binaries:
            raise self.cupy.CUDADriverError("invalid image")
        self.cupy.loads.append(self.path)

    def get_function(self, name):
        return FakeKernel(self.cupy, name)


class FakeKernel:
    ptr = 7
    shared_size_bytes = 2048

    def __init__(self, cupy, name):
        self.cupy, self.name, self.kernel = cupy, name, self
        vars(self)["max_dynamic_shared_size_bytes"] = 48 * 1024 - self.shared_size_bytes

    def __call__(self, grid, block, args, **options):
        self.cupy.launches.append((self.name, grid, block, args, options))

    def __setattr__(self, name, value):
        if name == "max_dynamic_shared_size_bytes":
            self.cupy.granted.append((self.name, value))
        super().__setattr__(name, value)


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


def break_nvrtc(cupy, monkeypatch):
    def fail():
        raise RuntimeError("libnvrtc.so.13 is missing")

    cupy.cuda.nvrtc.getVersion = fail


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
    "NVRTC .libnvrtc.so.13 is missing.: install nvidia-cuda-nvrtc": break_nvrtc,
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


def test_binaries_need_no_compiler(gpu, monkeypatch):
    break_nvrtc(gpu, monkeypatch)
    monkeypatch.setattr(binaries, "find", lambda file: Path(f"{file}.fatbin"))
    assert resolve_device("auto") == torch.device("cuda:0")


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
    assert options.pop("stream").ptr == 1234
    assert options == {"shared_mem": 100_000, "enable_cooperative_groups": False}
    assert gpu.launches[1][1] == (4,)
    assert gpu.launches[1][4]["enable_cooperative_groups"]
    assert len(gpu.loads) == 1  # once for the file
    assert launcher.loaded == {"tsne.cu": "nvrtc"}
    assert launcher.resident_blocks("tsne_optimise", 512) == 264


def test_shared_memory_is_granted_before_it_is_used_and_never_less(gpu, launcher):
    for shared in (0, 48 * 1024, 1000, 60_000):
        launcher.launch("tsne_optimise", 1, 32, shared=shared)
    launcher.resident_blocks("tsne_optimise", 512, 61_000)
    assert gpu.granted == [("tsne_optimise", n) for n in (48 * 1024, 60_000, 61_000)]
    launcher.resident_blocks("tsne_optimise", 512, 232448 - 2048)
    with pytest.raises(InputError, match=r"tsne_optimise needs 232449 bytes .* has 232448"):
        launcher.resident_blocks("tsne_optimise", 512, 232449 - 2048)


def test_sources_are_compiled_once_for_a_card_and_with_our_options_alone(gpu):
    path = nvrtc.compiled("tsne.cu", 90)
    assert path.read_bytes() == b"cubin\0"
    assert nvrtc.compiled("tsne.cu", 90) == path
    assert gpu.cuda.nvrtc.compilations == [
        ("tsne.cu", (*binaries.OPTIONS, "--gpu-architecture=sm_90"))
    ]
    newer = nvrtc.compiled("tsne.cu", 121)
    assert newer.read_bytes() == b"ptx"
    assert gpu.cuda.nvrtc.compilations[1][1][-1] == "--gpu-architecture=compute_90"
    assert gpu.cuda.nvrtc.open == 0


def test_the_failures_of_nvrtc_are_one_line(gpu):
    gpu.cuda.nvrtc.bad_source = True
    with pytest.raises(BackendUnavailableError, match=r"compile tsne.cu: tsne.cu\(3\): error$"):
        nvrtc.compiled("tsne.cu", 90)
    assert gpu.cuda.nvrtc.open == 0
    gpu.cuda.nvrtc.getVersion = lambda: 1 / 0
    with pytest.raises(BackendUnavailableError, match=r"cannot load NVRTC .* nvidia-cuda-nvrtc"):
        nvrtc.compiled("tsne.cu", 90)


def test_a_cache_that_cannot_be_written(gpu, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(BackendUnavailableError, match=r"file/cache cannot be written .*CUPY_CACHE"):
        nvrtc.compiled("tsne.cu", 90)


def test_cupy_compiles_without_options_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("cupy")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    text = nvrtc.compiled("tsne.cu", 999).read_text()  # no such card: PTX
    assert ".entry tsne_optimise" in text
    assert ".ftz" not in text
    assert set(re.findall(r"\bfma\.[\w.]+", text)) == {"fma.rn.f32"}  # the ones that are asked for


@pytest.mark.parametrize("capability", [80, 90])
def test_binaries_are_whole(tmp_path, monkeypatch, capability):
    """CuPy leaves out the last byte, and a driver may refuse a file that ends in its header."""
    pytest.importorskip("cupy")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    binary = nvrtc.compiled("silhouette.cu", capability).read_bytes()
    assert binary[:5] == b"\x7fELF\x02"
    tables = struct.unpack_from("<QQ", binary, 32)  # program and section headers, 64 bits
    sizes = struct.unpack_from("<HHHH", binary, 54)
    ends = [at + sizes[i] * sizes[i + 1] for at, i in zip(tables, (0, 2), strict=True)]
    assert max(ends) <= len(binary)


def test_tensors_of_another_device_are_refused(launcher):
    with pytest.raises(InputError, match="needs its arguments on cuda:1, got a tensor on cpu"):
        launcher.launch("tsne_divergence", 1, 32, torch.ones(3))


@pytest.mark.parametrize("bad", [False, True])
def test_binaries_are_preferred_where_the_driver_takes_them(gpu, launcher, monkeypatch, bad):
    gpu.bad_binaries = bad
    monkeypatch.setattr(binaries, "find", lambda file: Path(f"{file}.fatbin"))
    assert launcher.load("tsne.cu") == ("nvrtc" if bad else "fatbin")
    assert launcher.load("tsne.cu") == launcher.loaded["tsne.cu"]
    assert len(gpu.loads) == 1


def test_env_says_why_kernels_cannot_be_loaded(gpu, capsys, monkeypatch):
    gpu.cuda.nvrtc.bad_source = True
    monkeypatch.setattr(FakeDevice, "__init__", lambda self, index: None)
    card = types.SimpleNamespace(
        name="H100", major=9, minor=0, total_memory=2**36, multi_processor_count=132
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert run(["env"]) == 0
    printed = capsys.readouterr().out
    assert "cuda:1" in printed
    assert "NVRTC cannot compile" in printed
    gpu.cuda.nvrtc.bad_source = False
    assert run(["env"]) == 0
    printed = capsys.readouterr().out
    assert "kmedoids.cu: nvrtc" in printed
    assert re.search(r"NVRTC +13\.0 +compiles", printed)
    assert re.search(r"driver +CUDA 13\.2 ", printed)
    break_nvrtc(gpu, monkeypatch)
    assert run(["env"]) == 0
    assert re.search(r"NVRTC +missing +.*install nvidia-cuda-nvrtc", capsys.readouterr().out)


def test_env_says_what_is_there_and_what_is_missing(capsys):
    assert run(["env"]) == 0
    printed = capsys.readouterr().out
    assert version("torch") in printed
    assert f"CUDA {torch.version.cuda}" in printed
    if not torch.cuda.is_available():
        assert "PyTorch finds no NVIDIA GPU or driver" in printed
    for major in (12, 13):  # for what PyTorch is built for: two packages of CuPy break each other
        needed = (torch.version.cuda or "").startswith(str(major))
        missing = needed and find_spec("cupy") is None
        assert (f"pip install 'actprune_gpu[cuda{major}]'" in printed) == missing


def test_automatic_work_is_spread_over_all_gpus(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    capability = {0: (9, 0), 1: (9, 0), 2: (7, 5), None: (9, 0)}  # the last one is too old
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability.__getitem__)
    assert resolve_devices("auto") == [torch.device("cuda", 1), torch.device("cuda", 0)]
    assert resolve_devices("cuda") == [torch.device("cuda", 1)]
    assert resolve_devices("cuda:0") == [torch.device("cuda", 0)]
    assert resolve_devices("cpu") == [torch.device("cpu")]
