"""The model of planes where moves are measured in a norm, and its solution.

With ψ(w) = Σ over tensors of lr·||s||_* (hard) or lr·||s||²_*/2 (soft), s = Σ w_k s_k, the weights maximise
<c, w> - ψ(w) over the simplex. No inner product knows ψ: a backend tells its gradient, Σ lr·||s||_*^{0 or 1}·<v, u_b>
over the named vectors u_b, for one slope at a time, with v the steepest direction of s. Then A = lr·||s||_*^{0 or 1}·v,
negated, is a step, and <A, s> is ψ, or 2ψ.

Two planes: a bracket. Of the steps at the two ends of any bracket of the best weight, a mixture leaves both planes
level. What the model says of it above the better dual value of the ends is the gap: the step is as good as that is
small, whatever vectors stand behind it. It also is the exact step where v is not unique. Derived in
`theory/17_norms.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from proxmom.now import Now
from proxmom.planes import Array, namespace
from proxmom.step.cutting_planes import Answer, many_planes
from proxmom.step.dual import stack
from proxmom.step.method import Method
from proxmom.step.narrowing import near
from proxmom.step.records import Atom, Inputs, Solution
from proxmom.step.sections import bracket

ROUNDING = 8  # eps of a difference that counts as zero
UNSEEN = 32  # slopes that are asked about where nobody can look whether it is enough


@dataclass(frozen=True)
class Problem:
    """Planes with a slope, (S, K) and (S, K, B), the highest floor, (S,) or None, and whom to ask about slopes.

    pull: slopes (S, B) -> (S, B), the gradient of ψ over the named vectors; power: 1 hard, 2 soft; calls: at most;
    looks: whether the rule looks at the loss, and so must know how far its planes fall; precision: relative, of the
    vectors; exact: whether steepest directions are; narrowed: the dual's derivative at weights -> two weights that a
    backend has made cheap to ask between; pulls: slopes (S, M, B) -> (S, M, B), many at once, where a backend can.
    """

    linear: Array
    slopes: Array
    floor: Array | None
    pull: Callable[[Array], Array]
    power: int
    calls: int
    looks: bool
    precision: float
    exact: bool
    narrowed: Callable[[Callable[[Array, Array, Array], Array]], tuple[Array, Array]] | None = None
    pulls: Callable[[Array], Array] | None = None

    @property
    def shortens(self) -> bool:
        """Whether a step may be shortened, and is then compared in length."""
        return self.power == 1 and self.floor is not None

    def share(self, height: Array, size: Array) -> Array:
        """How much of a step is taken, (S,), where the planes' mixture has this height and <A, s>."""
        xp = namespace(height)
        if self.floor is None:
            return 1 + 0 * height
        above = height - (self.floor if height.ndim == 1 else self.floor[:, None])
        # a step that changes nothing is taken whole, or not at all
        part = xp.where(size > 0, above / xp.where(size > 0, size, 1.0), xp.astype(above > 0, above.dtype))
        return xp.clip(part, 0.0, 1.0)


@dataclass(frozen=True)
class Point:
    """A weight b of the second plane, (S,), and what is known there: see `Problem`.

    first, change: <A, s_1> and <A, s_2 - s_1>, (S,); value: of the dual; signal: its derivative, zero up to rounding.
    """

    b: Array
    slope: Array
    pull: Array
    first: Array
    change: Array
    share: Array
    value: Array
    signal: Array

    @property
    def size(self) -> Array:
        """<A, s>, (S,)."""
        return self.first + self.b * self.change

    def where(self, here: Array, other: Point) -> Point:
        """This point where `here`, else the other."""
        xp = namespace(here)
        return Point(
            *(
                xp.where(here if mine.ndim == 1 else here[:, None], mine, theirs)
                for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
            )
        )


