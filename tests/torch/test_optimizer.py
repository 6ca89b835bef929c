"""The torch backend: the NumPy backend's numbers, and torch's habits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from proxmom import GradientDescent, TruncatedMemory
from proxmom.torch import AMSGD, AMAdamW, MoMo, ProxOptimizer, TruncatedMemorySGD
from tests.torch.common import close, drive, give, inputs, parameters, same


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
