"""Repair: the regression, its cells, and networks whose dropped channels can be made up for."""

import threading
from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers import complains
from networks import Net, conv, randomise
from torch import nn

from actprune_gpu.inputs import ModelInputs
from actprune_gpu.pruning import least_squares
from actprune_gpu.pruning.least_squares import Moments, ridge
from actprune_gpu.pruning.lockstep import lockstep
from actprune_gpu.pruning.remove import remove_channels
from actprune_gpu.pruning.repair import _held_out, parse_repair, repair
from actprune_gpu.pruning.sampling import Calibration, patches
from actprune_gpu.pruning.trace import trace_channels


# ---------------------------------------------------------------- the regression
def ridge_ref(x, y, held_out, prior, strengths):
    """Ridge regression by augmented least squares, and every strength's error on held-out rows."""
    means = x.mean(0), y.mean(0)
    x, y = x - means[0], y - means[1]

    def solve(rows, strength):
        scale = np.sqrt(strength * np.square(x[rows]).sum(0).mean())
        eye = scale * np.eye(x.shape[1])
        stacked = np.vstack([x[rows], eye]), np.vstack([y[rows], eye @ prior])
        return np.linalg.lstsq(*stacked, rcond=None)[0]

    errors = [np.square(y - x @ solve(~held_out, s))[held_out].sum() for s in strengths]
    weights = solve(np.ones(len(x), bool), strengths[int(np.argmin(errors))])
    return weights, means[1] - means[0] @ weights, errors


def problem(noise, n_rows=400, wrong_prior=False):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (n_rows, 12)) @ rng.normal(0, 1, (12, 12)) + rng.normal(0, 3, 12)
    weights = rng.normal(0, 1, (12, 5))
    y = x @ weights + rng.normal(0, 2, 5) + rng.normal(0, noise, (n_rows, 5))
    prior = rng.normal(0, 1, (12, 5)) if wrong_prior else weights + rng.normal(0, 0.02, (12, 5))
    return x, y, np.arange(n_rows) % 4 == 0, prior


