"""Hard steps in the maximum norm by the C++ kernels: those of torch operations, whatever the gradients and memories."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from proxmom import AdaptiveMemory, GradientDescent, HeavyBall, LInf, MoMo, Polyak, TruncatedMemory, kernels
from proxmom.kernels import signs
from proxmom.step import in_norm
from proxmom.torch import ProxOptimizer
from proxmom.torch.passes.native_signs import NativeSignPasses
from proxmom.torch.passes.norms import NormPasses
from tests.torch.common import same

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())
SHAPES = ((5, 4), (7,), (), (0,), (3, 2, 2))
RULES = [
    GradientDescent(),
    HeavyBall(0.9),
    AdaptiveMemory(0.95),
    AdaptiveMemory(0.8, height="aggregated"),
    TruncatedMemory(-1.0),
    Polyak(-1.0),
    MoMo(-1.0),
]
Numbers = Callable[[Any, tuple[int, ...]], Any]


def normal(random: Any, shape: tuple[int, ...]) -> Any:
    return random.normal(size=shape)


# gradient and memory, of what a step may meet
STATES: dict[str, tuple[Numbers, Numbers]] = {
    "usual": (normal, normal),
    "ties": tuple(lambda r, s: r.integers(-2, 3, size=s).astype(float) for _ in range(2)),  # type: ignore[dict-item]
    "the same twice": (lambda r, s: np.ones(s), lambda r, s: np.ones(s)),
    "opposite": (lambda r, s: np.ones(s), lambda r, s: -np.ones(s)),
    "far and opposite": (lambda r, s: np.ones(s), lambda r, s: -7 * np.ones(s)),
    "no gradient": (lambda r, s: np.zeros(s), normal),
    "no memory": (normal, lambda r, s: np.zeros(s)),
    "nothing": (lambda r, s: np.zeros(s), lambda r, s: np.zeros(s)),
    "much is dead": (lambda r, s: normal(r, s) * (r.random(s) < 0.3), lambda r, s: normal(r, s) * (r.random(s) < 0.3)),
    "huge": (lambda r, s: 1e28 * normal(r, s), lambda r, s: 1e28 * normal(r, s)),
    "tiny": (lambda r, s: 1e-25 * normal(r, s), lambda r, s: 1e-25 * normal(r, s)),
    "of all sizes": (lambda r, s: normal(r, s) ** 9, lambda r, s: normal(r, s) ** 9),
}


def parameters(dtype: torch.dtype, seed: int = 0, shapes: Any = SHAPES) -> list[nn.Parameter]:
    random = np.random.default_rng(seed)
    return [nn.Parameter(torch.tensor(random.normal(size=shape), dtype=torch.float64).to(dtype)) for shape in shapes]


def twins(rule: Any, dtype: torch.dtype, shapes: Any = SHAPES, **given: Any) -> list[ProxOptimizer]:
    """The same optimizer by kernels and by torch operations, with two groups."""
    made = []
    for foreach in (None, False):
        params = parameters(dtype, shapes=shapes)
        groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 0.03}] if len(params) > 1 else params
        made.append(ProxOptimizer(groups, rule, 0.01, metric=LInf(), foreach=foreach, **given))
    return made


def members(optimizer: ProxOptimizer) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def give(optimizer: ProxOptimizer, values: list[Any]) -> None:
    for p, value in zip(members(optimizer), values, strict=True):
        p.grad = torch.tensor(value, dtype=torch.float64).to(p.dtype)


def drawn(how: Numbers, seed: int, optimizer: ProxOptimizer) -> list[Any]:
    random = np.random.default_rng(seed)
    return [np.asarray(how(random, tuple(p.shape))) for p in members(optimizer)]


def stepped(optimizer: ProxOptimizer, gradient: Numbers, memory: Numbers, seed: int) -> ProxOptimizer:
    """A second step, from a memory and with gradients of a kind."""
    give(optimizer, drawn(normal, 1, optimizer))
    optimizer.step(loss=2.0)
    for p, value in zip(members(optimizer), drawn(memory, seed + 100, optimizer), strict=True):
        optimizer.state[p]["memory"].copy_(torch.tensor(value))
    give(optimizer, drawn(gradient, seed, optimizer))
    optimizer.step(loss=1.5)
    return optimizer


def assert_same(fast: ProxOptimizer, slow: ProxOptimizer, tolerance: float) -> None:
    assert fast.path == "C++ kernels"
    assert slow.path == "steepest directions"
    beta, other = (optimizer.diagnostics()["beta"] for optimizer in (fast, slow))
    torch.testing.assert_close(beta, other, rtol=tolerance, atol=tolerance)
    for p, q in zip(members(fast), members(slow), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance)
        mine, theirs = fast.state[p]["memory"], slow.state[q]["memory"]
        size = float(theirs.abs().max()) if theirs.numel() else 0.0
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance * size)
        assert all(torch.equal(fast.state[p][name], slow.state[q][name]) for name in ("step", "skipped"))


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
@pytest.mark.parametrize("state", STATES)
def test_whatever_the_state_the_step_is_that_of_torch_operations(state: str, decay: str, scope: str) -> None:
    for seed in range(3):
        pair = twins(AdaptiveMemory(0.95), torch.float64, scope=scope, decay=decay, weight_decay=0.1)
        assert_same(*(stepped(optimizer, *STATES[state], seed) for optimizer in pair), tolerance=1e-12)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule)[:40])
def test_every_rule_steps_as_by_torch_operations(rule: Any, state: str) -> None:
    for maximize in (False, True):
        if maximize and rule in RULES[3:]:
            continue  # these look at the loss
        pair = twins(rule, torch.float64, maximize=maximize, decay="decoupled", weight_decay=0.1)
        assert_same(*(stepped(optimizer, *STATES[state], 5) for optimizer in pair), tolerance=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state", [name for name in STATES if name != "huge"])
def test_shorter_numbers_differ_by_their_rounding(state: str, dtype: torch.dtype) -> None:
    pair = twins(AdaptiveMemory(0.95), dtype, decay="coupled", weight_decay=0.1)
    fast, slow = (stepped(optimizer, *STATES[state], 2) for optimizer in pair)
    for p, q in zip(members(fast), members(slow), strict=True):
        assert fast.state[p]["memory"].dtype == torch.float32
        rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps
        torch.testing.assert_close(p, q, rtol=rounding, atol=0.03 * 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_of_many_elements_few_are_between(dtype: torch.dtype, scope: str) -> None:
    """A sample decides where to ask; the gap is as small as by torch operations, and almost all elements move alike."""
    fast, slow = twins(AdaptiveMemory(0.95), dtype, shapes=((300, 401), (50001,), (17,)), scope=scope)
    for seed, how in enumerate([*["usual"] * 3, "of all sizes", "much is dead", "no memory"]):
        for optimizer in (fast, slow):
            stepped(optimizer, *STATES[how], seed)
        eps = torch.finfo(dtype).eps
        beta, other = (optimizer.diagnostics()["beta"] for optimizer in (fast, slow))
        torch.testing.assert_close(beta, other, rtol=0, atol=10 * eps**0.5)
        for p, q in zip(members(fast), members(slow), strict=True):
            differ = (p - q).detach().abs() > 1e-4 * 0.01
            assert differ.sum() <= 1 + 10 * eps**0.5 * p.numel()
            q.data.copy_(p.data)


def test_few_elements_answer_after_one_look_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the solver asks, the arrays are read once to find its bracket."""
    optimizer = twins(AdaptiveMemory(0.95), torch.float32, shapes=((400, 401), (5, 5)))[0]
    calls = []
    for name in ("pull", "focus"):
        own = getattr(signs, name)
        monkeypatch.setattr(signs, name, lambda *given, own=own, name=name: calls.append(name) or own(*given))
    for seed in range(5):
        stepped(optimizer, normal, normal, seed)
    assert set(calls) == {"focus"}


