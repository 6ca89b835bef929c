"""Every way to move the arrays takes the same step: C++ kernels, torch operations on blocks, one parameter at a time.

And the way of a device, where no scalar may be looked at; it is made to run on the CPU here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import proxmom.numpy
from proxmom import Adam, AdaptiveMemory, Euclidean, HeavyBall, TruncatedMemory, kernels, mix
from proxmom.memories import Average
from proxmom.metrics import LInf, QuasiNewton, Shampoo
from proxmom.torch import AMSGD, AMAdamW, MoMo, ProxOptimizer
from proxmom.torch.layout import Layout
from proxmom.torch.passes import blocks
from proxmom.torch.passes.native import NativePasses
from proxmom.torch.passes.operations import TorchPasses

PATHS = {"fastest": None, "blocks": True, "one at a time": False, "device": True}


@dataclass(frozen=True)
class TwoMemories:
    """A rule with a further memory."""

    beta_max: float = 0.9
    memories: ClassVar[dict[str, Any]] = {"slow": Average(0.05)}

    def planes(self, now: Any) -> Any:
        slow = now.vector("slow")
        return now.gradient_plane, mix(now.gradient_plane, now.memory_plane(now.dot(slow, now.gradient)), 0.9)


RULES = [AdaptiveMemory(), AdaptiveMemory(0.95, height="aggregated"), HeavyBall(), TruncatedMemory(-1.0), TwoMemories()]


@contextmanager
def path(name: str, block: int) -> Iterator[dict[str, Any]]:
    """The keyword for a path; the device's is made to run on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "HOST_BLOCK", block)
        patch.setattr(blocks, "DEVICE_BLOCK", block)
        patch.setattr(blocks, "SHARE", 1)
        patch.setattr(blocks, "ALIGN", 1)
        patch.setattr(blocks, "ROW", min(block, 3))
        if name == "device":
            patch.setattr(Layout, "on_host", False)
        yield {"foreach": PATHS[name]}


shapes = st.lists(st.sampled_from([(), (0,), (1,), (3,), (5,), (4, 3), (2, 3, 2)]), min_size=1, max_size=6)


