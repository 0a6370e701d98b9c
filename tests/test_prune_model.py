"""Any network: what goes together goes, both modes compute the same, plans replay."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers import complains
from networks import difference, randomise, tensors
from torch import nn

from actprune_gpu import SelectionConfig, apply_plan, prune_model
from actprune_gpu.batches import inputs_of
from actprune_gpu.pruning.plan import PruningPlan

N_CLASSES = 3


@pytest.fixture(autouse=True)
def _quiet_and_seeded():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "perplexity")
        yield
    torch.set_num_threads(threads)


def images(side, n=2, size=8):
    return [(torch.randn(size, 3, side, side), torch.arange(size) % N_CLASSES) for _ in range(n)]


def resnet():
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), images(32)


def mobilenet():
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(width_mult=0.25, num_classes=5), images(32)


def mobilenet_v3():
    from torchvision.models import MobileNetV3
    from torchvision.models.mobilenetv3 import InvertedResidualConfig as Block

    blocks = [
        Block(16, 3, 24, 16, True, "RE", 1, 1, 1.0),
        Block(16, 3, 32, 24, True, "HS", 2, 1, 1.0),
        Block(24, 5, 48, 24, True, "HS", 1, 1, 1.0),
    ]
    return MobileNetV3(blocks, last_channel=64, num_classes=5), images(32)


def convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(12, 16, 1), CNBlockConfig(16, None, 2)]
    return ConvNeXt(blocks, layer_scale=1.0, num_classes=5), images(32)


def vgg():
    from torchvision.models.vgg import VGG, make_layers

    features = make_layers([8, "M", 16, "M", 16, "M"], batch_norm=True)
    model = VGG(features, num_classes=5)
    model.classifier = nn.Sequential(nn.Linear(16 * 49, 20), nn.ReLU(), nn.Linear(20, 5))
    return model, images(32)


def vit():
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=6, num_classes=5
    )
    return model, images(32)


def wave_net():
    """Convolutions over time: strided, depthwise, gated, transposed, padded in all ways."""
    model = nn.Sequential(
        *(nn.Conv1d(3, 16, 5, stride=2, padding=2), nn.BatchNorm1d(16), nn.GELU()),
        *(nn.Conv1d(16, 32, 3, padding=1, padding_mode="reflect"), nn.GLU(1)),
        *(nn.Conv1d(16, 16, 3, padding="same", groups=16), nn.BatchNorm1d(16), nn.SiLU()),
        *(nn.MaxPool1d(3, 1, 1), nn.ReplicationPad1d(1), nn.Conv1d(16, 12, 3), nn.AvgPool1d(2)),
        *(nn.ConvTranspose1d(12, 10, 2, stride=2), nn.ReLU(), nn.Upsample(scale_factor=2)),
        *(nn.Conv1d(10, 8, 1, bias=False), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    return model, [(torch.randn(8, 3, 32), torch.arange(8) % N_CLASSES) for _ in range(2)]


def video_net():
    """Convolutions over time, height and width."""
    model = nn.Sequential(
        *(nn.Conv3d(3, 12, (3, 3, 3), padding=1), nn.BatchNorm3d(12), nn.ReLU()),
        *(nn.MaxPool3d((1, 2, 2)), nn.Conv3d(12, 16, (1, 3, 3), stride=(1, 2, 2)), nn.ReLU()),
        *(nn.AvgPool3d(1), nn.ConvTranspose3d(16, 12, 2, stride=2), nn.SyncBatchNorm(12)),
        *(nn.Upsample(scale_factor=2, mode="trilinear"), nn.Conv3d(12, 8, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    return model, [(torch.randn(4, 3, 4, 12, 12), torch.arange(4) % N_CLASSES) for _ in range(3)]


def frozen_net():
    """Batch normalizations of buffers, as detectors have them, and slopes for each channel."""
    from torchvision.ops import FrozenBatchNorm2d as frozen

    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, bias=False), frozen(12), nn.PReLU(12)),
        *(nn.Conv2d(12, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.PReLU(16)),
        *(nn.Conv2d(16, 8, 1), nn.PReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(8, 5),
    )
    return model, images(16)


def instance_net():
    """Normalization over places, with and without weights, statistics and biases before it."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.InstanceNorm2d(12), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(12, 16, 3), nn.InstanceNorm2d(16, affine=True), nn.ReLU()),
        nn.Conv2d(16, 8, 3),
        *(nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    return model, images(16)


def tokens(size=8, length=6):
    return [
        {
            "input_ids": torch.randint(0, 50, (size, length)),
            "labels": torch.randint(0, N_CLASSES, (size, length)),
        }
        for _ in range(2)
    ]


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}


