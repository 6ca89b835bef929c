"""The scalars of a step by their recording: the numbers of the code that was recorded, or that code itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import proxmom
from proxmom import Plane, kernels
from proxmom.metrics import Adam, Euclidean
from proxmom.rules import RULES
from proxmom.torch import AMSGD, ProxOptimizer
from proxmom.torch.recording import Decision

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels are not built")

BOUNDED = {"TruncatedMemory", "Polyak", "MoMo"}
GROUPS = {
    "one": lambda p: p,
    "two": lambda p: [{"params": p[:2]}, {"params": p[2:], "weight_decay": 0.1, "lr": 0.03}],
}


def train(make: Callable[[list[nn.Parameter]], ProxOptimizer], steps: int = 12) -> tuple[ProxOptimizer, Tensor]:
    """Some steps on noisy quadratics; the last two parameters join later, so that units of a model differ."""
    torch.manual_seed(1)
    params = [nn.Parameter(torch.randn(4, 3, dtype=torch.float64)) for _ in range(4)]
    optimizer = make(params)
    for step in range(steps):
        used = params if step > 2 else params[:2]
        for p in used:
            p.grad = p.detach() * 0.5 + 0.3 * torch.randn(p.shape, dtype=torch.float64)
        optimizer.step(loss=torch.stack([p.detach().square().sum() for p in params]).sum() / 4)
    return optimizer, torch.stack([p.detach() for p in params])


def as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decision, "_player", lambda *_: None)


@pytest.mark.parametrize("decay", ["coupled", "decoupled", "proximal"])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("metric", [Euclidean(), Adam()], ids=["euclidean", "adam"])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_steps_as_its_code_says(
    name: str, metric: Any, groups: str, decay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = (
        RULES[name](0.0) if name in BOUNDED else RULES[name](**({"beta_max": 0.8} if name == "ConjugateMemory" else {}))
    )
    if decay == "coupled" and proxmom.rules.Facts.of(rule).needs_loss:
        return
    scope = "model" if groups == "two" or name in BOUNDED else "tensor"

    def make(params: list[nn.Parameter]) -> ProxOptimizer:
        return ProxOptimizer(GROUPS[groups](params), rule, 0.1, metric=metric, decay=decay, scope=scope)

    optimizer, found = train(make)
    assert "not recorded" not in optimizer.path
    tapes = optimizer._step.method.recorded
    assert (len(tapes) > 0) == optimizer.path.startswith("C++")
    as_it_is(monkeypatch)
    torch.testing.assert_close(found, train(make)[1], rtol=1e-12, atol=1e-12)


class Branching:
    """Looks at a number."""

    def planes(self, now: proxmom.Now) -> Sequence[Plane]:
        return (now.gradient_plane,) if float(now.step[0]) % 2 else (now.gradient_plane, now.memory_plane())


class Random:
    """Throws a coin."""

    def planes(self, now: proxmom.Now) -> Sequence[Plane]:
        return (Plane(now.gradient * float(np.random.default_rng().uniform(1, 2)), 0.0),)


class Counting:
    """Changes itself, and keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def planes(self, now: proxmom.Now) -> Sequence[Plane]:
        self.seen.append(now.lr)
        return (Plane(now.gradient * len(self.seen), 0.0),)


class Neighbours:
    """Looks at all tensors at once, where each should have its own model."""

    def planes(self, now: proxmom.Now) -> Sequence[Plane]:
        size = now.dot(now.gradient, now.gradient)
        return (Plane(now.gradient * (size / (size + np.flip(size))), 0.0),)


class Foreign:
    """Has something of which nobody can tell whether it has changed."""

    def __init__(self) -> None:
        self.chance = np.random.default_rng()

    def planes(self, now: proxmom.Now) -> Sequence[Plane]:
        return (now.gradient_plane,)


class Alone:
    """Is for one model, and says so."""

    def planes(self, now: proxmom.Now) -> Sequence[Plane]:
        np.broadcast_to(now.step, (1,))
        return (now.gradient_plane,)


def test_a_rule_for_one_model_only_may_refuse_others() -> None:
    def make(params: list[nn.Parameter], **options: Any) -> ProxOptimizer:
        return ProxOptimizer(params, Alone(), 0.1, **options)

    optimizer, found = train(make)
    assert "ValueError for several units" in optimizer.path
    torch.testing.assert_close(found, train(lambda params: make(params, foreach=False))[1], rtol=1e-12, atol=1e-12)


