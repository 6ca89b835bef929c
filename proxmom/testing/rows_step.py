"""Rows on a single step: gradients, their absence, closures, grad mode, numbers that are zero or not finite."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from proxmom.testing.compare import largest, moved, require_finite, require_finite_state, same
from proxmom.testing.row import WISH, require, row
from proxmom.testing.subject import Params, Subject, give_gradients, gradient, target, values, zero_gradients


@row("minimises (smoke test)", "100 steps on ½|x - b|² lower it by 1% or more; nothing further is meant.")
def minimises(s: Subject) -> str:
    params, optimizer = s.start()
    before = float(give_gradients(params, 0))
    s.drive(optimizer, params, [0] * 100)
    after = float(give_gradients(params, 0))
    require(after <= 0.99 * before, f"the loss went from {before:.3g} to {after:.3g}")
    return f"{before:.3g} to {after:.3g}"


@row("repeatable", "The same seed and the same gradients give the same 30 steps, bit by bit.")
def repeatable(s: Subject) -> None:
    one, two = s.start(), s.start()
    same(s.drive(one[1], one[0], range(30)), s.drive(two[1], two[0], range(30)), "two equal runs differ")


@row("gradients are left alone", "step() neither writes into p.grad nor replaces it, with weight decay on too.")
def gradients_are_left_alone(s: Subject) -> None:
    params, optimizer = s.start(**s.options(weight_decay=0.1))
    for t in range(3):
        loss = give_gradients(params, t)
        given, before = [p.grad for p in params], [gradient(p).clone() for p in params]
        s.step(optimizer, loss)
        require(all(p.grad is g for p, g in zip(params, given, strict=True)), "p.grad is another tensor after step()")
        same([gradient(p) for p in params], before, "p.grad was modified")


@row("no gradient, no move", "A parameter whose grad is None stays, whatever it did before, and goes on well later.")
def no_gradient_no_move(s: Subject) -> None:
    params, optimizer = s.start()
    s.drive(optimizer, params, range(3))
    before = values(params)
    for t in (3, 4):
        loss = give_gradients(params, t)
        params[0].grad = None
        s.step(optimizer, loss)
    same(params[:1], before[:1], "a parameter without a gradient moved")
    _bare_step_is_nothing(s, optimizer, params)
    before = values(params)
    require(moved(before, s.drive(optimizer, params, range(5, 8))), "a parameter never moves again after a pause")
    require_finite(params, "after a pause")


def _bare_step_is_nothing(s: Subject, optimizer: torch.optim.Optimizer, params: Params) -> None:
    before = values(params)
    for p in params:
        p.grad = None
    s.step(optimizer, 1.0)
    same(params, before, "a step without any gradient moved parameters")


@row("late gradient", "A parameter that gets its first gradient after three steps joins in.")
def late_gradient(s: Subject) -> None:
    params, optimizer = s.start()
    before = values(params)
    for t in range(3):
        loss = give_gradients(params, t)
        params[0].grad = None
        s.step(optimizer, loss)
    same(params[:1], before[:1], "a parameter moved before its first gradient")
    require(moved(before, s.drive(optimizer, params, range(3, 6))), "a late parameter does not move")
    require_finite(params, "with a late gradient")


@row("all-zero gradients", "Zero gradients, at the start and later, give finite parameters and state.")
def all_zero_gradients(s: Subject) -> None:
    params, optimizer = s.start()
    for times in (range(2), range(2, 4)):
        for _ in range(2):
            zero_gradients(params)
            s.step(optimizer, 1.0)
        require_finite(params, "after zero gradients")
        require_finite_state(optimizer, "after zero gradients")
        s.drive(optimizer, params, times)
        require_finite(params, "some steps after zero gradients")


@row("NaN gradient is skipped", "One NaN in a gradient changes nothing: parameters stay, later steps are as if.", WISH)
def nan_gradient_is_skipped(s: Subject) -> None:
    clean, other = s.start()
    dirty, optimizer = s.start()
    s.drive(other, clean, range(2))
    before = s.drive(optimizer, dirty, range(2))
    for bad in (_nan_gradient, _nan_loss) if s.needs_loss else (_nan_gradient,):
        s.step(optimizer, bad(dirty))
        same(dirty, before, f"{bad.__doc__} changed parameters")
    require_finite_state(optimizer, "after a NaN")
    same(s.drive(optimizer, dirty, range(2, 5)), s.drive(other, clean, range(2, 5)), "a NaN changed the state")


def _nan_gradient(params: Params) -> Tensor:
    """a NaN gradient"""
    loss = give_gradients(params, 9)
    gradient(params[0]).view(-1)[0] = float("nan")
    return loss


def _nan_loss(params: Params) -> Tensor:
    """a NaN loss"""
    return give_gradients(params, 9) * float("nan")


@row("closure", "step(closure) calls it, with grad mode on, and returns its loss; the step is the one without closure.")
def closure(s: Subject) -> None:
    one, two = s.start(), s.start()
    for t, mode in enumerate((torch.enable_grad, torch.no_grad)):
        calls: list[bool] = []
        with mode():
            returned = one[1].step(_closure(one[0], t, one[1].zero_grad, calls))
        require(calls, "the closure is not called")
        require(all(calls), "the closure is called with grad mode off")
        loss = give_gradients(two[0], t)
        s.step(two[1], loss)
        require(returned is not None, "step(closure) returned None instead of the loss")
        same([torch.as_tensor(returned)], [loss], "step(closure) returned another loss", 1e-12)
        if len(calls) == 1:
            same(one[0], two[0], "a step with a closure is not the one without", 1e-9)


def _closure(params: Params, t: int, zero_grad: Callable[[], Any], calls: list[bool]) -> Any:
    def evaluate() -> Tensor:
        calls.append(torch.is_grad_enabled())
        zero_grad()
        with torch.enable_grad():
            apart = [p - target(p, i, t) for i, p in enumerate(params)]
            loss = torch.stack([0.5 * a.square().sum() for a in apart]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return evaluate


@row("grad mode", "A step takes place with grad mode on and off, leaves it as it was, and parameters stay leaves.")
def grad_mode(s: Subject) -> None:
    reached: list[list[Tensor]] = []
    for mode in (torch.enable_grad, torch.no_grad):
        params, optimizer = s.start()
        with mode():
            was = torch.is_grad_enabled()
            reached.append(s.drive(optimizer, params, range(3)))
            require(torch.is_grad_enabled() == was, "step() leaves grad mode changed")
        require(all(p.is_leaf and p.requires_grad for p in params), "parameters are no longer leaves that need grad")
    same(reached[0], reached[1], "steps differ with grad mode on and off")


@row("tied parameters count once", "A weight used by two modules steps once; one in two groups is refused, or too.")
def tied_parameters_count_once(s: Subject) -> None:
    shape = s.shapes[0]
    (weight,) = s.params(shapes=[(shape[0], shape[0])])
    model = torch.nn.ModuleList(torch.nn.Linear(shape[0], shape[0], bias=False) for _ in range(2)).double()
    for layer in model:
        layer.weight = weight
    (alone,) = s.params(shapes=[(shape[0], shape[0])])
    tied, single = s.make(list(model.parameters())), s.make([alone])
    for t in range(3):
        for optimizer, p in ((tied, weight), (single, alone)):
            s.step(optimizer, give_gradients([p], t))
    same([weight], [alone], "a tied weight does not step as a single one", 1e-12)
    for twice in (lambda p: [p, p], lambda p: [{"params": [p]}, {"params": [p]}]):
        _listed_twice(s, twice)


def _listed_twice(s: Subject, twice: Callable[[Tensor], Any]) -> None:
    """Refused, or warned of, or stepped once."""
    one, two = s.params(shapes=s.shapes[:1]), s.params(shapes=s.shapes[:1])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            optimizer, single = s.factory(twice(one[0])), s.make(two)
        except Exception:
            return
    if not told:
        for t in range(2):
            s.step(optimizer, give_gradients(one, t))
            s.step(single, give_gradients(two, t))
        apart = largest([one[0] - two[0]])
        require(apart <= 1e-12, f"a parameter listed twice steps twice, without a warning: off by {apart:.1e}")
