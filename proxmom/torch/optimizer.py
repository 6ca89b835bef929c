"""`ProxOptimizer`: any rule, with any metric, wherever torch trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from proxmom.metrics import Euclidean, Metric
from proxmom.rules import Rule
from proxmom.step import MEMORY, Outcome, Products, Step
from proxmom.torch import native, shards
from proxmom.torch.layout import SCALARS, SKIPPED, STEP, Home, Layout, Member, arrange
from proxmom.torch.passes import Motion, Numbers, Passes, Settings, TorchPasses

SCOPES = ("model", "group", "tensor")


class Options(TypedDict, total=False):
    """What every optimizer here takes besides, by keyword.

    maximize: climb instead; default False.
    foreach: which of three ways that agree up to rounding moves the arrays. None: the fastest there is (the C++ kernels
        on the CPU where they were built, Triton on CUDA, else True). True: torch operations on blocks, small parameters
        together. False: torch operations, one parameter at a time.
    capturable: keep lr on the device, so that a captured CUDA graph follows a scheduler; default False.
    stochastic_rounding: round bfloat16 parameters at random, so that small steps add up; default False.
    process_group: over which a needed loss is averaged; default: the default group, if one is initialised. If it is
        given, its processes also agree on skipping a step. Not kept by pickle and deepcopy.
    """

    maximize: bool
    foreach: bool | None
    capturable: bool
    stochastic_rounding: bool
    process_group: Any


DEFAULTS = Options(maximize=False, foreach=None, capturable=False, stochastic_rounding=False, process_group=None)


@dataclass
class _Turn:
    """One device's share of one step, between measuring and moving."""

    layout: Layout
    numbers: Numbers
    lr: Tensor
    weight_decay: Tensor
    outcome: Outcome
    sound: Tensor


