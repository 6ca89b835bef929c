"""`Optimizer`: lists of arrays, skipped steps, preview, and errors before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proxmom import AdaptiveMemory, HeavyBall, Polyak
from proxmom.numpy import Optimizer, minimize
from proxmom.rules import Facts
from tests.numpy.functions import fun


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad: float, rule: Any, metric: Any) -> None:
    random = np.random.default_rng(0)
    inputs = [(random.normal(size=4), float(random.uniform())) for _ in range(6)]
    clean, dirty = (Optimizer(np.ones(4), rule, lr=0.1, metric=metric) for _ in range(2))
    for g, f in inputs:
        clean.step(g, f)
        before = dirty.x
        np.testing.assert_array_equal(dirty.step(np.array([1, bad, 1, 1]), f), before)
        np.testing.assert_array_equal(dirty.step(g, bad), before)
        dirty.step(g, f)
    np.testing.assert_array_equal(dirty.x, clean.x)
    assert dirty.diagnostics()["skipped"] == 12
    assert dirty.diagnostics()["steps"] == clean.diagnostics()["steps"] == 6


def test_a_gradient_whose_square_overflows_is_skipped() -> None:
    optimizer = Optimizer(np.ones(2), AdaptiveMemory(), lr=0.1)
    np.testing.assert_array_equal(optimizer.step(np.array([1e200, 1.0])), 1)
    assert optimizer.diagnostics()["skipped"] == 1


def test_a_list_of_arrays_is_one_model(rule: Any, metric: Any) -> None:
    random = np.random.default_rng(0)
    flat = Optimizer(np.ones(7), rule, lr=0.1, metric=metric, weight_decay=0.1)
    parts = Optimizer([np.ones((2, 2)), np.ones(()), np.ones(2)], rule, lr=0.1, metric=metric, weight_decay=0.1)
    for _ in range(5):
        g, f = random.normal(size=7), float(random.uniform())
        x = parts.step([g[:4].reshape(2, 2), g[4], g[5:]], f)
        np.testing.assert_array_equal(np.concatenate([part.ravel() for part in x]), flat.step(g, f))
    assert [part.shape for part in parts.x] == [(2, 2), (), (2,)]


def test_shapes_are_kept() -> None:
    for x0 in (np.ones((2, 3)), 2.0, [1.0, 2.0]):
        optimizer = Optimizer(x0, HeavyBall(), lr=0.1)
        assert np.shape(optimizer.step(np.ones(np.shape(x0)))) == np.shape(x0)


def test_the_users_arrays_are_left_alone() -> None:
    x0, g = np.ones(3), np.ones(3)
    optimizer = Optimizer(x0, AdaptiveMemory(), lr=0.1, weight_decay=0.1, decay="coupled")
    x = optimizer.step(g)
    x[:] = 99
    np.testing.assert_array_equal(x0, 1)
    np.testing.assert_array_equal(g, 1)
    assert optimizer.x.max() < 1


def test_preview_is_the_step_and_changes_nothing(rule: Any, metric: Any) -> None:
    random = np.random.default_rng(0)
    optimizer = Optimizer(np.ones(4), rule, lr=0.1, metric=metric)
    for _ in range(4):
        g, f = random.normal(size=4), float(random.uniform())
        model = optimizer.preview(g, f)
        np.testing.assert_array_equal(model.x, optimizer.x)
        np.testing.assert_array_equal(optimizer.step(g, f), model.next_x)
        np.testing.assert_array_equal(optimizer.memory, model.next_memory)
    with pytest.raises(ValueError, match="step would skip"):
        optimizer.preview(np.full(4, np.nan), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Optimizer(np.array([1, np.nan]), HeavyBall(), lr=0.1), r"x0 must be finite"),
        (lambda: Optimizer(np.ones(3), HeavyBall(), lr=0.1).step(np.ones(4)), r"shape of x0, \(3,\), got \(4,\)"),
        (lambda: Optimizer([np.ones(3)], HeavyBall(), lr=0.1).step([np.ones(2)]), r"shape of x0, \[\(3,\)\], got"),
        (lambda: Optimizer(np.ones(3), Polyak(0.0), lr=0.1).step(np.ones(3)), r"Polyak looks at the loss: call step"),
        (
            lambda: setattr(Optimizer(np.ones(3), HeavyBall(), lr=0.1), "lr", -1.0),
            r"lr must be >= 0 and finite, got -1",
        ),
        (lambda: minimize(fun, np.ones(5), lr=1.0, gtol=-1), r"gtol must be >= 0, got -1"),
        (lambda: minimize(fun, np.ones(5), lr=1.0, max_iter=-1), r"max_iter must be >= 0, got -1"),
        (
            lambda: minimize(lambda x: (0.0, np.ones(4)), np.ones(5), lr=1.0),
            r"the gradient, as fun returns it, must have the shape of x0, \(5,\), got \(4,\)",
        ),
        (lambda: minimize(lambda x: 0.0, np.ones(5), lr=1.0), r"fun must return the pair \(f, gradient\), got float"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.ones(3) + 1j, r"must be real numbers, got complex128\. Split complex numbers"),
        (np.ones(3, dtype=np.complex64), r"must be real numbers, got complex64"),
        (np.ma.masked_array(np.ones(3), [True, False, False]), r"must be an array without a mask.*\.filled"),
        (np.ma.masked_array(np.ones(3)), r"must be an array without a mask"),
        (["1", "2", "3"], r"must be real numbers, got (str|list)"),
        ([1.0, None, 2.0], r"must be real numbers, got (list|NoneType)"),
        (np.array(["2020", "2021", "2022"], dtype="datetime64[Y]"), r"must be real numbers, got datetime64"),
    ],
)
def test_what_is_not_plain_real_numbers_is_refused(value: Any, said: str) -> None:
    with pytest.raises(TypeError, match="x0 " + said):
        Optimizer(value, HeavyBall(), lr=0.1)
    with pytest.raises(TypeError, match="x0 " + said):
        minimize(fun, value)
    with pytest.raises(TypeError, match="gradient " + said):
        Optimizer(np.ones(3), HeavyBall(), lr=0.1).step(value)
    with pytest.raises(TypeError, match="the gradient, as fun returns it, " + said):
        minimize(lambda x: (0.0, value), np.ones(3))
    one = value[:1] if isinstance(value, np.ndarray) else [value[1]]
    with pytest.raises(TypeError, match="f, as fun returns it, must be"):
        minimize(lambda x: (one, x), np.ones(3))


@pytest.mark.parametrize("x0", [[1, 2], np.array([1, 2], dtype=np.uint8), np.array([True, True]), np.float32([1, 2])])
def test_integers_and_other_precisions_are_taken_as_float64(x0: Any) -> None:
    result = minimize(lambda x: (float(x @ x), 2 * x), x0)
    assert result.x.dtype == np.float64
    np.testing.assert_allclose(result.x, 0, atol=1e-6)
    optimizer = Optimizer(x0, HeavyBall(), lr=0.1)
    np.testing.assert_allclose(optimizer.step(np.array([1, 2])), np.array(x0) - [0.1, 0.2])


@pytest.mark.parametrize("inertia", [0.0, 0.1])
@pytest.mark.parametrize("spike", [1e155, 1e160, 1e250])
@pytest.mark.parametrize("at", [0, 3])
def test_one_finite_spike_is_skipped_once(rule: Any, metric: Any, spike: float, inertia: float, at: int) -> None:
    if Facts.of(rule).needs_loss and inertia:
        return
    clean, dirty = (Optimizer(np.ones(3), rule, lr=0.1, metric=metric, inertia=inertia) for _ in range(2))
    for t in range(8):
        if t == at:
            np.testing.assert_array_equal(dirty.step([1.0, spike, 1.0], 2.0), clean.x)
        for optimizer in (clean, dirty):
            optimizer.step(np.array([1.0, -0.5, 0.3]) / (1 + t), 1.0)
    np.testing.assert_array_equal(dirty.x, clean.x)
    np.testing.assert_array_equal(dirty.memory, clean.memory)
    assert (dirty.diagnostics()["skipped"], dirty.diagnostics()["steps"]) == (1, 8)
