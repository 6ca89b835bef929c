"""What users may give: numbers, keys of parameter groups, and the words of torch's own optimizers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from numbers import Real
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor

from proxmom.stepsize import StepSize

Init = TypeVar("Init", bound=Callable[..., None])

# Settings that only torch's own optimizers have, with the values under which they do nothing there either.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "amsgrad": (False,),
    "nesterov": (False,),
    "differentiable": (False,),
    "fused": (None, False),
}
# What a parameter group may set.
OF_A_GROUP = ("lr", "weight_decay", "metric")
# Further names of settings, of our optimizers and others; `_settings` adds those of torch's own. Any other key of a
# group is somebody's label: wrappers, schedulers and model libraries keep theirs there.
SETTINGS = frozenset(
    [
        "adam_beta2",
        "adam_eps",
        "adam_lr",
        "beta",
        "beta1",
        "beta2",
        "beta3",
        "beta_max",
        "betas",
        "capturable",
        "curvature",
        "decay",
        "eps",
        "every",
        "foreach",
        "inertia",
        "largest_side",
        "learning_rate",
        "lower_bound",
        "max_precond_dim",
        "maximize",
        "metric",
        "pairs",
        "polar",
        "precondition_frequency",
        "process_group",
        "rule",
        "scale",
        "scope",
        "shampoo_beta",
        "steady",
        "step_size",
        "stochastic_rounding",
        "trust_coefficient",
        "warmup_steps",
        "wd",
    ]
)
# Sharpness-aware minimisation keeps its radius under the name of a coefficient of Adadelta's.
LABELS = frozenset(["rho", "params"])
CYCLES = "torch.optim.lr_scheduler"


class Options(TypedDict, total=False):
    """What every optimizer here takes besides, by keyword.

    Attributes:
        step_size: what multiplies lr at each step, of each scope, e.g. `proxmom.Alignment()`; default None: nothing
            does. No step is undone as in `numpy.minimize`: for that the loss would have to be waited for.
        maximize: climb instead; default False.
        foreach: which of three ways that agree up to rounding moves the arrays. None, the default: the fastest there is
            (the C++ kernels on the CPU where they were built, Triton on CUDA, else as True). True: torch operations on
            blocks, small parameters together. False: torch operations, one parameter at a time. Without effect where
            the metric is not element-wise: there is one way then, but for hard steps in the maximum norm, which the C++
            kernels know.
        capturable: keep lr on the device, so that a captured CUDA graph follows a scheduler; default False. Refused
            where the metric is not element-wise.
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


def explicit(init: Init) -> Init:
    """An `__init__` with `**options: Unpack[Options]`, in whose signature, and so in help(), they stand one by one."""
    signature = inspect.signature(init)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    kinds = {name: getattr(kind, "__forward_arg__", kind) for name, kind in Options.__annotations__.items()}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kinds[name])
        for name, value in DEFAULTS.items()
    ]
    init.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return init


class Defaults(dict[str, Any]):
    """The defaults of parameter groups; tells schedulers that would cycle momentum what to do instead."""

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        if not found and key == "betas" and sys._getframe(1).f_globals.get("__name__") == CYCLES:
            raise ValueError(
                "momentum is derived at every step and cannot be cycled: pass cycle_momentum=False to the scheduler."
            )
        return found


