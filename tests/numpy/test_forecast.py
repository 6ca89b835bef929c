"""`Secant` and `Forecast`: conjugate gradients at one gradient a step, on top of an ordinary optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.optimize import rosen_der

from proxmom import AdaptiveMemory, Alignment, ConjugateMemory, HeavyBall, Secant, TruncatedMemory
from proxmom.numpy import Optimizer
from proxmom.numpy.forecast import Forecast
from proxmom.secant import Lengths, Line


def quadratic(n: int, condition: float, seed: int = 0) -> tuple[Any, Any, Any]:
    """A (n, n), the minimiser and a start."""
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(n, n)))[0]
    return (basis * np.geomspace(1 / condition, 1, n)) @ basis.T, random.normal(size=n), random.normal(size=n)


# What they compute ---------------------------------------------------------------------------------------------------


def test_secant_is_fletcher_and_reeves_conjugate_gradients_at_one_gradient_a_step() -> None:
    matrix, minimiser, x = quadratic(12, 50.0)
    optimizer = Optimizer(x, AdaptiveMemory(1.0), lr=0.7)
    forecast = Forecast(optimizer, Secant(stretch=100.0, steepness=100.0))
    residual = matrix @ (minimiser - x)
    direction, exact = residual, x
    for _ in range(11):
        forecast.step(matrix @ (optimizer.x - minimiser), 0.0)
        # the step began where the last one was made to end: at the iterate of the exact method
        np.testing.assert_allclose(optimizer.x - optimizer.last_step, exact, atol=1e-6)
        step = residual @ residual / (direction @ matrix @ direction)
        following = residual - step * matrix @ direction
        exact = exact + step * direction
        direction = following + following @ following / (residual @ residual) * direction
        residual = following


def test_secant_ends_on_a_quadratic_after_n_and_two_evaluations() -> None:
    matrix, minimiser, x = quadratic(8, 20.0)
    optimizer = Optimizer(x, ConjugateMemory(), lr=1e-3)
    forecast = Forecast(optimizer, Secant())
    for _ in range(9):
        forecast.step(matrix @ (optimizer.x - minimiser), 0.0)
    assert np.linalg.norm(optimizer.x - minimiser) > 1e-6 * np.linalg.norm(x - minimiser)
    forecast.step(matrix @ (optimizer.x - minimiser), 0.0)
    assert np.linalg.norm(optimizer.x - minimiser) <= 1e-6 * np.linalg.norm(x - minimiser)


@pytest.mark.parametrize("start", [1e-6, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("kind", ["quadratic", "rosen", "softplus"])
@pytest.mark.parametrize("rule", [ConjugateMemory(), AdaptiveMemory(), HeavyBall()], ids=str)
def test_the_last_step_is_what_x_did(rule: Any, kind: str, start: float) -> None:
    """Also where a step was only made longer or shorter, and nothing else was done."""
    matrix, minimiser, _ = quadratic(6, 50.0)
    slope = {
        "quadratic": lambda x: matrix @ (x - minimiser),
        "rosen": rosen_der,
        "softplus": lambda x: np.tanh(x / 2) + 1e-3 * x,
    }[kind]
    optimizer, again = Optimizer(np.linspace(-2, 2, 6), rule, lr=start), 0
    forecast = Forecast(optimizer, Secant())
    for _ in range(40):
        before, taken = optimizer.x - optimizer.last_step, optimizer.diagnostics()["steps"]
        with np.errstate(all="ignore"):
            x = forecast.step(slope(optimizer.x), 0.0)
        np.testing.assert_array_equal(x, optimizer.x)
        np.testing.assert_allclose(forecast.last_lr, optimizer.last_lr, rtol=1e-12)
        np.testing.assert_allclose(optimizer.last_step, -optimizer.last_lr * optimizer.memory, rtol=1e-9, atol=1e-300)
        assert optimizer.lr == start
        if optimizer.diagnostics()["steps"] == taken:
            again += 1
            np.testing.assert_allclose(x - optimizer.last_step, before, rtol=1e-9, atol=1e-12)
    assert again or kind == "quadratic"


def test_a_stretched_step_is_one_that_was_that_long() -> None:
    """x, the last move and the height of the aggregated plane: all as if lr had been larger."""
    g, f = np.array([1.0, -2.0]), 3.0
    rule = TruncatedMemory(-9.0, height="aggregated")
    one, two = (Optimizer(np.zeros(2), rule, lr=lr) for lr in (0.1, 0.25))
    for optimizer in (one, two):
        optimizer.step(g, f)
    one.stretch(2.5)
    models = [optimizer.preview(np.array([0.3, 0.4]), 2.0) for optimizer in (one, two)]
    np.testing.assert_allclose(one.x, two.x, rtol=1e-15)
    np.testing.assert_allclose(models[0].heights, models[1].heights, rtol=1e-12)


@dataclass(frozen=True)
class Growing:
    """A step size that grows threefold with every step."""

    scalars: ClassVar[Mapping[str, float]] = {"scale": 1.0}

    def factor(self, now: Any) -> Any:
        return now.recall("scale")

    def remember(self, now: Any) -> Any:
        return {"scale": 3 * now.recall("scale")}


@pytest.mark.parametrize("lr", [0.025, 0.05, 0.2])
@pytest.mark.parametrize("step_size", [Growing(), Alignment(), None, Secant()], ids=str)
def test_after_undo_the_step_has_the_lr_asked_for(step_size: Any, lr: float) -> None:
    g, finishes = np.array([1.0, 2.0]), isinstance(step_size, Secant)
    optimizer = Optimizer(np.zeros(2), HeavyBall(), lr=0.1, step_size=None if finishes else step_size)
    steps: Any = Forecast(optimizer, step_size) if finishes else optimizer
    for _ in range(4):
        bookmark, before = steps.bookmark(), optimizer.x
        steps.step(g, 0.0)
    steps.undo(bookmark, lr)
    np.testing.assert_array_equal(optimizer.x, before)
    np.testing.assert_allclose(before - steps.step(g, 0.0), lr * g)
    np.testing.assert_allclose(steps.last_lr, lr)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_skipped(bad: float) -> None:
    optimizer = Optimizer(np.ones(2), ConjugateMemory(), lr=0.1)
    forecast = Forecast(optimizer, Secant())
    for _ in range(2):
        forecast.step(optimizer.x, 1.0)
    x = optimizer.x
    np.testing.assert_array_equal(forecast.step(np.array([bad, 1.0]), 1.0), x)
    np.testing.assert_array_equal(forecast.step(optimizer.x, bad), x)
    assert optimizer.diagnostics()["skipped"] == 2


def test_coupled_weight_decay_is_part_of_the_function() -> None:
    """With it, every step is the one on f + mu/2 |x|^2 without."""
    matrix, minimiser, x = quadratic(6, 20.0)
    one, two = (Optimizer(x, ConjugateMemory(), lr=0.1, weight_decay=mu, decay="coupled") for mu in (0.3, 0.0))
    first, second = (Forecast(optimizer, Secant()) for optimizer in (one, two))
    for _ in range(12):
        first.step(matrix @ (one.x - minimiser), 0.0)
        second.step(matrix @ (two.x - minimiser) + 0.3 * two.x, 0.0)
        np.testing.assert_allclose(one.x, two.x, rtol=1e-6, atol=1e-9)


def test_a_rule_that_looks_at_the_loss_is_told_the_loss_where_the_step_begins() -> None:
    """On a quadratic the forecasts of loss and gradient are exact: the model is that of the point itself."""
    matrix, minimiser, x = quadratic(5, 10.0)

    def f(z: Any) -> float:
        return float((z - minimiser) @ matrix @ (z - minimiser)) / 2

    seen: list[tuple[float, float]] = []

    class Looks(Optimizer):
        def step(self, gradient: Any, loss: float | None = None) -> Any:
            assert loss is not None
            seen.append((loss, f(self.x)))
            np.testing.assert_allclose(gradient, matrix @ (self.x - minimiser), atol=1e-9)
            return super().step(gradient, loss)

    optimizer = Looks(x, TruncatedMemory(-5.0, height="aggregated"), lr=0.5)
    forecast = Forecast(optimizer, Secant())
    for _ in range(8):
        forecast.step(matrix @ (optimizer.x - minimiser), f(optimizer.x))
    told, true = np.array(seen).T
    np.testing.assert_allclose(told, true, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steepness": -1.0}, "steepness must be > 0"),
        ({"stiffness": np.inf}, "stiffness must be > 0 and finite"),
        ({"stretch": 1.0}, "stretch must be > 1"),
        ({"retries": -1}, "retries must be >= 0"),
    ],
)
def test_settings_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Secant(**arguments)


@pytest.mark.parametrize(
    ("line", "lengths", "expected"),
    [  # slopes before and after, products; what was kept -> reach, again
        (Line(0.0, 0.0, 1.0, 1.0, 1.0), Lengths(), (1.0, False)),  # nothing moved
        (Line(-1.0, 1.0, 1.0, 1.0, 1.0), Lengths(retries=2), (1.0, False)),  # uphill
        (Line(1.0, 2.0, 1.0, 2.0, 4.0), Lengths(retries=9), (10.0, True)),  # no minimum ahead, never seen one
        (Line(1.0, 2.0, 1.0, 2.0, 4.0), Lengths(curved=True), (10.0, True)),
        (Line(1.0, 2.0, 1.0, 2.0, 4.0), Lengths(retries=2, curved=True), (1.0, False)),
        (Line(1.0, 0.5, 0.25, 0.5, 2.0), Lengths(curved=True), (2.0, False)),  # half of the way
        (Line(1.0, 0.95, 0.9, 0.95, 2.0), Lengths(curved=True), (10.0, True)),  # a twentieth of it
        (Line(10.0, 9.0, 81.0, 90.0, 101.0), Lengths(curved=True), (10.0, True)),  # just as far as is too far
        (Line(1.0, 0.95, 0.9, 0.95, 2.0), Lengths(), (20.0, True)),  # no curvature seen before: believed
        (Line(1.0, 0.95, 0.9, 0.95, 2.0), Lengths(retries=2, curved=True), (10.0, False)),
        (Line(1.0, -3.0, 9.0, -3.0, 2.0), Lengths(curved=True), (0.25, True)),  # far beyond the minimum
        (Line(1.0, -3.0, 9.0, -3.0, 2.0), Lengths(retries=2, curved=True), (1.0, False)),
        (Line(1.0, -0.5, 0.5, -0.5, 2.0), Lengths(curved=True), (1 / 1.5, False)),  # a little beyond it
        (Line(1.0, 1e-3, 1e-6 + 5e-15, 1e-3, 1.0), Lengths(curved=True), (1 / 0.999, True)),  # rounding beside p
        (Line(1.0, -1.0, 1.0, -1.0, 1.0), Lengths(curved=True), (0.5, True)),  # in one dimension nothing is left
        (Line(1.0, -0.9, 9.0, -3.0, 2.0), Lengths(steepest=1e3, measured=False), (1.0, False)),  # p was wrong
    ],
)
def test_how_the_last_step_is_finished(line: Line, lengths: Lengths, expected: tuple[float, bool]) -> None:
    reach, again, after = Secant().finish(line, lengths)
    assert (reach, again) == (pytest.approx(expected[0]), expected[1])
    assert after.last == pytest.approx(reach * lengths.last)
    assert after.retries == (lengths.retries + 1 if again else 0)
    assert after.measured == (lengths.measured if again else reach == 1)
