"""`Layout`: which parameters share scalars, and where their vectors lie.

A *unit* is a set of parameters of one scope and one group that have stepped together so far: they share all scalars.
The scalars of all units are the rows of one array, and `state[p][name]` is a view of its entry, so that a step over
thousands of parameters updates a handful of arrays, and everything still lives in `state[p]`. What a step reads is
here; how it comes about, once for each set of parameters, is in `arrange`.

Between two steps a layout keeps no parameter and no gradient alive. `follows` looks at every step whether state and
parameters still are what addresses were taken of; `begin` does so for the gradients.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom.planes import Array
from proxmom.step import Scope, Step
from proxmom.torch import memory
from proxmom.torch.decision import metric_scalars
from proxmom.torch.memory import Spans
from proxmom.torch.recording import Decision
from proxmom.torch.shards import Meshes, local, placed

Member = tuple[int, int, Tensor]  # index of the parameter group, place among all parameters, the parameter

MANY = 2000  # numbers of all units
OF_LOSSES = ("slope_weight", "loss", "memory_height")  # what only rules that look at the loss ever change
PREVIOUS_X, PREVIOUS_GRADIENT = "previous_x", "previous_gradient"  # where the last step started, where metrics ask
KEPT = "kept"  # the vectors that a metric of low rank keeps, (V, *shape)
MEMBERS = "members"  # how many parameters took the last step together, where such a metric is one for all of them
NOWHERE = np.zeros(0, dtype=np.int64)


def working(dtype: torch.dtype) -> torch.dtype:
    """The dtype of state and computation: float32 for half precision, else the parameter's own."""
    return torch.promote_types(dtype, torch.float32)


