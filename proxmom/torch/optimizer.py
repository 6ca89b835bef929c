"""`ProxOptimizer`: any rule, with any metric, wherever torch trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, distributed
from torch._compile import _disable_dynamo

from proxmom.metrics import Euclidean, Metric
from proxmom.notebook import html_of
from proxmom.observed import check_given
from proxmom.rules import Rule
from proxmom.step import Method, Step
from proxmom.torch import arguments, checkpoint, flattened, shards
from proxmom.torch.arguments import Defaults, Options, check_rate, explicit
from proxmom.torch.arrange import arrange, at_rest, indices_of
from proxmom.torch.decision import SKIPPED, STEP
from proxmom.torch.entries import by_element
from proxmom.torch.layout import Layout
from proxmom.torch.memory import as_tensor
from proxmom.torch.passes import Settings
from proxmom.torch.passes.choose import choose
from proxmom.torch.plan import commit, plan_step, scalar

SCOPES = ("model", "group", "tensor")
PAST = 7  # sets of parameters whose layouts are kept, for those that take turns


class ProxOptimizer(torch.optim.Optimizer):
    """Any rule with any metric as a torch optimizer; see `AMSGD` and `AMAdamW` for the paper's two.

    Parameter groups may have their own lr, weight_decay and metric; everything else is one for all groups. All state
    lives in `state[p]`: the memory, the metric's state, and 0-dim tensors. A step never waits for the device, but for
    the first two after the set of parameters with a gradient has changed, and once where the metric is not
    element-wise.

    Args:
        params: as for every torch optimizer.
        rule: e.g. `AdaptiveMemory()`, or an object of your own with `planes(now)`.
        lr: step size, >= 0; a number or a 0-dim tensor.
        metric: `Euclidean()`, `Adam()`, or any other, see `proxmom.metrics`. One of low rank wants the same lr for all
            of its scope, and the same weight_decay unless that is coupled; it starts anew where another set of
            parameters has a gradient, but for new ones.
        inertia: λ >= 0; 0 where the metric has no diagonal.
        weight_decay: μ >= 0.
        decay: "coupled", "decoupled" or "proximal".
        scope: one model of planes for the whole "model", for each parameter "group", or for each "tensor". Groups in
            another metric never share one.
        step_size, maximize, foreach, capturable, stochastic_rounding, process_group: see `Options`.

    Raises:
        ValueError, TypeError: for settings that are out of range or do not go together.
    """

    _saved: dict[str, Any] | None = None  # the checkpoint while it is being loaded

    @explicit
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
        self._options = arguments.options(options)
        metric = Euclidean() if metric is None else metric
        method = Method(rule, metric, inertia=inertia, decay=decay, step_size=self._options["step_size"])
        self._step = Step(method)
        self._steps: list[Step] = []  # of each parameter group
        self._scope = scope
        self._check_settings()
        check_rate("lr", lr)
        check_rate("weight_decay", weight_decay)
        self._forget()
        super().__init__(params, Defaults(lr=lr, weight_decay=weight_decay))

    @property
    def rule(self) -> Rule:
        """Where the planes come from."""
        return self._step.method.rule

    @property
    def path(self) -> str:
        """What moves the arrays: "C++ kernels", "Triton kernels", "foreach blocks" or "torch operations".

        Where the metric is not element-wise, "whole tensors" or "low rank", and in a norm "steepest directions", but
        for hard steps in the maximum norm, which the C++ kernels make. Chosen when a set of parameters
        steps for the first time, for each device; see `Options.foreach`. Kernels decide what a step does by a
        recording of rule, solver and metric (`proxmom.tape`); where there can be none, it says why.
        """
        names = [layout.passes.name + layout.decision.note for layout in self._layouts]
        if len(set(names)) > 1:
            names = [f"{name} on {layout.device}" for name, layout in zip(names, self._layouts, strict=True)]
        return ", ".join(dict.fromkeys(names)) or "chosen at the first step"

    def __repr__(self) -> str:
        """As in torch, with what all groups share before them."""
        head, groups = super().__repr__().split("\n", 1)
        method = self._step.method
        metrics = ", ".join(dict.fromkeys(str(step.method.metric) for step in self._steps)) or method.metric
        shared = {"rule": method.rule, "metric": metrics, "scope": self._scope, "path": self.path}
        return "\n".join([head, *(f"{name}: {value}" for name, value in shared.items()), groups])

    def _repr_html_(self) -> str:
        return html_of(repr(self))

    def _check_settings(self) -> None:
        name, scope = self._step.method.name, self._scope
        self._check_metric(self._step.method.metric)
        if scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(map(repr, SCOPES))}, got {scope!r}.")
        if self._step.method.facts.needs_loss and scope != "model":
            raise ValueError(
                f"{name} looks at the loss, so scope must be 'model', got {scope!r}: the loss is one for all."
            )
        if self._step.method.facts.needs_loss and self._options["maximize"]:
            raise ValueError(f"{name} looks at the loss, so maximize must be False: its planes are bounds from below.")

    def _check_metric(self, metric: Metric) -> None:
        if self._options["capturable"] and not by_element(metric):
            raise ValueError(
                f"capturable must be False with {type(metric).__name__}, got True: steps in it cannot be "
                "captured in a CUDA graph."
            )

    def _in_metric(self, metric: Metric) -> Step:
        """The step in the metric of a group; one for all groups in the same metric."""
        known = next((step for step in (self._step, *self._steps) if step.method.metric == metric), None)
        if known is not None:
            return known
        own = self._step.method
        self._check_metric(metric)
        if own.facts.needs_loss:
            raise ValueError(
                f"{own.name} looks at the loss, so metric must be one for all groups, {own.metric}, got {metric}: the "
                "loss is one for all."
            )
        return Step(Method(own.rule, metric, inertia=own.inertia, decay=own.decay, step_size=own.step_size))

    def _forget(self) -> None:
        """Drop what is derived from the state and the groups; the next step makes it again."""
        self._offered: Any = None  # by `observe`: a loss, and what else the rule looks at
        self._offered_numbers: Any = None
        self._last: tuple[Tensor, Tensor] | None = None
        self._layouts: list[Layout] = []
        self._resting: list[Tensor] = []
        self._arranged: Any = None
        self._owners: Any = None
        self._past: dict[Any, list[Layout]] = {}

    def __getstate__(self) -> dict[str, Any]:
        options = {**self._options, "process_group": None}
        own = {"_step": self._step, "_steps": self._steps, "_scope": self._scope, "_options": options}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()
        if self._saved is not None:  # before hooks see what was loaded
            checkpoint.keep_dtypes(self._saved, self.param_groups, self.state)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; a group may set lr, weight_decay and metric, repeat what is one for all, and carry your labels.

        The metric is not kept in the group, so that checkpoints need no classes of this package. A label is any key
        that is no setting of an optimizer of torch's or of ours, nor resembles one, and whatever is written into
        `param_groups` later.

        Raises:
            ValueError: for lr or weight_decay that is negative or not finite, for another value of what is one for all,
                and for settings, also misspelt ones, that would be without effect; else as in torch.
            TypeError: for lr or weight_decay that is not one number.
        """
        step = self._step
        if isinstance(param_group, dict):
            if param_group.get("metric") is not None:
                step = self._in_metric(param_group["metric"])
            param_group = {key: value for key, value in param_group.items() if key != "metric"}
            arguments.check_group(param_group, self._common())
            for key in ("lr", "weight_decay"):
                check_rate(key, param_group.get(key, self.defaults[key]))
        super().add_param_group(param_group)
        self._steps.append(step)
        group = self.param_groups[-1]
        if self._options["capturable"]:
            everybody = [p for each in (group, *self.param_groups) for p in each["params"]]
            device = everybody[0].device if everybody else torch.device("cpu")
            group["lr"] = arguments.lr_tensor(group["lr"], device)

    def _common(self) -> dict[str, Any]:
        """What is one for all groups, by the names under which a group might give it."""
        rule, metric = self._step.method.rule, self._step.method.metric
        beta = self._step.method.facts.beta_max
        names = {"rule": rule, "inertia": self._step.method.inertia, "decay": self._step.method.decay}
        own: dict[str, Any] = {"scope": self._scope, "beta_max": beta, "beta": beta}
        own["betas"] = (beta, getattr(metric, "beta2", None))
        known = {"eps": getattr(metric, "eps", None), "lower_bound": getattr(rule, "lower_bound", None)}
        of_metric = ("every", "largest_side", "pairs", "curvature", "polar", "scale")
        known |= {name: getattr(metric, name) for name in of_metric if hasattr(metric, name)}
        return {**names, **own, **known, **self._options}

    def observe(self, loss: Tensor | float | None = None, observed: Mapping[str, Tensor | float] | None = None) -> None:
        """What the next step looks at, for wrappers that call step() without arguments.

        Args:
            loss, observed: as for `step`, where they must be what is said there; None: nothing.
        """
        self._offered, self._offered_numbers = loss, observed

    def diagnostics(self) -> dict[str, Tensor | None]:
        """Of the last step, as tensors on the device: "weights" (S, K), "beta" (S,); and "skipped", steps in all.

        With several devices (scope "tensor") the first one's.
        """
        weights, beta = (None, None) if self._last is None else (as_tensor(value).clone() for value in self._last)
        counts = [state["skipped"] for state in self.state.values() if "skipped" in state]
        return {"weights": weights, "beta": beta, "skipped": torch.stack(counts).max() if counts else None}

    # What happens in a step, in order. U units are parameters of one model and group that have always stepped together;
    # they share all scalars (`layout`).
    #
    # 1. Gradients are collected, loss and observed numbers where the rule looks at them. Nothing to step: return. Rates
    #    are checked.
    # 2. `_arrange`: the layouts of these parameters, one for each device. They say where every vector and scalar lies.
    #    Anything may have happened since the last step, so each looks whether all is still there (`Layout.follows`);
    #    where it is not, layouts are built again (`arrange`), and with them the passes chosen (`passes/choose`).
    # 3. `Layout.begin` takes the gradients; those that are not as the parameters lie, or lie where the step writes, are
    #    copied. What cannot be stepped is refused. Up to here nothing was written but missing state.
    # 4. `_advance`, memory first: where it starts as the first gradient, it is put there (`_seed`).
    # 5. `plan_step`, for each layout: the first pass over memory (`passes/...: measure`) sums the inner products of
    #    each unit, sharded ones over their processes; `Step.take` asks the rule for its planes, solves, and answers
    #    with coefficients of the new direction, step lengths, and scalars for the next step. Nothing is written.
    # 6. Is everything finite, everywhere? On the CPU a step that is not ends here: counted, and memory as it was. On a
    #    device nobody waits for the answer: everything below writes only where it is yes.
    # 7. `commit`: the second pass (`passes/...: move`) writes memory, the metric's vectors and the parameters; the
    #    scalars go into the array of which `state[p]` holds views.
    # 8. What stays where others move loses its last lr; weights and beta are kept for `diagnostics`.
    # 9. `Layout.end` lets go of parameters and gradients.
    @_disable_dynamo  # torch.compiler.disable would load the compiler as soon as this module is imported
    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        loss: Tensor | float | None = None,
        observed: Mapping[str, Tensor | float] | None = None,
    ) -> Any:
        """One step; returns the closure's loss.

        A gradient, loss, observed number or model of planes that is not finite skips the step in every scope: nothing
        changes but the count in `diagnostics()`.

        Args:
            closure: evaluates the model and returns the loss.
            loss: the loss that the gradients belong to; only rules that look at it need one.
            observed: name -> number or tensor of one element, of all that the rule declares in `observed`, and of
                nothing else; one for all scopes. Like the loss it is averaged over the processes.

        Raises:
            ValueError, RuntimeError: for a missing loss, other names than declared, sparse or complex gradients, before
                anything changes.
            TypeError: for a loss or number that is neither a number nor a tensor of one element.
        """
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        given = next((value for value in (loss, returned, self._offered) if value is not None), None)
        numbers = self._offered_numbers if observed is None else observed
        self._offered = self._offered_numbers = None
        params = [p for group in self.param_groups for p in group["params"]]
        gradients: list[Any] = [p.grad for p in params]
        if distributed.is_available() and distributed.is_initialized():
            gradients = flattened.gradients(params, self.state)
        idle = [g is None for g in gradients]
        if all(idle):
            return returned
        looks = self._looked_at(given, numbers)
        for group in self.param_groups:
            for key in ("lr", "weight_decay"):
                value = group[key]
                usual = type(value) is float and 0 <= value < float("inf")
                if not usual and (not isinstance(value, Tensor) or value.device.type == "cpu"):  # nobody waits for it
                    check_rate(key, value)
        self._arrange(params, idle)
        try:
            for layout in self._layouts:
                layout.begin(_at(layout, params), _at(layout, gradients))
            if looks is not None:
                self._advance(*looks)
        finally:
            for layout in self._layouts:
                layout.end()
        return returned

    def _looked_at(self, loss: Any, numbers: Any) -> tuple[Any, list[Any]] | None:
        """The loss and the observed numbers, where the rule looks at them; None for a step that only creates state."""
        method = self._step.method
        needs_loss, wanted = method.facts.needs_loss, method.observed
        if (needs_loss and loss is None) or (wanted and numbers is None):
            # how checkpoint loaders create state: lr 0, zero gradients, no loss
            if all(group["lr"] == 0 for group in self.param_groups):
                return None
            if needs_loss and loss is None:
                raise ValueError(f"{method.name} looks at the loss: call step(loss=...) or step(closure).")
        if wanted or numbers is not None:
            check_given(method.name, wanted, numbers)
        seen = [arguments.number_of(f"observed[{name!r}]", numbers[name]) for name in wanted]
        return arguments.loss_of(loss) if needs_loss else None, seen

    def _arrange(self, params: list[Tensor], idle: list[bool]) -> None:
        """Look up the layouts of the parameters with a gradient; make them where they do not fit what is there now."""
        arranged = ([len(group["params"]) for group in self.param_groups], list(map(id, params)), idle)
        owners = self._who_has_state()
        if arranged == self._arranged and owners == self._owners and self._follow(self._layouts, params):
            return
        self._arranged = None  # until all went well
        key = (tuple(arranged[0]), tuple(arranged[1]), tuple(idle))
        if any(known[:2] != key[:2] for known in self._past):
            self._past = {}  # of parameters that are perhaps no longer there
        layouts = self._past.get(key, [])
        if not layouts or not self._own(layouts, params) or not self._follow(layouts, params):
            layouts = self._arrange_anew(params, idle)
        self._layouts = layouts
        self._past = {**dict(list(self._past.items())[-PAST:]), key: layouts}
        self._resting = [
            last_lr
            for _, groups in self._by_step()
            for last_lr in at_rest(self.param_groups, params, idle, self.state, self._scope, groups)
        ]
        self._owners = self._who_has_state()
        self._arranged = arranged

    def _who_has_state(self) -> tuple[int, list[int], list[int]]:
        """The identities of the state, its keys and its entries: what tells that somebody has exchanged one."""
        return id(self.state), list(map(id, self.state)), list(map(id, self.state.values()))

    @staticmethod
    def _follow(layouts: list[Layout], params: list[Tensor]) -> bool:
        """Whether the layouts still fit state and parameters."""
        fits = [layout.follows(_at(layout, params)) for layout in layouts]  # each must look where x lies now
        return all(fits)

    def _own(self, layouts: list[Layout], params: list[Tensor]) -> bool:
        """Whether the entries of the state that layouts write to are those of their parameters."""
        entries = [entry for layout in layouts for entry in layout.states]
        members = [p for layout in layouts for p in _at(layout, params)]
        return all(self.state.get(p) is entry for p, entry in zip(members, entries, strict=True))

    def _arrange_anew(self, params: list[Tensor], idle: list[bool]) -> list[Layout]:
        if not self._past:
            shards.check_scope(self, self._scope)
        layouts, indices = [], indices_of(self.param_groups)
        for step, groups in self._by_step():
            elsewhere = [rests or index not in groups for index, rests in zip(indices, idle, strict=True)]
            settings = Settings(
                metric=step.method.metric,
                inertia=step.method.inertia,
                sign=-1.0 if self._options["maximize"] else 1.0,
                memories=dict(step.method.memories),
                stochastic_rounding=self._options["stochastic_rounding"],
            )
            for layout in arrange(self.param_groups, params, elsewhere, self.state, step, self._scope):
                layout.take(step, choose(layout, settings, self._options["foreach"]))
                layouts.append(layout)
        layouts.sort(key=lambda layout: not layout.on_host)
        self._follow(layouts, params)  # takes the addresses
        return layouts

    def _by_step(self) -> list[tuple[Step, set[int]]]:
        """Each step with the parameter groups that take it."""
        if len(self._steps) != len(self.param_groups):  # somebody has changed the list itself
            if any(step is not self._step for step in self._steps):
                raise RuntimeError(
                    f"param_groups must be as many as were added, {len(self._steps)}, where a group has a metric of "
                    f"its own, got {len(self.param_groups)}. Use add_param_group, or make a new optimizer."
                )
            self._steps = [self._step] * len(self.param_groups)
        return [
            (step, {index for index, other in enumerate(self._steps) if other is step})
            for step in dict.fromkeys(self._steps)
        ]

    def _advance(self, given: Any, numbers: list[Any]) -> None:
        """Take the step, unless something is not finite."""
        seeded = [memory for layout in self._layouts if layout.unseeded for memory in self._seed(layout)]
        first, loss, observed = self._layouts[0], None, None
        if given is not None or numbers:
            told = [scalar(value, first.scalar_rows) for value in ([] if given is None else [given]) + numbers]
            told_as_one = told[0] if len(told) == 1 else torch.cat(told)  # every launch counts
            agreed = shards.mean(told_as_one, self._options["process_group"])
            loss = None if given is None else first.array(agreed[:1])
            observed = agreed[len(told) - len(numbers) :] if numbers else None
        plans = [plan_step(layout, self.param_groups, loss, observed) for layout in self._layouts]
        sound = plans[0].sound
        for plan in plans[1:]:
            sound = as_tensor(sound)
            sound = sound & as_tensor(plan.sound).to(sound.device)
        if self._options["process_group"] is not None:
            sound = shards.agree(as_tensor(sound), self._options["process_group"])
        if first.on_host and not sound:
            for plan in plans:
                plan.layout.scalar_rows[:, SKIPPED] += 1
            for memory in seeded:
                memory.zero_()
            return
        for plan in plans:
            flag = None if first.on_host else sound.to(plan.layout.device)
            settled = commit(plan, flag, self._last if plan is plans[0] else None)
            self._last = settled if plan is plans[0] else self._last
        for last_lr in self._resting:  # what does not move adds nothing to the next step's height
            last_lr.mul_(0 if first.on_host else (~sound).to(last_lr.device))
        if first.on_host:
            self._resting = []
        else:
            for memory in seeded:
                memory.copy_(torch.where(sound.to(memory.device), memory, 0.0))

    def _seed(self, layout: Layout) -> list[Tensor]:
        """Where a memory starts as the first gradient, or as x, put that there; returns the memories written."""
        fresh = (layout.scalar_rows[:, STEP] == 0).tolist()
        layout.unseeded = any(fresh)
        written: list[Tensor] = []
        starts = layout.step.method.starts
        if set(starts) == {"zero"} or not layout.unseeded:
            return written
        xs = layout.xs()
        for i, (part, g) in enumerate(zip(layout.parts, layout.rows_of_gradients(), strict=True)):
            if fresh[part.unit]:
                decay = self.param_groups[layout.groups[part.unit]]["weight_decay"]
                g = g.to(part.memories[0].dtype)
                g = -g if self._options["maximize"] else g
                if self._step.method.decay == "coupled" and decay:
                    g = g + decay * xs[i].to(g.dtype)  # in the dtype of the passes
                for memory, start in zip(part.memories, starts, strict=True):
                    if start != "zero":
                        memory.copy_(g if start == "gradient" else xs[i])
                        written.append(memory)
        return written

    def state_dict(self) -> dict[str, Any]:
        """As in torch, and beside state and param_groups which algorithm they are of."""
        packed: dict[str, Any] = super().state_dict()
        return {**packed, checkpoint.ALGORITHM: checkpoint.algorithm(type(self).__name__, self._steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, hooks included, but every tensor keeps the dtype that it was saved with.

        Where checkpoint and optimizer name their parameters (`named_parameters()`) in another order, state goes by
        name, unless there are hooks: then what they return counts.

        Raises:
            ValueError, TypeError: for the checkpoint of another optimizer, or state that does not fit its parameter;
                nothing is loaded then.
        """
        hooked = bool(self._optimizer_load_state_dict_pre_hooks)
        last = self.register_load_state_dict_pre_hook(lambda _, final: self._take_in(final, hooked))
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
            self._saved = None

    def _take_in(self, saved: dict[str, Any], hooked: bool) -> dict[str, Any]:
        """Look at what all other hooks have made of a checkpoint, before anything is loaded."""
        own = checkpoint.algorithm(type(self).__name__, self._steps)
        self._saved = checkpoint.checked(saved, self.param_groups, own, self._steps, named=not hooked)
        return self._saved


def _at(layout: Layout, values: list[Any]) -> list[Any]:
    """Of values for all parameters those for a layout's."""
    return values if len(layout.places) == len(values) else [values[place] for place in layout.places]