@pytest.mark.parametrize(
    ("settings", "strongest"),
    [
        ({"noise": 0.0, "wrong_prior": True}, False),
        ({"noise": 1.0}, None),
        ({"noise": 100.0, "n_rows": 40}, True),
    ],
)
def test_ridge_is_the_best_of_its_strengths_on_rows_held_out(settings, strongest):
    x, y, held_out, prior = problem(**settings)
    expected, intercept, errors = ridge_ref(x, y, held_out, prior, least_squares._STRENGTHS)
    if strongest is not None:  # the choice is a choice
        assert np.argmin(errors) == (len(errors) - 1 if strongest else 0)
    given = (torch.from_numpy(part).float() for part in (x, y))
    moments = Moments.of(*given, torch.from_numpy(held_out))
    got = ridge(moments, torch.from_numpy(prior))
    np.testing.assert_allclose(got[0], expected, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(got[1], intercept, atol=1e-3 * np.abs(intercept).max())


def test_moments_are_sums_of_products_around_common_means():
    x, y, held_out, _ = problem(1.0)
    given = (torch.from_numpy(part).float() for part in (x, y))
    moments = Moments.of(*given, torch.from_numpy(held_out))
    x, y = x - x.mean(0), y - y.mean(0)
    for part, rows in enumerate((~held_out, held_out)):
        for got, other in ((moments.covariance, x), (moments.cross, y)):
            expected = x[rows].T @ other[rows]
            np.testing.assert_allclose(got[part], expected, atol=1e-4 * np.abs(expected).max())


def test_products_of_other_rows_are_added():
    x, y, held_out, prior = problem(1.0, n_rows=80)
    others, wanted, other_held_out, _ = problem(0.5, n_rows=120, wrong_prior=True)
    first, second = (
        Moments.of(*(torch.from_numpy(part) for part in parts))
        for parts in ((x, y, held_out), (others + 5.0, wanted, other_held_out))
    )
    weights, intercept = ridge(first.with_products_of(second), torch.from_numpy(prior))
    means = x.mean(0), y.mean(0)
    rows = (x - means[0], y - means[1]), (others - others.mean(0), wanted - wanted.mean(0))
    stacked = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    held_out = np.concatenate([held_out, other_held_out])
    expected, _, _ = ridge_ref(*stacked, held_out, prior, least_squares._STRENGTHS)
    np.testing.assert_allclose(weights, expected, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(intercept, means[1] - means[0] @ expected, atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": (1, 3), "padding": (0, 1), "stride": (2, 1)},
        {"kernel_size": 1, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": (3, 4), "padding": "same", "dilation": (2, 1)},
        {"kernel_size": 3, "padding": (2, 1), "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        {"kind": nn.Conv1d, "kernel_size": 3, "padding": 2, "stride": 2},
        {"kind": nn.Conv1d, "kernel_size": 1, "stride": 3},
        {"kind": nn.Conv1d, "kernel_size": 4, "padding": "same", "dilation": 2},
        {"kind": nn.Conv3d, "kernel_size": (1, 2, 3), "padding": (0, 1, 2), "stride": (2, 1, 2)},
    ],
)
def test_patches_are_what_a_convolution_sees(settings):
    torch.manual_seed(0)
    kind = settings.get("kind", nn.Conv2d)
    settings = {name: value for name, value in settings.items() if name != "kind"}
    convolution = kind(3, 5, **settings).double()
    n_axes = len(convolution.kernel_size)
    map_ = torch.randn(2, 3, *(9, 7, 5)[:n_axes], dtype=torch.float64)
    output = convolution(map_)
    n, *at = cells = torch.ones(output[:, 0].shape, dtype=bool).nonzero(as_tuple=True)
    seen = patches(map_, convolution, cells)
    got = seen @ convolution.weight.flatten(1).T + convolution.bias
    torch.testing.assert_close(got, output.movedim(1, -1)[n, *at])


# ---------------------------------------------------------------- cells
def letterboxed():
    """Images of several shapes in one corner or the middle of a canvas of 64 x 96 pixels."""
    content = torch.tensor([[0, 0, 96, 64], [0, 0, 40, 64], [16, 8, 80, 56], [0, 0, 96, 5.0]])
    return Calibration.of_images(torch.zeros(4, 3, 64, 96), content)


@pytest.mark.parametrize("size", [(64, 96), (16, 24), (2, 3)])
def test_padding_is_not_sampled(size):
    calibration = letterboxed()
    stride = 64 // size[0]
    expected = [
        (n, y, x)
        for n, (left, top, right, bottom) in enumerate(calibration.content.tolist())
        for y in range(size[0])
        for x in range(size[1])
        if left <= (x + 0.5) * stride < right and top <= (y + 0.5) * stride < bottom
    ]
    got = torch.stack(calibration.cells((4, *size), 10**6), 1)
    assert got.tolist() == [list(cell) for cell in expected]


def test_cells_are_drawn_without_repetition_in_order():
    calibration = letterboxed()
    everything, some, other = (
        [tuple(cell) for cell in torch.stack(calibration.cells((4, 16, 24), n, seed=s), 1).tolist()]
        for n, s in ((10**6, 0), (50, 0), (50, 1))
    )
    assert len(set(some)) == len(some) == 50
    assert some == sorted(some)
    assert set(some) < set(everything)
    assert some != other
    # Of the whole canvas, not of its beginning: the second half of the images has its share.
    assert {n for n, _, _ in some} >= {0, 1, 2}


def test_of_a_single_sample_some_places_are_held_out():
    several = (torch.tensor([0, 0, 1, 1, 4, 5]), torch.arange(6))
    assert _held_out(several).tolist() == [True, True, False, False, True, False]
    alone = _held_out((torch.full((9,), 3), torch.arange(9)))
    assert alone.tolist() == [n % 4 == 0 for n in range(9)]


def test_predictors_that_rounding_makes_impossible_take_a_stronger_ridge():
    # As of products in float32: an eigenvalue below zero by more than the ridge adds.
    covariance = torch.diag(torch.tensor([1e8, 1.0, -1e-3], dtype=torch.float64))
    cross = torch.zeros(3, 1, dtype=torch.float64)
    prior = torch.ones(3, 1, dtype=torch.float64)
    solved = least_squares._solve(covariance, cross, prior, torch.tensor(1e-4))
    assert solved.isfinite().all()
    with complains("repair", "finite"):
        least_squares._solve(
            torch.full_like(covariance, torch.nan), cross, prior, torch.tensor(1.0)
        )


# ---------------------------------------------------------------- networks
KEEP = [0, 2, 5, 6, 7]


def chain(**options):
    """1 x 1 convolutions: 8 channels out of 3, any 3 of which say all about the others."""
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.d(n.norm(n.c(n.a(x)))),
        a=nn.Conv2d(3, 8, 1),
        c=nn.Conv2d(8, 6, 1, bias=options.get("bias", True)),
        norm=nn.BatchNorm2d(6) if options.get("norm") else nn.Identity(),
        d=nn.Conv2d(6, 4, 1),
    )
    with torch.no_grad():  # well conditioned: the kept ones span the three inputs alike
        nn.init.orthogonal_(net.a.weight.view(8, 3))
    return randomise(net).eval().requires_grad_(False)


def calibration_of(*size):
    torch.manual_seed(1)
    n, height, width = size
    content = torch.tensor([[0.0, 0.0, width, height]]).expand(n, 4)
    return Calibration.of_images(torch.randn(n, 3, height, width), content)


def repaired(net, methods, keep=KEEP, calibration=None, group="a"):
    """The network without the other channels of a group, repaired."""
    calibration = calibration or calibration_of(8, 12, 10)
    graph = trace_channels(net, calibration.images[:1])
    pruned, own = deepcopy((net, graph))
    stays = graph.kept({group: keep})
    remove_channels(own, stays)
    if methods != "none":
        repair(net, pruned, graph, stays, calibration, parse_repair(methods))
    return pruned


def watched(net, name, images):
    """What a module puts out."""
    seen = []
    handle = net.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        net(images)
    handle.remove()
    return seen[0].double()


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


NETS = ({}, {"norm": True}, {"bias": False, "norm": True}, {"bias": False})


@pytest.mark.parametrize("options", NETS)
@pytest.mark.parametrize("methods", ["fold", "reconstruct", "reconstruct+bn"])
def test_linear_combinations_are_made_up_for(options, methods):
    net = chain(**options)
    fresh = torch.randn(4, 3, 9, 9)  # images that repair has not seen
    expected = watched(net, "d", fresh)
    assert relative(watched(repaired(net, "none"), "d", fresh), expected) > 0.05
    assert relative(watched(repaired(net, methods), "d", fresh), expected) < 2e-3


def test_weights_go_on_doing_their_work_on_the_inputs_that_there_were(monkeypatch):
    """Fitted to what pruning makes of their inputs on a few images alone, they forget it."""
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.d(n.c(n.a(x).relu()).relu()),
        a=nn.Conv2d(3, 8, 1),
        c=nn.Conv2d(8, 12, 1),
        d=nn.Conv2d(12, 4, 3, padding=1),
    )
    randomise(net).eval().requires_grad_(False)
    calibration = calibration_of(4, 6, 6)
    before = watched(net, "c", calibration.images).relu()
    expected = watched(net, "d", calibration.images)
    errors = []
    for _ in range(2):
        after = repaired(net, "reconstruct", keep=[0, 2], calibration=calibration)
        made = after.d.double()(before)
        errors.append(float((made - expected).var((0, 2, 3)).sum() / expected.var((0, 2, 3)).sum()))
        monkeypatch.setattr(Moments, "with_products_of", lambda now, before: now)
    assert errors[1] > 1e-3
    assert errors[0] < 0.3 * errors[1]


@pytest.mark.parametrize("options", NETS)
def test_mean_restores_the_means_of_the_readers(options):
    net, calibration = chain(**options), calibration_of(8, 12, 10)
    reader = "norm" if options.get("norm") else "c"
    expected = watched(net, reader, calibration.images).mean((0, 2, 3))
    means = {
        methods: watched(repaired(net, methods), reader, calibration.images).mean((0, 2, 3))
        for methods in ("none", "mean")
    }
    assert relative(means["none"], expected) > 0.05
    assert relative(means["mean"], expected) < 1e-4


@pytest.mark.parametrize("methods", ["bn", "mean+bn"])
def test_bn_restores_mean_and_variance_behind_the_normalization(methods):
    net, calibration = chain(norm=True, bias=False), calibration_of(8, 12, 10)
    before = watched(net, "norm", calibration.images)
    cut = watched(repaired(net, "none"), "norm", calibration.images)
    after = watched(repaired(net, methods), "norm", calibration.images)
    for statistic in (torch.mean, torch.var):
        expected = statistic(before, (0, 2, 3))
        assert relative(statistic(cut, (0, 2, 3)), expected) > 0.05
        assert relative(statistic(after, (0, 2, 3)), expected) < 1e-3


def test_only_what_is_behind_a_dropped_channel_changes():
    net = Net(
        lambda n, x: (n.c(n.a(x)), n.d(n.b(x))),
        a=conv(3, 8),
        b=conv(3, 8),
        c=conv(8, 2),
        d=conv(8, 2),
    )
    net.eval().requires_grad_(False)
    after = repaired(net, "reconstruct+bn")
    for name in ("b", "d"):
        assert torch.equal(net.get_submodule(name).weight, after.get_submodule(name).weight)
    assert torch.equal(net.a.weight[KEEP], after.a.weight)
    assert not torch.equal(net.c.weight[:, KEEP], after.c.weight)


def test_nothing_changes_where_nothing_is_dropped():
    net = chain(norm=True)
    after = repaired(net, "mean+fold+reconstruct+bn", keep=range(8))
    for name, value in net.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]), name


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    """A small YOLO, three quarters of its channels, and images with padding."""
    from actprune_gpu.models.ultralytics.channels import trace_model
    from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint

    model = load_checkpoint(tiny_checkpoint).model
    graph = trace_model(model)
    keep = {group.name: range(3 * group.n_channels // 4) for group in graph.groups}
    torch.manual_seed(2)
    content = torch.tensor([[0.0, 0.0, 64.0 - 8 * n, 64.0] for n in range(4)])
    return model, graph, graph.kept(keep), Calibration.of_images(torch.rand(4, 3, 64, 64), content)


def repair_tiny(tiny, **changes):
    from actprune_gpu.models.ultralytics.channels import shrink_model

    model, graph, stays, calibration = tiny
    pruned, own = deepcopy((model, graph))
    shrink_model(pruned, own, stays)
    methods = parse_repair(changes.pop("methods", "reconstruct+bn"))
    repair(model, pruned, graph, stays, changes.pop("calibration", calibration), methods, **changes)
    return pruned


def test_repair_is_deterministic_and_leaves_the_original_alone(tiny):
    before = {name: value.clone() for name, value in tiny[0].state_dict().items()}
    first, second = (repair_tiny(tiny).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    after = tiny[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_lies_in_the_padding_is_not_learned_from():
    # With 1 x 1 convolutions, no cell sees another.
    net, calibration = chain(norm=True), calibration_of(8, 12, 10)
    content = calibration.content.clone()
    content[:, 2] = 6.0
    other = calibration.images.clone()
    other[..., 6:] = 1e3
    first, second, whole = (
        repaired(
            net, "reconstruct+bn", calibration=Calibration.of_images(images, content)
        ).state_dict()
        for images, content in (
            (calibration.images, content),
            (other, content),
            (calibration.images, calibration.content),
        )
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], whole[name]) for name in first)


def test_progress_counts_the_modules(tiny):
    calls = []
    repair_tiny(tiny, methods="bn", progress=lambda *call: calls.append(call))
    assert calls == [(number, len(tiny[1].uses)) for number in range(1, len(tiny[1].uses) + 1)]


# ---------------------------------------------------------------- side by side
class Raises(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError


def hooks_of(net):
    return [h for m in net.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


def test_steps_come_in_running_order_with_both_inputs():
    first, second = chain(), chain()
    image, seen = torch.randn(2, 3, 4, 4), []

    def step(name, inputs, outputs, given):
        seen.append((name, inputs, outputs, given))
        if name == "c":
            second.c.weight.mul_(2)  # before it runs

    out, changed = lockstep(first, second, ["a", "c", "d"], ModelInputs((image,)), step)
    torch.testing.assert_close(out.double(), watched(first, "d", image))
    torch.testing.assert_close(changed.double(), watched(second, "d", image))
    assert [call[0] for call in seen] == ["a", "c", "d"]
    a, c = watched(first, "a", image).float(), watched(first, "c", image).float()
    torch.testing.assert_close(seen[1][1], a)
    torch.testing.assert_close(seen[1][2], c)
    torch.testing.assert_close(seen[2][1], c)
    bias = first.c.bias[:, None, None]
    torch.testing.assert_close(seen[2][3], 2 * (c - bias) + bias)


@pytest.mark.parametrize(
    "where", ["first", "second", "step", "first, late", "second, early", "behind"]
)
def test_failures_come_through_and_leave_nothing_behind(where):
    first, second = chain(norm=True), chain(norm=True)
    if where == "first":
        first.norm = Raises()
    if where == "second":
        second.norm = Raises()
    if where == "first, late":
        first.d = Raises()
    if where == "second, early":
        second.a = Raises()
    n_threads, names = threading.active_count(), ["a", "c", "norm", "d"]
    if where == "behind":
        first.d, names = Raises(), names[:-1]

    def step(name, inputs, outputs, given):
        if where == "step" and name == "c":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lockstep(first, second, names, ModelInputs((torch.randn(2, 3, 4, 4),)), step)
    assert threading.active_count() == n_threads
    assert not hooks_of(first)
    assert not hooks_of(second)


def test_nothing_is_left_behind_without_failures(tiny):
    n_threads = threading.active_count()
    assert not hooks_of(repair_tiny(tiny, methods="mean"))
    assert not hooks_of(tiny[0])
    assert threading.active_count() == n_threads


# ---------------------------------------------------------------- names
def test_methods_are_sorted_and_checked():
    assert parse_repair("none") == ()
    assert parse_repair("bn+reconstruct") == ("reconstruct", "bn")
    for text in ("magic", "", "bn+none", "bn,fold"):
        with complains("repair", "none", "reconstruct", repr(text)):
            parse_repair(text)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (4, 2), (3, 3), (1, 1)])
@pytest.mark.parametrize("methods", ["mean", "fold", "reconstruct+bn"])
def test_a_transposed_convolution_keeps_its_mean(kernel, stride, methods):
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.b(n.a(x)), a=nn.Conv2d(3, 8, 1), b=nn.ConvTranspose2d(8, 4, kernel, stride)
    )
    nn.init.orthogonal_(net.a.weight.data.view(8, 3))
    nn.init.normal_(net.a.bias, 2.0)
    net.eval().requires_grad_(False)
    calibration = calibration_of(8, 12, 10)
    with torch.no_grad():
        want, cut, got = (
            changed(calibration.images)
            for changed in (net, repaired(net, "none"), repaired(net, methods))
        )
    inside = (slice(None), slice(None), slice(kernel, -kernel), slice(kernel, -kernel))
    shift = (got - want)[inside].mean((0, 2, 3)).abs().max()
    assert shift < 0.02 * want.std()
    error, torn = ((each - want).square().mean() for each in (got, cut))
    assert error < (1e-3 if "fold" in methods or "bn" in methods else 1.0) * torn


def test_the_statistics_of_what_runs_twice_stay():
    torch.manual_seed(0)
    net = Net(
        lambda n, x: (n.d(n.norm(n.c(n.a(x)))), n.d(n.norm(n.c(n.a(3 * x))))),
        a=nn.Conv2d(3, 8, 1),
        c=nn.Conv2d(8, 6, 1, bias=False),
        norm=nn.BatchNorm2d(6),
        d=nn.Conv2d(6, 4, 1),
    )
    randomise(net).eval().requires_grad_(False)
    assert torch.equal(repaired(net, "bn").norm.running_var, net.norm.running_var)
    once = Net(lambda n, x: n.d(n.norm(n.c(n.a(x)))), a=net.a, c=net.c, norm=net.norm, d=net.d)
    assert not torch.equal(repaired(once.eval(), "bn").norm.running_var, net.norm.running_var)
