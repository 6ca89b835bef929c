"""The optimizer under test: how it is made, how it steps, and the toy problem that it steps on.

The toy's loss f_t(x) = ½ Σ (x - b_t)² has a target b_t that moves from step to step. It is never negative, and the
gradients belong to it, so that optimizers which look at the loss can be driven too (a lower bound of 0 suits them).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Factory = Callable[..., torch.optim.Optimizer]
Params = list[nn.Parameter]
Shapes = Sequence[tuple[int, ...]]
SHAPES: Sequence[Shapes] = (((4, 3), (5,)), ((4, 3), (5, 2)))  # the second for optimizers that take matrices only
REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError)


class NotApplicable(Exception):
    """The row asks for something that this optimizer does not offer."""


@dataclass(frozen=True)
class Subject:
    """An optimizer class or factory, and what the suite has found out about it.

    way: how the loss is given: "keyword", "observe", "closure", or "none".
    needs_loss: whether a step without the loss is refused.
    shapes: of the toy problem's parameters; defaults: the optimizer's.
    """

    factory: Factory
    way: str
    needs_loss: bool
    shapes: Shapes
    defaults: dict[str, Any] = field(default_factory=dict)
    name: str = "optimizer"

    @property
    def lr(self) -> float:
        """The optimizer's lr."""
        if "lr" not in self.defaults:
            raise NotApplicable("it has no lr")
        return float(self.defaults["lr"])

    def params(self, dtype: torch.dtype = torch.float64, shapes: Shapes | None = None, scale: float = 1.0) -> Params:
        """Fresh parameters; their values are float32 numbers, the same in every call."""
        shapes = self.shapes if shapes is None else shapes
        return [nn.Parameter((scale * noise(s, 1000 + i).float()).to(dtype)) for i, s in enumerate(shapes)]

    def make(self, params: Any, **options: Any) -> torch.optim.Optimizer:
        """The optimizer; options are keywords of the factory or, failing that, entries of the parameter group."""
        if not options:
            return self.factory(params)
        try:
            if takes(self.factory, options):
                return self.factory(params, **options)
            missing = [name for name in options if name not in self.defaults]
            if missing:
                raise NotApplicable(f"it takes no {', '.join(missing)}")
            return self.factory([{"params": params, **options}])
        except REFUSALS as error:
            raise NotApplicable(f"refused: {first_line(error)}") from error

    def start(self, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Params, torch.optim.Optimizer]:
        """Fresh parameters and the optimizer on them."""
        params = self.params(dtype)
        return params, self.make(params, **options)

    def start_on(self, shapes: Shapes) -> tuple[Params, torch.optim.Optimizer]:
        """The same on other shapes, which an optimizer may refuse at construction: then the row does not apply."""
        params = self.params(shapes=shapes)
        try:
            return params, self.make(params)
        except REFUSALS as error:
            raise NotApplicable(f"refused: {first_line(error)}") from error

    def options(self, **wanted: Any) -> dict[str, Any]:
        """Those of the wanted options that the optimizer knows."""
        return {name: value for name, value in wanted.items() if name in self.defaults}

    def step(self, optimizer: torch.optim.Optimizer, loss: Any, through: Callable[..., Any] | None = None) -> Any:
        """One step, with the loss where it is taken; `through` calls step() instead of us, e.g. a scaler."""
        call: Callable[..., Any] = optimizer.step if through is None else through
        if self.way == "keyword":
            return call(loss=loss)
        if self.way == "observe":
            optimizer.observe(loss)  # type: ignore[attr-defined]
        return call(lambda: loss) if self.way == "closure" else call()

    def drive(self, optimizer: torch.optim.Optimizer, params: Params, times: Iterable[int]) -> list[Tensor]:
        """Steps on the toy problem at the given times; returns the values reached."""
        for t in times:
            loss = give_gradients(params, t)
            self.step(optimizer, loss)
        return values(params)


def examine(factory: Factory, needs_loss: bool | None = None) -> Subject:
    """Find out what kind of optimizer the factory makes.

    Raises:
        TypeError: if it makes none. What the factory raises for plain matrices goes through.
    """
    shapes = next((s for s in SHAPES if _can_make(factory, s)), SHAPES[-1])
    optimizer = factory(Subject(factory, "none", False, shapes).params())
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"factory(params) must return a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    blind = Subject(factory, "none", False, shapes, optimizer.defaults, type(optimizer).__name__)
    needs = _refuses_bare_steps(blind) if needs_loss is None else needs_loss
    return Subject(factory, _way(optimizer, needs), needs, shapes, optimizer.defaults, blind.name)


def _can_make(factory: Factory, shapes: Shapes) -> bool:
    try:
        factory(Subject(factory, "none", False, shapes).params())
    except REFUSALS:
        return False
    return True


def _refuses_bare_steps(subject: Subject) -> bool:
    params, optimizer = subject.start()
    try:
        subject.drive(optimizer, params, range(1))
    except Exception:
        return True
    return False


def _way(optimizer: torch.optim.Optimizer, needs_loss: bool) -> str:
    if "loss" in inspect.signature(optimizer.step).parameters:
        return "keyword"
    if hasattr(optimizer, "observe"):
        return "observe"
    return "closure" if needs_loss else "none"


def takes(factory: Factory, options: Iterable[str]) -> bool:
    """Whether the factory has these keywords."""
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # a callable without a signature
        return False
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values()) or set(options) <= set(parameters)


def noise(shape: Sequence[int], seed: int) -> Tensor:
    """Normal numbers, (shape), float64, a function of the seed alone."""
    return torch.randn(tuple(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def give_gradients(params: Params, t: int, scales: Sequence[float] = ()) -> Tensor:
    """Set the gradients of the toy problem at time t, in each parameter's own layout; returns the loss, float64.

    scales: of each parameter's share of the loss; default 1. Also seeds torch, for optimizers that draw numbers.
    """
    torch.default_generator.manual_seed(t)  # torch.manual_seed takes longer than a step
    loss = torch.zeros((), dtype=torch.float64, device=params[0].device if params else None)
    for i, p in enumerate(params):
        scale = scales[i] if scales else 1.0
        apart = p.detach().double() - target(p, i, t)
        p.grad = torch.empty_like(p).copy_(scale * apart)
        loss += scale * 0.5 * apart.square().sum()
    return loss


def target(p: Tensor, i: int, t: int) -> Tensor:
    """b_t of the i-th parameter."""
    return noise(p.shape, 10_000 + 100 * t + i).to(p.device)


def gradient(p: Tensor) -> Tensor:
    """The gradient of a parameter that has one."""
    assert p.grad is not None
    return p.grad


def zero_gradients(params: Params) -> None:
    """All gradients zero."""
    for p in params:
        p.grad = torch.zeros_like(p)


def values(params: Iterable[Tensor]) -> list[Tensor]:
    """Copies of the parameters' values."""
    return [p.detach().clone() for p in params]


def set_lr(optimizer: torch.optim.Optimizer, lr: Any) -> None:
    """One lr for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
