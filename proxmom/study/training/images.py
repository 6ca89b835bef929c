"""Images with a class each: the digits that come with scikit-learn, or MNIST's IDX files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proxmom.study.problems import data as datasets
from proxmom.study.problems.data import find_file
from proxmom.study.training.files import digest, read_bytes
from proxmom.study.training.network import Pair
from proxmom.study.training.seeds import SHIFT, SPLIT, Order, generator

DIGITS = "digits"
IMAGES, LABELS = "images-idx3", "labels-idx1"  # these parts of MNIST's file names differ
MAGIC = {1: 0x801, 3: 0x803}  # of IDX files of bytes, by their number of dimensions
SHARES = {"train": 0.6, "validation": 0.8, "test": 1.0}  # where each split ends
CHUNK = 500  # images evaluated at once


@dataclass(frozen=True, eq=False)
class Images:
    """pixels (n, height, width) in [0, 1], float32; labels (n,), whole numbers from 0."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def load_images(data: str, data_dir: Path | None) -> Images:
    """The images; ValueError for files that are missing, broken or do not go together."""
    if data == DIGITS:
        digits = datasets.digits()
        return Images(digits.features.reshape(-1, 8, 8).astype(np.float32), digits.target.astype(np.int64))
    images, labels = _files(data, data_dir)
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise ValueError(f"{images} has {len(pixels)} images, {labels} has {len(classes)} labels.")
    return Images((pixels / 255).astype(np.float32), classes.astype(np.int64))


def images_digest(data: str, data_dir: Path | None) -> str:
    """16 hex digits for the content of the files; empty for data that come with a package."""
    return "" if data == DIGITS else digest(*map(read_bytes, _files(data, data_dir)))


def images_name(data: str) -> str:
    """What people call the data: "digits", "mnist/t10k"."""
    return data if data == DIGITS else "/".join(Path(data.split(f"-{IMAGES}")[0]).parts[-2:])


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of bytes with this number of dimensions, plain or .gz; ValueError for any other, or a cut one."""
    content, header = read_bytes(path), 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path} is no IDX file: it has {len(content)} bytes, fewer than the header.")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", content[:header])
    if magic != MAGIC[dimensions]:
        raise ValueError(
            f"{path} must be an IDX file of bytes with {dimensions} dimensions, which starts with the number "
            f"{MAGIC[dimensions]}; it starts with {magic}."
        )
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != expected or expected == 0:
        raise ValueError(f"{path} must have {expected} bytes after its header, has {len(content) - header}.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _files(data: str, data_dir: Path | None) -> tuple[Path, Path]:
    images = find_file(data, data_dir, repr(DIGITS), f"MNIST's images, like mnist/train-{IMAGES}-ubyte.gz")
    if IMAGES not in images.name:
        raise ValueError(f"data must name a file like train-{IMAGES}-ubyte.gz, got {data!r}.")
    labels = images.with_name(images.name.replace(IMAGES, LABELS))
    if not labels.is_file():
        raise ValueError(f"{images} has no labels: there is no file {labels}.")
    return images, labels


class ImageExamples:
    """Images on a device, standardised by the training split's mean and spread.

    The splits, 60, 20 and 20 of 100, do not depend on the training seed. shift: training images are moved by up to
    so many pixels both ways, each by its own random amount, a function of the seed and the step.
    """

    accuracy = True

    def __init__(self, images: Images, *, batch: int, shift: int, seed: int, device: torch.device) -> None:
        self.batch = batch
        self._shift, self._seed, self._device = shift, seed, device
        parts = split_indices(len(images.labels))
        train = images.pixels[parts["train"]]
        pixels = (np.pad(images.pixels, ((0, 0), *2 * [(shift, shift)])) - train.mean()) / train.std()
        self._pixels = {name: torch.from_numpy(pixels[part]).to(device) for name, part in parts.items()}
        self._labels = {name: torch.from_numpy(images.labels[part]).to(device) for name, part in parts.items()}
        self._order = Order(len(train), batch, seed)
        self._window = [torch.arange(size, device=device) for size in train.shape[1:]]

    def training(self, step: int) -> Pair:
        """Images (batch, height, width), moved if asked for, and labels (batch,)."""
        chosen = self._there(self._order(step))
        images = self._pixels["train"]
        if not self._shift:
            return images[chosen], self._labels["train"][chosen]
        corners = generator(SHIFT, self._seed, step).integers(0, 2 * self._shift + 1, size=(2, self.batch))
        top, left = self._there(corners)
        rows, columns = top[:, None, None] + self._window[0][:, None], left[:, None, None] + self._window[1]
        return images[chosen[:, None, None], rows, columns], self._labels["train"][chosen]

    def split(self, name: str) -> Iterator[Pair]:
        """All images of a split, in a fixed order."""
        height, width = (slice(self._shift, self._shift + len(window)) for window in self._window)
        images, labels = self._pixels[name][:, height, width], self._labels[name]
        for first in range(0, len(labels), CHUNK):
            yield images[first : first + CHUNK], labels[first : first + CHUNK]

    def _there(self, indices: NDArray[Any]) -> Tensor:
        return torch.from_numpy(indices).to(self._device, non_blocking=True)


def split_indices(samples: int) -> dict[str, NDArray[np.int64]]:
    """Which samples are in each split: the same for every run."""
    order = generator(SPLIT, 0).permutation(samples)
    ends = [round(share * samples) for share in SHARES.values()]
    return {name: order[start:end] for name, start, end in zip(SHARES, [0, *ends], ends, strict=False)}
