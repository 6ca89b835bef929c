"""`Entries`: what stands in a parameter's state, and whether what was found there fits.

Whoever creates state and whoever loads it asks here, so that both refuse alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proxmom.metrics import kind_of
from proxmom.metrics.protocol import recalls
from proxmom.step import Step
from proxmom.torch.decision import SCALARS
from proxmom.torch.layout import KEPT, MEMBERS, OF_LOSSES, PREVIOUS_GRADIENT, PREVIOUS_X, working
from proxmom.torch.memory import require_storage
from proxmom.torch.shards import is_sharded, local

RULE_SCALAR = "rule_"  # in front of the names of scalars that rule and step size keep
SHARED = "step"  # other optimizers keep a count of this name too: alone it does not tell that a state is ours


class Own(NamedTuple):
    """What a metric keeps of one parameter: names of vectors of its shape, and arrays of other shapes, on meta."""

    vectors: tuple[str, ...] = ()
    arrays: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Entries:
    """What `state[p]` holds.

    memories: names of "memory" and what is kept of the further ones; metric: of the vectors that the metric needs of
    every parameter; fresh: all scalars, with their values before the first step; numbers: those of them that stand in
    the state, without `OF_LOSSES` where the rule does not look at the loss; kept: how many vectors a metric of low rank
    keeps, as one array; whole: the metric, where it sees whole tensors: what it keeps depends on their shape then.
    """

    memories: tuple[str, ...]
    metric: tuple[str, ...]
    fresh: Mapping[str, float]
    numbers: tuple[str, ...]
    kept: int = 0
    whole: Any = None
    _known: dict[Any, Own] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, step: Step, like: Tensor) -> Entries:
        """The entries that this step keeps; like: any of the parameters."""
        metric, facts = step.method.metric, step.method.facts
        metric_vectors, metric_numbers, kept, whole = _of_metric(metric, like)
        fresh = dict.fromkeys(SCALARS, 0.0) | {
            "slope_weight": 1.0,
            "missing": float(not step.method.memory_from_gradient),
        }
        fresh |= {RULE_SCALAR + name: value for name, value in step.method.scalars.items()}
        fresh |= metric_numbers
        numbers = tuple(name for name in fresh if facts.needs_loss or name not in OF_LOSSES)
        entries = cls(step.method.kept, metric_vectors, fresh, numbers, kept, whole)
        own = (*entries.own(like).vectors, *entries.arrays_of(like), *metric_vectors, *([KEPT] if kept else []))
        _check_unique(step.method.name, [*step.method.names, *own, *fresh])
        return entries

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are ours in the state of every parameter."""
        return (*self.memories, *self.metric, *self.numbers)

    def vectors_of(self, p: Tensor) -> tuple[str, ...]:
        """The names of what has the parameter's shape."""
        return (*self.memories, *self.own(p).vectors, *self.metric)

    def arrays_of(self, p: Tensor) -> Mapping[str, Tensor]:
        """What has a shape of its own and is alike on all processes, on meta."""
        return self.own(p).arrays

    def names_of(self, p: Tensor) -> tuple[str, ...]:
        """All names that are ours."""
        kept = (KEPT,) if self.kept else ()
        return (*self.vectors_of(p), *self.arrays_of(p), *kept, *self.numbers)

    def own(self, p: Tensor) -> Own:
        """What a metric that sees whole tensors keeps of this parameter."""
        if self.whole is None:
            return Own()
        key = (tuple(p.shape), working(p.dtype))
        if key not in self._known:
            self._known[key] = _own(self.whole, *key)
        return self._known[key]

    def check(self, entry: Mapping[str, Any], p: Tensor, name: str) -> None:
        """Raise for the state of a parameter that does not fit it, and cannot be made to.

        Raises:
            ValueError: for a missing entry, a vector of another shape, a scalar that is more than one number.
            TypeError: for vectors that are no real tensors.
            RuntimeError: for a vector whose storage was freed.
        """
        names = self.names_of(p)
        if is_fresh(entry, names):
            return
        needed = names if local(p).numel() else self.numbers  # of an empty shard no vector is saved
        missing = [key for key in needed if key not in entry]
        if missing:
            raise ValueError(
                f"state of {name} must have {', '.join(names)}, got {', '.join(map(str, entry))}: "
                f"{', '.join(missing)} missing. Delete all of it to start afresh."
            )
        for key in (key for key in self.vectors_of(p) if key in entry):
            _check_vector(entry[key], p, f"state[{key!r}] of {name}")
        for key, like in self.arrays_of(p).items():
            if key in entry:
                _check_array(entry[key], like, f"state[{key!r}] of {name}", type(self.whole).__name__)
        if self.kept and KEPT in entry:
            _check_vector(entry[KEPT], p, f"state[{KEPT!r}] of {name}", lead=(self.kept,))
        for key in self.numbers:
            value = entry[key]
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"state[{key!r}] of {name} must be one number, got a tensor of {tuple(value.shape)}.")
            if not isinstance(value, (Tensor, int, float)):
                raise TypeError(f"state[{key!r}] of {name} must be a number, got {value!r}.")


