"""The pages: every block of code on them runs, and the site builds without a warning."""

import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = {"python", "bash"}
# What stands on the pages but is not run: output, settings, what needs more machines than one.
SHOWN = {"text", "toml", ""}


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def script(page):
    """The blocks of a page in their order, as one Python program; bash blocks as calls of bash."""
    lines = ["import subprocess, sys, warnings", "warnings.simplefilter('ignore')"]
    for language, text in blocks(page):
        if language == "bash":
            lines.append(f"subprocess.run(['bash', '-ec', {text!r}], check=True)")
        elif language == "python":
            lines.append(text)
    return "\n".join(lines)


@pytest.fixture
def environment():
    found = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found["PATH"]])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_run(page, tmp_path, environment):
    languages = {language for language, _ in blocks(page)}
    assert languages <= RUN | SHOWN, "say what kind of block it is"
    if not languages & RUN:
        return
    pytest.importorskip("ultralytics")
    pytest.importorskip("timm")
    file = tmp_path / "page.py"
    file.write_text(script(page), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_readme_names_no_other_command():
    """What the README calls is there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"python -m actprune_gpu ([a-z]+)", text))
    listed = subprocess.run(
        [sys.executable, "-m", "actprune_gpu", "--help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert commands
    assert {name for name in commands if not re.search(rf"\b{name}\b", listed)} == set()


def test_the_figures_are_those_of_the_results():
    """`python bench/figures.py` writes the page anew."""
    spec = spec_from_file_location("figures", ROOT / "bench" / "figures.py")
    figures = module_from_spec(spec)
    spec.loader.exec_module(figures)
    assert figures.page() == (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")


def test_the_site_builds_strictly(tmp_path, environment):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reference = (site / "reference.html").read_text(encoding="utf-8")
    for name in ("prune_model", "ChannelSelection", "jeffries_matusita", "SeparabilitySelector"):
        assert name in reference
