"""The torch backend: the NumPy backend's numbers, and torch's habits."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import proxmom.numpy
from proxmom import Adam, AdaptiveMemory, GradientDescent, HeavyBall, SteadyMemory, TruncatedMemory
from proxmom.rules import Facts
from proxmom.torch import AMSGD, AMAdamW, MoMo, MoMoAdam, ProxOptimizer, TruncatedMemorySGD
from proxmom.torch.passes import blocks

SHAPES = ((3, 4), (), (5,), (0,))
NAMED: dict[str, Callable[..., ProxOptimizer]] = {
    "AMSGD": lambda params, **given: AMSGD(params, **{"lr": 0.1, **given}),
    "AMSGD per tensor": lambda params, **given: AMSGD(params, **{"lr": 0.1, "scope": "tensor", **given}),
    "AMAdamW": lambda params, **given: AMAdamW(params, **{"lr": 0.1, **given}),
    "AMAdamW whole model": lambda params, **given: AMAdamW(params, **{"lr": 0.1, "scope": "model", **given}),
    "MoMo": lambda params, **given: MoMo(params, **{"lr": 0.1, "lower_bound": -1.0, **given}),
    "MoMoAdam": lambda params, **given: MoMoAdam(params, **{"lr": 0.1, "lower_bound": -1.0, **given}),
    "TruncatedMemorySGD": lambda params, **given: TruncatedMemorySGD(
        params, **{"lr": 0.1, "lower_bound": -1.0, **given}
    ),
}


@pytest.fixture(params=NAMED.values(), ids=NAMED.keys())
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def parameters(dtype: torch.dtype = torch.float64, shapes: Any = SHAPES) -> list[nn.Parameter]:
    random = np.random.default_rng(0)
    return [nn.Parameter(torch.tensor(random.normal(size=shape), dtype=dtype)) for shape in shapes]


def inputs(steps: int, seed: int = 1, shapes: Any = SHAPES) -> list[tuple[list[Any], float]]:
    random = np.random.default_rng(seed)
    return [([random.normal(size=shape) for shape in shapes], float(random.uniform(0, 2))) for _ in range(steps)]


def give(params: list[nn.Parameter], gradients: list[Any]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = torch.tensor(g, dtype=p.dtype)


def drive(optimizer: ProxOptimizer, params: list[nn.Parameter], steps: int = 5, seed: int = 1) -> list[Tensor]:
    for gradients, loss in inputs(steps, seed, [tuple(p.shape) for p in params]):
        give(params, gradients)
        optimizer.step(loss=loss)
    return [p.detach().clone() for p in params]


def same(left: list[Tensor], right: list[Tensor]) -> None:
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b)


def close(left: list[Any], right: list[Any]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# --- the same numbers as the NumPy backend ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("inertia", [0.0, 0.1])
@pytest.mark.parametrize("decay", ["decoupled", "proximal", "coupled"])
def test_every_rule_and_metric_is_the_numpy_backends(
    rule: Any, metric: Any, inertia: float, decay: str, dtype: torch.dtype
) -> None:
    """Several tensors in two groups, changing lr."""
    if Facts.of(rule).needs_loss and (inertia or decay == "coupled"):
        with pytest.raises(ValueError, match="looks at the loss"):
            ProxOptimizer(parameters(), rule, 0.1, metric=metric, inertia=inertia, decay=decay)
        return
    settings = {"metric": metric, "inertia": inertia, "weight_decay": 0.05, "decay": decay}
    params = parameters(dtype)
    ours = ProxOptimizer([{"params": params[:1]}, {"params": params[1:]}], rule, 0.1, **settings)
    theirs = proxmom.numpy.Optimizer([p.detach().double().numpy() for p in params], rule, lr=0.1, **settings)
    for step, (gradients, loss) in enumerate(inputs(15)):
        lr = 0.1 * (1 + np.sin(step))
        theirs.lr = lr
        for group in ours.param_groups:
            group["lr"] = lr
        give(params, gradients)
        ours.step(loss=loss)
        x = theirs.step([p.grad.double().numpy() for p in params], loss)  # type: ignore[union-attr]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for p, expected in zip(params, x, strict=True):
        np.testing.assert_allclose(p.detach().double().numpy(), expected, rtol=tolerance, atol=10 * tolerance)


def test_scope_tensor_is_one_optimizer_for_each_tensor() -> None:
    params = parameters(shapes=SHAPES[:3])
    ours = AMAdamW(params, lr=0.1)
    settings = {"lr": 0.1, "metric": Adam(), "inertia": 0.1, "weight_decay": 1e-2}
    theirs = [proxmom.numpy.Optimizer(p.detach().numpy(), AdaptiveMemory(0.89), **settings) for p in params]
    apart = 0
    for gradients, _ in inputs(100, shapes=SHAPES[:3]):
        give(params, gradients)
        ours.step()
        apart += len(set(ours.diagnostics()["beta"].tolist())) > 1  # type: ignore[union-attr]
        xs = [optimizer.step(g) for optimizer, g in zip(theirs, gradients, strict=True)]
    for p, x in zip(params, xs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12)
    assert apart > 3


def test_amsgd_is_the_numpy_optimizer_over_a_hundred_steps() -> None:
    params = parameters()
    ours = AMSGD(params, lr=0.1, weight_decay=0.05)
    theirs = proxmom.numpy.Optimizer(
        [p.detach().numpy().copy() for p in params],
        AdaptiveMemory(),
        lr=0.1,
        inertia=0.1,
        weight_decay=0.05,
        decay="coupled",
    )
    for gradients, _ in inputs(100):
        give(params, gradients)
        ours.step()
        xs = theirs.step(gradients)
    for p, x in zip(params, xs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12)


@pytest.mark.parametrize("name", ["AMSGD", "AMAdamW"])
def test_steady_is_steady_memory(name: str) -> None:
    one, two, three = parameters(), parameters(), parameters()
    cap = {"AMSGD": 0.9, "AMAdamW": 0.89}[name]
    ours = NAMED[name](one, steady=True)
    assert ours.rule == SteadyMemory(cap)
    assert NAMED[name](three).rule == AdaptiveMemory(cap)
    given: dict[str, Any] = {"inertia": 0.1, "decay": "coupled"}
    if name == "AMAdamW":
        given = {"inertia": 0.1, "metric": Adam(), "weight_decay": 1e-2, "scope": "tensor"}
    theirs = ProxOptimizer(two, SteadyMemory(cap), 0.1, **given)
    for p, q in zip(drive(ours, one, 40), drive(theirs, two, 40), strict=True):
        assert torch.equal(p, q)


def test_scope_group_is_one_optimizer_for_each_group() -> None:
    params = parameters(shapes=SHAPES[:3])
    ours = AMSGD([{"params": params[:2]}, {"params": params[2:], "lr": 0.3, "weight_decay": 0.1}], 0.1, scope="group")
    apart = parameters(shapes=SHAPES[:3])
    one, two = AMSGD(apart[:2], 0.1), AMSGD(apart[2:], 0.3, weight_decay=0.1)
    for gradients, _ in inputs(30, shapes=SHAPES[:3]):
        give(params, gradients)
        give(apart, gradients)
        for optimizer in (ours, one, two):
            optimizer.step()
    for p, q in zip(params, apart, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("kind", [AMSGD, AMAdamW])
def test_one_group_is_the_same_split_in_two(kind: Any, scope: str) -> None:
    one, two = parameters(), parameters()
    drive(kind(one, scope=scope), one, 20)
    drive(kind([{"params": two[:2]}, {"params": two[2:]}], scope=scope), two, 20)
    close(one, two)  # sums in another order


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_change_nothing_but_rounding(make: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = ((33,), (4, 5))
    whole, pieces = parameters(shapes=shapes), parameters(shapes=shapes)
    monkeypatch.setattr(blocks, "SHARE", 1)
    monkeypatch.setattr(blocks, "ALIGN", 1)
    drive(make(whole, foreach=True), whole)
    monkeypatch.setattr(blocks, "HOST_BLOCK", block)
    drive(make(pieces, foreach=True), pieces)
    for p, q in zip(whole, pieces, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_heavy_ball_is_torchs_sgd_and_adamw() -> None:
    for ours, theirs in (
        (lambda p: ProxOptimizer(p, HeavyBall(0.9), 0.1), lambda p: torch.optim.SGD(p, 0.1, 0.9, 0.9)),
        (
            lambda p: ProxOptimizer(p, HeavyBall(0.9), 0.1, metric=Adam(), weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
        ),
    ):
        one, two = parameters(), parameters()
        first, second = ours(one), theirs(two)
        for gradients, _ in inputs(50):
            give(one, gradients)
            give(two, gradients)
            first.step()
            second.step()
        for p, q in zip(one, two, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


def test_maximize_climbs() -> None:
    down, up = parameters(), parameters()
    drive(AMSGD(down), down)
    optimizer = AMSGD(up, maximize=True)
    for gradients, _ in inputs(5):
        give(up, [-g for g in gradients])
        optimizer.step()
    same(down, up)


def test_lr_may_be_a_tensor(make: Any) -> None:
    one, two = parameters(), parameters()
    drive(make(one, lr=0.25), one)
    drive(make(two, lr=torch.tensor(0.25)), two)
    same(one, two)


def test_capturable_keeps_lr_in_a_tensor_that_schedulers_write(make: Any) -> None:
    one, two = parameters(), parameters()
    plain, captured = make(one, lr=0.25), make(two, lr=0.25, capturable=True)
    lr = captured.param_groups[0]["lr"]
    for optimizer, params in ((plain, one), (captured, two)):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for seed in range(3):
            drive(optimizer, params, 1, seed)
            scheduler.step()
    same(one, two)
    assert captured.param_groups[0]["lr"] is lr


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_keeps_its_state_in_float32(make: Any, dtype: torch.dtype) -> None:
    """Each step is the float32 step, rounded once."""
    half = parameters(dtype)
    optimizer = make(half)
    for gradients, loss in inputs(5):
        exact = [nn.Parameter(p.detach().float()) for p in half]
        twin = make(exact)
        state = copy.deepcopy(optimizer.state_dict())
        twin.load_state_dict(state)
        give(half, gradients)
        for p, q in zip(exact, half, strict=True):
            p.grad = q.grad.float()  # type: ignore[union-attr]
        optimizer.step(loss=loss)
        twin.step(loss=loss)
        same(half, [p.detach().to(dtype) for p in exact])
    assert optimizer.state[half[0]]["memory"].dtype == torch.float32


# --- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_save_load_continue_is_bit_identical(make: Any, dtype: torch.dtype) -> None:
    straight, stopped = parameters(dtype), parameters(dtype)
    optimizer = make(straight)
    drive(optimizer, straight, 4)
    before = make(stopped)
    drive(before, stopped, 4)
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    resumed = make(stopped, lr=0.7)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    same(drive(optimizer, straight, 6, seed=2), drive(resumed, stopped, 6, seed=2))
    for p, q in zip(straight, stopped, strict=True):
        for name, value in optimizer.state[p].items():
            assert resumed.state[q][name].dtype == value.dtype, name


def test_the_counter_survives_loading_into_bf16() -> None:
    params = parameters(torch.bfloat16)
    optimizer = AMAdamW(params)
    drive(optimizer, params, 1)
    for p in params:
        optimizer.state[p]["step"].fill_(1001)
        optimizer.state[p]["count"].fill_(1001)
    again = AMAdamW(params)
    again.load_state_dict(optimizer.state_dict())
    assert {float(again.state[p][name]) for p in params for name in ("step", "count")} == {1001.0}


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_copies_step_on(make: Any, clone: Any) -> None:
    params = parameters()
    optimizer = make(params)
    drive(optimizer, params, 3)
    twin, twins = clone((optimizer, params))
    same(drive(optimizer, params, 3, seed=2), drive(twin, twins, 3, seed=2))


def test_all_state_lives_in_the_state(make: Any) -> None:
    """Two optimizers with the same state take the same step, whatever they did before."""
    one, two = parameters(), parameters()
    first, second = make(one), make(two)
    drive(first, one, 5)
    drive(second, two, 9, seed=3)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for p, q in zip(one, two, strict=True):
            q.copy_(p)
    same(drive(first, one, 4, seed=5), drive(second, two, 4, seed=5))


def test_checkpoint_loaders_can_initialise_state(make: Any) -> None:
    """Zero gradients, lr = 0, no loss: state is there afterwards, and no weight has moved."""
    params = parameters()
    before = [p.detach().clone() for p in params]
    optimizer = make(params)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    give(params, [np.zeros(shape) for shape in SHAPES])
    optimizer.step()
    same(params, before)
    assert all("memory" in optimizer.state[p] for p in params)


# --- living inside torch ---------------------------------------------------------------------------------------------


def test_parameters_without_a_gradient_and_late_ones(make: Any) -> None:
    params = parameters()
    optimizer = make(params[:1])
    drive(optimizer, params[:1], 3)
    optimizer.add_param_group({"params": params[1:]})
    still = params[2].detach().clone()
    for (gradients, loss), sleeping in zip(inputs(6), [True, True, False] * 2, strict=True):
        give(params, gradients)
        if sleeping:
            params[2].grad = None
            optimizer.step(loss=loss)
            assert torch.equal(params[2], still)
        else:
            optimizer.step(loss=loss)
            assert not torch.equal(params[2], still)
            still = params[2].detach().clone()
    assert all(p.isfinite().all() for p in params)


def test_a_skipped_step_leaves_idle_parameters_alone_too(make: Any) -> None:
    params = parameters(shapes=((3,), (2,)))
    optimizer = make(params)
    drive(optimizer, params, 2)
    before = {name: value.clone() for name, value in optimizer.state[params[1]].items()}
    params[0].grad, params[1].grad = torch.full((3,), float("nan"), dtype=torch.float64), None
    optimizer.step(loss=1.0)
    assert all(torch.equal(value, before[name]) for name, value in optimizer.state[params[1]].items())


def test_a_step_without_any_gradient_is_nothing(make: Any) -> None:
    params = parameters()
    make(params).step(loss=1.0)
    same(params, parameters())


def test_gradients_are_left_alone(make: Any) -> None:
    params = parameters()
    optimizer = make(params, weight_decay=0.1)
    for gradients, loss in inputs(2):
        give(params, gradients)
        optimizer.step(loss=loss)
        for p, g in zip(params, gradients, strict=True):
            assert torch.equal(p.grad, torch.tensor(g))


def test_layouts_that_are_not_contiguous(make: Any) -> None:
    plain = parameters(shapes=((4, 6),))
    turned = [nn.Parameter(plain[0].detach().T.contiguous().T)]
    assert not turned[0].is_contiguous()
    drive(make(plain), plain)
    drive(make(turned), turned)
    close(plain, turned)  # sums in another order


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_counted_and_changes_nothing(make: Any, bad: float) -> None:
    clean, dirty = parameters(), parameters()
    first, second = make(clean), make(dirty)
    for gradients, loss in inputs(5):
        before = [p.detach().clone() for p in dirty]
        give(dirty, [gradients[0] * bad, *gradients[1:]])
        second.step(loss=loss)
        same(dirty, before)
        for one, params in ((first, clean), (second, dirty)):
            give(params, gradients)
            one.step(loss=loss)
        if first._step.method.facts.needs_loss:
            second.step(loss=bad)
        same(clean, dirty)
    skipped = second.diagnostics()["skipped"]
    assert skipped is not None
    assert skipped == (10 if first._step.method.facts.needs_loss else 5)


class Tenfold:
    """A step size that is never long enough."""

    scalars: ClassVar[dict[str, float]] = {"scale": 1.0}

    def factor(self, now: Any) -> Any:
        return 10 * now.recall("scale")

    def remember(self, now: Any) -> dict[str, Any]:
        return {"scale": self.factor(now)}


@pytest.mark.parametrize("foreach", [None, True, False])
def test_a_step_size_that_grows_beyond_float32_skips_the_step(foreach: bool | None) -> None:
    p = torch.zeros(4, requires_grad=True)
    optimizer = ProxOptimizer([p], GradientDescent(), 0.1, step_size=Tenfold(), foreach=foreach)
    for _ in range(60):  # a linear loss: no step is too long for it
        p.grad = torch.ones(4)
        optimizer.step()
    assert optimizer.diagnostics()["skipped"] > 0
    assert torch.isfinite(p).all()
    assert (p < -1e30).all()


def test_closure_loss_and_observe_are_three_ways_to_one_step() -> None:
    results = []
    for way in ("closure", "loss", "observe"):
        params = parameters()
        optimizer = TruncatedMemorySGD(params, lower_bound=0.0)

        def closure(params: Any = params, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = sum((p**2).sum() for p in params)
            loss.backward()
            return loss

        for _ in range(4):
            if way == "closure":
                assert isinstance(optimizer.step(closure), Tensor)
            else:
                loss = closure()
                if way == "observe":
                    optimizer.observe(loss)
                    optimizer.step()
                else:
                    optimizer.step(loss=loss)
        results.append([p.detach() for p in params])
    same(results[0], results[1])
    same(results[0], results[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: AMSGD(p, lr=-1.0), r"lr must be >= 0 and finite, got -1\.0"),
        (lambda p: AMSGD(p, weight_decay=-1.0), r"weight_decay must be >= 0 and finite, got -1\.0"),
        (lambda p: AMSGD(p, beta_max=1.1), r"beta_max must be in \[0, 1\], got 1\.1"),
        (lambda p: AMSGD(p, inertia=-1.0), r"inertia must be >= 0 and finite, got -1\.0"),
        (lambda p: AMSGD(p, scope="layer"), r"scope must be one of 'model', 'group', 'tensor', got 'layer'"),
        (lambda p: AMAdamW(p, betas=(1.0, 0.9)), r"beta_max must be < 1 with Adam"),
        (lambda p: AMAdamW(p, betas=(0.9, 1.0)), r"beta2 must be in \[0, 1\), got 1\.0"),
        (lambda p: AMAdamW(p, eps=0.0), r"eps must be > 0"),
        (lambda p: ProxOptimizer(p, TruncatedMemory(0.0), 0.1, scope="tensor"), r"scope must be 'model', got 'tensor'"),
        (lambda p: ProxOptimizer(p, TruncatedMemory(0.0), 0.1, maximize=True), r"maximize must be False"),
        (lambda p: AMSGD([{"params": p, "inertia": 0.2}]), r"inertia must be one for all groups, 0\.1, got 0\.2"),
        (lambda p: AMSGD([{"params": p, "maximize": True}]), r"maximize must be one for all groups, False, got True"),
        (lambda p: AMSGD([{"params": p, "lr": -2.0}]), r"lr must be >= 0 and finite, got -2\.0"),
    ],
)
def test_bad_settings_are_refused_at_construction(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(parameters())


def test_momentum_as_in_sgd_is_answered_with_what_to_give() -> None:
    with pytest.raises(TypeError, match=r"options must be among .*, got momentum=0\.9\. .* beta_max of AMSGD caps it"):
        AMSGD(parameters(), momentum=0.9)


def test_bad_steps_are_refused_before_anything_changes() -> None:
    params = parameters()
    momo = MoMo(params, lower_bound=0.0)
    give(params, inputs(1)[0][0])
    with pytest.raises(ValueError, match=r"MoMo looks at the loss: call step\(loss=\.\.\.\) or step\(closure\)"):
        momo.step()
    same(params, parameters())
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"gradients must be dense, got a sparse one. Use sparse=False"):
        AMSGD(table.parameters()).step()
    number = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    number.grad = torch.zeros_like(number)
    with pytest.raises(RuntimeError, match=r"must be real, got a complex one. Use torch.view_as_real"):
        AMSGD([number]).step()
    here, there = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, device="meta"))
    here.grad, there.grad = torch.zeros(2), torch.zeros(2, device="meta")
    with pytest.raises(RuntimeError, match=r"on one device with scope 'model', got cpu, meta. Use scope='tensor'"):
        AMSGD([here, there]).step()


# --- training --------------------------------------------------------------------------------------------------------


def train(kind: Any, folder: Path | None) -> list[Tensor]:
    """A small network under a schedule, clipping and bf16 autocast; with a folder, through a checkpoint half-way."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = kind(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    x, y = torch.randn(64, 8), torch.randint(3, (64,))
    for step in range(20):
        if step == 10 and folder is not None:
            torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], folder / "half.pt")
            model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
            optimizer = kind(model.parameters())
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
            for thing, state in zip((model, optimizer, scheduler), torch.load(folder / "half.pt"), strict=True):
                thing.load_state_dict(state)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("kind", [AMSGD, AMAdamW])
def test_training_with_schedule_clipping_autocast_and_a_checkpoint(kind: Any, tmp_path: Path) -> None:
    same(train(kind, None), train(kind, tmp_path))
