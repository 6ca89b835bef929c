"""Rows on kinds of tensors: empty and 0-dim, layouts, sparse gradients, complex parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from proxmom.testing.compare import largest, moved, require_finite, same
from proxmom.testing.row import Failure, require, row
from proxmom.testing.subject import (
    NotApplicable,
    Params,
    Shapes,
    Subject,
    first_line,
    give_gradients,
    gradient,
    noise,
    values,
)

IMAGE, MATRIX = (2, 3, 4, 5), (4, 6)


@row("0-dim and empty parameters", "They step like any other.")
def zero_dim_and_empty_parameters(s: Subject) -> None:
    params, optimizer = s.start_on([(), (0,), (3, 2), (0, 2)])
    before = values(params)
    require(moved(before, s.drive(optimizer, params, range(4))), "a 0-dim parameter, or one beside it, does not move")
    require_finite(params, "with 0-dim and empty ones among them")


@row("memory layouts", "Transposed and channels_last parameters, with gradients in either layout, take the same steps.")
def memory_layouts(s: Subject) -> None:
    shapes = _accepted(s, [IMAGE, MATRIX], [MATRIX])
    plain = s.params(shapes=shapes)
    expected = s.drive(s.make(plain), plain, range(4))
    for relaid in (False, True):
        turned = [nn.Parameter(_turn(p.detach())) for p in s.params(shapes=shapes)]
        optimizer = s.make(turned)
        for t in range(4):
            loss = give_gradients(turned, t)
            if relaid:
                for p in turned:
                    p.grad = gradient(p).contiguous()
            s.step(optimizer, loss)
        layout = "contiguous gradients" if relaid else "gradients of its own layout"
        same(turned, expected, f"a layout that is not contiguous, with {layout}, steps otherwise", 1e-9)


def _accepted(s: Subject, *candidates: Shapes) -> Shapes:
    for shapes in candidates[:-1]:
        try:
            s.start_on(shapes)
        except NotApplicable:
            continue
        return shapes
    return candidates[-1]


def _turn(p: Tensor) -> Tensor:
    return p.to(memory_format=torch.channels_last) if p.dim() == 4 else p.T.contiguous().T


@row("sparse gradients", "A sparse gradient acts as the dense one with its entries, or is refused with a clear word.")
def sparse_gradients(s: Subject) -> str:
    refused = _refused(s, "sparse", torch.float64, lambda params: _sparse(params, repeat=True))
    if refused is not None:
        return refused
    (sparse, optimizer), (dense, twin) = s.start_on([(5, 2)]), s.start_on([(5, 2)])
    before = values(sparse)
    s.step(optimizer, _sparse(sparse, repeat=True))
    loss = _sparse(dense, repeat=True)
    dense[0].grad = gradient(dense[0]).to_dense()
    s.step(twin, loss)
    same([sparse[0][1:3]], [dense[0][1:3]], "rows that a sparse gradient touches step otherwise", 1e-9)
    rest = [0, 3, 4]
    still = largest([sparse[0][rest] - before[0][rest]])
    require(min(still, largest([sparse[0][rest] - dense[0][rest]])) <= 1e-9, "rows without an entry moved")
    s.step(optimizer, _sparse(sparse))
    require_finite(sparse, "after sparse gradients")
    return "supported"


def _sparse(params: Params, *, repeat: bool = False) -> Tensor:
    """Set a gradient with entries in rows 1 and 2, row 1 in two parts that add up; returns a loss."""
    (p,) = params
    rows = torch.tensor([[1, 2, 1] if repeat else [1, 2]])
    entries = noise((rows.numel(), p.shape[1]), 5)
    p.grad = torch.sparse_coo_tensor(rows, entries, p.shape, check_invariants=False)
    return torch.ones((), dtype=torch.float64)


@row("complex parameters", "Real and imaginary part go downhill, or complex numbers are refused with a clear word.")
def complex_parameters(s: Subject) -> str:
    refused = _refused(s, "complex", torch.complex128, _complex)
    if refused is not None:
        return refused
    params = [nn.Parameter(noise((5, 2), 1).to(torch.complex128))]
    optimizer = s.make(params)
    for _ in range(3):
        before = values(params)
        s.step(optimizer, _complex(params))
        move, g = params[0].detach() - before[0], gradient(params[0])
        require(move.isfinite().all(), "complex parameters are not finite")
        for name, part in (("real", torch.real), ("imaginary", torch.imag)):
            require(float((part(move) * part(g)).sum()) < 0, f"the {name} part does not go downhill")
    return "supported"


def _complex(params: Params) -> Tensor:
    """Set the gradient of ½|z - b|² with b = 3 + 4i; returns the loss."""
    (p,) = params
    p.grad = p.detach() - (3 + 4j)
    return 0.5 * p.grad.abs().square().sum()


def _refused(s: Subject, word: str, dtype: torch.dtype, give: Callable[[Params], Any]) -> str | None:
    """The message with which such a step is refused, or None; a refusal says the word, and changes nothing."""
    params = [nn.Parameter(noise((5, 2), 1).to(dtype))]
    before = values(params)
    try:
        optimizer = s.make(params)
        s.step(optimizer, give(params))
    except Exception as error:
        message = f"{type(error).__name__}: {first_line(error)}"
        require(word in str(error).lower(), f"refused without saying {word!r}: {message}")
        if not torch.equal(params[0], before[0]):
            raise Failure(f"refused, but parameters have moved: {message}") from error
        return f"refused: {message}"
    return None
