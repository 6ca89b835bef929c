"""What the passes by Triton need besides for rules with further memories: sizes of tiles, what memories become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proxmom.memories import Average, Memory, Previous
from proxmom.torch.layout import working

# Of the first pass, by the rows of a tile: elements at once and warps. A square of rows must fit in the registers.
TILES = {4: (256, 4), 8: (128, 8), 16: (64, 16)}
BLOCK = 256  # elements at once in the second pass


class Several:
    """The further memories of a rule, on a device.

    count: B, the vectors of the rule, gradient and memory included.
    """

    def __init__(self, memories: Mapping[str, Memory], units: int, like: Tensor) -> None:
        self.count = 2 + len(memories)
        self._names, self._padded = list(memories), 1 << (self.count - 1).bit_length()
        rows = torch.tensor([_row(name, memories) for name in memories], dtype=torch.float64, device="cpu")
        self._turns = rows.to(like).expand(units, -1, -1).contiguous()

    def constants(self, dtype: torch.dtype, *, measure: bool) -> dict[str, Any]:
        """What is compiled into the kernels of a pass for parameters of a dtype."""
        block, warps = TILES[self._padded] if measure else (BLOCK, 4)
        half = 2 if measure and working(dtype) == torch.float64 else 1  # they take two registers
        return {"COUNT": self.count, "PADDED": self._padded, "BLOCK": block // half, "num_warps": warps}

    def turns(self, combinations: Mapping[str, Tensor]) -> Tensor:
        """What the further memories become in a step, as coefficients of the vectors, (U, B - 2, B)."""
        if not combinations:
            return self._turns
        rows = [combinations.get(name, self._turns[:, k]) for k, name in enumerate(self._names)]
        return torch.stack([row.to(self._turns.dtype) for row in rows], dim=1)


def _row(name: str, memories: Mapping[str, Memory]) -> list[float]:
    """What a memory becomes, as coefficients of the vectors; of a combination they come with the step."""
    places = {other: place for place, other in enumerate(("gradient", "memory", *memories))}
    row, kind = [0.0] * len(places), memories[name]
    if isinstance(kind, Average):
        row[0], row[places[name]] = kind.coefficient, 1 - kind.coefficient
    if isinstance(kind, Previous):
        row[places[kind.of]] = 1.0
    return row