def by_element(metric: Any) -> bool:
    """Whether a metric may be shown pieces of tensors, joined as is convenient."""
    formula = kind_of(metric) == "diagonal" and getattr(metric, "elementwise", False)
    return bool(formula) and not getattr(metric, "sees_move", False)


def sees_pieces(metric: Any) -> bool:
    """Whether it does not matter to a metric where tensors are cut."""
    return by_element(metric) or (kind_of(metric) == "norm" and getattr(metric, "elementwise", False))


def _of_metric(metric: Any, like: Tensor) -> tuple[tuple[str, ...], dict[str, float], int, Any]:
    """Of a metric `Entries.metric`, its numbers, `Entries.kept` and `Entries.whole`."""
    if kind_of(metric) == "low rank":
        numbers = {name: float(value) for name, value in metric.numbers.items()}
        return (PREVIOUS_X, PREVIOUS_GRADIENT), numbers | {MEMBERS: 0.0}, metric.kept, None
    if kind_of(metric) == "norm":
        return () if recalls(metric) else (PREVIOUS_X,), {}, 0, None
    whole = not by_element(metric)
    x = _meta(tuple(like.shape), working(like.dtype)) if whole else torch.zeros(0, device="cpu", dtype=torch.float32)
    start = metric.start(x)
    vectors = tuple(name for name, value in start.items() if isinstance(value, Tensor))
    numbers = {name: float(value) for name, value in start.items() if name not in vectors}
    if not whole:
        return vectors, numbers, 0, None
    moves = kind_of(metric) == "operator" or getattr(metric, "sees_move", False)
    return (PREVIOUS_X,) if moves else (), numbers, 0, metric


def _meta(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _own(metric: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Own:
    """What a metric starts with for a shape. A square factor may have the shape by chance, so a longer one is tried."""
    arrays = {name: value for name, value in metric.start(_meta(shape, dtype)).items() if isinstance(value, Tensor)}
    alike = [name for name, value in arrays.items() if tuple(value.shape) == shape]
    if alike:
        longer = metric.start(_meta((*shape, 1), dtype))
        alike = [name for name in alike if getattr(longer.get(name), "shape", (*shape, 1)) == (*shape, 1)]
    return Own(tuple(alike), {name: value for name, value in arrays.items() if name not in alike})


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


def _check_vector(value: Any, p: Tensor, name: str, lead: tuple[int, ...] = ()) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a tensor of real numbers, got {got}.")
    if tuple(value.shape) != (*lead, *p.shape):
        wanted = f"{lead[0]} vectors of its parameter's shape" if lead else "its parameter's shape"
        raise ValueError(
            f"{name} must have {wanted} {tuple(p.shape)}, got {tuple(value.shape)}. Is it of another "
            f"model, or of another order of parameters{', or of a metric with other settings' * bool(lead)}?"
        )
    if is_sharded(value) != is_sharded(p):
        kinds = ["a DTensor" if is_sharded(tensor) else "a plain tensor" for tensor in (p, value)]
        raise ValueError(
            f"{name} must be {kinds[0]} as its parameter is, got {kinds[1]}. "
            "Load sharded checkpoints by torch.distributed.checkpoint.state_dict."
        )
    require_storage(local(value), name)


def _check_array(value: Any, like: Tensor, name: str, metric: str) -> None:
    """Of what has a shape of its own."""
    if not isinstance(value, Tensor) or value.is_floating_point() != like.is_floating_point() or is_sharded(value):
        got = type(value).__name__ if not isinstance(value, Tensor) or is_sharded(value) else value.dtype
        raise TypeError(f"{name} must be a plain tensor of {like.dtype}, got {got}.")
    if value.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape {tuple(like.shape)}, got {tuple(value.shape)}. Is it of another model, of "
            f"another order of parameters, or of a {metric} with other settings?"
        )
    require_storage(value, name)
