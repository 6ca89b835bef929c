"""The stateful optimizer over NumPy arrays: one gradient in, one step out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from proxmom.metrics import Euclidean, Metric, State
from proxmom.numpy.arrays import number, real, shaped
from proxmom.rules import Rule
from proxmom.step import MEMORY, Outcome, Products, Scalars, Scope, Step
from proxmom.stepsize import StepSize

Vector = NDArray[np.float64]
Arrays = Any  # an array, or a list of arrays


@dataclass(frozen=True, eq=False)
class Model:
    """The model of one step as plain arrays, for whoever wants to check it, draw it or solve it otherwise.

    With D(z) = -((1+ημ)/η) P z - μ P x the step minimises, over the move z,

        max_k { heights_k + <slopes_k, z> } + ||z||²_P / (2η) + (μ/2) ||x + z||²_P + λη / (2(1+ημ)) ||D(z) - memory||².

    Shapes: x, memory, diagonal (of P), next_x, next_memory (n,); slopes (K, n), and coefficients (K, B), the same over
    the vectors `names`; heights, weights, linear (K,); quadratic (K, K). beta is the weight on memory, lr is η, inertia
    λ, weight_decay μ (0 where decay is coupled: the slopes then contain it). finish: x moves by -finish·P⁻¹memory
    before all that, and the model is that of the point reached, where a step size makes up for the last step.
    """

    names: tuple[str, ...]
    coefficients: Vector
    beta: float
    x: Vector
    memory: Vector
    diagonal: Vector
    slopes: Vector
    heights: Vector
    weights: Vector
    linear: Vector
    quadratic: Vector
    lr: float
    inertia: float
    weight_decay: float
    next_x: Vector
    next_memory: Vector
    finish: float = 0.0


class Bookmark(NamedTuple):
    """What `Optimizer.undo` returns to."""

    x: Vector
    named: Vector
    state: State
    scalars: Scalars
    last: Outcome | None


@dataclass(frozen=True, eq=False)
class _Plan:
    named: Vector
    state: State
    diagonal: Vector | None
    outcome: Outcome
    next_x: Vector
    next_memory: Vector


class Optimizer:
    """Any rule with any metric on NumPy arrays; one model for all of them (scope "model").

    x <- x - lr·kept·P⁻¹d with d the slope of the exact proximal step's active model, all in float64.

    Args:
        x0: the starting point, one array or a list of arrays, real and finite; copied, in float64.
        rule: e.g. `AdaptiveMemory()`, or an object of your own with `planes(now)`.
        lr: step size, > 0 and finite; `.lr` may be set between steps, to 0 as well.
        metric: `Euclidean()` or `Adam()`.
        inertia: λ >= 0.
        weight_decay: μ >= 0 and finite; `.weight_decay` may be set between steps.
        decay: "coupled", "decoupled" or "proximal".
        step_size: what multiplies lr at each step, e.g. `Alignment()` or `Secant()`; None: nothing does.

    Raises:
        ValueError, TypeError: for invalid arguments, before anything is computed.

    Source: the derivation stands in `theory/01_duality.py`; every rule is checked by `proxmom verify`.
    """

    def __init__(
        self,
        x0: Arrays,
        rule: Rule,
        *,
        lr: float,
        metric: Metric | None = None,
        inertia: float = 0.0,
        weight_decay: float = 0.0,
        decay: str = "decoupled",
        step_size: StepSize | None = None,
    ) -> None:
        if not 0 < lr < np.inf:
            raise ValueError(f"lr must be > 0 and finite, got {lr}.")
        self.weight_decay = weight_decay
        metric = metric if metric is not None else Euclidean()
        self._step = Step(rule, metric, inertia=inertia, decay=decay, step_size=step_size)
        self._single = not isinstance(x0, (list, tuple)) or all(np.isscalar(entry) for entry in x0)
        parts = [real("x0", part) for part in ([x0] if self._single else x0)]
        self._shapes = [part.shape for part in parts]
        self._x = np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)
        if not np.isfinite(self._x).all():
            raise ValueError("x0 must be finite, got NaN or infinity.")
        self._lr = float(lr)
        self._named = np.zeros((len(self._step.names), self._x.size))  # rows: gradient, memory, further memories
        self._state = self._step.metric.start(self._x)
        one = np.ones(1)
        self._scalars = Scalars.start(one, one, memory_from_gradient=self._step.metric.memory_from_gradient)
        self._scope = Scope()
        self._last: Outcome | None = None
        self._skipped = 0
        self._steps = 0  # before the last `undo`

    @property
    def x(self) -> Any:
        """The current iterate, shaped like x0 (a copy)."""
        return self._shaped(self._x)

    @property
    def metric(self) -> Metric:
        """What measures a move."""
        return self._step.metric

    @property
    def needs_loss(self) -> bool:
        """Whether the rule looks at the loss."""
        return self._step.facts.needs_loss

    @property
    def decay(self) -> str:
        """The form of weight decay: "coupled", "decoupled" or "proximal"."""
        return self._step.decay

    @property
    def memory(self) -> Any:
        """The memory d, shaped like x0 (a copy); zero before the first step."""
        return self._shaped(self._named[MEMORY])

    @property
    def lr(self) -> float:
        """Step size of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _rate("lr", value)

    @property
    def weight_decay(self) -> float:
        """Weight decay of the next step."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = _rate("weight_decay", value)

    def step(self, gradient: Arrays, loss: float | None = None) -> Any:
        """One step; returns the new iterate, shaped like x0.

        Where the gradient, the loss, or anything the step would leave (x, memory, the metric's state) is not finite, as
        after a gradient whose square overflows, the step is skipped: nothing changes but the count in `diagnostics()`.

        Args:
            gradient: at `.x`, shaped like x0, real.
            loss: f at `.x`; only rules that look at the loss need it.

        Raises:
            ValueError: for a gradient of another shape, or a loss that is needed and missing.
            TypeError: for a gradient or loss that is not real numbers, or is masked.
        """
        plan = self._plan(*self._checked(gradient, loss))
        if plan is None:
            self._skipped += 1
            return self.x
        self._x = plan.next_x
        further = plan.outcome.further
        if further is not None:
            plan.named[MEMORY + 1 :] = further[0] @ plan.named
        else:
            for row, coefficient in enumerate(self._step.memories.values(), start=MEMORY + 1):
                plan.named[row] += coefficient * (plan.named[0] - plan.named[row])
        self._named = plan.named
        self._named[MEMORY] = plan.next_memory
        self._state, self._last, self._scalars = plan.state, plan.outcome, plan.outcome.scalars
        return self.x

    def diagnostics(self) -> dict[str, Any]:
        """Of the last step: "weights" (K,) of the planes, "beta" (weight on memory); and "steps", "skipped" in all."""
        last = self._last
        return {
            "weights": None if last is None else last.weights[0].copy(),
            "beta": None if last is None else float(last.beta[0]),
            "steps": self._steps + int(self._scalars.step[0]),
            "skipped": self._skipped,
        }

    def bookmark(self) -> Bookmark:
        """All that a step changes, for `undo`."""
        return Bookmark(self._x, self._named, self._state, self._scalars, self._last)

    def undo(self, bookmark: Bookmark, factor: float) -> None:
        """Back to where `bookmark` was taken, with empty memory and `factor` > 0 times lr for the step from there.

        A step size that says how it restarts goes on from there. One that does not starts as at first, and lr itself is
        multiplied, for good.
        """
        own, habits = dict(self._scalars.own), self._step.habits
        self._x, named, self._state, scalars, self._last = bookmark
        self._named = np.zeros_like(named)
        self._steps += int(scalars.step[0])
        one = np.ones(1)
        fresh = Scalars.start(one, one, memory_from_gradient=self._step.metric.memory_from_gradient)
        if habits.restart is None:  # what it kept may be a factor too, and would count twice
            self._lr *= factor
            own = {name: value for name, value in own.items() if name not in habits.scalars}
        else:
            own |= {name: one * value for name, value in habits.restart(factor).items()}
        self._scalars = replace(fresh, own=own)

    def kept(self, name: str) -> float | None:
        """A scalar that the rule or the step size keeps; None if there is none of this name, or not yet."""
        values = self._scalars.own.get(name)
        return None if values is None else float(values[0])

    def preview(self, gradient: Arrays, loss: float | None = None) -> Model:
        """The model that `step(gradient, loss)` would solve, as plain arrays; nothing changes.

        Raises:
            ValueError: where step would raise, or would skip.
        """
        plan = self._plan(*self._checked(gradient, loss))
        if plan is None:
            raise ValueError("gradient and loss must be finite, and the squared gradient too; step would skip.")
        outcome, mu = plan.outcome, self._decay_in_model
        return Model(
            names=self._step.names,
            coefficients=outcome.slopes[0],
            beta=float(outcome.beta[0]),
            x=self._x.copy(),
            memory=plan.named[MEMORY].copy(),
            diagonal=np.ones_like(self._x) if plan.diagonal is None else plan.diagonal,
            slopes=outcome.slopes[0] @ plan.named,
            heights=outcome.heights[0],
            weights=outcome.weights[0],
            linear=outcome.linear[0],
            quadratic=outcome.quadratic[0],
            lr=float(outcome.lr[0]),
            inertia=self._step.inertia,
            weight_decay=mu,
            next_x=plan.next_x,
            next_memory=plan.next_memory,
            finish=0.0 if outcome.finish is None else float(outcome.finish[0]),
        )

    @property
    def _decay_in_model(self) -> float:
        """μ of the model: none where decay is coupled, because the gradient then carries it."""
        return 0.0 if self._step.decay == "coupled" else self._weight_decay

    def _checked(self, gradient: Arrays, loss: float | None) -> tuple[Vector, float | None]:
        if self._step.facts.needs_loss and loss is None:
            raise ValueError(f"{type(self._step.rule).__name__} looks at the loss: call step(gradient, loss=...).")
        return self._flat(gradient), None if loss is None else number("loss", loss)

    def _plan(self, g: Vector, loss: float | None) -> _Plan | None:
        """All of a step but its consequences; None where something is not finite."""
        if not (np.isfinite(g).all() and (loss is None or np.isfinite(loss))):
            return None
        step, mu = self._step, self._decay_in_model
        named = self._named.copy()
        named[0] = g + self._weight_decay * self._x if step.decay == "coupled" else g
        if self._scalars.step[0] == 0 and step.metric.memory_from_gradient:
            named[1:] = named[0]
        with np.errstate(over="ignore", invalid="ignore"):  # a huge gradient's square overflows: seen below
            state = step.metric.update(self._state, named[0])
            diagonal = step.metric.diagonal(state, step.factor(self._scalars))
            outcome = step.take(
                self._measure(named, diagonal, with_x=mu > 0),
                self._scalars,
                self._scope,
                lr=np.array([self._lr]),
                weight_decay=np.array([mu]),
                loss=None if loss is None else np.array([loss]),
            )
            next_x, next_memory = self._moved(named, diagonal, outcome)
        kept = (part for part in state.values() if isinstance(part, np.ndarray | float))
        left = (next_x, next_memory, outcome.linear, outcome.quadratic, *kept)
        if not all(np.isfinite(part).all() for part in left):
            return None
        return _Plan(named, state, diagonal, outcome, next_x, next_memory)

    def _measure(self, u: Vector, diagonal: Vector | None, *, with_x: bool) -> Products:
        """The inner products of the rows of u, with a leading axis for the one tensor."""
        inertia = self._step.inertia
        if diagonal is None:
            dual = u @ u.T
            metric, pull = dual / (1 + inertia), dual[:, MEMORY] / (1 + inertia)
        else:
            dual = (u / diagonal) @ u.T
            smooth = 1 + inertia * diagonal
            metric = (u / (diagonal * smooth)) @ u.T if inertia else dual
            pull = u @ (u[MEMORY] / smooth)
        decay = (u @ self._x)[None] if with_x else None
        return Products(dual[None], metric[None], pull[None] if inertia else None, decay)

    def _moved(self, named: Vector, diagonal: Vector | None, outcome: Outcome) -> tuple[Vector, Vector]:
        """The new iterate and the new memory."""
        lr, inertia, mu = float(outcome.lr[0]), self._step.inertia, self._decay_in_model
        p = 1.0 if diagonal is None else diagonal
        x = self._x
        if outcome.finish is not None:
            x = x - outcome.finish[0] * named[MEMORY] / p
        memory = outcome.direction[0] @ named
        if inertia:
            memory = (memory + inertia * p * named[MEMORY]) / (1 + inertia * p)
        move = lr * outcome.kept[0] * memory / p
        if self._step.decay == "proximal":
            return (x - move) / (1 + lr * mu), memory
        return (1 - lr * mu) * x - move, memory

    def _flat(self, arrays: Arrays) -> Vector:
        if self._single:
            return shaped("gradient", arrays, self._shapes[0]).ravel()
        parts = [real("gradient", part) for part in arrays]
        if [part.shape for part in parts] != self._shapes:
            shapes = [part.shape for part in parts]
            raise ValueError(f"gradient must have the shape of x0, {self._shapes}, got {shapes}.")
        return np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)

    def _shaped(self, flat: Vector) -> Any:
        if self._single:
            return flat.reshape(self._shapes[0]).copy()
        ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes])
        return [part.reshape(shape).copy() for part, shape in zip(np.split(flat, ends[:-1]), self._shapes, strict=True)]


def _rate(name: str, value: float) -> float:
    if not 0 <= value < np.inf:
        raise ValueError(f"{name} must be >= 0 and finite, got {value}.")
    return float(value)
