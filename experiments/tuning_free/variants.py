"""The methods of the comparison: rules and step sizes, most of them from the package, the others a few lines here.

A method is called as method(fun, x0, lr) and evaluates fun until fun stops it; lr is the length of the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from proxmom import (
    AdaptiveMemory,
    Alignment,
    ConjugateMemory,
    GradientDescent,
    HeavyBall,
    Plane,
    Secant,
    TruncatedMemory,
    mix,
)
from proxmom.memories import Memory, Previous
from proxmom.metrics import QuasiNewton
from proxmom.now import Now
from proxmom.numpy import Optimizer, minimize
from proxmom.numpy.forecast import Forecast
from proxmom.planes import namespace
from proxmom.secant import Direction, Lengths, Line

FOREVER = 10**9
Method = Callable[[Any, Any, float], None]


@dataclass(frozen=True)
class Weighted:
    """One plane whose weight on memory is a formula of the literature for conjugate gradients, cut at zero.

    d = g + b p with p the last direction; memory is d scaled to an average, so the formulas see p through <p, y>.
    """

    formula: str
    beta_max: ClassVar[float] = 1.0
    memories: ClassVar[Mapping[str, Memory]] = {"previous": Previous("gradient")}

    def planes(self, now: Now) -> tuple[Plane]:
        xp, g, p, d = namespace(now.step), now.gradient, now.vector("previous"), now.memory
        y = g - p
        turn, pull = -now.dot(d, y), now.dot(d, p)
        below = {"Hestenes-Stiefel": turn, "Dai-Yuan": turn, "Polak-Ribiere": pull, "Fletcher-Reeves": pull}
        above = {"Hestenes-Stiefel": now.dot(g, y), "Polak-Ribiere": now.dot(g, y)}
        top, bottom = above.get(self.formula, now.dot(g, g)), below[self.formula]
        sound = (bottom > 0) & (top > 0) & (now.step > 0)
        b = xp.where(sound, top / xp.where(sound, bottom, 1.0), 0.0)
        return (mix(now.gradient_plane, now.memory_plane(0.0), b / (1 + b)),)


@dataclass(frozen=True)
class BarzilaiBorwein:
    """factor = <s, y> / <y, lr·P⁻¹y> or <s, lr⁻¹P s> / <s, y>; as it was where there is no curvature."""

    long: bool = False
    memories: ClassVar[Mapping[str, Memory]] = {"previous": Previous("gradient")}
    scalars: ClassVar[Mapping[str, float]] = {"scale": 1.0}

    def factor(self, now: Now) -> Any:
        xp, y, scale = namespace(now.lr), now.gradient - now.vector("previous"), now.recall("scale")
        bend, turn = now.dot_last_move(y), now.lr * now.dot(y, y)
        size = scale * -now.dot_last_move(now.memory)
        sound = (bend > 0) & (turn > 0)
        safe = xp.where(sound, bend, 1.0)
        return xp.where(sound, size / safe if self.long else bend / xp.where(sound, turn, 1.0), scale)

    def remember(self, now: Now) -> Mapping[str, Any]:
        return {"scale": self.factor(now)}


@dataclass(frozen=True)
class MalitskyMishchenko:
    """factor = min( sqrt(1 + growth)·factor, ||s||/(2||y||) ): proven for gradient descent alone (ICML 2020)."""

    memories: ClassVar[Mapping[str, Memory]] = {"previous": Previous("gradient")}
    scalars: ClassVar[Mapping[str, float]] = {"scale": 1.0, "growth": 1e12}

    def factor(self, now: Now) -> Any:
        xp, y, old = namespace(now.lr), now.gradient - now.vector("previous"), now.recall("scale")
        size, turn = old * -now.dot_last_move(now.memory), now.lr * now.dot(y, y)
        sound = (turn > 0) & (now.step > 0)
        ratio = xp.sqrt(xp.where(sound, size / xp.where(sound, turn, 1.0), xp.inf)) / 2
        grown = xp.where(now.step > 0, old * xp.sqrt(1 + now.recall("growth")), old)
        return xp.minimum(grown, ratio)

    def remember(self, now: Now) -> Mapping[str, Any]:
        scale, old, growth = self.factor(now), now.recall("scale"), now.recall("growth")
        return {"scale": scale, "growth": namespace(now.lr).where(now.step > 0, scale / old, growth)}


@dataclass(frozen=True)
class NotFinished(Secant):
    """`Secant`'s forecast of the length without making up for the rest of the last step."""

    def finish(self, line: Line, lengths: Lengths) -> tuple[float, bool, Lengths]:
        _, _, after = super().finish(line, lengths)
        return 1.0, False, replace(after, last=lengths.last, retries=0)


