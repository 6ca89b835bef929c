"""A rule with any further memories, and random ones: what the tests of the fast paths share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from proxmom import Plane, mix
from proxmom.memories import Average, Combination, Memory, Previous
from proxmom.torch.layout import Layout
from proxmom.torch.passes import Motion


@dataclass(frozen=True)
class Remembering:
    """Every vector has a part of its own in a plane, and in every combination."""

    memories: Mapping[str, Memory]
    beta_max: float = 0.5

    def planes(self, now: Any) -> Any:
        slope = 0.5 * now.gradient
        for place, name in enumerate(self.memories):
            slope = slope + (0.4 - 0.15 * (place % 5)) * now.vector(name)
        return mix(now.gradient_plane, now.memory_plane(), 0.5), Plane(slope, -0.1)

    def remember(self, now: Any) -> Any:
        combined = [name for name, kind in self.memories.items() if isinstance(kind, Combination)]
        return {name: self._blend(now, shift) for shift, name in enumerate(combined)}

    def _blend(self, now: Any, shift: int) -> Any:
        blend = (0.3 + 0.05 * shift) * now.gradient - 0.2 * now.memory
        for place, name in enumerate(self.memories):
            blend = blend + (0.25 - 0.1 * ((place + shift) % 4)) * now.vector(name)
        return blend


EVERY_KIND: dict[str, Memory] = {
    "slow": Average(0.25),
    "last": Previous("gradient"),
    "blend": Combination(),
    "older": Previous("last"),
    "before": Previous("memory"),
    "held": Previous("blend"),
}


@st.composite
def memories(draw: Any, most: int = 5) -> dict[str, Memory]:
    """From 1 to `most` further memories."""
    found: dict[str, Memory] = {}
    for place in range(draw(st.integers(1, most))):
        start = draw(st.sampled_from(["zero", "gradient"]))
        before = st.sampled_from(["gradient", "memory", *found])
        coefficients = st.floats(0.01, 1.0)
        kinds: Any = [
            coefficients.map(lambda c, start=start: Average(c, start)),
            before.map(lambda of, start=start: Previous(of, start)),
            st.just(Combination(start)),
        ]
        found[f"m{place}"] = draw(st.one_of(kinds))
    return found


def motion(layout: Layout, kinds: Mapping[str, Memory], sound: Any = None, units: int = 4) -> Motion:
    """Random coefficients, always the same, for every vector of every unit."""
    random, vectors = torch.Generator().manual_seed(5), len(kinds) + 2

    def rows(*shape: int) -> Any:
        return layout.array(torch.randn(shape, generator=random).to(layout.scalar_rows))

    return Motion(
        direction=rows(units, vectors),
        scale=0.1 * rows(units),
        shrink=1 - 0.1 * abs(rows(units)),
        sound=sound,
        combinations={name: rows(units, vectors) for name, kind in kinds.items() if isinstance(kind, Combination)},
    )
