"""`Layout`: which parameters share scalars, and where their vectors lie.

A *unit* is a set of parameters of one scope and one group that have stepped together so far: they share all scalars.
The scalars of all units are the rows of one table, and `state[p][name]` is a view of its entry, so that a step over
thousands of parameters updates a handful of arrays, and everything still lives in `state[p]`. What a step reads is
here; how it comes about, once for each set of parameters, is in `arrange`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from proxmom.planes import Array, namespace
from proxmom.step import Scalars, Scope
from proxmom.torch.shards import Meshes, local, placed

SCALARS = ("step", "last_lr", "kept", "missing", "loss", "memory_height", "skipped")
STEP, LAST_LR, KEPT, MISSING, LOSS, MEMORY_HEIGHT, SKIPPED = range(len(SCALARS))

_DTYPE = operator.attrgetter("dtype")

Member = tuple[int, Tensor]  # index of the parameter group, the parameter


def working(dtype: torch.dtype) -> torch.dtype:
    """The dtype of state and computation: float32 for half precision, else the parameter's own."""
    return torch.promote_types(dtype, torch.float32)


def flat(tensor: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """All entries in one row: a view where the tensor is contiguous under `order`, else a copy."""
    turned = tensor if order is None else tensor.permute(order)
    return turned if turned.dim() == 1 and turned.is_contiguous() else turned.reshape(-1)


@dataclass
class Part:
    """One parameter's own memory: flat views of what this process holds of it.

    x: (n,), a copy if the parameter is not dense (`copied`); memories: "memory" and what the rule declares besides;
    vectors: those of the metric; unit: its row in the table.
    """

    parameter: Tensor
    unit: int
    order: tuple[int, ...] | None
    x: Tensor
    memories: list[Tensor]
    vectors: dict[str, Tensor]
    copied: bool
    sharded: bool

    def row(self, gradient: Tensor) -> Tensor:
        """Its gradient, flat, in the parameter's dtype and order."""
        if self.sharded:
            gradient = local(placed(gradient, self.parameter))
        return flat(gradient if gradient.dtype == self.x.dtype else gradient.to(self.x.dtype), self.order)

    def refresh(self) -> None:
        """Look where the parameter lies now: its memory may be another than at the last step."""
        here = local(self.parameter) if self.sharded else self.parameter
        if self.copied:
            self.x = here.detach().reshape(-1).clone()
        elif here.data_ptr() != self.x.data_ptr():
            self.x = flat(here.detach(), self.order)

    def arrive(self) -> None:
        """A copy's values go back to where the parameter lives; only for parts that are `copied`."""
        here = local(self.parameter).detach()
        here.copy_(self.x.view(here.shape))


class Rows:
    """Some of a layout's parameters, of one dtype, for whoever reads gradients by their address."""

    def __init__(self, parts: Sequence[Part], indices: Sequence[int]) -> None:
        self._indices = None if len(indices) == len(parts) else list(indices)
        self.parts = [parts[i] for i in indices]
        self._dtype = self.parts[0].x.dtype
        self._plain = all(part.order is None and not part.sharded for part in self.parts)

    def of(self, gradients: list[Tensor]) -> list[Tensor]:
        """Tensors whose memory holds the gradients in the parameters' dtype and order: these themselves if they can."""
        mine = gradients if self._indices is None else [gradients[i] for i in self._indices]
        if self._plain and set(map(_DTYPE, mine)) == {self._dtype} and all(map(Tensor.is_contiguous, mine)):
            return mine
        return [part.row(gradient) for part, gradient in zip(self.parts, mine, strict=True)]


@dataclass
class Layout:
    """The parameters that step together on one device.

    members: who they are; parts: their memory, (T,); groups: each unit's parameter group, (U,); table: scalars of the
    units, (U, C), with the columns `SCALARS`, those of rule and step size (`sized`) and those of the metric;
    membership: which units share a model, a 0/1 matrix (S, U), and how many parameters each has, (U,), or None if no
    two share one; meshes: over which processes inner products add up; young: whether a unit has perhaps not stepped
    yet; idle: last_lr of the parameters that do not step; states: the entries of the optimizer's state; passes: what
    moves the arrays; version: counts the changes of where x lies.
    """

    members: list[Member]
    parts: list[Part]
    groups: Tensor
    table: Tensor
    membership: tuple[Tensor, Tensor] | None
    meshes: Meshes
    columns: tuple[str, ...]
    sized: tuple[str, ...]
    states: list[dict[str, Any]]
    young: bool = True
    idle: list[Tensor] = field(default_factory=list)
    passes: Any = None
    version: int = 0

    def __post_init__(self) -> None:
        self.rows = self.array(self.table)
        self.group_of = self.array(self.groups)
        self.scope = Scope()
        if self.membership is not None:
            membership, sizes = map(self.array, self.membership)
            self.scope = Scope(membership, sizes=sizes)
        self.copies = [part for part in self.parts if part.copied]
        self._plain = [part.parameter for part in self.parts if not part.sharded]
        self._sharded = [part for part in self.parts if part.sharded]
        self._addresses: list[int] = []
        self.gradients: list[Tensor] = []
        self._memories = [state["memory"] for state in self.states]

    def refresh(self, gradients: list[Tensor]) -> None:
        """Take this step's gradients, one for each member, and look where the parameters lie now."""
        self.gradients = gradients
        addresses = list(map(Tensor.data_ptr, self._plain))
        addresses += [local(part.parameter).data_ptr() for part in self._sharded]
        if addresses != self._addresses or self.copies:
            for part in self.parts:
                part.refresh()
            self._addresses = addresses
            self.version += 1

    def follows(self) -> bool:
        """Whether the memories are still those of the optimizer's state: somebody may have put others there."""
        return all(map(operator.is_, [state.get("memory") for state in self.states], self._memories))

    def array(self, tensor: Tensor) -> Array:
        """What computes with scalars here: on the host NumPy, whose calls cost less, on the same memory."""
        return tensor.numpy() if self.on_host else tensor

    @property
    def device(self) -> torch.device:
        return self.table.device

    @property
    def on_host(self) -> bool:
        """Whether scalars can be read without waiting for a device."""
        return self.device.type == "cpu"

    def scalars(self, loss: Array | None) -> Scalars:
        """The columns that the step reads; the last loss is that of the oldest unit, before the first step today's."""
        column = self.rows.T
        xp = namespace(column)
        oldest = xp.reshape(xp.argmax(column[STEP]), (1,))
        return Scalars(
            step=-self.scope.least(-column[STEP]),
            last_lr=column[LAST_LR],
            kept=column[KEPT],
            missing=column[MISSING],
            loss=None if loss is None else xp.where(column[STEP][oldest] > 0, column[LOSS][oldest], loss),
            memory_height=column[MEMORY_HEIGHT][oldest],
            own={name: self.scope.oldest(column[i], column[STEP]) for i, name in enumerate(self.sized, len(SCALARS))},
        )

    def own(self) -> dict[str, Array]:
        """The metric's scalars, (U, 1) each."""
        first = len(SCALARS) + len(self.sized)
        return {name: self.rows[:, i, None] for i, name in enumerate(self.columns) if i >= first}
