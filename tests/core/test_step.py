"""The step: scopes and groups, mass of memory, floors, zeros, changing lr, and settings that must be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from proxmom import Adam, AdaptiveMemory, Euclidean, GradientDescent, HeavyBall, MoMo, Plane, TruncatedMemory, mix
from proxmom.memories import Average
from proxmom.numpy import Optimizer, Runs
from proxmom.rules import Facts
from proxmom.step import Inputs, Method, Products, Scalars, Scope, Step, dual
from tests.conftest import RULES

SIZE = 6


def driven(rule: Any, steps: int = 3, seed: int = 0, **settings: Any) -> Optimizer:
    """An optimizer after a few random steps."""
    random = np.random.default_rng(seed)
    optimizer = Optimizer(random.normal(size=SIZE), rule, **{"lr": 0.1, **settings})
    for _ in range(steps):
        optimizer.step(random.normal(size=SIZE), float(random.uniform(0, 2)))
    return optimizer


# --- scopes ---------------------------------------------------------------------------------------------------------


def measured(sizes: Sequence[int], lrs: Sequence[float], decays: Sequence[float]) -> tuple[Products, Any, Any]:
    """Products of tensors of the given sizes, and their lr and weight decay."""
    random = np.random.default_rng(3)
    parts = [random.normal(size=(3, size)) for size in sizes]  # gradient, memory, x
    grams = np.array([u[:2] @ u[:2].T for u in parts])
    pulls = np.array([u[:2] @ u[1] for u in parts])
    return (
        Products(grams, grams / 1.1, pulls / 1.1, np.array([u[:2] @ u[2] for u in parts])),
        np.array(lrs),
        np.array(decays),
    )


def state(tensors: int, scopes: int, last_lr: Any) -> Scalars:
    start = Scalars.start(np.ones(tensors), np.ones(scopes), memory_from_gradient=True)
    return replace(start, step=np.ones(scopes), last_lr=np.array(last_lr))


def outcome(products: Products, lr: Any, decay: Any, scope: Scope, scopes: int) -> Any:
    step = Step(Method(AdaptiveMemory(), Euclidean(), inertia=0.1, decay="decoupled"))
    return step.take(Inputs(products, state(len(lr), scopes, lr / 2), scope, lr, decay)).solution


def test_one_group_is_the_same_split_in_two() -> None:
    random = np.random.default_rng(3)
    whole = random.normal(size=(3, 9))
    for cut in (2, 5):
        parts = [whole[:, :cut], whole[:, cut:]]

        def of(pieces: list[Any]) -> Products:
            grams = np.array([u[:2] @ u[:2].T for u in pieces])
            return Products(grams, grams / 1.1, grams[:, :, 1] / 1.1, np.array([u[:2] @ u[2] for u in pieces]))

        one = outcome(of([whole]), np.array([0.2]), np.array([0.3]), Scope(np.ones((1, 1))), 1)
        two = outcome(of(parts), np.array([0.2, 0.2]), np.array([0.3, 0.3]), Scope(np.ones((1, 2))), 1)
        np.testing.assert_allclose(two.direction, one.direction, rtol=1e-12)
        assert 0 < one.beta[0] < 0.9


def test_groups_with_their_own_lr_share_one_model_by_the_closed_form() -> None:
    products, lr, mu = measured([4, 3], [0.1, 0.4], [0.0, 0.5])
    got = outcome(products, lr, mu, Scope(np.ones((1, 2))), 1).beta[0]
    top = bottom = 0.0
    for p, eta, decay in zip(range(2), lr, mu, strict=True):
        (gg, gd), (_, dd) = products.dual[p]
        gx, dx = products.decay[p]
        kappa = eta / (1 + eta * decay)
        top += eta / 2 * (gd + decay * gx)
        top -= kappa * ((gd - gg + 0.1 * (dd - gd)) / 1.1 + decay * (dx - gx))
        bottom += kappa * (gg - 2 * gd + dd) / 1.1
    assert got == pytest.approx(np.clip(top / bottom, 0, 0.9), rel=1e-12)
    assert 0 < got < 0.9


def test_a_scope_for_each_tensor_is_each_tensor_alone() -> None:
    products, lr, mu = measured([4, 3, 5], [0.1, 0.4, 0.2], [0.0, 0.5, 0.1])
    batch = outcome(products, lr, mu, Scope(), 3)
    for p in range(3):
        one = outcome(
            Products(*(part[p : p + 1] for part in products if part is not None)),
            lr[p : p + 1],
            mu[p : p + 1],
            Scope(),
            1,
        )
        np.testing.assert_allclose(batch.direction[p], one.direction[0], rtol=1e-12)


def test_scopes_between_one_and_all() -> None:
    """Two groups of two tensors: each group is a model of its own."""
    products, lr, mu = measured([4, 3, 5, 2], [0.1, 0.4, 0.2, 0.3], [0.0, 0.5, 0.1, 0.0])
    membership = np.array([[1.0, 0, 1, 0], [0, 1, 0, 1]])
    both = outcome(products, lr, mu, Scope(membership), 2)
    for scope, members in enumerate(([0, 2], [1, 3])):
        alone = Products(*(part[members] for part in products if part is not None))
        one = outcome(alone, lr[members], mu[members], Scope(np.ones((1, 2))), 1)
        np.testing.assert_allclose(both.direction[scope], one.direction[0], rtol=1e-12)


# --- zeros, mass, floors --------------------------------------------------------------------------------------------


def test_zero_lr_moves_nothing_and_leaves_everything_finite(rule: Any, metric: Any) -> None:
    optimizer = driven(rule, metric=metric)
    before, optimizer.lr = optimizer.x, 0.0
    np.testing.assert_array_equal(optimizer.step(np.ones(SIZE), 1.0), before)
    optimizer.lr = 0.1
    assert np.isfinite(optimizer.step(np.ones(SIZE), 1.0)).all()
    assert optimizer.diagnostics()["skipped"] == 0


def test_a_zero_gradient_after_memory_wipes_it() -> None:
    optimizer = driven(AdaptiveMemory())
    x = optimizer.x
    np.testing.assert_array_equal(optimizer.step(np.zeros(SIZE)), x)
    assert optimizer.diagnostics()["beta"] == 0
    np.testing.assert_array_equal(optimizer.memory, 0)


def test_a_zero_gradient_from_the_start_keeps_beta_max() -> None:
    for metric in (Euclidean(), Adam()):
        optimizer = Optimizer(np.ones(SIZE), AdaptiveMemory(0.8), lr=0.1, metric=metric)
        for _ in range(3):
            np.testing.assert_array_equal(optimizer.step(np.zeros(SIZE)), 1)
            assert optimizer.diagnostics()["beta"] == 0.8


def test_gradient_equal_to_memory_keeps_beta_max() -> None:
    optimizer = Optimizer(np.ones(SIZE), AdaptiveMemory(0.8), lr=0.1)
    for _ in range(3):
        optimizer.step(np.full(SIZE, 0.3))
        assert optimizer.diagnostics()["beta"] == 0.8


def test_first_step_of_the_paper_with_adam_is_beta_max_whatever_the_decay() -> None:
    for decay in ("decoupled", "proximal", "coupled"):
        optimizer = Optimizer(
            np.full(SIZE, -9.0), AdaptiveMemory(0.89), lr=0.1, metric=Adam(), weight_decay=3.0, decay=decay
        )
        optimizer.step(np.ones(SIZE))
        assert optimizer.diagnostics()["beta"] == 0.89


def test_bounded_and_normalised_mass_agree_for_a_fixed_beta() -> None:
    """Both conventions are AdamW, and so each other."""

    @dataclass(frozen=True)
    class Normalised(HeavyBall):
        normalised: ClassVar[bool] = True

    for steps in (1, 2, 30):
        one = driven(HeavyBall(0.9), steps=steps, metric=Adam(), weight_decay=0.1)
        two = driven(Normalised(0.9), steps=steps, metric=Adam(), weight_decay=0.1)
        np.testing.assert_allclose(one.x, two.x, rtol=1e-12)


def test_at_or_below_its_bound_nothing_moves_but_the_decay() -> None:
    for rule in (TruncatedMemory(5.0), MoMo(5.0)):
        for metric in (Euclidean(), Adam()):
            for decay, kept in (("proximal", 1 / 1.05), ("decoupled", 0.95)):
                optimizer = driven(rule, metric=metric)  # its losses are below 2 already
                before, memory = optimizer.x, optimizer.memory
                np.testing.assert_array_equal(optimizer.step(np.ones(SIZE), 5.0), before)
                np.testing.assert_array_equal(optimizer.memory, memory)
                assert optimizer.diagnostics()["weights"][-1] == 1
                decaying = driven(rule, metric=metric, weight_decay=0.5, decay=decay)
                before = decaying.x
                np.testing.assert_allclose(decaying.step(np.ones(SIZE), -1e9), kept * before, rtol=1e-12)


def test_a_constant_added_to_the_loss_changes_nothing(metric: Any) -> None:
    for name, rule in RULES.items():
        bounded = hasattr(rule, "lower_bound")
        moved = replace(rule, lower_bound=rule.lower_bound + 64) if bounded else rule
        random = np.random.default_rng(5)
        one, two = (Optimizer(np.ones(SIZE), r, lr=0.1, metric=metric) for r in (rule, moved))
        for _ in range(10):
            g, f = random.normal(size=SIZE), float(random.integers(1, 9))
            np.testing.assert_allclose(one.step(g, f), two.step(g, f + 64), rtol=1e-9, err_msg=name)


def test_aggregated_height_is_the_combination_of_past_gradient_planes(metric: Any) -> None:
    """Written out: every past plane with its weight, evaluated at today's x."""
    random = np.random.default_rng(6)
    optimizer = Optimizer(random.normal(size=SIZE), MoMo(-50.0, beta=0.7), lr=0.05, metric=metric)
    planes: list[tuple[float, Any, Any, float]] = []  # weight, gradient, x, loss
    for step in range(12):
        g, x, f = random.normal(size=SIZE), optimizer.x, float(random.uniform(1, 2))
        model = optimizer.preview(g, f)
        total = sum(weight for weight, *_ in planes)
        value = sum(weight * (loss + gradient @ (x - where)) for weight, gradient, where, loss in planes)
        optimizer.step(g, f)
        beta = optimizer.diagnostics()["beta"]
        if step > 0:
            assert total == pytest.approx(1)
            assert model.heights[0] == pytest.approx(beta * (value - f), rel=1e-9, abs=1e-9)
        planes = [(beta * weight, *rest) for weight, *rest in planes] + [(1 - beta if step else 1.0, g, x, f)]
        np.testing.assert_allclose(sum(w * g_ for w, g_, *_ in planes), model.next_memory, rtol=1e-9, atol=1e-12)