@settings(max_examples=60)
@given(
    shapes=shapes,
    rule=st.sampled_from(RULES),
    metric=st.sampled_from([Euclidean(), Adam(beta2=0.9)]),
    inertia=st.sampled_from([0.0, 0.1]),
    decay=st.sampled_from(["coupled", "decoupled", "proximal"]),
    weight_decay=st.sampled_from([0.0, 0.3]),
    scope=st.sampled_from(["model", "tensor"]),
    block=st.sampled_from([1, 4, 7, 64]),
    seed=st.integers(0, 1000),
)
def test_all_paths_are_the_numpy_backend(
    shapes: Any,
    rule: Any,
    metric: Any,
    inertia: float,
    decay: str,
    weight_decay: float,
    scope: str,
    block: int,
    seed: int,
) -> None:
    needs_loss = getattr(rule, "needs_loss", False)
    inertia, decay = (0.0, "proximal" if decay == "coupled" else decay) if needs_loss else (inertia, decay)
    scope = "model" if needs_loss else scope
    common = {"metric": metric, "inertia": inertia, "weight_decay": weight_decay, "decay": decay}
    random = np.random.default_rng(seed)
    start = [random.normal(size=shape) for shape in shapes]
    gradients = [[random.normal(size=shape) for shape in shapes] for _ in range(8)]
    lrs, losses = [0.3, 0.0, *random.uniform(0, 0.5, size=6)], random.uniform(0, 2, size=8)
    together = [start] if scope == "model" else [[x] for x in start]
    theirs = [proxmom.numpy.Optimizer(x, rule, lr=1.0, **common) for x in together]
    trajectories = {}
    for name in PATHS:
        params = [nn.Parameter(torch.tensor(x)) for x in start]
        with path(name, block) as keyword:
            ours = ProxOptimizer(params, rule, 1.0, scope=scope, **common, **keyword)
            for step, lr in enumerate(lrs):
                ours.param_groups[0]["lr"] = lr
                for p, g in zip(params, gradients[step], strict=True):
                    p.grad = torch.tensor(g)
                ours.step(loss=losses[step])
        trajectories[name] = [p.detach().numpy() for p in params]
    for step, lr in enumerate(lrs):
        split = [gradients[step]] if scope == "model" else [[g] for g in gradients[step]]
        for optimizer, g in zip(theirs, split, strict=True):
            optimizer.lr = lr
            optimizer.step(g, losses[step])
    expected = [x for optimizer in theirs for x in optimizer.x]
    for name, xs in trajectories.items():
        for x, y in zip(xs, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", [AMSGD, AMAdamW])
def test_float32_is_float64_to_a_fraction_of_the_move(kind: Any, name: str) -> None:
    random = np.random.default_rng(0)
    start = [random.normal(size=shape) for shape in ((300, 70), (5,), ())]
    with path(name, 1 << 12) as keyword:
        exact, single = (
            [nn.Parameter(torch.tensor(x, dtype=t)) for x in start] for t in (torch.float64, torch.float32)
        )
        optimizers = [kind(params, lr=0.1, weight_decay=0.1, **keyword) for params in (exact, single)]
        for _ in range(20):
            for p, q in zip(exact, single, strict=True):
                p.grad = torch.tensor(random.normal(size=p.shape)).float().double()
                q.grad = p.grad.float()
            for optimizer in optimizers:
                optimizer.step()
    for p, q, x in zip(exact, single, start, strict=True):
        move = (p.detach() - torch.tensor(x)).abs().max()
        assert (p - q.double()).abs().max() <= 1e-5 * move


def test_the_fastest_path_on_the_cpu_is_the_kernels() -> None:
    if not kernels.available():
        pytest.skip(kernels.why_not())
    p = nn.Parameter(torch.ones(3))
    for keyword, expected in ((None, NativePasses), (True, TorchPasses)):
        optimizer = AMAdamW([p], foreach=keyword)
        p.grad = torch.ones(3)
        optimizer.step()
        assert type(optimizer._layouts[0].passes) is expected


class Reads(TorchDispatchMode):
    """Counts how often a value is brought to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        self.count += name in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("metric", [Euclidean(), Adam()])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_on_a_device_no_value_is_read_after_two_steps(rule: Any, metric: Any, scope: str) -> None:
    """The device's way, on the CPU: reading there would wait for all that is in flight."""
    if scope == "tensor" and getattr(rule, "needs_loss", False):
        scope = "group"
        with pytest.raises(ValueError, match="scope must be 'model'"):
            ProxOptimizer([nn.Parameter(torch.ones(1))], rule, 0.1, scope=scope)
        return
    params = [nn.Parameter(torch.ones(shape)) for shape in ((3, 2), (4,), ())]
    with path("device", 4) as keyword:
        optimizer = ProxOptimizer(params, rule, 0.1, metric=metric, weight_decay=0.1, scope=scope, **keyword)
        for step in range(4):
            for p in params:
                p.grad = torch.full_like(p, 1.0 + step)
            with Reads() as reads:
                optimizer.step(loss=torch.tensor(1.0 / (1 + step)))
            assert reads.count == 0 or step < 2
    with Reads() as reads:
        bool(params[0].sum() > 0)
    assert reads.count == 1  # the counter counts


@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
@pytest.mark.parametrize("kind", [AMSGD, AMAdamW, MoMo])
def test_on_a_device_a_step_that_is_not_finite_changes_nothing(kind: Any, first: bool) -> None:
    params = [nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(2, 3))]
    more = {"lower_bound": 0.0} if kind is MoMo else {}

    def step(bad: bool) -> None:
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, float("nan") if bad and i else 0.5)
        optimizer.step(loss=1.0)

    with path("device", 4) as keyword:
        optimizer = kind(params, lr=0.1, weight_decay=0.1, **more, **keyword)
        if not first:
            step(False)
            step(False)
        state = [dict(optimizer.state[p]) for p in params]
        before = [{n: v.clone() for n, v in s.items()} for s in state] + [{"x": p.detach().clone()} for p in params]
        step(True)
        after = [optimizer.state[p] for p in params] + [{"x": p} for p in params]
        for old, new in zip(before, after, strict=True):
            for name, value in old.items():
                assert name == "skipped" or torch.equal(value, new[name]), name
        assert optimizer.diagnostics()["skipped"] == 1
        step(False)
        assert all(p.isfinite().all() for p in params)


def test_stochastic_rounding_lets_small_steps_add_up() -> None:
    """Steps of a thousandth of the spacing at 1: rounding to nearest loses them all, at random their mean survives."""
    moved = {}
    for random in (False, True):
        torch.manual_seed(0)
        p = nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16))
        optimizer = AMSGD([p], lr=2.0**-17, stochastic_rounding=random)
        for _ in range(64):
            p.grad = torch.ones_like(p)
            optimizer.step()
        moved[random] = float((1 - p.detach().double()).mean())
    assert moved[False] == 0
    assert moved[True] == pytest.approx(64 * 2.0**-17, rel=0.1)


