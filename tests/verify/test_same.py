"""Whether two rules are one: equal ones are found equal, and each way of being different is seen where it first is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from proxmom import Adam, AdaptiveMemory, Euclidean, GradientDescent, HeavyBall, MoMo, Polyak, TruncatedMemory, mix
from proxmom.cli import main
from proxmom.metrics import LInf
from proxmom.numpy import Optimizer
from proxmom.planes import namespace
from proxmom.verify import check_same, sample_state
from proxmom.verify.cases import CASES, IN_NORMS, SIZE
from proxmom.verify.functions import FUNCTIONS
from proxmom.verify.states import show


@dataclass(frozen=True)
class Solved:
    """Adaptive memory as one plane, whose slope is mixed by the closed form; `off` by a relative error."""

    beta_max: float = 0.9
    off: float = 0.0
    only_where_turned: bool = False

    def planes(self, now: Any) -> Any:
        xp = namespace(now.lr)
        first, second = now.gradient_plane, mix(now.gradient_plane, now.memory_plane(), now.weight(self.beta_max))
        change = second.slope - first.slope
        size = now.lr * now.dot(change, change)
        gain = second.height - first.height - now.lr * now.dot(first.slope, change)
        share = xp.clip(xp.where(size > 0, gain / xp.where(size > 0, size, 1.0), 1.0), 0.0, 1.0)
        wrong = share * (1 - self.off)
        if self.only_where_turned:
            along = now.dot(now.gradient, now.memory) / xp.maximum(now.dot(now.gradient, now.gradient), 1e-300)
            wrong = xp.where(xp.abs(along + 1) < 1e-9, 0.5, share)
        return (mix(first, second, wrong),)


@pytest.mark.parametrize("metric", [Euclidean(), Adam(beta2=0.9)], ids=str)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (GradientDescent(), HeavyBall(0.0)),
        (AdaptiveMemory(), Solved()),
        (Solved(), AdaptiveMemory()),
        (Polyak(-1.0), MoMo(-1.0, beta=0.0)),
    ],
    ids=str,
)
def test_equal_rules_are_the_same(a: Any, b: Any, metric: Any) -> None:
    found = check_same(a, b, metric=metric, trials=3 * len(CASES))
    assert found.same, str(found)
    assert found.worst < 1e-11
    assert found.steps > 60 * 3 + 2 * 3 * len(CASES)
    assert "the same to rounding" in str(found)


def test_a_formula_without_decay_is_the_same_where_gradients_carry_it_alone() -> None:
    for decay, same in (("coupled", True), ("decoupled", False), ("proximal", False)):
        found = check_same(AdaptiveMemory(), Solved(), weight_decay=0.05, decay=decay, trials=20)
        assert found.same == same, str(found)
    assert not check_same(AdaptiveMemory(), Solved(), inertia=0.1, trials=5).same


def test_a_small_error_is_seen_and_its_size_said() -> None:
    found = check_same(AdaptiveMemory(), Solved(off=1e-6), trials=30)
    assert not found.same
    assert 1e-9 < found.differences[0].apart < 1e-5
    assert str(found.differences[0]) in str(found)
    assert found.worst <= 1e-9


def test_what_differs_in_one_degenerate_state_is_found_there_alone() -> None:
    found = check_same(AdaptiveMemory(), Solved(only_where_turned=True), trials=3 * len(CASES))
    turned = {"gradient = -memory"}
    assert {each.kind for each in found.differences} == turned, str(found)
    first = found.differences[0]
    assert first.place == "state 3 (gradient = -memory)"
    assert first.step == len(sample_state(AdaptiveMemory(), 3).steps)
    assert first.betas[1] > first.betas[0]
    assert "Different in gradient = -memory" in str(found)


@dataclass(frozen=True)
class Late:
    """Gradient descent for ten steps, twice as steep after them: only runs are long enough to see it."""

    def planes(self, now: Any) -> Any:
        xp = namespace(now.lr)
        plane = now.gradient_plane
        return (type(plane)(plane.slope * xp.where(now.step < 10, 1.0, 2.0), plane.height),)


def test_what_differs_late_is_found_by_runs() -> None:
    found = check_same(GradientDescent(), Late(), trials=20)
    assert [each.kind for each in found.differences] == ["run"] * len(FUNCTIONS)
    assert {each.step for each in found.differences} == {11}
    assert found.differences[0].place == "the run on a quadratic"
    assert found.differences[0].apart == pytest.approx(0.5)


def test_a_step_that_only_one_can_make_is_no_rounding() -> None:
    @dataclass(frozen=True)
    class Huge:
        def planes(self, now: Any) -> Any:
            plane = now.gradient_plane
            return (type(plane)(plane.slope * (now.lr * 0 + 1e300), plane.height),)

    found = check_same(GradientDescent(), Huge(), trials=1)
    assert found.differences[0].apart == np.inf
    assert "only one of them makes a step" in str(found)


def test_one_that_looks_at_the_loss_and_one_that_does_not() -> None:
    found = check_same(GradientDescent(), Polyak(0.0), trials=10)
    assert not found.same
    assert check_same(Polyak(0.0), GradientDescent(), trials=10).differences


def test_in_a_norm() -> None:
    assert check_same(GradientDescent(), HeavyBall(0.0), metric=LInf(), trials=3 * len(IN_NORMS)).same
    assert not check_same(AdaptiveMemory(), HeavyBall(0.9), metric=LInf(), trials=3).same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be >= 1, got 0"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"decay": "odd"}, "decay must be one of"),
        ({"inertia": -1.0}, "inertia must be >= 0"),
    ],
)
def test_invalid_arguments(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_same(GradientDescent(), HeavyBall(), **options)


@pytest.mark.parametrize(("name", "function"), FUNCTIONS.items(), ids=FUNCTIONS.keys())
def test_gradients_of_the_functions_are_those_of_their_values(name: str, function: Callable[..., Any]) -> None:
    random, h = np.random.default_rng(3), 1e-6
    x = random.normal(size=SIZE)
    draws = [np.random.default_rng(0) for _ in range(4000 if "noise" in name else 1)]
    if len(draws) > 1:
        g = np.mean([function(x, np.random.default_rng(i))[1] for i in range(4000)], axis=0)
    else:
        g = function(x, random)[1]
    for i, unit in enumerate(np.eye(SIZE)):
        slope = (function(x + h * unit, random)[0] - function(x - h * unit, random)[0]) / (2 * h)
        assert g[i] == pytest.approx(slope, rel=1e-6, abs=0.03 if len(draws) > 1 else 1e-8)


def test_a_state_is_what_its_steps_lead_to() -> None:
    state = sample_state(TruncatedMemory(-1.0), 4, metric=Adam(), weight_decay=0.1, seed=5)
    again = Optimizer(state.x0, TruncatedMemory(-1.0), lr=1.0, metric=Adam(), weight_decay=0.1)
    for shown in state.past:
        show(again, shown)
    assert all(np.array_equal(a, b) for a, b in zip(again.memory, state.optimizer.memory, strict=True))
    assert state.now.loss is not None
    assert state.model().lr == state.now.lr
    assert state.case == "random"
    assert sample_state(HeavyBall(), 4, loss=True).now.loss is not None
    assert sample_state(HeavyBall(), 4).now.loss is None


def test_states_go_through_every_case_and_depend_on_number_and_seed() -> None:
    assert {sample_state(HeavyBall(), number).case for number in range(3 * len(CASES))} == set(CASES)
    assert {sample_state(HeavyBall(), n, metric=LInf()).case for n in range(3 * len(IN_NORMS))} == set(IN_NORMS)
    state = sample_state(HeavyBall(), 3)
    turned = [np.array_equal(g, -d) for g, d in zip(state.now.gradient, state.optimizer.memory, strict=True)]
    assert state.case == "gradient = -memory"
    assert all(turned)
    assert not np.array_equal(sample_state(HeavyBall(), 1).x0[0], sample_state(HeavyBall(), 1, seed=1).x0[0])
    assert not np.array_equal(sample_state(HeavyBall(), 1).x0[0], sample_state(HeavyBall(), 2).x0[0])
    for arguments in ({"number": -1}, {"number": 0, "seed": -1}):
        with pytest.raises(ValueError, match=r"(number|seed) must be >= 0, got -1"):
            sample_state(HeavyBall(), **arguments)


def test_the_command() -> None:
    run = CliRunner().invoke(main, ["same", "GradientDescent", "HeavyBall(0.0)", "--metric", "Adam", "--trials", "3"])
    assert run.exit_code == 0, run.output
    assert "the same to rounding" in run.output
    metrics = ["--metric", "Euclidean", "--metric", "Adam"]
    run = CliRunner().invoke(main, ["same", "AdaptiveMemory", "MoMo", *metrics, "--trials", "3"])
    assert run.exit_code == 1
    assert run.output.count("not the same. First in state 0 (gradient = memory)") == 2
    run = CliRunner().invoke(main, ["same", "AdaptiveMemory", "Momentum"])
    assert run.exit_code == 1
    assert "rule must be one of GradientDescent" in run.output
