"""Functions of few variables: 3 to 12 and 15 to 20 of Moré, Garbow and Hillstrom (ACM TOMS 7, 1981, pages 17-41).

All are sums of squares; formulas, data, starts and the first digits of the minima are those of the paper, by its
numbers. Further digits of the minima are our own (the tests say of which methods).
"""

from typing import Any

import numpy as np

from proxmom.study.problems.data import Vector
from proxmom.study.problems.literature.minima import MINIMA
from proxmom.study.problems.literature.row import Row, constant, counted, squares

Value = tuple[Any, Vector]


def powell_badly_scaled(x: Vector) -> Value:
    """3: 10⁴ x_1 x_2 = 1 and exp(-x_1) + exp(-x_2) = 1.0001."""
    a, b = x
    p, q = np.exp(-a), np.exp(-b)
    return squares([1e4 * a * b - 1, p + q - 1.0001], [1e4 * b, -p], [1e4 * a, -q])


def brown_badly_scaled(x: Vector) -> Value:
    """4: x_1 = 10⁶, x_2 = 2e-6 and x_1 x_2 = 2."""
    a, b = x
    return squares([a - 1e6, b - 2e-6, a * b - 2], [1, 0, b], [0, 1, a])


def beale(x: Vector) -> Value:
    """5: x_1 (1 - x_2^k) = 1.5, 2.25, 2.625."""
    (a, b), k = x, counted(3)
    return squares([1.5, 2.25, 2.625] - a * (1 - b**k), b**k - 1, a * k * b ** (k - 1))


def jennrich_sampson(x: Vector) -> Value:
    """6: exp(k x_1) + exp(k x_2) = 2 + 2k for k to 10; the minimum is far from zero."""
    k = counted(10)
    p, q = np.exp(k * x[0]), np.exp(k * x[1])
    return squares(2 + 2 * k - p - q, -k * p, -k * q)


def helical_valley(x: Vector) -> Value:
    """7: a valley that is wound around the third axis; f jumps across the half-plane x_1 = 0, x_2 < 0."""
    a, b, c = x
    quarter = 0.25 * np.sign(b.real)
    turn = np.arctan(b / a) / (2 * np.pi) + (0.5 if a.real < 0 else 0) if a.real else quarter
    square = a * a + b * b
    radius, pitch = np.sqrt(square), 100 / (2 * np.pi * square)
    r = [10 * (c - 10 * turn), 10 * (radius - 1), c]
    return squares(r, [pitch * b, 10 * a / radius, 0], [-pitch * a, 10 * b / radius, 0], [10, 0, 1])


BARD = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)


def bard(x: Vector) -> Value:
    """8: a rational function of 15 data."""
    a, b, c = x
    u = counted(15)
    v = 16 - u
    w = np.minimum(u, v)
    d = v * b + w * c
    return squares(BARD - a - u / d, -np.ones(15), u * v / d**2, u * w / d**2)


GAUSSIAN = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989)


def gaussian(x: Vector) -> Value:
    """9: a bell through 15 data."""
    a, b, c = x
    s = (8 - counted(15)) / 2 - c
    e = np.exp(-b * s * s / 2)
    return squares(a * e - np.array(GAUSSIAN + GAUSSIAN[-2::-1]), e, -a * e * s * s / 2, a * b * e * s)


MEYER = (34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872)


def meyer(x: Vector) -> Value:
    """10: x_1 exp(x_2 / (t + x_3)) through 16 data, scaled very badly."""
    a, b, c = x
    d = 45 + 5 * counted(16) + c
    e = np.exp(b / d)
    return squares(a * e - MEYER, e, a * e / d, -a * b * e / d**2)


def gulf(x: Vector) -> Value:
    """11, with 99 residuals: exp(-|y - x_2|^x_3 / x_1) = t, y = 25 + (-50 log t)^(2/3), t = 0.01 to 0.99."""
    a, b, c = x
    t = counted(99) / 100
    s = 25 + (-50 * np.log(t)) ** (2 / 3) - b
    sign = np.sign(s.real)
    d = s * sign
    p = d**c
    e = np.exp(-p / a)
    return squares(e - t, e * p / a**2, e * c * p / d * sign / a, -e * p * np.log(d) / a)


def box(x: Vector) -> Value:
    """12: differences of two exponentials at t = 0.1 to 1."""
    t = counted(10) / 10
    p, q, known = np.exp(-t * x[0]), np.exp(-t * x[1]), np.exp(-t) - np.exp(-10 * t)
    return squares(p - q - x[2] * known, -t * p, t * q, -known)


