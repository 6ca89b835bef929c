"""What may be given to the torch optimizers, what may be loaded, and what must be let go of; several of each kind."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from proxmom import AdaptiveMemory, kernels
from proxmom.torch import AMSGD, AMAdamW, MoMo, MoMoAdam, ProxOptimizer, TruncatedMemorySGD
from tests.torch.common import step, stepped

PATHS = pytest.mark.parametrize("foreach", [None, True, False], ids=["fastest", "blocks", "one at a time"])


@PATHS
@pytest.mark.parametrize(
    ("gradient", "fits"),
    [
        (lambda: torch.ones(()).expand(4, 3), True),
        (lambda: torch.arange(24.0).view(4, 6)[:, ::2], True),
        (lambda: torch.arange(12.0).view(3, 4).t(), True),
        (lambda: torch.arange(36.0).view(4, 3, 3)[..., 1], True),
        (lambda: torch.arange(20.0).as_strided((4, 3), (2, 1)), True),
        (lambda: torch.complex(torch.ones(4, 3), torch.ones(4, 3)).conj().imag, True),
    ],
)
def test_gradients_of_any_stride_are_their_values(gradient: Any, fits: bool, foreach: bool | None) -> None:
    moved = []
    for given in (gradient(), gradient().clone(memory_format=torch.contiguous_format)):
        (p,), optimizer = stepped(AMSGD, (4, 3), foreach=foreach)
        step(optimizer, given)
        moved.append(p.detach().clone())
    assert torch.equal(*moved)


@PATHS
@pytest.mark.parametrize("make", [AMSGD, AMAdamW])
def test_a_gradient_may_lie_on_the_parameter_or_the_state(make: Any, foreach: bool | None) -> None:
    for alias in (lambda p, o: p.detach(), lambda p, o: o.state[p]["memory"], lambda p, o: p.data.flip(0)):
        reached = []
        for copied in (False, True):
            (p,), optimizer = stepped(make, (9,), foreach=foreach)
            g = alias(p, optimizer)
            step(optimizer, g.clone() if copied else g)
            reached.append(p.detach().clone())
        assert torch.equal(*reached)
    for parameter, gradient in ((slice(0, -1), slice(1, None)), (slice(1, None), slice(0, -1))):
        base = torch.linspace(1, 2, 200_000)  # several pieces of work
        p, twin = nn.Parameter(base[parameter]), nn.Parameter(base[parameter].clone())
        apart = base[gradient].clone()
        step(make([p], foreach=foreach), base[gradient])
        step(make([twin], foreach=foreach), apart)
        assert torch.equal(p, twin)


@PATHS
def test_without_decay_the_first_step_does_not_look_at_x(foreach: bool | None) -> None:
    p = nn.Parameter(torch.tensor([float("inf"), 1.0]))
    step(AMSGD([p], lr=0.1, foreach=foreach), torch.ones(2))
    torch.testing.assert_close(p.detach(), torch.tensor([float("inf"), 0.9]))


@PATHS
def test_state_that_becomes_another_view_of_its_own_memory_is_noticed(foreach: bool | None) -> None:
    for change in (Tensor.t, lambda m: m.flatten().view(3, 3).T, lambda m: m[:1].expand(3, 3)):
        reached = []
        for copied in (False, True):
            (p,), optimizer = stepped(AMSGD, (3, 3), foreach=foreach)
            step(optimizer, torch.arange(9.0).view(3, 3))
            memory = optimizer.state[p]["memory"]
            memory.data = change(memory.data).clone() if copied else change(memory.data)
            step(optimizer, torch.ones(3, 3))
            reached.append(p.detach().clone())
        assert torch.equal(*reached)


@PATHS
def test_a_negative_bit_is_a_sign(foreach: bool | None) -> None:
    """Of one element, so that it is contiguous all the same; and after steps that were found in order."""
    (p,), optimizer = stepped(AMSGD, (1,), lr=0.1, foreach=foreach)
    step(optimizer, torch.ones(1))
    before = p.detach().clone()
    turned = torch.complex(torch.ones(1), torch.ones(1)).conj().imag
    assert turned.is_neg()
    for _ in range(3):
        step(optimizer, turned)
    assert p > before
    q = nn.Parameter(torch.complex(torch.ones(1), torch.ones(1)).conj().imag)
    step(AMSGD([q], lr=0.1, foreach=foreach), torch.ones(1))
    torch.testing.assert_close(q.detach(), torch.tensor([-1.1]))


def test_kernels_are_given_addresses_that_fit_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels.available():
        pytest.skip("no kernels")
    seen: list[int] = []
    real = kernels.move

    def move(batch: Any, *given: Any, **more: Any) -> None:
        seen.extend(int(at) for column in (batch.x, batch.gradient, batch.memory) for at in column)
        real(batch, *given, **more)

    monkeypatch.setattr(kernels, "move", move)
    odd = torch.frombuffer(bytearray(64), dtype=torch.float32, count=8, offset=2)
    for parameter, gradient in ((torch.ones(8), odd), (odd, torch.ones(8))):
        p = nn.Parameter(parameter)
        optimizer = AMSGD([p])
        for _ in range(3):
            step(optimizer, gradient)
    assert len(seen) == 18
    assert all(at % 4 == 0 for at in seen)


@PATHS
def test_a_gradient_that_was_freed_or_has_another_shape_is_refused_by_name(foreach: bool | None) -> None:
    (p, q), optimizer = stepped(AMSGD, (4,), (2, 3), foreach=foreach)
    before = q.detach().clone()
    gone = torch.ones(2, 3)
    gone.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"the gradient of parameter 1 needs a storage of 24 bytes, got 0"):
        step(optimizer, torch.ones(4), gone)
    q.data = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"state\['memory'\] of parameter 1 must have its parameter's shape \(3, 2\)"):
        optimizer.step()
    q.data = before
    p.data.untyped_storage().resize_(8)
    with pytest.raises(RuntimeError, match="parameter 0 needs a storage of 16 bytes, got 8"):
        step(optimizer, torch.ones(4), torch.ones(2, 3))


@PATHS
def test_a_parameter_that_was_freed_before_its_first_step_is_refused_by_name(foreach: bool | None) -> None:
    for size in (0, 12):
        p = nn.Parameter(torch.ones(4))
        p.grad = torch.ones(4)
        p.data.untyped_storage().resize_(size)
        with pytest.raises(RuntimeError, match=f"parameter 0 needs a storage of 16 bytes, got {size}"):
            AMSGD([p], foreach=foreach).step()


@PATHS
def test_state_that_was_freed_is_refused_by_name(foreach: bool | None) -> None:
    (p,), optimizer = stepped(AMSGD, (4,), foreach=foreach)
    optimizer.state[p]["memory"].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"state\['memory'\] of parameter 0 needs a storage of 16 bytes, got 0"):
        step(optimizer, torch.ones(4))


@PATHS
@pytest.mark.parametrize("overlap", ["same", "part", "expanded"])
def test_parameters_that_overlap_are_refused(overlap: str, foreach: bool | None) -> None:
    base = torch.ones(6)
    views = {"same": (base, base.view(6)), "part": (base[:4], base[3:]), "expanded": (torch.ones(1).expand(3),)}[
        overlap
    ]
    params = [nn.Parameter(view) for view in views]
    with pytest.raises(RuntimeError, match=r"must not (overlap in memory, got parameter 0|share memory, as those of)"):
        step(AMSGD(params, foreach=foreach), *(torch.ones(p.shape) for p in params))


@PATHS
def test_parameters_that_interleave_are_not_taken_for_overlapping(foreach: bool | None) -> None:
    base = torch.ones(8)
    params = [nn.Parameter(base[::2]), nn.Parameter(base[1::2])]
    step(AMSGD(params, lr=0.1, foreach=foreach), torch.ones(4), 2 * torch.ones(4))
    torch.testing.assert_close(base, torch.tensor([0.9, 0.8] * 4))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_parameters_that_are_not_real_are_refused(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.ones(3, dtype=dtype), requires_grad=False)
    p.grad = torch.ones(3, dtype=dtype)
    with pytest.raises(RuntimeError, match=r"parameters must be (real|of 16, 32 or 64 bit)"):
        AMSGD([p]).step()


@PATHS
@pytest.mark.parametrize(("dtype", "spike"), [(torch.float32, 2e19), (torch.float32, 1e38), (torch.float64, 1e160)])
def test_one_finite_spike_skips_one_step(dtype: torch.dtype, spike: float, foreach: bool | None) -> None:
    for inertia in (0.0, 0.1):
        for scope in ("tensor", "model"):
            (a, b), optimizer = stepped(
                AMAdamW, 6, 6, dtype=dtype, foreach=foreach, inertia=inertia, scope=scope, lr=0.1
            )
            for t in range(10):
                g = torch.ones_like(b)
                if t == 2:
                    g[0] = spike
                step(optimizer, torch.ones_like(a), g)
            assert int(optimizer.diagnostics()["skipped"]) == 1
            assert torch.equal(a, b)


def test_nothing_of_others_is_kept_alive() -> None:
    stepped(AMSGD, 9)  # torch's first optimizer loads its compiler, which leaves frames for the collector
    gc.collect()
    gc.disable()
    try:
        for make in (AMSGD, AMAdamW, lambda ps: AMSGD(ps, foreach=True), lambda ps: AMAdamW(ps, foreach=False)):
            (p,), optimizer = stepped(make, 9)
            step(optimizer, torch.ones(9))  # the first looks at gradients one by one
            gradient, memory = weakref.ref(p.grad), weakref.ref(optimizer.state[p]["memory"])
            optimizer.zero_grad()
            assert gradient() is None
            optimizer.state.pop(p)
            optimizer.param_groups[0]["params"][0] = new = nn.Parameter(p.detach().clone())
            old = weakref.ref(p)
            del p
            assert old() is None
            new.grad = torch.ones(9)
            optimizer.step()
            assert memory() is None
            left = weakref.ref(optimizer.state[new]["memory"])
            del optimizer
            assert left() is None
    finally:
        gc.enable()


def test_one_tensors_state_is_saved_without_the_others() -> None:
    params, optimizer = stepped(AMAdamW, *[4] * 300)
    file = io.BytesIO()
    torch.save(optimizer.state[params[7]], file)
    assert file.tell() < 6000
    assert sum(value.untyped_storage().nbytes() for value in optimizer.state[params[7]].values()) < 2000


@pytest.mark.parametrize("scope", ["tensor", "group", "model"])
def test_a_step_does_not_depend_on_gradients_outside_its_model(scope: str) -> None:
    reached = []
    for others in (True, False):
        torch.manual_seed(0)
        p, q = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in "pq")
        optimizer = AMAdamW([{"params": [p]}, {"params": [q]}], lr=0.1, scope=scope)
        for t in range(6):
            g = torch.randn(3, dtype=torch.float64)
            p.grad = None if t == 3 else g
            q.grad = torch.ones_like(q) if others else None
            optimizer.step()
        reached.append(p.detach().clone())
    assert torch.allclose(*reached, rtol=1e-12) == (scope != "model")  # in torch operations a block may round otherwise


def test_states_exchanged_between_groups_do_not_rest_together() -> None:
    """Two of one unit, one of which gives its state to another group: what rests in one leaves the other alone."""
    params, optimizer = stepped(AMAdamW, 3, 3, 3, scope="group", lr=0.1)
    p, q = params[:2]
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "lr": 0.1})
    other = optimizer.param_groups[1]["params"][0]
    step(optimizer, *(torch.ones(3) for _ in range(4)))
    optimizer.state[p], optimizer.state[other] = optimizer.state[other], optimizer.state[p]
    step(optimizer, None, None, torch.ones(3), None)
    assert float(optimizer.state[q]["last_lr"]) == 0
    assert float(optimizer.state[other]["last_lr"]) == pytest.approx(0.1)


def test_compiled_steps_are_eager_ones() -> None:
    def run(wrap: Callable[[Any], Any]) -> list[Tensor]:
        torch.manual_seed(0)
        a, b = (nn.Parameter(torch.ones(2)) for _ in "ab")
        optimizer = AMSGD([{"params": [a]}, {"params": [b]}], 0.1)

        def whole(x: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = (a * x).sum() + (b.square() * x).sum() if b.requires_grad else (a * x).sum()
            loss.backward()
            optimizer.step()
            return loss

        train = wrap(whole)
        for t in range(5):
            if t == 3:
                b.requires_grad_(False)
            if t == 4:
                optimizer.param_groups[0]["lr"] = 0.01
                optimizer.state[a]["memory"] = torch.ones(2)
            train(torch.randn(2))
        return [a.detach(), b.detach()]

    eager = run(lambda f: f)
    compiled = run(lambda f: torch.compile(f, backend="eager"))
    for x, y in zip(eager, compiled, strict=True):
        torch.testing.assert_close(x, y)


def test_a_compiled_training_step_is_compiled_once_whatever_lr_is() -> None:
    compiled = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    a = nn.Parameter(torch.ones(3))
    optimizer = AMSGD([a], 0.1)

    def whole(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = (a * x).square().sum()
        loss.backward()
        optimizer.step()
        return loss

    train = torch.compile(whole, backend=backend)
    counts = []
    for t in range(6):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + t)
        train(torch.ones(3) * (1 + t))
        counts.append(len(compiled))
    assert counts[1:] == counts[1:2] * 5


REFUSED: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda p: AMAdamW([p], betas=(0.8, 0.9, 0.99)), TypeError, "betas must be two numbers"),
    (lambda p: AMAdamW([p], betas=0.9), TypeError, "betas must be two numbers"),
    (lambda p: AMAdamW([p], betas=("a", 0.9)), TypeError, r"betas\[0\] must be a number, got 'a'"),
    (lambda p: AMAdamW([p], lr="1e-3"), TypeError, "lr must be a number, got '1e-3'"),
    (lambda p: AMAdamW([p], lr=None), TypeError, "lr must be a number, got None"),
    (
        lambda p: AMAdamW([p], lr=torch.tensor([0.1, 0.2])),
        TypeError,
        r"lr must be one real number, got a tensor of shape",
    ),
    (lambda p: AMAdamW([p], lr=torch.tensor(-0.1)), ValueError, "lr must be >= 0 and finite"),
    (lambda p: AMAdamW([p], weight_decay="0"), TypeError, "weight_decay must be a number"),
    (lambda p: AMAdamW([p], eps=None), TypeError, "eps must be a number"),
    (lambda p: AMSGD([p], beta_max="0.9"), TypeError, "beta_max must be a number"),
    (lambda p: AMSGD([p], inertia=None), TypeError, "inertia must be a number"),
    (lambda p: MoMo([p], lower_bound="0"), TypeError, "lower_bound must be a number"),
    (lambda p: MoMoAdam([p], lower_bound=0.0, betas=(0.9,)), TypeError, "betas must be two numbers"),
    (lambda p: TruncatedMemorySGD([p], lower_bound=None), TypeError, "lower_bound must be a number"),
    (lambda p: AMAdamW([p], amsgrad=True), TypeError, "options must be among .*, got amsgrad=True"),
    (lambda p: AMAdamW([p], fused=True), TypeError, "got fused=True"),
    (lambda p: OneCycleLR(AMSGD([p]), 0.1, total_steps=5), ValueError, "pass cycle_momentum=False"),
    (lambda p: CyclicLR(AMAdamW([p]), 0.1, 0.2), ValueError, "pass cycle_momentum=False"),
    (lambda p: AMAdamW(iter_that_must_not_be_read(), lr=-1.0), ValueError, "lr must be >= 0"),
    (
        lambda p: MoMo([p], lower_bound=0.0).step(lambda: (torch.tensor(1.0), 2)),
        TypeError,
        "got tuple: return it alone",
    ),
    (lambda p: MoMo([p], lower_bound=0.0).step(lambda: {"loss": 1}), TypeError, "got dict: return it alone"),
    (lambda p: MoMo([p], lower_bound=0.0).step(loss=torch.ones(2)), TypeError, r"got a tensor of shape \(2,\)"),
]


def iter_that_must_not_be_read() -> Any:
    yield pytest.fail("parameters were read before the settings were checked")


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_what_cannot_be_meant_is_refused_by_name(make: Any, kind: type[Exception], message: str) -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(kind, match=message):
        make(p)


def test_what_can_be_meant_is_taken() -> None:
    p, q = (nn.Parameter(torch.ones(2)) for _ in "pq")
    AMAdamW([p], betas=[0.8, torch.tensor(0.99)], amsgrad=False, differentiable=False, fused=None)
    AMSGD([{"params": [p]}, {"params": []}], capturable=True, nesterov=False)
    AMSGD([{"params": []}, {"params": [q]}], capturable=True, lr=torch.tensor(0.1))
    OneCycleLR(AMSGD([p]), 0.1, total_steps=5, cycle_momentum=False)
    optimizer = ProxOptimizer([p], AdaptiveMemory(), 0.1)
    optimizer.param_groups[0]["lr"] = float("nan")
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match="lr must be >= 0 and finite, got nan"):
        optimizer.step()
