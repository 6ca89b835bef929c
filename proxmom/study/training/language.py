"""A small GPT on bytes: decoder only, normalised before each layer, learned positions, tied output weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from proxmom.study.problems.problem import name_part, number, whole
from proxmom.study.training.network import NetworkTask
from proxmom.study.training.seeds import initial_weights
from proxmom.study.training.text import TextExamples, load_text, text_name

BYTES = 256
PRESETS = {  # by the number of parameters in layers
    "small": {"layers": 2, "width": 64, "heads": 4, "context": 64},
    "25M": {"layers": 8, "width": 512, "heads": 8, "context": 256},
    "85M": {"layers": 12, "width": 768, "heads": 12, "context": 512},
}


def language(
    *,
    data: str = "stdlib",
    megabytes: float | None = None,
    preset: str = "small",
    layers: int | None = None,
    width: int | None = None,
    heads: int | None = None,
    context: int | None = None,
    batch: int = 16,
    precision: str = "float32",
    seed: int,
    data_dir: Path | None = None,
    device: str = "cpu",
) -> NetworkTask:
    """Predict the next byte of a text; losses are in nats per byte.

    data: "stdlib", the code of Python's own standard library, or the path of a text file. megabytes > 0: most that is
    read; default 2 of the library, all of a file. preset: "small" (0.1 million parameters), "25M" or "85M" sets
    layers, width (a multiple of heads), heads and context, each >= 1, where they are not given. precision: "float32"
    or "bfloat16".

    Raises:
        ValueError, TypeError: for values out of range, a text that is missing, or too short to be split.
    """
    if megabytes is not None:
        megabytes = number("megabytes", megabytes, low=0, exclusive=True)
    sizes = _sizes(preset, layers=layers, width=width, heads=heads, context=context)
    place = torch.device(device)
    text = load_text(data, data_dir, megabytes)
    batch = whole("batch", batch, low=1)
    examples = TextExamples(text, context=sizes["context"], batch=batch, seed=seed, device=place)
    with initial_weights(seed):
        module = GPT(**sizes)
    name = _name(preset, sizes, data, megabytes, batch, precision)
    return NetworkTask(name, module, examples, place, precision)


def _name(preset: str, sizes: Mapping[str, int], data: str, megabytes: float | None, batch: int, precision: str) -> str:
    """What differs from the defaults stands in it."""
    name = f"GPT {sizes['layers']}x{sizes['width']}, {text_name(data)}"
    name += "" if megabytes is None else f", {megabytes:g} MB"
    name += "".join(name_part(PRESETS[preset][key], **{key: sizes[key]}) for key in ("heads", "context"))
    return name + name_part(16, batch=batch) + ("" if precision == "float32" else f", {precision}")


def _sizes(preset: str, **given: int | None) -> dict[str, int]:
    """layers, width, heads and context: those given, else the preset's."""
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
    chosen = {key: whole(key, value, low=1) for key, value in given.items() if value is not None}
    sizes = {**PRESETS[preset], **chosen}
    if sizes["width"] % sizes["heads"]:
        raise ValueError(f"width must be a multiple of heads, got {sizes['width']} and {sizes['heads']}.")
    return sizes


class GPT(nn.Module):
    """Bytes (B, T) -> scores of the next one (B, T, 256), T <= context."""

    def __init__(self, *, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(BYTES, width), nn.Embedding(context, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("attention.out.weight", "down.weight"))  # these add to the residual stream
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if last else 0.02)

    def forward(self, values: Tensor) -> Tensor:
        x = self.tokens(values) + self.positions.weight[: values.shape[1]]
        return linear(self.norm(self.layers(x)), self.tokens.weight)


class Layer(nn.Module):
    """Attention, then two linear maps with GELU in between; each adds to x (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        added: Tensor = self.down(gelu(self.up(self.norm2(x))))
        return x + added


class Attention(nn.Module):
    """Causal self-attention, (B, T, width) -> (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.into, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.into(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
