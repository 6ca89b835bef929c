"""Norms in torch: Signum, Lion and Muon to rounding, the steps of NumPy, and groups in a metric of their own."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from proxmom import (
    Adam,
    AdaptiveMemory,
    Alignment,
    ConjugateMemory,
    Euclidean,
    GradientDescent,
    HeavyBall,
    LInf,
    MoMo,
    Plane,
    Polyak,
    Spectral,
    SteadyMemory,
    TruncatedMemory,
)
from proxmom.memories import Average, Memory
from proxmom.numpy import Optimizer
from proxmom.torch import AMMuon, AMSign, ProxOptimizer
from proxmom.torch.layout import Layout
from tests.torch.common import give, same

Gradients = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Lion:
    beta1: float = 0.9
    beta2: float = 0.99

    @property
    def memories(self) -> Mapping[str, Memory]:
        return {"average": Average(1 - self.beta2)}

    def planes(self, now: Any) -> Sequence[Plane]:
        return (Plane(now.gradient * (1 - self.beta1) + now.vector("average") * self.beta1, 0.0),)


@dataclass(frozen=True)
class Nesterov:
    """Muon's: the gradient and the average that it has just been added to, averaged once more."""

    beta: float = 0.95

    @property
    def memories(self) -> Mapping[str, Memory]:
        return {"average": Average(1 - self.beta)}

    def planes(self, now: Any) -> Sequence[Plane]:
        return (Plane(now.gradient * (1 - self.beta**2) + now.vector("average") * self.beta**2, 0.0),)


def pair(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[list[Any], list[Any], Gradients]:
    """Twice the same parameters, and gradients for them."""
    random = np.random.default_rng(0)
    first = [nn.Parameter(torch.tensor(random.normal(size=shape), dtype=dtype)) for shape in shapes]
    second = [nn.Parameter(p.detach().clone()) for p in first]
    return first, second, lambda: [torch.tensor(random.normal(size=shape), dtype=dtype) for shape in shapes]


def distance(first: list[Any], second: list[Any]) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(first, second, strict=True))


# --- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_plane_in_the_maximum_norm_is_signum(dtype: torch.dtype) -> None:
    first, second, gradients = pair((3, 4), (5,), dtype=dtype)
    optimizer = ProxOptimizer(first, HeavyBall(0.9), 0.01, metric=LInf(), weight_decay=0.1, scope="tensor")
    averages = [torch.zeros_like(q) for q in second]
    for _ in range(100):
        for p, q, g, d in zip(first, second, gradients(), averages, strict=True):
            p.grad = g
            d.mul_(0.9).add_(g, alpha=0.1)
            with torch.no_grad():
                q.mul_(1 - 0.01 * 0.1).sub_(0.01 * d.sign())
        optimizer.step()
    assert distance(first, second) <= 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_average_seen_and_another_kept_are_lion(dtype: torch.dtype) -> None:
    first, second, gradients = pair((3, 4), (5,), dtype=dtype)
    optimizer = ProxOptimizer(first, Lion(), 0.01, metric=LInf(), weight_decay=0.1)
    averages = [torch.zeros_like(q) for q in second]
    for _ in range(100):
        for p, q, g, m in zip(first, second, gradients(), averages, strict=True):
            p.grad = g
            with torch.no_grad():
                q.mul_(1 - 0.01 * 0.1).sub_(0.01 * (0.9 * m + 0.1 * g).sign())
            m.lerp_(g, 0.01)
        optimizer.step()
    assert distance(first, second) <= 100 * torch.finfo(dtype).eps


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_plane_in_the_spectral_norm_is_torchs_muon(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, scale: str, nesterov: bool
) -> None:
    first, second, gradients = pair((6, 4), (4, 6), (5, 5), dtype=dtype)
    rule = Nesterov(0.95) if nesterov else HeavyBall(0.95)
    norm = Spectral(polar="newton-schulz", scale=scale)
    ours = ProxOptimizer(first, rule, 0.02, metric=norm, weight_decay=0.1, scope="tensor")
    theirs = torch.optim.Muon(second, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=nesterov, adjust_lr_fn=scale)
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)  # theirs would round what it iterates
    for _ in range(100):
        for p, q, g in zip(first, second, gradients(), strict=True):
            p.grad, q.grad = g, g.clone()
        ours.step()
        theirs.step()
    assert distance(first, second) <= 100 * torch.finfo(dtype).eps


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_as_torch_runs_it_differs_by_the_rounding_of_bfloat16() -> None:
    first, second, gradients = pair((6, 4), (5, 5), dtype=torch.float32)
    norm = Spectral(polar="newton-schulz", scale="original")
    ours = ProxOptimizer(first, HeavyBall(0.95), 0.02, metric=norm, weight_decay=0.1)
    theirs = torch.optim.Muon(second, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=False)
    for _ in range(20):
        for p, q, g in zip(first, second, gradients(), strict=True):
            p.grad, q.grad = g, g.clone()
        ours.step()
        theirs.step()
    assert distance(first, second) <= 20 * 0.02 * 16 * torch.finfo(torch.bfloat16).eps