def number(name: str, value: Any) -> float:
    """A number, or a tensor that holds one, as a Python number.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value)
    if isinstance(value, Tensor):
        raise TypeError(f"{name} must be one real number, got a tensor of shape {tuple(value.shape)}, {value.dtype}.")
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    return float(value)


def check_rate(name: str, value: Any) -> None:
    """TypeError or ValueError unless this is a number, or a tensor of one, that is >= 0 and finite."""
    if not 0 <= number(name, value) < float("inf"):
        raise ValueError(f"{name} must be >= 0 and finite, got {value}.")


def pair(betas: Any) -> tuple[float, float]:
    """The two betas; a list will do, and so will tensors of one element.

    Raises:
        TypeError: unless there are two numbers.
    """
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"betas must be two numbers, (largest weight on memory, beta2), got {betas!r}.")
    return number("betas[0]", betas[0]), number("betas[1]", betas[1])


def options(given: Mapping[str, Any]) -> Options:
    """All options, of `given` and of `DEFAULTS`.

    Raises:
        TypeError: for others, unless they are torch's own and without effect.
    """
    effective = {name: value for name, value in given.items() if not _without_effect(name, value)}
    unknown = sorted(set(effective) - set(DEFAULTS))
    if unknown:
        derived = "momentum" in unknown  # the first thing that whoever comes from torch.optim.SGD tries
        remedy = " Momentum is derived; beta_max of AMSGD caps it, and so does betas[0] of AMAdamW." * derived
        got = ", ".join(f"{name}={effective[name]!r}" for name in unknown)
        raise TypeError(f"options must be among {', '.join(DEFAULTS)}, got {got}.{remedy}")
    return {**DEFAULTS, **effective}  # type: ignore[typeddict-item]


def _without_effect(name: str, value: Any) -> bool:
    return any(value is one for one in WITHOUT_EFFECT.get(name, ()))


def check_group(group: Mapping[str, Any], common: Mapping[str, Any]) -> None:
    """Raise for keys of a new parameter group that look like settings and would be without effect.

    Args:
        group: as the user wrote it.
        common: what is one for all groups, by the names under which a group might give it.

    Raises:
        ValueError: for another value of what is one for all, for settings of other optimizers, and for misspelt ones.
    """
    for key, value in group.items():
        if key in OF_A_GROUP or value is None or _without_effect(key, value):
            continue
        if key in common:
            same = tuple(value) if isinstance(value, list) else value
            if same is not common[key] and same != common[key]:
                raise ValueError(
                    f"{key} must be one for all groups, {common[key]}, got {value}: give it to the optimizer."
                )
        elif (meant := _meant(str(key))) is not None:
            remedy = f"Write {meant}" if meant in OF_A_GROUP else "Leave it out"
            raise ValueError(
                f"a parameter group may set {', '.join(OF_A_GROUP[:-1])} and {OF_A_GROUP[-1]}, got {key}={value!r}, "
                f"which would have no effect. {remedy}, or rename it if it is a label of yours."
            )


@cache
def _settings() -> dict[str, str]:
    """Every name of a setting, ours, torch's and others', by its letters and digits alone."""
    base = torch.optim.Optimizer
    classes = [one for one in vars(torch.optim).values() if isinstance(one, type) and issubclass(one, base)]
    of_torch = {name for one in classes if one is not base for name in inspect.signature(one).parameters}
    names = {*of_torch, *WITHOUT_EFFECT, *SETTINGS, *OF_A_GROUP} - LABELS
    return {_letters(name): name for name in sorted(names)}


def _meant(key: str) -> str | None:
    """The setting that a key is, or resembles; None for a label."""
    known, word = _settings(), _letters(key)
    near = get_close_matches(word, known, n=1, cutoff=0.85) or get_close_matches(word, ["lr"], cutoff=0.8)
    return known[near[0]] if near else None


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def loss_of(value: Any) -> Any:
    """A loss as it was given.

    Raises:
        TypeError: unless it is a number or a real tensor of one element.
    """
    return number_of("the loss", value, ": return it alone from the closure")


def number_of(name: str, value: Any, remedy: str = "") -> Any:
    """A number as it was given; name, remedy: for the message.

    Raises:
        TypeError: unless it is a number or a real tensor of one element.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return value
    if isinstance(value, Real):
        return value
    got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise TypeError(f"{name} must be a number or a tensor of one element, got {got}{remedy}.")


def lr_tensor(value: Any, device: torch.device) -> Tensor:
    """A learning rate that stays on the device."""
    return value if isinstance(value, Tensor) else torch.tensor(value, device=device, dtype=torch.float32)
