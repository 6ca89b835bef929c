"""Tapes on a device: what Triton plays is what NumPy plays, and a steady step has a handful of launches.

Without a device `test_cuda.test_in_the_interpreter` runs this file in Triton's interpreter.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from proxmom import Adam, AdaptiveMemory, Euclidean, MoMo, Plane, SteadyMemory, TruncatedMemory, mix
from proxmom.bench.contenders import OwnRule
from proxmom.observed import Observed
from proxmom.planes import namespace
from proxmom.solve import weights
from proxmom.step import Method, Scope, Step
from proxmom.tape import Tape, play, record
from proxmom.tape.record import Given
from proxmom.tape.trace import SCOPE
from proxmom.torch import AMSGD, AMAdamW, ProxOptimizer
from proxmom.torch import MoMo as TorchMoMo
from proxmom.torch.decision import SCALARS, Kind
from proxmom.torch.passes import cuda
from proxmom.torch.recording import _tape
from tests.torch.test_triton_compiled import compile_for
from tests.torch.triton_cases import CUDA, DEVICE, compiled, runs

pytestmark = pytest.mark.usefixtures("scalars_stay_on_the_device")

SCOPE_OF = np.array([0, 2, 1, 1, 0, 2, 2] * 6)  # more units than a program takes at once
GIVEN = {"p": Given(shape=(3,)), "q": Given(), "s": Given(per=SCOPE), "sizes": Given()}


def everything(scope: Scope, p: Any, q: Any, s: Any) -> dict[str, Any]:
    """Each instruction once, and sums that need each other."""
    xp = namespace(q)
    mean = scope.mean(q) + scope.total(p)[:, 1] * s + scope.least(q) - scope.oldest(q, p[:, 0])
    flags = [p > 0, ~(q < 0)[:, None] & (p != 0), (p == p) | (p <= 1), xp.isfinite(1 / (p - p))]
    powers = [abs(p) ** 0.25, 2.0**-p, (-2.0) ** xp.where(p > 0, 3.0, 2.0), (0 * abs(p) ** 0.5) ** 0.3]
    curves = [xp.exp(-abs(p)), xp.log(1 + abs(p)), xp.sqrt(abs(p)), -p / 3 - 1, xp.clip(p, -0.5, 0.7)]
    rounded = xp.astype(xp.astype(p, xp.float32), xp.float64)
    more = [
        np.floor(3 * p),
        p % 0.7,
        0.1 * np.floor(9 * p) % 0.1,
        0.1 * np.floor(9 * p) % -0.3,
        -p % -np.inf,
        np.sin(3 * p),
        np.cos(p),
        np.tanh(p),
        1e9 * np.tanh(1e-9 * p),
        np.log1p(abs(p)),
    ]
    more += [
        1e12 * np.log1p(1e-12 * p),
        np.expm1(p),
        1e12 * np.expm1(1e-12 * p),
        np.expm1(-1e4 * abs(p)),
        np.tanh(1e4 * p),
        p // 0.3,
    ]
    heights = xp.stack([k * q for k in range(3)], axis=1)
    return {
        "mean": mean,
        "back": scope.spread(mean)[:, None] * p,
        "values": xp.concat([0.0 + flag for flag in flags] + powers + curves + more + [rounded], axis=1),
        "ones": 0 * s + 1,
        "twos": xp.ones_like(q) * 2,
        "weights": weights(heights, heights[..., None] * heights[..., None, :] + 1),
        "again": scope.least(scope.spread(scope.total(q)) + q),
    }


@runs
@pytest.mark.parametrize("shared", [False, True])
def test_numbers_are_those_of_the_tape(shared: bool) -> None:
    from proxmom.torch.passes.triton_tape import TritonPlayer

    tape = record(everything, GIVEN, shared=shared, per_scope=("mean", "ones", "again"))
    units, random = len(SCOPE_OF), np.random.default_rng(0)
    scopes = 3 if shared else units
    arrays = {
        "p": random.normal(size=(units, 3)),
        "q": random.normal(size=units),
        "s": random.normal(size=scopes),
        "sizes": random.integers(1, 4, size=units).astype(float),
    }
    with np.errstate(all="ignore"):
        right = play(tape, arrays, SCOPE_OF if shared else np.arange(units))
    player = TritonPlayer(tape, units, scopes, SCOPE_OF if shared else None, torch.device(DEVICE))
    found = player.play({name: torch.from_numpy(value).to(DEVICE) for name, value in arrays.items()})
    for name, value in right.items():
        np.testing.assert_allclose(found[name].cpu(), value, rtol=1e-12, atol=1e-14, err_msg=name)


def taken(rule: Any, metric: Any, decay: str, *, shared: bool, dtype: Any = torch.float32) -> list[Tape]:
    method = Method(rule, metric, inertia=0.1 if not rule_looks(rule) else 0.0, decay=decay)
    count = ["count"] if isinstance(metric, Adam) else []
    kind = Kind(Step(method), (*SCALARS, *method.scalars, *count), decays=True, diagonal=True)
    tapes = [_tape("numbers", kind, None, dtype, shared=shared), _tape("decide", kind, 8, dtype, shared=shared)]
    assert None not in tapes, method.not_recorded
    return [tape for tape in tapes if tape is not None and tape.returned]


def rule_looks(rule: Any) -> bool:
    return bool(getattr(rule, "needs_loss", False))


@compiled
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("rule", "metric", "decay"),
    [
        (AdaptiveMemory(), Euclidean(), "coupled"),
        (AdaptiveMemory(), Adam(), "proximal"),
        (SteadyMemory(), Adam(), "decoupled"),
        (MoMo(0.0), Euclidean(), "decoupled"),
        (TruncatedMemory(0.0), Euclidean(), "proximal"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_kernels_compile(
    rule: Any, metric: Any, decay: str, shared: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 throughout, without a call and without waiting but where units meet."""
    pytest.importorskip("triton")
    from proxmom.torch.passes.triton_tape import _compiled

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for tape in taken(rule, metric, decay, shared=shared):
        kernel, scratch = _compiled(tape, shared=shared)
        assert (scratch > 0) == (shared and not tape.stays_in_rows)
        pointers = dict.fromkeys(tape.given, "*fp32") | {"constants": "*fp64", "scratch": "*fp64", "out": "*fp64"}
        pointers |= {"units": "i32", "scopes": "i32"} | ({"scope_of": "*i64"} if shared else {})
        code = compile_for(kernel, pointers, {"BLOCK": 32, "scope_of": None})["ptx"]
        assert "bar.sync" in code or "bar.warp.sync" in code or not shared or tape.stays_in_rows


