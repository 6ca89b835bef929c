"""Least squares with a smoothed absolute value, on a table whose last column is the target."""

import numpy as np


class Lasso:
    """What the function below makes: a start, f with its gradient, and the largest curvature there can be."""

    def __init__(self, a, b, l1, width):
        self.a, self.b, self.l1, self.width = a, b, l1, width
        self.x0 = np.zeros(a.shape[1])
        self.smoothness = np.linalg.norm(a, 2) ** 2 / len(b) + l1 / width
        self.name = f"lasso, l1 {l1:g}"

    def fun(self, x):
        residual, root = self.a @ x - self.b, np.sqrt(x**2 + self.width**2)
        value = residual @ residual / (2 * len(self.b)) + self.l1 * (root - self.width).sum()
        return value, self.a.T @ residual / len(self.b) + self.l1 * x / root


def lasso(data, l1=0.1, width=0.05):
    """A problem for each l1 of the study file."""
    table = np.loadtxt(data, delimiter=",", skiprows=1)
    a, b = table[:, :-1], table[:, -1]
    return Lasso((a - a.mean(0)) / a.std(0), (b - b.mean()) / b.std(), l1, width)
