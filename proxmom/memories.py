"""Further memories: the vectors that a rule keeps besides gradient and memory, and the contract that holds for them.

A rule declares them by name, `memories = {"slow": Average(0.01)}`, and reads them with `now.vector(name)`. Whatever the
metric and the backend:

* each starts as zero or as the first gradient of its tensor, as declared;
* a rule sees each as it was before this step's gradient;
* all change together at the end of a step, from what the vectors were before it;
* `now.mass(name)` is the sum of the coefficients of all gradients that it is made of: 1 for a true average.

Two more are no gradients, but say where the parameters are: `Position`, which is x, and `Displacement`, which is
x - x₀. Their mass is 0. In a plane they are slopes like all others, of ||x||²/2 and ||x - x₀||²/2: P⁻¹ applies to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

STARTS = ("zero", "gradient")


@dataclass(frozen=True)
class Average:
    """An average of gradients: m becomes (1 - coefficient)·m + coefficient·gradient.

    Args:
        coefficient: in (0, 1]; 1 - β in the notation of most papers.
        start: "zero" or "gradient".

    Raises:
        ValueError: for other values.
    """

    coefficient: float
    start: str = "zero"

    def __post_init__(self) -> None:
        if not 0 < self.coefficient <= 1:
            raise ValueError(f"coefficient must be in (0, 1], got {self.coefficient}.")
        _check_start(self.start)


@dataclass(frozen=True)
class Previous:
    """What another vector was one step ago; a chain of them keeps the last few gradients.

    Args:
        of: "gradient", "memory" or the name of a further memory that is declared before.
        start: "zero" or "gradient".

    Raises:
        ValueError: for other starts.
    """

    of: str = "gradient"
    start: str = "zero"

    def __post_init__(self) -> None:
        _check_start(self.start)


@dataclass(frozen=True)
class Combination:
    """What the rule's `remember(now)` returns under this name: a `Vector` over the named vectors.

    Args:
        start: "zero" or "gradient".

    Raises:
        ValueError: for other starts.
    """

    start: str = "zero"

    def __post_init__(self) -> None:
        _check_start(self.start)


@dataclass(frozen=True)
class Position:
    """x, the parameters as they are before this step, without what weight decay is about to do; nothing is kept."""

    start: ClassVar[str] = "zero"


@dataclass(frozen=True)
class Displacement:
    """x - x₀, how far the parameters have come from where they were before their first step.

    The difference is formed number by number: products with it stay exact where x has hardly moved, which those of x
    and x₀ apart would not. What is kept, and saved, is x₀.
    """

    start: ClassVar[str] = "zero"


Memory = Average | Previous | Combination | Position | Displacement


def check_memories(memories: Mapping[str, Any]) -> None:
    """ValueError or TypeError unless these are further memories as a rule may declare them."""
    known = ("gradient", "memory", *memories)
    for name, kind in memories.items():
        if name in ("gradient", "memory") or not name.isidentifier():
            raise ValueError(f"memories must have names of their own, which are identifiers, got {name!r}.")
        if not isinstance(kind, Memory):
            number = f" For an average write Average({kind!r})." if isinstance(kind, int | float) else ""
            raise TypeError(
                "memories must map names to Average(...), Previous(...), Combination(), Position() or Displacement(), "
                f"got {name!r}: {kind!r}.{number}"
            )
        earlier = known[: known.index(name)]
        if isinstance(kind, Previous) and kind.of not in earlier:
            raise ValueError(
                f"Previous(of) must be a vector declared before {name!r}, one of {', '.join(map(repr, earlier))}, "
                f"got {kind.of!r}."
            )


def tracked(memories: Mapping[str, Memory]) -> list[str]:
    """The memories whose mass is no formula of the number of steps: combinations, and what memory was before."""

    def untold(name: str) -> bool:
        kind = memories.get(name)
        return name == "memory" or isinstance(kind, Combination) or (isinstance(kind, Previous) and untold(kind.of))

    return [name for name in memories if untold(name)]


def kept(memories: Mapping[str, Memory]) -> list[str]:
    """The memories of which something is kept from step to step."""
    return [name for name, kind in memories.items() if not isinstance(kind, Position)]


def mass_name(name: str) -> str:
    """The scalar that carries the mass of a memory that is `tracked` from step to step."""
    return f"{name}_mass"


def _check_start(start: str) -> None:
    if start not in STARTS:
        raise ValueError(f"start must be 'zero' or 'gradient', got {start!r}.")