# --- NumPy's steps ---------------------------------------------------------------------------------------------------

SHAPES = ((3, 4), (3, 3), (2, 1, 2))
NORMS = {
    "LInf": LInf(),
    "soft LInf": LInf("soft"),
    "Spectral": Spectral(),
    "soft Spectral": Spectral("soft", scale="original"),
    "Muon's": Spectral(polar="newton-schulz"),
}
RULES = [
    GradientDescent(),
    HeavyBall(),
    AdaptiveMemory(),
    AdaptiveMemory(height="aggregated"),
    TruncatedMemory(-1.0),
    Polyak(-1.0),
    MoMo(-1.0),
    Lion(),
]


def same_step(params: list[Any], theirs: ProxOptimizer, ours: Optimizer, *, seen: bool = True) -> None:
    """Compares, and goes on from NumPy's: where the dual has a kink, its place is known to the root of rounding.

    So it is everywhere after a fixed number of slopes, where it cannot be seen whether they are enough.
    """
    linear = seen and ours.metric in (NORMS["LInf"], NORMS["Muon's"])
    near = {"rtol": 1e-12, "atol": 1e-12} if linear else {"rtol": 1e-7, "atol": 1e-7}
    for p, x, memory in zip(params, ours.x, ours.memory, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, **near)
        np.testing.assert_allclose(theirs.state[p]["memory"].numpy(), memory, **near)
        p.data.copy_(torch.tensor(x))
        theirs.state[p]["memory"].copy_(torch.tensor(memory))


@pytest.mark.parametrize("on_host", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule)[:40])
def test_every_rule_steps_as_in_numpy(monkeypatch: pytest.MonkeyPatch, rule: Any, norm: str, on_host: bool) -> None:
    monkeypatch.setattr(Layout, "on_host", on_host)
    decay = {"weight_decay": 0.1, "decay": "decoupled"}
    params, _, gradients = pair(*SHAPES)
    ours = Optimizer([p.detach().numpy() for p in params], rule, lr=0.1, metric=NORMS[norm], **decay)
    theirs = ProxOptimizer(params, rule, 0.1, metric=NORMS[norm], **decay)
    for t in range(8):
        drawn = gradients()
        give(params, [(g + 0.3 * p).detach().numpy() for g, p in zip(drawn, params, strict=True)])
        loss = 2.0 / (1 + t)
        ours.step([p.grad.numpy() for p in params], loss)
        theirs.step(loss=loss)
        same_step(params, theirs, ours, seen=on_host)
    assert theirs.diagnostics()["skipped"] == 0


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
@pytest.mark.parametrize("norm", NORMS)
def test_every_scope_and_decay_steps_as_in_numpy(norm: str, decay: str, scope: str) -> None:
    parts = {"model": [[0, 1, 2]], "group": [[0, 2], [1]], "tensor": [[0], [1], [2]]}[scope]
    params, _, gradients = pair(*SHAPES)
    given: dict[str, Any] = {"metric": NORMS[norm], "weight_decay": 0.1, "decay": decay}
    ours = [Optimizer([params[i].detach().numpy() for i in part], AdaptiveMemory(), lr=0.1, **given) for part in parts]
    groups = [{"params": [params[i] for i in part]} for part in parts]
    theirs = ProxOptimizer(groups, AdaptiveMemory(), 0.1, scope=scope, **given)
    for _ in range(6):
        for p, g in zip(params, gradients(), strict=True):
            p.grad = g
        for part, optimizer in zip(parts, ours, strict=True):
            optimizer.step([params[i].grad.numpy() for i in part])
        theirs.step()
        for part, optimizer in zip(parts, ours, strict=True):
            same_step([params[i] for i in part], theirs, optimizer)