KOWALIK = (0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
KOWALIK_AT = (4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)


def kowalik_osborne(x: Vector) -> Value:
    """15: a quotient of two parabolas through 11 data."""
    a, b, c, d = x
    u = np.array(KOWALIK_AT)
    top, bottom = u * (u + b), u * (u + c) + d
    whole = a * top / bottom
    return squares(KOWALIK - whole, -top / bottom, -a * u / bottom, whole * u / bottom, whole / bottom)


def brown_dennis(x: Vector) -> Value:
    """16, with 20 residuals: (x_1 + t x_2 - exp t)² + (x_3 + x_4 sin t - cos t)², t = 0.2 to 4."""
    t = counted(20) / 5
    p, q = x[0] + t * x[1] - np.exp(t), x[2] + x[3] * np.sin(t) - np.cos(t)
    return squares(p * p + q * q, 2 * p, 2 * p * t, 2 * q, 2 * q * np.sin(t))


OSBORNE_1 = (
    *(0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658, 0.628, 0.603),
    *(0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411),
    0.406,
)


def osborne_1(x: Vector) -> Value:
    """17: a constant and two exponentials through 33 data."""
    t = 10 * np.arange(33.0)
    p, q = np.exp(-t * x[3]), np.exp(-t * x[4])
    return squares(OSBORNE_1 - (x[0] + x[1] * p + x[2] * q), -np.ones(33), -p, -q, x[1] * t * p, x[2] * t * q)


def biggs(x: Vector) -> Value:
    """18, with 13 residuals: three exponentials, where the data are three exponentials."""
    a, b, c, d, e, f = x
    t = counted(13) / 10
    p, q, s = np.exp(-t * a), np.exp(-t * b), np.exp(-t * e)
    r = c * p - d * q + f * s - (np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t))
    return squares(r, -t * c * p, t * d * q, p, -q, -t * f * s, s)


OSBORNE_2 = (
    *(1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608, 0.655, 0.616, 0.606),
    *(0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661, 0.612, 0.558, 0.533, 0.495, 0.500, 0.423),
    *(0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428, 0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708, 0.633, 0.668),
    *(0.645, 0.632, 0.591, 0.559, 0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581, 0.428, 0.292, 0.162, 0.098),
    0.054,
)


def osborne_2(x: Vector) -> Value:
    """19: an exponential and three bells through 65 data."""
    t = np.arange(65.0) / 10
    heights, widths, s = x[1:4, None], x[5:8, None], t - x[8:, None]
    p, bells = np.exp(-t * x[4]), np.exp(-s * s * widths)
    r = OSBORNE_2 - x[0] * p - (heights * bells).sum(axis=0)
    sides = [*(heights * s * s * bells), *(-2 * heights * widths * s * bells)]
    return squares(r, -p, *-bells, x[0] * t * p, *sides)


def watson(x: Vector) -> Value:
    """20: a polynomial that solves y' = y² + 1 at t = 1/29 to 1, from y(0) = 0."""
    j = np.arange(len(x))
    t = counted(29)[:, None] / 29
    powers, slopes = t**j, j * t ** np.maximum(j - 1, 0)
    value = powers @ x
    r = np.concatenate([slopes @ x - value**2 - 1, [x[0], x[1] - x[0] ** 2 - 1]])
    g = slopes.T @ r[:29] - 2 * powers.T @ (value * r[:29])
    g[0] += r[29] - 2 * x[0] * r[30]
    g[1] += r[30]
    return r @ r, 2 * g


ROWS = {
    "Powell badly scaled": Row(powell_badly_scaled, (0, 1), 0.0),
    "Brown badly scaled": Row(brown_badly_scaled, (1, 1), 0.0),
    "Beale": Row(beale, (1, 1), 0.0),
    "Jennrich-Sampson": Row(jennrich_sampson, (0.3, 0.4), MINIMA["Jennrich-Sampson"]),
    "helical valley": Row(helical_valley, (-1, 0, 0), 0.0),
    "Bard": Row(bard, (1, 1, 1), MINIMA["Bard"]),
    "Gaussian": Row(gaussian, (0.4, 1, 0), MINIMA["Gaussian"]),
    "Meyer": Row(meyer, (0.02, 4000, 250), MINIMA["Meyer"]),
    "Gulf": Row(gulf, (5, 2.5, 0.15), 0.0),
    "Box": Row(box, (0, 10, 20), 0.0),
    "Kowalik-Osborne": Row(kowalik_osborne, (0.25, 0.39, 0.415, 0.39), MINIMA["Kowalik-Osborne"]),
    "Brown-Dennis": Row(brown_dennis, (25, 5, -5, -1), MINIMA["Brown-Dennis"]),
    "Osborne 1": Row(osborne_1, (0.5, 1.5, -1, 0.01, 0.02), MINIMA["Osborne 1"]),
    "Biggs EXP6": Row(biggs, (1, 2, 1, 1, 1, 1), MINIMA["Biggs EXP6"]),
    "Osborne 2": Row(osborne_2, (1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5), MINIMA["Osborne 2"]),
    "Watson": Row(watson, constant(0), MINIMA["Watson"], n=6, high=31),
}