def test_further_memories_are_averaged_and_offered_as_planes() -> None:
    @dataclass(frozen=True)
    class TwoMemories:
        beta_max: ClassVar[float] = 0.9
        memories: ClassVar[dict[str, Any]] = {"slow": Average(0.25, start="gradient")}

        def planes(self, now: Any) -> Any:
            slow = Plane(now.vector("slow"), 0.0)
            return now.gradient_plane, mix(now.gradient_plane, now.memory_plane(), 0.9), slow

    optimizer = Optimizer(np.ones(SIZE), TwoMemories(), lr=0.1)
    slow, random = None, np.random.default_rng(0)
    for _ in range(5):
        g = random.normal(size=SIZE)
        if slow is not None:
            np.testing.assert_allclose(optimizer.preview(g).slopes[2], slow)
        optimizer.step(g)
        slow = g if slow is None else 0.75 * slow + 0.25 * g


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        (TruncatedMemory(0.0), {"inertia": 0.1}, r"TruncatedMemory looks at the loss, so inertia must be 0, got 0\.1"),
        (MoMo(0.0), {"decay": "coupled"}, r"MoMo looks at the loss, so decay must be 'decoupled' or 'proximal'"),
        (AdaptiveMemory(1.0), {"metric": Adam()}, r"beta_max must be < 1 with Adam, got 1"),
        (HeavyBall(1.0), {"metric": Adam()}, r"beta_max must be < 1 with Adam, got 1"),
        (HeavyBall(), {"inertia": -0.1}, r"inertia must be >= 0 and finite, got -0\.1"),
        (HeavyBall(), {"inertia": np.nan}, r"inertia must be >= 0 and finite, got nan"),
        (HeavyBall(), {"decay": "none"}, r"decay must be one of 'coupled', 'decoupled', 'proximal', got 'none'"),
        (HeavyBall(), {"weight_decay": -1.0}, r"weight_decay must be >= 0 and finite, got -1\.0"),
        (HeavyBall(), {"lr": 0.0}, r"lr must be > 0 and finite, got 0\.0"),
        (HeavyBall(), {"lr": np.inf}, r"lr must be > 0 and finite, got inf"),
        (HeavyBall, {}, r"Pass an instance"),
        (object(), {}, r"rule must be an object with a method planes\(now\), .* Define planes\(self, now\)"),
        (HeavyBall(), {"metric": Adam}, r"metric must be an object like Euclidean\(\) with one of"),
    ],
)
def test_settings_that_do_not_go_together(rule: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Optimizer(np.ones(3), rule, **{"lr": 0.1, **settings})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaptiveMemory(1.5), r"beta_max must be in \[0, 1\], got 1\.5"),
        (
            lambda: AdaptiveMemory(height="tall"),
            r"'linearised', 'previous value', 'cutting plane', 'aggregated', got 'tall'",
        ),
        (lambda: HeavyBall(-0.1), r"beta must be in \[0, 1\], got -0\.1"),
        (lambda: HeavyBall(float("nan")), r"beta must be in \[0, 1\], got nan"),
        (lambda: MoMo(float("-inf")), r"lower_bound must be a finite number, got -inf"),
        (lambda: TruncatedMemory(0.0, 2.0), r"beta_max must be in \[0, 1\], got 2\.0"),
        (lambda: Adam(beta2=1.0), r"beta2 must be in \[0, 1\), got 1\.0"),
        (lambda: Adam(eps=0.0), r"eps must be > 0, got 0\.0"),
        (lambda: Facts.of(_rule(memories={"memory": Average(0.5)})), r"memories must have names of their own"),
        (lambda: Average(0.0), r"coefficient must be in \(0, 1\], got 0\.0"),
    ],
)
def test_values_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _rule(planes: Any = None, **facts: Any) -> Any:
    return type("Mine", (), {"planes": lambda self, now: planes(now), **facts})()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (_rule(lambda now: []), r"Mine\.planes\(now\) must return a tuple of one to 16 Planes, got \[\]"),
        (_rule(lambda now: [1.0]), r"must return a tuple of one to 16 Planes, got \[1\.0\]"),
        (_rule(lambda now: [now.gradient_plane] * 17), r"a model must have 1 to 16 planes, got 17"),
        (_rule(lambda now: Plane(now.zero, 0.0)), r"at least one plane with a slope, got only lower bounds"),
        (
            _rule(lambda now: [now.gradient_plane, Plane(now.zero, -1.0)]),
            r"Mine has a floor, so the class must say normalised = True and needs_loss = True",
        ),
        (_rule(lambda now: [now.gradient_plane, now.floor(0.0)]), r"Mine looks at the loss: say so in the class"),
    ],
)
def test_what_a_rule_returns_is_checked_before_anything_changes(rule: Any, message: str) -> None:
    optimizer = Optimizer(np.ones(3), rule, lr=0.1)
    with pytest.raises((ValueError, TypeError), match=message):
        optimizer.step(np.ones(3), 1.0)
    np.testing.assert_array_equal(optimizer.x, 1)
    assert optimizer.diagnostics()["steps"] == 0


