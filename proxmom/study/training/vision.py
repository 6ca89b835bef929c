"""Image classification by small networks: a perceptron with two hidden layers, and a residual network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from proxmom.study.problems.problem import name_part, whole
from proxmom.study.training.images import ImageExamples, images_name, load_images
from proxmom.study.training.network import NetworkTask
from proxmom.study.training.seeds import initial_weights

USUAL = {"batch": 64, "shift": 0}  # where these differ, a name says so
GROUPS = 4  # of channels, normalised together
LARGE = 16  # images of at least this side are halved by the first convolution


def mlp(
    *,
    data: str = "digits",
    hidden: int = 64,
    batch: int = 64,
    shift: int = 0,
    seed: int,
    data_dir: Path | None = None,
    device: str = "cpu",
) -> NetworkTask:
    """Two hidden layers of ReLU units.

    data: "digits", 1797 images of 8 x 8, or the path of MNIST's images (its labels lie beside them). hidden, batch
    >= 1. shift >= 0: training images are moved at random by up to so many pixels.

    Raises:
        ValueError, TypeError: for values out of range, and files that are missing or broken.
    """
    hidden = whole("hidden", hidden, low=1)
    images = load_images(data, data_dir)
    place = torch.device(device)
    examples = ImageExamples(images, **_of_examples(batch, shift), seed=seed, device=place)
    pixels = images.pixels[0].size
    with initial_weights(seed):
        module = nn.Sequential(
            nn.Flatten(),
            nn.Linear(pixels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, images.classes),
        )
    return NetworkTask(_name(f"MLP {hidden}-{hidden}", data, batch=batch, shift=shift), module, examples, place)


def cnn(
    *,
    data: str = "digits",
    channels: int = 8,
    blocks: int = 2,
    batch: int = 64,
    shift: int = 0,
    seed: int,
    data_dir: Path | None = None,
    device: str = "cpu",
) -> NetworkTask:
    """A residual network with group normalisation; the first block has `channels`, each further one twice as many.

    channels: a multiple of 4; blocks >= 1; images are halved in front of the first block (if of 16 pixels or more)
    and in every further one. Otherwise as `mlp`.
    """
    channels, blocks = whole("channels", channels, low=4), whole("blocks", blocks, low=1, high=6)
    if channels % GROUPS:
        raise ValueError(f"channels must be a multiple of {GROUPS}, got {channels}.")
    images = load_images(data, data_dir)
    place = torch.device(device)
    examples = ImageExamples(images, **_of_examples(batch, shift), seed=seed, device=place)
    with initial_weights(seed):
        module = ResidualNetwork(channels, blocks, images.classes, large=images.pixels.shape[1] >= LARGE)
    name = _name(f"CNN {blocks}x{channels}", data, batch=batch, shift=shift)
    return NetworkTask(name, module, examples, place)


def _name(network: str, data: str, **of_examples: int) -> str:
    return f"{network}, {images_name(data)}" + "".join(name_part(USUAL[k], **{k: v}) for k, v in of_examples.items())


def _of_examples(batch: int, shift: int) -> dict[str, int]:
    return {"batch": whole("batch", batch, low=1), "shift": whole("shift", shift, high=8)}


class ResidualNetwork(nn.Module):
    """(B, height, width) -> (B, classes)."""

    def __init__(self, channels: int, blocks: int, classes: int, *, large: bool) -> None:
        super().__init__()
        widths = [channels * 2**k for k in range(blocks)]
        self.stem = nn.Conv2d(1, channels, 3, stride=2 if large else 1, padding=1, bias=False)
        self.blocks = nn.Sequential(*map(ResidualBlock, [channels, *widths], widths))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(images[:, None]))
        logits: Tensor = self.head(features.relu().mean(dim=(2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """x + two normalised convolutions of x; halves the image where the number of channels grows."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, before), nn.GroupNorm(GROUPS, after)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.conv1(self.norm1(x).relu())
        moved: Tensor = self.shortcut(x) + self.conv2(self.norm2(inner).relu())
        return moved
