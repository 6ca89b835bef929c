"""The problem collection: convex functions with gradient, start, smoothness constant, certified optimum.

A builder takes the keyword arguments that a study file may hold, and `PROBLEMS` lists the builders by kind:
a new problem is one more function there.
"""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from proxmom.study import data as datasets
from proxmom.study.data import Data, Vector
from proxmom.study.losses import Huber, LinearModel, Logistic, Objective, Quadratic, Softmax
from proxmom.study.optimum import (
    Bound,
    certified_optimum,
    certify,
    duality_gap_bound,
    largest_eigenvalue,
    strong_convexity_bound,
)

MOST_CLASSES = 1000


@dataclass(frozen=True, eq=False)
class Problem:
    """A convex problem: fun(x) -> (f, gradient) for x (n,), deterministic and free of checks.

    x0 is read-only. smoothness: L, an upper bound of the gradient's Lipschitz constant. optimum: the value at
    the minimiser found, at most `certificate` above the true f*; certificate <= 1e-10 (f(x0) - optimum).
    """

    name: str
    fun: Callable[[Vector], tuple[float, Vector]]
    x0: Vector
    smoothness: float
    optimum: float
    certificate: float


def build_problem(kind: str, data_dir: Path | None = None, **arguments: Any) -> Problem:
    """The problem of this kind, built once per process for the same arguments.

    data_dir: where relative paths of LIBSVM files start (default: the environment variable PROXMOM_DATA).
    arguments: those of the builder `PROBLEMS[kind]`, and `name` to replace the display name.
    Raises ValueError for an unknown kind, argument or data set, values out of range, unusable data, and (as
    UncertifiedOptimum) an f* that cannot be certified; TypeError for arguments of the wrong type.
    """
    name = arguments.pop("name", None)
    _check_arguments(kind, arguments)
    problem = _build(kind, datasets.directory(data_dir), **dict(sorted(arguments.items())))
    return replace(problem, name=name) if name else problem


@functools.lru_cache(maxsize=32, typed=True)
def _build(kind: str, data_dir: Path | None, **arguments: Any) -> Problem:
    builder = PROBLEMS[kind]
    location = {"data_dir": data_dir} if "data_dir" in inspect.signature(builder).parameters else {}
    return builder(**arguments, **location)


def quadratic(*, condition: float = 100.0, n: int = 100, seed: int = 0) -> Problem:
    """½ xᵀAx - bᵀx with eigenvalues from 1/condition to 1, equidistant in the logarithm, in a random basis.

    condition in [1, 1e12], n in [2, 10000]; minimiser and x0 are standard normal, b = A minimiser, L = 1.
    """
    condition = _number("condition", condition, low=1, high=1e12)
    n, seed = _whole("n", n, low=2, high=10_000), _whole("seed", seed)
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    matrix = (basis * np.geomspace(1 / condition, 1, n)) @ basis.T
    matrix = (matrix + matrix.T) / 2
    minimiser, x0 = rng.standard_normal(n), rng.standard_normal(n)
    objective = Quadratic(matrix, matrix @ minimiser)
    name = f"quadratic, condition {condition:g}, n {n}" + _unless(0, seed=seed)
    bound = strong_convexity_bound(1 / condition)
    optimum, certificate = certify(name, objective, objective(x0)[0], minimiser, bound)
    return _problem(name, objective, x0, 1.0, (optimum, certificate))


def logistic(*, data: str = "breast_cancer", l2: float = 1e-3, data_dir: Path | None = None) -> Problem:
    """Binary logistic regression without intercept: mean log(1 + exp(-label aᵀx)) + (l2/2)||x||², x0 = 0.

    data must have two labels (the larger counts as +1); l2 > 0; L = (largest eigenvalue of mean aaᵀ)/4 + l2.
    """
    l2 = _number("l2", l2, low=0, exclusive=True)
    loaded = _load(data, data_dir)
    classes = np.unique(loaded.target)
    if classes.size != 2:
        raise ValueError(f"logistic needs two labels, {loaded.name} has {_listing(classes)}: try kind softmax.")
    signs = np.where(loaded.target == classes[1], -1.0, 1.0)
    matrix = datasets.scale_rows(loaded.features, signs)
    objective = LinearModel(Logistic(), matrix, 0.0, l2)
    return _regression(f"logistic, {loaded.name}, l2 {l2:g}", objective, strong_convexity_bound(l2))


def softmax(*, data: str = "digits", l2: float = 1e-3, data_dir: Path | None = None) -> Problem:
    """Multinomial logistic regression without intercept, one row of weights per class, from x0 = 0.

    data must have 2 to 1000 whole numbers as labels; l2 > 0; L = (largest eigenvalue of mean aaᵀ)/2 + l2.
    """
    l2 = _number("l2", l2, low=0, exclusive=True)
    loaded = _load(data, data_dir)
    classes = np.unique(loaded.target)
    if not 2 <= classes.size <= MOST_CLASSES or np.any(classes != np.rint(classes)):
        raise ValueError(
            f"softmax needs 2 to {MOST_CLASSES} whole numbers as labels, {loaded.name} has {_listing(classes)}."
        )
    one_hot = (loaded.target == classes[:, None]).astype(np.float64)
    objective = Softmax(loaded.features, one_hot, l2)
    smoothness = _mean_eigenvalue(loaded.features) * objective.curvature_bound + l2
    x0 = np.zeros(one_hot.shape[0] * loaded.features.shape[1])
    name = f"softmax, {loaded.name}, l2 {l2:g}"
    certified = certified_optimum(name, objective, x0, smoothness, strong_convexity_bound(l2))
    return _problem(name, objective, x0, smoothness, certified)


