"""`minimize` in torch: the points of the NumPy one, parameters that end well whatever happens, and many problems."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from proxmom import GradientDescent
from proxmom import numpy as with_numpy
from proxmom.metrics import Euclidean, QuasiNewton
from proxmom.torch import minimize
from proxmom.torch.full_batch import descent as engine
from proxmom.torch.full_batch import resume
from proxmom.torch.full_batch.pairs import Pairs

DOUBLE = torch.float64


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(dim=-1)


def logistic(dtype: torch.dtype = DOUBLE) -> Callable[[Tensor], Tensor]:
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(80, 12)), np.sign(random.normal(size=80))
    signed = torch.tensor(-labels[:, None] * rows, dtype=dtype)
    return lambda w: nn.functional.softplus(signed @ w).mean() + 1e-3 * (w @ w) / 2


def bowl(condition: float, size: int = 30) -> Callable[[Tensor], Tensor]:
    curvature = torch.logspace(0, np.log10(condition), size, dtype=DOUBLE)
    return lambda x: (curvature * x * x).sum() / 2


def as_numpy(fun: Callable[[Tensor], Tensor]) -> Callable[[Any], tuple[float, Any]]:
    def evaluate(x: Any) -> tuple[float, Any]:
        leaf = torch.tensor(x).requires_grad_()
        f = fun(leaf)
        return f.item(), torch.autograd.grad(f, leaf)[0].numpy()

    return evaluate


def starts(size: int) -> Tensor:
    return torch.tensor(np.random.default_rng(3).normal(size=size))


CONVEX = {"bowl 10": (bowl(10), 30), "bowl 100": (bowl(100), 30), "logistic": (logistic(), 12)}


@pytest.mark.parametrize("on_host", [True, False], ids=["host", "as on a device"])
@pytest.mark.parametrize("name", CONVEX)
def test_it_takes_the_points_of_the_numpy_version(name: str, on_host: bool, monkeypatch: Any) -> None:
    if not on_host:
        monkeypatch.setattr(
            engine.Descent, "_on_host", property(lambda self: False, lambda self, value: None), raising=False
        )
    fun, size = CONVEX[name]
    ours, theirs = list[Any](), list[Any]()
    one = minimize(fun, starts(size), metric=QuasiNewton(), callback=lambda x: ours.append(x.numpy()))
    two = with_numpy.minimize(as_numpy(fun), starts(size).numpy(), callback=theirs.append)
    assert one.success
    assert abs(one.nfev - two.nfev) <= 2
    assert one.message[:60] == two.message[:60]
    np.testing.assert_allclose(ours[:15], theirs[:15], rtol=0, atol=1e-8)
    np.testing.assert_allclose(one.x.numpy(), two.x, atol=1e-6)
    assert one.nfev == one.njev == len(one.history["fun"]) == len(one.history["gradient_norm"])
    assert one.fun == fun(one.x).item()
    np.testing.assert_allclose(one.jac.numpy(), as_numpy(fun)(one.x.numpy())[1], atol=1e-14)


def test_as_many_pairs_are_kept_as_by_the_l_bfgs_of_torch() -> None:
    pairs = inspect.signature(torch.optim.LBFGS).parameters["history_size"].default
    as_it_is, alike, fewer = (
        minimize(bowl(100), starts(30), metric=metric) for metric in (None, QuasiNewton(pairs), QuasiNewton())
    )
    assert torch.equal(as_it_is.x, alike.x)
    assert as_it_is.nfev == alike.nfev < fewer.nfev


def test_pairs_that_do_not_fit_are_refused_with_a_remedy() -> None:
    x = nn.Parameter(torch.ones(3, dtype=DOUBLE))
    with pytest.raises(MemoryError, match=r"10000000000000 pairs of vectors of 3 numbers.*\n.*QuasiNewton\(pairs=10\)"):
        minimize(lambda: (x**4).sum(), [x], metric=QuasiNewton(10**13))
    assert (x**4).sum() < 3, "the best point so far"


class Counted(TorchDispatchMode):
    """Counts how often a number is read off a tensor behind the back of `Descent`."""

    reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_the_host_reads_once_an_evaluation(batch_dims: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        engine.Descent, "_on_host", property(lambda self: False, lambda self, value: None), raising=False
    )
    reads, own = [], engine.Descent._read
    monkeypatch.setattr(engine.Descent, "_read", lambda self, rows: reads.append(1) or own(self, rows))
    x = starts(20).reshape(4, 5) if batch_dims else starts(5)

    def run(steps: int) -> tuple[int, int]:
        reads.clear()
        with Counted() as mode:
            result = minimize(rosenbrock, x, batch_dims=batch_dims, max_iter=steps, gtol=0)
        calls = result.calls if batch_dims else result.nfev
        assert len(reads) == calls == steps + 1
        return calls, mode.reads

    assert run(10)[1] == run(40)[1]  # what is read besides does not grow with the evaluations


def test_pairs_are_the_metric_of_quasi_newton() -> None:
    metric = QuasiNewton(pairs=3)
    optimizer = with_numpy.Optimizer(np.ones(6), GradientDescent(), lr=0.1, metric=metric)
    pairs = Pairs(metric, [torch.zeros(1, 6, dtype=DOUBLE)], None)
    random, hessian = np.random.default_rng(0), np.diag(np.arange(1.0, 7.0))
    before: Any = None
    for _ in range(6):
        x, g = optimizer.x, hessian @ optimizer.x
        if before is not None:
            move, turn = (torch.tensor(a - b)[None] for a, b in zip((x, g), before, strict=True))
            products = [(u * v).sum().item() for u, v in ((move, move), (move, turn), (turn, turn))]
            forecast = 0.1 * float(before[1] @ (before[0] - x))
            pairs.see([move], [turn], (*products, forecast), True)
        optimizer.step(g)
        vector = random.normal(size=6)
        found = pairs.image([torch.tensor(vector)[None]], True)[0][0]
        np.testing.assert_allclose(found, optimizer.image(vector), rtol=1e-10)
        before = x, g
    assert pairs.curved
    pairs.forget(True)
    assert not pairs.curved


class Net(nn.Module):
    """Parameters of several shapes and dtypes, one of them tied and one frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4).double()
        self.tied = self.second.weight
        self.frozen = nn.Parameter(torch.ones(4, dtype=DOUBLE), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.scale = nn.Parameter(torch.tensor(1.0, dtype=DOUBLE))
        self.data = torch.randn(10, 3)

    def loss(self) -> Tensor:
        hidden = torch.tanh(self.first(self.data)).double()
        out = self.second(hidden) @ self.tied * self.scale + self.frozen
        return ((out - hidden.sin()) ** 2).mean() + 1e-3 * sum((p.double() ** 2).sum() for p in self.parameters())


@pytest.mark.parametrize("given", ["module", "list", "twice"])
def test_parameters_of_a_module_are_minimised_in_place(given: str) -> None:
    net = Net()
    before, frozen = net.loss().item(), net.frozen.clone()
    params: Any = {"module": net, "list": list(net.parameters()), "twice": [*net.parameters(), net.tied]}[given]
    result = minimize(net.loss, params, metric=QuasiNewton(), max_iter=400, gmax=1e-5)
    assert result.success
    assert net.loss().item() == result.fun < before / 2
    assert torch.equal(net.frozen, frozen)
    assert net.tied is net.second.weight
    assert all(p.grad is None for p in net.parameters())
    trained = [p for p in net.parameters() if p.requires_grad]
    assert [part.shape for part in result.x] == [p.shape for p in trained]
    assert all(torch.equal(part, p) and part.dtype == p.dtype for part, p in zip(result.x, trained, strict=True))
    assert torch.equal(result.x[-1] == 0, torch.tensor(False)) or len(trained) == 6
    np.testing.assert_allclose(net.unused.detach(), 0, atol=1e-3)  # the decay alone moves it


def test_a_function_that_differentiates_is_minimised_even_without_grad() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    t = torch.linspace(0, 1, 20, dtype=DOUBLE)[:, None].requires_grad_()

    def residual() -> Tensor:  # u' = u, u(0) = 1
        u = net(t)
        return ((torch.autograd.grad(u.sum(), t, create_graph=True)[0] - u) ** 2).mean() + (u[0, 0] - 1) ** 2

    with torch.no_grad():
        minimize(residual, net, max_iter=300)
    assert (net(t) - t.exp()).abs().max() < 1e-3


class Stop(Exception):
    pass


UNDONE = 16  # after so many evaluations the last step was undone


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, "signal"])
def test_parameters_end_at_the_best_point_whatever_ends_the_run(error: Any) -> None:
    x = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=DOUBLE))
    seen: list[tuple[float, Any]] = []

    def fun() -> Tensor:
        f = rosenbrock(x)
        if len(seen) == UNDONE:
            if error == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                raise error
        seen.append((f.item(), x.detach().clone()))
        return f

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit if error == "signal" else error):
            minimize(fun, [x])
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen[-1][0] > min(f for f, _ in seen)  # the last one was undone
    assert torch.equal(x.detach(), min(seen, key=lambda pair: pair[0])[1])