def llama():
    hf = pytest.importorskip("transformers")
    config = hf.LlamaConfig(**SIZES, intermediate_size=24, num_key_value_heads=2, use_cache=False)
    return hf.LlamaForCausalLM(config), tokens()


def phi3():  # gate and up in one layer
    hf = pytest.importorskip("transformers")
    config = hf.Phi3Config(
        **SIZES, intermediate_size=24, use_cache=False, pad_token_id=0, eos_token_id=1
    )
    return hf.Phi3ForCausalLM(config), tokens()


def bert():
    hf = pytest.importorskip("transformers")
    config = hf.BertConfig(**SIZES, intermediate_size=24)
    return hf.BertForTokenClassification(config), tokens()


def gpt2():  # linear layers whose weights lie the other way round
    hf = pytest.importorskip("transformers")
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "vocab_size": 50}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, use_cache=False)), tokens()


# The network; layers of some of the groups, and how many channels these have.
NETWORKS = {
    "resnet": (resnet, {("conv1", "layer1.0.conv2"): 64, ("layer1.0.conv1",): 64}),
    "mobilenet": (mobilenet, {("features.2.conv.0.0", "features.2.conv.1.0"): 48}),
    "mobilenet_v3": (
        mobilenet_v3,
        {("features.2.block.0.0", "features.2.block.1.0", "features.2.block.2.fc2"): 32},
    ),
    "convnext": (convnext, {("features.1.0.block.3",): 48, ("features.3.1.block.3",): 64}),
    "wave_net": (wave_net, {("0",): 16, ("3", "5"): 16, ("12",): 10, ("10",): 12, ("15",): 8}),
    "video_net": (video_net, {("0",): 12, ("4",): 16, ("7",): 12, ("10",): 8}),
    "frozen_net": (frozen_net, {("0",): 12, ("3",): 16, ("6",): 8}),
    "instance_net": (instance_net, {("0",): 12, ("3",): 16, ("6",): 8}),
    "vgg": (vgg, {("features.8",): 16, ("classifier.0",): 20}),
    "vit": (vit, {("blocks.0.attn.qkv",): 6, ("blocks.0.mlp.fc1",): 96}),
    "llama": (llama, {("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"): 24}),
    "gpt2": (gpt2, {("transformer.h.1.mlp.c_fc",): 24}),
    "phi3": (phi3, {("model.layers.0.mlp.gate_up_proj",): 24}),
    "bert": (
        bert,
        {
            tuple(f"bert.encoder.layer.0.attention.self.{n}" for n in ("query", "key", "value")): 4,
            ("bert.encoder.layer.1.intermediate.dense",): 24,
        },
    ),
}


def outputs(model, batch):
    with torch.no_grad():
        return [
            t for t in tensors(list(as_list(inputs_of(batch).run(model)))) if t.is_floating_point()
        ]


