"""Random sequences of what a user may legally do between two steps, against a step that starts from `state` alone.

`plain` below works everything out again at each step, in float64, from what parameters, gradients and state say at that
moment; nothing is cached, nothing is read by address. `PROXMOM_FUZZ=500` runs as many sequences on each path.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from proxmom import Adam, AdaptiveMemory, Euclidean, SteadyMemory
from proxmom.memories import Average, Combination, Displacement, Memory, Position, Previous
from proxmom.step import Inputs, Products, Scalars, Scope, Step
from proxmom.torch import ProxOptimizer, memory
from proxmom.torch.entries import Entries
from proxmom.torch.layout import Layout
from proxmom.torch.passes import cuda
from tests.torch.remembering import EVERY_KIND, Remembering

EXAMPLES = int(os.environ.get("PROXMOM_FUZZ", "40"))
SHAPES = ((), (3,), (4, 3), (2, 3, 2, 2), (0,), (3, 3))
FEW: dict[str, Memory] = {"slow": Average(0.2), "blend": Combination()}
PLACES: dict[str, Memory] = {"away": Displacement(), "blend": Combination(), "at": Position(), "was": Previous("at")}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def make(kind: str, params: Any, scope: str, foreach: bool | None) -> ProxOptimizer:
    """Settings in which every term of a step counts."""
    settings: dict[str, Any] = {"scope": scope, "foreach": foreach, "weight_decay": 0.1, "inertia": 0.1}
    if kind == "adam":
        return ProxOptimizer(params, AdaptiveMemory(0.8), 0.05, metric=Adam(0.9, 1e-3), decay="decoupled", **settings)
    if kind == "memories":
        rule = Remembering(EVERY_KIND if scope == "tensor" else FEW)
        return ProxOptimizer(params, rule, 0.05, metric=Adam(0.9, 1e-3), decay="decoupled", **settings)
    if kind == "places":
        return ProxOptimizer(params, Remembering(PLACES), 0.05, decay="coupled", **settings)
    rule = SteadyMemory(0.8) if kind == "steady" else AdaptiveMemory(0.8)
    return ProxOptimizer(params, rule, 0.05, decay="coupled", **settings)


def double(value: Any) -> Any:
    """A tensor's values."""
    return value.detach().resolve_neg().double().numpy().copy() if isinstance(value, Tensor) else np.float64(value)


def plain(optimizer: ProxOptimizer) -> dict[Tensor, dict[str, Any]]:
    """Of every parameter that will move: x, memory and scalars after the step."""
    step: Step = optimizer._step
    scope, groups = optimizer._scope, optimizer.param_groups
    moving = [(i, place, p) for i, g in enumerate(groups) for place, p in enumerate(g["params"]) if p.grad is not None]
    keys = [{"model": 0, "group": i, "tensor": (i, place)}[scope] for i, place, _ in moving]
    after: dict[Tensor, dict[str, Any]] = {}
    for key in dict.fromkeys(keys):
        mine = [(i, p) for (i, _, p), its in zip(moving, keys, strict=True) if its == key]
        after |= _one_model(optimizer, step, mine)
    return after