def solution(method: Method, inputs: Inputs, lr: Array, now: Now) -> Solution:
    """The planes of the rule, their weights and the direction, at the lr (T,) of this step."""
    scope, norm = inputs.scope, method.metric
    heights, slopes, floors = stack(method, now)
    xp, linear = namespace(heights), heights
    if inputs.products.decay is not None:  # planes stand where decay has led
        led = scope.total((lr * inputs.weight_decay)[:, None] * inputs.products.decay)
        linear = linear - (slopes @ led[..., None])[..., 0]
    assert inputs.pull is not None
    ask = inputs.pull

    def pull(slope: Array) -> Array:
        return scope.total(lr[:, None] * ask(slope))

    sloped = [k for k in range(linear.shape[-1]) if k not in floors]
    floor = xp.max(linear[:, floors], axis=-1) if floors else None
    power, exact = 1 if norm.form == "hard" else 2, getattr(norm, "exact", True)
    problem = Problem(
        linear[:, sloped],
        slopes[:, sloped, :],
        floor,
        pull,
        power,
        norm.calls,
        method.facts.needs_loss,
        inputs.precision,
        exact,
    )
    if inputs.narrows is not None and len(sloped) == 2:
        problem = replace(problem, narrowed=_narrowing(problem, inputs, lr))
    if inputs.pulls is not None:
        problem = replace(problem, pulls=_pulls(inputs.pulls, inputs, lr))
    answer = solve(problem)
    share = answer.share
    return Solution(
        direction=(answer.weights[:, None, :] @ problem.slopes)[:, 0, :],
        slope_weight=share,
        stays=(share <= 0) & (floor >= 0) if floor is not None else share < 0,
        weights=_weights(power, answer, linear, sloped, floors),
        heights=heights,
        slopes=slopes,
        linear=linear,
        quadratic=None,
        atoms=answer.atoms,
        gap=answer.gap,
        along=answer.along if method.facts.needs_loss else None,
    )


def solve(problem: Problem) -> Answer:
    """The best weights, the step that goes with them, and how far above the best it may be."""
    planes = problem.linear.shape[-1]
    if planes > 2:
        return many_planes(problem.linear, problem.slopes, problem.floor, problem.power, problem.pull)
    return _one(problem) if planes == 1 else _two(problem)


def _narrowing(problem: Problem, inputs: Inputs, lr: Array) -> Callable[..., tuple[Array, Array]]:
    """See `Problem.narrowed`."""
    narrows, scope = inputs.narrows, inputs.scope
    assert narrows is not None

    def narrowed(signal: Callable[[Array, Array, Array], Array]) -> tuple[Array, Array]:
        first, last = problem.slopes[:, 0, :], problem.slopes[:, 1, :]
        low, high = near(scope, lr, narrows.glance(first, last), problem.slopes, signal)
        narrows.focus(*(first + b[:, None] * (last - first) for b in (low, high)))
        return low, high

    return narrowed


def _pulls(ask: Callable[[Array], Array], inputs: Inputs, lr: Array) -> Callable[[Array], Array]:
    """See `Problem.pulls`."""

    def pulls(slopes: Array) -> Array:
        return inputs.scope.total(lr[:, None, None] * ask(slopes))

    return pulls


def _weights(power: int, answer: Answer, linear: Array, sloped: list[int], floors: list[int]) -> Array:
    """Of all planes, (S, K); where a hard step is shortened the floor has all the weight."""
    xp, share = namespace(linear), answer.share
    held = xp.astype(share >= 1, linear.dtype) if power == 1 else share
    columns: list[Any] = [None] * linear.shape[-1]
    for place, k in enumerate(sloped):
        columns[k] = held * answer.weights[:, place]
    first = xp.argmax(linear[:, floors], axis=-1) if floors else None
    for place, k in enumerate(floors):
        columns[k] = (1 - held) * xp.astype(first == place, linear.dtype)
    return xp.stack(columns, axis=-1)


def _look(problem: Problem, b: Array) -> Point:
    """Ask about the slope at b."""
    (c, other), (slope, end) = (problem.linear[:, k] for k in (0, 1)), (problem.slopes[:, k, :] for k in (0, 1))
    xp, turn, rise = namespace(b), end - slope, other - c
    at = slope + b[:, None] * turn
    pull = problem.pull(at)
    first, change = xp.sum(pull * slope, axis=-1), xp.sum(pull * turn, axis=-1)
    size, height = first + b * change, c + b * rise
    share = problem.share(height, size)
    value = height - size / problem.power
    if problem.floor is not None and problem.power == 2:
        value = problem.floor + share * (height - problem.floor) - share**2 * size / 2
    signal = rise - share * change
    noise = ROUNDING * problem.precision * (xp.abs(rise) + xp.abs(share * change))
    # level up to rounding: the larger weight counts
    return Point(b, at, pull, first, change, share, value, xp.where(xp.abs(signal) <= noise, 0.0, signal))


