"""Moments of any network: what is gathered is what the layers put out, by label."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers import complains
from torch import nn

from actprune_gpu import ClassMoments, gather_moments

CLASSES = ("cat", "dog", "bird")


@pytest.fixture(autouse=True)
def _same_weights_whatever_ran_before():
    torch.manual_seed(0)


def classifier():
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 5, 3, padding=1),
            norm=nn.BatchNorm2d(5),
            act=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(5, 3),
        )
    )


def image_batches(n=4, size=6):
    return [(torch.randn(size, 3, 8, 6), torch.randint(0, 3, (size,))) for _ in range(n)]


def by_hand(batches, features_of):
    """Means and variances of the samples that ``features_of(inputs)`` gives, in float64."""
    rows = np.concatenate([features_of(x).double().numpy() for x, _ in batches])
    labels = np.concatenate([y.numpy() for _, y in batches])
    return [rows[labels == k] for k in range(3)]


def same_as(moments, groups):
    for number, rows in enumerate(groups):
        assert (moments.count[number] == len(rows)).all()
        np.testing.assert_allclose(moments.mean[number], rows.mean(0), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(moments.variance[number], rows.var(0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("reduce", "how"),
    [
        ("auto", lambda f: f.mean((2, 3))),
        ("max", lambda f: f.amax((2, 3))),
        ("center", lambda f: f[:, :, 4, 3]),
        ("first", lambda f: f[:, :, 0, 0]),
        ("last", lambda f: f[:, :, -1, -1]),
        (lambda f, layer: f.amin((2, 3)), lambda f: f.amin((2, 3))),
    ],
)
@torch.no_grad()
def test_one_label_for_each_image(reduce, how):
    model, batches = classifier().eval(), image_batches()
    found = gather_moments(model, batches, layers=["conv"], classes=CLASSES, reduce=reduce)
    assert list(found) == ["conv"]
    assert found["conv"].class_names == CLASSES
    same_as(found["conv"], by_hand(batches, lambda x: how(model.conv(x))))


@torch.no_grad()
def test_what_goes_into_a_module_and_layers_by_pattern():
    model, batches = classifier().eval(), image_batches()
    found = gather_moments(model, batches, layers=["head:input", "[cn]o*"], classes=3)
    assert list(found) == ["conv", "norm", "head:input"]
    same_as(found["head:input"], by_hand(batches, lambda x: model[:5](x)))


@torch.no_grad()
def test_a_map_of_labels_and_labels_to_ignore():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2))
    x = torch.randn(2, 3, 8, 8)
    labels = torch.randint(-1, 3, (2, 8, 8))
    (moments,) = gather_moments(model, [(x, labels)], layers=["0"], classes=CLASSES).values()
    features = model(x).permute(0, 2, 3, 1)  # [2, 4, 4, 4]
    small = labels[:, 1::2, 1::2]  # the label at the centre of 2 x 2 pixels: the last of them
    for number in range(3):
        rows = features[small == number].double()
        assert (moments.count[number] == len(rows)).all()
        torch.testing.assert_close(moments.mean[number], rows.mean(0))


@torch.no_grad()
def test_tokens_each_with_a_label_or_one_for_the_sequence():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Embedding(11, 6), nn.Linear(6, 7)

        def forward(self, input_ids, attention_mask=None):
            return self.mix(self.embed(input_ids))

    model, ids = Tokens(), torch.randint(0, 11, (4, 5))
    features = model(ids).double()
    token_labels = torch.randint(-1, 3, (4, 5))
    batch = {"input_ids": ids, "labels": token_labels}
    (moments,) = gather_moments(model, [batch], layers=["mix"], classes=3).values()
    for number in range(3):
        rows = features[token_labels == number]
        torch.testing.assert_close(moments.mean[number], rows.mean(0))

    mask = torch.tensor([[1, 1, 0, 0, 0]] * 2 + [[1, 1, 1, 1, 1]] * 2)
    batch = {"input_ids": ids, "attention_mask": mask, "label": torch.tensor([0, 0, 1, 1])}
    got = {
        how: gather_moments(model, [batch], layers=["mix"], classes=3, reduce=how)["mix"].mean[0]
        for how in ("mean", "last", "max")
    }
    torch.testing.assert_close(got["mean"], features[:2, :2].mean((0, 1)))
    torch.testing.assert_close(got["last"], features[:2, 1].mean(0))
    torch.testing.assert_close(got["max"], features[:2, :2].amax(1).mean(0))


class Pyramid(nn.Module):
    """A head that reads maps of several sizes."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x):
        return self.head(x).mean((2, 3)) + self.head(x[:, :, ::2, ::2]).mean((2, 3))


def test_samples_folded_into_the_batch_are_positions():
    model, (x, labels) = classifier().eval(), (torch.randn(6, 4, 3, 8, 6), torch.arange(6) % 3)

    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x.flatten(0, 1)).unflatten(0, (len(x), -1)).mean(1)

    found = gather_moments(Frames().eval(), [(x, labels)], classes=CLASSES, layers=["inner.conv"])
    with torch.no_grad():
        features = model.conv(x.flatten(0, 1)).unflatten(0, (6, 4)).mean((1, 3, 4))
    same_as(found["inner.conv"], [features[labels == k].double().numpy() for k in range(3)])


