"""The problem collection: functions with gradient, start, smoothness constant, certified optimum.

All are convex but the three classics of `nonconvex.py` and the functions of `literature`. A builder takes the keyword
arguments that a study file may hold, and `PROBLEMS` lists the builders by kind: a new problem is one more function
there.
"""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from proxmom.study.problems import data as datasets
from proxmom.study.problems.data import Data, Vector
from proxmom.study.problems.literature.build import literature
from proxmom.study.problems.losses import (
    Huber,
    LinearModel,
    Logistic,
    LogSumExp,
    Loss,
    Quadratic,
    SmoothedHinge,
    SmoothedL1,
    Softmax,
)
from proxmom.study.problems.nonconvex import factorisation, robust_regression, rosenbrock
from proxmom.study.problems.optimum import (
    Bound,
    certified_optimum,
    certify,
    duality_gap_bound,
    largest_eigenvalue,
    smallest_eigenvalue,
    strong_convexity_bound,
)
from proxmom.study.problems.problem import Problem, make_problem, name_part, number, whole

__all__ = ["PROBLEMS", "Problem", "build_problem"]

MOST_CLASSES = 1000


def build_problem(kind: str, data_dir: Path | None = None, **arguments: Any) -> Problem:
    """The problem of this kind, built once per process for the same arguments, and with one thread.

    data_dir: where relative paths of LIBSVM files start (default: the environment variable PROXMOM_DATA).
    arguments: those of the builder `PROBLEMS[kind]`, and `name` to replace the display name.
    Raises ValueError for an unknown kind, argument or data set, values out of range, unusable data, and (as
    UncertifiedOptimum) an f* that cannot be certified; TypeError for arguments of the wrong type.
    """
    name = arguments.pop("name", None)
    _check_arguments(kind, arguments)
    with threadpool_limits(1):  # more would round differently, and what is built is kept, whoever asks next
        problem = _build(kind, datasets.directory(data_dir), **dict(sorted(arguments.items())))
    return replace(problem, name=name) if name else problem


@functools.lru_cache(maxsize=64, typed=True)
def _build(kind: str, data_dir: Path | None, **arguments: Any) -> Problem:
    builder = PROBLEMS[kind]
    location = {"data_dir": data_dir} if "data_dir" in inspect.signature(builder).parameters else {}
    return builder(**arguments, **location)


def quadratic(*, condition: float = 100.0, n: int = 100, seed: int = 0, spectrum: str = "log") -> Problem:
    """½ xᵀAx - bᵀx with eigenvalues from 1/condition to 1 in a random basis.

    spectrum: "log" and "linear" are equidistant; "clusters" has half of them in [1, 2]/condition, half in [½, 1].
    condition in [1, 1e12], n in [2, 10000]; minimiser and x0 are standard normal, b = A minimiser, L = 1.
    """
    condition = number("condition", condition, low=1, high=1e12)
    n, seed = whole("n", n, low=2, high=10_000), whole("seed", seed)
    if spectrum not in SPECTRA:
        raise ValueError(f"spectrum must be one of {', '.join(SPECTRA)}, got {spectrum!r}.")
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    matrix = (basis * SPECTRA[spectrum](1 / condition, n)) @ basis.T
    matrix = (matrix + matrix.T) / 2
    minimiser, x0 = rng.standard_normal(n), rng.standard_normal(n)
    objective = Quadratic(matrix, matrix @ minimiser)
    shown = "" if spectrum == "log" else f", {spectrum} spectrum"
    name = f"quadratic, condition {condition:g}, n {n}{shown}" + name_part(0, seed=seed)
    bound = strong_convexity_bound(1 / condition)
    optimum, certificate = certify(name, objective, objective(x0)[0], minimiser, bound)
    return make_problem(name, objective, x0, 1.0, (optimum, certificate))