def as_list(result):
    return [result] if isinstance(result, torch.Tensor) else list(result.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_all_kinds(name, tmp_path):
    build, expected = NETWORKS[name]
    model, batches = build()
    model = randomise(model).eval()
    before = deepcopy(model.state_dict())
    config = SelectionConfig(weight="l1", budget=(0.3, 0.6), n_iter=300)
    result = prune_model(model, batches, classes=N_CLASSES, config=config, repair="none")
    groups = {tuple(group.members): group.channels for group in result.plan.groups}
    for members, channels in expected.items():
        assert any(
            set(members) <= set(names) and count == channels for names, count in groups.items()
        ), members
    for group in result.plan.groups:
        assert len(group.keep) <= max(2, round(0.6 * group.channels)), group.name
    count = sum(p.numel() for p in result.model.parameters())
    assert result.plan.cost.parameters == (sum(p.numel() for p in model.parameters()), count)
    assert result.plan.cost.parameters[1] < result.plan.cost.parameters[0]
    assert type(result.model) is type(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    # Both modes, and a replay from the file, compute the same.
    path = tmp_path / "plan.json"
    result.plan.save(path)
    small = outputs(result.model, batches[0])
    zeroed = apply_plan(model, path, batches, mode="zero").model
    assert {k: v.shape for k, v in zeroed.state_dict().items()} == {
        k: v.shape for k, v in before.items()
    }
    assert difference(outputs(zeroed, batches[0]), small) < 1e-5
    again = apply_plan(model, path, batches).model
    assert all(torch.equal(a, b) for a, b in zip(outputs(again, batches[0]), small, strict=True))
    assert difference(small, outputs(model, batches[0])) > 1e-4  # there was something to lose

    # The same input, the same plan; and it trains.
    repeated = prune_model(model, batches, classes=N_CLASSES, config=config, repair="none")
    assert repeated.plan == result.plan
    loss = sum(t.float().square().mean() for t in as_list(inputs_of(batches[0]).run(result.model)))
    loss.backward()
    assert all(p.grad is not None for p in result.model.parameters())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "phi3"])  # loses too little
def test_repair_makes_up_for_what_went(name):
    model, batches = NETWORKS[name][0]()
    model = randomise(model).eval()
    targets = {"target_params": 0.9} if name == "llama" else {"target_flops": 0.7}
    result = prune_model(model, batches, classes=N_CLASSES, **targets)
    before, after = result.plan.cost.flops if name != "llama" else result.plan.cost.parameters
    count = sum(p.numel() for p in result.model.parameters())
    assert result.plan.cost.parameters[1] == count  # with the biases that repair has added
    # Less where channels do no harm when they go.
    assert after / before <= next(iter(targets.values()))
    cut = apply_plan(model, result.plan, batches, repair="none").model
    want = outputs(model, batches[0])

    def error(pruned):
        return sum(
            float((a - b).square().sum() / (b - b.mean()).square().sum())
            for a, b in zip(outputs(pruned, batches[0]), want, strict=True)
        )

    assert error(result.model) < 0.7 * error(cut)
    zeroed = apply_plan(model, result.plan, batches, mode="zero").model
    assert difference(outputs(zeroed, batches[0]), outputs(result.model, batches[0])) < 1e-4
    sum(t.square().mean() for t in as_list(inputs_of(batches[0]).run(result.model))).backward()


def test_modes_of_the_modules_come_back():
    model, batches = resnet()
    model.train()
    model.bn1.eval()
    result = prune_model(model, batches, classes=N_CLASSES, layers=["layer1.0.conv1"], repair="bn")
    modes = {name: module.training for name, module in model.named_modules()}
    assert not modes["bn1"]
    assert modes["conv1"]
    assert {name: module.training for name, module in result.model.named_modules()} == modes


def test_layers_and_protected_ones():
    model, batches = resnet()
    arguments = {"classes": N_CLASSES, "repair": "none"}
    some = prune_model(model, batches, layers=["layer[12].*"], **arguments).plan
    names = [group.name for group in some.groups]
    assert "layer1.0.conv1" in names
    assert "layer3.0.conv1" not in names
    fewer = prune_model(
        model, batches, layers=["layer[12].*"], protect=["layer1.0.conv1"], **arguments
    ).plan
    assert [name for name in names if name != "layer1.0.conv1"] == [g.name for g in fewer.groups]


