"""`ProxOptimizer`: any rule, with any metric, wherever torch trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from proxmom.metrics import Euclidean, Metric
from proxmom.rules import Rule
from proxmom.step import Outcome, Step
from proxmom.stepsize import StepSize
from proxmom.torch import cuda, flattened, native, shards
from proxmom.torch.arrange import Home, arrange
from proxmom.torch.layout import SKIPPED, STEP, Layout, Member
from proxmom.torch.operations import TorchPasses
from proxmom.torch.passes import Passes, Settings
from proxmom.torch.turn import commit, measure, scalar

SCOPES = ("model", "group", "tensor")
PAST = 7  # sets of parameters whose layouts are kept, for those that take turns


class Options(TypedDict, total=False):
    """What every optimizer here takes besides, by keyword.

    Attributes:
        step_size: what multiplies lr at each step, of each scope, e.g. `proxmom.Alignment()`; default None: nothing
            does. No step is undone as in `numpy.minimize`: for that the loss would have to be waited for.
        maximize: climb instead; default False.
        foreach: which of three ways that agree up to rounding moves the arrays. None, the default: the fastest there is
            (the C++ kernels on the CPU where they were built, Triton on CUDA, else as True). True: torch operations on
            blocks, small parameters together. False: torch operations, one parameter at a time.
        capturable: keep lr on the device, so that a captured CUDA graph follows a scheduler; default False.
        stochastic_rounding: round bfloat16 parameters at random, so that small steps add up; default False. In torch
            operations only.
        process_group: over which a needed loss is averaged; default: the default group, if one is initialised. If it
            is given, its processes also agree on skipping a step. Not kept by pickle and deepcopy.
    """

    step_size: StepSize | None
    maximize: bool
    foreach: bool | None
    capturable: bool
    stochastic_rounding: bool
    process_group: Any


DEFAULTS = Options(
    step_size=None, maximize=False, foreach=None, capturable=False, stochastic_rounding=False, process_group=None
)


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
            derived = "momentum" in unknown  # the first thing that whoever comes from torch.optim.SGD tries
            remedy = " Momentum is derived; beta_max of AMSGD caps it, and so does betas[0] of AMAdamW." * derived
            raise TypeError(f"options must be among {', '.join(DEFAULTS)}, got {', '.join(unknown)}.{remedy}")
        metric = Euclidean() if metric is None else metric
        self._step = Step(rule, metric, inertia=inertia, decay=decay, step_size=options.get("step_size"))
        self._options: Options = {**DEFAULTS, **options}
        self._scope = scope
        self._check_settings()
        self._forget()
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @property
    def rule(self) -> Rule:
        """Where the planes come from."""
        return self._step.rule

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
        self._arranged: Any = None
        self._past: dict[Any, list[Layout]] = {}

    def __getstate__(self) -> dict[str, Any]:
        options = {**self._options, "process_group": None}
        return {**super().__getstate__(), "_step": self._step, "_scope": self._scope, "_options": options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; a group may set lr and weight_decay, and repeat what is one for all groups.

        Raises:
            ValueError: for lr or weight_decay that is negative or not finite (tensors are not looked at), or for
                another value of what is one for all; else as in torch.
        """
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
        own: dict[str, Any] = {"scope": self._scope, "beta_max": beta, "beta": beta}
        own["betas"] = (beta, getattr(metric, "beta2", None))
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
        params = [p for group in self.param_groups for p in group["params"]]
        gradients = flattened.gradients(params, self.state)
        if {g.layout for g in gradients if g is not None} - {torch.strided}:
            raise RuntimeError("gradients must be dense, got a sparse one. Use sparse=False in the embedding.")
        if all(g is None for g in gradients):
            return returned
        if self._step.facts.needs_loss and given is None:
            if any(group["lr"] != 0 for group in self.param_groups):
                name = type(self._step.rule).__name__
                raise ValueError(f"{name} looks at the loss: call step(loss=...) or step(closure).")
            self._arrange(params, gradients)  # how checkpoint loaders create state: lr 0, zero gradients, no loss
            return returned
        self._arrange(params, gradients)
        self._advance(given)
        return returned

    def _arrange(self, params: list[Tensor], gradients: list[Tensor | None]) -> None:
        """Look up the layouts of the parameters with a gradient; make them if others stepped last time."""
        sizes = [len(group["params"]) for group in self.param_groups]
        arranged = (sizes, [id(p) for p in params], [g is None for g in gradients])
        if not all(layout.follows() for layout in self._layouts):
            self._homes, self._arranged, self._past = {}, None, {}
        if arranged != self._arranged:
            indices = (index for index, size in enumerate(sizes) for _ in range(size))
            members = list(zip(indices, params, strict=True))
            moving = [member for member, g in zip(members, gradients, strict=True) if g is not None]
            asleep = [p for (_, p), g in zip(members, gradients, strict=True) if g is None]
            key = (tuple(arranged[0]), tuple(arranged[1]), tuple(arranged[2]))
            self._layouts = self._past[key] if self._valid(key) else self._arrange_anew(moving)
            self._layouts[0].idle = [self.state[p]["last_lr"] for p in asleep if self.state.get(p)]
            self._arranged = arranged
            self._past = {**dict(list(self._past.items())[-PAST:]), key: self._layouts}
        given = [g for g in gradients if g is not None]
        if len(self._layouts) == 1:
            self._layouts[0].refresh(given)
            return
        awake = {id(p): g for p, g in zip(params, gradients, strict=True) if g is not None}
        for layout in self._layouts:
            layout.refresh([awake[id(p)] for _, p in layout.members])

    def _valid(self, key: tuple[Any, ...]) -> bool:
        """Whether the layouts of parameters that took turns with others are still where their scalars live."""
        return key in self._past and all(
            layout.follows() and all(self._homes[p][0] is layout.table for _, p in layout.members)
            for layout in self._past[key]
        )

    def _arrange_anew(self, members: list[Member]) -> list[Layout]:
        """One layout for each device, the CPU's first: where there is one, scalars may be looked at."""
        _check(members, self._scope)
        if not self._past:
            shards.check_scope(self, self._scope)
        layouts = []
        for device in sorted({p.device for _, p in members}, key=lambda device: (device.type != "cpu", str(device))):
            there = [member for member in members if member[1].device == device]
            layout = arrange(there, self.state, self._homes, self._step, self._scope)
            layout.passes = self._passes(layout)
            layouts.append(layout)
        return layouts

    def _passes(self, layout: Layout) -> Passes:
        settings = Settings(
            metric=self._step.metric,
            inertia=self._step.inertia,
            sign=-1.0 if self._options["maximize"] else 1.0,
            averaging=tuple(self._step.memories.values()),
            stochastic_rounding=self._options["stochastic_rounding"],
        )
        foreach = self._options["foreach"]
        if foreach is None and cuda.serves(layout, settings):
            return cuda.TritonPasses(layout, settings)
        if foreach is None and native.serves(layout, settings):
            return native.NativePasses(layout, settings)
        return TorchPasses(layout, settings, pack=foreach is not False)

    def _advance(self, given: Any) -> None:
        """Take the step, unless something is not finite."""
        seeded = [memory for layout in self._layouts for memory in self._seed(layout)]
        first, loss = self._layouts[0], None
        if self._step.facts.needs_loss:
            loss = first.array(shards.mean(scalar(given, first.table), self._options["process_group"]))
        turns = [measure(layout, self._step, self.param_groups, loss) for layout in self._layouts]
        sound = torch.as_tensor(turns[0].sound)
        for turn in turns[1:]:
            sound = sound & turn.sound.to(sound.device)
        if self._options["process_group"] is not None:
            sound = shards.agree(sound, self._options["process_group"])
        if first.on_host and not sound:
            for turn in turns:
                turn.layout.table[:, SKIPPED] += 1
            for memory in seeded:
                memory.zero_()
            return
        for turn in turns:
            commit(turn, self._step, None if first.on_host else sound.to(turn.layout.device))
        if not first.on_host:
            for memory in seeded:
                memory.copy_(torch.where(sound.to(memory.device), memory, 0.0))
        self._remember(turns[0].outcome, sound)

    def _remember(self, outcome: Outcome, sound: Tensor) -> None:
        """Weights and beta for `diagnostics()`; those of a skipped step are not looked at."""
        new = (torch.as_tensor(outcome.weights), torch.as_tensor(outcome.beta))
        if self._last is not None and self._last[0].shape == new[0].shape and not self._layouts[0].on_host:
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
            for part, (index, _), gradient in zip(layout.parts, layout.members, layout.gradients, strict=True):
                if fresh[part.unit]:
                    decay = self.param_groups[index]["weight_decay"]
                    g = part.row(gradient).to(part.memories[0].dtype)
                    g = -g if self._options["maximize"] else g
                    if self._step.decay == "coupled" and decay:
                        g = g + decay * part.x
                    for memory in part.memories:
                        memory.copy_(g)
                        written.append(memory)
        return written

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


def _check(members: list[Member], scope: str) -> None:
    """Raise for parameters that this optimizer cannot step."""
    if any(p.is_complex() for _, p in members):
        raise RuntimeError("parameters must be real, got a complex one. Use torch.view_as_real.")
    devices = {p.device for _, p in members}
    if scope != "tensor" and len(devices) > 1:
        got = ", ".join(sorted(map(str, devices)))
        raise RuntimeError(f"parameters must be on one device with scope {scope!r}, got {got}. Use scope='tensor'.")