# --- float32 ---------------------------------------------------------------------------------------------------------


def test_float32_ends_at_the_minimum_and_says_why() -> None:
    fun, precise = logistic(torch.float32), minimize(logistic(), torch.zeros(12, dtype=DOUBLE))
    easy = minimize(fun, torch.zeros(12))
    assert easy.success
    assert easy.x.dtype == torch.float32
    np.testing.assert_allclose(easy.x, precise.x, atol=1e-4)
    hard = minimize(fun, torch.zeros(12), gtol=1e-12)
    assert hard.status == 3
    assert hard.nfev <= 100
    assert "Rounding moves f by 9.5e-07 of its value here, or more." in hard.message
    np.testing.assert_allclose(hard.x, precise.x, atol=1e-4)


@pytest.mark.parametrize("tremor", [1e-9, 3e-9, 1e-8])
def test_what_rounding_makes_of_f_is_measured(tremor: float) -> None:
    """In float64 f is made to tremble by far more than its type says; the slopes lead on to the minimum."""
    fun = logistic()

    def trembles(w: Tensor) -> Tensor:
        return fun(w) + tremor * torch.sin(1e15 * w.detach().sum())

    result, precise = minimize(trembles, starts(12)), minimize(fun, starts(12))
    assert result.success
    assert result.nfev <= 120
    assert (result.x - precise.x).abs().max() <= 1e-7
    told = minimize(trembles, starts(12), gtol=0)
    noise = re.search(r"moves f by (.+) of its value", told.message)
    assert told.status == 3
    assert noise is not None
    assert tremor / 30 < float(noise[1]) * told.fun < 10 * tremor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "SAFETY", 0)
        assert minimize(trembles, starts(12)).status == 3


