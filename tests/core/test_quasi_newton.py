"""`QuasiNewton`: L-BFGS's inverse Hessian, from inner products alone."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.optimize import LbfgsInvHessProduct

from proxmom import AdaptiveMemory, ConjugateMemory, GradientDescent, HeavyBall, SteadyMemory, TruncatedMemory
from proxmom.metrics import QuasiNewton
from proxmom.numpy import Optimizer, minimize

SIZE = 12


def driven(metric: Any, moves: Any, turns: Any) -> Any:
    """P⁻¹ as a matrix, after these pairs."""
    size = moves.shape[1]
    kept, numbers = np.zeros((metric.kept, size)), {name: np.full(1, value) for name, value in metric.numbers.items()}
    inverse = np.eye(size)
    for s, y in zip(moves, turns, strict=True):
        everything, forecast = np.vstack([kept, s, y]), s @ np.linalg.solve(inverse, s)
        told = metric.low_rank((everything @ everything.T)[None], numbers, np.full(1, forecast))
        kept, numbers = told.keeps[0] @ np.where(np.isfinite(everything), everything, 0.0), told.numbers
        inverse = told.identity[0] * np.eye(size) + kept.T @ told.middle[0] @ kept
    return inverse


def recursion(identity: float, moves: Any, turns: Any, vector: Any) -> Any:
    """P⁻¹ of a vector by Nocedal's two loops, starting from this multiple of I."""
    q, shares = vector.copy(), []
    for s, y in zip(moves[::-1], turns[::-1], strict=True):
        shares.append((s @ q) / (s @ y))
        q -= shares[-1] * y
    q *= identity
    for s, y, share in zip(moves, turns, shares[::-1], strict=True):
        q += (share - (y @ q) / (s @ y)) * s
    return q


def expected(moves: Any, turns: Any, count: int) -> Any:
    """P⁻¹ as a matrix, by the recursion over the last `count` pairs and γ in plain numbers."""
    inverse, identity = np.eye(SIZE), 1.0
    for last, (s, y) in enumerate(zip(moves, turns, strict=True)):
        shortest, longest = (s @ y) / (y @ y), (s @ s) / (s @ y)
        follows = identity * np.sqrt(s @ np.linalg.solve(inverse, s) / (s @ y)) if last else shortest
        identity = min(max(follows, shortest), longest)
        seen = slice(max(0, last + 1 - count), last + 1)
        inverse = np.stack([recursion(identity, moves[seen], turns[seen], unit) for unit in np.eye(SIZE)])
    return inverse


def pairs(random: Any, count: int, spread: float = 3) -> tuple[Any, Any]:
    """Moves of very different lengths, and changes of the gradient of one quadratic."""
    root = random.normal(size=(SIZE, SIZE))
    moves = random.normal(size=(count, SIZE)) * 10 ** random.uniform(-spread, spread, size=(count, 1))
    return moves, moves @ (root @ root.T / SIZE + 0.1 * np.eye(SIZE))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
def test_is_the_two_loop_recursion_of_the_last_pairs(random: Any, count: int) -> None:
    moves, turns = pairs(random, count)
    np.testing.assert_allclose(driven(QuasiNewton(4), moves, turns), expected(moves, turns, 4), rtol=1e-9, atol=1e-11)


def test_agrees_with_scipy_where_the_start_is_the_identity(random: Any) -> None:
    moves, turns = pairs(random, 6, spread=0.5)
    moves /= (moves[-1] @ turns[-1]) / (turns[-1] @ turns[-1])  # so that γ = 1, as SciPy has it
    theirs, plain = LbfgsInvHessProduct(moves, turns).todense(), QuasiNewton(6, follows=False)
    np.testing.assert_allclose(driven(plain, moves, turns), theirs, rtol=1e-10, atol=1e-12)


def test_meets_the_last_secant_equation_and_is_positive_definite(random: Any) -> None:
    for count in (1, 5, 30):
        moves, turns = pairs(random, count)
        inverse = driven(QuasiNewton(8), moves, turns)
        np.testing.assert_allclose(inverse @ turns[-1], moves[-1], rtol=1e-8)
        assert np.linalg.eigvalsh((inverse + inverse.T) / 2)[0] > 0


@pytest.mark.parametrize("worse", [-1.0, 0.0, np.nan, np.inf])
def test_pairs_without_curvature_change_nothing(random: Any, worse: float) -> None:
    moves, turns = pairs(random, 3)
    before = driven(QuasiNewton(4), moves, turns)
    with np.errstate(invalid="ignore"):
        kept = driven(QuasiNewton(4), np.vstack([moves, moves[:1]]), np.vstack([turns, worse * turns[:1]]))
    np.testing.assert_array_equal(kept, before)


