"""Text as bytes: that of Python's own standard library, or a file's."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from proxmom.study.problems.data import find_file
from proxmom.study.training.files import digest, read_bytes
from proxmom.study.training.network import Pair
from proxmom.study.training.seeds import STARTS, generator

STDLIB = "stdlib"
STDLIB_MEGABYTES = 2.0
EXCLUDED = {"test", "tests", "site-packages", "dist-packages", "lib2to3", "idlelib", "__pycache__"}
EXCLUDED |= {"encodings", "pydoc_data"}  # tables, not code
MACHINES_OWN = ("_sysconfigdata", "config-")  # how this Python was built
ENDS = {"train": 0.9, "validation": 0.95, "test": 1.0}
CONTEXTS = {"validation": 64, "test": 256}  # evaluated at most
CHUNK = 32  # contexts evaluated at once


def load_text(data: str, data_dir: Path | None, megabytes: float | None) -> bytes:
    """The text, cut to `megabytes`: default 2 of the standard library, all of a file.

    Raises:
        ValueError: if there is no such file, or it cannot be read.
    """
    if data == STDLIB:
        return _stdlib(megabytes or STDLIB_MEGABYTES)
    content = read_bytes(find_file(data, data_dir, repr(STDLIB), "a text file (plain or .gz)"))
    return content if megabytes is None else content[: round(megabytes * 1e6)]


def text_digest(data: str, data_dir: Path | None, megabytes: float | None) -> str:
    """16 hex digits for the text: another version of Python comes with another one."""
    return digest(load_text(data, data_dir, megabytes))


def text_name(data: str) -> str:
    """What people call the text: "stdlib", "tinyshakespeare"."""
    return data if data == STDLIB else Path(data).name.removesuffix(".gz").removesuffix(".txt")


@cache
def _stdlib(megabytes: float) -> bytes:
    return b"\n".join(file.read_bytes() for file in stdlib_files(megabytes))


def stdlib_files(megabytes: float) -> list[Path]:
    """Whole files of the standard library, sorted by name; which ones they are is decided by a hash of the name."""
    root = Path(sysconfig.get_path("stdlib"))
    names = [file.relative_to(root) for file in root.rglob("*.py") if _is_code(file.relative_to(root))]
    chosen, left = [], megabytes * 1e6
    for name in sorted(names, key=lambda name: hashlib.sha256(name.as_posix().encode()).digest()):
        size = (root / name).stat().st_size
        if size <= left:
            chosen.append(name)
            left -= size
    return [root / name for name in sorted(chosen, key=Path.as_posix)]


def _is_code(name: Path) -> bool:
    return not EXCLUDED & set(name.parts) and not name.parts[0].startswith(MACHINES_OWN)


class TextExamples:
    """Contexts of a text, and for each byte the next one; the splits are contiguous: 90, 5 and 5 of 100.

    Training contexts start anywhere, by a generator of the seed and the step. Of the other splits a fixed, evenly
    spread set is evaluated.
    """

    accuracy = False

    def __init__(self, text: bytes, *, context: int, batch: int, seed: int, device: torch.device) -> None:
        self.batch = batch
        self._context, self._seed, self._device = context, seed, device
        ends = [round(share * len(text)) for share in ENDS.values()]
        values = torch.from_numpy(np.frombuffer(text, np.uint8).copy()).to(device)
        self._texts = {n: values[start:end] for n, start, end in zip(ENDS, [0, *ends], ends, strict=False)}
        shortest = min(map(len, self._texts.values()))
        if shortest <= context:
            raise ValueError(
                f"the text must be longer: {len(text)} bytes leave {shortest} to a split, and a context takes "
                f"{context + 1}."
            )
        self._window = torch.arange(context, device=device)

    def training(self, step: int) -> Pair:
        """Bytes (batch, context), and those that follow each."""
        room = len(self._texts["train"]) - self._context
        return self._pairs("train", generator(STARTS, self._seed, step).integers(0, room, size=self.batch))

    def split(self, name: str) -> Iterator[Pair]:
        """The evaluated contexts of a split."""
        room = len(self._texts[name]) - self._context
        count = min(CONTEXTS[name], -(-room // self._context))
        starts = np.linspace(0, room - 1, count).astype(np.int64)
        for first in range(0, count, CHUNK):
            yield self._pairs(name, starts[first : first + CHUNK])

    def _pairs(self, name: str, starts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Pair:
        at = torch.from_numpy(starts).to(self._device, non_blocking=True)[:, None] + self._window
        return self._bytes(name, at), self._bytes(name, at + 1)

    def _bytes(self, name: str, at: Tensor) -> Tensor:
        return self._texts[name][at].long()
