"""Further unconstrained functions of CUTEst (Gould, Orban and Toint, Comput. Optim. Appl. 60, 2015), any n.

Formulas and starts are those of its files by Toint, Gould and others, SINQUAD as they corrected it in 2024 (SINQUAD2).
The convex quadratics (DQDRTIC, TRIDIA) are left out. ARWHEAD, BDQRTIC, ENGVAL1 and NONDQUAR are convex and quartic.
"""

import functools
from typing import Any

import numpy as np

from proxmom.study.problems.data import Vector
from proxmom.study.problems.literature.many import uphill
from proxmom.study.problems.literature.minima import MINIMA
from proxmom.study.problems.literature.row import Row, constant, counted, repeated

Value = tuple[Any, Vector]


def arwhead(x: Vector) -> Value:
    """The sum over i < n of (x_i² + x_n²)² - 4 x_i + 3."""
    a, z = x[:-1], x[-1]
    s = a * a + z * z
    return s @ s - 4 * a.sum() + 3 * len(a), np.append(4 * a * s - 4, 4 * z * s.sum())


def bdqrtic(x: Vector) -> Value:
    """The sum over i <= n - 4 of (3 - 4 x_i)² + (x_i² + 2 x_{i+1}² + 3 x_{i+2}² + 4 x_{i+3}² + 5 x_n²)²."""
    m, squared = len(x) - 4, x * x
    p = 3 - 4 * x[:m]
    s = sum((k + 1) * squared[k : m + k] for k in range(4)) + 5 * squared[-1]
    g = np.zeros_like(x)
    g[:m] = -8 * p
    for k in range(4):
        g[k : m + k] += 4 * (k + 1) * x[k : m + k] * s
    g[-1] += 20 * x[-1] * s.sum()
    return p @ p + s @ s, g


def cragglvy(x: Vector) -> Value:
    """Cragg and Levy's function of four variables, in a chain that shares every other two."""
    a, b, c, d = x[:-2:2], x[1:-2:2], x[2::2], x[3::2]
    e, q, u = np.exp(a), b - c, c - d
    p, tangent = e - b, np.tan(u)
    s = tangent + u
    drag = 4 * s**3 * (2 + tangent * tangent)
    g = np.zeros_like(x)
    g[:-2:2] = 4 * p**3 * e + 8 * a**7
    g[1:-2:2] = 600 * q**5 - 4 * p**3
    g[2::2] += drag - 600 * q**5
    g[3::2] += 2 * (d - 1) - drag
    return (p**4 + 100 * q**6 + s**4 + a**8 + (d - 1) ** 2).sum(), g


def dixmaan(x: Vector, beta: float, gamma: float, delta: float, powers: tuple[int, int, int, int]) -> Value:
    """Dixon and Maany's family for n = 3m, w = i/n to the four powers:

    1 + sum of w x_i² + beta w x_i² (x_{i+1} + x_{i+1}²)² + gamma w x_i² x_{i+m}⁴ + delta w x_i x_{i+2m}.
    """
    m, i = len(x) // 3, counted(len(x)) / len(x)
    w1, w2, w3, w4 = (i**power for power in powers)
    w2, w3, w4 = beta * w2[:-1], gamma * w3[: 2 * m], delta * w4[:m]
    a, b, c, d, e, h = x[:-1], x[1:] * (1 + x[1:]), x[: 2 * m], x[m:] ** 2, x[:m], x[2 * m :]
    g = 2 * w1 * x
    g[:-1] += 2 * w2 * a * b * b
    g[1:] += 2 * w2 * a * a * b * (1 + 2 * x[1:])
    g[: 2 * m] += 2 * w3 * c * d * d
    g[m:] += 4 * w3 * c * c * d * x[m:]
    g[:m] += w4 * h
    g[2 * m :] += w4 * e
    return 1 + w1 @ (x * x) + w2 @ (a * b) ** 2 + w3 @ (c * d) ** 2 + w4 @ (e * h), g


