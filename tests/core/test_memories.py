"""Further memories: how they start, what they become, their mass; the same in every backend and metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from proxmom import Adam, Euclidean, GradientDescent, Plane, mix
from proxmom.memories import Average, Combination, Previous
from proxmom.numpy import Optimizer, Runs
from proxmom.rules import Facts
from proxmom.torch import ProxOptimizer
from tests.torch.test_paths import PATHS, path

METRICS = [Euclidean(), Adam(beta2=0.9)]
STARTS = ["zero", "gradient"]


@dataclass(frozen=True)
class Everything:
    """All kinds of memory, each in the planes, with the masses that the rule sees."""

    start: str = "zero"
    beta_max: float = 0.5

    @property
    def memories(self) -> dict[str, Any]:
        return {
            "slow": Average(0.25, self.start),
            "last": Previous("gradient", self.start),
            "older": Previous("last", self.start),
            "before": Previous("memory", self.start),
            "blend": Combination(self.start),
        }

    def planes(self, now: Any) -> Any:
        recent = now.vector("slow") - 0.5 * now.vector("last") + 0.25 * now.vector("older")
        second = Plane(recent + 0.1 * now.vector("blend") - 0.2 * now.vector("before"), -0.1)
        return mix(now.gradient_plane, now.memory_plane(), 0.5), second

    def remember(self, now: Any) -> Any:
        return {"blend": 0.5 * now.vector("blend") + now.gradient - 0.25 * now.vector("older")}


def gradients(steps: int = 7, size: int = 5) -> Any:
    return np.random.default_rng(0).normal(size=(steps, size))


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("start", STARTS)
def test_each_is_what_it_says_before_this_gradient(start: str, metric: Any) -> None:
    optimizer = Optimizer(np.ones(5), Everything(start), lr=0.1, metric=metric)
    given, zero = gradients(), np.zeros(5)
    first = given[0] if start == "gradient" else zero
    slow, last, older, before, blend = (first,) * 5
    for g in given:
        seen = optimizer.memory if optimizer.diagnostics()["steps"] else (g if metric == METRICS[0] else zero)
        slope = slow - 0.5 * last + 0.25 * older + 0.1 * blend - 0.2 * before
        np.testing.assert_allclose(optimizer.preview(g).slopes[1], slope, rtol=1e-12, atol=1e-14)
        optimizer.step(g)
        slow, last, older, before, blend = 0.75 * slow + 0.25 * g, g, last, seen, 0.5 * blend + g - 0.25 * older


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("start", STARTS)
def test_all_paths_are_the_numpy_backend(start: str, metric: Any, scope: str) -> None:
    random = np.random.default_rng(1)
    shapes = ((3, 2), (5,), (4,))
    xs = [random.normal(size=shape) for shape in shapes]
    given = [[random.normal(size=shape) for shape in shapes] for _ in range(6)]
    together = [xs] if scope == "model" else [[x] for x in xs]
    theirs = [Optimizer(x, Everything(start), lr=0.05, metric=metric, inertia=0.1) for x in together]
    for g in given:
        for optimizer, part in zip(theirs, [g] if scope == "model" else [[each] for each in g], strict=True):
            optimizer.step(part)
    expected = [x for optimizer in theirs for x in optimizer.x]
    for name in PATHS:
        params = [nn.Parameter(torch.tensor(x)) for x in xs]
        with path(name, 4) as keyword:
            ours = ProxOptimizer(params, Everything(start), 0.05, scope=scope, metric=metric, inertia=0.1, **keyword)
            for g in given:
                for p, part in zip(params, g, strict=True):
                    p.grad = torch.tensor(part)
                ours.step()
        for p, x in zip(params, expected, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-9, atol=1e-12, err_msg=name)


def test_many_runs_are_each_alone() -> None:
    given = np.random.default_rng(2).normal(size=(6, 3, 5))
    runs = Runs(np.ones((3, 5)), Everything(), lr=0.1)
    alone = [Optimizer(np.ones(5), Everything(), lr=0.1) for _ in range(3)]
    for g in given:
        together = runs.step(g)
        for row, optimizer, part in zip(together, alone, g, strict=True):
            np.testing.assert_allclose(row, optimizer.step(part), rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("start", STARTS)
def test_the_mass_is_what_a_gradient_of_ones_adds_up_to(start: str, metric: Any) -> None:
    """Where every gradient is 1, a memory is its own mass."""
    seen: list[dict[str, Any]] = []
    names = ("gradient", "memory", "slow", "last", "older", "before", "blend")

    class Noting(Everything):
        def planes(self, now: Any) -> Any:
            if now.step.size == 1:  # not the states that a rule is checked on
                seen.append({name: float(now.mass(name)[0]) for name in names})
            return super().planes(now)

    optimizer = Optimizer(np.ones(1), Noting(start), lr=0.0 + 1e-9, metric=metric)
    first = before = float(start == "gradient")
    slow, last, older, blend = (first,) * 4
    for _ in range(5):
        optimizer.step([1.0])
        now = seen[-1]
        assert now["gradient"] == 1
        assert now["before"] == pytest.approx(before)
        before = now["memory"]
        assert (now["slow"], now["last"], now["older"], now["blend"]) == pytest.approx((slow, last, older, blend))
        slow, last, older, blend = 0.75 * slow + 0.25, 1.0, last, 0.5 * blend + 1 - 0.25 * older


@pytest.mark.parametrize("kind", ["scalar", "combination"])
def test_what_is_not_finite_is_not_remembered(kind: str) -> None:
    """The step is skipped, in NumPy and on every path in torch, and the next one goes on."""

    class Breaks(GradientDescent):
        scalars: ClassVar[Any] = {"inverse": 1.0}
        memories: ClassVar[Any] = {"blend": Combination()}

        def remember(self, now: Any) -> Any:
            value = 1 / now.dot(now.gradient, now.gradient)
            if kind == "scalar":
                return {"inverse": value, "blend": now.gradient}
            return {"blend": value * now.gradient}

    good, bad = np.array([1.0, 2.0]), np.zeros(2)
    optimizer = Optimizer(np.ones(2), Breaks(), lr=0.1)
    for g in (good, bad, good):
        with np.errstate(divide="ignore"):
            optimizer.step(g)
    assert (optimizer.diagnostics()["skipped"], optimizer.diagnostics()["steps"]) == (1, 2)
    np.testing.assert_allclose(optimizer.x, 1 - 0.2 * good)
    for name in PATHS:
        p = nn.Parameter(torch.ones(2, dtype=torch.float64))
        with path(name, 4) as keyword:
            ours = ProxOptimizer([p], Breaks(), 0.1, **keyword)
            for g in (good, bad, good):
                p.grad = torch.tensor(g)
                ours.step()
        np.testing.assert_allclose(p.detach().numpy(), 1 - 0.2 * good, err_msg=name)
        assert ours.diagnostics()["skipped"] == 1


def _rule(remembered: Any = None, **facts: Any) -> Any:
    methods = {} if remembered is None else {"remember": lambda self, now: remembered(now)}
    return type("Mine", (GradientDescent,), {**methods, **facts})()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Average(0.0), r"coefficient must be in \(0, 1\], got 0\.0"),
        (lambda: Average(0.5, "one"), r"start must be 'zero' or 'gradient', got 'one'"),
        (lambda: Previous(start="first"), r"start must be 'zero' or 'gradient', got 'first'"),
        (lambda: Combination("first"), r"start must be 'zero' or 'gradient', got 'first'"),
        (lambda: Facts.of(_rule(memories={"gradient": Average(0.5)})), r"names of their own, .* got 'gradient'"),
        (lambda: Facts.of(_rule(memories={"a b": Average(0.5)})), r"identifiers, got 'a b'"),
        (lambda: Facts.of(_rule(memories={"slow": 0.1})), r"got 'slow': 0\.1\. For an average write Average\(0\.1\)"),
        (lambda: Facts.of(_rule(memories={"a": Previous("a")})), r"one of 'gradient', 'memory', got 'a'"),
        (lambda: Facts.of(_rule(memories={"a": Previous("b")})), r"one of 'gradient', 'memory', got 'b'"),
    ],
)
def test_what_is_declared_is_checked(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            _rule(lambda now: {"a": now.gradient}),
            r"what the class declares, got 'a'.*'a': Combination\(\)",
        ),
        (_rule(lambda now: {"a": 1.0}), r"must return what the class declares, got 'a'.* scalars = {'a': 0\.0}"),
        (_rule(lambda now: {"a": now.gradient}, scalars={"a": 0.0}), r"what the class declares, got 'a'"),
        (_rule(lambda now: {"a": 1.0}, memories={"a": Combination()}), r"what the class declares, got 'a'"),
        (_rule(lambda now: {"a": now.gradient}, memories={"a": Average(0.5)}), r"what the class declares, got 'a'"),
        (_rule(lambda now: {}, memories={"a": Combination()}), r"must return a Vector for 'a', a Combination"),
        (_rule(memories={"a": Combination()}), r"must return a Vector for 'a', a Combination"),
    ],
)
def test_what_is_remembered_is_checked_before_anything_changes(rule: Any, message: str) -> None:
    optimizer = Optimizer(np.ones(2), rule, lr=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.step([1.0, 2.0])
    np.testing.assert_array_equal(optimizer.x, 1)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, r"gives memory a weight of up to 0\.3, but declares no beta_max.* say beta_max = 0\.3"),
        ({"beta_max": 0.2}, r"gives memory a weight of up to 0\.3, but declares beta_max = 0\.2"),
    ],
)
def test_weight_on_memory_that_is_not_declared_is_refused_where_its_mass_counts(declared: Any, message: str) -> None:
    rule = type(
        "Mine", (), {"planes": lambda self, now: mix(now.gradient_plane, now.memory_plane(), 0.3), **declared}
    )()
    with pytest.raises(ValueError, match=message):
        Optimizer(np.ones(2), rule, lr=0.1, metric=Adam())
    with pytest.raises(ValueError, match=message):
        ProxOptimizer([nn.Parameter(torch.ones(2))], rule, 0.1, metric=Adam())
    Optimizer(np.ones(2), rule, lr=0.1)  # memory starts with its full mass here


def test_with_the_weight_declared_the_first_step_has_its_right_length() -> None:
    rule = type(
        "Mine", (), {"planes": lambda self, now: mix(now.gradient_plane, now.memory_plane(), 0.9), "beta_max": 0.9}
    )()
    optimizer = Optimizer(np.zeros(2), rule, lr=0.1, metric=Adam())
    np.testing.assert_allclose(optimizer.step([3.0, -2.0]), [-0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("name", ["step", "last_lr", "second_moment", "count"])
def test_names_that_the_state_uses_otherwise_are_refused(name: str) -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = ProxOptimizer([p], _rule(memories={name: Average(0.5)}), 0.1, metric=Adam())
    with pytest.raises(ValueError, match=f"must have names that state does not use otherwise, got '{name}'"):
        optimizer.step()
