"""Networks and inputs off the beaten track: found by trying, each of them once went wrong."""

import dataclasses
import functools

import pytest
import torch
from helpers import complains
from torch import Tensor, nn
from torch.nn import functional

from actprune_gpu import SelectionConfig, apply_plan, prune_model

L1 = SelectionConfig(criterion="l1", budget=(0.3, 0.6))


@pytest.fixture(autouse=True)
def one_thread_and_seeded():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 4) for _ in range(4)]


def conv(inputs, outputs, size=1, **options):
    return nn.Conv2d(inputs, outputs, size, **options)


def counts(result):
    return {group.name: len(group.keep) for group in result.plan.groups}


def apart(pruned, model, batches):
    """The largest difference between outputs, as a share of the largest output."""
    with torch.no_grad():
        before, after = model(batches[0][0]), pruned(batches[0][0])
    return float((after - before).abs().max() / before.abs().max())


def without_constants(model, batches, repair):
    """The network without the channels of ``a`` that are constant: means make up for all."""
    with torch.no_grad():
        model.a.weight[:3] = 0.0
        model.a.bias[:3] = 2.0
    plan = prune_model(model, batches, config=L1, repair="none").plan
    groups = [
        group.model_copy(
            update={"keep": list(range(3 if group.name == "a" else 0, group.channels))}
        )
        for group in plan.groups
    ]
    plan = plan.model_copy(update={"groups": groups})
    return apply_plan(model, plan, batches, repair=repair).model


def test_a_layer_half_of_which_is_dead_keeps_the_other_half():
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(16, 8, 8, 8, generator=generator), torch.arange(16) % 4)] * 4
    model = nn.Sequential(conv(8, 16), nn.ReLU(), conv(16, 12), nn.ReLU(), conv(12, 4)).eval()
    with torch.no_grad():
        model[0].weight[8:] = 0.0
        model[0].bias[8:] = 0.0
    result = prune_model(model, batches, classes=4, target_flops=0.8)
    before, after = result.plan.cost.flops
    assert after > 0.5 * before  # which is what the living channels cost
    assert counts(result)["0"] >= 6