# --- groups in a metric of their own ---------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def trained(model: nn.Module, optimizer: ProxOptimizer, steps: range) -> list[Tensor]:
    for step in steps:
        random = torch.Generator().manual_seed(step)
        x, y = (torch.randn(8, n, generator=random, dtype=torch.float64) for n in (5, 3))
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("scope", ["group", "model", "tensor"])
def test_a_group_in_a_metric_of_its_own_is_an_optimizer_of_its_own(scope: str) -> None:
    one, other = network(), network()
    matrices, vectors = ([p for p in one.parameters() if p.ndim == n] for n in (2, 1))
    rule, norm = AdaptiveMemory(0.8), LInf()
    groups = [{"params": matrices}, {"params": vectors, "metric": Adam(0.99), "lr": 0.003}]
    together = ProxOptimizer(groups, rule, 0.01, metric=norm, scope=scope, weight_decay=0.1)
    alone = [
        ProxOptimizer([p for p in other.parameters() if p.ndim == n], rule, lr, metric=m, scope=scope, weight_decay=0.1)
        for n, m, lr in ((2, norm, 0.01), (1, Adam(0.99), 0.003))
    ]
    for step in range(5):
        random = torch.Generator().manual_seed(step)
        x, y = (torch.randn(8, n, generator=random, dtype=torch.float64) for n in (5, 3))
        for model in (one, other):
            model.zero_grad()
            (model(x) - y).square().mean().backward()
        for optimizer in (together, *alone):
            optimizer.step()
        same(list(one.parameters()), list(other.parameters()))
    assert "metric" not in together.param_groups[1]
    assert str(norm) in repr(together)
    assert str(Adam(0.99)) in repr(together)


@pytest.mark.parametrize("make", [AMSign, AMMuon])
def test_a_checkpoint_goes_on_with_the_same_bits(make: Callable[..., ProxOptimizer]) -> None:
    whole = network()
    expected = trained(whole, make(whole.parameters(), lr=0.02), range(8))
    model = network()
    optimizer = make(model.parameters(), lr=0.02)
    trained(model, optimizer, range(4))
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    again = network()
    again.load_state_dict(weights)
    loaded = make(again.parameters(), lr=0.02)
    loaded.load_state_dict(state)
    same(trained(again, loaded, range(4, 8)), expected)
    copied = copy.deepcopy(optimizer)
    params = [p for group in copied.param_groups for p in group["params"]]
    for step in (4, 5):
        for p in params:
            p.grad = torch.full_like(p, 0.1 * step)
        copied.step()
    assert copied.diagnostics()["skipped"] == 0


def test_a_checkpoint_in_other_metrics_is_refused() -> None:
    first, second, _ = pair((2, 3), (4,))
    muon, sign = AMMuon(first), AMSign(second)
    give(first, [np.ones((2, 3)), np.ones(4)])
    muon.step()
    with pytest.raises(ValueError, match=r"is of AMMuon \(AdaptiveMemory with Spectral, Adam\).*AMSign"):
        sign.load_state_dict({**muon.state_dict(), "param_groups": sign.state_dict()["param_groups"]})


def test_muons_groups() -> None:
    """Matrices in the spectral norm, everything else in Adam's; named, in groups, and with their own lr."""
    model = network()
    optimizer = AMMuon(model.named_parameters(), lr=0.02, adam_lr=0.003)
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["0.weight", "2.weight"],
        ["0.bias", "2.bias"],
    ]
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.003]
    give(list(model.parameters()), [np.ones(p.shape) for p in model.parameters()])
    optimizer.step()
    assert "second_moment" in optimizer.state[model[0].bias]
    assert "previous_x" in optimizer.state[model[0].weight]
    embedding, kernel = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(2, 3, 2, 2))
    groups = [{"params": [embedding], "use_muon": False, "lr": 0.5}, {"params": [kernel], "lr": 0.25}]
    optimizer = AMMuon(groups, lr=0.02, adam_lr=0.003)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]
    give([embedding, kernel], [np.ones((4, 2)), np.ones((2, 3, 2, 2))])
    optimizer.step()
    assert "second_moment" in optimizer.state[embedding]
    assert "second_moment" not in optimizer.state[kernel]
    assert len(AMMuon([kernel]).param_groups) == 1
    assert len(AMMuon([nn.Parameter(torch.ones(3))]).param_groups) == 1
    with pytest.raises(ValueError, match=r"adam_lr must be >= 0 and finite, got -1\.0"):
        AMMuon([kernel], adam_lr=-1.0)


def test_a_rule_that_looks_at_the_loss_wants_one_metric() -> None:
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [p]}, {"params": [q], "metric": Adam()}]
    with pytest.raises(ValueError, match=r"MoMo looks at the loss, so metric must be one for all groups.*got Adam"):
        ProxOptimizer(groups, MoMo(0.0), 0.1, metric=Spectral())
    ProxOptimizer([groups[0], {"params": [q], "metric": Spectral()}], MoMo(0.0), 0.1, metric=Spectral())


def test_what_rests_in_another_metric_is_not_of_the_model_that_moves() -> None:
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = ProxOptimizer(
        [{"params": [p]}, {"params": [q], "metric": Euclidean()}], AdaptiveMemory(), 0.1, metric=LInf()
    )
    give([p, q], [np.ones((2, 2)), np.ones(2)])
    optimizer.step()
    q.grad = None
    optimizer.step()
    assert float(optimizer.state[q]["last_lr"]) > 0


