"""Mini-batches of convex problems."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from proxmom.study.problems.collection import build_problem
from proxmom.study.training import (
    build_task,
    data_digest,
)
from proxmom.study.training.convex import KINDS
from tests.study.training.conftest import gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 60])
def test_an_epochs_mean_gradient_is_the_full_one(kind: str, batch: int) -> None:
    data = {"softmax": {"data": "digits", "l2": 0.01}, "logistic": {"data": "digits 3-8"}}.get(kind, {})
    task, problem = build_task(kind, seed=1, batch=batch, **data), build_problem(kind, None, **data)
    random = np.random.default_rng(0)
    with torch.no_grad():
        task.parameters["x"].copy_(torch.tensor(0.3 * random.normal(size=problem.x0.size)))
    x = task.parameters["x"].detach().numpy()
    samples = task._order._samples
    steps = samples // math.gcd(samples, batch)  # a whole number of epochs
    values, sums = [], np.zeros_like(x)
    for step in range(steps):
        values.append(float(task.gradient(step)))
        sums += gradients(task).numpy()
    value, gradient = problem.fun(x)
    assert np.mean(values) == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(sums / steps, gradient, rtol=1e-9, atol=1e-12)
    scale = problem.fun(problem.x0)[0] - problem.optimum
    assert task.evaluate("test")["loss"] == pytest.approx((value - problem.optimum) / scale)
    assert task.optimum == problem.optimum


def test_mini_batches_of_sparse_data(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        f"{random.integers(0, 2)} {random.integers(1, 4)}:1.5 {random.integers(4, 9)}:{random.normal():.3f}"
        for _ in range(40)
    ]
    (tmp_path / "a.txt").write_text("\n".join(rows) + "\n")
    task = build_task("logistic", seed=0, data_dir=tmp_path, data="a.txt", batch=40)
    task.gradient(0)
    problem = build_problem("logistic", tmp_path, data="a.txt")
    np.testing.assert_allclose(gradients(task).numpy(), problem.fun(problem.x0)[1], rtol=1e-10, atol=1e-14)
    assert len(data_digest("logistic", tmp_path, data="a.txt")) == 16


def test_the_seed_of_data_is_not_the_training_seed() -> None:
    names = {build_task("least_squares", seed=s, data="synthetic", data_seed=7).name for s in (0, 1)}
    assert names == {"least squares, synthetic 500 x 50, seed 7, batch 32"}
