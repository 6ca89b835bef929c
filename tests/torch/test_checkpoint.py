"""State: saved and loaded, in other orders and by hooks, and refused where it is of something else."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from proxmom.torch import AMSGD, AMAdamW, MoMo
from tests.torch.common import SHAPES, drive, give, parameters, same, step, stepped


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_save_load_continue_is_bit_identical(make: Any, dtype: torch.dtype) -> None:
    straight, stopped = parameters(dtype), parameters(dtype)
    optimizer = make(straight)
    drive(optimizer, straight, 4)
    before = make(stopped)
    drive(before, stopped, 4)
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    resumed = make(stopped, lr=0.7)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    same(drive(optimizer, straight, 6, seed=2), drive(resumed, stopped, 6, seed=2))
    for p, q in zip(straight, stopped, strict=True):
        for name, value in optimizer.state[p].items():
            assert resumed.state[q][name].dtype == value.dtype, name


def test_the_counter_survives_loading_into_bf16() -> None:
    params = parameters(torch.bfloat16)
    optimizer = AMAdamW(params)
    drive(optimizer, params, 1)
    for p in params:
        optimizer.state[p]["step"].fill_(1001)
        optimizer.state[p]["count"].fill_(1001)
    again = AMAdamW(params)
    again.load_state_dict(optimizer.state_dict())
    assert {float(again.state[p][name]) for p in params for name in ("step", "count")} == {1001.0}


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_copies_step_on(make: Any, clone: Any) -> None:
    params = parameters()
    optimizer = make(params)
    drive(optimizer, params, 3)
    twin, twins = clone((optimizer, params))
    same(drive(optimizer, params, 3, seed=2), drive(twin, twins, 3, seed=2))


def test_all_state_lives_in_the_state(make: Any) -> None:
    """Two optimizers with the same state take the same step, whatever they did before."""
    one, two = parameters(), parameters()
    first, second = make(one), make(two)
    drive(first, one, 5)
    drive(second, two, 9, seed=3)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for p, q in zip(one, two, strict=True):
            q.copy_(p)
    same(drive(first, one, 4, seed=5), drive(second, two, 4, seed=5))


def test_checkpoint_loaders_can_initialise_state(make: Any) -> None:
    """Zero gradients, lr = 0, no loss: state is there afterwards, and no weight has moved."""
    params = parameters()
    before = [p.detach().clone() for p in params]
    optimizer = make(params)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    give(params, [np.zeros(shape) for shape in SHAPES])
    optimizer.step()
    same(params, before)
    assert all("memory" in optimizer.state[p] for p in params)


PATHS = pytest.mark.parametrize("foreach", [None, True, False], ids=["fastest", "blocks", "one at a time"])


@PATHS
@pytest.mark.parametrize("saved", [(3,), (4, 1), (2, 2), ()])
def test_state_of_another_shape_is_refused_before_anything_is_loaded(saved: Any, foreach: bool | None) -> None:
    _, other = stepped(AMAdamW, saved, foreach=foreach)
    (p,), optimizer = stepped(AMAdamW, (4,), foreach=foreach)
    before = copy.deepcopy(optimizer.state[p])
    with pytest.raises(
        ValueError, match=r"state\['memory'\] of parameter 0 must have its parameter's shape \(4,\), got"
    ):
        optimizer.load_state_dict(other.state_dict())
    assert all(torch.equal(optimizer.state[p][name], value) for name, value in before.items())
    optimizer.state[p]["second_moment"] = torch.zeros(saved)
    with pytest.raises(ValueError, match=r"state\['second_moment'\] of parameter 0 must have its parameter's shape"):
        step(optimizer, torch.ones(4))


OTHERS: dict[str, tuple[Callable[..., Any], str]] = {
    "torch's AdamW": (
        torch.optim.AdamW,
        r"checkpoint is of torch's Adam or AdamW, .* this optimizer, AMSGD, needs memory",
    ),
    "torch's SGD": (lambda ps: torch.optim.SGD(ps, momentum=0.9), r"checkpoint is of torch's SGD"),
    "AMAdamW": (AMAdamW, r"checkpoint is of AMAdamW \(AdaptiveMemory with Adam\), this optimizer is AMSGD"),
    "MoMo": (
        lambda ps: MoMo(ps, lower_bound=0.0),
        r"checkpoint is of MoMo \(MoMo with Euclidean\), this optimizer is AMSGD",
    ),
    "steady": (lambda ps: AMSGD(ps, steady=True), r"checkpoint is of AMSGD \(SteadyMemory with Euclidean\)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_checkpoint_of_another_optimizer_is_refused(name: str) -> None:
    make, message = OTHERS[name]
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    other, optimizer = make([p]), AMSGD([q])
    p.grad = torch.ones(3)
    other.step(**({"loss": 1.0} if name == "MoMo" else {}))
    groups = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.state_dict() == groups


def test_what_hooks_return_counts_and_is_seen_by_later_ones() -> None:
    (a, b), saved = stepped(AMSGD, 2, 2)
    step(saved, torch.ones(2), -torch.ones(2))
    loaded = AMSGD([nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)) for _ in "ab"])
    x, y = loaded.param_groups[0]["params"]
    seen: list[torch.dtype] = []

    def swapped(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "param_groups": [{**g, "params": g["params"][::-1]} for g in state["param_groups"]]}

    loaded.register_load_state_dict_pre_hook(swapped)
    loaded.register_load_state_dict_post_hook(lambda o: seen.append(o.state[x]["memory"].dtype))
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded.state[x]["memory"], saved.state[b]["memory"])
    assert torch.equal(loaded.state[y]["memory"], saved.state[a]["memory"])
    assert seen == [torch.float32]
    loaded.state[x]["memory"].zero_()
    assert saved.state[b]["memory"].any(), "the checkpoint's own tensors were taken"


def test_state_goes_by_name_where_both_have_names() -> None:
    named = {"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2))}
    saved = AMSGD(named.items())
    step(saved, torch.ones(2), -torch.ones(2))
    turned = {name: nn.Parameter(torch.ones(2)) for name in ("b", "a")}
    loaded = AMSGD(turned.items())
    loaded.load_state_dict(saved.state_dict())
    for name, p in turned.items():
        assert torch.equal(loaded.state[p]["memory"], saved.state[named[name]]["memory"])
    assert loaded.param_groups[0]["param_names"] == ["b", "a"]


def test_state_of_wrappers_may_be_there_before_ours() -> None:
    for foreign in ({"z": torch.zeros(2)}, {"slow": 1, "step": 3}, {"old_p": torch.ones(2)}):
        p = nn.Parameter(torch.ones(2))
        optimizer = AMSGD([p])
        optimizer.state[p].update(foreign)
        step(optimizer, torch.ones(2))
        step(optimizer, torch.ones(2))
        assert all(optimizer.state[p][name] is value for name, value in foreign.items() if name != "step")
        assert float(optimizer.state[p]["step"]) == 2
