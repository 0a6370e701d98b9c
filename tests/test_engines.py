"""Other t-SNE engines: asked for by name, and every failure of theirs is one line."""

import sys
import types

import numpy as np
import pytest
import torch
from helpers import planted_moments

from actprune_gpu import SelectionConfig, select_channels, tsne
from actprune_gpu.cli.main import run
from actprune_gpu.errors import BackendUnavailableError, InputError

ROWS = np.random.default_rng(0).random((40, 5))


class FakeTSNE:
    """An engine that notes how it is called."""

    made = None
    result = staticmethod(lambda n: np.random.default_rng(1).random((n, 2)))

    def __init__(self, **options):
        type(self).made = options

    def fit_transform(self, *arguments):
        type(self).arguments = arguments
        return self.result(len(arguments[0]))


class OldCuml(FakeTSNE):
    def __init__(self, n_components=2, n_iter=1000, **options):
        super().__init__(n_iter=n_iter, **options)


class NewCuml(FakeTSNE):
    def __init__(self, n_components=2, max_iter=1000, **options):
        super().__init__(max_iter=max_iter, **options)


@pytest.fixture
def install(monkeypatch):
    def put(engine, made):
        module = types.ModuleType(engine)
        module.TSNE = made
        monkeypatch.setitem(sys.modules, engine, module)
        if engine == "cuml":
            module.manifold = module
            monkeypatch.setitem(sys.modules, "cuml.manifold", module)

    return put


def test_tsnecuda_gets_the_options_and_the_start(install):
    install("tsnecuda", FakeTSNE)
    result = tsne(ROWS, engine="tsnecuda", perplexity=5.0, n_iter=300, learning_rate=70.0)
    assert FakeTSNE.made == {
        "n_components": 2,
        "perplexity": 5.0,
        "early_exaggeration": 12.0,
        "learning_rate": 70.0,
        "n_iter": 300,
        "num_neighbors": 32,
        "device": 0,
    }
    data, start = FakeTSNE.arguments
    np.testing.assert_array_equal(data, ROWS.astype(np.float32))
    assert start.std(0) == pytest.approx([1e-4, 1e-4], rel=0.9)
    np.testing.assert_array_equal(result.embedding, FakeTSNE.result(40).astype(np.float32))
    # The divergence is our own: the one that a run from there begins with.
    began = tsne(ROWS, perplexity=5.0, n_iter=1, init=result.embedding, learning_rate=1e-6)
    assert result.kl_divergence == pytest.approx(began.kl_divergence, rel=1e-3)
    assert result.n_iter == 300


@pytest.mark.parametrize(("made", "name"), [(OldCuml, "n_iter"), (NewCuml, "max_iter")])
def test_cuml_of_either_naming(install, made, name):
    install("cuml", made)
    tsne(ROWS, engine="cuml", init="random", n_iter=77, seed=3)
    assert made.made[name] == 77
    assert made.made["random_state"] == 3
    assert len(made.arguments) == 1


def test_cuml_takes_no_other_start(install):
    install("cuml", NewCuml)
    for init in ("pca", ROWS[:, :2]):
        with pytest.raises(InputError, match="init must be 'random' for engine 'cuml'"):
            tsne(ROWS, engine="cuml", init=init)
    with pytest.raises(InputError, match="init must be 'random' for engine 'cuml'"):
        SelectionConfig(engine="cuml")


def test_selections_by_another_engine(install):
    install("tsnecuda", FakeTSNE)
    moments, _ = planted_moments(5, 8)
    config = SelectionConfig(engine="tsnecuda")
    selection = select_channels(moments, torch.ones(40), config=config)
    assert len(FakeTSNE.arguments[0]) == 40
    assert len(selection.keep) >= 10
    assert config.model_dump()["engine"] == "tsnecuda"


class FailsToFit(FakeTSNE):
    def fit_transform(self, *arguments):
        raise MemoryError("out of memory")


class WrongShape(FakeTSNE):
    result = staticmethod(lambda n: np.zeros((n, 3)))


class NotFinite(FakeTSNE):
    result = staticmethod(lambda n: np.full((n, 2), np.nan))


