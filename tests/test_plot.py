"""Plots for notebooks and what results show there."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from folders import make_folder
from helpers import complains, moments_of, planted_moments, random_moments

from actprune_gpu import SelectionConfig, jeffries_matusita, select_channels

pytest.importorskip("matplotlib")

import matplotlib
from matplotlib import pyplot

from actprune_gpu import plot

matplotlib.use("Agg")

SETTINGS = SelectionConfig(budget=(0.25, 0.5), n_iter=300, perplexity=4)


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def moments():
    return planted_moments(6, 4, jitter=0.1)[0]


@pytest.fixture(scope="module")
def selection(moments):
    weights = np.random.default_rng(0).uniform(1, 2, 24)
    return select_channels(moments, weights, config=SETTINGS)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("plot"), layers=2).plan.groups[1]


def test_mss_curve_shows_curve_knee_and_choice(selection, group):
    for result, ks, mss in (
        (selection, selection.ks, selection.mss),
        (group, group.curves.ks, group.curves.mss),
    ):
        ax = plot.mss_curve(result)
        lines = {line.get_label(): line for line in ax.get_lines()}
        curve = ax.get_lines()[0]
        np.testing.assert_array_equal(curve.get_xdata(), np.array(ks))
        np.testing.assert_array_equal(curve.get_ydata(), np.array(mss))
        assert lines[f"knee: {result.k_star}"].get_xdata() == [result.k_star]
        assert lines[f"kept: {result.k}"].get_xdata() == [result.k]
        ax.figure.canvas.draw()


def test_embedding_shows_every_channel_and_marks_the_kept(selection, group):
    for result in (selection, group):
        ax = plot.embedding(result)
        every, kept = (np.asarray(points.get_offsets()) for points in ax.collections)
        points = np.array(result.embedding)
        np.testing.assert_array_equal(every, points)
        np.testing.assert_array_equal(kept, points[np.array(result.keep)])
        colours = ax.collections[0].get_facecolors()
        labels = np.array(result.cluster_labels)
        assert len(np.unique(colours, axis=0)) == len(np.unique(labels))
        ax.figure.canvas.draw()


def test_separability_goes_from_the_most_separable_pair_down(moments, selection):
    found = jeffries_matusita(moments)
    ax = plot.separability(found, selection)
    shown = np.asarray(ax.get_images()[0].get_array())
    assert shown.shape == (24, 64)
    assert (np.diff(shown.mean(0)) < 1e-6).all()
    assert ax.get_xticklabels()[0].get_text().count(" | ") == 1
    matrix = found.matrix.double().numpy()
    columns = np.argsort(-matrix.mean(0), kind="stable")
    full = matrix[:, columns[np.linspace(0, 65, 64).round().astype(int)]]
    rows = [np.flatnonzero((full == row).all(1)) for row in shown]
    assert sorted(int(row[0]) for row in rows) == list(range(24)), "every channel once"
    labels = selection.cluster_labels.numpy()[[int(row[0]) for row in rows]]
    assert np.count_nonzero(np.diff(labels)) == selection.k - 1, "clusters stand together"
    bare = plot.separability(found.matrix.numpy()[:, :5])
    assert np.asarray(bare.get_images()[0].get_array()).shape == (24, 5)


def test_axes_that_are_given_are_used(selection, moments):
    axes = pyplot.subplots(1, 3)[1]
    assert plot.mss_curve(selection, axes[0]) is axes[0]
    assert plot.embedding(selection, axes[1]) is axes[1]
    assert plot.separability(jeffries_matusita(moments), selection, axes[2]) is axes[2]


def test_what_cannot_be_plotted_is_refused(moments, selection):
    ranked = select_channels(
        moments, np.ones(24), config=SelectionConfig(criterion="l1", budget=(0.5, 0.5))
    )
    for draw in (plot.mss_curve, plot.embedding):
        with complains("selection", "separability", "clusters"):
            draw(ranked)
    with complains("selection", "12", "24"):
        plot.separability(np.ones((12, 3)), selection)
    with complains("matrix", "[C, P]"):
        plot.separability(np.ones(12))


def test_without_matplotlib_the_error_says_what_to_install(selection, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    with complains("Matplotlib", "actprune_gpu[plot]"):
        plot.mss_curve(selection)


def test_importing_the_module_is_light():
    code = (
        "import sys, actprune_gpu; actprune_gpu.plot, actprune_gpu.report\n"
        "heavy = {'matplotlib', 'ultralytics', 'numba', 'kneed'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Balanced(HTMLParser):
    """Notes the tags and fails where one is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, words):
        self.words.append(words)


def test_selections_show_themselves_in_notebooks(selection, moments):
    page = Balanced(selection._repr_html_())
    assert f"{selection.k} of 24 channels kept" in " ".join(page.words)
    marks = [a for tag, a in page.tags if tag == "rect" and a["height"] == "14"]
    assert [int(mark["x"]) for mark in marks] == selection.keep.tolist()
    (curve,) = [a for tag, a in page.tags if tag == "polyline"]
    assert len(curve["points"].split()) == len(selection.ks)
    ranked = select_channels(
        moments, np.ones(24), config=SelectionConfig(criterion="l1", budget=(0.5, 0.5))
    )
    page = Balanced(ranked._repr_html_())
    assert "12 of 24" in " ".join(page.words)
    assert "knee" not in " ".join(page.words)


def test_plans_show_themselves_in_notebooks(tmp_path):
    folder = make_folder(tmp_path, model="<b>net</b>.pt")
    page = Balanced(folder.plan._repr_html_())
    assert "<b>net</b>.pt" in " ".join(page.words), "as text"
    assert [tag for tag, _ in page.tags].count("tr") == 1 + len(folder.plan.groups)
    assert "40.0% of the parameters" in " ".join(page.words)
    for group in folder.plan.groups:
        assert f"{group.k} of {group.channels}" in " ".join(Balanced(group._repr_html_()).words)


def test_small_and_flat_curves_are_drawn():
    flat = moments_of(np.zeros((3, 4)), 1.0)
    for own in (flat, random_moments(3)):
        selection = select_channels(
            own, np.ones(own.n_channels), config=SelectionConfig(budget=(0.5, 0.7), perplexity=1)
        )
        plot.mss_curve(selection)
        plot.embedding(selection)
        points = re.findall(r'points="([^"]*)"', selection._repr_html_())[0]
        assert "nan" not in points