@dataclass(frozen=True)
class LastLength(Secant):
    """`Secant` with the length of the last step, as it should have been, instead of a forecast."""

    def length(self, lengths: Lengths, step: Direction) -> float:
        return lengths.last


@dataclass(frozen=True)
class Deep:
    """Truncated memory with the floor at theta times its depth; the bound is estimated on the way if none is given.

    The estimate is the target level of Polyak's step: best - gap, where gap is halved when 20 steps brought nothing
    and doubled when f fell by more than half of it.
    """

    theta: float = 2.0
    lower_bound: float | None = None
    beta_max: float = 1.0
    normalised: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True
    scalars: ClassVar[Mapping[str, float]] = {"best": 0.0, "gap": 1.0, "since": 0.0}

    def planes(self, now: Now) -> tuple[Plane, Plane, Plane]:
        floor = now.floor(self._target(now) if self.lower_bound is None else self.lower_bound)
        depth = self.theta * floor.height
        memory = mix(now.gradient_plane, now.memory_plane(depth), now.weight(self.beta_max))
        return now.gradient_plane, memory, Plane(floor.slope, depth)

    def _target(self, now: Now) -> Any:
        """The bound that is aimed at, for this step."""
        new = self.remember(now)
        return new["best"] - new["gap"]

    def remember(self, now: Now) -> Mapping[str, Any]:
        xp, first = namespace(now.step), now.step == 0
        gap = xp.where(first, now.lr * now.dot(now.gradient, now.gradient), now.recall("gap"))
        best = xp.where(first, now.loss, now.recall("best"))
        fell = best - now.loss > gap / 2
        since = xp.where(now.loss < best, 0.0, now.recall("since") + 1)
        late = since >= 20
        gap = xp.where(fell, 2 * gap, xp.where(late, gap / 2, gap))
        return {"best": xp.minimum(best, now.loss), "gap": gap, "since": xp.where(late, 0.0, since)}


def guarded(rule: Any, step_size: Any = None) -> Method:
    """`minimize` with a rule and without lr, but for the first step, which is given."""

    def run(fun: Any, x0: Any, lr: float) -> None:
        minimize(fun, x0, rule, first=lr, step_size=step_size, max_iter=FOREVER, gtol=0.0)

    return run


def bare(rule: Any, step_size: Any = None, lr: float | None = None) -> Method:
    """Every step stands."""

    def run(fun: Any, x0: Any, first: float) -> None:
        with np.errstate(all="ignore"):
            size = None if isinstance(step_size, Secant) else step_size
            optimizer: Any = Optimizer(x0, rule, lr=first if lr is None else lr, step_size=size)
            if isinstance(step_size, Secant):
                optimizer = Forecast(optimizer, step_size)
            x = np.array(x0, dtype=float)
            for _ in range(FOREVER):
                f, g = fun(x)
                x = optimizer.step(g, f)

    return run


def default(fun: Any, x0: Any, **options: Any) -> None:
    """`minimize` with nothing given but options: the first step is its own."""
    minimize(fun, x0, max_iter=FOREVER, gtol=0.0, **options)


def full(fun: Any, x0: Any, lr: float) -> None:
    """The default, but for the first step, which is given."""
    default(fun, x0, first=lr)


