"""What one CPU step runs through: `python -m tests.torch.followed` lists the functions, file by file.

The fourth step, by the C++ kernels where they are built; comprehensions belong to the function they stand in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import proxmom
from proxmom.torch import AMSGD, AMAdamW, ProxOptimizer

PACKAGE = Path(proxmom.__file__).parent


def followed(make: Callable[..., ProxOptimizer]) -> set[tuple[str, str]]:
    """Files of the package, relative to it, and the functions in them that a step calls."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    optimizer = make(model.parameters())
    found = set()

    def look(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and not frame.f_code.co_name.startswith("<"):
            found.add((str(path.relative_to(PACKAGE)), frame.f_code.co_qualname))

    for number in range(4):
        optimizer.zero_grad()
        model(torch.ones(5, 4)).square().mean().backward()
        sys.setprofile(look if number == 3 else None)
        optimizer.step()
        sys.setprofile(None)
    return found


if __name__ == "__main__":
    for make in (AMSGD, AMAdamW):
        found = followed(make)
        files = sorted({file for file, _ in found})
        print(f"{make.__name__}: {len(files)} files, {len(found)} functions")
        for file in files:
            print(f"  {file}: {', '.join(sorted(name for where, name in found if where == file))}")