def edensch(x: Vector) -> Value:
    """16 + the sum over i < n of (x_i - 2)⁴ + (x_i x_{i+1} - 2 x_{i+1})² + (x_{i+1} + 1)²."""
    p, b = x[:-1] - 2, x[1:]
    g = np.zeros_like(x)
    g[:-1] = 4 * p**3 + 2 * p * b * b
    g[1:] += 2 * p * p * b + 2 * (b + 1)
    return 16 + (p**4 + (p * b) ** 2 + (b + 1) ** 2).sum(), g


def engval1(x: Vector) -> Value:
    """The sum over i < n of (x_i² + x_{i+1}²)² - 4 x_i + 3."""
    a, b = x[:-1], x[1:]
    s = a * a + b * b
    g = np.zeros_like(x)
    g[:-1] = 4 * a * s - 4
    g[1:] += 4 * b * s
    return s @ s - 4 * a.sum() + 3 * len(a), g


def eg2(x: Vector) -> Value:
    """The sum over i < n of sin(x_1 + x_i² - 1), and ½ sin x_n²."""
    a, z = x[:-1], x[-1]
    s, c = np.sin(x[0] + a * a - 1), np.cos(x[0] + a * a - 1)
    g = np.append(2 * a * c, z * np.cos(z * z))
    g[0] += c.sum()
    return s.sum() + np.sin(z * z) / 2, g


def fletchcr(x: Vector) -> Value:
    """The sum over i < n of 100 (x_{i+1} - x_i + 1 - x_i²)²."""
    a = x[:-1]
    r = x[1:] - a + 1 - a * a
    g = np.zeros_like(x)
    g[:-1] = -200 * r * (1 + 2 * a)
    g[1:] += 200 * r
    return 100 * r @ r, g


def genrose(x: Vector) -> Value:
    """1 + the sum over i > 1 of 100 (x_i - x_{i-1}²)² + (x_i - 1)²."""
    a, rest = x[:-1], x[1:] - 1
    r = x[1:] - a * a
    g = np.zeros_like(x)
    g[:-1] = -400 * a * r
    g[1:] += 200 * r + 2 * rest
    return 1 + 100 * r @ r + rest @ rest, g


def liarwhd(x: Vector) -> Value:
    """The sum of 4 (x_i² - x_1)² + (x_i - 1)²."""
    r, rest = x * x - x[0], x - 1
    g = 16 * x * r + 2 * rest
    g[0] -= 8 * r.sum()
    return 4 * r @ r + rest @ rest, g


def nondia(x: Vector) -> Value:
    """(x_1 - 1)² + the sum over i < n of 100 (x_1 - x_i²)²."""
    a = x[:-1]
    r = x[0] - a * a
    g = np.append(-400 * a * r, 0 * x[-1])
    g[0] += 2 * (x[0] - 1) + 200 * r.sum()
    return (x[0] - 1) ** 2 + 100 * r @ r, g


def nondquar(x: Vector) -> Value:
    """(x_1 - x_2)² + (x_{n-1} + x_n)² + the sum over i <= n - 2 of (x_i + x_{i+1} + x_n)⁴: singular at the minimum."""
    s, p, q = x[:-2] + x[1:-1] + x[-1], x[0] - x[1], x[-2] + x[-1]
    cube = 4 * s**3
    g = np.zeros_like(x)
    g[:-2] = cube
    g[1:-1] += cube
    g[-1] = cube.sum() + 2 * q
    g[0] += 2 * p
    g[1] -= 2 * p
    g[-2] += 2 * q
    return p * p + q * q + (s**4).sum(), g


def tointgss(x: Vector) -> Value:
    """The sum over i <= n - 2 of (10/(n-2) + x_{i+2}²) (2 - exp(-(x_i - x_{i+1})² / (0.1 + x_{i+2}²))).

    The least value is 10, at zero; most methods end at 10 (n - 1)/(n - 2), where x_1 is far from x_2 and f is flat.
    """
    p, c = x[:-2] - x[1:-1], x[2:]
    low, high = 10 / (len(x) - 2) + c * c, 0.1 + c * c
    ratio = p * p / high
    e = np.exp(-ratio)
    turn = 2 * low * e * p / high
    g = np.zeros_like(x)
    g[:-2] = turn
    g[1:-1] -= turn
    g[2:] += 2 * c * (2 - e - low * e * ratio / high)
    return (low * (2 - e)).sum(), g


