"""Rows on precision: half precision, float32 beside float64, loss scaling."""

from __future__ import annotations

from functools import partial

import torch

from proxmom.testing.compare import largest, moved, require_finite, same
from proxmom.testing.row import Failure, require, row
from proxmom.testing.subject import NotApplicable, Params, Subject, give_gradients, gradient, values

TINY = 1e-4  # its square is zero in float16
SCALE = 1024.0


@row("half precision", "bfloat16 and float16 parameters stay finite and move, with gradients of size 1 and of 1e-4.")
def half_precision(s: Subject) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        params = s.params(dtype, scale=0.01)  # near zero, so that small steps are not rounded away
        optimizer = s.make(params)
        before = values(params)
        for t in range(10):
            s.step(optimizer, give_gradients(params, t, (1.0, TINY)))
        require_finite(params, f"in {dtype}")
        require(moved(before[:1], params[:1]), f"parameters do not move in {dtype}")


@row("float32 = float64", "20 steps in float32 and float64 agree to 1e-4 of the way that was gone.")
def float32_is_float64(s: Subject) -> str:
    exact, reference = s.start()
    params, optimizer = s.start(torch.float32)
    start = values(exact)
    s.drive(reference, exact, range(20))
    s.drive(optimizer, params, range(20))
    way = largest(p - x for p, x in zip(exact, start, strict=True))
    apart = largest(p.double() - q for p, q in zip(params, exact, strict=True))
    if not apart <= 1e-4 * way + 1e-6 * largest(start):
        raise Failure(f"off by {apart:.1e}, having gone {way:.1e}")
    return f"off by {apart:.1e}, having gone {way:.1e}"


@row("GradScaler", "Under torch.amp.GradScaler infinite gradients change nothing; other steps are the unscaled ones.")
def grad_scaler(s: Subject) -> None:
    if s.way == "closure":
        raise NotApplicable("it wants a closure, and GradScaler refuses closures")
    (params, optimizer), (plain, twin) = s.start(torch.float32), s.start(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    _scaled_step(s, scaler, optimizer, params, 0)
    s.drive(twin, plain, [0])
    same(params, plain, "a scaled step is not the unscaled one", 1e-6)
    before = values(params)
    _scaled_step(s, scaler, optimizer, params, 9, float("inf"))
    same(params, before, "a step with infinite gradients moved parameters")
    _scaled_step(s, scaler, optimizer, params, 1)
    same(params, s.drive(twin, plain, [1]), "a step with infinite gradients changed the state", 1e-6)


def _scaled_step(
    s: Subject,
    scaler: torch.amp.GradScaler,
    optimizer: torch.optim.Optimizer,
    params: Params,
    t: int,
    factor: float = 1.0,
) -> None:
    """As in training: gradients of the scaled loss, scaler.step, scaler.update."""
    loss = give_gradients(params, t)
    scale = scaler.scale(torch.ones(()))
    for p in params:
        gradient(p).mul_(scale * factor)
    s.step(optimizer, loss, through=partial(scaler.step, optimizer))
    scaler.update()