def _one_model(optimizer: ProxOptimizer, step: Step, members: list[Any]) -> dict[Tensor, dict[str, Any]]:
    lam, adam = step.method.inertia, isinstance(step.method.metric, Adam)
    olds, gs, xs, mus, lrs = [], [], [], [], []
    for i, p in members:
        group, x, g = optimizer.param_groups[i], double(p), double(p.grad.to(p.dtype))
        mu = group["weight_decay"]
        g = g + mu * x if step.method.decay == "coupled" else g
        old = optimizer.state.get(p, {})
        if "memory" in old and (adam or old["step"] > 0):  # a first step that was skipped is still to come
            entry = {"slope_weight": 1.0, **{name: double(value) for name, value in old.items()}}
        else:
            kept = {"rule_" + name: value for name, value in step.method.scalars.items()}
            entry = {
                "memory": 0 * g if adam else g,
                "step": 0.0,
                "last_lr": 0.0,
                "slope_weight": 1.0,
                "missing": float(adam),
            }
            entry |= {"count": 0.0, "second_moment": 0 * g, **kept, **dict.fromkeys(step.method.memories, 0 * g)}
            entry |= {name: x for name, kind in step.method.memories.items() if isinstance(kind, Displacement)}
        olds.append(entry), gs.append(g), xs.append(x), lrs.append(group["lr"])
        mus.append(0.0 if step.method.decay == "coupled" else mu)
    column = {
        name: np.array([float(old[name]) for old in olds]) for name in ("step", "last_lr", "slope_weight", "missing")
    }
    together = Scope(np.ones((1, len(members))))
    most = column["step"] == column["step"].max()
    own = {
        name: np.array([np.mean([o["rule_" + name] for o, m in zip(olds, most, strict=True) if m])])
        for name in step.method.scalars
    }
    scalars = Scalars(
        step=column["step"].max(keepdims=True),
        last_lr=column["last_lr"],
        slope_weight=column["slope_weight"],
        missing=column["missing"],
        memory_height=np.zeros(1),
        rule_scalars=own,
    )
    factor = np.broadcast_to(step.factor(scalars.missing), (len(members),))
    ps, vs = [], []
    for old, g, f in zip(olds, gs, factor, strict=True):
        v = 0.9 * old.get("second_moment", 0) + 0.1 * g * g if adam else 0 * g
        vs.append(v)
        ps.append(f * (np.sqrt(v / (1 - 0.9 ** (old["count"] + 1))) + 1e-3) if adam else 1 + 0 * g)
    kinds = step.method.memories.items()
    named = [
        [g, old["memory"], *(_vector(kind, old.get(name), x) for name, kind in kinds)]
        for g, old, x in zip(gs, olds, xs, strict=True)
    ]

    def dots(weight: Callable[[Any], Any]) -> Any:
        return np.array(
            [[[np.sum(a * b * weight(p)) for b in us] for a in us] for us, p in zip(named, ps, strict=True)]
        )

    products = Products(
        dual=dots(lambda p: 1 / p),
        metric=dots(lambda p: 1 / (p * (1 + lam * p))),
        pull=dots(lambda p: 1 / (1 + lam * p))[:, :, 1],
        decay=np.array([[np.sum(a * x) for a in us] for us, x in zip(named, xs, strict=True)]) if any(mus) else None,
    )
    rates, decays = np.array(lrs, dtype=float), np.array(mus)
    out = step.take(Inputs(products, scalars, together, rates, decays))
    after = {}
    rows = zip(members, olds, named, xs, ps, vs, strict=True)
    for t, ((_, p), old, us, x, diagonal, v) in enumerate(rows):
        slope = sum(c * u for c, u in zip(out.solution.direction[0], us, strict=True))
        memory = (slope + lam * diagonal * old["memory"]) / (1 + lam * diagonal)
        y = (1 - rates[t] * decays[t]) * x - rates[t] * memory / diagonal
        after[p] = {"x": y, "memory": memory, "step": old["step"] + 1, "last_lr": rates[t]}
        after[p]["missing"] = out.scalars.missing[t]
        if adam:
            after[p] |= {"second_moment": v, "count": old["count"] + 1}
        vectors = dict(zip(step.method.names, us, strict=True))
        after[p] |= {
            name: old[name] if isinstance(kind, Displacement) else _following(kind, name, vectors, out.combinations)
            for name, kind in kinds
            if not isinstance(kind, Position)
        }
    return after


def _vector(kind: Any, kept: Any, x: Any) -> Any:
    """A further memory as the rule sees it."""
    if isinstance(kind, Position):
        return x
    return x - kept if isinstance(kind, Displacement) else kept


def _following(kind: Any, name: str, vectors: dict[str, Any], combinations: Any) -> Any:
    """What a further memory becomes, from what the vectors were before."""
    if isinstance(kind, Average):
        return (1 - kind.coefficient) * vectors[name] + kind.coefficient * vectors["gradient"]
    if isinstance(kind, Previous):
        return vectors[kind.of]
    return sum(c * v for c, v in zip(combinations[name][0], vectors.values(), strict=True))