def test_is_the_identity_before_the_first_pair() -> None:
    np.testing.assert_array_equal(driven(QuasiNewton(2), np.zeros((1, 3)), np.zeros((1, 3))), np.eye(3))


def test_scopes_are_side_by_side(random: Any) -> None:
    torch = pytest.importorskip("torch")
    grams, numbers, metric = [], [], QuasiNewton(3)
    identities, forecasts = random.uniform(0.1, 10, size=(2, 3, 1))
    for count in (0.0, 2.0, 7.0):
        rows = random.normal(size=(8, SIZE))
        rows[3:6], rows[7] = rows[:3] + 0.1 * rows[3:6], rows[6] + 0.1 * rows[7]
        grams.append(rows @ rows.T)
        numbers.append(count)
    told = {"pairs": np.array(numbers), "identity": identities[:, 0]}
    several = metric.low_rank(np.array(grams), told, forecasts[:, 0])
    tensors = {name: torch.tensor(value) for name, value in told.items()}
    there = metric.low_rank(torch.tensor(np.array(grams)), tensors, torch.tensor(forecasts[:, 0]))
    for i, (gram, count) in enumerate(zip(grams, numbers, strict=True)):
        alone = metric.low_rank(gram[None], {"pairs": np.array([count]), "identity": identities[i]}, forecasts[i])
        for mine, other, torchs in zip(alone[:3], several[:3], there[:3], strict=True):
            np.testing.assert_allclose(other[i], mine[0], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(torchs[i].numpy(), mine[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("pairs", "forecast", "found"),
    [
        (0, 3.0, 0.5),  # at first what the pair shows across
        (1, 2.0, 1.0),  # forecast right
        (1, 8.0, 2.0),  # the move ended short of the minimum along it
        (5, 0.98, 0.7),  # beyond it
        (5, 2e3, 4.0),  # the bounds that the pair allows
        (5, 1e-3, 0.5),
        *((5, nothing, 1.0) for nothing in (0.0, -1.0, np.nan, np.inf)),
    ],
)
def test_the_identity_follows_how_the_bend_was_forecast(pairs: int, forecast: float, found: float) -> None:
    now = np.asarray(QuasiNewton().scale(pairs, 1.0, *np.array([8.0, 2.0, 4.0, forecast])))
    assert now == pytest.approx(found, rel=1e-15)
    for power in (-500, 500):  # lengths of any size: no product overflows
        sizes = np.ldexp([8.0, 2.0, 4.0, forecast], power)
        assert QuasiNewton().scale(pairs, 1.0, *sizes) == pytest.approx(found, rel=1e-15)


def test_a_move_whose_square_underflows_leaves_the_identity_positive() -> None:
    for pairs in (0, 5):
        assert QuasiNewton().scale(pairs, 1e-3, *np.array([0.0, 2.0, 4.0, 1e-9])) == 0.5
    random, scale = np.random.default_rng(0), 2.0**-540
    hessian, b = quadratic(random)
    for metric in (QuasiNewton(5), QuasiNewton(5, follows=False)):
        found = minimize(lambda z: (z @ hessian @ z / 2 - b @ z, hessian @ z - b), np.ones(SIZE), metric=metric)
        tiny = minimize(
            lambda z: (
                float(z / scale @ hessian @ (z / scale) / 2 - b @ (z / scale)),
                (hessian @ (z / scale) - b) / scale,
            ),
            np.full(SIZE, scale),
            metric=metric,
        )
        assert tiny.fun == pytest.approx(found.fun, rel=1e-6)


@pytest.mark.parametrize("pairs", [0, -1, 2.0])
def test_refuses_other_numbers_of_pairs(pairs: Any) -> None:
    with pytest.raises(ValueError, match="pairs must be an integer >= 1, got"):
        QuasiNewton(pairs)
    with pytest.raises(ValueError, match=r"curvature must be in \(0, 1\), got 1"):
        QuasiNewton(curvature=1)


def test_inertia_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match=r"inertia must be 0 with QuasiNewton, got 0.1: it needs"):
        Optimizer(np.ones(3), AdaptiveMemory(), lr=1, metric=QuasiNewton(), inertia=0.1)


def quadratic(random: Any) -> tuple[Any, Any]:
    root = random.normal(size=(SIZE, SIZE))
    return root @ root.T / SIZE + 0.05 * np.eye(SIZE), random.normal(size=SIZE)


@pytest.mark.parametrize("rule", [AdaptiveMemory(), SteadyMemory(), ConjugateMemory()])
def test_derived_memory_adds_nothing(random: Any, rule: Any) -> None:
    """After a step along P⁻¹g the plane of memory is level with the model: its weight is zero but for rounding."""
    hessian, b = quadratic(random)
    ours, plain = (Optimizer(np.zeros(SIZE), each, lr=0.1, metric=QuasiNewton()) for each in (rule, GradientDescent()))
    for _ in range(25):
        np.testing.assert_allclose(ours.x, plain.x, rtol=1e-5, atol=1e-7)
        for optimizer in (ours, plain):
            optimizer.step(hessian @ optimizer.x - b)
            optimizer.lr = 1.0


class Watched(QuasiNewton):
    """Writes down what it is told to have forecast."""

    told: ClassVar[list[float]] = []

    def low_rank(self, gram: Any, numbers: Any, forecast: Any) -> Any:
        self.told.append(float(forecast[0]))
        return super().low_rank(gram, numbers, forecast)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("rule", [GradientDescent(), HeavyBall(0.5), TruncatedMemory(0.0)], ids=repr)
def test_the_metric_is_told_what_it_forecast_of_the_last_move(rule: Any, backend: str, random: Any) -> None:
    """<s, Ps> with P as it was for that move: with any lr, memory in the move, or a weight on the floor."""
    hessian, b = quadratic(random)
    torch, ours = pytest.importorskip("torch"), importlib.import_module(f"proxmom.{backend}")
    tensors = [torch.nn.Parameter(torch.zeros(5).double()), torch.nn.Parameter(torch.zeros(SIZE - 5).double())]
    shown = Optimizer(np.zeros(SIZE), rule, lr=0.1, metric=QuasiNewton(3))  # P, and the same points
    if backend == "numpy":
        optimizer: Any = Optimizer(np.zeros(SIZE), rule, lr=0.1, metric=Watched(3))
    else:
        optimizer = ours.ProxOptimizer(tensors, rule, 0.1, metric=Watched(3))
    Watched.told.clear()
    expected, given = [0.0], {"loss": 1.0} if isinstance(rule, TruncatedMemory) else {}
    for lr in (0.1, 1.0, 0.7, 1.0, 1.3, 1.0):
        x, shown.lr = shown.x, lr
        g = hessian @ x - b
        inverse = shown.preview(g, **given).inverse
        shown.step(g, **given)
        expected.append((shown.x - x) @ np.linalg.solve(inverse, shown.x - x))
        if backend == "numpy":
            optimizer.lr = lr
            optimizer.step(g, **given)
            continue
        optimizer.param_groups[0]["lr"] = lr
        for p, part in zip(tensors, (g[:5], g[5:]), strict=True):
            p.grad = torch.tensor(part)
        optimizer.step(**given)
    np.testing.assert_allclose(Watched.told, expected[:-1], rtol=1e-9)
    assert all(value > 0 for value in Watched.told[1:])


def test_an_undone_step_leaves_what_was_known_where_it_began(random: Any) -> None:
    hessian, b = quadratic(random)
    optimizer, other = (Optimizer(np.zeros(SIZE), GradientDescent(), lr=0.1, metric=QuasiNewton(3)) for _ in range(2))
    for each in (optimizer, other):
        each.step(hessian @ each.x - b)
        each.lr = 1.0
        each.step(hessian @ each.x - b)
    place, g = optimizer.bookmark(), hessian @ optimizer.x - b
    optimizer.lr = 50.0
    optimizer.step(g)
    optimizer.undo(place, lr=1.0)
    for _ in range(5):
        for each in (optimizer, other):
            each.step(hessian @ each.x - b)
        np.testing.assert_allclose(optimizer.x, other.x, rtol=1e-9)
    optimizer.undo(optimizer.bookmark(), lr=0.5, forget=True)
    before, g = optimizer.x, hessian @ optimizer.x - b
    optimizer.step(g)
    np.testing.assert_allclose(optimizer.x, before - 0.5 * g)
    assert not optimizer.curved


def test_a_model_that_was_shown_stays_as_it_was(random: Any) -> None:
    hessian, b = quadratic(random)
    optimizer = Optimizer(np.zeros(SIZE), GradientDescent(), lr=0.1, metric=QuasiNewton(2))
    for _ in range(4):
        optimizer.step(hessian @ optimizer.x - b)
    model = optimizer.preview(hessian @ optimizer.x - b)
    before = model.image(b)
    for _ in range(3):
        optimizer.step(hessian @ optimizer.x - b)
    np.testing.assert_array_equal(model.image(b), before)


def test_tensors_are_one(random: Any) -> None:
    hessian, b = quadratic(random)
    one = Optimizer(np.zeros(SIZE), GradientDescent(), lr=0.1, metric=QuasiNewton(3))
    two = Optimizer([np.zeros((2, 3)), np.zeros(6)], GradientDescent(), lr=0.1, metric=QuasiNewton(3))
    for _ in range(8):
        g = hessian @ one.x - b
        one.step(g)
        parts = two.step([g[:6].reshape(2, 3), g[6:]])
        np.testing.assert_array_equal(np.concatenate([part.ravel() for part in parts]), one.x)