SPECTRA: dict[str, Callable[[float, int], Vector]] = {
    "log": lambda low, n: np.geomspace(low, 1, n),
    "linear": lambda low, n: np.linspace(low, 1, n),
    "clusters": lambda low, n: np.append(np.linspace(low, min(2 * low, 1), n // 2), np.linspace(0.5, 1, n - n // 2)),
}


def logistic(*, data: str = "breast_cancer", l2: float = 1e-3, data_dir: Path | None = None) -> Problem:
    """Binary logistic regression without intercept: mean log(1 + exp(-label aᵀx)) + (l2/2)||x||², x0 = 0.

    data must have two labels (the larger counts as +1); l2 > 0; L = (largest eigenvalue of mean aaᵀ)/4 + l2.
    """
    return _classification("logistic", Logistic(), data, l2, data_dir)


def smoothed_hinge(
    *, data: str = "breast_cancer", l2: float = 1e-3, width: float = 0.5, data_dir: Path | None = None
) -> Problem:
    """Support vector machine, its hinge smoothed by a parabola of this width; otherwise as `logistic`.

    width > 0; L = (largest eigenvalue of mean aaᵀ)/width + l2.
    """
    loss = SmoothedHinge(number("width", width, low=0, exclusive=True))
    return _classification(f"smoothed hinge {width:g}", loss, data, l2, data_dir)


def softmax(*, data: str = "digits", l2: float = 1e-3, data_dir: Path | None = None) -> Problem:
    """Multinomial logistic regression without intercept, one row of weights per class, from x0 = 0.

    data must have 2 to 1000 whole numbers as labels; l2 > 0; L = (largest eigenvalue of mean aaᵀ)/2 + l2.
    """
    l2 = number("l2", l2, low=0, exclusive=True)
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
    return make_problem(name, objective, x0, smoothness, certified)


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
    l2, loaded = number("l2", l2, low=0), _load(data, data_dir, n=n, samples=samples, seed=seed)
    return _residuals(f"least squares, {loaded.name}" + name_part(0, l2=l2), loaded, math.inf, l2)


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
    delta, l2 = number("delta", delta, low=0, exclusive=True), number("l2", l2, low=0)
    loaded = _load(data, data_dir, n=n, samples=samples, seed=seed)
    return _residuals(f"Huber, {loaded.name}, delta {delta:g}" + name_part(0, l2=l2), loaded, delta, l2)


def smoothed_l1(
    *,
    data: str = "diabetes",
    l1: float = 0.1,
    width: float = 1e-2,
    n: int | None = None,
    samples: int | None = None,
    seed: int | None = None,
    data_dir: Path | None = None,
) -> Problem:
    """mean (aᵀx - target)²/2 + l1 sum_j [ sqrt(x_j² + width²) - width ] from x0 = 0; data as for `least_squares`.

    l1, width > 0; features dense and of full rank; L = (largest eigenvalue of mean aaᵀ) + l1/width.
    """
    l1, width = number("l1", l1, low=0, exclusive=True), number("width", width, low=0, exclusive=True)
    loaded = _load(data, data_dir, n=n, samples=samples, seed=seed)
    modulus = 0.0 if sparse.issparse(loaded.features) else smallest_eigenvalue(loaded.features)
    if modulus == 0:
        raise ValueError(f"smoothed_l1 needs dense features of full rank, {loaded.name} has not: take diabetes.")
    model = LinearModel(Huber(math.inf), loaded.features, datasets.standardise(loaded.target), 0.0)
    name = f"smoothed L1, {loaded.name}, l1 {l1:g}"
    smoothness = _mean_eigenvalue(loaded.features) + l1 / width
    objective, x0 = SmoothedL1(model, l1, width), np.zeros(loaded.features.shape[1])
    bound = strong_convexity_bound(modulus / len(loaded.target))
    return make_problem(name, objective, x0, smoothness, certified_optimum(name, objective, x0, smoothness, bound))


def log_sum_exp(*, n: int = 50, samples: int = 300, width: float = 0.1, l2: float = 1e-3, seed: int = 0) -> Problem:
    """width log mean_i exp((aᵀx - b)/width) + (l2/2)||x||²: a maximum of planes with Gaussian a and b, smoothed.

    width, l2 > 0, n >= 1, samples in [2, 5000]; a has entries of variance 1/n, x0 is standard normal;
    L = max_ij ||a_i - a_j||²/(4 width) + l2, as no variance exceeds a quarter of the squared range.
    """
    n, samples, seed = whole("n", n, low=1), whole("samples", samples, low=2, high=5000), whole("seed", seed)
    width, l2 = number("width", width, low=0, exclusive=True), number("l2", l2, low=0, exclusive=True)
    rng = np.random.default_rng(seed)
    matrix, offset = rng.standard_normal((samples, n)) / np.sqrt(n), rng.standard_normal(samples)
    norms, products = (matrix * matrix).sum(axis=1), matrix @ matrix.T
    smoothness = (1 + 1e-10) * float((norms + norms[:, None] - 2 * products).max()) / (4 * width) + l2
    objective, x0 = LogSumExp(matrix, offset, width, l2), rng.standard_normal(n)
    name = f"log-sum-exp, width {width:g}, {samples} x {n}" + name_part(0, seed=seed)
    certified = certified_optimum(name, objective, x0, smoothness, strong_convexity_bound(l2))
    return make_problem(name, objective, x0, smoothness, certified)


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "quadratic": quadratic,
    "logistic": logistic,
    "softmax": softmax,
    "least_squares": least_squares,
    "huber": huber,
    "smoothed_hinge": smoothed_hinge,
    "smoothed_l1": smoothed_l1,
    "log_sum_exp": log_sum_exp,
    "rosenbrock": rosenbrock,
    "robust_regression": robust_regression,
    "factorisation": factorisation,
    "literature": literature,
}


def _classification(title: str, loss: Loss, data: str, l2: float, data_dir: Path | None) -> Problem:
    l2 = number("l2", l2, low=0, exclusive=True)
    loaded = _load(data, data_dir)
    classes = np.unique(loaded.target)
    if classes.size != 2:
        kind = title.split()[0]
        raise ValueError(f"{kind} needs two labels, {loaded.name} has {_listing(classes)}: try kind softmax.")
    signs = np.where(loaded.target == classes[1], -1.0, 1.0)
    matrix = datasets.scale_rows(loaded.features, signs)
    objective = LinearModel(loss, matrix, 0.0, l2)
    return _regression(f"{title}, {loaded.name}, l2 {l2:g}", objective, strong_convexity_bound(l2))


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
    return make_problem(name, objective, x0, smoothness, certified)


def _mean_eigenvalue(features: datasets.Matrix) -> float:
    return largest_eigenvalue(features) / int(features.shape[0])


def _load(data: str, data_dir: Path | None, **synthetic: int | None) -> Data:
    if not isinstance(data, str):
        raise TypeError(f"data must be a name or a path, got {data!r} ({type(data).__name__}).")
    given = {key: whole(key, value, low=_LOWEST[key]) for key, value in synthetic.items() if value is not None}
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


def _listing(classes: Vector) -> str:
    shown = ", ".join(f"{label:g}" for label in classes[:10])
    return f"{classes.size} ({shown}{', ...' if classes.size > 10 else ''})"
