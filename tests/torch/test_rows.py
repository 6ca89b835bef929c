"""Torch operations as on a device: parameters in rows, many in a block. Here they are made to run on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from proxmom import Adam, AdaptiveMemory, Euclidean, HeavyBall
from proxmom.bench.sets import resnet18
from proxmom.metrics import AdaGrad
from proxmom.planes import namespace
from proxmom.torch import AMSGD, AMAdamW, ProxOptimizer
from proxmom.torch.layout import Layout
from proxmom.torch.passes import blocks
from proxmom.torch.passes.operations import TorchPasses
from tests.torch.test_paths import Made, TwoMemories

MIXED = (torch.float32, torch.float64, torch.bfloat16)
VIEWS = ("view", "select", "slice", "split", "expand", "permute", "transpose", "squeeze", "detach", "alias", "unbind")


@contextmanager
def device(block: int = blocks.DEVICE_BLOCK, row: int = blocks.ROW) -> Iterator[None]:
    """Nothing may be read on the host, and blocks and rows have these lengths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, "on_host", False)
        patch.setattr(blocks, "DEVICE_BLOCK", block)
        patch.setattr(blocks, "ROW", row)
        yield


@dataclass(frozen=True)
class Bare:
    """P is 1 at first, and would be 0 where nothing is: no eps is added."""

    memory_from_gradient: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def start(self, x: Any) -> Any:
        return {"squares": namespace(x).ones_like(x)}

    def update(self, state: Any, gradient: Any) -> Any:
        return {"squares": state["squares"] + gradient * gradient}

    def diagonal(self, state: Any, factor: Any) -> Any:
        return factor * state["squares"] ** 0.5


@dataclass(frozen=True)
class NoEps(Bare):
    """P is 0 at first."""

    def start(self, x: Any) -> Any:
        return {"squares": namespace(x).zeros_like(x)}