CLASSICS = ("Fletcher-Reeves", "Dai-Yuan", "Hestenes-Stiefel", "Polak-Ribiere")
OWN, LOW = "minimize(fun, x0)", 'minimize(fun, x0, memory="low")'
DEFAULTS: dict[str, Callable[[Any, Any], None]] = {  # from a first step of their own
    OWN: default,
    LOW: partial(default, memory="low"),
    "minimize(..., metric=QuasiNewton(10))": partial(default, metric=QuasiNewton(10)),
    "minimize(..., metric=QuasiNewton(40))": partial(default, metric=QuasiNewton(40)),
    "minimize(..., follows=False)": partial(default, metric=QuasiNewton(follows=False)),
}
MAIN: dict[str, Method] = {  # the two memories, from every first step
    "GradientDescent, QuasiNewton(20)": full,
    "ConjugateMemory x Secant": guarded(ConjugateMemory()),
}
VARIANTS: dict[str, Method] = {
    "AdaptiveMemory(1) x Secant": guarded(AdaptiveMemory(1.0)),
    "AdaptiveMemory(0.9) x Secant": guarded(AdaptiveMemory(0.9)),
    "HeavyBall(0.9) x Secant": guarded(HeavyBall()),
    "GradientDescent x Secant": guarded(GradientDescent()),
    **{f"{name} x Secant": guarded(Weighted(name)) for name in CLASSICS},
    **{f"ConjugateMemory({r}) x Secant": guarded(ConjugateMemory(r)) for r in (0.2, 1.0)},
    "Secant(steepness=0.5)": guarded(ConjugateMemory(), Secant(steepness=0.5)),
    "Secant(steepness=2)": guarded(ConjugateMemory(), Secant(steepness=2.0)),
    "Secant(stretch=4)": guarded(ConjugateMemory(), Secant(stretch=4.0)),
    "Secant(stretch=30)": guarded(ConjugateMemory(), Secant(stretch=30.0)),
    "Secant(stiffness=1)": guarded(ConjugateMemory(), Secant(stiffness=1.0)),
    "Secant(stiffness=2)": guarded(ConjugateMemory(), Secant(stiffness=2.0)),
    "Secant(retries=0)": guarded(ConjugateMemory(), Secant(retries=0)),
    "Secant, last step not finished": guarded(ConjugateMemory(), NotFinished()),
    "Secant, length of the last step": guarded(ConjugateMemory(), LastLength()),
    "Secant, no guard": bare(ConjugateMemory(), Secant()),
    "AdaptiveMemory(1) x Alignment(0.25)": guarded(AdaptiveMemory(1.0), Alignment(0.25)),
    "AdaptiveMemory(1) x Alignment(0.5)": guarded(AdaptiveMemory(1.0), Alignment(0.5)),
    "AdaptiveMemory(1) x Alignment(1)": guarded(AdaptiveMemory(1.0), Alignment(1.0)),
    "GradientDescent x Barzilai-Borwein, short": guarded(GradientDescent(), BarzilaiBorwein()),
    "GradientDescent x Barzilai-Borwein, long": guarded(GradientDescent(), BarzilaiBorwein(long=True)),
    "... long, no guard": bare(GradientDescent(), BarzilaiBorwein(long=True)),
    "AdaptiveMemory(1) x Barzilai-Borwein, short": guarded(AdaptiveMemory(1.0), BarzilaiBorwein()),
    "GradientDescent x Malitsky-Mishchenko": bare(GradientDescent(), MalitskyMishchenko()),
    "AdaptiveMemory(1) x Malitsky-Mishchenko": bare(AdaptiveMemory(1.0), MalitskyMishchenko()),
}


def truncated(optimum: float) -> dict[str, Method]:
    """Those with a floor; all but the last know the optimum. Their lr is so large that the floor decides."""
    return {
        "TruncatedMemory, depth 1, knows f*": bare(TruncatedMemory(optimum, 1.0, "aggregated")),
        "... depth 1.5, knows f*": bare(Deep(1.5, optimum)),
        "... depth 2, knows f*": bare(Deep(2.0, optimum)),
        "TruncatedMemory, depth 1, estimates f*": bare(Deep(1.0)),
        "... depth 2, estimates f*": bare(Deep(2.0)),
    }