class Masked(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.net = nn.Sequential(
            conv(3, 16, 3), nn.ReLU(), conv(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.head = nn.Linear(16, 5)
        self.hidden = torch.tensor([False] * 4 + [hidden])

    def forward(self, x):
        return self.head(self.net(x).flatten(1)).masked_fill(self.hidden, -torch.inf)


def test_outputs_that_are_infinite_do_not_count(batches):
    results = []
    for hidden in (False, True):
        torch.manual_seed(0)
        model = Masked(hidden).eval()
        results.append(prune_model(model, batches, classes=4, target_flops=0.7))
    assert counts(results[0]) == counts(results[1])
    assert results[1].plan.cost.flops[1] > 0.6 * results[1].plan.cost.flops[0]


def test_without_outputs_damage_cannot_be_measured(batches):
    class Silent(Masked):
        def forward(self, x):
            return super().forward(x).argmax(1)

    with complains("finite numbers", "allocation='proportion'"):
        prune_model(Silent(False).eval(), batches, classes=4, target_flops=0.7)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 10), conv(10, 4)

    def forward(self, x):
        sides = [self.head(functional.relu(self.b(functional.relu(self.a(y))))) for y in (x, -x)]
        return torch.cat(sides, 1)


@pytest.mark.parametrize("repair", ["mean", "fold", "reconstruct"])
def test_what_is_used_twice_is_repaired_once(batches, repair):
    model = Siamese().eval()
    assert apart(without_constants(model, batches, repair), model, batches) < 1e-5


class Normalized(nn.Module):
    """Normalized behind the activation, before it with another reader, or only after a sum."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.c = conv(3, 12), conv(12, 10, bias=False), conv(3, 10, bias=False)
        self.norm, self.head, self.other = nn.BatchNorm2d(10), conv(10, 4), conv(10, 4)
        self.kind = kind

    def forward(self, x):
        y = self.b(functional.relu(self.a(x)))
        if self.kind == "behind the activation":
            return self.head(self.norm(functional.relu(y)))
        if self.kind == "read twice":
            return self.head(functional.relu(self.norm(y)) + y)
        if self.kind == "behind a sum":
            y = y + self.c(x)
            return self.head(functional.relu(self.norm(y))) + self.other(y)
        return self.head(functional.relu(self.norm(y)))


@pytest.mark.parametrize("repair", ["mean", "fold"])
@pytest.mark.parametrize(
    "kind", ["directly", "behind the activation", "read twice", "behind a sum"]
)
def test_constants_go_where_nobody_else_reads(batches, kind, repair):
    model = Normalized(kind).eval()
    repaired = without_constants(model, batches, repair)
    assert apart(repaired, model, batches) < 1e-5
    assert (repaired.b.bias is None) == (kind == "directly")


def test_a_replay_repairs_on_as_many_samples(batches):
    head = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    model = nn.Sequential(conv(3, 24, 3), nn.ReLU(), conv(24, 16, 3), nn.ReLU(), *head).eval()
    cut = prune_model(model, batches, config=L1, repair="none")
    repaired = prune_model(model, batches, config=L1)
    replayed = apply_plan(model, cut.plan, batches, repair="reconstruct+bn")
    assert cut.plan.repair_images == 0
    assert replayed.plan.repair_images == repaired.plan.repair_images == 64
    for name, value in repaired.model.state_dict().items():
        assert torch.equal(value, replayed.model.state_dict()[name]), name


@pytest.mark.parametrize("repair", ["fold", "bn", "reconstruct+bn"])
def test_normalization_without_statistics(batches, repair):
    norm = nn.BatchNorm2d(10, track_running_stats=False)
    block = conv(3, 12), nn.ReLU(), conv(12, 10, bias=False), norm, nn.ReLU()
    model = nn.Sequential(*block, conv(10, 4)).eval()
    result = prune_model(model, batches, classes=4, target_flops=0.7, repair=repair)
    assert result.model(batches[0][0]).isfinite().all()


class Padding(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


def test_a_convolution_that_pads_by_itself_is_folded_into(batches):
    parts = conv(3, 12), nn.ReLU(), Padding(12, 10, 3), nn.ReLU(), conv(10, 4)
    model = nn.Sequential(*parts).eval()
    cut = prune_model(model, batches, config=L1, repair="none").model
    repaired = prune_model(model, batches, config=L1).model
    assert apart(repaired, model, batches) < apart(cut, model, batches)


def test_modules_called_by_keyword(batches):
    class Named(Siamese):
        def forward(self, x):
            return self.head(input=functional.relu(self.b(input=functional.relu(self.a(x)))))

    model = Named().eval()
    assert apart(without_constants(model, batches, "mean"), model, batches) < 1e-5
    prune_model(model, batches, classes=4, target_flops=0.7)


@pytest.mark.parametrize(
    "activation",
    [nn.Mish, nn.Hardtanh, nn.ELU, nn.LeakyReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Hardsigmoid],
)
def test_activations_in_place_are_followed(batches, activation):
    parts = conv(3, 12), activation(inplace=True), conv(12, 10), nn.ReLU(), conv(10, 4)
    result = prune_model(nn.Sequential(*parts).eval(), batches, config=L1)
    assert set(counts(result)) == {"0", "2"}


@pytest.mark.parametrize("activation", [nn.PReLU, nn.LogSigmoid, nn.RReLU, nn.Softsign, nn.GELU])
def test_activations_are_followed(batches, activation):
    parts = conv(3, 12), activation(), conv(12, 10), nn.ReLU(), conv(10, 4)
    result = prune_model(nn.Sequential(*parts).eval(), batches, config=L1)
    assert set(counts(result)) == {"0", "2"}


@dataclasses.dataclass
class Output:
    features: Tensor
    logits: Tensor


def test_outputs_in_a_dataclass_stay(batches):
    class Both(Siamese):
        def forward(self, x):
            features = functional.relu(self.b(functional.relu(self.a(x))))
            return Output(features, self.head(features))

    result = prune_model(Both().eval(), batches, classes=4, target_flops=0.7)
    assert result.model(batches[0][0]).features.shape[1] == 10
    assert set(counts(result)) == {"a"}


def test_what_a_network_keeps_between_calls_stays_real(batches):
    @functools.lru_cache
    def rows(count):
        return torch.linspace(0, 1, count)[:, None]

    class Positioned(Siamese):
        weight_of_rows = None

        def forward(self, x):
            if self.weight_of_rows is None:
                self.weight_of_rows = rows(x.shape[2])
            x = functional.relu(self.a(x) + rows(x.shape[2]))
            return self.head(self.b(x) * self.weight_of_rows)

    model = Positioned()
    prune_model(model, batches, classes=4, target_flops=0.8)
    assert type(rows(8)) is Tensor
    model(batches[0][0]).sum().backward()


def test_shared_weights_stay_shared(batches):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.up, self.down = (
                nn.Embedding(50, 16),
                nn.Linear(16, 20),
                nn.Linear(20, 16),
            )
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.down(functional.relu(self.up(self.embed(x)))))

    model = Tied().eval()
    texts = [(torch.randint(0, 50, (8, 6)), torch.arange(8) % 4) for _ in range(3)]
    result = prune_model(model, texts, config=L1)
    assert set(counts(result)) == {"up"}
    assert result.model.head.weight is result.model.embed.weight
    assert torch.equal(result.model.embed.weight, model.embed.weight)


class Odd(nn.Module):
    """Something between two convolutions that removal would change."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 8), conv(8, 4)
        self.between = between

    def forward(self, x):
        x = self.between(functional.relu(self.a(x)))
        return self.head(functional.relu(self.b(x)))


def halves(x):
    parts = x.split(6, 1)
    return torch.cat([-parts[0], *parts[1:]], 1)


@pytest.mark.parametrize(
    "between", [halves, lambda x: x / x.shape[1] ** 0.5, lambda x: x.roll(1, 1)]
)
def test_channels_without_which_it_computes_otherwise_stay(batches, between):
    model = Odd(between).eval()
    result = prune_model(model, batches, config=L1, repair="none")
    assert set(counts(result)) == {"b"}
    zeroed = apply_plan(model, result.plan, batches, mode="zero").model
    assert apart(result.model, zeroed, batches) < 1e-4


def test_networks_that_draw_numbers_are_pruned(batches):
    model = Odd(lambda x: x * torch.rand(())).eval()
    assert set(counts(prune_model(model, batches, config=L1, repair="none"))) == {"a", "b"}


def test_plans_of_any_network_are_reported(batches, tmp_path):
    from actprune_gpu.report import write_report

    prune_model(Siamese().eval(), batches, config=L1).plan.save(tmp_path / "plan.json")
    assert "samples" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_sample_that_is_not_finite_is_left_out_of_repair(batches):
    model = Siamese().eval()
    batches[0][0][3] = torch.nan
    result = prune_model(model, batches, config=L1)
    assert all(value.isfinite().all() for value in result.model.state_dict().values())


def test_lists_of_layers_are_lists(batches):
    model = nn.Sequential(conv(3, 12), nn.ReLU(), conv(12, 10), nn.ReLU(), conv(10, 4)).eval()
    for name in ("layers", "protect"):
        with complains(name, "list", "'02'"):
            prune_model(model, batches, config=L1, **{name: "02"})


def test_a_share_must_be_a_number(batches):
    with complains("target_flops", "number", "'0.5'"):
        prune_model(Siamese().eval(), batches, config=L1, target_flops="0.5")


class Auxiliary(nn.Module):
    """A second head that is there for training alone, behind a dropout."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3)
        self.drop, self.main, self.extra = nn.Dropout(0.3), nn.Conv2d(12, 5, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = self.a(x).relu()
        main = self.main(self.b(x).relu())
        return [main, self.extra(self.drop(x))] if self.training else [main]


def test_heads_for_training_alone_follow(batches):
    result = prune_model(Auxiliary().eval(), batches, config=L1, repair="none")
    assert counts(result) == {"a": 7, "b": 7}
    assert result.model.extra.in_channels == 7
    main, extra = result.model.train()(batches[0][0])
    (main.sum() + extra.sum()).backward()
    assert result.model.extra.weight.grad is not None


@pytest.mark.parametrize("around", [torch.inference_mode, functools.partial(torch.autocast, "cpu")])
def test_what_is_switched_on_around_it_changes_nothing(batches, around):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    expected = prune_model(model, batches, config=L1)
    with around():
        found = prune_model(model, batches, config=L1)
        again = apply_plan(model, found.plan, batches).model
    assert found.plan == expected.plan
    for network in (found.model, again):
        for name, value in expected.model.state_dict().items():
            assert torch.equal(network.state_dict()[name], value)
    found.model(batches[0][0]).sum().backward()


def test_texts_of_different_lengths_where_nothing_is_repaired():
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    texts = [(torch.randn(4, length, 8), torch.arange(4) % 3) for length in (5, 7, 6)]
    assert prune_model(model, texts, config=L1, repair="none").model[0].out_features == 7
    with complains("one shape"):
        prune_model(model, texts, config=L1)


def test_a_tensor_that_is_not_of_samples_stays_whole():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 4)

        def forward(self, x, mask):
            return mask @ self.b(self.a(x).relu())

    batches = [((torch.randn(4, 7, 8), torch.rand(7, 7)), torch.arange(4) % 3) for _ in range(2)]
    result = prune_model(Masked().eval(), batches, config=L1)
    assert result.model.a.out_features == 7


class Gated(nn.Linear):
    """A layer with an activation of its own, which is not 0 at 0."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.act = nn.Sigmoid()

    def forward(self, x):
        return self.act(super().forward(x))


def test_layers_with_an_activation_of_their_own(batches):
    model = nn.Sequential(nn.Flatten(), Gated(192, 12), Gated(12, 10), nn.Linear(10, 5)).eval()
    result = prune_model(model, batches, config=L1)
    assert [result.model[at].out_features for at in (1, 2)] == [7, 6]
    zeroed = apply_plan(model, result.plan, batches, mode="zero").model
    assert apart(zeroed, result.model, batches) < 1e-5


class Encoder(nn.Module):
    """Asks whether its mask is causal, as `nn.TransformerEncoder` does."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.embedding, self.layers = nn.Embedding(50, 16), nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(16, 3)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6))

    def forward(self, x):
        return self.out(self.layers(self.embedding(x), mask=self.mask).mean(1))


class Asking(nn.Module):
    """Goes on as the contents of its tensors say, in all ways of asking."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 12), conv(12, 10), conv(10, 4)

    def forward(self, x):
        y = self.a(x).relu()
        if x.max() > 0:
            y = y[:, :, : int((x[0, 0, 0] < 100).sum()) // 2]
        for _ in range(2):  # the same place twice
            if float(x.abs().mean()) < 1e9 and not torch.equal(x, -x):
                y = y + 1
        return self.c(self.b(y).relu()).mean((2, 3))


def test_networks_that_ask_for_contents_are_followed(batches):
    texts = [(torch.randint(0, 50, (16, 6)), torch.arange(16) % 3) for _ in range(2)]
    result = prune_model(Encoder().eval(), texts, config=L1)
    assert set(counts(result)) == {f"layers.layers.{n}.linear1" for n in (0, 1)}
    model = Asking().eval()
    result = prune_model(model, batches, config=L1)
    assert set(counts(result)) == {"a", "b"}
    zeroed = apply_plan(model, result.plan, batches, mode="zero").model
    assert apart(zeroed, result.model, batches) < 1e-4


class Unanswered(Asking):
    """Looks at a number for which PyTorch has no question."""

    def forward(self, x):
        return super().forward(x) * x.flatten().tolist()[0] ** 0


def test_a_question_that_cannot_be_answered_is_one_line(batches):
    with complains("must run without the contents of its tensors"):
        prune_model(Unanswered().eval(), batches, config=L1)


class OneNorm(nn.Module):
    """One normalization without weights behind layers of several widths."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 12), conv(12, 10), conv(10, 4)
        self.norm = nn.InstanceNorm2d(12)

    def forward(self, x):
        return self.c(self.norm(self.b(self.norm(self.a(x)).relu())).relu()).mean((2, 3))


@pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features")
def test_a_normalization_for_any_number_of_channels(batches):
    model = OneNorm().eval()
    result = prune_model(model, batches, config=L1)
    assert set(counts(result)) == {"a", "b"}
    zeroed = apply_plan(model, result.plan, batches, mode="zero").model
    assert apart(zeroed, result.model, batches) < 1e-4


class Skipping(nn.InstanceNorm2d):
    def forward(self, x, skip):
        return super().forward(x) + skip


class Merging(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.norm = conv(3, 12), conv(3, 12), conv(12, 4), Skipping(12)
        self.d, self.e = conv(3, 10), conv(10, 4)

    def forward(self, x):
        merged = self.c(self.norm(self.a(x), self.b(x)).relu())
        return (merged + self.e(self.d(x).relu())).mean((2, 3))


def test_a_normalization_that_does_more_holds_what_it_gets(batches):
    plan = prune_model(Merging().eval(), batches, config=L1).plan
    assert {group.name for group in plan.groups} == {"d"}


def test_what_only_has_the_name_of_a_known_module_is_run(batches):
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.nf, self.inner = 10, conv(12, 10)

        def forward(self, x):
            return self.inner(x)

    model = nn.Sequential(conv(3, 12), nn.ReLU(), Conv1D(), nn.ReLU(), conv(10, 4)).eval()
    assert set(counts(prune_model(model, batches, config=L1))) == {"0", "2.inner"}


class Pyramid(nn.Module):
    """A head on two scales, the second of which it sees quite another signal in."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 24), conv(3, 24)
        self.head, self.out = conv(24, 16), conv(16, 4)

    def forward(self, x):
        near, far = self.a(x).relu(), 5.0 - self.b(x).relu().square()
        return [self.out(self.head(level).relu()) for level in (near, far)]


def test_a_head_on_several_scales_is_repaired_for_all(batches):
    model = Pyramid().eval()
    pruned = {
        repair: prune_model(model, batches, config=L1, layers=["head"], repair=repair).model
        for repair in ("fold", "reconstruct")
    }
    with torch.no_grad():
        want = model(batches[0][0])[1]
        lost = {repair: float((m(batches[0][0])[1] - want).std()) for repair, m in pruned.items()}
    assert lost["reconstruct"] <= lost["fold"] * 1.001
