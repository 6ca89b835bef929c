"""What the settings of a method say of its rule, whoever runs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proxmom.lookup import find_metric, find_rule, find_step_size

Values = Mapping[str, Any]

BETAS = ("beta1", "beta2")  # become the `betas` of an optimizer of torch
OPTIMUM = "optimum"  # as an argument: the least value of the problem
STEP = ("inertia", "weight_decay", "decay")  # belong to the step; what is searched besides, but for lr, to the rule


def rule_of(settings: Values, point: Values, optimum: float | None) -> Any:
    """The rule, with what is searched of its arguments; ValueError for an optimum that is asked for and not known."""
    searched = {name: value for name, value in point.items() if name not in ("lr", *STEP)}
    arguments = with_optimum({**settings["arguments"], **searched}, optimum)
    return find_rule(settings["rule"], folders=[Path(settings["folder"])], **arguments)


def step_of(settings: Values, point: Values) -> dict[str, Any]:
    """The arguments of a step besides its rule and lr."""
    values = {**settings, **point}
    folders = [Path(settings["folder"])]
    metric = find_metric(settings["metric"], folders=folders)
    step_size = find_step_size(settings["step_size"], folders=folders) if "step_size" in settings else None
    return {"metric": metric, "step_size": step_size, **{name: values[name] for name in STEP}}


def has_floor(rule: object) -> bool:
    """Whether a rule's last plane is the floor, whose weight shortens the step: it is in rules with a lower bound."""
    return hasattr(rule, "lower_bound")


def with_optimum(arguments: Values, optimum: float | None) -> dict[str, Any]:
    """The arguments, with the optimum put in where it is asked for."""
    wanting = [name for name, value in arguments.items() if value == OPTIMUM]
    if wanting and optimum is None:
        raise ValueError(
            f"{wanting[0]} = {OPTIMUM!r} needs a task whose optimum is known, a convex one: give a number."
        )
    return {name: optimum if name in wanting else value for name, value in arguments.items()}


def with_betas(text: str, factory: Callable[..., Any], values: Values) -> dict[str, Any]:
    """beta1 and beta2 as one argument; what is not given of them is the optimizer's own default."""
    given = {name: value for name, value in values.items() if name in BETAS}
    rest = {name: value for name, value in values.items() if name not in BETAS}
    if not given:
        return rest
    own = rest.pop("betas", None)
    if own is None:
        argument = inspect.signature(factory).parameters.get("betas")
        own = None if argument is None or argument.default is argument.empty else argument.default
    if own is None:
        raise ValueError(f"optimizer {text!r} takes no betas, so beta1 and beta2 cannot be set.")
    return {**rest, "betas": (given.get("beta1", own[0]), given.get("beta2", own[1]), *own[2:])}


def anchored(text: str, folder: str) -> str:
    """An import path "file.py:Class" relative to the study's folder, if the file is there."""
    path, bracket, arguments = text.partition("(")
    place, colon, name = path.rpartition(":")
    file = Path(folder) / place
    if not place.endswith(".py") or not file.is_file():
        return text
    return f"{file}{colon}{name}{bracket}{arguments}"
