"""Several optimizers as one, and state that is kept outside of their own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxmom.study.training import Wrapped, rehearse
from proxmom.torch import AMAdamW
from tests.study.training.conftest import check_that_it_goes_on, settings


def two() -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 4.0]])), nn.Parameter(torch.tensor([1.0, 0.5]))]


def parts_of(parameters: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    matrix, vector = parameters
    return [torch.optim.SGD([matrix], 0.1, momentum=0.9), torch.optim.AdamW([vector], 0.01)]


def steps(optimizers: Any, parameters: list[nn.Parameter], number: int = 3) -> None:
    for _ in range(number):
        for p in parameters:
            p.grad = p.detach() ** 3
        for optimizer in optimizers:
            optimizer.step()


class Counting(torch.optim.SGD):
    """Counts its steps where state_dict() does not see it, and lengthens every other one."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr)
        self.number = 0

    def step(self, closure: Any = None) -> Any:
        self.number += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-group["lr"] * (1 + self.number % 2))
        return None if closure is None else closure()


def counting(parameters: Any, lr: float) -> Wrapped:
    return Wrapped([Counting(parameters, lr)], keep=("number",))


def schedule_free(parameters: Any, lr: float) -> Wrapped:
    from schedulefree import ScheduleFreeWrapper

    return Wrapped([ScheduleFreeWrapper(AMAdamW(parameters, lr))], keep=("train_mode",))


def test_parts_step_as_they_do_alone() -> None:
    apart, together = two(), two()
    steps(parts_of(apart), apart)
    steps([Wrapped(parts_of(together))], together)
    assert all(torch.equal(a, b) for a, b in zip(apart, together, strict=True))


def test_a_step_calls_the_closure_once_and_shows_every_part_the_loss() -> None:
    calls, seen = [], []

    class Looks(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append(closure())

    def closure() -> Tensor:
        calls.append(1)
        return torch.tensor(7.0)

    matrix, vector = two()
    assert Wrapped([Looks([matrix], 0.1), Looks([vector], 0.1)]).step(closure) == 7
    assert (len(calls), seen) == (1, [7.0, 7.0])


def test_what_is_written_into_groups_reaches_the_parts_after_loading_too() -> None:
    still, moving = two(), two()
    optimizer, fresh = Wrapped(parts_of(still)), Wrapped(parts_of(moving))
    steps([fresh], moving)
    optimizer.load_state_dict(copy.deepcopy(fresh.state_dict()))
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
    steps([optimizer], still)
    assert all(torch.equal(a, b) for a, b in zip(still, two(), strict=True))


def test_state_goes_on_where_it_was() -> None:
    whole, halves = two(), two()
    steps([Wrapped(parts_of(whole))], whole, 6)
    first = Wrapped(parts_of(halves))
    steps([first], halves)
    second = Wrapped(parts_of(halves))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps([second], halves)
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


@pytest.mark.parametrize("make", ["counting", "schedule_free"])
def test_a_killed_run_goes_on_with_what_is_kept(make: str, tmp_path: Path) -> None:
    if make == "schedule_free":
        pytest.importorskip("schedulefree")
    method = {"torch": f"{__name__}:{make}", "lr": 0.01}
    check_that_it_goes_on(method, tmp_path)


def test_modes_are_those_of_the_parts() -> None:
    pytest.importorskip("schedulefree")
    wrapped = schedule_free(two(), 0.1)
    wrapped.train()
    assert wrapped.state_dict()["kept"] == [{"train_mode": True}]
    wrapped.eval()
    assert wrapped.state_dict()["kept"] == [{"train_mode": False}]
    assert not hasattr(Wrapped(parts_of(two())), "eval")


@pytest.mark.parametrize(
    "path", ["schedulefree:SGDScheduleFree", "schedulefree:AdamWScheduleFree", f"{__name__}:schedule_free"]
)
def test_optimizers_with_modes_are_rehearsed_in_them(path: str) -> None:
    pytest.importorskip("schedulefree")
    rehearse(settings({"torch": path, "lr": 0.1}), {})


def test_what_cannot_be_one_optimizer() -> None:
    matrix, vector = two()
    with pytest.raises(ValueError, match="parts must be one optimizer or more, got none"):
        Wrapped([])
    with pytest.raises(ValueError, match="parts must not share parameters"):
        Wrapped([torch.optim.SGD([matrix, vector], 0.1), torch.optim.SGD([vector], 0.1)])
    with pytest.raises(ValueError, match="state must have 2 parts, got 1"):
        Wrapped(parts_of(two())).load_state_dict(Wrapped([torch.optim.SGD(two(), 0.1)]).state_dict())
