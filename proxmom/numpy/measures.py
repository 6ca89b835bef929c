"""How an `Optimizer` measures moves: the metric over its tensors, one class for each kind of metric.

Each sees a gradient without changing anything (`see`), answers with inner products and images, and takes in what it has
seen when the step is taken (`keep`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from proxmom.metrics import State
from proxmom.metrics.protocol import check_shape, recalls
from proxmom.numpy.rows import Vector
from proxmom.step import MEMORY, Method, Products, Scope, Solution
from proxmom.step import low_rank as ranks

Shapes = Sequence[tuple[int, ...]]


class Sight(Protocol):
    """What a metric is after one more gradient; nothing has changed yet.

    products: of the named vectors, for the one tensor that all of them are; pull: see `Inputs`, None but for norms.
    image: P⁻¹ of the solution's direction, which is `vector` (n,). stored: memory as it is to be kept. apply: P⁻¹ of
    any vector (n,), until the next step. held: the same, for good. arrays: what must be finite. diagonal: of P, None
    for the identity and where there is none.
    """

    products: Products
    diagonal: Vector | None
    pull: Callable[[Vector], Vector] | None

    def image(self, solution: Solution, vector: Vector) -> Vector: ...
    def stored(self, memory: Vector, image: Vector) -> Vector: ...
    def apply(self, vector: Vector) -> Vector: ...
    def held(self) -> Any: ...
    def arrays(self) -> Iterator[Any]: ...


class Measure(Protocol):
    """A metric with its state.

    see: named (B, n), x (n,), the factor for the mass of memory, whether products with x are wanted. keep: the step was
    taken. place, back: for undoing steps. apply: P⁻¹ of any vector (n,), as of the last step. forget: start anew.
    curved: whether P says more than the identity.
    """

    def see(self, named: Vector, x: Vector, factor: Any, reach: Any, *, with_x: bool) -> Any: ...
    def keep(self, sight: Any) -> None: ...
    def place(self) -> Any: ...
    def back(self, place: Any) -> None: ...
    def apply(self, vector: Vector) -> Vector: ...
    def forget(self) -> None: ...
    @property
    def curved(self) -> bool: ...


def measure_of(method: Method, shapes: Shapes) -> Measure:
    """The metric of a method over tensors of these shapes."""
    if method.measures == "low rank":
        return _LowRank(method, shapes)
    if method.measures == "norm":
        return _Norm(method, shapes)
    return _Tensors(method, shapes)


def split(vector: Vector, shapes: Shapes) -> list[Vector]:
    """A flat vector as its tensors: views."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(vector, ends[:-1]) if shapes else []
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def join(parts: Sequence[Vector]) -> Vector:
    """Tensors as one flat vector."""
    return np.concatenate([np.ravel(part) for part in parts]) if parts else np.zeros(0)


class _Linear:
    """What all sights share whose images are linear."""

    pull = None

    def stored(self, memory: Vector, image: Vector) -> Vector:
        return memory


@dataclass(frozen=True, eq=False)
class _Diagonal(_Linear):
    states: list[State]
    products: Products
    diagonal: Vector | None
    x: Vector

    def image(self, solution: Solution, vector: Vector) -> Vector:
        return self.apply(vector)

    def apply(self, vector: Vector) -> Vector:
        return vector if self.diagonal is None else vector / self.diagonal

    def held(self) -> Any:
        return self

    def arrays(self) -> Iterator[Any]:
        return _arrays(self.states)


@dataclass(frozen=True, eq=False)
class _Operator(_Linear):
    states: list[State]
    products: Products
    images: Vector  # (B, n)
    x: Vector
    apply: Callable[[Vector], Vector]
    diagonal: None = None

    def image(self, solution: Solution, vector: Vector) -> Vector:
        return np.asarray(solution.direction[0] @ self.images)

    def held(self) -> Any:
        return self

    def arrays(self) -> Iterator[Any]:
        yield self.images
        yield from _arrays(self.states)


def _arrays(states: Sequence[State]) -> Iterator[Any]:
    return (part for state in states for part in state.values() if isinstance(part, np.ndarray | float))