def test_every_run_of_a_module_counts():
    model, batches = Pyramid().eval(), image_batches()
    found = gather_moments(model, batches, classes=CLASSES, layers=["head"])
    with torch.no_grad():
        each = [
            by_hand(batches, lambda x, step=step: model.head(x[:, :, ::step, ::step]).mean((2, 3)))
            for step in (1, 2)
        ]
    same_as(found["head"], [np.concatenate(rows) for rows in zip(*each, strict=True)])


def test_the_network_is_as_before_after_an_error_too():
    model = classifier()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    gather_moments(model, image_batches(1), layers=["conv"], classes=3)
    bad = [*image_batches(1), (torch.randn(6, 3, 8, 6), torch.full((6,), 7))]
    with complains("labels", "0..2", "7"):
        gather_moments(model, bad, layers=["conv"], classes=3)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.is_grad_enabled()


def test_compiled_channels_last_and_autocast():
    model, batches = classifier().eval(), image_batches()
    plain = gather_moments(model, batches, layers=["conv"], classes=3)
    assert gather_moments(torch.compile(model), batches, layers=["conv"], classes=3) == plain
    model.compile()
    assert gather_moments(model, batches, layers=["conv"], classes=3) == plain
    assert model._compiled_call_impl is not None
    tilted = classifier().eval()
    tilted.load_state_dict(model.state_dict())
    tilted = tilted.to(memory_format=torch.channels_last)
    found = gather_moments(tilted, batches, layers=["conv"], classes=3)["conv"]
    torch.testing.assert_close(found.mean, plain["conv"].mean, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        half = gather_moments(tilted, batches, layers=["conv"], classes=3)["conv"]
    assert not torch.equal(half.mean, found.mean)
    torch.testing.assert_close(half.mean, found.mean, rtol=0.05, atol=0.02)


def test_heads_side_by_side():
    rows = torch.randn(20, 6)
    labels = torch.randint(0, 2, (20,))
    whole = ClassMoments.from_activations(rows, labels, ["a", "b"])
    parts = whole.heads(3)
    assert [part.n_channels for part in parts] == [3, 3]
    assert parts[1] == whole.select([1, 3, 5])
    with complains("heads", "6", "4"):
        whole.heads(4)


def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(tmp_path):
    model, batches = classifier(), image_batches(5)
    whole = gather_moments(model, batches, layers=["conv", "head"], classes=3)
    path = tmp_path / "moments.safetensors"

    def until(stop):
        for number, batch in enumerate(batches):
            if number == stop:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        gather_moments(model, until(3), layers=["conv", "head"], classes=3, state_path=path)
    calls = []
    again = gather_moments(
        model,
        batches,
        layers=["conv", "head"],
        classes=3,
        state_path=path,
        resume=True,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert again == whole
    assert calls == [(4, 5), (5, 5)]
    with complains("resume", "other layers", "'head'"):
        gather_moments(model, batches, layers=["conv"], classes=3, state_path=path, resume=True)
    with complains("resume", "other model"):
        gather_moments(
            classifier(), batches, layers=["conv", "head"], classes=3, state_path=path, resume=True
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": ["cnv"]}, ("cnv", "conv")),
        ({"layers": "conv"}, ("layers", "list")),
        ({"layers": []}, ("layers", "at least one")),
        ({"classes": 0}, ("classes", "whole number from 1", "0")),
        ({"classes": []}, ("classes", "empty")),
        ({"classes": 3.0}, ("classes", "whole number", "3.0")),
        ({"model": None}, ("model", "Module", "NoneType")),
        ({"reduce": "median"}, ("reduce", "mean", "median")),
        ({"batches": [torch.randn(2, 3, 8, 6)]}, ("labels", "label_of")),
        ({"batches": []}, ("labelled samples", "none")),
        ({"batches": [(torch.randn(2, 3, 8, 6), torch.tensor([-1, -1]))]}, ("labelled", "none")),
        ({"batches": [(torch.randn(2, 3, 8, 6), torch.tensor([0.5, 1]))]}, ("labels", "integers")),
        (
            {"batches": [(torch.randn(2, 3, 8, 6), torch.tensor([0]))]},
            ("'conv'", "labels", "[2]"),
        ),
        ({"save_every": 0}, ("save_every", "1")),
        ({"resume": True}, ("resume", "state_path")),
    ],
)
def test_bad_arguments(changes, words):
    arguments = {"model": classifier(), "batches": image_batches(1), "layers": ["conv"]}
    with complains(*words):
        gather_moments(**arguments | {"classes": 3} | changes)


def test_a_layer_that_takes_no_part():
    model = classifier()
    model.head.register_module("idle", nn.Linear(2, 2))
    with complains("head.idle", "no part"):
        gather_moments(model, image_batches(1), layers=["head.idle"], classes=3)