def _one(problem: Problem) -> Answer:
    """One plane: its steepest direction."""
    xp, slope, height = namespace(problem.linear), problem.slopes[:, 0, :], problem.linear[:, 0]
    pull = problem.pull(slope) if problem.looks else 0 * slope
    share = problem.share(height, xp.sum(pull * slope, axis=-1))
    one = 1 + 0 * share
    return Answer(one[:, None], share, (Atom(slope, one),), 0 * share, pull)


def _two(problem: Problem) -> Answer:
    """A bracket of the best weight, and the mixture of the steps at its ends."""
    if problem.pulls is not None:
        low, high = bracket(problem, _look)
        return _mixed(problem, low, high, low.where(_better(problem, low, high), high))
    xp = namespace(problem.linear)
    low, high = _ends(problem) if problem.narrowed is None else _near(problem)
    calls = problem.calls if isinstance(low.b, np.ndarray) else min(problem.calls, UNSEEN)
    for call in range(calls - 3):
        if problem.exact and _everywhere(_done(problem, low, high)):
            break
        place = (_beyond, _meeting, _middle)[call % 3](problem, low, high)
        low, high, _ = _narrowed(problem, low, high, place)
    best = low.where(_better(problem, low, high), high)
    if not _everywhere(low.b == high.b):
        low, high, between = _narrowed(problem, low, high, _crossing(low, high))
        if not problem.exact:
            low = high = between
        level = ROUNDING * problem.precision
        near = between.value >= best.value - level * _scale(problem, low, high)
        near = xp.where(best.share < 1, between.share >= best.share - level, near) if problem.shortens else near
        best = between.where(near, best)  # else there is a kink, and an end lies on it
    return _mixed(problem, low, high, best)


def _mixed(problem: Problem, low: Point, high: Point, best: Point) -> Answer:
    """The step that is mixed of those at the ends of a bracket, and the weights of the best point seen."""
    xp = namespace(best.b)
    share, part, gap = _mixture(problem, low, high, best)
    atoms = (Atom(low.slope, 1 - part), Atom(high.slope, part))
    along = atoms[0].share[:, None] * low.pull + atoms[1].share[:, None] * high.pull
    return Answer(xp.stack([1 - best.b, best.b], axis=-1), share, atoms, gap, along)


def _ends(problem: Problem) -> tuple[Point, Point]:
    """Where memory alone counts, and the gradient alone; twice the same where that is the best."""
    zero = 0 * problem.linear[:, 0]
    high = _look(problem, zero + 1)
    low = high if _everywhere(high.signal >= 0) else _look(problem, zero)
    low = high.where(high.signal >= 0, low)
    return low, low.where(low.signal < 0, high)


def _near(problem: Problem) -> tuple[Point, Point]:
    """The bracket that the backend can look into at little cost; from end to end where the best weight is elsewhere."""
    assert problem.narrowed is not None
    c, other = (problem.linear[:, k, None] for k in (0, 1))

    def signal(b: Array, first: Array, change: Array) -> Array:
        share = problem.share(c + b * (other - c), first + b * change)
        return other - c - share * change

    b = problem.narrowed(signal)
    low, high = (_look(problem, weight) for weight in b)
    elsewhere = ((low.signal < 0) & (low.b > 0)) | ((high.signal >= 0) & (high.b < 1))
    low, high = high.where(high.signal >= 0, low), low.where(low.signal < 0, high)
    if _everywhere(~elsewhere):
        return low, high
    gradient, memory = _ends(problem)
    return gradient.where(elsewhere, low), memory.where(elsewhere, high)


def _everywhere(flags: Array) -> bool:
    """Whether something holds in all scopes, where the host can look; else False."""
    return isinstance(flags, np.ndarray) and bool(flags.all())