class _Tensors:
    """A metric that sees tensors one at a time; those of element-wise metrics are joined to one."""

    def __init__(self, method: Method, shapes: Shapes) -> None:
        self._method = method
        self._metric = method.metric
        size = sum(int(np.prod(shape)) for shape in shapes)
        self._shapes = [(size,)] if getattr(self._metric, "elementwise", False) else list(shapes)
        self._sees_move = getattr(self._metric, "sees_move", False)
        self.forget()

    def forget(self) -> None:
        self._states: list[State] = [self._metric.start(np.zeros(shape)) for shape in self._shapes]
        self._x: Vector | None = None  # where the last step started
        self._last: Any = None

    @property
    def curved(self) -> bool:
        return self._last is not None and (self._method.measures == "operator" or self._last.diagonal is not None)

    def see(self, named: Vector, x: Vector, factor: Any, reach: Any, *, with_x: bool) -> Any:
        decay, operator = (named @ x)[None] if with_x else None, self._method.measures == "operator"
        factor = float(np.ravel(factor)[0])
        move: Any = None
        if operator or self._sees_move:
            move = np.zeros_like(x) if self._x is None else x - self._x
        shown = [named[0], move] if self._sees_move else [named[0]]
        seen = zip(*(split(vector, self._shapes) for vector in shown), strict=True)
        states = [self._metric.update(state, *each) for state, each in zip(self._states, seen, strict=True)]
        if operator:
            images = self._images(states, named, factor)
            dual = named @ images.T
            dual = (dual + dual.T) / 2
            products = Products(dual[None], dual[None], None, decay, (named @ move)[None])
            return _Operator(states, products, images, x, lambda vector: self._images(states, vector[None], factor)[0])
        parts = [self._metric.diagonal(state, factor) for state in states]
        diagonal = None if not parts or parts[0] is None else join(parts)
        dual, metric, pull = _products(named, diagonal, self._method.inertia)
        return _Diagonal(states, Products(dual[None], metric[None], pull, decay), diagonal, x)

    def _images(self, states: Sequence[State], vectors: Vector, factor: Any) -> Vector:
        tensors = [list(each) for each in zip(*(split(vector, self._shapes) for vector in vectors), strict=True)]
        found = [self._metric.images(state, parts) for state, parts in zip(states, tensors, strict=True)]
        rows = np.array([join(parts) for parts in zip(*found, strict=True)])
        return np.asarray(rows.reshape(vectors.shape) / factor)

    def keep(self, sight: Any) -> None:
        self._states, self._last, self._x = sight.states, sight, sight.x

    def place(self) -> Any:
        return self._states, self._x

    def back(self, place: Any) -> None:
        self._states, self._x = place

    def apply(self, vector: Vector) -> Vector:
        return vector if self._last is None else self._last.apply(vector)


def _products(u: Vector, diagonal: Vector | None, inertia: float) -> tuple[Vector, Vector, Vector | None]:
    """See `Products`: of the rows of u, without the leading axis but for the last."""
    if diagonal is None:
        dual = u @ u.T
        return dual, dual / (1 + inertia), dual[None, :, MEMORY] / (1 + inertia) if inertia else None
    dual = (u / diagonal) @ u.T
    if not inertia:
        return dual, dual, None
    smooth = 1 + inertia * diagonal
    return dual, (u / (diagonal * smooth)) @ u.T, (u @ (u[MEMORY] / smooth))[None]


@dataclass(frozen=True, eq=False)
class _Ranks(_Linear):
    """rows: the named vectors, the last move and the change of the gradient, (B + 2, n)."""

    products: Products
    seen: ranks.Seen
    gradient: Vector
    kept: Vector  # as it was
    gram: Vector  # of the kept vectors as they become
    rows: Vector
    x: Vector
    diagonal: None = None

    def image(self, solution: Solution, vector: Vector) -> Vector:
        return self._combined(vector, self.seen.image(solution.direction)[0])

    def apply(self, vector: Vector) -> Vector:
        low = self.seen.metric
        products = np.concatenate([self.kept @ vector, self.rows[-2:] @ vector])
        return self._combined(vector, low.middle[0] @ (low.keeps[0] @ products))

    def held(self) -> Any:
        return replace(self, kept=self.kept.copy(), rows=self.rows.copy())

    def _combined(self, vector: Vector, coefficients: Vector) -> Vector:
        """identity·vector + coefficients over the kept vectors as they become."""
        low, count = self.seen.metric, len(self.kept)
        back = coefficients @ low.keeps[0]  # over what they were, move and change
        return np.asarray(low.identity[0] * vector + back[:count] @ self.kept + back[count:] @ self.rows[-2:])

    def arrays(self) -> Iterator[Any]:
        yield from (self.seen.metric.identity, self.seen.metric.middle, self.seen.cross)