def test_a_moved_parameter_is_found_again() -> None:
    """Whoever exchanges p.data between steps gets the step on the new memory."""
    for foreach in (None, True):
        one, two = (nn.Parameter(torch.ones(6, dtype=torch.float64)) for _ in range(2))
        first, second = (AMSGD([p], lr=0.1, foreach=foreach) for p in (one, two))
        for step in range(4):
            one.grad = two.grad = torch.arange(6, dtype=torch.float64) + step
            two.data = two.data.clone()
            first.step()
            second.step()
        assert torch.equal(one, two)


def test_state_that_is_exchanged_is_followed() -> None:
    """Offloading and the like put other tensors into `state[p]`: they are what the next step reads and writes."""
    for foreach in (None, True):
        one, two = ([nn.Parameter(torch.ones(6, dtype=torch.float64)) for _ in range(2)] for _ in range(2))
        first, second = (AMAdamW(params, lr=0.1, foreach=foreach) for params in (one, two))
        for step in range(4):
            for state in second.state.values():
                state.update({name: value.clone() for name, value in state.items()})
            for i, (p, q) in enumerate(zip(one, two, strict=True)):
                p.grad = q.grad = torch.arange(6, dtype=torch.float64) + step * (1 + i)
            first.step()
            second.step()
        for p, q in zip(one, two, strict=True):
            assert torch.equal(p, q)
            assert all(torch.equal(first.state[p][name], second.state[q][name]) for name in first.state[p])


def test_thousands_of_small_parameters_share_what_they_can() -> None:
    """Scope "model": one unit, and few blocks; scope "tensor": rows of one length together."""
    params = [nn.Parameter(torch.ones(10)) for _ in range(500)]
    for scope, units in (("model", 1), ("tensor", 500)):
        optimizer = AMSGD(params, scope=scope, foreach=True)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        layout = optimizer._layouts[0]
        assert layout.scalar_rows.shape[0] == units
        assert len(layout.passes._blocks) <= 2 * blocks.SHARE


def test_parameters_that_stop_and_start_part_ways() -> None:
    """Units split when their members' histories differ, and every member keeps its own."""
    params = [nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3)]
    optimizer = AMAdamW(params, scope="model")
    for awake in ((0, 1, 2), (0, 1, 2), (0, 1), (0, 2), (0, 1, 2), (1,)):
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if i in awake else None
        optimizer.step()
    steps = [int(optimizer.state[p]["step"]) for p in params]
    assert steps == [5, 5, 4]
    assert [int(optimizer.state[p]["count"]) for p in params] == steps


def test_parameters_that_take_turns_are_arranged_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """And step as two optimizers would; joining and parting again is noticed."""
    made = []
    real = ProxOptimizer._arrange_anew
    monkeypatch.setattr(ProxOptimizer, "_arrange_anew", lambda *given: made.append(1) or real(*given))
    params, twins = ([nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)] for _ in range(2))
    together = AMAdamW(params, scope="tensor", lr=0.1)
    apart = [AMAdamW([p], lr=0.1) for p in twins]

    def step(*awake: int) -> None:
        for i, (p, q) in enumerate(zip(params, twins, strict=True)):
            p.grad = q.grad = torch.arange(3.0, dtype=torch.float64) + len(made) + i if i in awake else None
        together.step()
        for i in awake:
            apart[i].step()

    for turn in range(6):
        step(turn % 2)
    assert len(made) == 4  # two sets, and the two optimizers beside
    for awake in ((0, 1), (0,), (1,), (0, 1), (1,)):
        step(*awake)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)  # in torch operations a block may round otherwise


