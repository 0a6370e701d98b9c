"""The embedded default: the drawn data set and the checkpoint that was trained on it."""

import hashlib
import pickletools
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from actprune_gpu.demo import CHECKPOINT, IMAGE_SIZE, SHAPES, write_shapes
from actprune_gpu.errors import InputError

cv2 = pytest.importorskip("cv2", reason="drawing needs OpenCV")

SIZES = {"n_train": 12, "n_val": 6, "image_size": 96}


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """Returns the SHA-256 of every matching file, by its path inside the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob(pattern))
    }


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set's folder."""
    return write_shapes(tmp_path_factory.mktemp("shapes"), seed=3, **SIZES).parent


def test_write_shapes_is_deterministic(shapes: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "again", seed=3, **SIZES)
    assert digests(tmp_path / "again", "shape-*") == digests(shapes, "shape-*")

    write_shapes(tmp_path / "other", seed=4, **SIZES)
    other = digests(tmp_path / "other", "shape-*.jpg")
    assert not set(other.values()) & set(digests(shapes, "shape-*.jpg").values())


def test_write_shapes_longer_begins_with_shorter(shapes: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path, seed=3, **{**SIZES, "n_train": 15})
    assert digests(shapes, "shape-*").items() < digests(tmp_path, "shape-*").items()


def test_write_shapes_train_and_val_are_disjoint(shapes: Path) -> None:
    images = digests(shapes, "shape-*.jpg")
    assert len(images) == SIZES["n_train"] + SIZES["n_val"] == len(set(images.values()))


def test_write_shapes_labels_are_valid(shapes: Path) -> None:
    for split, count in (("train", SIZES["n_train"]), ("val", SIZES["n_val"])):
        images = sorted((shapes / "images" / split).iterdir())
        labels = sorted((shapes / "labels" / split).iterdir())
        assert [path.stem for path in images] == [path.stem for path in labels]
        assert len(images) == count
        for image, label in zip(images, labels, strict=True):
            assert cv2.imread(str(image)).shape == (SIZES["image_size"], SIZES["image_size"], 3)
            rows = np.loadtxt(label, ndmin=2)
            assert 2 <= len(rows) <= 8
            classes, centre, extent = rows[:, 0], rows[:, 1:3], rows[:, 3:]
            assert set(classes) <= set(range(len(SHAPES)))
            assert (extent > 0.02).all()
            assert (extent < 0.42).all()
            assert (centre - extent / 2 > 0).all()
            assert (centre + extent / 2 < 1).all()


def test_write_shapes_boxes_bound_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from actprune_gpu.demo import shapes as module

    # One object on a flat background without noise: what differs from it is the object.
    monkeypatch.setattr(module, "OBJECTS", (1, 1))
    flat = np.full((160, 160, 3), 128, np.uint8), np.full(3, 128.0)
    monkeypatch.setattr(module, "_background", lambda rng, size: (flat[0].copy(), flat[1]))
    seen = set()
    for index in range(40):
        image, [(label, box)] = module.draw_shapes(np.random.default_rng(index), 160)
        # Noise has a standard deviation of at most 12, contrast is at least 60.
        smooth = cv2.medianBlur(image, 3).astype(int)
        ys, xs = np.nonzero((np.abs(smooth - 128) > 40).any(axis=2))
        drawn = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        np.testing.assert_allclose(drawn, box, atol=4)
        seen.add(SHAPES[label])
    assert seen == set(SHAPES)


def test_write_shapes_yaml_loads(shapes: Path) -> None:
    yaml = pytest.importorskip("yaml")
    data = yaml.safe_load((shapes / "shapes.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(SHAPES))
    root = Path(data["path"])
    assert root.is_absolute()
    assert (root / data["train"]).is_dir()
    assert (root / data["val"]).is_dir()


def test_write_shapes_replaces_its_own_files_only(tmp_path: Path) -> None:
    write_shapes(tmp_path, seed=0, **SIZES)
    (tmp_path / "labels" / "train.cache").write_bytes(b"labels of the first data set")
    mine = tmp_path / "images" / "train" / "mine.jpg"
    mine.write_bytes(b"kept")
    write_shapes(tmp_path, seed=0, n_train=2, n_val=1, image_size=96)
    assert len(digests(tmp_path, "shape-*.jpg")) == len(digests(tmp_path, "shape-*.txt")) == 3
    assert not (tmp_path / "labels" / "train.cache").exists()
    assert mine.read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_train", 0),
        ("n_train", 1.5),
        ("n_val", 0),
        ("n_val", "8"),
        ("image_size", 63),
        ("image_size", True),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_write_shapes_names_the_bad_argument(tmp_path: Path, name: str, value: object) -> None:
    arguments = {**SIZES, "seed": 0, name: value}
    with pytest.raises(InputError, match=rf"^{name}: .*{re.escape(repr(value))}$"):
        write_shapes(tmp_path / "shapes", **arguments)
    assert not (tmp_path / "shapes").exists()


def test_write_shapes_refuses_a_file_as_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match=r"^folder: "):
        write_shapes(file, seed=0, **SIZES)


def test_demo_import_is_light() -> None:
    code = (
        "import sys, actprune_gpu.demo\n"
        "heavy = {'cv2', 'ultralytics', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def pickled_strings() -> tuple[set[str], set[str]]:
    """Returns the checkpoint's pickled strings, and the modules its classes come from."""
    with zipfile.ZipFile(CHECKPOINT) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        data = archive.read(name)
    strings: set[str] = set()
    modules: set[str] = set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            modules.add(argument.split(" ")[0])
        elif isinstance(argument, str):
            strings.add(argument)
    return strings, modules


def test_checkpoint_is_small() -> None:
    assert CHECKPOINT.stat().st_size < 2_000_000


def test_checkpoint_classes_are_stock() -> None:
    _, modules = pickled_strings()
    assert {module.split(".")[0] for module in modules} <= {
        "ultralytics",
        "torch",
        "collections",
        "__builtin__",
    }


def test_checkpoint_leaks_no_path() -> None:
    strings, _ = pickled_strings()
    assert "train_args" in strings  # the strings were read
    paths = {text for text in strings if "/" in text or "\\" in text}
    assert all("https://" in text for text in paths), paths
    assert not {text for text in strings if text.endswith((".pt", ".csv"))}
    assert not {"data", "project", "save_dir", "git"} & strings  # keys that would hold paths


def test_checkpoint_loads_and_finds_shapes(tmp_path: Path) -> None:
    ultralytics = pytest.importorskip("ultralytics", reason="the checkpoint is Ultralytics'")
    import torch

    model = ultralytics.YOLO(CHECKPOINT)
    assert model.names == dict(enumerate(SHAPES))
    stored = torch.load(CHECKPOINT, weights_only=False)["model"]
    assert {parameter.dtype for parameter in stored.parameters()} == {torch.float16}

    folder = write_shapes(tmp_path, n_train=1, n_val=16, image_size=IMAGE_SIZE, seed=9).parent
    found = wanted = 0
    for path in sorted((folder / "images" / "val").iterdir()):
        labels = np.loadtxt(folder / "labels" / "val" / f"{path.stem}.txt", ndmin=2)
        [result] = model.predict(path, imgsz=IMAGE_SIZE, device="cpu", verbose=False)
        predicted = np.bincount(result.boxes.cls.numpy().astype(int), minlength=len(SHAPES))
        actual = np.bincount(labels[:, 0].astype(int), minlength=len(SHAPES))
        found += np.minimum(predicted, actual).sum()
        wanted += actual.sum()
    assert found > 0.8 * wanted
