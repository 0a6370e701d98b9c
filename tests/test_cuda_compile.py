"""The kernels compile for every architecture, without spills, warnings or fused multiply-adds."""

import re
import shutil
import subprocess
import sys

import nvrtc
import pytest

from actprune_gpu.backends.cuda import binaries, sources

NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
STRICT = ["-Xptxas", "-v,-warn-spills,-warn-lmem-usage", "--Werror", "all-warnings"]


@needs_nvcc
@pytest.mark.parametrize("file", sources.files())
def test_every_architecture_without_spills(file, tmp_path):
    targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in binaries.ARCHITECTURES]
    command = [NVCC, *binaries.OPTIONS, *STRICT, "--threads=2", "-fatbin", *targets]
    output = ["-o", str(tmp_path / "out.fatbin"), str(sources.folder() / file)]
    done = subprocess.run([*command, *output], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", done.stderr)
    assert len(frames) == len(sources.kernels(file)) * len(binaries.ARCHITECTURES)
    assert set(frames) == {("0", "0")}
    used = re.findall(
        r"entry function '(\w+)' for 'sm_(80|90)'.*?Used (\d+) registers", done.stderr, re.DOTALL
    )
    assert len(used) == 2 * len(sources.kernels(file))
    documented, compiler = documented_registers()
    version = subprocess.run([NVCC, "--version"], capture_output=True, text=True, check=True)
    if f"release {compiler}," in version.stdout:  # others allocate registers differently
        assert {(name, sm): registers for name, sm, registers in used}.items() <= documented.items()


def documented_registers():
    """Registers by kernel and architecture in the table of the docs, and what nvcc they are of."""
    page = (sources.folder().parent / "docs" / "kernels.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| \d+ \| (\d+), (\d+) \|", page, re.MULTILINE)
    found = {
        (name, sm): n for name, *both in rows for sm, n in zip(("80", "90"), both, strict=True)
    }
    return found, re.search(r"with\s+nvcc\s+([\d.]+\d)", page)[1]


@pytest.mark.parametrize("file", sources.files())
@pytest.mark.parametrize("major", [12, 13])
def test_nvrtc_compiles_the_texts_and_fuses_only_what_they_say(major, file):
    library = nvrtc.find(major)
    if library is None and sys.platform != "linux":
        pytest.skip(f"NVRTC {major} is not installed")
    assert library, f"NVRTC {major} is not installed: pip install 'actprune_gpu[test]' brings both"
    options = [*binaries.OPTIONS, "--gpu-architecture=compute_80"]
    ptx = nvrtc.compile_ptx(library, sources.text(file), file, options)
    assert set(re.findall(r"\.entry (\w+)", ptx)) == set(sources.kernels(file))
    if "fmaf(" in sources.text(file):
        assert set(re.findall(r"\bfma\.[\w.]+", ptx)) == {"fma.rn.f32"}
        apart = "__device__ float apart(float a, float b, float c) { return a * b + c; }\n"
        text = apart + sources.text(file).replace("fmaf(", "apart(")
        ptx = nvrtc.compile_ptx(library, text, file, options)
    assert not re.search(r"\bfma\.|\.approx|\.ftz", ptx)


def test_every_kernel_is_in_one_file():
    names = [kernel for file in sources.files() for kernel in sources.kernels(file)]
    assert len(names) == len(set(names)) > 10
    assert all(sources.file_of(name) in sources.files() for name in names)


def test_texts_have_their_headers_once():
    text = sources.text("tsne.cu")
    assert "#include" not in text
    assert text.count("exp_exact(double x)") == 1
    number = (
        (sources.folder() / "tsne.cu")
        .read_text()
        .splitlines()
        .index("constexpr int kCheckEvery = 50;")
    )
    behind = text[: text.index("constexpr int kCheckEvery")].rsplit("#line ", 1)[1]
    line, rest = behind.split("\n", 1)
    assert line.endswith('"tsne.cu"')
    assert int(line.split()[0]) + rest.count("\n") == number + 1


@needs_nvcc
def test_binaries_are_found_only_for_their_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(binaries, "ARCHITECTURES", (90,))
    monkeypatch.setattr(binaries, "folder", lambda: tmp_path)
    monkeypatch.setattr(sources, "files", lambda: ["silhouette.cu"])
    assert binaries.find("silhouette.cu") is None
    binaries.build(NVCC, tmp_path)
    assert binaries.find("silhouette.cu") == tmp_path / "silhouette.fatbin"
    monkeypatch.setattr(binaries, "OPTIONS", ("--std=c++17",))
    assert binaries.find("silhouette.cu") is None


def test_the_documented_tables_have_every_kernel():
    kernels = {kernel for file in sources.files() for kernel in sources.kernels(file)}
    documented, _ = documented_registers()
    assert {kernel for kernel, _ in documented} == kernels
    page = (sources.folder().parent / "docs" / "kernels.md").read_text()
    costs = page[: page.index("<!-- table: begin -->")]
    without_type = {kernel.replace("_steps", "") for kernel in kernels}
    without_type = {re.sub(r"(moments)_\w+$", r"\1_*", kernel) for kernel in without_type}
    assert without_type <= set(re.findall(r"`([\w*]+)`", costs))
