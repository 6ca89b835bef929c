"""Keys of parameter groups: settings that would have no effect are refused by name, labels are kept as torch does."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.optim.swa_utils import SWALR

import proxmom.torch
from proxmom.torch import AMSGD, AMAdamW, AMMuon, AMShampoo
from proxmom.torch.arguments import OF_A_GROUP, WITHOUT_EFFECT
from tests.torch.common import NAMED

MEMBERS = pytest.mark.parametrize("make", NAMED.values(), ids=NAMED.keys())
KEPT = {"params", "rho", *OF_A_GROUP}  # rho: of Adadelta and of wrappers


def optimizers(room: Any) -> list[type[torch.optim.Optimizer]]:
    base = torch.optim.Optimizer
    return [one for one in vars(room).values() if isinstance(one, type) and issubclass(one, base) and one is not base]


def settings(room: Any) -> list[str]:
    """What the optimizers of a module take, but for what a group may have."""
    return sorted({name for one in optimizers(room) for name in inspect.signature(one).parameters} - KEPT)


def group(**more: Any) -> dict[str, Any]:
    return {"params": [nn.Parameter(torch.ones(2, 2))], **more}


def refuse(make: Callable[..., Any], key: str, value: Any, *messages: str) -> None:
    """At construction and when it is added later; nothing is added then."""
    optimizer = make([group()])
    for attempt in (lambda given: make([group(), given]), optimizer.add_param_group):
        with pytest.raises(ValueError, match=f"{key}|must be one for all groups") as caught:
            attempt(group(**{key: value}))
        assert all(message in str(caught.value) for message in messages)
    assert len(optimizer.param_groups) == 1


@MEMBERS
@pytest.mark.parametrize(
    "key", ["momentum", "dampening", "betas", "fused", "lr_decay", "lrr", "Weight-Decay", "scopes"]
)
def test_settings_without_effect_are_refused_by_every_optimizer(make: Any, key: str) -> None:
    refuse(make, key, 0.123, "0.123")


@pytest.mark.parametrize("key", sorted({*settings(torch.optim), *settings(proxmom.torch)}))
def test_whatever_sets_an_optimizer_of_torch_or_of_ours_is_refused(key: str) -> None:
    refuse(AMSGD, key, 0.123, "0.123")


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("lrr", "Write lr, or rename it"),
        ("Lr", "Write lr,"),
        ("l_r", "Write lr,"),
        ("weight-decay", "Write weight_decay,"),
        ("weight_decy", "Write weight_decay,"),
        ("wieght_decay", "Write weight_decay,"),
        ("metrics", "Write metric,"),
        ("momentum", "Leave it out, or rename it"),
        ("Momentun", "Leave it out,"),
        ("beta_1", "Leave it out,"),
        ("learning-rate", "Leave it out,"),
        ("nestrov", "Leave it out,"),
    ],
)
def test_what_is_meant_is_said(key: str, remedy: str) -> None:
    refuse(AMAdamW, key, 0.3, f"may set lr, weight_decay and metric, got {key}=0.3, which would have no", remedy)


@pytest.mark.parametrize(
    ("make", "key", "value", "one"),
    [
        (AMSGD, "beta_max", 0.5, "0.9"),
        (AMSGD, "foreach", True, "None"),
        (AMAdamW, "betas", [0.8, 0.99], "(0.89, 0.999)"),
        (AMAdamW, "scope", "model", "tensor"),
        (AMShampoo, "every", 5, "1"),
        (AMMuon, "polar", "exact", "newton-schulz"),
    ],
)
def test_what_is_one_for_all_may_only_be_repeated(make: Any, key: str, value: Any, one: str) -> None:
    refuse(make, key, value, f"{key} must be one for all groups, {one}, got {value}: give it to the optimizer")
    make([group(**{key: value})], **{key: value})


@MEMBERS
def test_labels_stay_in_their_group(make: Any) -> None:
    labels = {"name": "head", "lr_scale": 0.5, "rho": 0.05, "adaptive": False, "layer": 3, "initial_lr": 0.2}
    labels |= {"max_lr": 1.0, "min_lr": 0.1, "swap": True, "decay_mult": 0.0, "use_muon": False, "group": "a"}
    harmless = {key: values[-1] for key, values in WITHOUT_EFFECT.items()} | {"momentum": None}
    optimizer = make([group(**labels, **harmless)])
    optimizer.add_param_group(group(**labels))
    for one in optimizer.param_groups:
        assert {key: one[key] for key in labels} == labels


@MEMBERS
def test_what_others_add_later_stays_and_stands_in_checkpoints(make: Any) -> None:
    """Keys that would be refused in a new group are nobody's mistake once schedulers and wrappers wrote them."""
    optimizer = make([group(), group(lr=0.01)])
    OneCycleLR(optimizer, 0.1, total_steps=5, cycle_momentum=False)
    LambdaLR(optimizer, lambda step: 1.0)
    SWALR(optimizer, 0.05)
    for one in optimizer.param_groups:
        one["momentum"] = 0.9
    saved = copy.deepcopy(optimizer.state_dict())
    again = make([group(), group()])
    again.load_state_dict(saved)
    for one in (optimizer, copy.deepcopy(optimizer), again):
        for written in one.param_groups:
            assert {"initial_lr", "max_lr", "min_lr", "swa_lr", "momentum"} <= set(written)
            for p in written["params"]:
                p.grad = torch.ones_like(p)
        one.step(**({"loss": 1.0} if one._step.method.facts.needs_loss else {}))
