"""Step sizes, and the scalars that rules and step sizes keep: known numbers, all paths, saved state, errors."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from proxmom import (
    Adam,
    AdaptiveMemory,
    Alignment,
    ConjugateMemory,
    Euclidean,
    GradientDescent,
    HeavyBall,
    MoMo,
    Secant,
    TruncatedMemory,
    mix,
)
from proxmom.numpy import Optimizer
from proxmom.rules import Facts
from proxmom.torch import AMSGD, AMAdamW, ProxOptimizer
from tests.torch.test_paths import PATHS, Reads, path

RULES = [
    GradientDescent(),
    HeavyBall(0.8),
    AdaptiveMemory(),
    ConjugateMemory(beta_max=0.95),
    TruncatedMemory(-9.0),
    MoMo(-9.0),
]
STEP_SIZES = [Alignment(0.3)]
SHAPES = ((3, 2), (5,), ())


@dataclass(frozen=True)
class Counting:
    """A rule that keeps scalars, and weighs memory by them."""

    beta_max: ClassVar[float] = 0.5
    scalars: ClassVar[Mapping[str, float]] = {"seen": 2.0, "size": -1.0}

    def planes(self, now: Any) -> Any:
        return (mix(now.gradient_plane, now.memory_plane(0.0), 1 / now.recall("seen")),)

    def remember(self, now: Any) -> Any:
        return {"seen": now.recall("seen") + 1, "size": now.dot(now.gradient, now.gradient)}


# What they compute ---------------------------------------------------------------------------------------------------


def test_alignment_follows_its_formula() -> None:
    optimizer, random = (
        Optimizer(np.ones(4), HeavyBall(0.5), lr=0.1, step_size=Alignment(0.3)),
        np.random.default_rng(1),
    )
    x, d, scale = np.ones(4), None, 1.0
    for _ in range(6):
        g = random.normal(size=4)
        if d is not None:
            scale *= np.exp(0.3 * (g @ d) / np.linalg.norm(g) / np.linalg.norm(d))
        d = g if d is None else (g + d) / 2
        x = x - 0.1 * scale * d
        np.testing.assert_allclose(optimizer.step(g), x, rtol=1e-12)
    np.testing.assert_allclose(optimizer.recall("scale"), scale, rtol=1e-12)


def test_scalars_start_as_declared_and_become_what_the_rule_remembers() -> None:
    optimizer = Optimizer(np.zeros(2), Counting(), lr=1.0)
    assert optimizer.recall("seen") is None
    np.testing.assert_allclose(optimizer.step([2.0, 0.0]), [-2.0, 0.0])
    np.testing.assert_allclose(optimizer.step([3.0, 0.0]), [-2.0 - 2 / 3 * 3 - 1 / 3 * 2, 0.0])
    assert (optimizer.recall("seen"), optimizer.recall("size")) == (4.0, 9.0)
    x = optimizer.x
    np.testing.assert_array_equal(optimizer.step([np.nan, 0.0]), x)
    assert optimizer.recall("seen") == 4.0


def test_a_rule_changes_nothing_when_it_is_asked_twice() -> None:
    """`planes` and `remember` see the same, however often and in whatever order they are asked."""
    optimizer = Optimizer(np.zeros(2), Counting(), lr=1.0)
    for g in ([2.0, 0.0], [3.0, 1.0]):
        before = optimizer.preview(g), optimizer.preview(g)
        optimizer.step(g)
        np.testing.assert_array_equal(before[0].next_x, optimizer.x)
        np.testing.assert_array_equal(before[1].next_x, optimizer.x)


def test_what_is_not_remembered_stays() -> None:
    class Half(Counting):
        def remember(self, now: Any) -> Any:
            return {"size": 7}

    optimizer = Optimizer(np.zeros(2), Half(), lr=1.0)
    optimizer.step([2.0, 0.0])
    assert (optimizer.recall("seen"), optimizer.recall("size")) == (2.0, 7.0)


def test_without_a_step_size_nothing_changes() -> None:
    for rule in RULES:
        one, two = (Optimizer(np.ones(3), rule, lr=0.3, step_size=s) for s in (None, Constant()))
        for k in range(5):
            g = np.array([1.0, -2.0, 0.5]) * (k + 1)
            np.testing.assert_array_equal(one.step(g, 1.0 + k), two.step(g, 1.0 + k))


class Constant:
    def factor(self, now: Any) -> float:
        return 1.0


def test_lr_zero_moves_nothing_and_leaves_everything_finite() -> None:
    for step_size in STEP_SIZES:
        optimizer = Optimizer(np.ones(3), ConjugateMemory(), lr=0.1, step_size=step_size)
        optimizer.step(np.array([1.0, 2.0, 3.0]))
        x = optimizer.x
        optimizer.lr = 0.0
        np.testing.assert_array_equal(optimizer.step(np.array([1.0, 1.0, 3.0])), x)
        optimizer.lr = 0.1
        for _ in range(3):
            assert np.isfinite(optimizer.step(np.array([1.0, 1.0, 2.0]))).all()


# Backends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("metric", [Euclidean(), Adam(beta2=0.9)], ids=str)
@pytest.mark.parametrize("step_size", [*STEP_SIZES, None], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("rule", [*RULES, Counting()], ids=lambda r: type(r).__name__)
def test_all_paths_are_the_numpy_backend(rule: Any, step_size: Any, metric: Any, scope: str) -> None:
    if Facts.of(rule).needs_loss and scope == "tensor":
        return
    random = np.random.default_rng(5)
    shapes = ((3, 2), (5,), (4,))  # in one dimension a finished step ends where the gradient is zero but for rounding
    start = [random.normal(size=shape) for shape in shapes]
    gradients = [[1 + random.normal(size=shape) for shape in shapes] for _ in range(9)]
    settings: dict[str, Any] = {"metric": metric, "step_size": step_size, "weight_decay": 0.1, "decay": "proximal"}
    together = [start] if scope == "model" else [[x] for x in start]
    theirs = [Optimizer(x, rule, lr=0.05, **settings) for x in together]
    params = {name: [nn.Parameter(torch.tensor(x)) for x in start] for name in PATHS}
    for name, mine in params.items():
        with path(name, 4) as keyword:
            ours = ProxOptimizer(mine, rule, 0.05, scope=scope, **settings, **keyword)
            for step, given in enumerate(gradients):
                for p, g in zip(mine, given, strict=True):
                    p.grad = torch.tensor(g)
                ours.step(loss=1 / (1 + step))
    for step, given in enumerate(gradients):
        for optimizer, g in zip(theirs, [given] if scope == "model" else [[g] for g in given], strict=True):
            optimizer.step(g, 1 / (1 + step))
    expected = [x for optimizer in theirs for x in optimizer.x]
    for name, mine in params.items():
        for p, x in zip(mine, expected, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-9, atol=1e-10, err_msg=name)


def loss_of(xs: Any) -> Any:
    """A convex function of several tensors, with curvatures from 0.01 to 1 and a kink rounded off."""
    flat = torch.cat([x.reshape(-1) for x in xs])
    scales = torch.logspace(-2, 0, flat.numel(), dtype=flat.dtype)
    return (scales * (flat - 1) ** 2).sum() / 2 + torch.sqrt(1 + flat**2).sum()


def trained(optimizer: Any, params: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(params).backward()
        optimizer.step()


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("step_size", [*STEP_SIZES, None], ids=str)
def test_saved_and_loaded_it_goes_on_as_it_was(step_size: Any, scope: str) -> None:
    rule = Counting() if step_size is None else AdaptiveMemory()
    params = [nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in SHAPES]
    optimizer = ProxOptimizer(params, rule, 0.1, scope=scope, step_size=step_size)
    trained(optimizer, params, 4)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    fresh = ProxOptimizer(others, rule, 0.1, scope=scope, step_size=step_size)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    copied = copy.deepcopy((optimizer, params))
    for o, ps in ((optimizer, params), (fresh, others), copied):
        trained(o, ps, 4)
    for p, q, r in zip(params, others, copied[1], strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)
    names = [name for name in optimizer.state[params[0]] if name.startswith("rule_")]
    assert len(names) == len(rule.scalars if step_size is None else step_size.scalars)


def test_groups_share_one_step_size_in_a_model_and_have_their_own_alone() -> None:
    def run(scope: str, groups: bool) -> list[Any]:
        params = [nn.Parameter(torch.full((3,), float(i), dtype=torch.float64)) for i in range(3)]
        given = [{"params": params[:1]}, {"params": params[1:]}] if groups else params
        trained(ProxOptimizer(given, AdaptiveMemory(), 0.1, scope=scope, step_size=Alignment()), params, 6)
        return [p.detach().numpy() for p in params]

    for one, two in zip(run("model", True), run("model", False), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)
    assert not np.allclose(run("model", True)[0], run("group", True)[0])


def test_a_late_parameter_takes_the_step_size_of_its_scope() -> None:
    early, late = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizer = ProxOptimizer([early, late], HeavyBall(), 0.1, step_size=Alignment())
    for step in range(4):
        early.grad = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        late.grad = early.grad.clone() if step > 1 else None
        optimizer.step()
    scales = [float(optimizer.state[p]["rule_scale"]) for p in (early, late)]
    assert scales[0] == scales[1] > 2


@pytest.mark.parametrize("step_size", STEP_SIZES, ids=str)
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_on_a_device_no_value_is_read_after_two_steps(step_size: Any, scope: str) -> None:
    params = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    with path("device", 4) as keyword:
        optimizer = ProxOptimizer(params, ConjugateMemory(), 0.1, scope=scope, step_size=step_size, **keyword)
        for step in range(4):
            for p in params:
                p.grad = torch.full_like(p, 1.0 + step)
            with Reads() as reads:
                optimizer.step()
            assert reads.count == 0 or step < 2


def test_the_named_optimizers_take_a_step_size() -> None:
    for kind in (AMSGD, AMAdamW):
        params = [nn.Parameter(torch.ones(3, dtype=torch.float64))]
        optimizer = kind(params, lr=1e-4, step_size=Alignment())
        trained(optimizer, params, 20)
        assert float(optimizer.state[params[0]]["rule_scale"]) > 10


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Alignment(0.0), ValueError, "rate must be > 0 and finite, got 0.0."),
        (lambda: ConjugateMemory(restart=0.0), ValueError, "restart must be > 0"),
        (lambda: ConjugateMemory(beta_max=2.0), ValueError, "beta_max must be in"),
        (lambda: Optimizer(np.ones(1), HeavyBall(), lr=1.0, step_size=Alignment), TypeError, "Pass an instance"),
        (lambda: Optimizer(np.ones(1), HeavyBall(), lr=1.0, step_size=0.5), TypeError, "method factor"),  # type: ignore[arg-type]
        (
            lambda: Optimizer(np.ones(1), HeavyBall(), lr=1.0, step_size=Secant()),
            TypeError,
            "proxmom.numpy.minimize alone",
        ),  # type: ignore[arg-type]
        (lambda: Optimizer(np.ones(1), Clash(), lr=1.0, step_size=Alignment()), ValueError, "must agree on 'scale'"),
        (lambda: Optimizer(np.ones(1), Forgetful(), lr=1.0).step([1.0]), ValueError, "scalar must be one of"),
        (
            lambda: Optimizer(np.ones(1), Talkative(), lr=1.0).step([1.0]),
            ValueError,
            "the class declares, got 'more'",
        ),
        (lambda: Optimizer(np.ones(1), Endless(), lr=1.0), ValueError, "scalars must map identifiers"),
    ],
)
def test_errors_say_what_is_wrong(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace(".", r"\.")):
        make()


class Clash(GradientDescent):
    scalars: ClassVar[Mapping[str, float]] = {"scale": 2.0}


class Forgetful(GradientDescent):
    def planes(self, now: Any) -> Any:
        return now.recall("nothing")


class Talkative(GradientDescent):
    def remember(self, now: Any) -> Any:
        return {"more": 1.0}


class Endless(GradientDescent):
    scalars: ClassVar[Mapping[str, float]] = {"far": np.inf}
