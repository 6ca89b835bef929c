"""`Runs`: many independent runs of one rule at once, for statements about a thousand instances or a stationary mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from proxmom.metrics import Euclidean
from proxmom.numpy.arrays import real
from proxmom.numpy.rows import Vector, following, place, seed
from proxmom.observed import check_given
from proxmom.rules import Rule
from proxmom.step import MEMORY, Inputs, Method, Products, Scalars, Scope, Solution, Step


class Runs:
    """N runs in n dimensions, each with a model of its own, in the Euclidean metric and without weight decay.

    Args:
        x0: starting points, (N, n); copied.
        rule: any rule, as for `Optimizer`; its formulas meet arrays with one entry per run.
        lr: a number, or (N,); may be set between steps.
        inertia: λ >= 0.

    Attributes:
        x: (N, n). rule, lr, inertia: as given. count: of steps taken. solution: the models of the last step, see
        `proxmom.step.Solution`; None before it.
    """

    def __init__(self, x0: ArrayLike, rule: Rule, *, lr: ArrayLike, inertia: float = 0.0) -> None:
        self._step = Step(Method(rule, Euclidean(), inertia=inertia, decay="decoupled"))
        self.x, self.rule, self.lr, self.count = np.array(x0, dtype=float), rule, lr, 0
        zero = np.zeros(len(self.x))
        self._start = self.x if "x" in self._step.method.starts else None  # where the first step started
        self._named = np.zeros((len(zero), len(self._step.method.names), self.x.shape[1]))
        self._scalars = Scalars.start(zero, zero, memory_from_gradient=True)
        self.solution: Solution | None = None

    @property
    def inertia(self) -> float:
        """λ, as given."""
        return self._step.method.inertia

    @property
    def memory(self) -> Vector:
        """The direction of the last step, (N, n)."""
        return self._named[:, MEMORY]

    @property
    def effective(self) -> Vector:
        """b in memory <- b·memory + (1 - b)·gradient, (N,): the weight on memory with what inertia adds; 0 at first."""
        if self.solution is None:
            return np.zeros(len(self.x))
        return np.asarray((self.solution.beta + self.inertia) / (1 + self.inertia))

    def step(
        self,
        gradients: Vector,
        losses: ArrayLike | None = None,
        observed: Mapping[str, ArrayLike] | None = None,
    ) -> Any:
        """One step of every run; returns x, (N, n).

        Args:
            gradients: at `.x`, (N, n).
            losses: f at `.x`, (N,); only rules that look at the loss need them.
            observed: name -> number, or (N,), of all that the rule declares in `observed`.

        Raises:
            ValueError: for other names than declared, or values of another shape.
        """
        check_given(self._step.method.name, self._step.method.observed, observed)
        seen = {name: self._each(name, value) for name, value in (observed or {}).items()}
        named, method, inertia = self._named.copy(), self._step.method, self.inertia
        named[:, 0] = gradients
        if self.count == 0:
            seed(method, named)
        place(method, named, self.x, self._start)
        dual = named @ named.swapaxes(1, 2)
        pull = dual[:, :, MEMORY] / (1 + inertia) if inertia else None
        lr = np.broadcast_to(np.asarray(self.lr, dtype=float), self._scalars.step.shape)
        products = Products(dual, dual / (1 + inertia), pull, None)
        loss = None if losses is None else np.asarray(losses, dtype=float)
        outcome = self._step.take(Inputs(products, self._scalars, Scope(), lr, 0 * lr, loss, observed=seen))
        solution = self.solution = outcome.solution
        direction = (solution.direction[:, None] @ named)[:, 0]
        memory = (direction + inertia * named[:, MEMORY]) / (1 + inertia)
        self._named, self._scalars = following(method, named, memory, outcome.combinations), outcome.scalars
        self.count += 1
        self.x = self.x - (lr * solution.slope_weight)[:, None] * memory
        return self.x

    def _each(self, name: str, value: ArrayLike) -> Vector:
        """One number for each run, (N,)."""
        numbers = real(f"observed[{name!r}]", value)
        if numbers.shape not in ((), (len(self.x),)):
            raise ValueError(
                f"observed[{name!r}] must be one number, or one for each of {len(self.x)} runs, got an array of shape "
                f"{numbers.shape}."
            )
        return np.array(np.broadcast_to(numbers, len(self.x)))