def test_groups_that_were_changed_by_hand() -> None:
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    give([p, q], [np.ones((2, 2)), np.ones(2)])
    optimizer = ProxOptimizer(
        [{"params": [p]}, {"params": [q], "metric": Adam()}], AdaptiveMemory(), 0.1, metric=LInf()
    )
    del optimizer.param_groups[0]
    with pytest.raises(RuntimeError, match=r"param_groups must be as many as were added, 2.*got 1"):
        optimizer.step()
    optimizer = ProxOptimizer([{"params": [p]}, {"params": [q]}], AdaptiveMemory(), 0.1, metric=LInf())
    del optimizer.param_groups[0]
    optimizer.step()


# --- memory and refusals ---------------------------------------------------------------------------------------------


def test_state_of_a_sign_step_is_as_large_as_that_of_sgd_with_momentum() -> None:
    p = nn.Parameter(torch.ones(100))
    optimizer = AMSign([p])
    p.grad = torch.ones(100)
    optimizer.step()
    assert [name for name, value in optimizer.state[p].items() if value.numel() > 1] == ["memory"]


def test_memory_tells_how_far_an_element_on_the_edge_has_gone() -> None:
    """Two elements, of which one changes sign at the best weight: it moves by a part of lr, and the rise knows."""
    seen: list[float] = []

    class Watching(AdaptiveMemory):
        def planes(self, now: Any) -> Sequence[Plane]:
            seen.append(float(now.rise[0]))
            return super().planes(now)

    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = ProxOptimizer([p], Watching(), 0.1, metric=LInf())
    parts = []
    random = np.random.default_rng(3)
    for _ in range(30):
        before, g = p.detach().clone(), torch.tensor(random.normal(size=2))
        p.grad = g
        optimizer.step()
        parts.append(((p.detach() - before) / 0.1).abs())
        h = torch.tensor(random.normal(size=2))
        p.grad = h
        expected = float(h @ (before - p.detach()))
        seen.clear()
        last = p.detach().clone()
        optimizer.step()
        assert seen[-1] == pytest.approx(expected, abs=1e-15)
        p.data.copy_(p.detach())
        parts.append(((p.detach() - last) / 0.1).abs())
    assert any(((part < 0.99) & (part > 0.01)).any() for part in parts)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    for metric in NORMS.values():
        params, _, gradients = pair((3, 3), (2, 2))
        optimizer = ProxOptimizer(params, AdaptiveMemory(), 0.1, metric=metric)
        for bad in (False, True, False):
            for p, g in zip(params, gradients(), strict=True):
                p.grad = g
            if bad:
                params[0].grad[0, 0] = float("nan")  # type: ignore[index]
            before = [p.detach().clone() for p in params]
            state = copy.deepcopy([optimizer.state[p] for p in params])
            optimizer.step()
            assert (distance(params, before) == 0) == bad
            if bad:
                same([s["memory"] for s in state], [optimizer.state[p]["memory"] for p in params])
        assert optimizer.diagnostics()["skipped"] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"decay": "proximal"}, "decay must be 'decoupled' or 'coupled' with LInf, got 'proximal'"),
        ({"inertia": 0.1}, r"inertia must be 0 with LInf, got 0\.1"),
        ({"rule": AdaptiveMemory(1.0)}, "beta_max must be < 1 with LInf, got 1"),
        (
            {"rule": ConjugateMemory(beta_max=0.9)},
            "ConjugateMemory cannot be used with LInf: it asks for inner products",
        ),
        ({"rule": SteadyMemory()}, "SteadyMemory cannot be used with LInf: it asks for inner products"),
        ({"step_size": Alignment()}, "Alignment cannot be used with LInf: it asks for inner products"),
        ({"capturable": True}, "capturable must be False with LInf, got True"),
    ],
)
def test_what_has_no_meaning_in_a_norm_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProxOptimizer([nn.Parameter(torch.ones(2))], **{"rule": AdaptiveMemory(), "lr": 0.1, "metric": LInf(), **given})


def test_vectors_are_refused_in_the_spectral_norm_before_anything_moves() -> None:
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))
    optimizer = ProxOptimizer([("weight", p), ("bias", q)], AdaptiveMemory(), 0.1, metric=Spectral())
    give([p, q], [np.ones((2, 2)), np.ones(3)])
    with pytest.raises(ValueError, match=r"bias must have two or more dimensions with Spectral, got shape \(3,\)"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2, 2))
    assert not optimizer.state[p]