@settings(max_examples=50)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 12), st.integers(13, 400)), min_size=1, max_size=12),
    dtype=st.sampled_from([*MIXED, torch.float16, None]),
    rule=st.sampled_from([AdaptiveMemory(), HeavyBall(), TwoMemories()]),
    metric=st.sampled_from([Euclidean(), Adam(beta2=0.9), AdaGrad(), Bare()]),
    inertia=st.sampled_from([0.0, 0.1]),
    decay=st.sampled_from(["coupled", "decoupled", "proximal"]),
    scope=st.sampled_from(["model", "group", "tensor"]),
    maximize=st.booleans(),
    foreach=st.booleans(),
    row=st.sampled_from([1, 3, 16, 256]),
    rows=st.sampled_from([1, 2, 5, 1000]),
    seed=st.integers(0, 1000),
)
def test_rows_are_the_hosts_blocks(
    sizes: list[int], dtype: Any, rule: Any, metric: Any, foreach: bool, row: int, rows: int, seed: int, **given: Any
) -> None:
    """Units of all sizes, with a learning rate and decay of their own in the second half of them."""
    torch.manual_seed(seed)
    dtypes = [dtype or MIXED[i % len(MIXED)] for i in range(len(sizes))]
    start = [torch.randn(size).to(kind) for size, kind in zip(sizes, dtypes, strict=True)]
    ours, theirs = ([nn.Parameter(x.clone()) for x in start] for _ in range(2))
    half = -(-len(sizes) // 2)

    def make(params: list[nn.Parameter]) -> ProxOptimizer:
        groups = [{"params": params[:half], "weight_decay": 0.3}, {"params": params[half:], "lr": 0.05}]
        return ProxOptimizer([g for g in groups if g["params"]], rule, 0.1, metric=metric, foreach=foreach, **given)

    one, two = make(ours), make(theirs)
    precision = max(torch.finfo(torch.promote_types(kind, torch.float32)).eps for kind in dtypes)
    for _ in range(4):
        before = [p.detach().clone() for p in ours]
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        two.step()
        with device(row * rows, row):
            one.step()
        for p, q, x in zip(ours, theirs, before, strict=True):
            for name, value in two.state[q].items():
                close(one.state[p][name], value, 1e-12 if precision < 1e-10 else 1e-5, name)
            half_precision = p.element_size() < 4
            move = (q - x).abs().max().double() if p.numel() else 0.0
            spacing = torch.finfo(p.dtype).eps * q.abs().double() if half_precision else 0.0
            allowed = (1e-12 if precision < 1e-10 else 1e-5) * (move + (precision < 1e-10)) + 2 * precision * q.abs()
            assert ((p - q).abs() <= allowed + spacing).all()
            p.data.copy_(q)


def close(value: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance * size, msg=lambda m: f"{name}: {m}")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The sums of each unit that steps have asked for."""
    found: list[Tensor] = []
    real = TorchPasses.measure

    def measure(self: TorchPasses, *given: Any) -> Tensor:
        found.append(real(self, *given))
        return found[-1]

    monkeypatch.setattr(TorchPasses, "measure", measure)
    return found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("metric", [Euclidean(), Adam()])
def test_what_is_not_finite_stays_in_the_sums_of_its_unit(measured: list[Tensor], metric: Any, value: float) -> None:
    for bad in (False, True):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(size)) for size in (5, 700, 3, 64, 260)]
        optimizer = ProxOptimizer(params, HeavyBall(), 0.1, metric=metric, scope="tensor", foreach=True, inertia=0.1)
        for p in params:
            p.grad = torch.randn_like(p)
        with torch.no_grad():
            params[1].grad[650] = value if bad else 1.0
        with device(256, 16):
            optimizer.step()
    clean, dirty = measured
    others = [0, 2, 3, 4]
    assert not dirty[1].isfinite().all()
    assert torch.equal(dirty[others], clean[others])


def test_sums_of_millions_in_float32_are_exact_to_rounding(measured: list[Tensor]) -> None:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.zeros(size)) for size in (7, 3_000_001)]
    optimizer = AMSGD(params, 0.1, scope="tensor", foreach=True, inertia=0.0)
    for p in params:
        p.grad = torch.rand(p.shape)
    exact = float(params[1].grad.double().square().sum())  # type: ignore[union-attr]
    with device(1 << 20):
        optimizer.step()
    assert measured[0][1, :3].tolist() == pytest.approx([exact] * 3, rel=3e-9)  # memory starts as the gradient


def test_a_step_that_is_not_taken_keeps_no_gradient_alive() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = AMSGD([p], foreach=True)
    p.grad = torch.full((3,), float("nan"))
    gradient = StorageWeakRef(p.grad.untyped_storage())  # another tensor may hold the same memory
    optimizer.step()
    p.grad = None
    assert gradient.expired()


@pytest.mark.parametrize("metric", [Adam(eps=1e-50), NoEps()], ids=["eps underflows", "no eps"])
def test_where_a_metric_is_zero_without_gradients_rows_are_filled_without_harm(metric: Any) -> None:
    p = nn.Parameter(torch.ones(300))
    optimizer = ProxOptimizer([p], HeavyBall(), 0.1, metric=metric, foreach=True)
    for _ in range(3):
        p.grad = torch.linspace(1, 2, 300)
        with device():
            optimizer.step()
    assert optimizer.diagnostics()["skipped"] == 0
    assert (p < 1).all()


class Operations(TorchDispatchMode):
    """Counts what is dispatched, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.views = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = str(function)
        if any(view in name for view in VIEWS):
            self.views += 1
        elif "profiler" not in name:
            self.found[name] += 1
        return function(*arguments, **(options or {}))


def dispatched(make: Any, copies: int) -> Operations:
    """By a steady step of ResNet-18, an eighth as wide, so often."""
    shapes = copies * [tuple(-(-n // 8) for n in shape) for shape in resnet18()]
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = make(params)
    with device():
        for _ in range(4):
            for p in params:
                p.grad = torch.randn_like(p)
            with Operations() as counted:
                optimizer.step()
    return counted


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize(("make", "most"), [(AMSGD, 134), (AMAdamW, 192)])
def test_how_many_parameters_there_are_makes_no_difference(make: Any, most: int, scope: str) -> None:
    """Operations of a steady step on the 62 of ResNet-18; of five times as many only views are more."""
    few, many = (dispatched(lambda p: make(p, scope=scope, foreach=True), copies) for copies in (1, 5))
    assert few.found.total() <= most
    assert many.found == few.found
    assert many.views - few.views <= 3 * 4 * 62
    assert not [name for name in few.found if "index_add" in name or "scatter" in name]  # in no order on a device


@pytest.mark.parametrize("foreach", [True, False])
def test_temporaries_are_blocks_of_a_device(foreach: bool) -> None:
    params = [nn.Parameter(torch.ones(size)) for size in (20_000, 50, 3000)]
    optimizer = AMAdamW(params, foreach=foreach)
    with device(1 << 12, 1 << 6):
        for _ in range(2):
            for p in params:
                p.grad = torch.ones_like(p)
            with Made() as made:
                optimizer.step()
    assert max(made.sizes) == 1 << 12


def test_stochastic_rounding_in_rows() -> None:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.ones(size, dtype=torch.bfloat16)) for size in (20_000, 3)]
    optimizer = AMSGD(params, lr=2.0**-17, stochastic_rounding=True)
    with device(1 << 13):
        for _ in range(64):
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
    assert float((1 - params[0].detach().double()).mean()) == pytest.approx(64 * 2.0**-17, rel=0.1)
