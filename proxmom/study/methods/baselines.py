"""Methods of the literature that are no rules of this project: yardsticks for the studies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Objective = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]


def nag_restart(fun: Objective, x0: NDArray[np.float64], *, lr: float, max_iter: int) -> NDArray[np.float64]:
    """Nesterov's accelerated gradient with the gradient restart of O'Donoghue and Candes.

    x_{k+1} = y_k - lr ∇f(y_k),  y_{k+1} = x_{k+1} + (t_k - 1)/t_{k+1} (x_{k+1} - x_k),
    t_{k+1} = (1 + √(1 + 4t_k²))/2; where <∇f(y_k), x_{k+1} - x_k> > 0, momentum starts again with t = 1.

    Args:
        fun: x -> (f, gradient).
        x0: start, shape (n,).
        lr: step size, > 0; 1/L is the safe one.
        max_iter: evaluations, >= 1.

    Returns:
        the last x, shape (n,).

    Source: O'Donoghue and Candes, Adaptive restart for accelerated gradient schemes (2015).
    """
    x, y, t = x0, x0, 1.0
    for _ in range(max_iter):
        gradient = fun(y)[1]
        previous, x = x, y - lr * gradient
        if gradient @ (x - previous) > 0:
            t = 1.0
        t_next = (1 + np.sqrt(1 + 4 * t * t)) / 2
        y = x + (t - 1) / t_next * (x - previous)
        t = t_next
    return x


def heavy_ball(
    fun: Objective, x0: NDArray[np.float64], *, lr: float, beta: float = 0.9, max_iter: int
) -> NDArray[np.float64]:
    """Polyak's heavy ball in its customary form, a sum of gradients: d <- beta d + ∇f(x), x <- x - lr d.

    The rule `HeavyBall` at lr/(1 - beta) differs in memory's start alone: there d is an average. Here the best lr
    hardly depends on beta, so that a search over both wastes few of its points.

    Args:
        fun: x -> (f, gradient).
        x0: start, shape (n,).
        lr: step size, > 0; below 2(1 + beta)/L it is stable on quadratics.
        beta: weight on memory, in [0, 1).
        max_iter: evaluations, >= 1.

    Returns:
        the last x, shape (n,).

    Raises:
        ValueError: for beta outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}.")
    x, direction = x0, np.zeros_like(x0)
    for _ in range(max_iter):
        direction = beta * direction + fun(x)[1]
        x = x - lr * direction
    return x
