"""Rows on parameter groups, learning rates and options."""

from __future__ import annotations

import torch

from proxmom.testing.compare import moved, require_finite, require_finite_state, same
from proxmom.testing.row import Failure, require, row
from proxmom.testing.subject import (
    NotApplicable,
    Subject,
    first_line,
    give_gradients,
    gradient,
    set_lr,
    takes,
    values,
)


@row("late group", "add_param_group after some steps: the new parameters move, and the old ones go on.")
def late_group(s: Subject) -> None:
    params = s.params()
    optimizer = s.make(params[:1])
    s.drive(optimizer, params[:1], range(3))
    optimizer.add_param_group({"params": params[1:]})
    before = values(params)
    require(moved(before, s.drive(optimizer, params, range(3, 6))), "parameters added later do not move")
    require_finite(params, "with a group added later")


@row("one group = two groups", "The same parameters in one group and split in two take the same steps.")
def one_group_is_two_groups(s: Subject) -> None:
    one, two = s.params(), s.params()
    first, second = s.make(one), s.make([{"params": two[:1]}, {"params": two[1:]}])
    same(s.drive(first, one, range(6)), s.drive(second, two, range(6)), "two groups step otherwise than one", 1e-9)


@row("each group its lr", "A group with lr = 0 stays while another moves.")
def each_group_its_lr(s: Subject) -> None:
    _ = s.lr
    params = s.params()
    before = values(params)
    optimizer = s.make([{"params": params[:1]}, {"params": params[1:], "lr": 0.0}])
    after = s.drive(optimizer, params, range(3))
    same(after[1:], before[1:], "a group with lr = 0 moved")
    require(moved(before[:1], after[:1]), "a group does not move because another has lr = 0")


@row("lr as a tensor", "lr as a 0-dim tensor steps as the number does, and is not written into.")
def lr_as_a_tensor(s: Subject) -> None:
    number, tensor = s.start(), s.start(lr=torch.tensor(s.lr, dtype=torch.float64))
    same(s.drive(*tensor[::-1], range(5)), s.drive(*number[::-1], range(5)), "lr as a tensor steps otherwise", 1e-6)
    lr = float(tensor[1].param_groups[0]["lr"])
    require(lr == s.lr, f"step() changed the tensor lr from {s.lr:g} to {lr:g}")


@row("lr = 0", "With lr set to 0 between steps nothing moves, state stays finite, and it goes on afterwards.")
def lr_zero(s: Subject) -> None:
    lr = s.lr
    params, optimizer = s.start()
    before = s.drive(optimizer, params, range(3))
    set_lr(optimizer, 0.0)
    same(s.drive(optimizer, params, range(3, 5)), before, "parameters moved with lr = 0")
    require_finite_state(optimizer, "after lr = 0")
    set_lr(optimizer, lr)
    require(moved(before, s.drive(optimizer, params, range(5, 8))), "parameters stay where lr = 0 left them")
    require_finite(params, "after lr = 0")


@row("schedulers", "LambdaLR acts as setting group['lr'] by hand does, and acts at all.")
def schedulers(s: Subject) -> None:
    lr = s.lr
    (params, optimizer), (twins, twin), (fixed, constant) = s.start(), s.start(), s.start()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.3**t)
    for t in range(6):
        s.drive(optimizer, params, [t])
        scheduler.step()
        set_lr(twin, lr * 0.3**t)
        s.drive(twin, twins, [t])
        s.drive(constant, fixed, [t])
    same(params, twins, "a scheduler acts otherwise than setting lr by hand", 1e-12)
    require(moved(params, fixed), "the scheduler's lr changes nothing")


@row("maximize", "maximize=True with -g is the step with g.")
def maximize(s: Subject) -> None:
    (down, first), (up, second) = s.start(), s.start(maximize=True)
    for t in range(5):
        s.step(first, give_gradients(down, t))
        loss = give_gradients(up, t)
        for p in up:
            p.grad = -gradient(p)
        s.step(second, -loss)
    same(up, down, "maximize=True with -g is not the step with g", 1e-12)


@row("foreach", "foreach=True, False and None take the same steps.")
def foreach(s: Subject) -> None:
    reached = {}
    for value in (False, True, None):
        params, optimizer = s.start(foreach=value, **s.options(weight_decay=0.1))
        reached[value] = s.drive(optimizer, params, range(5))
    for value in (True, None):
        same(reached[value], reached[False], f"foreach={value} steps otherwise than foreach=False", 1e-6)


@row("invalid lr is refused", "lr = -1 raises ValueError or TypeError at construction.")
def invalid_lr_is_refused(s: Subject) -> str:
    if not takes(s.factory, ["lr"]):
        raise NotApplicable("the factory takes no lr: give a class or functools.partial(Class, ...)")
    message = _refusal(s, -1.0)
    require(message is not None, "lr = -1 was accepted")
    return f"{message}; nan is {'accepted' if _refusal(s, float('nan')) is None else 'refused too'}"


def _refusal(s: Subject, lr: float) -> str | None:
    try:
        s.factory(s.params(), lr=lr)
    except (ValueError, TypeError) as error:
        return first_line(error)
    except Exception as error:
        raise Failure(f"lr = {lr:g} raised {type(error).__name__}, expected ValueError") from error
    return None
