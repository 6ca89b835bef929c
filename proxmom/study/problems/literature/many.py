"""Functions of any number of variables: the others of Moré, Garbow and Hillstrom (ACM TOMS 7, 1981, pages 17-41).

Formulas and starts are the paper's, by its numbers, but for its three linear functions; gradients take O(n), but for
Chebyquad's. Some stand in CUTEst as well, with the same start: SROSENBR is 21, POWELLSG 22, WOODS 14 and FREUROTH 2.
"""

from typing import Any

import numpy as np

from proxmom.study.problems.data import Vector
from proxmom.study.problems.literature.minima import MINIMA
from proxmom.study.problems.literature.row import Row, constant, counted, repeated

Value = tuple[Any, Vector]


def freudenstein_roth(x: Vector) -> Value:
    """2, and for more than two variables the sum over all neighbours of Toint (FREUROTH)."""
    a, b = x[:-1], x[1:]
    p, q = a - 13 + ((5 - b) * b - 2) * b, a - 29 + ((b + 1) * b - 14) * b
    g = np.zeros_like(x)
    g[:-1] = 2 * (p + q)
    g[1:] += 2 * (p * (10 * b - 3 * b * b - 2) + q * (3 * b * b + 2 * b - 14))
    return p @ p + q @ q, g


def wood(x: Vector) -> Value:
    """14, and for more than four variables the sum over consecutive fours (WOODS)."""
    a, b, c, d = x.reshape(-1, 4).T
    u, v, w, z = b - a * a, d - c * c, b + d - 2, b - d
    f = 100 * u @ u + (1 - a) @ (1 - a) + 90 * v @ v + (1 - c) @ (1 - c) + 10 * w @ w + 0.1 * z @ z
    left = (-400 * a * u - 2 * (1 - a), 200 * u + 20 * w + 0.2 * z)
    right = (-360 * c * v - 2 * (1 - c), 180 * v + 20 * w - 0.2 * z)
    return f, np.stack([*left, *right], axis=1).ravel()


def rosenbrock(x: Vector) -> Value:
    """21 (1 for two variables): the sum of 100 (x_2 - x_1²)² + (1 - x_1)² over consecutive pairs."""
    a, b = x[::2], x[1::2]
    u, v = b - a * a, 1 - a
    return 100 * u @ u + v @ v, np.stack([-400 * a * u - 2 * v, 200 * u], axis=1).ravel()


def powell_singular(x: Vector) -> Value:
    """22 (13 for four variables): a convex sum over consecutive fours, whose Hessian is singular at the minimum."""
    a, b, c, d = x.reshape(-1, 4).T
    p, q, s, t = a + 10 * b, c - d, b - 2 * c, a - d
    s2, t2 = s * s, t * t
    parts = (2 * p + 40 * t2 * t, 20 * p + 4 * s2 * s, 10 * q - 8 * s2 * s, -10 * q - 40 * t2 * t)
    return p @ p + 5 * q @ q + s2 @ s2 + 10 * t2 @ t2, np.stack(parts, axis=1).ravel()


def penalty_1(x: Vector) -> Value:
    """23: 1e-5 ||x - 1||² + (||x||² - ¼)²."""
    rest, s = x - 1, x @ x - 0.25
    return 1e-5 * rest @ rest + s * s, 2e-5 * rest + 4 * s * x


def penalty_2(x: Vector) -> Value:
    """24: as 23 with exponentials, whose data grow with n as exp(n/10)."""
    n = len(x)
    weights, e, known = np.arange(n, 0.0, -1), np.exp(x / 10), np.exp(counted(n) / 10)
    p, q, s = e[1:] + e[:-1] - known[1:] - known[:-1], e[1:] - np.exp(-0.1), weights @ (x * x) - 1
    g = 4 * s * weights * x
    g[0] += 2 * (x[0] - 0.2)
    g[1:] += 2e-6 * (p + q) * e[1:]
    g[:-1] += 2e-6 * p * e[:-1]
    return (x[0] - 0.2) ** 2 + 1e-5 * (p @ p + q @ q) + s * s, g


def variably_dimensioned(x: Vector) -> Value:
    """25 (VARDIM): ||x - 1||² + s² + s⁴ with s = sum_j j (x_j - 1), convex."""
    rest, j = x - 1, counted(len(x))
    s = j @ rest
    return rest @ rest + s * s + s**4, 2 * rest + (2 * s + 4 * s**3) * j


def trigonometric(x: Vector) -> Value:
    """26: n - sum_j cos x_j + i (1 - cos x_i) = sin x_i."""
    j, c, s = counted(len(x)), np.cos(x), np.sin(x)
    r = len(x) - c.sum() + j * (1 - c) - s
    return r @ r, 2 * (s * r.sum() + r * (j * s - c))


def brown_almost_linear(x: Vector) -> Value:
    """27: x_i + sum_j x_j = n + 1 for i < n, and the product of all is 1."""
    before, after = np.ones_like(x), np.ones_like(x)
    before[1:], after[:-1] = np.cumprod(x[:-1]), np.cumprod(x[:0:-1])[::-1]
    r, last = x[:-1] + x.sum() - (len(x) + 1), before[-1] * x[-1] - 1
    g = 2 * (r.sum() + last * before * after)
    g[:-1] += 2 * r
    return r @ r + last * last, g


