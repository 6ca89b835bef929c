"""What a step asks of the arrays: two passes over memory, as an object with `measure` and `move`.

Torch operations (`operations`), C++ (`native`) and Triton (`cuda`) are such objects, each beside the others, for
element-wise metrics; `whole` serves those that see whole tensors, `low_rank` those that see inner products, `norms`
norms. Only what they must agree on is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from proxmom.kernels.batch import MOST_FURTHER
from proxmom.memories import Displacement, Memory, Position
from proxmom.metrics import Adam, Euclidean
from proxmom.planes import Array
from proxmom.torch.layout import Layout


@dataclass(frozen=True)
class Numbers:
    """What one step's passes need besides the vectors; U units, accumulator's dtype, arrays of `Layout.array`'s kind.

    coupled: weight decay to be added to the gradient, (U,), or None; factor: of the metric, for the mass of memory,
    (U,), or None for 1; metric_scalars: those of the metric, (U, 1) each, not for kernels; with_x: whether products
    with x are wanted; diagonal: P of each unit where v is 0 and where it is 1, (U,) each, for kernels in Adam's metric.
    """

    coupled: Array | None
    factor: Array | None
    metric_scalars: dict[str, Array]
    with_x: bool
    diagonal: tuple[Array, Array] | None = None


@dataclass(frozen=True)
class Motion:
    """What a step does to each unit: memory <- (slope + λP·memory)/(1 + λP), x <- shrink·x - scale·P⁻¹memory.

    direction: coefficients of gradient, memory, further memories in the slope, (U, B); scale, shrink: (U,); sound:
    whether to do anything at all, a flag on the device, or None where it is known. combinations: what the
    further memories of this kind become, as coefficients, (U, B) each. atoms: in a norm the slopes (U, B) of whose
    steepest directions the step is mixed, and their shares, (U,).
    """

    direction: Array
    scale: Array
    shrink: Array
    sound: Tensor | None
    combinations: Mapping[str, Array] = field(default_factory=dict)
    atoms: Sequence[tuple[Array, Array]] = ()


class Passes(Protocol):
    """Two passes over the memory of a layout's parameters; the layout is given each time, as it owns the passes.

    name: what users are told that moves their arrays; by_kernels: whether they are kernels of ours, which read the few
    numbers of a step from memory too.
    scalars: what the metric's scalars become, (U, 1) each, known once all is measured; None where the metric tells
    without the gradients.
    measure: sums over each unit, (U, 2·B(B+1)/2 + B): products of all pairs of the B vectors gradient, memory, ...
    weighted by M = P⁻¹(I + λP)⁻¹, then by PM, then products with x; zero where not asked for. For operators B more:
    with the last move. Not finite where a gradient, or what it would make of the metric, is not.
    move: writes x, memories and the metric's vectors in place.
    release: lets go of parameters and gradients.
    """

    name: str
    by_kernels: bool

    @property
    def scalars(self) -> Mapping[str, Array] | None: ...

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor: ...
    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What is one for all steps: metric, inertia λ, sign of the gradient, further memories, rounding."""

    metric: Any
    inertia: float
    sign: float
    memories: dict[str, Memory]
    stochastic_rounding: bool

    @property
    def for_kernels(self) -> bool:
        """Whether the kernels know this: the Euclidean or Adam's metric, plain rounding, few further memories, no x."""
        few = len(self.memories) <= MOST_FURTHER
        known = type(self.metric) in (Euclidean, Adam)
        return known and few and not self.stochastic_rounding and not self.looks_at_x

    @property
    def looks_at_x(self) -> bool:
        """Whether the rule has named where the parameters are."""
        return any(isinstance(kind, Position | Displacement) for kind in self.memories.values())