class _LowRank:
    """A metric that keeps vectors over all tensors together, and sees their inner products alone.

    Kept vectors are overwritten, so a step that is undone leaves what was learned from it.
    """

    def __init__(self, method: Method, shapes: Shapes) -> None:
        self._metric = method.metric
        self._size = sum(int(np.prod(shape)) for shape in shapes)
        self._rows = np.zeros((0, self._size))
        self.forget()

    def forget(self) -> None:
        self._kept = np.zeros((self._metric.kept, self._size))  # not filled: that would touch it all
        self._gram = np.zeros((self._metric.kept,) * 2)
        self._numbers = {name: np.full(1, value) for name, value in self._metric.numbers.items()}
        self._before: tuple[Vector, Vector] | None = None  # x and gradient of the last step
        self._low: Any = None

    @property
    def curved(self) -> bool:
        return self._low is not None and bool(self._low.middle.any())

    def see(self, named: Vector, x: Vector, factor: Any, reach: Any, *, with_x: bool) -> _Ranks:
        count = len(named)
        if len(self._rows) != count + 2:
            self._rows = np.zeros((count + 2, x.size))  # once: to allocate so much takes longer than to fill it
        rows = self._rows
        rows[:count] = named
        if self._before is None:
            rows[count:] = 0
        else:
            np.subtract(x, self._before[0], out=rows[count])
            np.subtract(named[0], self._before[1], out=rows[count + 1])
        decay = (named @ x)[None] if with_x else None
        own, across, kept = rows @ rows.T, rows @ self._kept.T, len(self._kept)
        if not (np.isfinite(own[-2:]).all() and np.isfinite(across[-2:]).all()):  # a pair that overflows is none
            rows[-2:], own[-2:], own[:, -2:], across[-2:] = 0, 0, 0, 0
        gram = np.empty((count + kept + 2,) * 2)
        places = np.r_[:count, count + kept : count + kept + 2]
        gram[np.ix_(places, places)] = own
        gram[places, count : count + kept] = across
        gram[count : count + kept, places] = across.T
        gram[count : count + kept, count : count + kept] = self._gram
        products, seen = ranks.see(self._metric, gram[None], self._numbers, Scope(), reach, decay)
        keeps = seen.metric.keeps[0]
        return _Ranks(products, seen, named[0], self._kept, keeps @ gram[count:, count:] @ keeps.T, rows, x)

    def keep(self, sight: _Ranks) -> None:
        self._before = sight.x, sight.gradient
        low, count = sight.seen.metric, len(self._kept)
        keeps = low.keeps[0]
        changed = np.flatnonzero((keeps[:, :count] != np.eye(count)).any(axis=1))
        old, fresh = self._kept, sight.rows[-2:]
        if keeps[changed, :count].any():
            self._kept = keeps[:, :count] @ old + keeps[:, count:] @ fresh
        else:  # the usual case, new vectors in the place of old ones
            for row in changed:
                np.dot(keeps[row, count:], fresh, out=old[row])
        self._gram, self._numbers, self._low = sight.gram, dict(low.numbers), low

    def place(self) -> None:
        """Nothing: what was seen where the step started is known by now, and stays so."""

    def back(self, place: Any) -> None:
        """Nothing, as in `place`."""

    def apply(self, vector: Vector) -> Vector:
        if self._low is None:
            return vector
        return np.asarray(self._low.identity[0] * vector + (self._low.middle[0] @ (self._kept @ vector)) @ self._kept)


@dataclass(frozen=True, eq=False)
class _Steepest:
    """A norm over tensors, each of which it sees alone."""

    products: Products
    named: Vector
    x: Vector
    norm: Any
    shapes: Shapes
    diagonal: None = None

    def pull(self, slopes: Vector) -> Vector:
        return np.stack([self.named @ self.apply(slope @ self.named) for slope in slopes])

    def image(self, solution: Solution, vector: Vector) -> Vector:
        shares = ((float(part.share[0]), part.slope[0]) for part in solution.atoms)
        return sum(
            (share * self.apply(slope @ self.named) for share, slope in shares if share), start=np.zeros_like(vector)
        )

    def stored(self, memory: Vector, image: Vector) -> Vector:
        return np.asarray(self.norm.keep(memory, image)) if recalls(self.norm) else memory

    def apply(self, vector: Vector) -> Vector:
        found = []
        for part in split(vector, self.shapes):
            if not np.isfinite(part).all():  # a decomposition would raise; such a step is skipped
                found.append(np.full_like(part, np.nan))
                continue
            dual, direction = self.norm.steepest(part)
            found.append(dual * direction if self.norm.form == "soft" else direction)
        return join(found)

    def held(self) -> Any:
        return self

    def arrays(self) -> Iterator[Any]:
        yield from ()


class _Norm:
    """A norm in the place of a metric; it remembers nothing but where the last step started."""

    curved = False

    def __init__(self, method: Method, shapes: Shapes) -> None:
        self._norm, self._shapes = method.metric, shapes
        for shape in shapes:
            check_shape(self._norm, shape, "x0")
        self.forget()

    def forget(self) -> None:
        self._x: Vector | None = None
        self._last: Any = None

    def see(self, named: Vector, x: Vector, factor: Any, reach: Any, *, with_x: bool) -> _Steepest:
        decay = (named @ x)[None] if with_x else None
        if recalls(self._norm):
            products = Products(None, None, None, decay, last=(named @ self._norm.recall(named[MEMORY]))[None])
        else:
            move = np.zeros_like(x) if self._x is None else x - self._x
            products = Products(None, None, None, decay, move=(named @ move)[None])
        return _Steepest(products, named, x, self._norm, self._shapes)

    def keep(self, sight: _Steepest) -> None:
        self._last, self._x = sight, sight.x

    def place(self) -> Any:
        return self._x

    def back(self, place: Any) -> None:
        self._x = place

    def apply(self, vector: Vector) -> Vector:
        return vector if self._last is None else np.asarray(self._last.apply(vector))
