"""The rivals of the comparison, not built from our rules: SciPy's, and methods of the literature from their papers.

A rival is called as method(fun, x0) or, where it needs the smoothness L, as method(fun, x0, 1/L). It evaluates
fun(x) -> (f, gradient) until fun stops it or it can do no more; a point where only one of the two is needed counts
as well. x0 has shape (n,). CG_DESCENT has a file of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from cg_descent import cg_descent
from scipy import optimize

FOREVER = 10**9
Rival = Callable[..., None]


def lbfgs(fun: Any, x0: Any, memory: int = 10) -> None:
    """SciPy's L-BFGS-B; memory is its maxcor."""
    options = {"maxcor": memory, "ftol": 0.0, "gtol": 0.0, "maxfun": FOREVER, "maxiter": FOREVER}
    optimize.minimize(fun, x0, jac=True, method="L-BFGS-B", options=options)


def nonlinear_cg(fun: Any, x0: Any) -> None:
    """SciPy's CG: Polak and Ribiere's, with a Wolfe line search."""
    optimize.minimize(fun, x0, jac=True, method="CG", options={"gtol": 0.0, "maxiter": FOREVER})


def bfgs(fun: Any, x0: Any) -> None:
    """SciPy's BFGS: n² numbers of memory."""
    optimize.minimize(fun, x0, jac=True, method="BFGS", options={"gtol": 0.0, "maxiter": FOREVER})


def newton_cg(fun: Any, x0: Any) -> None:
    """SciPy's Newton-CG; a product with the Hessian is a difference of two gradients, and costs one evaluation."""
    seen: dict[bytes, tuple[float, Any]] = {}

    def known(x: Any) -> tuple[float, Any]:
        key = x.tobytes()
        if key not in seen:
            if len(seen) > 100:
                seen.clear()
            seen[key] = fun(x)
        return seen[key]

    def product(x: Any, p: Any) -> Any:
        size = np.linalg.norm(p)
        if size == 0:
            return p
        h = math.sqrt(np.finfo(float).eps) * (1 + np.linalg.norm(x)) / size
        return (fun(x + h * p)[1] - known(x)[1]) / h

    options = {"xtol": 0.0, "maxiter": FOREVER}
    optimize.minimize(known, x0, jac=True, hessp=product, method="Newton-CG", options=options)


@dataclass
class Learner:
    """A diagonal step size P and a weight β on the last move, learned online by AdaGrad from hypergradients.

    x⁺ = x - P g + β (x - x⁻), and x⁺ replaces x only where f falls (else a null step: the momentum is lost). The
    feedback (f(x⁺) - f(x)) / ‖g‖² has the derivatives -g⁺g/‖g‖² by P and <g⁺, x - x⁻>/‖g‖² by β. After `patience`
    falls L is the mean of ‖g⁺ - g‖/‖x⁺ - x‖ over those of 1e-3 or longer, the memory of AdaGrad for P is emptied, lr
    is 1/L, and the denominator is ‖g‖² + (L/2)² ‖x - x⁻‖². Before, lr falls by a fifth every 50 steps.
    """

    n: int
    smoothness: float
    lr: float
    beta_lr: float
    ceiling: float  # of P, in units of 1/L
    patience: int = 200
    beta: float = 0.95
    learned: bool = False
    falls: int = 0
    steps: int = 0
    curvatures: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.size, self.squares, self.square, self.least = np.zeros(self.n), np.zeros(self.n), 0.0, self.lr * 1e-3

    def learn(self, gradient: Any, move: Any, ahead: Any) -> None:
        """One step of AdaGrad, from the gradients here and ahead and the last move."""
        floor = (self.smoothness / 2) ** 2 * (move @ move) if self.learned else 1e-12
        scale = gradient @ gradient + floor
        by_size, by_beta = -ahead * gradient / scale, ahead @ move / scale
        self.squares = self.squares + by_size**2
        self.square += by_beta**2
        step = self.lr * by_size / (np.sqrt(self.squares) + 1e-12)
        self.size = np.clip(self.size - step, 0.0, self.ceiling / self.smoothness)
        self.beta = min(max(self.beta - self.beta_lr * by_beta / (math.sqrt(self.square) + 1e-12), 0.0), 0.9995)
        self.steps += 1
        if self.steps % 50 == 49 and not self.learned:
            self.lr = max(0.8 * self.lr, self.least)

    def note(self, fell: bool, change: float, distance: float) -> bool:
        """Counts falls, and estimates L when there were enough; True where it did so now."""
        self.falls = self.falls + 1 if fell else max(0, self.falls - 2)
        if fell and distance > 1e-3:
            self.curvatures.append(change / distance)
        if self.learned or self.falls <= self.patience or not self.curvatures:
            return False
        self.smoothness, self.learned = float(np.mean(self.curvatures)), True
        self.lr, self.squares = 1 / self.smoothness, np.zeros(self.n)
        return True


def hdm(fun: Any, x0: Any, lr: float, scale: float = 1.0, beta_lr: float = 10.0) -> None:
    """HDM-HB in its practical form, HDM-Best: hypergradient descent with heavy-ball momentum, both learned.

    Y.-C. Chu, W. Gao, Y. Ye, M. Udell, "Provable and Practical Online Learning Rate Adaptation with Hypergradient
    Descent", ICML 2025, arXiv 2502.11229. lr is 1/L, with L as its authors have it, the largest curvature; AdaGrad's
    steps are scale/L for P and beta_lr for β. Where the paper leaves constants open they are those of the authors'
    program, and scale and beta_lr its defaults; in their experiments they take the best of GRID for each problem.
    """
    learner = Learner(x0.size, 1 / lr, scale * lr, beta_lr, 1e10)
    x = back = x0
    value, gradient = fun(x)
    while True:
        move, back = x - back, x
        trial = x - learner.size * gradient + learner.beta * move
        ahead, slope = fun(trial)
        learner.learn(gradient, move, slope)
        fell = ahead < value
        learner.note(fell, float(np.linalg.norm(slope - gradient)), float(np.linalg.norm(trial - x)))
        if fell:
            x, value, gradient = trial, ahead, slope