def flat(tensor: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """All entries in one row: a view where the tensor is contiguous under `order`, else a copy."""
    turned = tensor if order is None else tensor.permute(order)
    if turned.dim() == 1 and turned.is_contiguous():
        return turned
    return turned.contiguous().view(-1)  # reshape may answer with a view that has strides, e.g. of an expanded tensor


def shaped(row: Tensor, shape: Sequence[int], order: tuple[int, ...] | None) -> Tensor:
    """What `flat` made a row of, as a view."""
    if order is None:
        return row.view(tuple(shape))
    turned = row.view([shape[axis] for axis in order])
    return turned.permute([order.index(axis) for axis in range(len(order))])


@dataclass(frozen=True)
class Part:
    """One parameter's share of the state, as flat views of what this process holds of it.

    name: for messages; unit: its row among the scalars; dtype, count: of the parameter here; order: see `flat`; copied:
    whether the parameter is not dense, so that a step works on a copy of it; sharded: whether it is a DTensor;
    memories: "memory" and what is kept of the further ones; vectors: those of the metric; arrays: what it keeps in
    shapes of their own, as it is in the state; kept: the vectors that it keeps as one array, (V, n), or None.
    """

    name: str
    unit: int
    dtype: torch.dtype
    count: int
    order: tuple[int, ...] | None
    copied: bool
    sharded: bool
    memories: list[Tensor]
    vectors: dict[str, Tensor]
    arrays: dict[str, Tensor]
    kept: Tensor | None

    def gradient(self, gradient: Tensor, parameter: Tensor) -> Tensor:
        """The gradient as the parameter lies: flat, in its dtype, on its device; itself where it can be."""
        _check_gradient(gradient, parameter, self.name)
        here = local(placed(gradient, parameter)) if self.sharded else gradient
        memory.require_storage(here, f"the gradient of {self.name}")
        return flat(here.detach().to(local(parameter).device, self.dtype).resolve_neg(), self.order)


def _check_gradient(gradient: Tensor, parameter: Tensor, name: str) -> None:
    if gradient.layout != torch.strided:
        raise RuntimeError(f"gradients must be dense, got a sparse one. Use sparse=False in the embedding of {name}.")
    if gradient.is_complex():
        raise RuntimeError(f"gradients must be real, got a complex one. Use torch.view_as_real on that of {name}.")
    if gradient.shape != parameter.shape:
        raise ValueError(
            f"the gradient of {name} must have the parameter's shape {tuple(parameter.shape)}, got "
            f"{tuple(gradient.shape)}. Call zero_grad() after giving a parameter another shape."
        )


@dataclass
class Layout:
    """The parameters that step together on one device.

    places: where each member stands among all parameters; parts: what is known of them, (T,); groups: each unit's
    parameter group, (U,); scalar_rows: scalars of the units, (U, C), with the columns `SCALARS`, those of rule and
    step size (`rule_scalars`) and those of the metric; membership: which units share a model, a 0/1 matrix (S, U), and
    how many parameters each has, (U,), or None if no two share one; meshes: over which processes inner products add
    up, if over several; states: the members' entries in the optimizer's state; memories, named: the names in them of
    memories and numbers; unseeded: whether a unit has perhaps not stepped yet; step: what they take; passes: what moves
    the arrays; decision: what decides how.

    precision: relative, of the coarsest vectors that a step computes with.

    While a step is under way: params, the members; gradients, as the parameters lie, flat or not; x_at and gradient_at,
    their addresses, (T,). version counts the changes of x_at.
    """

    places: list[int]
    parts: list[Part]
    groups: list[int]
    scalar_rows: Tensor
    membership: tuple[Tensor, Tensor] | None
    meshes: Meshes | None
    columns: tuple[str, ...]
    named: tuple[str, ...]
    rule_scalars: tuple[str, ...]
    states: list[dict[str, Any]]
    memories: tuple[str, ...]
    unseeded: bool = True
    version: int = 0
    step: Any = None
    passes: Any = None
    decision: Any = None

    def __post_init__(self) -> None:
        self.device = self.scalar_rows.device
        self.rows = self.array(self.scalar_rows)
        self.group_of = self.array(torch.tensor(self.groups, device=self.device))
        self.scope = Scope()
        if self.membership is not None:
            membership, sizes = map(self.array, self.membership)
            self.scope = Scope(membership, sizes=sizes)
        # What is ours in the state, to be compared with at every step: dictionaries compare at once.
        own = [(*part.vectors, *part.arrays, *([] if part.kept is None else [KEPT])) for part in self.parts]
        self._names = [(*self.memories, *names, *self.named) for names in own]
        self._entries = self._ours()
        self._state = [entry[name] for name in self.memories for entry in self._entries]
        self._state += [entry[name] for names, entry in zip(own, self._entries, strict=True) for name in names]
        self._sharded = any(part.sharded for part in self.parts)
        self._copied = [i for i, part in enumerate(self.parts) if part.copied]
        self._dtypes = [part.dtype for part in self.parts]
        self._counts = [part.count for part in self.parts]
        self.precision = max(torch.finfo(working(dtype)).eps for dtype in set(self._dtypes))
        self._item = np.array([dtype.itemsize for dtype in self._dtypes], dtype=np.int64)
        self._bytes = self._item * np.array(self._counts, dtype=np.int64)
        alone = list({part.unit: i for i, part in enumerate(self.parts)}.values())  # one parameter of each unit
        # A number is never read by its address, so of very many only the first of each unit is looked at: whoever moves
        # state by `.data` moves all of it, and to look at one that is not in cache takes as long as to step it.
        numbers = self.named if len(alone) * len(self.named) <= MANY else self.named[:1]
        self._placed = [*self._state, *(self._entries[i][name] for name in numbers for i in alone)]
        self._places = memory.Places(self._here(self._placed), same=not self._sharded)
        self._kinds: memory.Kinds | None = None  # of the parameters
        self._params_at = NOWHERE
        self._known = False  # whether gradients of this kind have been looked at one by one
        self.kinds: dict[bool, Any] = {}  # of what is decided, with and without weight decay
        self.rates: dict[str, Any] = {}  # of the last step: values of the groups, and of the units
        self._alike: Any = None  # the guard of gradients that fit
        self._copies: dict[int, Tensor] = {}
        self.end()

    def take(self, step: Step, passes: Any) -> None:
        """Say what steps are taken here, and what moves the arrays."""
        membership, sizes = self.membership or (None, None)
        matrix = None if membership is None else membership.numpy(force=True)
        counts = None if sizes is None else self.array(sizes)
        self.step, self.passes = step, passes
        self.decision = Decision(
            self.scope, matrix, counts, records=passes.by_kernels, on_host=self.on_host, device=self.device
        )

    def _here(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return list(map(local, tensors)) if self._sharded else tensors

    def _ours(self) -> list[dict[str, Any]]:
        """Of each member's state what is ours."""
        return [{name: entry[name] for name in names} for names, entry in zip(self._names, self.states, strict=True)]

    def follows(self, params: Sequence[Tensor]) -> bool:
        """Whether this still fits the members, which are given, and their state; looks where x lies now.

        Anything may have happened since the last step: entries of the state replaced, cast or moved, parameters cast,
        resized, moved or made channels_last.

        Raises:
            RuntimeError: where the memory of a parameter was freed.
        """
        if not self._same_entries():
            return False
        if not self._places.hold(self._here(self._placed)):
            return False
        here = self._here(params)
        if self._kinds is not None and not self._kinds.hold(here):
            return False
        at = memory.addresses(here)
        if not np.array_equal(at, self._params_at):
            if self._kinds is not None and not (self._same_shapes(params) and self._may_lie(here, at)):
                return False
            self._kinds = self._kinds or memory.Kinds(here)
            self._params_at, self._known = at, False
            self.version += 1
            self._written = self._look_for_overlaps(here, at)
        return True

    def _same_entries(self) -> bool:
        """Whether the state holds the very tensors it held."""
        if memory.identical(self.states, self._entries):
            return True
        try:  # others may keep something there as well
            return memory.identical(self._ours(), self._entries)
        except KeyError:
            return False

    def _same_shapes(self, params: Sequence[Tensor]) -> bool:
        """Whether parameters have the shapes of their state; kinds tell only how many elements there are."""
        return all(p.shape == value.shape for p, value in zip(params, self._state[: len(params)], strict=True))

    def _may_lie(self, here: Sequence[Tensor], at: memory.Integers) -> bool:
        """Whether parameters that moved are still what their parts say."""
        for part, tensor in zip(self.parts, here, strict=True):
            memory.require_storage(tensor, part.name)
        device = self.device
        dense = (at % self._item == 0).tolist()
        return all(
            tensor.device == device and (part.copied or (fits and not tensor.is_neg()))
            for part, tensor, fits in zip(self.parts, here, dense, strict=True)
        )

    def _look_for_overlaps(self, here: Sequence[Tensor], at: memory.Integers) -> Spans:
        """What a step writes. Raises RuntimeError where two parameters lie on the same memory."""
        shared = Spans(here, at).overlapping()
        if shared and memory.share_elements([here[i] for i in shared]):
            names = ", ".join(self.parts[i].name for i in shared[:3])
            raise RuntimeError(
                f"parameters must not overlap in memory, got {names}. To tie weights use one Parameter in both places."
            )
        dense = [i for i, part in enumerate(self.parts) if not part.copied]
        return Spans([*(here[i] for i in dense), *self._here(self._state)])

    def begin(self, params: list[Tensor], gradients: list[Tensor]) -> None:
        """Take the members and this step's gradients, one for each; nothing is written.

        Raises:
            RuntimeError, ValueError: for gradients that are sparse, complex, freed, or of another shape.
        """
        self.params = params
        self.gradients = gradients if self._fit(gradients) else self._fitted(gradients)
        at = memory.addresses(self.gradients)
        aliased, odd = self._written.meet(at, at + self._bytes), at % self._item
        if len(aliased) or odd.any():  # what is written must not be read again as a gradient
            self.gradients = list(self.gradients)
            for i in np.union1d(aliased, np.flatnonzero(odd)):
                self.gradients[i] = self.gradients[i].clone()
                at[i] = self.gradients[i].data_ptr()
        if (self._bytes[at == 0] > 0).any():
            self._fitted(gradients)  # names it
        self.gradient_at, self.x_at = at, self._params_at
        self._known = True
        if self._copied:
            here = self._here(params)
            self._copies = {i: flat(here[i].detach().resolve_neg(), None).clone() for i in self._copied}
            self.x_at = self._params_at.copy()
            for i, copy in self._copies.items():
                self.x_at[i] = copy.data_ptr()
            self.version += 1

    def _fit(self, gradients: list[Tensor]) -> bool:
        """Whether the gradients can be read as they are; shapes were compared when parameters last changed."""
        if not self._known or self._sharded or self._copied or self._kinds is None:
            return False
        if self._alike is not None and self._alike(*gradients):
            return True
        strides = self._kinds.strides
        lie = map(Tensor.is_contiguous, gradients)
        if strides is not None:
            lie = map(operator.eq, map(Tensor.stride, gradients), strides)
        fit = (
            list(map(memory.DTYPE, gradients)) == self._dtypes
            and list(map(Tensor.numel, gradients)) == self._counts
            and all(lie)
            and not any(map(Tensor.is_neg, gradients))
            and set(map(Tensor.get_device, gradients)) == {self.scalar_rows.get_device()}
        )
        self._alike = memory.guard(gradients) if fit else None
        return fit

    def _fitted(self, gradients: list[Tensor]) -> list[Tensor]:
        return [part.gradient(g, p) for part, g, p in zip(self.parts, gradients, self.params, strict=True)]

    def rows_of_gradients(self) -> list[Tensor]:
        """The gradients as rows, (n,) each."""
        return [g if g.dim() == 1 else flat(g, part.order) for g, part in zip(self.gradients, self.parts, strict=True)]

    def xs(self) -> list[Tensor]:
        """The parameters as rows, (n,) each; views, but for the copies of those that are not dense."""
        here = [tensor.detach() for tensor in self._here(self.params)]
        return [
            self._copies[i] if part.copied else flat(x, part.order)
            for i, (part, x) in enumerate(zip(self.parts, here, strict=True))
        ]

    def arrive(self) -> None:
        """The copies' values go back to where the parameters live."""
        for i, copy in self._copies.items():
            here = local(self.params[i]).detach()
            here.copy_(copy.view(here.shape))

    def end(self) -> None:
        """Let go of everything that belongs to others."""
        self.params, self.gradients, self.x_at, self.gradient_at = [], [], NOWHERE, NOWHERE
        self._copies = {}
        if self.passes is not None:
            self.passes.release()

    def array(self, tensor: Tensor) -> Array:
        """What computes with scalars here: on the host NumPy, whose calls cost less, on the same memory."""
        return tensor.numpy() if self.on_host else tensor

    @property
    def scopes(self) -> int:
        """How many models there are, S."""
        return len(self.groups) if self.membership is None else len(self.membership[0])

    @property
    def on_host(self) -> bool:
        """Whether scalars can be read without waiting for a device."""
        return self.device.type == "cpu"

    def metric_scalars(self) -> dict[str, Array]:
        """The metric's scalars, (U, 1) each."""
        return metric_scalars(self.columns, len(self.rule_scalars), self.rows)