def test_a_rule_may_return_one_plane_without_a_tuple() -> None:
    one = driven(_rule(lambda now: now.gradient_plane))
    np.testing.assert_array_equal(one.x, driven(GradientDescent()).x)


def test_each_model_looks_at_its_own_floor() -> None:
    """Of runs side by side only those at or below their bound stay where they are."""
    g, losses = np.array([[1.0, 2.0], [1.0, 2.0], [3.0, -1.0]]), np.array([5.0, -1.0, 0.0])
    runs = Runs(np.zeros((3, 2)), TruncatedMemory(0.0), lr=0.1)
    for _ in range(2):
        runs.step(g, losses)
    np.testing.assert_array_equal((runs.x != 0).all(axis=1), [True, False, False])


def test_above_its_bound_a_model_goes_on_averaging_where_the_floor_has_all_the_weight() -> None:
    """Only weight decay leads there; of two models side by side each looks at its own height."""
    weights, slopes = np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[[0.25, 0.75], [0.0, 0.0]]] * 2)
    heights = np.array([[0.0, -1.0], [0.0, 1.0]])
    direction, slope_weight, stays = dual._direction(weights, slopes, heights, heights, [1])
    np.testing.assert_array_equal(stays, [False, True])
    np.testing.assert_array_equal(slope_weight, 0)
    np.testing.assert_array_equal(direction, [[0.25, 0.75], [0.0, 1.0]])
