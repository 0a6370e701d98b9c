"""The command line, as a user calls it."""

import json
import re
import subprocess
import sys

import pytest

pytest.importorskip("ultralytics")

from actprune_gpu.cli.main import run
from actprune_gpu.demo import CHECKPOINT
from actprune_gpu.selection import PRESETS


def prune(shapes, out, *options):
    return run(
        ["prune", "--model", str(CHECKPOINT), "--data", str(shapes), "--out", str(out), *options]
    )


@pytest.fixture(scope="module")
def pruned(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "out"
    assert prune(shapes, out, "--layers", "model.6.*", "--no-val") == 0
    return out


def raising(error):
    def fail(*args, **settings):
        raise error

    return fail


def assert_fails(capsys, status, *words):
    """Status 2 and one line on standard error that holds every word."""
    captured = capsys.readouterr()
    assert status == 2
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    assert all(word in lines[0] for word in words), lines[0]


def test_prune_prints_table_accuracy_and_files(shapes, tmp_path, capsys):
    out = tmp_path / "out"
    status = prune(
        shapes, out, "--layers", "model.8.cv2", "--layers", "model.7", "--budget", "0.5:0.75",
        "--round-to", "8", "--seed", "1", "--preset", "upstream", "--images", "40",
    )  # fmt: skip
    assert status == 0
    printed = capsys.readouterr().out
    assert "40 images" in printed
    assert "model.8.cv2" in printed
    assert "mAP50 " in printed
    assert "mAP50-95 " in printed
    assert str(out / "pruned.pt") in printed
    assert str(out / "report.html") in printed
    assert "Latency" in (out / "report.html").read_text()
    effect = json.loads((out / "effect.json").read_text())
    assert 0 < effect["after"]["accuracy"]["map50"] <= 1
    plan = json.loads((out / "plan.json").read_text())
    assert plan["selection"]["knee"] == "polynomial"
    assert plan["selection"]["weight"] == "l2"
    assert plan["selection"]["seed"] == 1
    assert all(group["k"] % 8 == 0 for group in plan["groups"])


def test_targets_are_met_by_measured_damage_and_accuracy_is_repaired(shapes, tmp_path, capsys):
    out = tmp_path / "out"
    assert prune(shapes, out, "--target-flops", "0.6", "--repair-images", "16") == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    rows = {name: line.split() for name, line in lines.items()}
    before, after, ratio = (float(figure) for figure in rows["GFLOPs"][1:4])
    assert after / before == pytest.approx(ratio, abs=0.005)  # both are printed rounded
    assert 0.59 < ratio <= 0.6
    assert float(rows["mAP50"][2]) > 0.8
    plan = json.loads((out / "plan.json").read_text())
    for group in plan["groups"]:  # a layer a line, where it is not a terminal that reads
        assert all(layer in lines[group["name"]] for layer in group["members"])
    assert plan["selection"].items() >= PRESETS["repair"].items()
    assert plan["repair"] == "reconstruct+bn"
    assert plan["targets"] == {"flops": 0.6}


def test_apply_replays_a_plan(pruned, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--plan", str(pruned / "plan.json"), "--model", str(CHECKPOINT), "--out", str(out)]
    assert run(["apply", *arguments]) == 0
    assert "model.6.cv1" in capsys.readouterr().out
    assert (out / "pruned.pt").is_file()


def test_report_and_explain(pruned, capsys):
    page = pruned / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert run(["report", str(pruned)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_bytes() == before, "prune has written the same"
    plan = json.loads((pruned / "plan.json").read_text())
    group = next(group for group in plan["groups"] if group["name"] == "model.6.cv2")
    for channel in (group["keep"][0], *({*range(group["channels"])} - {*group["keep"]})):
        explain = ["explain", str(pruned), "--layer", "model.6.cv2", "--channel", str(channel)]
        assert run(explain) == 0
        first, *figures = capsys.readouterr().out.splitlines()
        verb = "kept" if channel in group["keep"] else "dropped"
        assert first.startswith(f"Channel {channel} of model.6.cv2 was {verb}")
        competed_by = "weight (mean activation and reconstruction)"
        assert any(line.startswith(competed_by) for line in figures)
    assert_fails(
        capsys,
        run(["explain", str(pruned), "--layer", "model.99", "--channel", "1"]),
        "model.99",
        "nearest",
    )
    assert_fails(capsys, run(["report", str(pruned / "nowhere")]), "nowhere")


def test_stability_and_compare(pruned, shapes, tmp_path, capsys):
    out = tmp_path / "out"
    layers = ["--layers", "model.6.*", "--layers", "model.7"]
    assert prune(shapes, out, *layers, "--no-val", "--weight", "l1") == 0
    capsys.readouterr()
    assert run(["compare", str(pruned), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "weight: activation+reconstruct in the first, l1 in the second" in printed
    assert re.search(r"model\.7 +128 +128 +32 +32 +0\.250", printed), printed
    assert run(["compare", str(pruned), str(pruned)]) == 0
    assert re.search(r"(\d+) of \1 alike, .* 1\.000", capsys.readouterr().out)
    assert run(["stability", str(out), "--seeds", "1", "--resamples", "2"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"model\.7 +[01]\.\d{3} +[01]\.\d{3} +0\.143", printed), printed
    assert (out / "stability.json").is_file()
    assert "other starts of t-SNE" in (out / "report.html").read_text()
    for arguments in (["stability", str(pruned), "--seeds", "-1"], ["compare", str(pruned), "x"]):
        assert_fails(capsys, run(arguments), arguments[-1])


def test_the_module_and_its_help_run():
    for arguments in (["--help"], ["prune", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "actprune_gpu", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0
        assert "--model" in done.stdout or "prune" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "0.6:0.5"], ["budget", "crossed", "0.6:0.5"]),
        (["--budget", "0:1.5"], ["budget", "0..1", "1.5"]),
        (["--budget", "half"], ["budget", "LOW:HIGH", "half"]),
        (["--criterion", "magic"], ["criterion", "separability", "magic"]),
        (["--criterion", "l1", "--budget", "none"], ["l1", "budget"]),
        (["--preset", "best"], ["preset", "default", "upstream", "paper", "best"]),
        (["--weight", "l3"], ["weight", "l3"]),
        (["--allocation", "fair"], ["allocation", "damage", "fair"]),
        (["--weight", "l1", "--criterion", "gamma"], ["--weight", "clusters", "gamma"]),
        (["--beyond-knee", "lot"], ["beyond_knee", "weight", "clusters", "lot"]),
        (["--beyond-knee", "weight", "--criterion", "l1"], ["--beyond-knee", "knee", "l1"]),
        (["--budget", "0.5:0.6", "--target-params", "0.5"], ["--budget", "target"]),
        (["--allocation", "damage"], ["--allocation", "--target-flops"]),
        (["--mode", "hide"], ["mode", "remove", "zero", "hide"]),
        (["--repair", "magic"], ["repair", "reconstruct", "magic"]),
        (["--repair-images", "0"], ["repair_images", "whole number from 1"]),
        (["--steps", "0"], ["steps", "whole number from 1"]),
        (["--target-flops", "1.5"], ["target_flops", "at most 1", "1.5"]),
        (["--protect", "model.77"], ["model.77", "nearest"]),
        (["--layers", "model.6.cv9"], ["model.6.cv9", "nearest", "model.6.cv2"]),
        (["--images", "0"], ["images", "whole number from 1"]),
        (["--target-flops", "0.001"], ["target_flops 0.001", "out of reach"]),
        (["--round-to", "0"], ["round_to", "1"]),
        (["--device", "cuda"], ["cuda", "GPU"]),
        (["--split", "nosplit"], ["nosplit"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--images", "many"], ["--images", "integer"]),
    ],
)
def test_bad_options_are_one_line_and_status_2(shapes, tmp_path, capsys, options, words):
    import torch

    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status = prune(shapes, tmp_path / "out", *options)
    assert_fails(capsys, status, *words)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_to_is_said_before_the_work(shapes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", raising(PermissionError(13, "Permission denied")))
    status = prune(shapes, tmp_path / "a" / "b")
    assert_fails(capsys, status, "out", "written to", "Permission denied")
    assert not (tmp_path / "a").exists()


def test_a_missing_validation_split_is_said_before_the_work(shapes, tmp_path, capsys):
    status = prune(shapes, tmp_path / "out", "--val-split", "nosplit")
    assert_fails(capsys, status, "nosplit", "got keys")
    assert not (tmp_path / "out").exists()


def test_results_do_not_overwrite_the_model(shapes, tmp_path, capsys):
    model = tmp_path / "pruned.pt"
    model.write_bytes(CHECKPOINT.read_bytes())
    given = ["prune", "--model", str(model), "--data", str(shapes), "--out", str(tmp_path)]
    assert_fails(capsys, run([*given, "--force", "--no-val"]), "out", "overwritten", "pruned.pt")
    assert model.read_bytes() == CHECKPOINT.read_bytes()


def test_bad_files_are_one_line_and_status_2(shapes, tmp_path, capsys):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no checkpoint")
    for model in (tmp_path / "missing.pt", broken, tmp_path):
        arguments = ["--model", str(model), "--data", str(shapes), "--out", str(tmp_path / "out")]
        assert_fails(capsys, run(["prune", *arguments]), str(model))
    arguments = ["--model", str(CHECKPOINT), "--out", str(tmp_path / "out")]
    assert_fails(capsys, run(["prune", *arguments]), "--data", "--model")
    missing = ["--data", str(tmp_path / "no.yaml")]
    assert_fails(capsys, run(["prune", *arguments, *missing]), "no.yaml")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_needs_force(shapes, pruned, capsys):
    before = (pruned / "plan.json").read_bytes()
    assert_fails(capsys, prune(shapes, pruned, "--no-val"), "empty", "force")
    assert (pruned / "plan.json").read_bytes() == before
    assert prune(shapes, pruned, "--no-val", "--force", "--layers", "model.6.*") == 0
    assert (pruned / "plan.json").read_bytes() == before


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    shapes, pruned, capsys, monkeypatch
):
    import torch

    before = {file.name: file.read_bytes() for file in pruned.iterdir()}

    def full(contents, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", full)
    status = prune(shapes, pruned, "--force", "--no-val", "--layers", "model.4.*")
    assert_fails(capsys, status, "No space left on device")
    after = {file.name: file.read_bytes() for file in pruned.iterdir()}
    assert after.keys() == before.keys()
    assert after["pruned.pt"] == before["pruned.pt"]
    assert after["plan.json"] == before["plan.json"]


def test_an_interrupt_is_130_and_says_how_to_go_on(shapes, tmp_path, capsys, monkeypatch):
    from actprune_gpu.cli.output import Bars

    def interrupt(self, what, done, total):
        if done >= 16:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:  # before there is anything to go on with
        patch.setattr("actprune_gpu.yolo.trace_model", raising(KeyboardInterrupt()))
        assert prune(shapes, out, "--no-val") == 130
    assert capsys.readouterr().err.strip() == "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(Bars, "update", interrupt)
        assert prune(shapes, out, "--no-val", "--layers", "model.6.*") == 130
    assert "--resume" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # where there is what another run has left
        patch.setattr("actprune_gpu.yolo.trace_model", raising(KeyboardInterrupt()))
        assert prune(shapes, out, "--no-val", "--force") == 130
        assert capsys.readouterr().err.strip() == "interrupted"
        assert prune(shapes, out, "--no-val", "--resume") == 130
    assert "--resume" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("actprune_gpu.report.write_report", raising(KeyboardInterrupt()))
        assert run(["report", str(out)]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with monkeypatch.context() as patch:
        patch.setattr("actprune_gpu.cli.output.print_plan", raising(KeyboardInterrupt()))
        assert prune(shapes, out, "--no-val", "--layers", "model.6.*", "--resume") == 130
    assert "complete" in capsys.readouterr().err
    assert prune(shapes, out, "--no-val", "--layers", "model.6.*", "--resume") == 0
