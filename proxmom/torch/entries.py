"""`Entries`: what stands in a parameter's state, and whether what was found there fits.

Whoever creates state and whoever loads it asks here, so that both refuse alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxmom.step import MEMORY, Step
from proxmom.torch.layout import OF_LOSSES, SCALARS
from proxmom.torch.memory import require_storage
from proxmom.torch.shards import is_sharded, local

RULE_SCALAR = "rule_"  # in front of the names of scalars that rule and step size keep
SHARED = "step"  # other optimizers keep a count of this name too: alone it does not tell that a state is ours


@dataclass(frozen=True)
class Entries:
    """What `state[p]` holds.

    memories: names of "memory" and what the rule declares besides; metric: of the metric's vectors; fresh: all scalars,
    with their values before the first step; numbers: those of them that stand in the state, without `OF_LOSSES` where
    the rule does not look at the loss.
    """

    memories: tuple[str, ...]
    metric: tuple[str, ...]
    fresh: Mapping[str, float]
    numbers: tuple[str, ...]

    @classmethod
    def of(cls, step: Step) -> Entries:
        """The entries that this step keeps."""
        start = step.method.metric.start(torch.zeros(0, device="cpu", dtype=torch.float32))
        vectors = tuple(name for name, value in start.items() if isinstance(value, Tensor))
        fresh = dict.fromkeys(SCALARS, 0.0) | {
            "slope_weight": 1.0,
            "missing": float(not step.method.metric.memory_from_gradient),
        }
        fresh |= {RULE_SCALAR + name: value for name, value in step.method.scalars.items()}
        fresh |= {name: float(value) for name, value in start.items() if name not in vectors}
        _check_unique(step.method.name, [*step.method.names, *vectors, *fresh])
        numbers = tuple(name for name in fresh if step.method.facts.needs_loss or name not in OF_LOSSES)
        return cls(step.method.names[MEMORY:], vectors, fresh, numbers)

    @property
    def vectors(self) -> tuple[str, ...]:
        """The names of what has the parameter's shape."""
        return (*self.memories, *self.metric)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that are ours."""
        return (*self.vectors, *self.numbers)

    def check(self, entry: Mapping[str, Any], p: Tensor, name: str) -> None:
        """Raise for the state of a parameter that does not fit it, and cannot be made to.

        Raises:
            ValueError: for a missing entry, a vector of another shape, a scalar that is more than one number.
            TypeError: for vectors that are no real tensors.
            RuntimeError: for a vector whose storage was freed.
        """
        if is_fresh(entry, self.names):
            return
        needed = self.names if local(p).numel() else self.numbers  # of an empty shard no vector is saved
        missing = [key for key in needed if key not in entry]
        if missing:
            raise ValueError(
                f"state of {name} must have {', '.join(self.names)}, got {', '.join(map(str, entry))}: "
                f"{', '.join(missing)} missing. Delete all of it to start afresh."
            )
        for key in (key for key in self.vectors if key in entry):
            _check_vector(entry[key], p, f"state[{key!r}] of {name}")
        for key in self.numbers:
            value = entry[key]
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"state[{key!r}] of {name} must be one number, got a tensor of {tuple(value.shape)}.")
            if not isinstance(value, (Tensor, int, float)):
                raise TypeError(f"state[{key!r}] of {name} must be a number, got {value!r}.")


def _check_unique(rule: str, names: Sequence[str]) -> None:
    """ValueError where a rule's memory or scalar has the name of something else that is kept for a parameter."""
    taken = sorted({name for name in names if names.count(name) > 1})
    if taken:
        raise ValueError(
            f"memories and scalars of {rule} must have names that state does not use otherwise, got "
            f"{', '.join(map(repr, taken))}. Choose others."
        )


def is_fresh(entry: Collection[str], names: Iterable[str]) -> bool:
    """Whether a parameter's state is to be started: nothing of ours is there, whatever wrappers have put there."""
    return not any(name in entry for name in names if name != SHARED)


def _check_vector(value: Any, p: Tensor, name: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a tensor of real numbers, got {got}.")
    if value.shape != p.shape:
        raise ValueError(
            f"{name} must have its parameter's shape {tuple(p.shape)}, got {tuple(value.shape)}. Is it of another "
            "model, or of another order of parameters?"
        )
    if is_sharded(value) != is_sharded(p):
        kinds = ["a DTensor" if is_sharded(tensor) else "a plain tensor" for tensor in (p, value)]
        raise ValueError(
            f"{name} must be {kinds[0]} as its parameter is, got {kinds[1]}. "
            "Load sharded checkpoints by torch.distributed.checkpoint.state_dict."
        )
    require_storage(local(value), name)