def test_a_wrong_gradient_is_no_success() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return (x * x).sum()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return -g * torch.ones(3)

    for dtype in (torch.float32, DOUBLE):
        result = minimize(lambda x: Wrong.apply(x), torch.ones(3, dtype=dtype), max_iter=400)
        assert not result.success
        assert torch.equal(result.x, torch.ones(3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_the_scale_of_f_does_not_matter(dtype: torch.dtype, scale: float) -> None:
    result = minimize(lambda x: scale * rosenbrock(x), torch.tensor([-1.2, 1.0], dtype=dtype))
    assert result.success
    np.testing.assert_allclose(result.x, 1, atol=1e-3)


@pytest.mark.parametrize("rate", [1.0, 8.0, 20.0])
@pytest.mark.parametrize("start", [5.0, 30.0])
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_a_huge_first_gradient_makes_no_success(rate: float, start: float, batch_dims: int) -> None:
    """Up to 1e262: the squares of the later ones underflow."""
    x = torch.full((2, 1) if batch_dims else (1,), start, dtype=DOUBLE)
    result = minimize(lambda x: (torch.exp(rate * x) - x).sum(dim=-1), x, batch_dims=batch_dims)
    done = np.all(result.success)
    assert done or rate * start > 200
    if done:
        np.testing.assert_allclose(result.x, -np.log(rate) / rate, atol=1e-5)


def test_a_last_step_within_rounding_is_no_success_where_f_falls_further() -> None:
    """The first gradient is so large that gtol says nothing, and the first step leads to a point that it rounds to."""
    x0, steep = torch.tensor([1e9], dtype=DOUBLE), 1e20

    def fun(x: Tensor) -> Tensor:
        return torch.where(x == x0, steep * (x - x0) + 1e9, x**2 / 1e9).sum()

    looks: list[int] = []
    own = engine.Descent._judge

    def judge(self: Any, *rest: Any) -> None:
        looks.append(self.mode)
        own(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "BOLD", 1e-15)
        patch.setattr(engine.Descent, "_judge", judge)
        result = minimize(fun, x0)
    assert engine.TURNS in looks
    assert result.nfev > 3
    assert not result.success or abs(result.x.item()) < 1


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_a_success_that_is_looked_past_costs_one_evaluation_and_stands(batch_dims: int) -> None:
    """Of all successes here the last step is taken to be within rounding."""
    x, plain = starts(12), minimize(logistic(), starts(12))
    one = logistic()
    fun = (lambda x: torch.stack([one(row) for row in x])) if batch_dims else one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Descent, "_shortest", 1e-5)
        result = minimize(fun, x[None] if batch_dims else x, batch_dims=batch_dims)
    assert np.all(result.success)
    assert np.all(result.nfev == plain.nfev + 1)
    assert np.all(result.undone == plain.undone + 1)


# --- many problems ---------------------------------------------------------------------------------------------------


def test_many_problems_at_once_are_each_alone() -> None:
    x = torch.tensor(np.random.default_rng(0).uniform(-2, 2, size=(40, 5)))
    many = minimize(rosenbrock, x, batch_dims=1)
    alone = [minimize(rosenbrock, row) for row in x]
    assert many.success.all()
    assert many.status.shape == many.nit.shape == many.nfev.shape == many.fun.shape == many.undone.shape == (40,)
    close = [abs(a.nfev - n) <= 3 for a, n in zip(alone, many.nfev, strict=True)]
    assert np.mean(close) > 0.8  # rounding grows, in a few
    assert many.calls == many.nfev.max() <= 2 * max(a.nfev for a in alone)
    np.testing.assert_allclose(many.x, torch.stack([a.x for a in alone]), atol=1e-4)
    assert torch.equal(rosenbrock(many.x), torch.tensor(many.fun))
    assert many.message.startswith("40 of 40: The gradient's norm")


def test_the_end_of_one_problem_is_nothing_to_the_others() -> None:
    """One starts at its minimum, one is not finite, one falls forever, and one has a kink."""
    seen: list[Tensor] = []

    def fun(x: Tensor) -> Tensor:
        start, bad, falls, kink, usual = x
        seen.append(x.detach().clone())
        return torch.stack(
            [rosenbrock(start), rosenbrock(bad) * torch.nan, falls.sum(), kink.abs().sum(), rosenbrock(usual)]
        )

    x = torch.tensor([[1.0, 1.0, 1.0]] + [[-1.2, 1.0, 0.3]] * 4, dtype=DOUBLE)
    result = minimize(fun, x, batch_dims=1, max_iter=200)
    alone = minimize(rosenbrock, x[4])
    assert result.status.tolist()[:3] == [0, 2, 1]
    assert result.status[3] == 1
    assert (result.nit[0], result.nit[1]) == (0, 0)
    assert torch.equal(result.x[:2], x[:2])
    assert (result.status[4], result.nfev[4]) == (0, alone.nfev)
    np.testing.assert_allclose(result.x[4], alone.x, atol=1e-9)
    ended = torch.stack(seen[alone.nfev :])
    assert len(ended) > 100
    assert torch.equal(ended[:, 4], result.x[4].expand_as(ended[:, 4]))  # stays where it is
    assert "2 of 5: max_iter" in result.message


def test_one_problem_in_a_batch_has_any_shape() -> None:
    x = torch.ones(2, 3, 4)
    result = minimize(lambda x: ((x - 2) ** 2).sum(dim=(1, 2)), x, batch_dims=1)
    assert result.x.shape == result.jac.shape == x.shape
    np.testing.assert_allclose(result.x, 2, atol=1e-5)


# --- told, saved, gone on with ---------------------------------------------------------------------------------------


def test_a_callback_sees_every_point_kept_and_may_end_the_run() -> None:
    values: list[float] = []

    def see(intermediate_result: Any) -> None:
        values.append(intermediate_result.fun)
        if len(values) == 5:
            raise StopIteration

    result = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=DOUBLE), callback=see)
    assert (result.status, result.nit, result.fun) == (99, 4, values[-1])
    assert np.diff(values).max() < 0


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_a_bar_is_shown_where_it_is_asked_for(batch_dims: int, capfd: Any) -> None:
    x = torch.ones(3, 2, dtype=DOUBLE) if batch_dims else torch.ones(2, dtype=DOUBLE)
    minimize(lambda x: (x**2).sum(dim=-1), x, batch_dims=batch_dims)
    assert capfd.readouterr().err == ""
    minimize(lambda x: (x**2).sum(dim=-1), x, batch_dims=batch_dims, progress=True)
    assert "minimize" in capfd.readouterr().err