def boundary_value(x: Vector) -> Value:
    """28 (MOREBV): y'' = (y + t + 1)³/2 by differences, y = 0 at both ends."""
    h = 1 / (len(x) + 1)
    c = x + h * counted(len(x)) + 1
    r = 2 * x + h * h * c**3 / 2
    r[1:] -= x[:-1]
    r[:-1] -= x[1:]
    g = r * (2 + 1.5 * h * h * c * c)
    g[1:] -= r[:-1]
    g[:-1] -= r[1:]
    return r @ r, 2 * g


def integral_equation(x: Vector) -> Value:
    """29: the same equation, integrated; sums over all pairs are two cumulative ones."""
    h = 1 / (len(x) + 1)
    t = h * counted(len(x))
    c = x + t + 1
    below, above = np.cumsum(t * c**3), _after((1 - t) * c**3)
    r = x + h / 2 * ((1 - t) * below + t * above)
    ahead, behind = _after((1 - t) * r) + (1 - t) * r, np.cumsum(t * r) - t * r
    return r @ r, 2 * (r + 1.5 * h * c * c * (t * ahead + (1 - t) * behind))


def _after(v: Vector) -> Vector:
    """The sum of the later entries, for each."""
    return np.cumsum(v[::-1])[::-1] - v


def broyden_tridiagonal(x: Vector) -> Value:
    """30: (3 - 2 x_i) x_i + 1 = x_{i-1} + 2 x_{i+1}."""
    r = (3 - 2 * x) * x + 1
    r[1:] -= x[:-1]
    r[:-1] -= 2 * x[1:]
    g = r * (3 - 4 * x)
    g[:-1] -= r[1:]
    g[1:] -= 2 * r[:-1]
    return r @ r, 2 * g


def broyden_banded(x: Vector) -> Value:
    """31: x_i (2 + 5 x_i²) + 1 = the sum of x_j (1 + x_j) over the five before and the one after."""
    r, v, pull = x * (2 + 5 * x * x) + 1, x * (1 + x), np.zeros_like(x)
    for k in range(1, 6):
        r[k:] -= v[:-k]
    r[:-1] -= v[1:]
    for k in range(1, 6):
        pull[:-k] += r[k:]
    pull[1:] += r[:-1]
    return r @ r, 2 * (r * (2 + 15 * x * x) - (1 + 2 * x) * pull)


def chebyquad(x: Vector) -> Value:
    """35, with n residuals: the mean of each Chebyshev polynomial on [0, 1] over the x_j is its integral."""
    n, z = len(x), 2 * x - 1
    value, slope, last, last_slope = z, np.full_like(x, 2), np.ones_like(x), np.zeros_like(x)
    f, g = 0.0, np.zeros_like(x)
    for k in range(1, n + 1):
        r = value.sum() / n + (1 / (k * k - 1) if k % 2 == 0 else 0)
        f, g = f + r * r, g + 2 * r / n * slope
        slope, last_slope = 4 * value + 2 * z * slope - last_slope, slope
        value, last = 2 * z * value - last, value
    return f, g


def uphill(n: int) -> Vector:
    """1/(n+1), 2/(n+1), ..., n/(n+1)."""
    return counted(n) / (n + 1)


def _sagging(n: int) -> Vector:
    return uphill(n) * (uphill(n) - 1)


def _freudenstein_start(n: int) -> Vector:
    return np.concatenate([[0.5, -2], np.zeros(n - 2)])


ROWS = {
    "Freudenstein-Roth": Row(freudenstein_roth, _freudenstein_start, MINIMA["Freudenstein-Roth"], n=2),
    "Wood": Row(wood, repeated(-3, -1), 0.0, n=4, low=4, multiple=4),
    "Rosenbrock": Row(rosenbrock, repeated(-1.2, 1), 0.0, n=2, multiple=2),
    "Powell singular": Row(powell_singular, repeated(3, -1, 0, 1), 0.0, n=4, low=4, multiple=4),
    "penalty I": Row(penalty_1, counted, MINIMA["penalty I"], n=4),
    "penalty II": Row(penalty_2, constant(0.5), MINIMA["penalty II"], n=4, high=1000),
    "variably dimensioned": Row(variably_dimensioned, lambda n: 1 - counted(n) / n, 0.0, n=10),
    "trigonometric": Row(trigonometric, lambda n: np.full(n, 1 / n), MINIMA["trigonometric"], n=10),
    "Brown almost-linear": Row(brown_almost_linear, constant(0.5), 0.0, n=10, high=100),
    "boundary value": Row(boundary_value, _sagging, 0.0, n=10),
    "integral equation": Row(integral_equation, _sagging, 0.0, n=10),
    "Broyden tridiagonal": Row(broyden_tridiagonal, constant(-1), 0.0, n=10),
    "Broyden banded": Row(broyden_banded, constant(-1), 0.0, n=10),
    "Chebyquad": Row(chebyquad, uphill, MINIMA["Chebyquad"], n=8, high=100),
}