def test_criteria_that_look_at_no_class_need_no_labels():
    model, batches = resnet()
    unlabelled = [x for x, _ in batches]
    config = SelectionConfig(criterion="reconstruct", budget=(0.5, 0.5))
    plan = prune_model(model, unlabelled, config=config).plan
    assert all(len(g.keep) == g.channels // 2 for g in plan.groups)
    with complains("labels", "label_of"):
        prune_model(model, unlabelled, classes=N_CLASSES)


def test_a_head_is_kept_whole():
    model, batches = vit()
    plan = prune_model(model, batches, classes=N_CLASSES, layers=["*.qkv"], repair="none").plan
    (group, _) = plan.groups
    rows = np.array(group.members["blocks.0.attn.qkv"])
    assert rows.shape == (6, 3 * 4)
    # Query, key and value of a head: three runs of four rows.
    assert rows[1].tolist() == [4, 5, 6, 7, 28, 29, 30, 31, 52, 53, 54, 55]


class Written(nn.Module):
    """Has the width of its inner layer written down."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        y = self.a(x)
        y = y + y.new_zeros(1, 1, 1, 1)
        return self.c(self.b(y).reshape(-1, 6, *x.shape[2:]))


def test_what_is_written_down_stays():
    plan = prune_model(Written(), images(4), classes=N_CLASSES, repair="none").plan
    assert [group.name for group in plan.groups] == ["a"]
    with complains("b", "must keep its channels", "does not run with fewer"):
        prune_model(Written(), images(4), classes=N_CLASSES, layers=["b"])


class Attention(nn.Module):
    """With the number of its heads written down, or in an attribute of one name or another."""

    def __init__(self, name):
        super().__init__()
        self.stem, self.qkv, self.out = nn.Linear(12, 16), nn.Linear(16, 96), nn.Linear(32, 4)
        if name:
            setattr(self, name, 4)
        self._name = name

    def forward(self, x):
        x = self.stem(x.flatten(2).transpose(1, 2))
        heads = getattr(self, self._name) if self._name else 4
        q, k, v = (
            part.reshape(len(x), -1, heads, part.shape[-1] // heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2)).mean(1)


@pytest.mark.parametrize(("name", "goes"), [("num_heads", True), ("parts", False), ("", False)])
def test_heads_whose_number_is_not_found_stay(name, goes):
    batches = [(torch.randn(8, 12, 2, 2), torch.arange(8) % N_CLASSES) for _ in range(2)]
    model = Attention(name).eval()
    config = SelectionConfig(weight="l1", budget=(0.5, 0.5))
    plan = prune_model(model, batches, classes=N_CLASSES, config=config, repair="none").plan
    assert [group.name for group in plan.groups] == (["stem", "qkv"] if goes else ["stem"])
    if goes:
        small = apply_plan(model, plan, batches).model
        assert small.num_heads == 2
        zeroed = apply_plan(model, plan, batches, mode="zero").model
        assert difference(outputs(small, batches[0]), outputs(zeroed, batches[0])) < 1e-5
    else:
        with complains("qkv", "as many as before"):
            prune_model(model, batches, classes=N_CLASSES, layers=["qkv"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": ["layer9"]}, ("layer9", "nearest")),
        ({"layers": ["fc"]}, ("fc", "must keep", "puts them out")),
        ({"mode": "hide"}, ("mode", "remove", "hide")),
        ({"repair": "glue"}, ("repair", "glue")),
        ({"target_flops": 1.5}, ("target_flops", "at most 1")),
        ({"target_flops": 0.001}, ("target_flops 0.001", "out of reach")),
        ({"repair_samples": 0}, ("repair_samples", "1")),
        ({"batches": []}, ("batches", "empty")),
        ({"batches": iter(images(32))}, ("batches", "more than once")),
        ({"batches": None}, ("batches", "more than once", "NoneType")),
        ({"config": "default"}, ("config", "SelectionConfig", "str")),
        ({"batches": [(1, 2, 3)]}, ("batches", "pairs", "3")),
        (
            {"batches": [(torch.randn(4, 7, 32, 32), torch.zeros(4).long())]},
            ("model", "run on the first batch"),
        ),
        (
            {"batches": [(torch.randn(4, 3, 32, 32), torch.zeros(4).long())]},
            ("at least 2 classes",),
        ),
    ],
)
def test_bad_arguments(changes, words):
    model, batches = resnet()
    before = deepcopy(model.state_dict())
    arguments = {"batches": batches, "classes": N_CLASSES, "repair_samples": 4} | changes
    with complains(*words):
        prune_model(model, arguments.pop("batches"), **arguments)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_plan_of_another_architecture():
    model, batches = resnet()
    plan = prune_model(model, batches, classes=N_CLASSES, repair="none").plan
    with complains("conv1", "MobileNetV2", "the plan's"):
        apply_plan(mobilenet()[0], plan, batches)
    with pytest.warns(UserWarning, match="other weights"):
        apply_plan(resnet()[0], plan, batches)
    assert PruningPlan.model_validate(plan.model_dump()) == plan