GRID = tuple(itertools.product((0.1, 1.0, 10.0, 100.0), (1.0, 3.0, 5.0, 10.0, 100.0)))  # scale, beta_lr


def osgm(fun: Any, x0: Any, seed: int = 0) -> None:
    """OSGM-Best, the online scaled gradient method that its authors recommend; needs no lr.

    W. Gao, Y.-C. Chu, Y. Ye, M. Udell, "Gradient Methods with Online Scaling", COLT 2025, arXiv 2411.01803, and "...
    Part II. Practical Aspects", arXiv 2509.11007. As HDM-Best, with β's step min(1, L); with L at first the largest
    of three difference quotients at random points 1e-4 away; and once L is learned, with a lookahead where the
    gradient has doubled: Armijo's search along -P g from the trial point. Constants are those of the authors' program.
    """
    value, gradient = fun(x0)
    rng, smoothness = np.random.default_rng(seed), 0.0
    for _ in range(3):
        away = rng.standard_normal(x0.size)
        away *= 1e-4 / np.linalg.norm(away)
        smoothness = max(smoothness, float(np.linalg.norm(fun(x0 + away)[1] - gradient)) / 1e-4)
    if not 0 < smoothness < math.inf:
        smoothness = 1e-5
    learner = Learner(x0.size, smoothness, 1 / smoothness, min(1.0, smoothness), 1e5)
    x = back = x0
    while True:
        move, back, size = x - back, x, learner.size
        trial = x - size * gradient + learner.beta * move
        ahead, slope = fun(trial)
        point = trial, ahead, slope
        if learner.learned and np.linalg.norm(slope) > 2 * np.linalg.norm(gradient):
            point = _armijo(fun, trial, ahead, slope, size)
        learner.learn(gradient, move, slope)
        fell = point[1] <= value
        if learner.note(fell, float(np.linalg.norm(slope - gradient)), float(np.linalg.norm(trial - x))):
            learner.beta_lr = min(1.0, learner.smoothness)
        if fell:
            x, value, gradient = point


def _armijo(fun: Any, x: Any, value: float, gradient: Any, size: Any) -> tuple[Any, float, Any]:
    """The first of the points x - 0.8^i P g where f falls by half of what its slope promises; x where none does."""
    eta, promise = 1.0, gradient @ (size * gradient)
    while eta > 1e-6:
        new = x - eta * size * gradient
        there, slope = fun(new)
        if there <= value - 0.5 * eta * promise:
            return new, there, slope
        eta *= 0.8
    return x, value, gradient


def accelerated(fun: Any, x0: Any, lr: float, restart: str = "gradient", shrink: float = 0.9) -> None:
    """FISTA with backtracking, whose momentum is set back to nothing when it points uphill.

    A. Beck and M. Teboulle, SIAM J. Imaging Sci. 2 (2009) 183-202; restart "gradient", "function" or "" (none): B.
    O'Donoghue and E. Candes, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15 (2015)
    715-732. Backtracking as in TFOCS (S. Becker, E. Candes, M. Grant, Math. Prog. Comp. 3 (2011) 165-218): L is tried
    0.9 times the last and doubled until f lies below its parabola; at first it is 1/lr. shrink is that 0.9.
    """
    smooth, t, x, back = 1 / lr, 1.0, x0, x0
    value, slope = fun(x)
    while True:
        tried = shrink * smooth
        while True:
            new_t = (1 + math.sqrt(1 + 4 * t * t * tried / smooth)) / 2
            y = x + (t - 1) / new_t * (x - back)
            height, gradient = fun(y) if t > 1 else (value, slope)
            new = y - gradient / tried
            there, after = fun(new)
            # Where f differs by its rounding, the curvature on the way is asked instead, as in TFOCS.
            told = abs(there - height) > 1e-10 * max(abs(there), abs(height))
            if there <= height - gradient @ gradient / (2 * tried) if told else after @ gradient >= 0:
                break
            tried *= 2
        uphill = gradient @ (new - x) > 0 if restart == "gradient" else there > value and restart == "function"
        smooth, t, back, x, value, slope = tried, 1.0 if uphill else new_t, x, new, there, after


SCIPY: dict[str, Rival] = {"L-BFGS": lbfgs, "nonlinear CG": nonlinear_cg}  # what all are measured by
RIVALS: dict[str, Rival] = {  # without lr
    "L-BFGS, maxcor 20": partial(lbfgs, memory=20),
    "L-BFGS, maxcor 40": partial(lbfgs, memory=40),
    "BFGS": bfgs,
    "Newton-CG": newton_cg,
    "CG_DESCENT": cg_descent,
    "OSGM-Best": osgm,
}
GIVEN_L: dict[str, Rival] = {  # with lr, at 1/L
    "HDM-Best": hdm,
    "FISTA, gradient restart": accelerated,
    "FISTA, function restart": partial(accelerated, restart="function"),
}
BEST_OF: dict[str, list[Rival]] = {  # the best run for each instance, as the authors tune it
    f"HDM-Best, best of {len(GRID)}": [partial(hdm, scale=scale, beta_lr=beta_lr) for scale, beta_lr in GRID]
}