class Made(TorchDispatchMode):
    """Keeps the sizes of what operations make anew."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        alias = func is torch.ops.aten.detach.default or func._schema.is_mutable
        if isinstance(result, Tensor) and not alias and not result._is_view():
            self.sizes.append(result.numel())
        return result


def test_temporaries_are_blocks() -> None:
    p = nn.Parameter(torch.ones(1 << 18))
    optimizer = AMAdamW([p], foreach=True)
    p.grad = torch.ones_like(p)
    optimizer.step()
    with Made() as made:
        optimizer.step()
    assert max(made.sizes) == p.numel() // (3 * blocks.SHARE) // blocks.ALIGN * blocks.ALIGN


def closed_form(
    xs: list[Any], gradients: list[list[Any]], lrs: list[list[float]], mus: list[float], adam: bool
) -> None:
    """The two algorithms as published, one weight of memory for all of `xs`, in loops; writes into `xs`.

    Each tensor has its own lr (a list for each step) and weight decay: coupled in the plain algorithm, decoupled in
    Adam's. Nothing here comes from the package.
    """
    inertia, top = 0.1, 0.89 if adam else 0.9
    ds, vs, last = [0 * x for x in xs], [0 * x for x in xs], [0.0] * len(xs)
    missing = 1.0
    for t, (raw, eta) in enumerate(zip(gradients, lrs, strict=True), start=1):
        gs = raw if adam else [g + mu * x for g, mu, x in zip(raw, mus, xs, strict=True)]
        if t == 1 and not adam:
            ds = [g.copy() for g in gs]
        vs = [0.999 * v + 0.001 * g * g for v, g in zip(vs, gs, strict=True)]
        scale = [(1 - top * missing) * (np.sqrt(v / (1 - 0.999**t)) + 1e-8) if adam else 1 + 0 * v for v in vs]
        above = below = height = 0.0
        for x, g, d, p, lr, before, mu in zip(xs, gs, ds, scale, eta, last, mus, strict=True):
            decay = mu if adam else 0.0
            kappa, m = lr / (1 + lr * decay), 1 / (p * (1 + inertia * p))
            height += before * (np.sum(g * d / p) + decay * np.sum(g * x))
            above += kappa * (np.sum((d - g) * m * (g + inertia * p * d)) + decay * np.sum(x * (d - g)))
            below += kappa * np.sum((d - g) ** 2 * m)
        ratio = (height - above) / below if below > 0 else np.inf if height >= above else -np.inf  # lr = 0
        beta = min(max(ratio, 0.0), top)
        beta = top if adam and t == 1 else beta
        missing *= beta
        for x, g, d, p, lr, mu in zip(xs, gs, ds, scale, eta, mus, strict=True):
            d[...] = (beta * d + (1 - beta) * g + inertia * p * d) / (1 + inertia * p)
            x[...] = (1 - lr * mu * adam) * x - lr * d / p
        last = list(eta)


@pytest.mark.parametrize("foreach", [None, True, False], ids=["fastest", "blocks", "one at a time"])
@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("adam", [False, True], ids=["AMSGD", "AMAdamW"])
def test_the_papers_algorithms_in_closed_form(adam: bool, scope: str, foreach: bool | None) -> None:
    """A hundred steps: groups with their own lr and decay, a schedule with zeros, several tensors."""
    random = np.random.default_rng(0)
    start = [random.normal(size=shape) for shape in ((4, 3), (5,), (2, 2), (7,))]
    gradients = [[random.normal(size=x.shape) + x for x in start] for _ in range(100)]
    schedule = [abs(np.sin(0.3 * t)) * (t % 17 != 0) for t in range(100)]
    base, mus = [0.1, 0.1, 0.03, 0.03], [0.1, 0.1, 0.0, 0.0]
    params = [nn.Parameter(torch.tensor(x)) for x in start]
    groups = [{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:], "weight_decay": 0.0}]
    optimizer = (AMAdamW if adam else AMSGD)(groups, scope=scope, foreach=foreach)
    for step, factor in enumerate(schedule):
        for group, lr in zip(optimizer.param_groups, (0.1, 0.03), strict=True):
            group["lr"] = lr * factor
        for p, g in zip(params, gradients[step], strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
    sharing = {"model": [[0, 1, 2, 3]], "group": [[0, 1], [2, 3]], "tensor": [[0], [1], [2], [3]]}[scope]
    for members in sharing:
        xs = [start[i].copy() for i in members]
        lrs = [[base[i] * factor for i in members] for factor in schedule]
        closed_form(xs, [[g[i] for i in members] for g in gradients], lrs, [mus[i] for i in members], adam)
        for i, x in zip(members, xs, strict=True):
            np.testing.assert_allclose(params[i].detach().numpy(), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize(
    "metric", [Euclidean(), Adam(), LInf(), QuasiNewton(), Shampoo()], ids=lambda m: type(m).__name__
)
def test_where_there_is_no_decay_x_may_be_anything(metric: Any, scope: str, value: float) -> None:
    """Beside a group with coupled decay, whichever way the arrays are moved."""
    for foreach in (None, True, False):
        params = [nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
        params[1].data[0, 0] = value
        groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "weight_decay": 0.0}]
        rule = HeavyBall(0.8) if metric != LInf() else AdaptiveMemory()
        optimizer = ProxOptimizer(groups, rule, 0.1, metric=metric, scope=scope, decay="coupled", foreach=foreach)
        params[0].grad, params[1].grad = torch.ones(3, 2), torch.ones(3, 2)
        optimizer.step()
        assert optimizer.diagnostics()["skipped"] == 0
        assert params[1].detach().flatten()[1:].isfinite().all()
        assert params[0].isfinite().all()
