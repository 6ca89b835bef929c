"""What the code of a rule reads beside `now` may change between steps: the numbers are those of the code, each time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import proxmom
from proxmom import Plane, kernels
from proxmom.tape import Untraceable
from proxmom.tape.watch import Watch
from proxmom.torch import ProxOptimizer

needs_kernels = pytest.mark.skipif(not kernels.available(), reason="the kernels are not built")

BETA = 0.2
TABLE = {"beta": 0.2, "deep": [[0.2]]}
ARRAY, TENSOR = np.array([0.2]), torch.tensor([0.2])
SETTINGS = SimpleNamespace(beta=0.2)
LOG: list[Any] = []


def helper() -> float:
    return BETA


class Config:
    beta = 0.2


class Reading:
    """A rule whose weight on memory comes from `read(self)`."""

    beta_max = 0.95
    of_class = 0.2
    history: ClassVar[list[Any]] = []

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read, self.own, self.held = read, [0.2], SimpleNamespace(beta=0.2)

    @property
    def as_property(self) -> float:
        return BETA

    def planes(self, now: proxmom.Now) -> Sequence[Plane]:
        return (proxmom.mix(now.gradient_plane, now.memory_plane(0.0), self.read(self)),)


class Slotted(Reading):
    __slots__ = ("slot",)

    def __init__(self) -> None:
        super().__init__(lambda self: self.slot)
        self.slot = 0.2


def set_global(value: float) -> None:
    globals()["BETA"] = value


def with_default(rule: Any, table: dict[str, float] = {"beta": 0.2}) -> float:  # noqa: B006
    return table["beta"]


def closed() -> tuple[Any, Any]:
    box = [0.2]

    def set_box(rule: Any, value: float) -> None:
        box[0] = value

    return Reading(lambda _: box[0]), set_box


CHANGES: dict[str, Callable[[], tuple[Any, Callable[[Any, float], Any]]]] = {
    "global": lambda: (Reading(lambda _: BETA), lambda _, v: set_global(v)),
    "global of a helper": lambda: (Reading(lambda _: helper()), lambda _, v: set_global(v)),
    "property": lambda: (Reading(lambda rule: rule.as_property), lambda _, v: set_global(v)),
    "attribute of the class": lambda: (Reading(lambda r: r.of_class), lambda _, v: setattr(Reading, "of_class", v)),
    "another class": lambda: (Reading(lambda _: Config.beta), lambda _, v: setattr(Config, "beta", v)),
    "dict": lambda: (Reading(lambda _: TABLE["beta"]), lambda _, v: TABLE.update(beta=v)),
    "lists in it": lambda: (Reading(lambda _: TABLE["deep"][0][0]), lambda _, v: TABLE.update(deep=[[v]])),  # type: ignore[index]
    "array": lambda: (Reading(lambda _: ARRAY), lambda _, v: ARRAY.fill(v)),
    "tensor": lambda: (Reading(lambda _: TENSOR.item()), lambda _, v: TENSOR.fill_(v)),
    "object": lambda: (Reading(lambda _: SETTINGS.beta), lambda _, v: setattr(SETTINGS, "beta", v)),
    "own list": lambda: (Reading(lambda rule: rule.own[0]), lambda rule, v: rule.own.__setitem__(0, v)),
    "own object": lambda: (Reading(lambda rule: rule.held.beta), lambda rule, v: setattr(rule.held, "beta", v)),
    "slot": lambda: (Slotted(), lambda rule, v: setattr(rule, "slot", v)),
    "closure": closed,
    "default": lambda: (Reading(with_default), lambda _, v: with_default.__defaults__[0].update(beta=v)),  # type: ignore[index]
    "another function": lambda: (Reading(lambda _: 0.2), lambda rule, v: setattr(rule, "read", lambda _: v)),
}


def steps(make: Callable[[], tuple[Any, Callable[[Any, float], Any]]], **options: Any) -> tuple[ProxOptimizer, Tensor]:
    rule, change = make()
    change(rule, 0.2)
    torch.manual_seed(0)
    params = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    optimizer = ProxOptimizer(params, rule, 0.1, **options)
    for step in range(6):
        change(rule, 0.2 if step < 3 else 0.7)
        for p in params:
            p.grad = p.detach() + torch.randn(3, dtype=torch.float64)
        optimizer.step()
    change(rule, 0.2)
    return optimizer, torch.stack([p.detach() for p in params])


@needs_kernels
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_followed(name: str) -> None:
    optimizer, found = steps(CHANGES[name])
    assert "a change in" in optimizer.path
    optimizer.step()
    torch.testing.assert_close(found, steps(CHANGES[name], foreach=False)[1], rtol=1e-12, atol=1e-12)
    assert all(tape is not None for tape in optimizer._step.method.recorded.values())


def count(rule: Any) -> float:
    Reading.of_class += 1
    return 0.3


def memoize(now: Any) -> None:
    TABLE["seen"] = now


WRITING: dict[str, Callable[[Any, Any], Any]] = {
    "a global list": lambda rule, now: LOG.append(now.lr),
    "a list of the class": lambda rule, now: rule.history.append(now.lr),
    "a list of its own": lambda rule, now: rule.own.append(now.lr),
    "an attribute of the class": lambda rule, now: setattr(Reading, "last", now.lr),
    "an attribute": lambda rule, now: setattr(rule, "last", now.lr),
    "a global dict": lambda rule, now: memoize(now.lr),
}


@needs_kernels
@pytest.mark.parametrize("name", WRITING)
def test_no_symbol_is_left_anywhere(name: str) -> None:
    class Writing(Reading):
        def planes(self, now: proxmom.Now) -> Sequence[Plane]:
            WRITING[name](self, now)
            return (now.gradient_plane,)

    LOG.clear()
    Reading.history.clear()
    optimizer, _ = steps(lambda: (Writing(lambda _: 0.0), lambda *_: None))
    assert "that changes something" in optimizer.path
    rule: Any = optimizer.rule
    left = [*LOG, *rule.history, *rule.own[1:], getattr(Reading, "last", None), getattr(rule, "last", None)]
    left.append(TABLE.pop("seen", None))
    kept = [value for value in left if value is not None]
    assert kept
    assert all(isinstance(value, np.ndarray) for value in kept)
    assert len(LOG) in (0, 6)
    if "last" in vars(Reading):
        del Reading.last  # type: ignore[attr-defined]


@needs_kernels
def test_random_numbers_are_not_used_up() -> None:
    class Throwing(Reading):
        def planes(self, now: proxmom.Now) -> Sequence[Plane]:
            thrown = random.random() + np.random.uniform() + torch.rand(()).item()  # noqa: NPY002
            return (Plane(now.gradient * thrown, 0.0),)

    def thrown(**options: Any) -> Tensor:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        return steps(lambda: (Throwing(lambda _: 0.0), lambda *_: None), **options)[1]

    torch.testing.assert_close(thrown(), thrown(foreach=False), rtol=1e-12, atol=1e-12)


def test_what_is_changed_is_seen_and_undone() -> None:
    kept: dict[str, Any] = {"list": [1], "set": {1}, "tensor": torch.ones(2), "array": np.ones(2), "nan": float("nan")}
    held = SimpleNamespace(**kept, proxy=MappingProxyType(kept))
    watch = Watch([held])
    for change in (
        lambda: kept["list"].append(2),
        lambda: kept["set"].clear(),
        lambda: kept["tensor"].zero_(),
        lambda: kept["array"].fill(3),
        lambda: delattr(held, "nan"),
        lambda: kept.update(more=1),
    ):
        assert watch.holds()
        change()
        assert not watch.holds()
        watch.restore()
    assert not watch.holds()  # nobody can write into a proxy
    assert (kept["list"], kept["set"]) == ([1], {1})


@pytest.mark.parametrize(
    "value",
    [
        iter([1]),
        np.random.default_rng(),
        np.array([None]),
        np.ones(20_000),
        torch.ones(20_000),
        [[k] for k in range(2000)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_watched_is_refused(value: Any) -> None:
    with pytest.raises(Untraceable, match="watched"):
        Watch([value])
