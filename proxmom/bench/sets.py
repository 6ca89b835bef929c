"""Parameter sets: the shapes of well-known architectures, and two extremes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

Shapes = list[tuple[int, ...]]


def count(shapes: Shapes) -> int:
    """Parameters in all."""
    return sum(map(prod, shapes))


def resnet18() -> Shapes:
    """ResNet-18 for 1000 classes: 62 tensors, 11.7 million parameters."""
    shapes = _convolution(3, 64, 7)
    for width_in, width in ((64, 64), (64, 128), (128, 256), (256, 512)):
        shapes += _convolution(width_in, width, 3) + _convolution(width, width, 3)
        shapes += [] if width_in == width else _convolution(width_in, width, 1)
        shapes += 2 * _convolution(width, width, 3)
    return [*shapes, (1000, 512), (1000,)]


def _convolution(width_in: int, width: int, size: int) -> Shapes:
    """A convolution without bias, and the scale and shift of its batch norm."""
    return [(width, width_in, size, size), (width,), (width,)]


def gpt2() -> Shapes:
    """GPT-2 small, output tied to the embedding: 148 tensors, 124 million parameters."""
    d, tokens, positions, layers = 768, 50257, 1024, 12
    norm: Shapes = [(d,), (d,)]
    attention: Shapes = [(d, 3 * d), (3 * d,), (d, d), (d,)]
    network: Shapes = [(d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return [(tokens, d), (positions, d), *(layers * (norm + attention + norm + network)), *norm]


def llama1b() -> Shapes:
    """Llama 3.2 1B, output tied to the embedding: 146 tensors, 1.24 billion parameters."""
    d, tokens, keys, hidden, layers = 2048, 128256, 512, 8192, 16
    layer: Shapes = [(d,), (d, d), (keys, d), (keys, d), (d, d), (d,), (hidden, d), (hidden, d), (d, hidden)]
    return [(tokens, d), *(layers * layer), (d,)]


def block() -> Shapes:
    """One transformer block of width 256 as PyTorch lays it out: 12 tensors, 0.79 million parameters."""
    d = 256
    norm: Shapes = [(d,), (d,)]
    attention: Shapes = [(3 * d, d), (3 * d,), (d, d), (d,)]
    network: Shapes = [(4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    return norm + attention + norm + network


def many_small() -> Shapes:
    """2000 tensors of 1000: what is not memory traffic."""
    small: Shapes = [(1000,)]
    return 2000 * small


def one_large() -> Shapes:
    """One tensor of 32 million: nothing but memory traffic."""
    return [(32_000_000,)]


SETS: dict[str, Callable[[], Shapes]] = {
    "resnet18": resnet18,
    "gpt2": gpt2,
    "many-small": many_small,
    "one-large": one_large,
    "llama1b": llama1b,
}
CUDA_ONLY = {"llama1b"}  # unless asked for by name
METRIC_SETS: dict[str, Callable[[], Shapes]] = {"block": block, "many-small": many_small}  # of `--metrics`
