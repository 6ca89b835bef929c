"""What `minimize` evaluates: a function of parameters, of one tensor, or of a tensor of many problems, over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from proxmom.torch.full_batch.rows import Rows

ALLOWED = (torch.float32, torch.float64)


class Objective:
    """f and its gradient over rows; tensors of one dtype are one row, one behind the other.

    Args:
        fun: f() of parameters, or f(x) of one tensor.
        tensors: the distinct ones that are to be changed. inplace: whether they are the caller's, or hold x.
        count: N, or None for one problem.
    """

    def __init__(self, fun: Callable[..., Any], tensors: list[Tensor], *, inplace: bool, count: int | None) -> None:
        self._fun, self.tensors, self._inplace, self.count = fun, tensors, inplace, count
        dtypes = list(dict.fromkeys(tensor.dtype for tensor in tensors))
        self._groups = [[i for i, tensor in enumerate(tensors) if tensor.dtype == dtype] for dtype in dtypes]
        self.coarsest = max(torch.finfo(dtype).eps for dtype in dtypes)
        self.precise = self.coarsest < 1e-10  # whether all is in float64
        self.grain: float | None = None  # eps of f, once it was seen
        self.device = tensors[0].device

    def rows(self) -> Rows:
        """Where the tensors are now, a copy."""
        return self._joined([tensor.detach() for tensor in self.tensors])

    def _joined(self, parts: list[Tensor]) -> Rows:
        lead = self.count or 1
        return [torch.cat([parts[i].reshape(lead, -1) for i in group], dim=1) for group in self._groups]

    def split(self, rows: Rows) -> list[Tensor]:
        """Rows as tensors of their shapes: views."""
        found: dict[int, Tensor] = {}
        for row, group in zip(rows, self._groups, strict=True):
            sizes = [self.tensors[i].numel() // (self.count or 1) for i in group]
            parts = torch.split(row, sizes, dim=1)
            found.update((i, part.reshape(self.tensors[i].shape)) for i, part in zip(group, parts, strict=True))
        return [found[i] for i in range(len(self.tensors))]

    def told(self, rows: Rows) -> Any:
        """Rows as the caller knows them, copies: a list of tensors, or one."""
        parts = [part.clone() for part in self.split(rows)]
        return parts if self._inplace else parts[0]

    @torch.no_grad()
    def place(self, rows: Rows) -> None:
        """The tensors become these."""
        for tensor, part in zip(self.tensors, self.split(rows), strict=True):
            tensor.copy_(part)

    def __call__(self, rows: Rows) -> tuple[Tensor, Rows]:
        """f, (N,) in float64 on the device, and its gradient."""
        self.place(rows)
        with torch.enable_grad():
            f = self._fun() if self._inplace else self._fun(self.tensors[0])
            self._check(f)
            found = torch.autograd.grad(f.sum(), self.tensors, allow_unused=True)
        parts = [torch.zeros_like(t) if g is None else g.detach() for t, g in zip(self.tensors, found, strict=True)]
        return f.detach().double().reshape(-1).to(self.device), self._joined(parts)

    def _check(self, f: Any) -> None:
        if not isinstance(f, Tensor):
            raise TypeError(f"fun must return a tensor, got {type(f).__name__}; leave out .item().")
        if not f.is_floating_point():
            raise TypeError(f"fun must return real numbers, got {f.dtype}.")
        right = f.shape == (self.count,) if self.count is not None else f.numel() == 1
        if not right:
            wanted = "one number" if self.count is None else f"one number for each problem, ({self.count},)"
            raise ValueError(f"fun must return {wanted}, got the shape {tuple(f.shape)}.")
        if not f.requires_grad:
            raise ValueError(
                "fun must return a tensor that knows where it comes from, got one without a graph: compute it of the "
                "parameters by torch operations, without detach, item or no_grad."
            )
        self.grain = torch.finfo(f.dtype).eps


def objective(fun: Callable[..., Any], params: Tensor | nn.Module | Iterable[Tensor], batch_dims: int) -> Objective:
    """What is to be minimised; see `minimize` for what is refused."""
    if batch_dims not in (0, 1):
        raise ValueError(f"batch_dims must be 0 or 1, got {batch_dims!r}.")
    if isinstance(params, Tensor):
        _check_dtypes([params])
        if batch_dims and (params.dim() == 0 or len(params) == 0):
            raise ValueError(f"x must be of shape (N, ...) with batch_dims=1, N >= 1, got {tuple(params.shape)}.")
        x = params.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        return Objective(fun, [x], inplace=False, count=len(x) if batch_dims else None)
    if batch_dims:
        raise ValueError("batch_dims must be 0 with parameters, got 1: pass one tensor of shape (N, ...).")
    given = list(params.parameters() if isinstance(params, nn.Module) else params)
    if not all(isinstance(tensor, Tensor) for tensor in given):
        raise TypeError("params must be tensors, a module or one tensor, got something else among them.")
    tensors = list({id(tensor): tensor for tensor in given if tensor.requires_grad}.values())
    if not tensors:
        raise ValueError("params must hold a tensor that requires a gradient, got none: all are frozen.")
    if not all(tensor.is_leaf for tensor in tensors):
        raise ValueError("params must be leaves, got the result of a computation: pass what it was computed of.")
    _check_dtypes(tensors)
    return Objective(fun, tensors, inplace=True, count=None)


def _check_dtypes(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if tensor.dtype not in ALLOWED:
            raise TypeError(f"params must be float32 or float64, got {tensor.dtype}: convert them, e.g. by .float().")
    devices = {str(tensor.device) for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(f"params must be on one device, got {', '.join(sorted(devices))}.")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError("params must be finite, got NaN or infinity.")