class Launches(TorchDispatchMode):
    """Counts what a device would be asked for: operations, but for views and questions, and Triton's kernels."""

    NOTHING = (
        "promote_types",
        "view",
        "select",
        "slice",
        "expand",
        ".t.",
        "permute",
        "unsqueeze",
        "detach",
        "alias",
        "unbind",
        "empty",
        "profiler",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if not any(name in str(function) for name in self.NOTHING):
            self.found[str(function)] += 1
        return function(*arguments, **(options or {}))


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    triton = pytest.importorskip("triton")
    kind = type(cuda._kernels().move)
    run, mode = kind.run, Launches()

    def launch(self: Any, *arguments: Any, **options: Any) -> Any:
        mode.found[f"triton {self.fn.__name__}"] += 1
        with torch.utils._python_dispatch._disable_current_modes():
            return run(self, *arguments, **options)

    assert triton
    with monkeypatch.context() as patch, mode:
        patch.setattr(kind, "run", launch)
        yield mode.found


def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1}]


LAUNCHES: dict[str, tuple[Callable[[Any], ProxOptimizer], int]] = {
    "AMSGD": (lambda params: AMSGD(params, 0.1), 6),
    "AMSGD, groups": (lambda params: AMSGD(groups(params), 0.1), 6),
    "AMAdamW": (lambda params: AMAdamW(params, 0.1), 7),
    "AMAdamW, model": (lambda params: AMAdamW(groups(params), 0.1, scope="model"), 7),
    "SteadyMemory": (lambda params: AMSGD(params, 0.1, steady=True), 6),
    "SteadyMemory, Adam": (lambda params: AMAdamW(groups(params), 0.1, steady=True), 7),
    "MoMo": (lambda params: TorchMoMo(params, lower_bound=0.0), 8),
    "two memories": (lambda params: ProxOptimizer(params, OwnRule(), 0.1, metric=Adam(), scope="tensor"), 7),
}


