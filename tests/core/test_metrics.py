"""Metrics by their formulas, and arguments at the ends of their ranges."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from proxmom import Adam, Euclidean
from proxmom.metrics import METRICS


def test_adam_is_its_formula() -> None:
    random = np.random.default_rng(0)
    gradients, beta2, eps, factor = random.normal(size=(5, 4)), 0.8, 1e-2, 0.7
    metric, v = Adam(beta2=beta2, eps=eps), np.zeros(4)
    state = metric.start(np.ones(4))
    for t, g in enumerate(gradients, start=1):
        before = state["second_moment"].copy()
        new = metric.update(state, g)
        np.testing.assert_array_equal(state["second_moment"], before)
        state, v = new, beta2 * v + (1 - beta2) * g**2
        expected = factor * (np.sqrt(v / (1 - beta2**t)) + eps)
        np.testing.assert_allclose(metric.diagonal(state, factor), expected, rtol=1e-14)


def test_euclidean_keeps_nothing_and_has_no_diagonal() -> None:
    metric = Euclidean()
    assert metric.start(np.ones(2)) == metric.update({}, np.ones(2)) == {}
    assert metric.diagonal({}, 1.0) is None


def test_what_a_metric_says_of_itself() -> None:
    assert {"Euclidean": Euclidean, "Adam": Adam} == METRICS
    assert (Euclidean.memory_from_gradient, Adam.memory_from_gradient) == (True, False)


def test_the_defaults_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    defaults = inspect.signature(torch.optim.AdamW).parameters
    assert (Adam().beta2, Adam().eps) == (defaults["betas"].default[1], defaults["eps"].default)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1\.0\."),
        ({"beta2": -0.1}, r"beta2 must be in \[0, 1\), got -0\.1\."),
        ({"beta2": float("nan")}, r"beta2 must be in \[0, 1\), got nan\."),
        ({"eps": 0.0}, r"eps must be > 0, got 0\.0\."),
        ({"eps": -1.0}, r"eps must be > 0, got -1\.0\."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adam(**arguments)


def test_ends_of_ranges_are_taken() -> None:
    g = np.array([1.0, -2.0])
    metric = Adam(beta2=0.0, eps=1e-300)
    np.testing.assert_array_equal(metric.diagonal(metric.update(metric.start(g), g), 1.0), np.abs(g))
