"""`ProxOptimizer`: any rule, with any metric, wherever torch trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, distributed

from proxmom.metrics import Euclidean, Metric
from proxmom.rules import Rule
from proxmom.step import MEMORY, Outcome, Products, Scalars, Scope, Step
from proxmom.torch.passes import Part, accumulator, measure, move

SCOPES = ("model", "group", "tensor")
SCALARS = ("step", "last_lr", "kept", "missing", "loss", "memory_height", "skipped")  # 0-dim tensors in state[p]


class ProxOptimizer(torch.optim.Optimizer):
    """Any rule with any metric as a torch optimizer; see `AMSGD` and `AMAdamW` for the paper's two.

    Parameter groups may have their own lr and weight_decay; everything else is one for all groups. All state lives in
    `state[p]`: the memory, the metric's state, and 0-dim tensors.

    Args:
        params: as for every torch optimizer.
        rule: e.g. `AdaptiveMemory()`, or an object of your own with `planes(now)`.
        lr: step size, >= 0; a number or a 0-dim tensor.
        metric: `Euclidean()` or `Adam()`.
        inertia: λ >= 0.
        weight_decay: μ >= 0.
        decay: "coupled", "decoupled" or "proximal".
        scope: one model of planes for the whole "model", for each parameter "group", or for each "tensor".
        maximize: climb instead.
        process_group: over which a needed loss is averaged; default: the default group, if one is initialised. Not
            kept by pickle and deepcopy.

    Raises:
        ValueError, TypeError: for settings that are out of range or do not go together.
    """

    def __init__(
        self,
        params: Any,
        rule: Rule,
        lr: float | Tensor,
        *,
        metric: Metric | None = None,
        inertia: float = 0.0,
        weight_decay: float = 0.0,
        decay: str = "decoupled",
        scope: str = "model",
        maximize: bool = False,
        process_group: Any = None,
    ) -> None:
        self._step = Step(rule, Euclidean() if metric is None else metric, inertia=inertia, decay=decay)
        name = type(rule).__name__
        if scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(map(repr, SCOPES))}, got {scope!r}.")
        if self._step.facts.needs_loss and scope != "model":
            raise ValueError(
                f"{name} looks at the loss, so scope must be 'model', got {scope!r}: the loss is one for all."
            )
        if self._step.facts.needs_loss and maximize:
            raise ValueError(f"{name} looks at the loss, so maximize must be False: its planes are bounds from below.")
        self._scope, self._maximize, self._process_group = scope, maximize, process_group
        self._observed: Any = None
        self._last: Outcome | None = None
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_step", "_scope", "_maximize")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._observed = self._last = self._process_group = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; a group may set lr and weight_decay, and nothing else of ours."""
        unknown = set(param_group) - {"params", "lr", "weight_decay", "param_names", "initial_lr"}
        if unknown & {"inertia", "decay", "scope", "maximize", "rule", "metric", "betas", "beta_max", "eps"}:
            names = ", ".join(sorted(unknown))
            raise ValueError(f"{names} must be one for all groups: give it to the optimizer, not to a group.")
        for key in ("lr", "weight_decay"):
            value = param_group.get(key, self.defaults[key])
            if not isinstance(value, Tensor) and not 0 <= value < float("inf"):
                raise ValueError(f"{key} must be >= 0 and finite, got {value}.")
        super().add_param_group(param_group)

    def observe(self, loss: Tensor | float) -> None:
        """The loss for the next step, for wrappers that call step() without arguments."""
        self._observed = loss

    def diagnostics(self) -> dict[str, Tensor | None]:
        """Of the last step, as tensors on the device: "weights" (S, K), "beta" (S,); and "skipped", steps in all."""
        last = self._last
        counts = [state["skipped"] for state in self.state.values() if "skipped" in state]
        return {
            "weights": None if last is None else last.weights,
            "beta": None if last is None else last.beta,
            "skipped": torch.stack(counts).max() if counts else None,
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None) -> Any:
        """One step; returns the closure's loss.

        Args:
            closure: evaluates the model and returns the loss.
            loss: the loss that the gradients belong to; only rules that look at it need one.

        Raises:
            ValueError, RuntimeError: for a missing loss, sparse or complex gradients, before anything changes.
        """
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        given = next((value for value in (loss, returned, self._observed) if value is not None), None)
        self._observed = None
        members = [(index, group, p) for index, group in enumerate(self.param_groups) for p in group["params"]]
        active = [(index, group, p) for index, group, p in members if p.grad is not None]
        _check(active, self._scope)
        if active and self._advance(active, given):
            self._rest(p for _, _, p in members if p.grad is None)
        return returned

    def _rest(self, idle: Iterable[Tensor]) -> None:
        """A parameter without a gradient does not move, so it adds nothing to the next step's height."""
        for p in idle:
            if "last_lr" in self.state[p]:
                self.state[p]["last_lr"].zero_()

    def _advance(self, active: list[tuple[int, dict[str, Any], Tensor]], given: Any) -> bool:
        """Take the step, unless something is not finite; returns whether it was taken."""
        needs_loss = self._step.facts.needs_loss
        kind: dict[str, Any] = {"dtype": accumulator(active[0][2]), "device": active[0][2].device}
        lr = torch.stack([torch.as_tensor(group["lr"], **kind) for _, group, _ in active])
        started = [bool(self.state[p]) for _, _, p in active]
        for _, _, p in active:
            self._start(p)
        if needs_loss and given is None:
            if all(not isinstance(group["lr"], Tensor) and group["lr"] == 0 for _, group, _ in active):
                return False  # how checkpoint loaders create state: lr 0, zero gradients, no loss
            name = type(self._step.rule).__name__
            raise ValueError(f"{name} looks at the loss: call step(loss=...) or step(closure).")
        coupled = self._step.decay == "coupled"
        mu = torch.tensor([0.0 if coupled else group["weight_decay"] for _, group, _ in active], **kind)
        scope = self._membership([index for index, _, _ in active], kind)
        scalars = self._gather([p for _, _, p in active], started, scope)
        factor = self._step.factor(scalars)
        parts = [
            self._part(p, group, factor[i] if isinstance(factor, Tensor) else 1.0)
            for i, (_, group, p) in enumerate(active)
        ]
        products = self._measure(parts, with_x=not coupled and any(group["weight_decay"] for _, group, _ in active))
        loss = None if given is None or not needs_loss else self._average(torch.as_tensor(given, **kind))
        sound = torch.stack([part.isfinite().all() for part in (*products, loss) if part is not None]).all()
        outcome = self._step.take(products, scalars, scope, lr=lr, weight_decay=mu, loss=loss)
        sound = sound & outcome.linear.isfinite().all() & outcome.quadratic.isfinite().all()
        if not sound:
            for _, _, p in active:
                self.state[p]["skipped"] += 1
            return False
        self._last = outcome
        self._move(active, parts, outcome, scope, lr, mu)
        self._scatter([p for _, _, p in active], outcome.scalars, scope)
        return True

    def _average(self, loss: Tensor) -> Tensor:
        """The loss of all processes, (1,): a rank that saw only its own would step elsewhere than the others."""
        mean = loss.detach().clone().reshape(1)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(mean, group=self._process_group)
            mean /= distributed.get_world_size(self._process_group)
        return mean

    def _start(self, p: Tensor) -> None:
        """State of a parameter before its first step."""
        state = self.state[p]
        if state:
            return
        kind: dict[str, Any] = {"dtype": accumulator(p), "device": p.device}
        empty = torch.zeros_like(p, dtype=_working(p), memory_format=torch.contiguous_format)
        for name in self._step.names[MEMORY:]:
            state[name] = empty.clone()
        for name, value in self._step.metric.start(empty.reshape(-1)).items():
            state[name] = value.view_as(p) if isinstance(value, Tensor) else torch.tensor(float(value), **kind)
        for name in SCALARS:
            state[name] = torch.zeros((), **kind)
        state["kept"] += 1
        state["missing"] += not self._step.metric.memory_from_gradient

    def _part(self, p: Tensor, group: dict[str, Any], factor: Any) -> Part:
        state = self.state[p]
        x = p.detach().to(_working(p)).reshape(-1)
        g = p.grad.detach().to(_working(p)).reshape(-1)  # type: ignore[union-attr]
        g = -g if self._maximize else g
        if self._step.decay == "coupled" and group["weight_decay"]:
            g = g + group["weight_decay"] * x
        memories = [state[name].view(-1) for name in self._step.names[MEMORY:]]
        if self._step.metric.memory_from_gradient and state["step"] == 0:
            memories = [g.clone() for _ in memories]
        start = self._step.metric.start(x[:0])
        metric = {n: state[n].view(-1) if isinstance(value, Tensor) else state[n] for n, value in start.items()}
        return Part(x, g, memories, metric, factor)

    def _measure(self, parts: list[Part], *, with_x: bool) -> Products:
        inertia = self._step.inertia
        sums = [measure(part, self._step.metric, inertia=inertia, with_x=with_x) for part in parts]
        dual, metric, pull, decay = (torch.stack(column) for column in zip(*sums, strict=True))
        return Products(dual, metric, pull if inertia else None, decay if with_x else None)

    def _membership(self, groups: list[int], kind: dict[str, Any]) -> Scope:
        if self._scope == "tensor":
            return Scope()
        ids = [0 for _ in groups] if self._scope == "model" else groups
        rows = [[float(i == one) for i in ids] for one in dict.fromkeys(ids)]
        return Scope(torch.tensor(rows, **kind))

    def _gather(self, active: list[Tensor], started: list[bool], scope: Scope) -> Scalars:
        values = {name: torch.stack([self.state[p][name] for p in active]) for name in SCALARS}
        oldest = started.index(True) if True in started else 0
        seen = self._step.facts.needs_loss and bool(values["step"].max() > 0)
        return Scalars(
            step=-scope.least(-values["step"]),  # of its oldest parameter
            last_lr=values["last_lr"],
            kept=values["kept"],
            missing=values["missing"],
            loss=values["loss"][oldest].reshape(1) if seen else None,
            memory_height=values["memory_height"][oldest].reshape(1),
        )

    def _move(
        self,
        active: list[tuple[int, dict[str, Any], Tensor]],
        parts: list[Part],
        outcome: Outcome,
        scope: Scope,
        lr: Tensor,
        mu: Tensor,
    ) -> None:
        proximal = self._step.decay == "proximal"
        shrink = 1 / (1 + lr * mu) if proximal else 1 - lr * mu
        scale = lr * scope.spread(outcome.kept) * (shrink if proximal else 1)
        rows = torch.stack([scope.spread(column) for column in outcome.direction.unbind(-1)], dim=-1)
        for part, (_, _, p), row, factor, rest in zip(
            parts, active, rows.tolist(), scale.tolist(), shrink.tolist(), strict=True
        ):
            move(
                part,
                self._step.metric,
                row,
                inertia=self._step.inertia,
                scale=factor,
                shrink=rest,
                averaging=tuple(self._step.facts.memories.values()),
            )
            self._write(p, part)

    def _write(self, p: Tensor, part: Part) -> None:
        """What `move` wrote into copies goes back to where it lives."""
        state = self.state[p]
        if part.x.data_ptr() != p.data_ptr():
            p.copy_(part.x.view_as(p))
        for name, memory in zip(self._step.names[MEMORY:], part.memories, strict=True):
            if memory.data_ptr() != state[name].data_ptr():
                state[name].copy_(memory.view_as(p))
        empty = {name: value[:0] if value.dim() else value for name, value in part.metric.items()}
        for name, value in self._step.metric.update(empty, part.gradient[:0]).items():
            if not value.dim():
                state[name] = value

    def _scatter(self, active: list[Tensor], left: Scalars, scope: Scope) -> None:
        columns = {"last_lr": left.last_lr, "kept": left.kept, "missing": left.missing}
        if left.loss is not None:
            columns |= {"loss": scope.spread(left.loss), "memory_height": scope.spread(left.memory_height)}
        for name, column in columns.items():
            for p, value in zip(active, column.unbind(), strict=True):
                self.state[p][name] = value.clone()
        for p in active:
            self.state[p]["step"] += 1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but every tensor keeps the dtype it was saved with."""
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.to(device=p.device, copy=True)


def _working(p: Tensor) -> torch.dtype:
    """The dtype of state and computation: float32 for half precision, else the parameter's own."""
    return torch.promote_types(p.dtype, torch.float32)


def _check(active: list[tuple[int, dict[str, Any], Tensor]], scope: str) -> None:
    """Raise for gradients that this optimizer cannot use."""
    for _, _, p in active:
        if p.grad.is_sparse:  # type: ignore[union-attr]
            raise RuntimeError("gradients must be dense, got a sparse one. Use sparse=False in the embedding.")
        if hasattr(p, "to_local"):
            raise RuntimeError(
                "parameters must be plain tensors, got a DTensor: sharded training is not supported yet."
            )
        if p.is_complex():
            raise RuntimeError("parameters must be real, got a complex one. Use torch.view_as_real.")
    devices = {p.device for _, _, p in active}
    if scope != "tensor" and len(devices) > 1:
        got = ", ".join(sorted(map(str, devices)))
        raise RuntimeError(f"parameters must be on one device with scope {scope!r}, got {got}. Use scope='tensor'.")
