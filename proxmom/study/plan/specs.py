"""What a study file asks for, checked: problems, methods, and the variants of a method that are its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from proxmom.rules import RULES
from proxmom.study.methods.settings import STEP
from proxmom.study.plan.points import Dimension, Point, sample
from proxmom.study.problems.own import is_own
from proxmom.study.record.run import Run

FREEZABLE = ("momentum", "lr")
MOST_SEEDS = 100
"""Where points are tried with several training seeds, at most so many of them, and as many final ones."""
AS_RULES = {  # as the message to whoever wants a control of them says
    "AMSGD": 'rule = "AdaptiveMemory", inertia = 0.1, decay = "coupled"',
    "AMAdamW": 'rule = "AdaptiveMemory", metric = "Adam", inertia = 0.1, weight_decay = 0.01, '
    'scope = "tensor", arguments = {beta_max = 0.89}',
}
_WITHOUT_FLOOR = {name: rule.without_floor for name, rule in RULES.items() if hasattr(rule, "without_floor")}


@dataclass(frozen=True)
class Evaluations:
    """A run of a deterministic study: at most `max_evaluations` gradients, to a relative gap of `target`."""

    max_evaluations: int
    target: float


@dataclass(frozen=True)
class Training:
    """A run of a training study: `steps` steps, after which losses are compared.

    seeds: the best point of each method is run with training seeds 1 to this. search_seeds: with how many others each
    point is tried, in [1, 100]; the best has the smallest mean validation loss. warmup: share of the steps, in [0, 1).
    device: "cpu" or "cuda". targets: validation losses whose first crossing is reported.
    """

    steps: int
    seeds: int
    schedule: str
    warmup: float
    device: str
    targets: tuple[float, ...]
    search_seeds: int = 1

    @property
    def tried_seeds(self) -> tuple[int, ...]:
        """The training seeds that each point is tried with: fixed numbers, apart from those of the final runs."""
        return (0, *range(MOST_SEEDS + 1, MOST_SEEDS + self.search_seeds))


@dataclass(frozen=True)
class ProblemSpec:
    """A builder of problems.py, or of training tasks, and all its arguments; `name` only if the study gives one.

    kind: of a user's own problem its import path. where: file and line, for messages. folder: the study's, where files
    may be. source: digest of the user's file.
    """

    kind: str
    name: str | None
    arguments: Mapping[str, Any]
    where: str
    folder: str = ""
    source: str = ""

    @property
    def configuration(self) -> dict[str, Any]:
        """What the key of a run holds of the problem."""
        if is_own(self.kind):
            return {"kind": self.kind, "arguments": dict(self.arguments), "source": self.source}
        return {"kind": self.kind, **self.arguments}


@dataclass(frozen=True)
class MethodSpec:
    """A method under its display name; its configuration holds what a result depends on, but for the point.

    folder: where relative paths of a user's rule start. variant_of: the method whose defaults or control this is.
    frozen: what its controls freeze. budget: points of its own, where they are not the study's.
    """

    name: str
    configuration: Mapping[str, Any]
    search: tuple[Dimension, ...]
    folder: str
    variant_of: str = ""
    frozen: tuple[str, ...] = ()
    budget: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What `methods.run_method` takes: the configuration, and where to find the rule."""
        return {**self.configuration, "folder": self.folder}

    @property
    def controls(self) -> tuple[Control, ...]:
        """The controls asked for by `frozen`."""
        return tuple(Control(self, what) for what in self.frozen)

    def points(self, count: int, seed: int) -> list[Point]:
        """The first `count` points, or `budget`, of this method's sequence; one empty point if nothing is searched."""
        return sample(self.search, self.budget or count, seed) if self.search else [{}]

    def with_defaults(self, values: Mapping[str, Any]) -> MethodSpec:
        """The row "defaults only": nothing searched, `values` instead, and the rule's own where they are silent."""
        step = ("lr", *STEP) if "rule" in self.configuration else ("lr",)
        own = {k: v for k, v in values.items() if k in step or "arguments" not in self.configuration}
        configuration = {**self.configuration, **own}
        if rest := {key: value for key, value in values.items() if key not in own}:
            configuration["arguments"] = {**self.configuration["arguments"], **rest}
        return MethodSpec(f"{self.name}, defaults", configuration, (), self.folder, variant_of=self.name)


