"""Metrics by their formulas, and arguments at the ends of their ranges."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from proxmom import AdaGrad, Adam, Euclidean
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


def test_adagrad_is_its_formula() -> None:
    random = np.random.default_rng(0)
    gradients, eps, factor = random.normal(size=(5, 4)), 1e-2, 0.7
    metric, s = AdaGrad(eps=eps), np.zeros(4)
    state = metric.start(np.ones(4))
    for g in gradients:
        before = state["sum_of_squares"].copy()
        new = metric.update(state, g)
        np.testing.assert_array_equal(state["sum_of_squares"], before)
        state, s = new, s + g**2
        np.testing.assert_allclose(metric.diagonal(state, factor), factor * (np.sqrt(s) + eps), rtol=1e-14)
        np.testing.assert_allclose(state["sum_of_squares"], s, rtol=1e-14)


def test_adagrad_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x, metric = torch.ones(4, dtype=torch.float64, requires_grad=True), AdaGrad(eps=1e-3)
    theirs, state = torch.optim.Adagrad([x], lr=0.1, eps=1e-3), metric.start(x.detach())
    for seed in range(4):
        g, old = torch.tensor(np.random.default_rng(seed).normal(size=4)), x.detach().clone()
        x.grad = g
        theirs.step()
        state = metric.update(state, g)
        torch.testing.assert_close(old - 0.1 * g / metric.diagonal(state, 1.0), x.detach(), rtol=1e-13, atol=0)


def test_euclidean_keeps_nothing_and_has_no_diagonal() -> None:
    metric = Euclidean()
    assert metric.start(np.ones(2)) == metric.update({}, np.ones(2)) == {}
    assert metric.diagonal({}, 1.0) is None


def test_what_a_metric_says_of_itself() -> None:
    assert list(METRICS) == ["Euclidean", "Adam", "AdaGrad", "Shampoo", "SOAP", "QuasiNewton", "LInf", "Spectral"]
    kinds = (Euclidean, Adam, AdaGrad)
    assert [kind.memory_from_gradient for kind in kinds] == [True, False, False]
    assert all(kind.elementwise for kind in kinds)


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


@pytest.mark.parametrize(("eps", "got"), [(0.0, r"0\.0"), (float("nan"), "nan")])
def test_bad_arguments_of_adagrad(eps: float, got: str) -> None:
    with pytest.raises(ValueError, match=rf"eps must be > 0, got {got}\."):
        AdaGrad(eps=eps)


def test_ends_of_ranges_are_taken() -> None:
    g = np.array([1.0, -2.0])
    np.testing.assert_array_equal(AdaGrad(eps=1e-300).diagonal({"sum_of_squares": g * g}, 1.0), np.abs(g))
    metric = Adam(beta2=0.0, eps=1e-300)
    np.testing.assert_array_equal(metric.diagonal(metric.update(metric.start(g), g), 1.0), np.abs(g))
