"""Importing the package is cheap: what is heavy waits until it is needed."""

import json
import subprocess
import sys

import pytest

HEAVY = ["ultralytics", "numba", "cupy", "matplotlib", "kneed", "scipy", "sklearn", "pandas"]
HEAVY += ["torchvision", "kmedoids", "openTSNE", "cv2", "PIL", "tqdm"]

STAGES = ["jeffries_matusita", "tsne", "kmedoids_sweep", "simplified_silhouette", "find_knee"]
STAGES += ["choose_by_weight", "apply_budget", "select_channels"]
TYPES = ["SelectionConfig", "ChannelSelection", "LayerWeights", "ClassMoments", "InputError"]


def fresh_python(code):
    """What `code` prints as JSON, run in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def imported():
    return fresh_python(
        "import json, sys, time, torch\n"
        "before, start = set(sys.modules), time.process_time()\n"
        "import actprune_gpu\n"
        "seconds = time.process_time() - start\n"
        "after = sorted({name.split('.')[0] for name in set(sys.modules) - before})\n"
        "print(json.dumps([seconds, after]))"
    )


def test_import_pulls_in_nothing_heavy(imported):
    _, modules = imported
    assert "actprune_gpu" in modules
    assert not set(modules) & set(HEAVY)


def test_import_is_quick(imported):
    # Processor time, so that a busy machine does not count.
    assert imported[0] < 1.5


def test_everything_promised_is_at_the_top():
    names = STAGES + TYPES
    missing = fresh_python(
        "import json, actprune_gpu\n"
        f"print(json.dumps([n for n in {names} if not hasattr(actprune_gpu, n)]))"
    )
    assert missing == []


def test_the_public_names_are_listed_and_exist():
    listed, broken = fresh_python(
        "import json, actprune_gpu\n"
        "names = list(actprune_gpu.__all__)\n"
        "print(json.dumps([names, [n for n in names if not hasattr(actprune_gpu, n)]]))"
    )
    assert set(STAGES + TYPES) <= set(listed)
    assert broken == []