def _done(problem: Problem, low: Point, high: Point) -> Array:
    """Where nothing is left to find; also where something is not finite."""
    _, _, gap = _mixture(problem, low, high, low.where(_better(problem, low, high), high))
    # where the dual is level to the right of low, its far end is wanted
    found = ~(gap > problem.precision * _scale(problem, low, high)) & (low.signal != 0)
    return found | ~(high.b - low.b > problem.precision)


def _better(problem: Problem, low: Point, high: Point) -> Array:
    """Where low is: where a floor shortens both steps, the length that it proves necessary counts."""
    above = low.value > high.value
    return (low.share > high.share) | ((low.share == high.share) & above) if problem.shortens else above


def _narrowed(problem: Problem, low: Point, high: Point, place: Array) -> tuple[Point, Point, Point]:
    """The bracket after a look at a place in it, given as a share of it, and what was seen."""
    between = _look(problem, low.b + place * (high.b - low.b))
    right = between.signal >= 0
    return between.where(right, low), high.where(right, between), between


def _crossing(low: Point, high: Point) -> Array:
    """Where in the bracket the straight line through both signals is zero, as a share of it."""
    fall = low.signal - high.signal
    xp = namespace(fall)
    return xp.where(fall > 0, low.signal / xp.where(fall > 0, fall, 1.0), 0.5)


def _beyond(problem: Problem, low: Point, high: Point) -> Array:
    """A little beyond the crossing, towards the middle, so that the other end moves next."""
    place = _crossing(low, high)
    xp, wide = namespace(place), high.b - low.b
    return place + xp.sign(0.5 - place) * xp.minimum(xp.abs(0.5 - place), 0.01 * wide + 2 * problem.precision)


def _meeting(problem: Problem, low: Point, high: Point) -> Array:
    """Where the tangents of ψ at both ends meet: where a kink is, if there is one between; else the middle."""
    xp, wide = namespace(low.b), high.b - low.b
    over = low.change - high.change
    shift = 0.0 if problem.power == 1 else (high.size - low.size) / 2
    at = (high.first - low.first - shift) / xp.where(over != 0, over, 1.0)
    place = (at - low.b) / xp.where(wide > 0, wide, 1.0)
    return xp.where((over != 0) & (place > 0) & (place < 1), place, 0.5)


def _middle(problem: Problem, low: Point, high: Point) -> Array:
    return 0 * low.b + 0.5


def _mixture(problem: Problem, low: Point, high: Point, best: Point) -> tuple[Array, Array, Array]:
    """Of the steps at both ends the mixture that leaves the planes level: how much of it, high's part, and its gap."""
    c, rise = problem.linear[:, 0], problem.linear[:, 1] - problem.linear[:, 0]
    xp, same, over = namespace(c), low.b == high.b, high.change - low.change
    part = _ratio(rise - low.change, over, xp)
    if problem.floor is not None:
        above = c - problem.floor
        # both planes and the floor are level
        along = _ratio(above * low.change - rise * low.first, rise * (high.first - low.first) - above * over, xp)
        part = xp.where(best.share < 1, along, part)
    part = xp.where(same, 0.0, part)
    first, change, price = (
        (1 - part) * mine + part * theirs
        for mine, theirs in ((low.first, high.first), (low.change, high.change), (low.size, high.size))
    )
    share = problem.share(c + best.b * rise, first + best.b * change)
    top, lower = xp.maximum(c - share * first, c + rise - share * (first + change)), best.value
    if problem.shortens:
        top, lower = xp.maximum(top, problem.floor), xp.maximum(lower, problem.floor)
    gap = top - lower
    if problem.power == 2:
        gap = gap + share**2 * price / 2
    elif problem.shortens:  # a shortened step is compared in length, too
        gap = xp.maximum(gap, (share - best.share) * price)
    return share, part, xp.where(same, 0.0, gap)


def _ratio(above: Array, below: Array, xp: Any) -> Array:
    """A quotient in [0, 1], 1/2 where nothing decides."""
    return xp.clip(xp.where(below != 0, above / xp.where(below != 0, below, 1.0), 0.5), 0.0, 1.0)


def _scale(problem: Problem, low: Point, high: Point) -> Array:
    xp = namespace(low.b)
    size = xp.maximum(xp.abs(low.size), xp.abs(high.size))
    return xp.max(xp.abs(problem.linear), axis=-1) + size