class World:
    """A small model, its optimizer, and what may be done to them; `random` decides the details."""

    def __init__(self, seed: int, kind: str, scope: str, foreach: bool | None) -> None:
        self.random = np.random.default_rng(seed)
        self.how = (kind, scope, foreach)
        first = [self.parameter() for _ in range(3)]
        self.optimizer = make(kind, [{"params": first[:2]}, {"params": first[2:], "lr": 0.02}], scope, foreach)
        self.default: Any = contextlib.nullcontext

    @property
    def params(self) -> list[Any]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def parameter(self) -> Any:
        shape = SHAPES[self.random.integers(len(SHAPES))]
        return nn.Parameter(
            self.numbers(shape, [torch.float64, torch.float32, torch.bfloat16][self.random.integers(3)])
        )

    def numbers(self, shape: Any, dtype: torch.dtype) -> Tensor:
        return torch.tensor(self.random.normal(size=tuple(shape)), dtype=torch.float64, device="cpu").to(dtype)

    def one(self) -> Any:
        return self.params[self.random.integers(len(self.params))]

    def entry(self) -> Any:
        """A parameter with state, its state and a name there, or None."""
        known = [p for p in self.params if "memory" in self.optimizer.state.get(p, {})]
        if not known:
            return None
        p = known[self.random.integers(len(known))]
        names = Entries.of(self.optimizer._step, p).names
        return p, self.optimizer.state[p], names[self.random.integers(len(names))]

    def gradient(self, p: Any) -> Tensor:
        """Of some layout: plain, expanded, a column, flipped memory, channels_last, negative bit."""
        g, way = self.numbers(p.shape, p.dtype), self.random.integers(6)
        if way == 1 and g.dim():
            return g[:1].expand(p.shape) if len(g) else g
        if way == 2:
            return torch.stack([g, self.numbers(p.shape, p.dtype)], dim=-1)[..., 0]
        if way == 3 and g.dim() >= 2:
            return g.transpose(0, 1).contiguous().transpose(0, 1)
        if way == 4 and g.dim() == 4:
            return g.to(memory_format=torch.channels_last)
        if way == 5 and p.dtype != torch.bfloat16:
            return torch.complex(g, g).conj().imag
        return g

    def step(self) -> None:
        awake = [p for p in self.params if self.random.random() < 0.8]
        for p in self.params:
            p.grad = None
        for p in awake:
            p.grad = self.gradient(p)
        spoilt = [p for p in awake if p.numel()]
        spoil = bool(spoilt) and self.random.random() < 0.1
        before = {p: p.detach().clone() for p in self.params}
        expected = plain(self.optimizer)
        if spoil:
            spoilt[0].grad = torch.full_like(spoilt[0], float("nan"))
        idle = [
            (p, float(self.optimizer.state[p]["last_lr"]))
            for p in self.params
            if p.grad is None and "memory" in self.optimizer.state.get(p, {})
        ]
        with self.default():
            self.optimizer.step()
        self.default = contextlib.nullcontext
        for p in self.params:
            if spoil or p not in expected:
                assert torch.equal(p, before[p]), "what must stay has moved"
        if not spoil:
            self.compare(expected)
        for p, last_lr in idle:
            assert float(self.optimizer.state[p]["last_lr"]) == (0 if not spoil and self.shares(p, awake) else last_lr)

    def shares(self, p: Any, awake: list[Any]) -> bool:
        """Whether others of the model that p belongs to have moved."""
        scope = self.how[1]
        inside = next(g["params"] for g in self.optimizer.param_groups if any(p is q for q in g["params"]))
        return bool({"model": awake, "group": [q for q in awake if any(q is r for r in inside)], "tensor": []}[scope])

    def compare(self, expected: dict[Tensor, dict[str, Any]]) -> None:
        worst = max([TOLERANCE[torch.float32] if p.dtype.itemsize < 8 else 1e-9 for p in expected], default=0.0)
        for p, values in expected.items():
            for name, value in values.items():
                got = p if name == "x" else self.optimizer.state[p][name]
                tolerance = max(worst, TOLERANCE[p.dtype]) if name == "x" else worst
                np.testing.assert_allclose(double(got), value, rtol=tolerance, atol=tolerance, err_msg=name)

    # what may be done between two steps

    def cast(self) -> None:
        p = self.one()
        p.grad = None
        p.data = p.data.to([torch.float64, torch.float32, torch.bfloat16][self.random.integers(3)])

    def reload(self) -> None:
        file = io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        file.seek(0)
        groups = [{"params": g["params"]} for g in self.optimizer.param_groups]
        self.optimizer = make(self.how[0], groups, self.how[1], self.how[2])
        self.optimizer.load_state_dict(torch.load(file, weights_only=True))

    def load_again(self) -> None:
        self.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))

    def clear(self) -> None:
        self.optimizer.state.clear()

    def new_state(self) -> None:
        self.optimizer.state = defaultdict(dict)

    def delete(self) -> None:
        self.optimizer.state.pop(self.one(), None)

    def empty(self) -> None:
        self.optimizer.state[self.one()] = {}

    def foreign(self) -> None:
        self.optimizer.state[self.one()]["z"] = torch.zeros(2, device="cpu")

    def replace(self) -> None:
        if found := self.entry():
            _, state, name = found
            state[name] = state[name].clone()

    def change(self) -> None:
        """A vector of the state becomes another."""
        if found := self.entry():
            p, state, _ = found
            state["memory"] = self.numbers(p.shape, [torch.float64, torch.bfloat16][self.random.integers(2)])

    def move_state(self) -> None:
        if found := self.entry():
            _, state, name = found
            state[name].data = state[name].data.clone()

    def cast_state(self) -> None:
        if found := self.entry():
            _, state, _ = found
            state["memory"].data = state["memory"].data.to([torch.float64, torch.bfloat16][self.random.integers(2)])

    def share_state(self) -> None:
        known = [p for p in self.params if "memory" in self.optimizer.state.get(p, {})]
        for p in known:
            for q in known:
                if p is not q and p.shape == q.shape:
                    self.optimizer.state[q]["memory"] = self.optimizer.state[p]["memory"]
                    return

    def swap(self) -> None:
        """The states of two parameters of one shape."""
        known = [p for p in self.params if "memory" in self.optimizer.state.get(p, {})]
        for p in known:
            for q in known:
                if p is not q and p.shape == q.shape:
                    state = self.optimizer.state
                    state[p], state[q] = state[q], state[p]
                    return

    def strides(self) -> None:
        p = self.one()
        p.grad, way = None, self.random.integers(4)
        if way == 0 and p.dim() >= 2:
            p.data = p.data.transpose(0, 1).contiguous().transpose(0, 1)
        elif way == 1 and p.dim() == 4:
            p.data = p.data.to(memory_format=torch.channels_last)
        elif way == 2:
            p.data = torch.stack([p.data, p.data], dim=-1)[..., 1]
        else:
            p.data = p.data.clone(memory_format=torch.contiguous_format)

    def new_group(self) -> None:
        if len(self.params) < 6:
            self.optimizer.add_param_group({"params": [self.parameter()], "lr": 0.03, "weight_decay": 0.0})

    def renew(self) -> None:
        """A parameter is replaced, as by densification, with or without its state."""
        group = self.optimizer.param_groups[self.random.integers(len(self.optimizer.param_groups))]
        old = group["params"][0]
        group["params"][0] = new = nn.Parameter(old.detach().clone())
        state = self.optimizer.state.pop(old, None)
        if state is not None and self.random.random() < 0.5:
            self.optimizer.state[new] = state

    def copied(self) -> None:
        self.optimizer = copy.deepcopy(self.optimizer)

    def elsewhere(self) -> None:
        """The user's default device or dtype is another one during the next step."""
        self.default = [lambda: torch.device("meta"), half_by_default][self.random.integers(2)]

    def lr(self) -> None:
        self.optimizer.param_groups[0]["lr"] = [0.0, 0.07, 0.01][self.random.integers(3)]