def least_squares(
    *,
    data: str = "diabetes",
    l2: float = 0.0,
    n: int | None = None,
    samples: int | None = None,
    seed: int | None = None,
    data_dir: Path | None = None,
) -> Problem:
    """mean (aᵀx - target)²/2 + (l2/2)||x||², from x0 = 0; n, samples and seed only with data = "synthetic".

    The target is standardised; l2 >= 0; L = (largest eigenvalue of mean aaᵀ) + l2.
    """
    l2, loaded = _number("l2", l2, low=0), _load(data, data_dir, n=n, samples=samples, seed=seed)
    return _residuals(f"least squares, {loaded.name}" + _unless(0, l2=l2), loaded, math.inf, l2)


def huber(
    *,
    data: str = "diabetes",
    delta: float = 0.1,
    l2: float = 0.0,
    n: int | None = None,
    samples: int | None = None,
    seed: int | None = None,
    data_dir: Path | None = None,
) -> Problem:
    """mean h(aᵀx - target) + (l2/2)||x||² with h(r) = r²/2 up to |r| = delta and linear beyond, from x0 = 0.

    delta > 0, in units of the target's spread; otherwise as `least_squares`.
    """
    delta, l2 = _number("delta", delta, low=0, exclusive=True), _number("l2", l2, low=0)
    loaded = _load(data, data_dir, n=n, samples=samples, seed=seed)
    return _residuals(f"Huber, {loaded.name}, delta {delta:g}" + _unless(0, l2=l2), loaded, delta, l2)


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "quadratic": quadratic,
    "logistic": logistic,
    "softmax": softmax,
    "least_squares": least_squares,
    "huber": huber,
}


def _residuals(name: str, loaded: Data, delta: float, l2: float) -> Problem:
    target = datasets.standardise(loaded.target)
    if not target.any():
        raise ValueError(f"{name}: the target must vary, got {len(target)} equal values.")
    objective = LinearModel(Huber(delta), loaded.features, target, l2)
    bound = strong_convexity_bound(l2) if l2 > 0 else duality_gap_bound(loaded.features, target, delta)
    return _regression(name, objective, bound)


def _regression(name: str, objective: LinearModel, bound: Bound) -> Problem:
    smoothness = _mean_eigenvalue(objective.matrix) * objective.loss.curvature_bound + objective.l2
    x0 = np.zeros(objective.matrix.shape[1])
    certified = certified_optimum(name, objective, x0, smoothness, bound)
    return _problem(name, objective, x0, smoothness, certified)


def _problem(name: str, fun: Objective, x0: Vector, smoothness: float, certified: tuple[float, float]) -> Problem:
    x0.flags.writeable = False  # the problem is shared by every run of this process
    return Problem(name, fun, x0, smoothness, *certified)


def _mean_eigenvalue(features: datasets.Matrix) -> float:
    return largest_eigenvalue(features) / int(features.shape[0])


def _load(data: str, data_dir: Path | None, **synthetic: int | None) -> Data:
    if not isinstance(data, str):
        raise TypeError(f"data must be a name or a path, got {data!r} ({type(data).__name__}).")
    given = {key: _whole(key, value, low=_LOWEST[key]) for key, value in synthetic.items() if value is not None}
    if data == "synthetic" and synthetic:
        return datasets.synthetic(**given)
    if data == "synthetic":
        raise ValueError("data = 'synthetic' has a real target: use kind least_squares or huber.")
    if given:
        raise ValueError(f"{', '.join(given)}: only for data = 'synthetic', got data = {data!r}.")
    return datasets.load_data(data, data_dir)


_LOWEST = {"n": 1, "samples": 4, "seed": 0}


def _check_arguments(kind: str, arguments: dict[str, Any]) -> None:
    if kind not in PROBLEMS:
        raise ValueError(f"kind must be one of {', '.join(PROBLEMS)}, got {kind!r}.")
    signature = inspect.signature(PROBLEMS[kind]).parameters
    takes = [key for key in signature if key != "data_dir"]
    for key, value in arguments.items():
        if key not in takes:
            raise ValueError(f"{kind} takes {', '.join(takes)} and name, got {key!r}.")
        if not isinstance(value, str | int | float | None):
            raise TypeError(f"{key} must be a number or a text, got {value!r} ({type(value).__name__}).")


def _number(name: str, value: float, low: float, high: float = math.inf, exclusive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__}).")
    above = value > low if exclusive else value >= low
    if not (math.isfinite(value) and above and value <= high):
        limit = f" and <= {high:g}" if high < math.inf else " and finite"
        raise ValueError(f"{name} must be {'>' if exclusive else '>='} {low:g}{limit}, got {value}.")
    return float(value)


def _whole(name: str, value: int, low: float = 0, high: float = math.inf) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__}).")
    return int(_number(name, value, low, high))


def _unless(default: float, **value: float) -> str:
    return "".join(f", {key} {number:g}" for key, number in value.items() if number != default)


def _listing(classes: Vector) -> str:
    shown = ", ".join(f"{label:g}" for label in classes[:10])
    return f"{classes.size} ({shown}{', ...' if classes.size > 10 else ''})"
