"""What a step asks of the arrays: two passes over memory, as an object with `measure` and `move`.

Torch operations (`operations`), C++ (`native`) and Triton (`cuda`) are such objects, each beside the others. Only what
they must agree on is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from proxmom.metrics import Adam, Euclidean, Metric
from proxmom.planes import Array
from proxmom.torch.layout import Layout


@dataclass(frozen=True)
class Numbers:
    """What one step's passes need besides the vectors; U units, accumulator's dtype, arrays of `Layout.array`'s kind.

    coupled: weight decay to be added to the gradient, (U,), or None; factor: of the metric, for the mass of memory,
    (U,), or None for 1; own: the metric's scalars, (U, 1) each; with_x: whether products with x are wanted.
    """

    coupled: Array | None
    factor: Array | None
    own: dict[str, Array]
    with_x: bool


@dataclass(frozen=True)
class Motion:
    """What a step does to each unit: memory <- (slope + λP·memory)/(1 + λP), x <- shrink·x - scale·P⁻¹memory.

    direction: coefficients of gradient, memory, further memories in the slope, (U, B); scale, shrink: (U,); sound:
    whether to do anything at all, a flag on the device, or None where it is known. finish: before all that
    x <- x - finish·P⁻¹memory, (U,); further: what the M further memories become, as coefficients, (U, M, B). None: no
    such move, and the usual averages; what is written for kernels alone never meets anything else.
    """

    direction: Array
    scale: Array
    shrink: Array
    sound: Tensor | None
    finish: Array | None = None
    further: Array | None = None


class Passes(Protocol):
    """Two passes over the memory of a layout's parameters; the layout is given each time, as it owns the passes.

    measure: sums over each unit, (U, 2·B(B+1)/2 + B): products of all pairs of the B vectors gradient, memory, ...
    weighted by M = P⁻¹(I + λP)⁻¹, then by PM, then products with x; zero where not asked for. Not finite where a
    gradient, or what it would make of the metric, is not.
    move: writes x, memories and the metric's vectors in place.
    release: lets go of parameters and gradients.
    """

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor: ...
    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What is one for all steps: metric, inertia λ, sign of the gradient, averaging of further memories, rounding."""

    metric: Metric
    inertia: float
    sign: float
    averaging: tuple[float, ...]
    stochastic_rounding: bool

    @property
    def for_kernels(self) -> bool:
        """Whether this is what kernels are written for: one memory, the Euclidean or Adam's metric, plain rounding."""
        return type(self.metric) in (Euclidean, Adam) and not self.averaging and not self.stochastic_rounding
