"""The functions of the literature: gradients, published values, minima that SciPy's methods reach, arguments."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import optimize

pytest.importorskip("sklearn")


from proxmom.study.problems.collection import build_problem
from proxmom.study.problems.literature.build import FUNCTIONS, curvature
from proxmom.study.problems.literature.minima import MINIMA

LARGE = sorted(name for name, row in FUNCTIONS.items() if not isinstance(row.start, tuple) and row.high == 10_000)


def build(function: str, n: int | None = None) -> Any:
    return build_problem("literature", function=function, n=n)


def points(problem: Any) -> list[Any]:
    """x0 and a point near it."""
    noise = np.random.default_rng(3).standard_normal(problem.x0.size)
    return [problem.x0, problem.x0 + 0.02 * (0.1 + np.abs(problem.x0)) * noise]


def minimum(problem: Any, method: str) -> float:
    """The least value of f on the way of a method from x0, as far as it goes."""
    values: list[float] = []

    def fun(x: Any) -> Any:
        f, g = problem.fun(x)
        values.append(f)
        return f, g

    options = {"L-BFGS-B": {"maxcor": 10, "ftol": 0.0, "gtol": 0.0, "maxfun": 10_000}, "Newton-CG": {"xtol": 1e-10}}
    first = float(np.abs(problem.fun(problem.x0)[1]).max())
    more = {"hessp": lambda x, v: problem.fun.product(x)(v)} if method == "Newton-CG" else {}
    more |= {"hess": problem.fun.hessian} if method == "trust-exact" else {}
    chosen = options.get(method, {"gtol": 1e-14 * first, "maxiter": 5000})
    with np.errstate(all="ignore"):
        optimize.minimize(fun, problem.x0, jac=True, method=method, options=chosen, **more)
    return min(value for value in values if not math.isnan(value))


# Gradients
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_are_those_of_the_values(function: str) -> None:
    """By complex steps, whose only error is rounding; and by real ones, which do not trust complex arithmetic."""
    problem = build(function)
    for x in points(problem):
        f, g = problem.fun(x)
        scale = np.abs(g).max()
        exact = [problem.fun.formula(x + 1e-30j * unit)[0].imag / 1e-30 for unit in np.eye(x.size)]
        np.testing.assert_allclose(g, exact, rtol=0, atol=1e-13 * scale)
        steps = 1e-5 * (0.1 + np.abs(x))
        rise = [problem.fun(x + move)[0] - problem.fun(x - move)[0] for move in np.diag(steps)]
        assert np.all(np.abs(g - rise / (2 * steps)) <= 1e-5 * scale + 1e-15 * abs(f) / steps)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_hessians_are_symmetric_and_products_agree_with_real_differences(function: str) -> None:
    problem = build(function)
    x = points(problem)[1]
    hessian, step = problem.fun.hessian(x), 1e-6
    v = np.random.default_rng(4).standard_normal(x.size) * (0.1 + np.abs(x))
    difference = (problem.fun(x + step * v)[1] - problem.fun(x - step * v)[1]) / (2 * step)
    scale, rounding = np.abs(hessian).max(), 1e-15 * np.abs(problem.fun(x)[1]).max() / step
    np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=1e-12 * scale)
    assert np.abs(hessian @ v - difference).max() <= 1e-6 * scale * np.abs(v).max() + rounding


@pytest.mark.parametrize("function", LARGE)
def test_ten_thousand_variables_are_a_function_as_well(function: str) -> None:
    """Along one direction; in time that grows as n, or the test would not end."""
    row = FUNCTIONS[function]
    n = 10_000 - 10_000 % row.multiple
    x0 = row.start(n)
    assert x0.shape == (n,)
    with np.errstate(all="ignore"):
        f, g = row.formula(x0)
        along = row.formula(x0 + 1e-30j * np.cos(np.arange(n)))
    assert math.isfinite(f)
    assert abs(along[0].imag / 1e-30 - g @ np.cos(np.arange(n))) <= 1e-11 * np.linalg.norm(g) * math.sqrt(n)


# f(x0): by hand where the variables are equal or few, else as it is reported for these functions elsewhere.
STARTS = {
    ("Powell badly scaled", None): 1.13526171735,
    ("Brown badly scaled", None): 999998000003,
    ("Beale", None): 14.203125,
    ("Jennrich-Sampson", None): 4171.306,
    ("helical valley", None): 2500,
    ("Bard", None): 41.6817,
    ("Gaussian", None): 3.888107e-6,
    ("Meyer", None): 1.693608e9,
    ("Gulf", None): 12.1107,
    ("Box", None): 1031.1538,
    ("Kowalik-Osborne", None): 5.313172e-3,
    ("Brown-Dennis", None): 7926693.337,
    ("Osborne 1", None): 0.879026,
    ("Biggs EXP6", None): 0.7790701,
    ("Osborne 2", None): 2.0934195,
    ("Watson", None): 30,
    ("Watson", 12): 30,
    ("Freudenstein-Roth", None): 400.5,
    ("Wood", None): 19192,
    ("Wood", 40): 191920,
    ("Rosenbrock", None): 24.2,
    ("Rosenbrock", 10): 121,
    ("Powell singular", None): 215,
    ("penalty I", None): 885.06264,
    ("penalty II", None): 2.34000880,
    ("variably dimensioned", None): 2198551.1625,
    ("Brown almost-linear", None): 273.248047,
    ("Broyden tridiagonal", None): 21,
    ("Broyden banded", None): 360,
    ("ARWHEAD", 100): 3 * 99,
    ("BDQRTIC", 100): 226 * 96,
    ("DIXMAANA", 30): 286,
    ("EDENSCH", 100): (6**4 + 48**2 + 9**2) * 99 + 16,
    ("ENGVAL1", 100): 59 * 99,
    ("FLETCHCR", 100): 100 * 99,
    ("LIARWHD", 100): 585 * 100,
    ("NONDIA", 100): 4 + 400 * 99,
    ("NONDQUAR", 100): 4 + 98,
    ("COSINE", 100): 99 * math.cos(0.5),
    ("TOINTGSS", 100): 10 + 9 * 98,
    ("EG2", 100): 99 * math.sin(-1),
    ("SINQUAD", 100): 0.6561,
}


@pytest.mark.parametrize(("function", "n"), STARTS)
def test_the_start_has_the_known_value(function: str, n: int | None) -> None:
    problem = build(function, n)
    assert problem.fun(problem.x0)[0] == pytest.approx(STARTS[function, n], rel=2e-6)


# Minimisers that are known, with value and gradient; zero where nothing is said.
MINIMISERS: dict[str, tuple[Any, float]] = {
    "Powell badly scaled": ([1.098159329699759e-5, 9.106146739867318], 0),
    "Brown badly scaled": ([1e6, 2e-6], 0),
    "Beale": ([3, 0.5], 0),
    "helical valley": ([1, 0, 0], 0),
    "Gulf": ([50, 25, 1.5], 0),
    "Box": ([1, 10, 1], 0),
    "Wood": (1, 0),
    "Rosenbrock": (1, 0),
    "Powell singular": (0, 0),
    "variably dimensioned": (1, 0),
    "Brown almost-linear": (1, 0),
    "ARWHEAD": ([1] * 9 + [0], 0),
    "DIXMAANA": (0, 1),
    "DIXMAAND": (0, 1),
    "DIXMAANF": (0, 1),
    "DIXMAANI": (0, 1),
    "DIXMAANP": (0, 1),
    "GENROSE": (1, 1),
    "LIARWHD": (1, 0),
    "NONDIA": (1, 0),
    "NONDQUAR": (0, 0),
    "SCHMVETT": (np.pi / (np.pi + 1), -24),
    "SINQUAD": (1, 0),
}


@pytest.mark.parametrize("function", MINIMISERS)
def test_known_minimisers(function: str) -> None:
    problem, (at, value) = build(function), MINIMISERS[function]
    f, g = problem.fun(np.broadcast_to(np.array(at, dtype=float), problem.x0.shape).copy())
    assert f == pytest.approx(value, abs=1e-12)
    assert problem.optimum == value
    assert np.abs(g).max() <= 1e-9 + 1e-15 * problem.smoothness


@pytest.mark.parametrize("function", ["boundary value", "integral equation"])
def test_the_equations_have_the_solution_of_the_differential_equation(function: str) -> None:
    """Of y'' = (y + t + 1)³/2, but for the error of differences."""
    problem, t = build(function, 1000), np.arange(1, 1001) / 1001
    f, _ = problem.fun(2 / (2 - t) - t - 1)
    assert f <= 1e-9 * problem.fun(problem.x0)[0]


def test_dixon_and_maany_summed_term_by_term() -> None:
    problem, n, m = build("DIXMAANP", 9), 9, 3
    x = np.random.default_rng(5).standard_normal(n)
    f = 1.0
    for i, share in enumerate(np.arange(1, n + 1) / n):
        f += share**2 * x[i] ** 2
        f += 0.26 * share * x[i] ** 2 * (x[i + 1] + x[i + 1] ** 2) ** 2 if i < n - 1 else 0
        f += 0.26 * share * x[i] ** 2 * x[i + m] ** 4 if i < 2 * m else 0
        f += 0.26 * share**2 * x[i] * x[i + 2 * m] if i < m else 0
    assert problem.fun(x)[0] == pytest.approx(f, rel=1e-14)


# Minima, from the start: what at least two methods reach, and by how much none of these two is below.
BOTH = ("BFGS", "trust-exact")
REACHED: dict[tuple[str, int | None], tuple[str, str]] = {
    **{(name, n): BOTH for name, by_n in MINIMA.items() for n in by_n if n <= 12},
    ("Biggs EXP6", 6): ("BFGS", "L-BFGS-B"),
    ("Chebyquad", 10): ("BFGS", "L-BFGS-B"),
    **{(name, n): ("L-BFGS-B", "Newton-CG") for name, by_n in MINIMA.items() for n in by_n if n == 100},
    ("penalty II", 100): ("L-BFGS-B", "trust-exact"),
    ("trigonometric", 100): ("L-BFGS-B", "BFGS"),
    **{(name, n): ("Newton-CG", "L-BFGS-B") for name, by_n in MINIMA.items() for n in by_n if n > 100},
    ("Freudenstein-Roth", 10_000): ("Newton-CG", "CG"),
    **{
        (name, None): BOTH
        for name in ("Beale", "Gulf", "Box", "Wood", "Rosenbrock", "variably dimensioned", "Brown almost-linear")
    },
    **{(name, None): BOTH for name in ("Powell badly scaled", "helical valley", "SINQUAD", "GENROSE", "FLETCHCR")},
    **{(name, None): BOTH for name in ("integral equation", "boundary value", "Broyden tridiagonal", "LIARWHD")},
    **{(name, None): BOTH for name in ("Broyden banded", "NONDQUAR", "SCHMVETT", "DIXMAANP", "DIXMAANI")},
    ("COSINE", None): ("BFGS", "L-BFGS-B"),
    ("NONDIA", 100): ("L-BFGS-B", "CG"),
    ("TOINTGSS", 100): ("L-BFGS-B", "CG"),
    ("Broyden tridiagonal", 1000): ("CG", "Newton-CG"),
}


def test_stored_minima_have_the_digits_of_more_garbow_and_hillstrom() -> None:
    published = {
        "Jennrich-Sampson": {2: 124.362},
        "Bard": {3: 8.21487e-3},
        "Gaussian": {3: 1.12793e-8},
        "Meyer": {3: 87.9458},
        "Kowalik-Osborne": {4: 3.07505e-4},
        "Brown-Dennis": {4: 85822.2},
        "Osborne 1": {5: 5.46489e-5},
        "Biggs EXP6": {6: 5.65565e-3},
        "Osborne 2": {11: 4.01377e-2},
        "Watson": {6: 2.28767e-3, 9: 1.39976e-6, 12: 4.72238e-10},
        "Freudenstein-Roth": {2: 48.9842},
        "penalty I": {4: 2.24997e-5, 10: 7.08765e-5},
        "penalty II": {4: 9.37629e-6, 10: 2.93660e-4},
        "trigonometric": {10: 2.79506e-5},
        "Chebyquad": {8: 3.51687e-3, 10: 6.50395e-3},
    }
    for function, by_n in published.items():
        for n, value in by_n.items():
            assert MINIMA[function][n] == pytest.approx(value, rel=5e-6), (function, n)


def test_every_stored_minimum_is_reached_by_two() -> None:
    stored = {(name, n) for name, by_n in MINIMA.items() for n in by_n}
    assert stored <= set(REACHED)
    assert {name for name, _ in REACHED} | set(MINIMISERS) == set(FUNCTIONS)


@pytest.mark.filterwarnings("ignore::scipy.optimize.OptimizeWarning")
@pytest.mark.parametrize(("function", "n"), REACHED)
def test_two_methods_reach_the_minimum_from_the_start(function: str, n: int | None) -> None:
    problem = build(function, n)
    f0, _ = problem.fun(problem.x0)
    for method in REACHED[function, n]:
        found = minimum(problem, method)
        digits = 1e-10 * abs(problem.optimum) + 2e-15 * (f0 - problem.optimum)
        assert abs(found - problem.optimum) <= digits, (method, found)


# Smoothness, names, errors
@pytest.mark.parametrize("function", ["Wood", "Broyden tridiagonal", "COSINE"])
def test_smoothness_is_the_largest_eigenvalue_at_the_start(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build(function, 40)
    largest = np.abs(np.linalg.eigvalsh(problem.fun.hessian(problem.x0))).max()
    assert problem.smoothness == pytest.approx(largest, rel=1e-12)
    monkeypatch.setattr("proxmom.study.problems.literature.build.DENSE", 1)
    assert curvature(problem.fun, problem.x0) == pytest.approx(largest, rel=1e-2)


def test_names_tell_functions_apart() -> None:
    names = [build(function).name for function in FUNCTIONS]
    assert len(set(names)) == len(names)
    assert build("Wood", 8).name == "Wood, n 8"
    assert build_problem("literature", function="Wood", n=8, name="mine").name == "mine"


def test_far_away_there_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    for function, sign in itertools.product(("Jennrich-Sampson", "CRAGGLVY", "Meyer"), (-1, 1)):
        problem = build(function)
        problem.fun(sign * 1e5 * np.ones_like(problem.x0))
    assert not recwarn.list


ERRORS = {
    "function": ({"function": "Rosenbrok"}, ValueError, r"function must be one of .*Beale.*COSINE.*got 'Rosenbrok'"),
    "number": ({"function": 3}, TypeError, r"function must be a name, got 3 \(int\)"),
    "fixed": ({"function": "Beale", "n": 3}, ValueError, r"n must be 2 for Beale, which has no other .*got 3"),
    "multiple": ({"function": "Wood", "n": 6}, ValueError, r"n must be a multiple of 4 for Wood, got 6"),
    "small": ({"function": "BDQRTIC", "n": 4}, ValueError, r"n must be >= 5 and <= 10000, got 4"),
    "large": ({"function": "Chebyquad", "n": 101}, ValueError, r"n must be >= 2 and <= 100, got 101"),
    "unknown": ({"function": "EDENSCH", "n": 20}, ValueError, r"n must be one of 10, 100, 1000, 10000 for EDENSCH.*20"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        build_problem("literature", **arguments)