class ProxOptimizer(torch.optim.Optimizer):
    """Any rule with any metric as a torch optimizer; see `AMSGD` and `AMAdamW` for the paper's two.

    Parameter groups may have their own lr and weight_decay; everything else is one for all groups. All state lives in
    `state[p]`: the memory, the metric's state, and 0-dim tensors. A step never waits for the device, but for the first
    two after the set of parameters with a gradient has changed.

    Args:
        params: as for every torch optimizer.
        rule: e.g. `AdaptiveMemory()`, or an object of your own with `planes(now)`.
        lr: step size, >= 0; a number or a 0-dim tensor.
        metric: `Euclidean()` or `Adam()`.
        inertia: λ >= 0.
        weight_decay: μ >= 0.
        decay: "coupled", "decoupled" or "proximal".
        scope: one model of planes for the whole "model", for each parameter "group", or for each "tensor".
        options: see `Options`.

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
        **options: Unpack[Options],
    ) -> None:
        unknown = sorted(set(options) - set(DEFAULTS))
        if unknown:
            raise TypeError(f"options must be among {', '.join(DEFAULTS)}, got {', '.join(unknown)}.")
        self._step = Step(rule, Euclidean() if metric is None else metric, inertia=inertia, decay=decay)
        self._options: Options = {**DEFAULTS, **options}
        self._scope = scope
        self._check_settings()
        self._forget()
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def _check_settings(self) -> None:
        name, scope = type(self._step.rule).__name__, self._scope
        if scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(map(repr, SCOPES))}, got {scope!r}.")
        if self._step.facts.needs_loss and scope != "model":
            raise ValueError(
                f"{name} looks at the loss, so scope must be 'model', got {scope!r}: the loss is one for all."
            )
        if self._step.facts.needs_loss and self._options["maximize"]:
            raise ValueError(f"{name} looks at the loss, so maximize must be False: its planes are bounds from below.")

    def _forget(self) -> None:
        """Drop what is derived from the state and the groups; the next step makes it anew."""
        self._observed: Any = None
        self._last: tuple[Tensor, Tensor] | None = None
        self._homes: dict[Tensor, Home] = {}
        self._layouts: list[Layout] = []
        self._arranged: list[tuple[int, int]] = []

    def __getstate__(self) -> dict[str, Any]:
        options = {**self._options, "process_group": None}
        return {**super().__getstate__(), "_step": self._step, "_scope": self._scope, "_options": options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; a group may set lr and weight_decay, and repeat what is one for all groups."""
        for key, value in self._common().items():
            if param_group.get(key, value) != value:
                raise ValueError(
                    f"{key} must be one for all groups, {value}, got {param_group[key]}: give it to the optimizer."
                )
        for key in ("lr", "weight_decay"):
            value = param_group.get(key, self.defaults[key])
            if not isinstance(value, Tensor) and not 0 <= value < float("inf"):
                raise ValueError(f"{key} must be >= 0 and finite, got {value}.")
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if self._options["capturable"] and not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)

    def _common(self) -> dict[str, Any]:
        """What is one for all groups, by the names under which a group might give it."""
        rule, metric = self._step.rule, self._step.metric
        beta = self._step.facts.beta_max
        names = {"rule": rule, "metric": metric, "inertia": self._step.inertia, "decay": self._step.decay}
        own = {"scope": self._scope, "beta_max": beta, "beta": beta, "betas": (beta, getattr(metric, "beta2", None))}
        known = {"eps": getattr(metric, "eps", None), "lower_bound": getattr(rule, "lower_bound", None)}
        return {**names, **own, **known, **self._options}

    def observe(self, loss: Tensor | float) -> None:
        """The loss for the next step, for wrappers that call step() without arguments."""
        self._observed = loss

    def diagnostics(self) -> dict[str, Tensor | None]:
        """Of the last step, as tensors on the device: "weights" (S, K), "beta" (S,); and "skipped", steps in all.

        With several devices (scope "tensor") the first one's.
        """
        weights, beta = (None, None) if self._last is None else self._last
        counts = [state["skipped"] for state in self.state.values() if "skipped" in state]
        return {"weights": weights, "beta": beta, "skipped": torch.stack(counts).max() if counts else None}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None) -> Any:
        """One step; returns the closure's loss.

        A gradient, loss or model of planes that is not finite skips the step in every scope: nothing changes but the
        count in `diagnostics()`.

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
        active = [
            (index, group, p)
            for index, group in enumerate(self.param_groups)
            for p in group["params"]
            if p.grad is not None
        ]
        if any(p.grad.is_sparse for _, _, p in active):
            raise RuntimeError("gradients must be dense, got a sparse one. Use sparse=False in the embedding.")
        if not active:
            return returned
        if self._step.facts.needs_loss and given is None:
            if any(group["lr"] != 0 for _, group, _ in active):
                name = type(self._step.rule).__name__
                raise ValueError(f"{name} looks at the loss: call step(loss=...) or step(closure).")
            self._arrange(active)  # how checkpoint loaders create state: lr 0, zero gradients, no loss
            return returned
        self._arrange(active)
        self._advance(given)
        return returned

    def _arrange(self, active: list[Member]) -> None:
        """Look up the layouts of these parameters, one for each device; make them if others stepped last time."""
        arranged = [(index, id(p)) for index, _, p in active]
        if arranged == self._arranged:
            for layout in self._layouts:
                for part in layout.parts:
                    part.refresh()
            return
        _check(active, self._scope)
        devices = dict.fromkeys(p.device for _, _, p in active)
        self._layouts = []
        for device in devices:
            members = [member for member in active if member[2].device == device]
            layout = arrange(members, self.state, self._homes, self._step, self._scope)
            layout.passes = self._passes(layout)
            self._layouts.append(layout)
        awake = {id(p) for _, _, p in active}
        idle = [p for group in self.param_groups for p in group["params"] if id(p) not in awake and self.state.get(p)]
        self._layouts[0].idle = [self.state[p]["last_lr"] for p in idle]
        self._arranged = arranged

    def _passes(self, layout: Layout) -> Passes:
        settings = Settings(
            metric=self._step.metric,
            inertia=self._step.inertia,
            sign=-1.0 if self._options["maximize"] else 1.0,
            averaging=tuple(self._step.facts.memories.values()),
            stochastic_rounding=self._options["stochastic_rounding"],
        )
        foreach = self._options["foreach"]
        if foreach is None and native.serves(layout, settings):
            return native.NativePasses(layout, settings)
        return TorchPasses(layout, settings, pack=foreach is not False)

    def _advance(self, given: Any) -> None:
        """Take the step, unless something is not finite."""
        seeded = [memory for layout in self._layouts for memory in self._seed(layout)]
        turns = [self._measure(layout, given) for layout in self._layouts]
        sound = turns[0].sound
        for turn in turns[1:]:
            sound = sound & turn.sound.to(sound.device)
        group = self._options["process_group"]
        if group is not None:
            sound = shards.agree(sound, group)
        if turns[0].layout.on_host and not sound:
            for turn in turns:
                turn.layout.table[:, SKIPPED] += 1
            for memory in seeded:
                memory.zero_()
            return
        for turn in turns:
            self._commit(turn, None if turns[0].layout.on_host else sound.to(turn.layout.device))
        if not turns[0].layout.on_host:
            for memory in seeded:
                memory.copy_(torch.where(sound.to(memory.device), memory, 0.0))
        self._remember(turns[0].outcome, sound)

    def _remember(self, outcome: Outcome, sound: Tensor) -> None:
        """Weights and beta for `diagnostics()`; those of a skipped step are not looked at."""
        new = (outcome.weights, outcome.beta)
        if self._last is not None and self._last[0].shape == new[0].shape:
            new = (torch.where(sound, new[0], self._last[0]), torch.where(sound, new[1], self._last[1]))
        self._last = new

    def _seed(self, layout: Layout) -> list[Tensor]:
        """Where memory starts as the first gradient, put it there; returns the memories written."""
        if not layout.young:
            return []
        fresh = (layout.table[:, STEP] == 0).tolist()
        layout.young = any(fresh)
        written = []
        if self._step.metric.memory_from_gradient:
            for part, (_, group, _) in zip(layout.parts, layout.members, strict=True):
                if fresh[part.unit]:
                    g = part.gradient().to(part.memories[0].dtype)
                    g = -g if self._options["maximize"] else g
                    if self._step.decay == "coupled" and group["weight_decay"]:
                        g = g + group["weight_decay"] * part.x
                    for memory in part.memories:
                        memory.copy_(g)
                        written.append(memory)
        return written

    def _measure(self, layout: Layout, given: Any) -> _Turn:
        """What the step will be on one device, and whether everything is finite."""
        step, table = self._step, layout.table
        lr, mu = (self._per_unit(layout, key) for key in ("lr", "weight_decay"))
        coupled = step.decay == "coupled"
        decays = any(group["weight_decay"] for _, group, _ in layout.members)
        loss = None
        if step.facts.needs_loss:
            loss = shards.mean(_scalar(given, table), self._options["process_group"])
        scalars = layout.scalars(loss)
        factor = step.factor(scalars)
        numbers = Numbers(
            coupled=mu if coupled and decays else None,
            factor=factor if isinstance(factor, Tensor) else None,
            own=layout.own(),
            with_x=decays and not coupled,
        )
        mu = 0 * mu if coupled else mu
        sums = layout.meshes.total(layout.passes.measure(numbers))
        products = self._products(sums, with_x=numbers.with_x)
        outcome = step.take(products, scalars, layout.scope, lr=lr, weight_decay=mu, loss=loss)
        checked = [sums, outcome.linear, outcome.quadratic, *([] if loss is None else [loss])]
        sound = torch.stack([part.isfinite().all() for part in checked]).all()
        return _Turn(layout, numbers, lr, mu, outcome, sound)

    def _per_unit(self, layout: Layout, key: str) -> Tensor:
        """A group's setting for each of its units, (U,); a number becomes a tensor without waiting for the device."""
        values = [_scalar(group[key], layout.table) for group in self.param_groups]
        return torch.cat(values)[layout.groups]

    def _products(self, sums: Tensor, *, with_x: bool) -> Products:
        """See `Passes` for the columns."""
        count, inertia = len(self._step.names), self._step.inertia
        pairs = count * (count + 1) // 2
        places = _places(count, sums.device)
        metric, pulled = sums[:, :pairs][:, places], sums[:, pairs : 2 * pairs][:, places]
        return Products(
            dual=metric + inertia * pulled,
            metric=metric,
            pull=pulled[:, :, MEMORY] if inertia else None,
            decay=sums[:, 2 * pairs :] if with_x else None,
        )

    def _commit(self, turn: _Turn, sound: Tensor | None) -> None:
        """Move the parameters and write down what the next step needs."""
        layout, outcome, scope = turn.layout, turn.outcome, turn.layout.scope
        proximal = self._step.decay == "proximal"
        shrink = 1 / (1 + turn.lr * turn.weight_decay) if proximal else 1 - turn.lr * turn.weight_decay
        scale = turn.lr * scope.spread(outcome.kept) * (shrink if proximal else 1)
        direction = torch.stack([scope.spread(column) for column in outcome.direction.unbind(-1)], dim=-1)
        layout.passes.move(turn.numbers, Motion(direction, scale, shrink, sound))
        for part in layout.parts:
            part.arrive()
        new = self._new_scalars(turn)
        layout.table.copy_(new if sound is None else torch.where(sound, new, layout.table))
        if sound is not None:
            layout.table[:, SKIPPED] += ~sound
        for last_lr in layout.idle:  # what does not move adds nothing to the next step's height
            last_lr.mul_(0 if sound is None else ~sound)
        layout.idle = [] if sound is None else layout.idle

    def _new_scalars(self, turn: _Turn) -> Tensor:
        """The table after this step."""
        table, left, scope = turn.layout.table, turn.outcome.scalars, turn.layout.scope
        loss, height = table[:, SCALARS.index("loss")], table[:, SCALARS.index("memory_height")]
        if self._step.facts.needs_loss:
            loss, height = scope.spread(left.loss), scope.spread(left.memory_height)
        columns = [table[:, STEP] + 1, left.last_lr, left.kept, left.missing, loss, height, table[:, SKIPPED]]
        empty = table.new_zeros((len(table), 0))
        state = {**self._step.metric.start(empty), **turn.layout.own()}
        own = self._step.metric.update(state, empty)
        return torch.stack([*columns, *(own[name][:, 0] for name in turn.layout.own())], dim=1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but every tensor keeps the dtype it was saved with."""
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.detach().to(device=p.device, copy=True)
        self._forget()


@lru_cache
def _places(count: int, device: torch.device) -> Tensor:
    """Where entry (i, j) of a symmetric matrix stands among the entries on and above its diagonal, (B, B)."""
    pairs = {pair: at for at, pair in enumerate(combinations_with_replacement(range(count), 2))}
    rows = [[pairs[min(i, j), max(i, j)] for j in range(count)] for i in range(count)]
    return torch.tensor(rows, device=device)


def _scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """A number or 0-dim tensor as (1,), in the dtype and on the device of `like`."""
    if isinstance(value, Tensor):
        return value.detach().to(like).reshape(1)
    return like.new_full((1,), value)


def _check(active: list[Member], scope: str) -> None:
    """Raise for parameters that this optimizer cannot step."""
    if any(p.is_complex() for _, _, p in active):
        raise RuntimeError("parameters must be real, got a complex one. Use torch.view_as_real.")
    devices = {p.device for _, _, p in active}
    if scope != "tensor" and len(devices) > 1:
        got = ", ".join(sorted(map(str, devices)))
        raise RuntimeError(f"parameters must be on one device with scope {scope!r}, got {got}. Use scope='tensor'.")