@contextlib.contextmanager
def half_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


ACTIONS = sorted(
    set(vars(World))
    - {"__init__", "params", "parameter", "numbers", "one", "entry", "gradient", "shares", "compare"}
    - {name for name in vars(World) if name.startswith("__")}
)


INTERPRETED = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="tests/torch/test_cuda.py runs this")


@pytest.mark.parametrize(
    "path",
    ["fastest", "without guards", "blocks", "one at a time", "device", pytest.param("triton", marks=INTERPRETED)],
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    actions=st.lists(st.sampled_from([*ACTIONS, *["step"] * len(ACTIONS)]), min_size=2, max_size=24),
    kind=st.sampled_from(["adam", "euclidean", "steady", "memories", "places"]),
    scope=st.sampled_from(["model", "group", "tensor"]),
    seed=st.integers(0, 10_000),
)
def test_whatever_happens_between_steps(path: str, actions: list[str], kind: str, scope: str, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if path in ("device", "triton"):
            patch.setattr(Layout, "on_host", False)
        if path == "without guards":  # torch may take them away
            patch.setattr(memory, "guard", lambda _: lambda *_: False)
        if path == "triton":
            patch.setattr(cuda, "serves", lambda _, settings: settings.for_kernels)
        foreach = {"fastest": None, "without guards": None, "triton": None, "one at a time": False}.get(path, True)
        world = World(seed, kind, scope, foreach)
        for action in [*actions, "step"]:
            getattr(world, action)()


def test_the_sequences_know_all_that_may_be_done() -> None:
    assert len(ACTIONS) == 21
    assert isinstance(make("euclidean", [nn.Parameter(torch.zeros(1))], "model", None)._step.method.metric, Euclidean)