def schmvett(x: Vector) -> Value:
    """Schmidt and Vetters: a rational function, a sine and an exponential of every three neighbours."""
    a, b, c = x[:-2], x[1:-1], x[2:]
    p, q, s = a - b, (np.pi * b + c) / 2, (a + c) / b - 2
    share, cosine, e = 1 / (1 + p * p), np.cos(q), np.exp(-s * s)
    near, far = 2 * p * share * share, 2 * s * e / b
    g = np.zeros_like(x)
    g[:-2] = near + far
    g[1:-1] += -near - np.pi / 2 * cosine - far * (a + c) / b
    g[2:] += far - cosine / 2
    return -(share + np.sin(q) + e).sum(), g


def cosine(x: Vector) -> Value:
    """The sum over i < n of cos(x_i² - x_{i+1}/2)."""
    a = x[:-1]
    u = a * a - x[1:] / 2
    s = np.sin(u)
    g = np.zeros_like(x)
    g[:-1] = -2 * a * s
    g[1:] += s / 2
    return np.cos(u).sum(), g


def sinquad(x: Vector) -> Value:
    """(x_1 - 1)⁴ + (x_n² - x_1²)² + the sum over the others of (sin(x_i - x_n) - x_1² + x_i²)²."""
    first, last, a = x[0], x[-1], x[1:-1]
    p, q = np.sin(a - last) - first * first + a * a, last * last - first * first
    c = np.cos(a - last)
    g = np.empty_like(x)
    g[0] = 4 * (first - 1) ** 3 - 4 * first * (q + p.sum())
    g[1:-1] = 2 * p * (c + 2 * a)
    g[-1] = 4 * last * q - 2 * p @ c
    return (first - 1) ** 4 + q * q + p @ p, g


def _dixmaan(beta: float, gamma: float, delta: float, powers: tuple[int, int, int, int]) -> Row:
    formula = functools.partial(dixmaan, beta=beta, gamma=gamma, delta=delta, powers=powers)
    return Row(formula, constant(2), 1.0, n=30, low=3, multiple=3)


ROWS = {
    "ARWHEAD": Row(arwhead, constant(1), 0.0, n=10),
    "BDQRTIC": Row(bdqrtic, constant(1), MINIMA["BDQRTIC"], n=10, low=5),
    "CRAGGLVY": Row(
        cragglvy, lambda n: np.append(1.0, np.full(n - 1, 2.0)), MINIMA["CRAGGLVY"], n=10, low=4, multiple=2
    ),
    "DIXMAANA": _dixmaan(0, 0.125, 0.125, (0, 0, 0, 0)),
    "DIXMAAND": _dixmaan(0.26, 0.26, 0.26, (0, 0, 0, 0)),
    "DIXMAANF": _dixmaan(0.0625, 0.0625, 0.0625, (1, 0, 0, 1)),
    "DIXMAANI": _dixmaan(0, 0.125, 0.125, (2, 0, 0, 2)),
    "DIXMAANP": _dixmaan(0.26, 0.26, 0.26, (2, 1, 1, 2)),
    "EDENSCH": Row(edensch, constant(8), MINIMA["EDENSCH"], n=10),
    "ENGVAL1": Row(engval1, constant(2), MINIMA["ENGVAL1"], n=10),
    "EG2": Row(eg2, constant(0), MINIMA["EG2"], n=10),
    "FLETCHCR": Row(fletchcr, constant(0), 0.0, n=10),
    "GENROSE": Row(genrose, uphill, 1.0, n=10),
    "LIARWHD": Row(liarwhd, constant(4), 0.0, n=10),
    "NONDIA": Row(nondia, constant(-1), 0.0, n=10),
    "NONDQUAR": Row(nondquar, repeated(1, -1), 0.0, n=10, low=4),
    "TOINTGSS": Row(tointgss, constant(3), lambda n: 10 * (n - 1) / (n - 2), n=10, low=3),
    "SCHMVETT": Row(schmvett, constant(0.5), lambda n: -3.0 * (n - 2), n=10, low=3),
    "COSINE": Row(cosine, constant(1), lambda n: 1.0 - n, n=10),
    "SINQUAD": Row(sinquad, constant(0.1), 0.0, n=10, low=3),
}