@dataclass(frozen=True)
class Control:
    """A method with one thing frozen at its mean over the steps of the best run: is it only that constant?

    Of a point that was tried with several seeds it is the mean over these.

    "momentum": heavy ball with that beta, or MoMo where the rule has a lower bound; lr is searched again, on as many
    points. "lr": the rule without its floor, at the mean step size; nothing is searched.
    """

    of: MethodSpec
    what: str

    @property
    def name(self) -> str:
        return f"{self.of.name}, {self.what} frozen"

    @property
    def waiting(self) -> MethodSpec:
        """What is known before the runs it depends on have ended: its name, and what it searches."""
        search = self._searched_again() if self.what == "momentum" else ()
        return self._replaced({}, search)

    def method(self, best: Run) -> MethodSpec | None:
        """The method that it is on the problem of this run; None if the run took no step."""
        if best.mean_beta is None or best.mean_step is None:
            return None
        if self.what == "momentum":
            return self._momentum(best.point, best.mean_beta)
        return self._step(best.point, best.mean_step)

    def _momentum(self, point: Point, beta: float) -> MethodSpec:
        arguments = self.of.configuration["arguments"]
        bound = {key: arguments[key] for key in ("lower_bound",) if key in arguments}
        values = {"rule": "MoMo" if bound else "HeavyBall", "arguments": {**bound, "beta": _rounded(beta)}}
        return self._replaced({**values, **_of_the_step(point)}, self._searched_again())

    def _step(self, point: Point, lr: float) -> MethodSpec:
        searched = {key: value for key, value in point.items() if key != "lr" and key not in STEP}
        rule = self.of.configuration["rule"]
        control = _WITHOUT_FLOOR[rule]
        arguments = {**_other_defaults(rule, control), **self.of.configuration["arguments"], **searched}
        arguments.pop("lower_bound")
        values = {"rule": control, "arguments": arguments, "lr": _rounded(lr)}
        return self._replaced({**values, **_of_the_step(point)}, ())

    def _searched_again(self) -> tuple[Dimension, ...]:
        return tuple(dimension for dimension in self.of.search if dimension.name == "lr")

    def _replaced(self, values: Mapping[str, Any], search: tuple[Dimension, ...]) -> MethodSpec:
        base = {key: value for key, value in self.of.configuration.items() if key != "source"}
        changed = replace(self.of, name=self.name, configuration={**base, **values}, search=search)
        return replace(changed, variant_of=self.of.name, frozen=())


def why_not_frozen(what: str, configuration: Mapping[str, Any]) -> str:
    """Why this cannot be frozen in a method of this configuration; empty if it can."""
    if what not in FREEZABLE:
        return f"freeze must list some of {', '.join(FREEZABLE)}, got {what!r}."
    if "torch" in configuration:
        remedy = AS_RULES.get(configuration["torch"].partition("(")[0], 'rule = "..." and its settings')
        return f"freeze needs a rule, got torch = {configuration['torch']!r}: write it as {remedy}."
    if "(" in configuration["rule"]:
        return f"freeze needs the rule's arguments in the key arguments, got {configuration['rule']!r}."
    if what == "lr" and configuration["rule"] not in _WITHOUT_FLOOR:
        known = ", ".join(_WITHOUT_FLOOR)
        return f"freeze 'lr' needs a rule whose step size adapts ({known}), got {configuration['rule']!r}."
    return ""


def _other_defaults(rule: str, control: str) -> dict[str, Any]:
    """Arguments of a rule whose defaults are others in its control, with the rule's defaults."""
    theirs = {field.name: field.default for field in fields(RULES[control])}
    ours = {field.name: field.default for field in fields(RULES[rule])}
    return {name: value for name, value in ours.items() if name in theirs and theirs[name] != value}


def _of_the_step(point: Point) -> Point:
    return {key: value for key, value in point.items() if key in STEP}


def _rounded(value: float) -> float:
    """9 digits, as points have, so that keys agree across machines."""
    return float(f"{value:.9g}")
