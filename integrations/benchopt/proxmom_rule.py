"""A benchopt solver: any rule of proxmom on L2-regularised logistic regression.

Copy this file into the `solvers` folder of a benchmark such as benchmark_logreg_l2. The objective is

    Σ_i log(1 + exp(-y_i <x_i, w>)) + lmbd/2 ||w||²,

with labels -1 and 1 and X dense or sparse; with an intercept the last entry of w is added to <x_i, w> and not
regularised.
"""

# ruff: noqa: RUF012 - benchopt reads plain class attributes

import numpy as np
from benchopt import BaseSolver
from benchopt.stopping_criterion import SufficientProgressCriterion
from scipy import sparse
from scipy.special import expit

from proxmom.lookup import find_rule
from proxmom.numpy import Optimizer


class Solver(BaseSolver):
    """Evaluates the gradient once per iteration; lr is in units of 1/L, L the largest curvature of the objective."""

    name = "proxmom"
    sampling_strategy = "callback"
    requirements = ["pip::proxmom"]
    references = [
        "K. Topollai and A. Choromanska, Adaptive Memory Momentum via a Model-Based Framework for Deep Learning "
        "Optimization, AISTATS 2026, arXiv 2510.04988."
    ]
    parameters = {"rule": ["AdaptiveMemory", "HeavyBall"], "lr": [3.0, 10.0, 30.0]}
    stopping_criterion = SufficientProgressCriterion(patience=20, strategy="callback")

    def set_objective(self, X, y, lmbd, fit_intercept=False):
        self.X, self.y, self.lmbd, self.fit_intercept = X, y, lmbd, fit_intercept

    def skip(self, X, y, lmbd, fit_intercept=False):
        if set(np.unique(y)) - {-1, 1}:
            return True, "labels must be -1 and 1"
        return False, None

    @staticmethod
    def get_next(stop_val):
        """Momentum rises at times: with evaluations this close, twenty without progress are no accident."""
        return max(stop_val + 1, int(1.2 * stop_val))

    def run(self, callback):
        """Steps until the callback has seen enough."""
        optimizer = Optimizer(
            np.zeros(self.X.shape[1] + self.fit_intercept), find_rule(self.rule), lr=self.lr / self._smoothness()
        )
        self.w = optimizer.x
        while callback():
            loss, gradient = self._loss_and_gradient(self.w)
            self.w = optimizer.step(gradient, loss)

    def get_result(self):
        return {"beta": self.w}

    def _loss_and_gradient(self, w):
        weights, intercept = (w[:-1], w[-1]) if self.fit_intercept else (w, 0.0)
        margin = self.y * (self.X @ weights + intercept)
        loss = np.logaddexp(0, -margin).sum() + self.lmbd / 2 * (weights @ weights)
        slope = -self.y * expit(-margin)
        gradient = self.X.T @ slope + self.lmbd * weights
        return loss, np.append(gradient, slope.sum()) if self.fit_intercept else gradient

    def _smoothness(self):
        """An upper bound of L; the column of ones for the intercept adds its length at most."""
        norm = sparse.linalg.svds(self.X, k=1)[1][0] if sparse.issparse(self.X) else np.linalg.norm(self.X, ord=2)
        return (norm**2 + self.fit_intercept * len(self.y)) / 4 + self.lmbd
