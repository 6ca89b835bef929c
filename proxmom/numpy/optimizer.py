"""The stateful optimizer over NumPy arrays: one gradient in, one step out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from proxmom.metrics import Euclidean, Metric
from proxmom.notebook import html_of
from proxmom.numpy.arrays import norm, number, real, shaped
from proxmom.numpy.measures import join, measure_of, split
from proxmom.numpy.rows import Vector, following, place, seed
from proxmom.observed import check_given
from proxmom.rules import Rule
from proxmom.step import MEMORY, Inputs, Method, Outcome, Scalars, Scope, Step
from proxmom.stepsize import StepSize

Arrays = Any  # an array, or a list of arrays
Numbers = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Model:
    """The model of one step as plain arrays, for whoever wants to check it, draw it or solve it otherwise.

    In a metric, with D(z) = -((1+ημ)/η) P z - μ P x the step minimises, over the move z,

        max_k { heights_k + <slopes_k, z> } + ||z||²_P / (2η) + (μ/2) ||x + z||²_P + λη / (2(1+ημ)) ||D(z) - memory||².

    Shapes: x, memory, next_x, next_memory, diagonal (of P, None where P is not diagonal) (n,); image(vector) is P⁻¹ of
    a vector (n,); slopes (K, n), and coefficients (K, B), the same over the vectors `names`; heights, weights, linear
    (K,); quadratic (K, K). beta is the weight on memory, lr is η, inertia λ, weight_decay μ (0 where decay is coupled:
    the slopes then contain it).

    In a norm, over tensors of these shapes, it minimises max_k { heights_k + <slopes_k, z - ημx> } over moves z of
    which no tensor is longer than η ("hard"), or adds Σ ||z||²/(2η) over the tensors ("soft"); then x + z - ημx is
    next_x. There quadratic is None, and gap bounds how far above the least value the step's is.
    """

    names: tuple[str, ...]
    coefficients: Vector
    beta: float
    x: Vector
    memory: Vector
    diagonal: Vector | None
    slopes: Vector
    heights: Vector
    weights: Vector
    linear: Vector
    quadratic: Vector | None
    lr: float
    inertia: float
    weight_decay: float
    next_x: Vector
    next_memory: Vector
    image: Callable[[Vector], Vector]
    norm: Any = None
    shapes: tuple[tuple[int, ...], ...] = ()
    gap: float | None = None

    @cached_property
    def inverse(self) -> Vector:
        """P⁻¹ as a matrix, (n, n), one column after the other."""
        return np.stack([self.image(unit) for unit in np.eye(self.x.size)], axis=-1)


class Bookmark(NamedTuple):
    """What `Optimizer.undo` returns to."""

    x: Vector
    named: Vector
    measure: Any
    scalars: Scalars
    last: Outcome | None
    last_step: Vector
    start: Vector | None


@dataclass(frozen=True, eq=False)
class _Plan:
    start: Vector | None
    named: Vector
    sight: Any
    outcome: Outcome
    next_x: Vector
    next_memory: Vector
    move: Vector


class Optimizer:
    """Any rule with any metric on NumPy arrays; one model for all of them (scope "model").

    x <- x - lr·w·P⁻¹d, with d the slope of the exact proximal step's active model and w the weight of the planes that
    have a slope (1 without a lower bound), all in float64.

    Args:
        x0: the starting point, one array or a list of arrays, real and finite; copied, in float64.
        rule: e.g. `AdaptiveMemory()`, or an object of your own with `planes(now)`.
        lr: step size, > 0 and finite; `.lr` may be set between steps, to 0 as well.
        metric: `Euclidean()`, `Adam()`, or any other, see `proxmom.metrics`.
        inertia: λ >= 0; 0 where the metric has no diagonal.
        weight_decay: μ >= 0 and finite; `.weight_decay` may be set between steps.
        decay: "coupled", "decoupled" or "proximal".
        step_size: what multiplies lr at each step, e.g. `Alignment()`; None: nothing does.

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
        self._method = Method(rule, metric, inertia=inertia, decay=decay, step_size=step_size)
        self._step = Step(self._method)
        self._single = not isinstance(x0, (list, tuple)) or all(np.isscalar(entry) for entry in x0)
        parts = [real("x0", part) for part in ([x0] if self._single else x0)]
        self._shapes = [part.shape for part in parts]
        self._x = np.array(join(parts))
        if not np.isfinite(self._x).all():
            raise ValueError("x0 must be finite, got NaN or infinity.")
        self._lr = float(lr)
        self._named = np.zeros((len(self._method.names), self._x.size))  # rows: gradient, memory, further memories
        self._start: Vector | None = None  # where the first step started, if the rule looks there
        self._measure = measure_of(self._method, self._shapes)
        one = np.ones(1)
        self._scalars = Scalars.start(one, one, memory_from_gradient=self._method.memory_from_gradient)
        self._scope = Scope()
        self._last: Outcome | None = None
        self._last_step = np.zeros_like(self._x)
        self._skipped = 0
        self._steps = 0  # before the last `undo`

    def __repr__(self) -> str:
        """What it is, and how far it has come."""
        step, shapes = self._method, self._shapes[0] if self._single else self._shapes
        words = [f"rule={step.rule!r}", f"lr={self._lr:g}", f"metric={step.metric!r}"]
        words += [f"inertia={step.inertia:g}"] if step.inertia else []
        words += [f"weight_decay={self._weight_decay:g}", f"decay={step.decay!r}"] if self._weight_decay else []
        return f"Optimizer({', '.join(words)}): shape {shapes}, {self.diagnostics()['steps']} steps"

    def _repr_html_(self) -> str:
        return html_of(repr(self))

    @property
    def x(self) -> Any:
        """The current iterate, shaped like x0 (a copy)."""
        return self._shaped(self._x)

    @property
    def metric(self) -> Any:
        """What measures a move."""
        return self._method.metric

    @property
    def needs_loss(self) -> bool:
        """Whether the rule looks at the loss."""
        return self._method.facts.needs_loss

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the numbers that each step must be given."""
        return tuple(self._method.observed)

    @property
    def decay(self) -> str:
        """The form of weight decay: "coupled", "decoupled" or "proximal"."""
        return self._method.decay

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

    def step(self, gradient: Arrays, loss: float | None = None, observed: Numbers | None = None) -> Any:
        """One step; returns the new iterate, shaped like x0.

        Where the gradient, the loss, an observed number, or anything the step would leave (x, memory, the metric's
        state) is not finite, as after a gradient whose square overflows, the step is skipped: nothing changes but the
        count in `diagnostics()`.

        Args:
            gradient: at `.x`, shaped like x0, real.
            loss: f at `.x`; only rules that look at the loss need it.
            observed: name -> number, of all that the rule declares in `observed`, and of nothing else.

        Raises:
            ValueError: for a gradient of another shape, a loss that is needed and missing, other names than declared.
            TypeError: for a gradient, loss or number that is not real numbers, or is masked.
        """
        plan = self._plan(*self._checked(gradient, loss, observed))
        if plan is None:
            self._skipped += 1
            return self.x
        self._x, self._start = plan.next_x, plan.start
        self._named = following(self._method, plan.named, plan.next_memory, plan.outcome.combinations)
        self._measure.keep(plan.sight)
        self._last, self._scalars, self._last_step = plan.outcome, plan.outcome.scalars, plan.move
        return self.x

    @property
    def last_step(self) -> Vector:
        """The last move along memory, flat, (n,): without weight decay; zero before the first step."""
        return self._last_step

    def image(self, vector: Vector) -> Vector:
        """P⁻¹ of a flat vector (n,), in the metric of the last step."""
        return self._measure.apply(vector)

    @property
    def curved(self) -> bool:
        """Whether the metric is no longer the identity."""
        return self._measure.curved

    def stretch(self, factor: float) -> None:
        """Makes the last step `factor` times as long, after it was taken; skipped where x would overflow."""
        if factor == 1:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            more = (factor - 1) * self._last_step
            height = self._scalars.memory_height
            if height is not None:
                height = height + self._named[MEMORY] @ more  # the same plane, seen from the new x
            x, last_step, last_lr = self._x + more, factor * self._last_step, factor * self._scalars.last_lr
        if not all(np.isfinite(part).all() for part in (x, last_step, last_lr, 0.0 if height is None else height)):
            self._skipped += 1
            return
        self._x, self._last_step = x, last_step
        self._scalars = replace(self._scalars, last_lr=last_lr, memory_height=height)

    def diagnostics(self) -> dict[str, Any]:
        """Of the last step: "weights" (K,) of the planes, "beta" (weight on memory); and "steps", "skipped" in all."""
        last = self._last
        return {
            "weights": None if last is None else last.solution.weights[0].copy(),
            "beta": None if last is None else float(last.solution.beta[0]),
            "steps": self._steps + int(self._scalars.step[0]),
            "skipped": self._skipped,
        }

    def bookmark(self) -> Bookmark:
        """All that a step changes, for `undo`."""
        metric = self._measure.place()
        return Bookmark(self._x, self._named, metric, self._scalars, self._last, self._last_step, self._start)

    def restore(self, bookmark: Bookmark) -> None:
        """Back to where `bookmark` was taken, lr apart."""
        self._x, self._named, metric, self._scalars, self._last, self._last_step, self._start = bookmark
        self._measure.back(metric)

    def undo(self, bookmark: Bookmark, lr: float, *, forget: bool = False) -> None:
        """Back to where `bookmark` was taken, with empty memory; rule and step size start as at first.

        Args:
            bookmark: of this optimizer.
            lr: from now on, > 0.
            forget: whether the metric starts anew as well.
        """
        self.restore(bookmark)
        if forget:
            self._measure.forget()
        self._named = np.zeros_like(self._named)
        self._steps += int(self._scalars.step[0])
        one = np.ones(1)
        self._scalars = Scalars.start(one, one, memory_from_gradient=self._method.memory_from_gradient)
        self._lr = lr

    @property
    def last_lr(self) -> float:
        """lr of the last step, as its step size made it; lr before the first."""
        return self._lr if self._last is None else float(self._scalars.last_lr[0])

    def recall(self, name: str) -> float | None:
        """A scalar that the rule or the step size keeps; None if there is none of this name, or not yet."""
        values = self._scalars.rule_scalars.get(name)
        return None if values is None else float(values[0])

    def reach(self, gradient: Arrays, loss: float | None = None, observed: Numbers | None = None) -> float | None:
        """||P⁻¹d||, d the direction that `step(gradient, loss, observed)` would take: how far it goes per unit of lr.

        Nothing changes. None where step would skip.
        """
        plan = self._plan(*self._checked(gradient, loss, observed))
        if plan is None:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            return norm(plan.sight.image(plan.outcome.solution, plan.next_memory))

    def preview(self, gradient: Arrays, loss: float | None = None, observed: Numbers | None = None) -> Model:
        """The model that `step(gradient, loss, observed)` would solve, as plain arrays; nothing changes.

        Raises:
            ValueError: where step would raise, or would skip.
        """
        plan = self._plan(*self._checked(gradient, loss, observed))
        if plan is None:
            raise ValueError(
                "gradient, loss and what is observed must be finite, and the squared gradient too; step would skip."
            )
        outcome, solution, mu, method = plan.outcome, plan.outcome.solution, self._decay_in_model, self._method
        return Model(
            names=method.names,
            coefficients=solution.slopes[0],
            beta=float(solution.beta[0]),
            x=self._x.copy(),
            memory=plan.named[MEMORY].copy(),
            diagonal=self._diagonal_of(plan.sight),
            slopes=solution.slopes[0] @ plan.named,
            heights=solution.heights[0],
            weights=solution.weights[0],
            linear=solution.linear[0],
            quadratic=None if solution.quadratic is None else solution.quadratic[0],
            lr=float(outcome.lr[0]),
            inertia=method.inertia,
            weight_decay=mu,
            next_x=plan.next_x,
            next_memory=plan.next_memory,
            image=plan.sight.held().apply,
            norm=method.metric if method.measures == "norm" else None,
            shapes=tuple(self._shapes),
            gap=None if solution.gap is None else float(solution.gap[0]),
        )

    def _diagonal_of(self, sight: Any) -> Vector | None:
        if self._method.measures != "diagonal":
            return None
        return np.ones_like(self._x) if sight.diagonal is None else np.asarray(sight.diagonal)

    @property
    def _decay_in_model(self) -> float:
        """μ of the model: none where decay is coupled, because the gradient then carries it."""
        return 0.0 if self._method.decay == "coupled" else self._weight_decay

    def _checked(
        self, gradient: Arrays, loss: float | None, observed: Numbers | None
    ) -> tuple[Vector, float | None, Numbers]:
        if self._method.facts.needs_loss and loss is None:
            raise ValueError(f"{self._method.name} looks at the loss: call step(gradient, loss=...).")
        check_given(self._method.name, self._method.observed, observed)
        numbers = {name: number(f"observed[{name!r}]", value) for name, value in (observed or {}).items()}
        return self._flat(gradient), None if loss is None else number("loss", loss), numbers

    def _plan(self, g: Vector, loss: float | None, observed: Numbers) -> _Plan | None:
        """All of a step but its consequences; None where something is not finite."""
        scalars = [*([] if loss is None else [loss]), *observed.values()]
        if not (np.isfinite(g).all() and np.isfinite(scalars).all()):
            return None
        method, mu = self._method, self._decay_in_model
        named = np.empty_like(self._named)
        named[1:] = self._named[1:]
        named[0] = g + self._weight_decay * self._x if method.decay == "coupled" else g
        start = self._start
        if self._scalars.step[0] == 0:
            seed(method, named)
            start = self._x if "x" in method.starts else None
        place(method, named, self._x, start)
        with np.errstate(over="ignore", invalid="ignore"):  # a huge gradient's square overflows: seen below
            before = self._scalars
            factor, reach = self._step.factor(before.missing), before.last_lr * before.slope_weight
            sight = self._measure.see(named, self._x, factor, reach, with_x=mu > 0)
            inputs = Inputs(
                sight.products,
                self._scalars,
                self._scope,
                lr=np.array([self._lr]),
                weight_decay=np.array([mu]),
                loss=None if loss is None else np.array([loss]),
                pull=sight.pull,
                observed={name: np.array([value]) for name, value in observed.items()},
            )
            outcome = self._step.take(inputs)
            next_x, next_memory, move = self._moved(named, sight, outcome)
        solution = outcome.solution
        decided = solution.gap if solution.quadratic is None else solution.quadratic
        kept = (*outcome.scalars.rule_scalars.values(), *outcome.combinations.values())
        left = (next_x, next_memory, outcome.solution.linear, decided, *sight.arrays(), *kept)
        if not all(np.isfinite(part).all() for part in left):
            return None
        return _Plan(
            start=start,
            named=named,
            sight=sight,
            outcome=outcome,
            next_x=next_x,
            next_memory=next_memory,
            move=move,
        )

    def _moved(self, named: Vector, sight: Any, outcome: Outcome) -> tuple[Vector, Vector, Vector]:
        """The new iterate, the new memory, and how far the former moved along the latter."""
        solution, inertia = outcome.solution, self._method.inertia
        shrink = float(outcome.lr[0]) * self._decay_in_model
        memory = solution.direction[0] @ named
        if inertia:
            p = 1.0 if sight.diagonal is None else sight.diagonal
            memory = (memory + inertia * p * named[MEMORY]) / (1 + inertia * p)
        length = float(outcome.lr[0]) * float(solution.slope_weight[0])
        image = sight.image(solution, memory)
        memory, move = sight.stored(memory, image), -length * image
        if self._method.decay == "proximal" and shrink:
            return (self._x + move) / (1 + shrink), memory, move / (1 + shrink)
        return (1 - shrink) * self._x + move if shrink else self._x + move, memory, move

    def _flat(self, arrays: Arrays) -> Vector:
        if self._single:
            return shaped("gradient", arrays, self._shapes[0], copy=False).ravel()
        parts = [real("gradient", part) for part in arrays]
        if [part.shape for part in parts] != self._shapes:
            shapes = [part.shape for part in parts]
            raise ValueError(f"gradient must have the shape of x0, {self._shapes}, got {shapes}.")
        return join(parts)

    def _shaped(self, flat: Vector) -> Any:
        if self._single:
            return flat.reshape(self._shapes[0]).copy()
        return [part.copy() for part in split(flat, self._shapes)]


def _rate(name: str, value: float) -> float:
    if not 0 <= value < np.inf:
        raise ValueError(f"{name} must be >= 0 and finite, got {value}.")
    return float(value)
