"""Estimators: scikit-learn's own checks, and features of real tables."""

import warnings

import numpy as np
import pytest
from helpers import complains

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from actprune_gpu.estimators import KMedoidsSweep, SeparabilitySelector


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "perplexity")
        yield


# The plane has two axes, and there are three of everything at least; the checks use other sizes.
NEEDS_THE_PLANE = "X must have 2 features"


@pytest.mark.parametrize("estimator", [KMedoidsSweep(), SeparabilitySelector()])
def test_scikit_learn_accepts_it(estimator):
    results = check_estimator(estimator, on_fail=None)
    assert len(results) > 30
    bad = {
        each["check_name"]: str(each["exception"]) for each in results if each["status"] == "failed"
    }
    if isinstance(estimator, KMedoidsSweep):
        bad.pop("check_positive_only_tag_during_fit")  # with other features too, and hides why
        bad = {name: why for name, why in bad.items() if NEEDS_THE_PLANE not in why}
    assert not bad


def test_clusters_of_points():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    points = centres[np.arange(40) % 4] + 0.3 * rng.normal(size=(40, 2))
    found = KMedoidsSweep().fit(points)
    assert found.n_clusters_ == 4
    assert len(set(found.labels_[:4])) == 4
    assert all(len(set(found.labels_[n::4])) == 1 for n in range(4))
    assert np.array_equal(found.cluster_centers_, points[found.medoid_indices_])
    assert np.array_equal(found.predict(points), found.labels_)
    assert np.array_equal(found.predict(centres), found.labels_[:4])
    six = KMedoidsSweep(n_clusters=6).fit(points)
    assert len(six.medoid_indices_) == 6
    assert six.inertia_ < found.inertia_
    assert np.array_equal(KMedoidsSweep(6).fit_predict(points), six.labels_)
    with complains("n_clusters", "2..39", "40"):
        KMedoidsSweep(40).fit(points)
    with complains("silhouette", "'best'"):
        KMedoidsSweep(silhouette="best").fit(points)


@pytest.mark.parametrize(
    ("load", "count", "margin"), [(load_digits, 12, 0.04), (load_breast_cancer, 3, 0.03)]
)
def test_features_that_tell_the_classes_apart(load, count, margin):
    x, y = load(return_X_y=True)
    model = LinearDiscriminantAnalysis()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant columns
        ours = cross_val_score(make_pipeline(SeparabilitySelector(count), model), x, y).mean()
        rng = np.random.default_rng(0)
        by_chance = [
            cross_val_score(model, x[:, rng.permutation(x.shape[1])[:count]], y).mean()
            for _ in range(10)
        ]
    assert ours > np.mean(by_chance) + margin


def test_in_pipelines_and_searches():
    data = load_wine(as_frame=False)
    x, y = data.data, data.target
    selector = SeparabilitySelector(n_features_to_select=0.5).fit(x, y)
    assert selector.get_support().sum() == selector.n_features_ == 6
    assert np.array_equal(selector.transform(x), x[:, selector.get_support()])
    names = selector.get_feature_names_out(data.feature_names)
    assert list(names) == [
        n for n, s in zip(data.feature_names, selector.get_support(), strict=True) if s
    ]
    same = clone(selector).fit(x, y)
    assert np.array_equal(same.get_support(), selector.get_support())
    # One of each cluster, the one with the largest weight.
    for cluster in set(selector.labels_):
        members = np.flatnonzero(selector.labels_ == cluster)
        (kept,) = members[selector.get_support()[members]]
        assert selector.weights_[kept] == selector.weights_[members].max()
    search = GridSearchCV(
        make_pipeline(SeparabilitySelector(), LinearDiscriminantAnalysis()),
        {"separabilityselector__n_features_to_select": [3, 6]},
        cv=3,
    ).fit(x, y)
    assert search.best_score_ > 0.8
    assert SeparabilitySelector().fit(x[:, :2], y).get_support().all()
    # By the knee, if nothing is said.
    assert 2 <= SeparabilitySelector().fit(x, y).n_features_ < 13


def test_bad_arguments():
    x, y = load_wine(return_X_y=True)
    with complains("n_features_to_select", "2..13", "20"):
        SeparabilitySelector(20).fit(x, y)
    for wanted in (0, -3, -0.5, float("nan"), "3"):
        with complains("n_features_to_select", wanted):
            SeparabilitySelector(wanted).fit(x, y)
    for wanted in (1, len(x), 2.5, "3"):
        with complains("n_clusters", wanted):
            KMedoidsSweep(wanted).fit(x[:, :2])
    with complains("weight", "anova", "'l1'"):
        SeparabilitySelector(weight="l1").fit(x, y)
    with complains("classes", "1"):
        SeparabilitySelector().fit(x, np.zeros(len(y)))
