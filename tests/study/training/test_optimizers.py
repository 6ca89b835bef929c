"""The optimizer that a method's settings ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proxmom.study.training import (
    make_optimizer,
    rehearse,
)
from tests.study.training.conftest import AMADAMW, SGD, settings


def made(method: Mapping[str, Any], point: Mapping[str, float] | None = None, optimum: float | None = None) -> Any:
    return make_optimizer(settings(method), point or {}, [nn.Parameter(torch.ones(2))], optimum)


def test_betas_are_put_together_from_what_is_given() -> None:
    adamw = {"torch": "torch.optim:AdamW"}
    assert made(adamw).param_groups[0]["betas"] == (0.9, 0.999)
    assert made(adamw, {"beta1": 0.5}).param_groups[0]["betas"] == (0.5, 0.999)
    assert made({**adamw, "arguments": {"beta2": 0.9}}, {"beta1": 0.5, "lr": 0.2}).param_groups[0]["betas"] == (
        0.5,
        0.9,
    )
    assert made({"torch": "torch.optim:AdamW(betas=(0.1, 0.2))"}, {"beta1": 0.5}).param_groups[0]["betas"] == (0.5, 0.2)
    assert made({"torch": "AMAdamW"}, {"beta1": 0.5})._step.method.facts.beta_max == 0.5
    assert made({"torch": "AMAdamW"}, {"beta2": 0.5})._step.method.metric.beta2 == 0.5
    assert made({**adamw, "lr": 0.3}, {"weight_decay": 0.2}).param_groups[0]["weight_decay"] == 0.2
    with pytest.raises(ValueError, match=r"'torch.optim:SGD' takes no betas, so beta1 and beta2 cannot be set"):
        made({"torch": "torch.optim:SGD"}, {"beta1": 0.5})


def test_rules_become_optimizers_of_their_own() -> None:
    method = {
        "rule": "AdaptiveMemory",
        "arguments": {"beta_max": 0.7},
        "inertia": 0.2,
        "metric": "Adam",
        "scope": "tensor",
    }
    optimizer = made(method, {"lr": 0.3, "weight_decay": 0.1})
    assert optimizer._step.method.rule.beta_max == 0.7
    assert (optimizer._step.method.inertia, optimizer._scope) == (0.2, "tensor")
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert made({**method, "arguments": {}}, {"lr": 0.3, "beta_max": 0.6})._step.method.rule.beta_max == 0.6
    momo = {"rule": "MoMo", "arguments": {"lower_bound": "optimum"}, "lr": 1.0}
    assert made(momo, optimum=0.25)._step.method.rule.lower_bound == 0.25
    assert (
        made({"torch": "MoMo", "arguments": {"lower_bound": "optimum"}}, optimum=0.25)._step.method.rule.lower_bound
        == 0.25
    )
    with pytest.raises(ValueError, match="lower_bound = 'optimum' needs a task whose optimum is known"):
        made(momo)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"rule": "Nothing", "lr": 1.0}, "rule must be one of"),
        ({"rule": "MoMo", "lr": 1.0}, "cannot be made"),
        ({"rule": "MoMo", "arguments": {"lower_bound": 0}, "lr": 1.0, "inertia": 0.1}, "inertia"),
        ({"torch": "Nothing"}, "optimizer must be one of AMSGD, AMAdamW, .*, or an import path"),
        ({"torch": "torch.optim:AdamW", "arguments": {"momentum": 0.9}}, "cannot be made: .*momentum"),
        ({"torch": "collections:OrderedDict"}, "must make a torch.optim.Optimizer, got OrderedDict|cannot be made"),
        ({"torch": "torch.optim:SGD", "lr": -1.0}, "Invalid learning rate"),
    ],
)
def test_methods_are_rehearsed(method: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rehearse(settings(method), {})


def test_rehearsals_that_pass(tmp_path: Path) -> None:
    for method in (AMADAMW, SGD, {"rule": "TruncatedMemory", "arguments": {"lower_bound": "optimum"}, "lr": 1.0}):
        rehearse(settings(method), {"lr": 0.5})
    (tmp_path / "mine.py").write_text("import torch\nclass Mine(torch.optim.SGD):\n    pass\n")
    rehearse({**settings({"torch": "mine.py:Mine(momentum=0.9)", "lr": 0.1}), "folder": str(tmp_path)}, {})