KILLED = """
import os, signal, sys, torch
from proxmom.torch import minimize
calls = 0
def fun(x):
    global calls
    calls += 1
    if calls == 25:
        os.kill(os.getpid(), signal.SIGKILL)
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(dim=-1)
x = torch.linspace(-2, 1, 12, dtype=torch.float64).reshape(SHAPE)
minimize(fun, x, batch_dims=len(x.shape) - 1, checkpoint=sys.argv[1], save_every=0)
"""


@pytest.mark.parametrize("shape", [(12,), (3, 4)])
def test_a_killed_run_goes_on_with_the_same_points(shape: Any, tmp_path: Path) -> None:
    path, dims = tmp_path / "run.pt", len(shape) - 1
    code = KILLED.replace("SHAPE", repr(shape))
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    x, points, whole = torch.linspace(-2, 1, 12, dtype=DOUBLE).reshape(shape), list[Tensor](), list[Tensor]()

    def seen(into: list[Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: into.append(x.detach().clone()) or rosenbrock(x)

    resumed = minimize(seen(points), x, batch_dims=dims, checkpoint=path)
    straight = minimize(seen(whole), x, batch_dims=dims)
    assert len(points) == len(whole) - 24  # the one that it died in is the first
    assert all(torch.equal(one, two) for one, two in zip(points, whole[24:], strict=True))
    assert torch.equal(resumed.x, straight.x)
    np.testing.assert_array_equal(resumed.nfev, straight.nfev)
    again = minimize(rosenbrock, x, batch_dims=dims, checkpoint=path)
    assert torch.equal(again.x, straight.x)
    if not dims:
        np.testing.assert_array_equal(resumed.history["fun"], straight.history["fun"])


def test_a_run_at_its_end_goes_on_with_more_steps(tmp_path: Path) -> None:
    x, path = torch.tensor([-1.2, 1.0], dtype=DOUBLE), tmp_path / "run.pt"
    assert minimize(rosenbrock, x, checkpoint=path, max_iter=10).status == 1
    resumed, straight = minimize(rosenbrock, x, checkpoint=path), minimize(rosenbrock, x)
    assert torch.equal(resumed.x, straight.x)
    assert resumed.nfev == straight.nfev


def test_an_exception_is_saved_at_once_and_another_problem_refused(tmp_path: Path) -> None:
    x, path, calls = torch.tensor([-1.2, 1.0], dtype=DOUBLE), tmp_path / "run.pt", []

    def fails(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 9:
            raise Stop
        return rosenbrock(x)

    with pytest.raises(Stop):
        minimize(fails, x, checkpoint=path)
    resumed, straight = minimize(fails, x, checkpoint=path), minimize(rosenbrock, x)
    assert torch.equal(resumed.x, straight.x)
    assert len(calls) == straight.nfev + 1
    assert not list(tmp_path.glob("*.part"))
    for other, metric, told in (
        (torch.ones(3, dtype=DOUBLE), None, r"shapes \[\[2\]\] there, \[\[3\]\] here. Remove it, or name another file"),
        (x.float(), None, "dtypes .*float64.* there, .*float32.* here. Remove it"),
        (
            x,
            QuasiNewton(pairs=2),
            r"metric .*pairs=100.* there, .*pairs=2.* here. Pass metric=.*pairs=100.* to go on",
        ),
    ):
        with pytest.raises(ValueError, match=f"of the same problem .*: {told}"):
            minimize(rosenbrock, other, metric=metric, checkpoint=path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"of the same problem .*: version None there, 1 here\. Remove it"):
        minimize(rosenbrock, x, checkpoint=path)


def test_a_save_needs_no_room_for_the_pairs_a_second_time() -> None:
    whole, part = torch.ones(5), torch.ones(9)[:5]
    saved = resume._packed({"pairs": [whole, part]})["dict"]["pairs"]
    assert saved[0].data_ptr() == whole.data_ptr()
    assert saved[1].untyped_storage().nbytes() == 5 * 4, "and what is part of something larger is saved alone"


# --- what is refused -------------------------------------------------------------------------------------------------

X = torch.ones(2, dtype=DOUBLE)
BAD: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    (rosenbrock, X.half(), {}, TypeError, "float32 or float64"),
    (rosenbrock, X * torch.nan, {}, ValueError, "must be finite"),
    (rosenbrock, X, {"batch_dims": 2}, ValueError, "batch_dims must be 0 or 1"),
    (rosenbrock, X[:0], {"batch_dims": 1}, ValueError, "N >= 1"),
    (rosenbrock, [X], {}, ValueError, "all are frozen"),
    (rosenbrock, [nn.Parameter(X)], {"batch_dims": 1}, ValueError, "one tensor of shape"),
    (rosenbrock, [nn.Parameter(X) * 2], {}, ValueError, "must be leaves"),
    (rosenbrock, [1.0], {}, TypeError, "must be tensors"),
    (rosenbrock, X, {"metric": Euclidean()}, TypeError, "must be a QuasiNewton"),
    (rosenbrock, X, {"gtol": -1.0}, ValueError, "gtol must be >= 0"),
    (rosenbrock, X, {"save_every": -1.0}, ValueError, "save_every must be >= 0"),
    (lambda x: 1.0, X, {}, TypeError, "must return a tensor"),
    (lambda x: x, X, {}, ValueError, "must return one number, got the shape"),
    (lambda x: x.sum(), X[:, None], {"batch_dims": 1}, ValueError, "for each problem"),
    (lambda x: rosenbrock(x).detach(), X, {}, ValueError, "without a graph"),
    (lambda x: rosenbrock(x) * 1j, X, {}, TypeError, "must return real numbers"),
]


@pytest.mark.parametrize(("fun", "params", "settings", "error", "words"), BAD, ids=[row[-1] for row in BAD])
def test_what_cannot_be_minimised_is_refused(fun: Any, params: Any, settings: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        minimize(fun, params, **settings)