@runs
@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("name", LAUNCHES)
def test_a_steady_step_has_a_handful_of_launches(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CUDA:
        monkeypatch.setattr(cuda, "serves", lambda *_: True)
    make, most = LAUNCHES[name]
    params = [nn.Parameter(torch.ones(2, 2, device=DEVICE)) for _ in range(count)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer, loss = make(params), torch.tensor(1.0, device=DEVICE)
    for _ in range(2):
        optimizer.step(loss=loss)
    with counted(monkeypatch) as found:
        optimizer.step(loss=loss)
    assert found.total() <= most, found


@runs
def test_a_step_that_is_not_sound_leaves_weights_and_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    if not CUDA:
        monkeypatch.setattr(cuda, "serves", lambda *_: True)
    params = [nn.Parameter(torch.ones(2, 2, device=DEVICE)) for _ in range(3)]
    optimizer = AMAdamW(params, 0.1)
    for step in range(3):
        for p in params:
            p.grad = torch.ones_like(p) * (1 + step)
        if step == 2:
            params[1].grad[0, 0] = float("nan")  # type: ignore[index]
            before = optimizer.diagnostics()
            state = {name: value.clone() for name, value in optimizer.state[params[0]].items()}
        optimizer.step()
    after = optimizer.diagnostics()
    assert after["skipped"] == 1
    assert torch.equal(after["weights"], before["weights"])  # type: ignore[arg-type]
    assert torch.equal(after["beta"], before["beta"])  # type: ignore[arg-type]
    for name, value in optimizer.state[params[0]].items():
        assert torch.equal(value, state[name] + (name == "skipped")), name


class Branching:
    """Looks at a number, so that only what the metric needs is recorded."""

    beta_max = 0.9

    def planes(self, now: Any) -> Any:
        cap = 0.5 if float(now.step[0]) < 2 else 0.9
        return now.gradient_plane, mix(now.gradient_plane, now.memory_plane(), now.weight(cap))


@runs
def test_weights_of_a_step_that_is_not_recorded_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beta is a column of the direction there, whose numbers do not lie side by side."""
    if not CUDA:
        monkeypatch.setattr(cuda, "serves", lambda *_: True)
    found = []
    for options in ({}, {"foreach": False}):
        params = [nn.Parameter(torch.ones(3, 2, dtype=torch.float64, device=DEVICE)) for _ in range(3)]
        optimizer = ProxOptimizer(params, Branching(), 0.1, metric=Adam(), scope="tensor", **options)
        for step in range(4):
            for k, p in enumerate(params):
                p.grad = torch.full_like(p, 1.0 + k) * (-1) ** (step * k)
            optimizer.step()
            found.append(optimizer.diagnostics())
    for fast, slow in zip(found[:4], found[4:], strict=True):
        torch.testing.assert_close(fast["beta"], slow["beta"])
        torch.testing.assert_close(fast["weights"], slow["weights"])


class Cautious:
    """Looks at a number that is given with each step."""

    beta_max = 0.9
    observed: ClassVar[Any] = {"noise": Observed(typical=(0, 1)), "trust": ""}

    def planes(self, now: Any) -> Any:
        cap = now.weight(self.beta_max * now.observed("noise"))
        longer = Plane(now.observed("trust") * now.gradient, 0.0)
        return longer, mix(now.gradient_plane, now.memory_plane(), cap)


@runs
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_numbers_given_with_a_step_are_read_by_the_kernels(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CUDA:
        monkeypatch.setattr(cuda, "serves", lambda *_: True)
    found = []
    for options in ({}, {"foreach": False}):
        params = [nn.Parameter(torch.ones(3, 2, dtype=torch.float64, device=DEVICE)) for _ in range(3)]
        optimizer = ProxOptimizer(params, Cautious(), 0.1, metric=Adam(), scope=scope, **options)
        for step, (noise, trust) in enumerate([(0.1, 2.0), (0.9, 0.5), (float("nan"), 1.0), (0.4, 1.5)]):
            for k, p in enumerate(params):
                p.grad = torch.full_like(p, 1.0 + k) * (-1) ** (step * k)
            given = torch.tensor(trust, device=DEVICE) if step % 2 else trust
            optimizer.step(observed={"trust": given, "noise": noise})
        found.append(torch.stack([p.detach() for p in params]))
        assert optimizer.diagnostics()["skipped"] == 1
        assert optimizer.path == ("torch operations" if options else "Triton kernels")
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)
