"""For every row of the conformance suite there is an optimizer that fails it and nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from proxmom.testing import ROWS, check_optimizer
from tests.testing.optimizers import CUDA, FIGURES, Honest, outcome


class Uphill(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        super().move(group, p, -memory)


class Restless(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        dice = int.from_bytes(os.urandom(4)) * 1e-9 if self.state[p]["count"] == 25 else 0.0
        super().move(group, p, memory + dice)


class DecaysInPlace(Honest):
    def gradient(self, group: dict[str, Any], p: Any) -> Tensor:
        p.grad.add_(p, alpha=group["weight_decay"])
        return -p.grad if group["maximize"] else p.grad


class ReplacesGradients(Honest):
    def gradient(self, group: dict[str, Any], p: Any) -> Tensor:
        p.grad = p.grad.clone()
        return super().gradient(group, p)


class Drifts(Honest):
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None and p in self.state:
                    self.move(group, p, self.memory(p))
        return super().step(closure)


class StartsOnce(Honest):
    def start(self, p: Any) -> None:
        if any(state["count"] > 1 for state in self.state.values() if state):
            raise KeyError("memory")
        super().start(p)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if self.state:
            for p in self.param_groups[-1]["params"]:
                super().start(p)


class Normalises(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        super().move(group, p, memory / memory.norm() if group["lr"] > 0 else memory)


class Trusting(Honest):
    def sound(self, gradients: list[Tensor]) -> bool:
        return True


class Silent(Honest):
    def step(self, closure: Any = None) -> Any:
        super().step(closure)


class ClosureInTheDark(Honest):
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        super().step()
        return loss


class TurnsGradOff(Honest):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        torch.set_grad_enabled(False)
        return loss


class Careless(Honest):
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.param_groups.append({**self.defaults, **param_group, "params": list(param_group["params"])})


class Deaf(Honest):
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if not self.state:
            super().add_param_group(param_group)


class NormOfTheGroup(Honest):
    def gradient(self, group: dict[str, Any], p: Any) -> Tensor:
        squares = [q.grad.double().square().sum() for q in group["params"] if q.grad is not None]
        return super().gradient(group, p) / (1 + torch.stack(squares).sum().sqrt())


class FirstGroup(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        super().move(self.param_groups[0], p, memory)


class WritesIntoLr(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        lr = group["lr"]
        lr *= 0.5
        super().move({"lr": lr}, p, 2 * memory)


class RatioOfLrs(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        lr = float(group["lr"])
        last = self.state[p].get("last_lr", lr)
        if lr != last:
            memory *= lr / last
        self.state[p]["last_lr"] = lr
        super().move(group, p, memory)


class DefaultInsteadOfZero(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        super().move({"lr": group["lr"] or self.defaults["lr"]}, p, memory)


class InitialLr(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        super().move({"lr": group.get("initial_lr", group["lr"])}, p, memory)


class NeverMaximizes(Honest):
    def gradient(self, group: dict[str, Any], p: Any) -> Tensor:
        return super().gradient({**group, "maximize": False}, p)


class ForeachForgetsDecay(Honest):
    def gradient(self, group: dict[str, Any], p: Any) -> Tensor:
        return super().gradient({**group, "weight_decay": 0.0} if group["foreach"] else group, p)


class Gullible(Honest):
    def __init__(self, params: Any, lr: Any = 0.1, **rest: Any) -> None:
        super().__init__(params, abs(lr), **rest)


class Rounds64(Honest):
    kind: ClassVar[torch.dtype] = torch.float64
    lower: ClassVar[torch.dtype] = torch.float32

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        if self.param_groups[0]["params"][0].dtype == self.kind:
            for i, state in saved["state"].items():
                memory = state["memory"]
                saved["state"][i] = {**state, "memory": memory.to(self.lower).to(memory.dtype)}
        return saved


class Rounds32(Rounds64):
    kind, lower = torch.float32, torch.bfloat16


class Rounds16(Rounds64):
    kind, lower = torch.bfloat16, torch.bfloat16


class Note:
    """Something that torch.load(weights_only=True) does not know."""


class Exotic(Honest):
    def start(self, p: Any) -> None:
        super().start(p)
        self.state[p]["note"] = Note()


class CastsOnLoading(Honest):
    load_state_dict = torch.optim.Optimizer.load_state_dict

    def working(self, p: Any) -> torch.dtype:
        return p.dtype


class CountsInHalf(Honest):
    def start(self, p: Any) -> None:
        super().start(p)
        self.state[p]["count"] = torch.zeros((), dtype=p.dtype)


class Stale(Honest):
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.cache: dict[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if "cache" not in self.__dict__:
            self.cache: dict[Any, Any] = {}

    def memory(self, p: Any) -> Tensor:
        return self.cache.setdefault(p, self.state[p]["memory"])


class Forgets(Honest):
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.boost = 2.0

    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        super().move(group, p, memory * getattr(self, "boost", 1.0))


class Lazy(Honest):
    def advance(self, group: dict[str, Any], p: Any) -> None:
        if p.grad.any():
            super().advance(group, p)


class SquaresInHalf(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        scale = (p.grad * p.grad).sqrt() / p.grad.abs().clamp_min(1e-7) if p.dtype == torch.float16 else 1.0
        super().move(group, p, memory / scale)


class Sloppy(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        super().move(group, p, memory.bfloat16() if p.dtype == torch.float32 else memory)


class ClaimsScaling(Honest):
    _step_supports_amp_scaling = True


class IgnoresInfinity(ClaimsScaling):
    def sound(self, gradients: list[Tensor]) -> bool:
        return not any(g.isnan().any() for g in gradients)

    def gradient(self, group: dict[str, Any], p: Any) -> Tensor:
        return super().gradient(group, p) / getattr(self, "grad_scale", 1.0)


class Rows(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        assert p.shape[0] >= 0
        super().move(group, p, memory)


class Flat(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        p.as_strided((p.numel(),), (1,)).sub_((group["lr"] * memory).to(p.dtype).reshape(-1))


class SparseByIndex(Honest):
    def check(self, p: Any) -> None:
        assert not p.is_complex(), "complex"

    def sound(self, gradients: list[Tensor]) -> bool:
        return super().sound([g._values() if g.is_sparse else g for g in gradients])

    def advance(self, group: dict[str, Any], p: Any) -> None:
        if not p.grad.is_sparse:
            return super().advance(group, p)
        p[p.grad._indices()[0]] -= group["lr"] * (1 - group["beta"]) * p.grad._values()
        return None


class SparseUnclear(Honest):
    def check(self, p: Any) -> None:
        if p.grad.is_sparse:
            raise RuntimeError("storage?")
        super().check(p)


class RealOnly(Honest):
    def check(self, p: Any) -> None:
        assert not p.grad.is_sparse, "sparse"

    def advance(self, group: dict[str, Any], p: Any) -> None:
        if not p.is_complex():
            return super().advance(group, p)
        p.sub_(group["lr"] * p.grad.real)
        return None


@dataclass(frozen=True)
class Plant:
    """An optimizer with one flaw, the row that must fail, what it must say, and rows that cannot but fail with it."""

    row: str
    kind: type[Honest]
    message: str
    also: frozenset[str] = frozenset()


PLANTS = [
    Plant("minimises (smoke test)", Uphill, "the loss went from"),
    Plant("repeatable", Restless, "two equal runs differ: off by"),
    Plant("gradients are left alone", DecaysInPlace, "p.grad was modified: off by"),
    Plant("gradients are left alone", ReplacesGradients, "p.grad is another tensor after step()"),
    Plant("no gradient, no move", Drifts, "a parameter without a gradient moved"),
    Plant("late gradient", StartsOnce, "KeyError: 'memory'"),
    Plant("all-zero gradients", Normalises, "parameters are not finite after zero gradients"),
    Plant("NaN gradient is skipped", Trusting, "a NaN gradient changed parameters"),
    Plant("closure", Silent, "returned None instead of the loss"),
    Plant("closure", ClosureInTheDark, "the closure is called with grad mode off"),
    Plant("grad mode", TurnsGradOff, "step() leaves grad mode changed"),
    Plant("tied parameters count once", Careless, "a parameter listed twice steps twice, without a warning"),
    Plant("late group", Deaf, "parameters added later do not move"),
    Plant("one group = two groups", NormOfTheGroup, "two groups step otherwise than one"),
    Plant("each group its lr", FirstGroup, "a group with lr = 0 moved"),
    Plant("lr as a tensor", WritesIntoLr, "lr as a tensor steps otherwise"),
    Plant("lr = 0", RatioOfLrs, "ZeroDivisionError"),
    Plant(
        "lr = 0",
        DefaultInsteadOfZero,
        "parameters moved with lr = 0",
        frozenset({"each group its lr"}),
    ),
    Plant("schedulers", InitialLr, "a scheduler acts otherwise than setting lr by hand"),
    Plant("maximize", NeverMaximizes, "maximize=True with -g is not the step with g"),
    Plant("foreach", ForeachForgetsDecay, "foreach=True steps otherwise"),
    Plant("invalid lr is refused", Gullible, "lr = -1 was accepted"),
    Plant("save and load, float64", Rounds64, "the resumed run differs"),
    Plant("save and load, float32", Rounds32, "the resumed run differs"),
    Plant("save and load, bfloat16", Rounds16, "the resumed run differs", frozenset({"state dtypes survive loading"})),
    Plant("weights_only load", Exotic, "(state holds Note, Tensor)"),
    Plant("state dtypes survive loading", CastsOnLoading, "state 'count' was torch.float32, is torch.bfloat16"),
    Plant("state dtypes survive loading", CountsInHalf, "state 'count', torch.bfloat16, cannot hold 1001"),
    Plant("no state outside state_dict", Stale, "its own past shows after loading"),
    Plant("copy and pickle", Forgets, "a deep copy steps otherwise"),
    Plant("checkpoint loaders", Lazy, "no state 'count', 'memory' after the step"),
    Plant("half precision", SquaresInHalf, "parameters are not finite in torch.float16"),
    Plant("float32 = float64", Sloppy, "off by"),
    Plant("GradScaler", ClaimsScaling, "a scaled step is not the unscaled one"),
    Plant("GradScaler", IgnoresInfinity, "a step with infinite gradients moved parameters"),
    Plant("0-dim and empty parameters", Rows, "IndexError"),
    Plant("memory layouts", Flat, "a layout that is not contiguous, with gradients of its own layout"),
    Plant("sparse gradients", SparseByIndex, "rows that a sparse gradient touches step otherwise"),
    Plant("sparse gradients", SparseUnclear, "refused without saying 'sparse': RuntimeError: storage?"),
    Plant("complex parameters", RealOnly, "the imaginary part does not go downhill"),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.kind.__name__)
def test_a_flaw_is_found_by_its_row_and_by_no_other(plant: Plant) -> None:
    report = check_optimizer(plant.kind, skip=FIGURES)
    assert set(report.failed) == {plant.row} | plant.also, str(report)
    assert plant.message in outcome(report, plant.row).message
    assert report.ok == (plant.row == "NaN gradient is skipped")


def test_every_row_has_a_flaw_that_it_finds() -> None:
    assert {plant.row for plant in PLANTS} | {*FIGURES, CUDA} == set(ROWS)