def test_a_glance_that_misleads_costs_time_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = twins(AdaptiveMemory(0.95), torch.float64, decay="coupled", weight_decay=0.1)
    wrong = iter([(0.9, 0.95), (0.0, 0.1), (0.4, 0.4)] * 2)

    def near(scope: Any, lr: Any, seen: Any, slopes: Any, signal: Any) -> Any:
        return tuple(0 * slopes[:, 0, 0] + b for b in next(wrong))

    monkeypatch.setattr(in_norm, "near", near)
    for seed in range(3):
        assert_same(*(stepped(optimizer, normal, normal, seed) for optimizer in (fast, slow)), tolerance=1e-12)
    assert next(wrong, None) is None


def test_too_many_elements_between_are_not_set_aside() -> None:
    optimizer, other = twins(AdaptiveMemory(0.95), torch.float32, shapes=((300, 300),))
    for each in (optimizer, other):
        stepped(each, *STATES["opposite"], 0)
    assert_same(optimizer, other, tolerance=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    optimizer = stepped(twins(AdaptiveMemory(), torch.float32)[0], normal, normal, 0)
    before = copy.deepcopy([(p.detach(), optimizer.state[p]["memory"]) for p in members(optimizer)])
    members(optimizer)[0].grad[1, 1] = bad
    optimizer.step()
    for p, (x, memory) in zip(members(optimizer), before, strict=True):
        assert torch.equal(p, x)
        assert torch.equal(optimizer.state[p]["memory"], memory)
    assert optimizer.diagnostics()["skipped"] == 1


def test_gradients_may_lie_as_they_like() -> None:
    def laid(optimizer: ProxOptimizer, how: Callable[[Tensor], Tensor]) -> list[Tensor]:
        give(optimizer, drawn(normal, 3, optimizer))
        for p in members(optimizer):
            p.grad = how(p.grad)
        optimizer.step()
        return [p.detach().clone() for p in members(optimizer)]

    def strided(g: Tensor) -> Tensor:
        return torch.stack([g, g + 1], dim=-1)[..., 0]

    def turned(g: Tensor) -> Tensor:
        return g.transpose(0, 1).contiguous().transpose(0, 1) if g.dim() > 1 else g

    def negative(g: Tensor) -> Tensor:
        return torch.complex(g, -g).conj().imag

    plain, *others = (
        laid(stepped(twins(AdaptiveMemory(), torch.float64)[0], normal, normal, 0), how)
        for how in (torch.clone, strided, turned, negative)
    )
    for other in others:
        same(other, plain)
    optimizer = stepped(twins(AdaptiveMemory(), torch.float64)[0], normal, normal, 0)
    expanded = [torch.ones((), dtype=torch.float64).expand(p.shape) for p in members(optimizer)]
    for p, g in zip(members(optimizer), expanded, strict=True):
        p.grad = g
    optimizer.step()
    assert optimizer.diagnostics()["skipped"] == 0


def test_a_checkpoint_goes_on_with_the_same_bits_whatever_the_threads() -> None:
    shapes = ((600, 700), (30,))
    optimizer = stepped(twins(AdaptiveMemory(0.95), torch.float32, shapes)[0], normal, normal, 0)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = twins(AdaptiveMemory(0.95), torch.float32, shapes)[0]
    for p, q in zip(members(again), members(optimizer), strict=True):
        p.data.copy_(q.data)
    again.load_state_dict(torch.load(file, weights_only=True))
    threads = torch.get_num_threads()
    try:
        for each, count in ((optimizer, 1), (again, 3)):
            torch.set_num_threads(count)
            for seed in (7, 8):
                give(each, drawn(normal, seed, each))
                each.step()
    finally:
        torch.set_num_threads(threads)
    same(members(again), members(optimizer))
    same(*([each.state[p]["memory"] for p in members(each)] for each in (again, optimizer)))


def test_who_is_served() -> None:
    def passes(norm: Any = None, **given: Any) -> Any:
        norm = LInf() if norm is None else norm
        optimizer = ProxOptimizer([nn.Parameter(torch.ones(2))], AdaptiveMemory(), 0.1, metric=norm, **given)
        give(optimizer, [np.ones(2)])
        optimizer.step()
        return type(optimizer._layouts[0].passes)

    assert passes() is NativeSignPasses
    assert passes(foreach=True) is NormPasses
    assert passes(LInf("soft")) is NormPasses
    assert passes(stochastic_rounding=True) is NormPasses


def test_the_state_is_memory_and_numbers() -> None:
    optimizer = stepped(twins(AdaptiveMemory(), torch.float32)[0], normal, normal, 0)
    for p in members(optimizer):
        if p.numel() > 1:
            assert [name for name, value in optimizer.state[p].items() if value.numel() > 1] == ["memory"]
    passes = optimizer._layouts[0].passes
    assert not passes._windows


def test_a_window_is_let_go_at_the_end_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set aside is of gradients that are gone."""
    made: list[Any] = []
    focus = signs.focus
    monkeypatch.setattr(signs, "focus", lambda *given: made.append(focus(*given)) or made[-1])
    params, random = parameters(torch.float64), np.random.default_rng(0)
    optimizer = ProxOptimizer(params, AdaptiveMemory(), 0.1, metric=LInf())
    for _ in range(3):
        for p in params:
            p.grad = torch.tensor(random.normal(size=p.shape))
        optimizer.step()
        passes = optimizer._layouts[0].passes
        assert not passes._windows
        assert passes._between is None
    assert any(window is not None for window in made)
