"""x and x - x₀ as named vectors: the same in every metric and on every path, and what can be written with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from proxmom import Adam, Euclidean, GradientDescent, Plane, QuasiNewton, mix
from proxmom.memories import Average, Combination, Displacement, Position, Previous
from proxmom.metrics import LInf
from proxmom.numpy import Optimizer, Runs
from proxmom.planes import namespace
from proxmom.torch import ProxOptimizer
from proxmom.verify import check_rule
from tests.metrics import Full, Normed
from tests.torch.test_paths import PATHS, path

METRICS = [Euclidean(), Adam(beta2=0.9), Full(), Normed(), QuasiNewton(3), LInf(), LInf("soft")]


@dataclass(frozen=True)
class Places:
    """Both in the planes, in a combination and in what was before; the declaration in an order that could mislead."""

    memories: ClassVar[Any] = {
        "slow": Average(0.25),
        "away": Displacement(),
        "mean": Combination(),
        "at": Position(),
        "was": Previous("at"),
        "gone": Previous("away"),
    }
    beta_max: float = 0.5

    def planes(self, now: Any) -> Any:
        slope = now.vector("slow") + 0.5 * now.vector("away") - 0.25 * now.vector("at") + 0.1 * now.vector("mean")
        other = 0.2 * now.vector("was") - 0.1 * now.vector("gone") + now.gradient
        return (
            mix(Plane(other, 0.0), now.memory_plane(), now.weight(0.5 * self.beta_max)),
            Plane(slope, now.dot_last_move(now.vector("away") - 0.5 * now.vector("at")) - 0.1),
        )

    def remember(self, now: Any) -> Any:
        return {"mean": (now.step * now.vector("mean") + now.vector("at") - now.vector("away")) / (now.step + 1)}


def given_steps(random: Any, xs: Any, count: int) -> Any:
    return [[random.normal(size=x.shape) for x in xs] for _ in range(count)]


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_a_rule_sees_where_it_is_and_how_far_it_has_come(metric: Any) -> None:
    random = np.random.default_rng(0)
    x0 = random.normal(size=4)
    optimizer = Optimizer(x0, Places(), lr=0.1, metric=metric, weight_decay=0.3)
    slow = mean = was = gone = np.zeros(4)
    for t in range(6):
        g, x = random.normal(size=4), optimizer.x
        model = optimizer.preview(g)
        slope = slow + 0.5 * (x - x0) - 0.25 * x + 0.1 * mean
        np.testing.assert_allclose(model.slopes[1], slope, rtol=1e-12, atol=1e-14)
        mixed = 0.2 * was - 0.1 * gone + g
        share = 1 - model.coefficients[0, 1]
        np.testing.assert_allclose(model.slopes[0], share * mixed + (1 - share) * model.memory, rtol=1e-9, atol=1e-12)
        optimizer.step(g)
        slow, mean, was, gone = 0.75 * slow + 0.25 * g, (t * mean + x0) / (t + 1), x, x - x0


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("decay", ["decoupled", "coupled"])
@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_all_paths_are_the_numpy_backend(metric: Any, decay: str, scope: str) -> None:
    random = np.random.default_rng(1)
    xs = [random.normal(size=shape) for shape in ((3, 2), (5,), (4,))]
    given = given_steps(random, xs, 5)
    parts = [slice(0, 3)] if scope == "model" else [slice(i, i + 1) for i in range(3)]
    settings: dict[str, Any] = {"metric": metric, "weight_decay": 0.1, "decay": decay}
    theirs = [Optimizer(xs[part], Places(), lr=0.05, **settings) for part in parts]
    for g in given:
        for optimizer, part in zip(theirs, parts, strict=True):
            optimizer.step(g[part])
    expected = [x for optimizer in theirs for x in optimizer.x]
    for name in PATHS:
        params = [nn.Parameter(torch.tensor(x)) for x in xs]
        with path(name, 4) as keyword:
            ours = ProxOptimizer(params, Places(), 0.05, scope=scope, **settings, **keyword)
            for g in given:
                for p, part in zip(params, g, strict=True):
                    p.grad = torch.tensor(part)
                ours.step()
        for p, x, x0 in zip(params, expected, xs, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-6, atol=1e-7, err_msg=name)
            np.testing.assert_array_equal(ours.state[p]["away"], x0)
            assert "at" not in ours.state[p]


def test_the_path_says_why_it_is_not_kernels() -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    for metric in (Euclidean(), Adam()):
        optimizer = ProxOptimizer([p], Places(), 0.1, metric=metric)
        optimizer.step()
        assert optimizer.path == "foreach blocks (kernels do not read x as a vector)"
    asked = ProxOptimizer([p], Places(), 0.1, foreach=False)
    asked.step()
    assert asked.path == "torch operations"


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_such_rules_are_verified(metric: Any) -> None:
    norm = isinstance(metric, LInf)
    report = check_rule(Places(), metric=metric, weight_decay=0.1, decay="decoupled" if norm else None, trials=6)
    assert report.ok, str(report)


def test_many_runs_are_each_alone() -> None:
    random = np.random.default_rng(2)
    x0, given = random.normal(size=(3, 5)), random.normal(size=(6, 3, 5))
    runs, alone = Runs(x0, Places(), lr=0.1), [Optimizer(x, Places(), lr=0.1) for x in x0]
    for g in given:
        together = runs.step(g)
        for row, optimizer, part in zip(together, alone, g, strict=True):
            np.testing.assert_allclose(row, optimizer.step(part), rtol=1e-12)


def test_their_mass_is_zero() -> None:
    seen: list[Any] = []

    class Noting(Places):
        def planes(self, now: Any) -> Any:
            if now.step.size == 1:
                seen.append([float(now.mass(name)[0]) for name in ("at", "away", "was", "gone", "slow")])
            return super().planes(now)

    optimizer = Optimizer(np.ones(2), Noting(), lr=0.1)
    for _ in range(3):
        optimizer.step(np.ones(2))
    np.testing.assert_allclose(np.array(seen)[:, :4], 0)
    np.testing.assert_allclose(np.array(seen)[:, 4], [0, 0.25, 0.4375])


@pytest.mark.parametrize(("start", "of_start"), [("zero", "gradient"), ("gradient", "zero")])
def test_what_was_before_the_first_step_has_the_mass_it_started_with(start: str, of_start: str) -> None:
    seen: list[float] = []

    class Noting(GradientDescent):
        memories: ClassVar[Any] = {"slow": Average(0.25, start=of_start), "old": Previous("slow", start=start)}

        def planes(self, now: Any) -> Any:
            if now.step.size == 1:
                seen.append(float(now.mass("old")[0]))
            return super().planes(now)

    optimizer = Optimizer(np.ones(1), Noting(), lr=0.1)
    for _ in range(3):
        optimizer.step([1.0])
    expected = [0.0, 1.0, 1.0] if start == "zero" else [1.0, 0.0, 0.25]
    assert seen == pytest.approx(expected)


# --- state -----------------------------------------------------------------------------------------------------------


def moved(rule: Any, restart: Any, steps: int = 6) -> Any:
    p = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    optimizer = ProxOptimizer([p], rule, 0.1)
    for t in range(steps):
        if t == 3:
            optimizer = restart(optimizer, p, rule) or optimizer
        p.grad = torch.sin(p.detach()) + t
        optimizer.step()
    return p.detach().clone(), optimizer.state[p]["away"].clone()


def saved_and_loaded(optimizer: Any, p: Any, rule: Any) -> Any:
    fresh = ProxOptimizer([p], rule, 0.1)
    fresh.load_state_dict(optimizer.state_dict())
    return fresh


def test_where_it_started_is_saved() -> None:
    straight, resumed = moved(Places(), lambda *_: None), moved(Places(), saved_and_loaded)
    assert torch.equal(straight[0], resumed[0])
    assert torch.equal(resumed[1], torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))


def test_deleted_state_starts_anew_from_there() -> None:
    seen: list[Any] = []

    def delete(optimizer: Any, p: Any, _: Any) -> None:
        del optimizer.state[p]
        seen.append(p.detach().clone())

    assert torch.equal(moved(Places(), delete)[1], seen[0])


@pytest.mark.parametrize("name", PATHS)
def test_a_first_step_that_is_skipped_is_still_to_come(name: str) -> None:
    p = nn.Parameter(torch.ones(2, dtype=torch.float64))
    with path(name, 4) as keyword:
        optimizer = ProxOptimizer([p], Places(), 0.1, **keyword)
        p.grad = torch.full((2,), float("nan"), dtype=torch.float64)
        optimizer.step()
        p.data += 1
        p.grad = torch.ones(2, dtype=torch.float64)
        optimizer.step()
    assert optimizer.diagnostics()["skipped"] == 1
    np.testing.assert_array_equal(optimizer.state[p]["away"], 2.0)


def test_undone_steps_start_where_they_are() -> None:
    optimizer = Optimizer(np.ones(3), Places(), lr=0.1)
    optimizer.step(np.ones(3))
    bookmark, x = optimizer.bookmark(), optimizer.x
    optimizer.step([1.0, 2.0, 3.0])
    after = optimizer.x
    optimizer.restore(bookmark)
    np.testing.assert_array_equal(optimizer.step([1.0, 2.0, 3.0]), after)  # x₀ is that of the first start still
    optimizer.undo(bookmark, 0.1)
    np.testing.assert_array_equal(optimizer.step(np.ones(3)), Optimizer(x, Places(), lr=0.1).step(np.ones(3)))
    optimizer.restore(bookmark)
    np.testing.assert_array_equal(optimizer.step([1.0, 2.0, 3.0]), after)


# --- what can be written with them -----------------------------------------------------------------------------------


def scales(x: Any) -> Any:
    return np.linspace(0.1, 2, 8) * x + np.sin(x)


@dataclass(frozen=True)
class DualAveraging:
    """x <- x₀ - lr / sqrt(t) · (the sum of all t gradients): every step is made anew from the start."""

    memories: ClassVar[Any] = {"away": Displacement(), "total": Combination()}

    def planes(self, now: Any) -> Any:
        total = now.vector("total") + now.gradient
        return (Plane(now.vector("away") / now.lr + total / (now.step + 1) ** 0.5, 0.0),)

    def remember(self, now: Any) -> Any:
        return {"total": now.vector("total") + now.gradient}


def test_dual_averaging_is_its_formula() -> None:
    x0 = np.linspace(-2, 3, 8)
    p = nn.Parameter(torch.tensor(x0))
    ours, torchs, x, total = Optimizer(x0, DualAveraging(), lr=0.3), ProxOptimizer([p], DualAveraging(), 0.3), x0, 0.0
    for t in range(1, 101):
        p.grad = torch.tensor(scales(p.detach().numpy()))
        torchs.step()
        total = total + scales(x)
        x = x0 - 0.3 / t**0.5 * total
        np.testing.assert_allclose(ours.step(scales(ours.x)), x, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-10, atol=1e-11)


@dataclass(frozen=True)
class Anchor:
    """The gradient plane of f + strength·||x - x₀||²/2, whose heights are those of f."""

    strength: float = 0.5
    memories: ClassVar[Any] = {"away": Displacement()}

    def planes(self, now: Any) -> Any:
        return (Plane(now.gradient + self.strength * now.vector("away"), 0.0),)


@pytest.mark.parametrize("adam", [False, True], ids=["Euclidean", "Adam"])
def test_the_anchor_is_its_formula(adam: bool) -> None:
    x0 = x = np.linspace(-2, 3, 8)
    v, optimizer = np.zeros(8), Optimizer(x0, Anchor(), lr=0.05, metric=Adam() if adam else Euclidean())
    for t in range(1, 101):
        g = scales(x)
        v = 0.999 * v + 0.001 * g * g
        p = np.sqrt(v / (1 - 0.999**t)) + 1e-8 if adam else 1.0
        x = x - 0.05 * (g + 0.5 * (x - x0)) / p
        np.testing.assert_allclose(optimizer.step(scales(optimizer.x)), x, rtol=1e-10, atol=1e-11)


@dataclass(frozen=True)
class DistanceOverGradients:
    """lr = the farthest from x₀ so far over the root of the sum of squared gradients."""

    first: float = 1e-6
    memories: ClassVar[Any] = {"away": Displacement()}
    scalars: ClassVar[Any] = {"far": 0.0, "total": 0.0}

    def factor(self, now: Any) -> Any:
        kept = self.remember(now)
        return kept["far"] / kept["total"] ** 0.5

    def remember(self, now: Any) -> Any:
        xp, away, g = namespace(now.lr), now.vector("away"), now.gradient
        here = xp.maximum(xp.sqrt(now.dot(away, away)), self.first + 0 * now.lr)
        return {"far": xp.maximum(now.recall("far"), here), "total": now.recall("total") + now.dot(g, g)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_distances_are_exact_where_hardly_anything_has_moved(dtype: Any) -> None:
    """The first steps are 1e-5 of x: products with x and x₀ apart would be nothing but rounding in float32."""
    x0 = x = np.full(8, 100.75)
    p = nn.Parameter(torch.tensor(x0, dtype=dtype))
    optimizer = ProxOptimizer([p], GradientDescent(), 1.0, step_size=DistanceOverGradients(first=1e-3))
    far, total = 1e-3, 0.0
    slopes = np.linspace(0.5, 2, 8)
    for _ in range(100):
        g = slopes * np.sign(x - 98)
        far, total = max(far, float(np.linalg.norm(x - x0))), total + float(g @ g)
        x = x - far / total**0.5 * g
        p.grad = torch.tensor(g, dtype=dtype)
        optimizer.step()
    moved = p.detach().double().numpy() - x0
    np.testing.assert_allclose(moved, x - x0, rtol=1e-9 if dtype == torch.float64 else 5e-3)