class FailsToStart(FakeTSNE):
    def __init__(self, **options):
        raise RuntimeError("CUDA error:\nno device")


class Leaves(FakeTSNE):
    def __init__(self, **options):
        raise SystemExit("no licence")


class NoNumbers(FakeTSNE):
    result = staticmethod(lambda n: ["a", "b"])


class OnTheGPU:
    """An array of CuPy's, as far as its class says."""

    __module__ = "cupy"
    values = np.random.default_rng(2).random((40, 2))

    def get(self):
        return self.values


def test_results_on_the_gpu_are_fetched(install, monkeypatch):
    monkeypatch.setattr(FakeTSNE, "result", staticmethod(lambda n: OnTheGPU()))
    install("tsnecuda", FakeTSNE)
    result = tsne(ROWS, engine="tsnecuda")
    np.testing.assert_array_equal(result.embedding, OnTheGPU.values.astype(np.float32))


class NoSignature(FakeTSNE):
    __signature__ = 5


def test_a_constructor_without_a_signature_is_reported(install):
    install("cuml", NoSignature)
    with pytest.raises(BackendUnavailableError, match=r"TypeError: unexpected .*cuml-cu13"):
        tsne(ROWS, engine="cuml", init="random")


@pytest.mark.parametrize("made", [FailsToStart, Leaves])
def test_a_constructor_that_fails_is_reported_before_any_work(install, made, tmp_path, capsys):
    """As that of tsnecuda's wheel does: its import finds nothing amiss."""
    install("tsnecuda", made)
    status = run(["prune", "--engine", "tsnecuda", "--out", str(tmp_path / "out")])
    assert status == 2
    assert "conda install -c conda-forge tsnecuda" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Leaves, "SystemExit: no licence"),
        (NoNumbers, "ValueError: could not convert"),
        (FailsToStart, "RuntimeError: CUDA error: no device"),
        (FailsToFit, "MemoryError: out of memory"),
        (WrongShape, r"gave no finite embedding \[40, 2\], got \[40, 3\]"),
        (NotFinite, "gave no finite embedding"),
    ],
)
def test_failures_become_one_line(install, made, message):
    install("tsnecuda", made)
    with pytest.raises(BackendUnavailableError, match=message) as error:
        tsne(ROWS, engine="tsnecuda")
    assert "\n" not in str(error.value)
    assert "engine 'exact'" in str(error.value)


class BrokenFinder:
    """Importing tsnecuda fails as it does where its libraries are missing."""

    def find_spec(self, name, path=None, target=None):
        if name == "tsnecuda":
            raise OSError("libcudart.so.10.2: cannot open shared object file")


def test_an_import_that_fails_is_reported_before_any_work(monkeypatch, tmp_path, capsys):
    monkeypatch.delitem(sys.modules, "tsnecuda", raising=False)
    monkeypatch.setattr(sys, "meta_path", [BrokenFinder(), *sys.meta_path])
    with pytest.raises(BackendUnavailableError, match=r"OSError: libcudart\.so\.10\.2"):
        tsne([["not even numbers"]], engine="tsnecuda")
    status = run(["prune", "--engine", "tsnecuda", "--out", str(tmp_path / "out")])
    assert status == 2
    assert "libcudart.so.10.2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_env_says_which_engines_work(install, monkeypatch, capsys):
    install("cuml", NewCuml)
    monkeypatch.delitem(sys.modules, "tsnecuda", raising=False)
    monkeypatch.setattr(sys, "meta_path", [BrokenFinder(), *sys.meta_path])
    assert run(["env"]) == 0
    printed = capsys.readouterr().out
    assert "cuml          can be started" in printed
    assert "libcudart.so.10.2" in printed
    assert "conda install -c conda-forge tsnecuda" in printed


def test_engines_that_do_not_exist():
    with pytest.raises(InputError, match="engine must be 'exact', 'tsnecuda' or 'cuml'"):
        tsne(ROWS, engine="magic")
    with pytest.raises(InputError, match="engine"):
        SelectionConfig(engine="magic")
