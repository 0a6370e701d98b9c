"""A pruned network is exported as any other, and gives the same predictions there."""

from copy import deepcopy

import numpy as np
import pytest
import torch

pytest.importorskip("ultralytics")

from actprune_gpu.models.ultralytics.channels import shrink_model, trace_model
from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint, save_checkpoint
from actprune_gpu.models.ultralytics.contained import contained

# What tracing says about branches on shapes, and PyTorch about its own older formats.
pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning"),
]

SIZE = 96


@pytest.fixture(scope="module")
def pruned(tiny_checkpoint, tmp_path_factory):
    """A checkpoint of which every group keeps another share of its channels."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    graph = trace_model(checkpoint.model)
    shares = {group.n_channels: 0.4 + 0.02 * group.n_channels % 0.5 for group in graph.groups}
    keep = {
        group.name: range(max(2, int(shares[group.n_channels] * group.n_channels)))
        for group in graph.groups
    }
    shrink_model(checkpoint.model, graph, graph.kept(keep))
    path = tmp_path_factory.mktemp("export") / "pruned.pt"
    save_checkpoint(checkpoint, checkpoint.model, path)
    return path


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def expected(pruned, image):
    network = deepcopy(load_checkpoint(pruned).model).fuse(verbose=False)
    with torch.no_grad():
        return network(image)[0].numpy()


@pytest.fixture
def export(pruned, tmp_path, monkeypatch):
    """Ultralytics' export, which must find all that it needs instead of installing it."""
    from ultralytics import YOLO

    monkeypatch.setattr("ultralytics.utils.checks.AUTOINSTALL", False)
    copy = tmp_path / "model.pt"
    copy.write_bytes(pruned.read_bytes())
    with contained():
        yield lambda **settings: YOLO(copy).export(imgsz=SIZE, device="cpu", **settings)


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("settings", [{}, {"dynamic": True}, {"simplify": False, "opset": 17}])
def test_onnx(export, image, expected, settings):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    if settings.get("simplify", True):
        pytest.importorskip("onnxslim")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    file = export(format="onnx", **settings)
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (name,) = [put_in.name for put_in in session.get_inputs()]
    assert_same(session.run(None, {name: image.numpy()})[0], expected)


def test_torchscript(export, image, expected):
    network = torch.jit.load(export(format="torchscript"))
    with torch.no_grad():
        found = network(image)
    assert_same((found[0] if isinstance(found, tuple | list) else found).numpy(), expected)


def test_torch_export(pruned, image):
    network = load_checkpoint(pruned).model
    with torch.no_grad():
        expected = network(image)[0]
        program = torch.export.export(network, (image,))
        found = program.module()(image)[0]
    assert_same(found.numpy(), expected.numpy())


def test_the_export_is_of_the_small_network(export, pruned, tiny_checkpoint):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(export(format="onnx", simplify=False)).graph
    stored = sum(int(np.prod(weight.dims)) for weight in graph.initializer)
    small, large = (
        sum(p.numel() for p in load_checkpoint(path).model.fuse(verbose=False).parameters())
        for path in (pruned, tiny_checkpoint)
    )
    assert stored == pytest.approx(small, rel=0.01)  # equal biases are stored once
    assert small < 0.8 * large