class Telling:
    """Prints at each step."""

    def planes(self, now: proxmom.Now) -> Sequence[Plane]:
        print(end="")
        return (now.gradient_plane,)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Branching(), "a branch on a value"),
        (Random(), "not the same each time"),
        (Counting(), "not the same each time"),
        (Neighbours(), "which depends on other units"),
        (Foreign(), "a Generator, which cannot be watched"),
        (Telling(), "may do more than compute"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_recorded_runs_as_it_is(rule: Any, why: str) -> None:
    def make(params: list[nn.Parameter], **options: Any) -> ProxOptimizer:
        return ProxOptimizer(params, copy.deepcopy(rule), 0.1, scope="tensor", **options)

    optimizer, found = train(make)
    assert why in optimizer.path
    if not isinstance(rule, Random):
        plain = train(lambda params: make(params, foreach=False))[1]
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    if isinstance(rule, Counting):
        assert all(isinstance(lr, np.ndarray) for lr in optimizer.rule.seen)  # type: ignore[attr-defined]
        assert len(optimizer.rule.seen) == 12  # type: ignore[attr-defined]


class Scheduled:
    """Its weight is set from outside."""

    def __init__(self) -> None:
        self.beta = 0.5

    def planes(self, now: proxmom.Now) -> Sequence[Plane]:
        return (proxmom.mix(now.gradient_plane, now.memory_plane(0.0), self.beta),)


def test_a_rule_that_is_changed_between_steps_is_followed() -> None:
    def steps(**options: Any) -> tuple[ProxOptimizer, list[float]]:
        p = nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer, seen = ProxOptimizer([p], rule := Scheduled(), 0.1, **options), []
        for step in range(6):
            rule.beta = 0.5 if step < 3 else 0.1 * step
            p.grad = p.detach() * (1 + step)
            optimizer.step()
            seen += p.tolist()
        return optimizer, seen

    optimizer, found = steps()
    assert "a change in" in optimizer.path
    np.testing.assert_allclose(found, steps(foreach=False)[1], rtol=1e-12)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_copies_have_recordings_of_their_own(how: Callable[[Any], Any]) -> None:
    optimizer, _ = train(lambda params: AMSGD(params, 0.1))
    other = how(optimizer)
    for one in (optimizer, other):
        for p in one.param_groups[0]["params"]:
            p.grad = p.detach().clone()
        one.step()
    for mine, theirs in zip(optimizer.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        assert torch.equal(mine, theirs)
        assert mine is not theirs


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    optimizer, before = train(lambda params: AMSGD(params, 0.1, weight_decay=0.1))
    optimizer.param_groups[0]["params"][1].grad[0, 0] = float("inf")
    optimizer.step()
    after = torch.stack([p.detach() for p in optimizer.param_groups[0]["params"]])
    assert torch.equal(before, after)
    assert optimizer.diagnostics()["skipped"] == 1


def test_rates_that_change_each_step_are_not_recorded_again() -> None:
    optimizer, _ = train(lambda params: AMSGD(params, 0.1))
    tapes = dict(optimizer._step.method.recorded)
    for lr in (0.3, 0.2, torch.tensor(0.1)):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        assert optimizer.state[optimizer.param_groups[0]["params"][0]]["last_lr"] == pytest.approx(float(lr))
    assert {key: id(tape) for key, tape in tapes.items()} == {
        key: id(tape) for key, tape in optimizer._step.method.recorded.items()
    }


@pytest.mark.parametrize("kept", [np.ones, torch.ones, lambda shape: torch.ones(shape, device="meta")])
def test_weights_of_steps_on_the_host_are_not_those_of_a_device(kept: Any) -> None:
    """A model may be moved between two steps: what was kept before is then somewhere else, or no tensor."""
    decision = Decision(proxmom.step.Scope(), None, None, records=False, on_host=False, device=torch.device("cpu"))
    rows = torch.zeros(1, 7)
    decided = {"rows": rows + 1, "weights": torch.tensor([[0.25, 0.75]]), "beta": torch.tensor([0.5])}
    last = (kept((1, 2)), kept((1,)))
    weights, beta = decision.settle(rows, last, decided, torch.tensor(True))
    assert (weights.tolist(), beta.tolist(), rows[0, 0].item()) == ([[0.25, 0.75]], [0.5], 1.0)
