"""Images and texts: read, split, batched, and told to the networks."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from proxmom.study.problems import data as datasets
from proxmom.study.training import (
    build_task,
    data_digest,
)
from proxmom.study.training import text as texts
from proxmom.study.training.images import read_idx, split_indices
from proxmom.study.training.language import GPT
from tests.study.training.conftest import tiny

MNIST = "mnist/t10k-images-idx3-ubyte.gz"


def test_splits_are_disjoint_and_complete() -> None:
    parts = split_indices(1797)
    assert [len(part) for part in parts.values()] == [1078, 360, 359]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))
    assert list(split_indices(10)["test"]) == [8, 1]  # other splits would make other results of the same key
    text = bytes(range(256)) * 40
    examples = texts.TextExamples(text, context=8, batch=2, seed=0, device=torch.device("cpu"))
    pieces = [bytes(examples._texts[name].numpy()) for name in ("train", "validation", "test")]
    assert b"".join(pieces) == text
    assert [len(piece) for piece in pieces] == [9216, 512, 512]


def test_images_are_classified_by_their_own_labels() -> None:
    """A classifier that knows the data by heart has accuracy 1; evaluations are means over the whole split."""
    task = tiny("mlp")
    digits, part = datasets.digits(), split_indices(1797)["test"]
    train = digits.features[split_indices(1797)["train"]]
    inputs = torch.tensor((digits.features[part] - train.mean()) / train.std(), dtype=torch.float32).view(-1, 8, 8)
    labels = torch.tensor(digits.target[part]).long()
    with torch.no_grad():
        scores = task.module(inputs)
    expected = {
        "loss": float(cross_entropy(scores, labels)),
        "accuracy": float((scores.argmax(1) == labels).float().mean()),
    }
    assert task.evaluate("test") == pytest.approx(expected, rel=1e-5)


def corners(images: Tensor, others: Tensor) -> list[set[tuple[int, int]]]:
    """Where each of the others may lie in its image, which has two pixels of background around it."""
    padded = nn.functional.pad(images, (2, 2, 2, 2), value=float(images.min()))
    places = [(i, j) for i in range(5) for j in range(5)]
    return [
        {(i, j) for i, j in places if torch.equal(image[i : i + 8, j : j + 8], other)}
        for image, other in zip(padded, others, strict=True)
    ]


def test_shifted_images_are_moved_copies() -> None:
    plain, moved = tiny("mlp")._examples, tiny("mlp", shift=2)._examples
    labels, (others, same) = plain.training(5)[1], moved.training(5)
    assert torch.equal(labels, same)
    offsets = [corners(plain.training(step)[0], moved.training(step)[0]) for step in (5, 6)]
    assert all(found for step in offsets for found in step)
    assert not set.intersection(*offsets[0])  # each image by its own amount
    assert any(not one & two for one, two in zip(*offsets, strict=True))  # and each step
    assert torch.equal(tiny("mlp", shift=2)._examples.training(5)[0], others)
    for (a, _), (b, _) in zip(plain.split("validation"), moved.split("validation"), strict=True):
        assert torch.equal(a, b)


def test_text_targets_are_the_next_bytes_and_the_model_does_not_look_ahead() -> None:
    examples = texts.TextExamples(bytes(range(200)) * 3, context=8, batch=4, seed=0, device=torch.device("cpu"))
    for inputs, targets in (examples.training(0), *examples.split("validation"), *examples.split("test")):
        assert inputs.dtype == torch.int64
        assert torch.equal((inputs + 1) % 200, targets)
    torch.manual_seed(0)
    model = GPT(layers=2, width=16, heads=2, context=8)
    values = torch.arange(8)[None]
    changed = values.clone()
    changed[0, 5] = 99
    first, second = model(values), model(changed)
    assert torch.equal(first[0, :5], second[0, :5])
    assert not torch.equal(first[0, 5:], second[0, 5:])


def test_a_language_model_starts_near_the_uniform_distribution_and_has_the_size_of_its_name() -> None:
    assert tiny("language").evaluate("validation")["loss"] == pytest.approx(math.log(256), abs=0.1)
    default = build_task("language", seed=0)
    assert sum(p.numel() for p in default.parameters.values()) == 119_104
    with torch.device("meta"):
        sizes = {name: GPT(**texts_preset(name)) for name in ("25M", "85M")}
    counts = {name: sum(p.numel() for p in model.layers.parameters()) / 1e6 for name, model in sizes.items()}
    assert counts == pytest.approx({"25M": 25, "85M": 85}, rel=0.01)


def texts_preset(name: str) -> dict[str, int]:
    from proxmom.study.training.language import PRESETS

    return PRESETS[name]


def test_the_standard_librarys_text_leaves_out_what_is_no_code_and_keeps_to_its_size() -> None:
    files = texts.stdlib_files(0.5)
    names = [file.as_posix() for file in files]
    assert names == sorted(names)
    assert not [
        name for name in names if any(part in name for part in ("/test/", "/tests/", "site-packages", "/idlelib/"))
    ]
    assert 0.4e6 < sum(file.stat().st_size for file in files) <= 0.5e6
    assert len({file.name[0] for file in files}) > 10  # spread over the library
    assert set(files) != set(texts.stdlib_files(0.1))
    assert data_digest("language", megabytes=0.1) != data_digest("language", megabytes=0.2)
    assert len(texts.load_text("stdlib", None, None)) == pytest.approx(2e6, rel=0.05)


def test_text_files_plain_and_packed(tmp_path: Path) -> None:
    content = bytes(np.random.default_rng(0).integers(0, 256, size=3000, dtype=np.uint8))
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    (tmp_path / "bad.gz").write_bytes(gzip.compress(content)[:100])
    small = {"context": 8, "layers": 1, "width": 8, "heads": 2, "batch": 2}
    tasks = [build_task("language", seed=0, data_dir=tmp_path, data=data, **small) for data in ("a.txt", "a.txt.gz")]
    assert float(tasks[0].gradient(0)) == float(tasks[1].gradient(0))
    assert [task.name for task in tasks] == ["GPT 1x8, a, heads 2, context 8, batch 2"] * 2
    assert data_digest("language", tmp_path, data="a.txt") == data_digest("language", tmp_path, data="a.txt.gz")
    (tmp_path / "a.txt").write_bytes(content[:-1])
    assert data_digest("language", tmp_path, data="a.txt") != data_digest("language", tmp_path, data="a.txt.gz")
    with pytest.raises(ValueError, match=r"the text must be longer: 3000 bytes leave 150 to a split, and .* takes 201"):
        build_task("language", seed=0, data_dir=tmp_path, data="a.txt.gz", context=200)
    with pytest.raises(ValueError, match=r"bad.gz cannot be read"):
        build_task("language", seed=0, data_dir=tmp_path, data="bad.gz")


def write_idx(path: Path, values: np.ndarray[Any, Any], magic: int | None = None) -> None:
    header = struct.pack(f">{1 + values.ndim}I", magic or 0x800 + values.ndim, *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_idx_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, size=(50, 20, 20)), random.integers(0, 10, size=50)
    images = tmp_path / "few-images-idx3-ubyte.gz"
    write_idx(images, pixels)
    with pytest.raises(ValueError, match=r"has no labels: there is no file .*few-labels-idx1-ubyte\.gz"):
        build_task("mlp", seed=0, data_dir=tmp_path, data=images.name)
    write_idx(tmp_path / "few-labels-idx1-ubyte.gz", labels)
    task = build_task("cnn", seed=0, data_dir=tmp_path, data=images.name, channels=4, batch=10)
    assert task.name == "CNN 2x4, few, batch 10"
    assert math.isfinite(float(task.gradient(0)))
    assert np.array_equal(read_idx(images, 3), pixels)
    before = data_digest("cnn", tmp_path, data=images.name)
    write_idx(tmp_path / "few-labels-idx1-ubyte.gz", labels[:-1])
    assert data_digest("cnn", tmp_path, data=images.name) != before
    with pytest.raises(ValueError, match=r"has 50 images, .* has 49 labels"):
        build_task("mlp", seed=0, data_dir=tmp_path, data=images.name)


def test_broken_idx_files(tmp_path: Path) -> None:
    file = tmp_path / "x"
    write_idx(file, np.zeros((3, 2, 2)), magic=2049)
    with pytest.raises(ValueError, match="starts with the number 2051; it starts with 2049"):
        read_idx(file, 3)
    write_idx(file, np.zeros((3, 2, 2)))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="must have 12 bytes after its header, has 11"):
        read_idx(file, 3)
    file.write_bytes(b"abc")
    with pytest.raises(ValueError, match="is no IDX file: it has 3 bytes"):
        read_idx(file, 3)


def test_mnist_by_path() -> None:
    folder = datasets.directory(None)
    if folder is None or not (folder / MNIST).is_file():
        pytest.skip("PROXMOM_DATA names no folder with mnist/t10k-images-idx3-ubyte.gz")
    task = build_task("mlp", seed=0, data=MNIST)
    assert task.name == "MLP 64-64, mnist/t10k"
    assert sum(p.numel() for p in task.parameters.values()) == 55_050
    assert len(data_digest("mlp", data=MNIST)) == 16
