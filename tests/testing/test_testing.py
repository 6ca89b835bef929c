"""The conformance suite: an honest optimizer passes, and for every row there is one that fails it and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import proxmom.torch as ours
from proxmom import mix
from proxmom.cli import main
from proxmom.testing import ROWS, Report, check_optimizer, side_by_side
from proxmom.testing.known import torchs_own
from proxmom.testing.row import FIGURE
from proxmom.testing.subject import examine

FIGURES = [name for name, row in ROWS.items() if row.kind == FIGURE]
CUDA = "host synchronisations, cuda"


class Honest(torch.optim.Optimizer):
    """Heavy ball that does all that is asked, in as few lines as that takes."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.1,
        beta: float = 0.8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr must be >= 0, got {lr}.")
        defaults = {"lr": lr, "beta": beta, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, p in active:
            self.check(p)
        if self.sound([p.grad for _, p in active]):
            for group, p in active:
                self.advance(group, p)
        return loss

    def check(self, p: Tensor) -> None:
        for word, bad in (("sparse", p.grad.is_sparse), ("complex", p.is_complex())):
            if bad:
                raise RuntimeError(f"{word} gradients are not supported.")

    def sound(self, gradients: list[Tensor]) -> bool:
        return all(bool(g.isfinite().all()) for g in gradients)

    def advance(self, group: dict[str, Any], p: Tensor) -> None:
        g = self.gradient(group, p)
        if not self.state[p]:
            self.start(p)
        self.state[p]["count"] += 1
        memory = self.memory(p).lerp_(g.to(self.working(p)), 1 - group["beta"])
        self.move(group, p, memory)

    def gradient(self, group: dict[str, Any], p: Tensor) -> Tensor:
        return (-p.grad if group["maximize"] else p.grad) + group["weight_decay"] * p

    def start(self, p: Tensor) -> None:
        self.state[p]["count"] = torch.zeros(())
        self.state[p]["memory"] = torch.zeros_like(p, dtype=self.working(p))

    def working(self, p: Tensor) -> torch.dtype:
        return torch.promote_types(p.dtype, torch.float32)

    def memory(self, p: Tensor) -> Tensor:
        return self.state[p]["memory"]

    def move(self, group: dict[str, Any], p: Tensor, memory: Tensor) -> None:
        p.sub_((group["lr"] * memory).to(p.dtype))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        params = [p for group in self.param_groups for p in group["params"]]
        for i, state in state_dict["state"].items():
            self.state[params[i]] |= {k: v.clone() for k, v in state.items() if isinstance(v, Tensor)}


# --- for every row, an optimizer that breaks it -----------------------------------------------------------------------


class Uphill(Honest):
    def move(self, group, p, memory):
        super().move(group, p, -memory)


class Restless(Honest):
    def move(self, group, p, memory):
        dice = int.from_bytes(os.urandom(4)) * 1e-9 if self.state[p]["count"] == 25 else 0.0
        super().move(group, p, memory + dice)


class DecaysInPlace(Honest):
    def gradient(self, group, p):
        p.grad.add_(p, alpha=group["weight_decay"])
        return -p.grad if group["maximize"] else p.grad


class ReplacesGradients(Honest):
    def gradient(self, group, p):
        p.grad = p.grad.clone()
        return super().gradient(group, p)


class Drifts(Honest):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None and p in self.state:
                    self.move(group, p, self.memory(p))
        return super().step(closure)


class StartsOnce(Honest):
    def start(self, p):
        if any(state["count"] > 1 for state in self.state.values() if state):
            raise KeyError("memory")
        super().start(p)

    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        if self.state:
            for p in self.param_groups[-1]["params"]:
                super().start(p)


class Normalises(Honest):
    def move(self, group, p, memory):
        super().move(group, p, memory / memory.norm() if group["lr"] > 0 else memory)


class Trusting(Honest):
    def sound(self, gradients):
        return True


class Silent(Honest):
    def step(self, closure=None):
        super().step(closure)


class ClosureInTheDark(Honest):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else closure()
        super().step()
        return loss


class TurnsGradOff(Honest):
    def step(self, closure=None):
        loss = super().step(closure)
        torch.set_grad_enabled(False)
        return loss


class Careless(Honest):
    def add_param_group(self, param_group):
        self.param_groups.append({**self.defaults, **param_group, "params": list(param_group["params"])})


class Deaf(Honest):
    def add_param_group(self, param_group):
        if not self.state:
            super().add_param_group(param_group)


class NormOfTheGroup(Honest):
    def gradient(self, group, p):
        squares = [q.grad.double().square().sum() for q in group["params"] if q.grad is not None]
        return super().gradient(group, p) / (1 + torch.stack(squares).sum().sqrt())


class FirstGroup(Honest):
    def move(self, group, p, memory):
        super().move(self.param_groups[0], p, memory)


class WritesIntoLr(Honest):
    def move(self, group, p, memory):
        lr = group["lr"]
        lr *= 0.5
        super().move({"lr": lr}, p, 2 * memory)


class RatioOfLrs(Honest):
    def move(self, group, p, memory):
        lr = float(group["lr"])
        last = self.state[p].get("last_lr", lr)
        if lr != last:
            memory *= lr / last
        self.state[p]["last_lr"] = lr
        super().move(group, p, memory)


class DefaultInsteadOfZero(Honest):
    def move(self, group, p, memory):
        super().move({"lr": group["lr"] or self.defaults["lr"]}, p, memory)


class InitialLr(Honest):
    def move(self, group, p, memory):
        super().move({"lr": group.get("initial_lr", group["lr"])}, p, memory)


class NeverMaximizes(Honest):
    def gradient(self, group, p):
        return super().gradient({**group, "maximize": False}, p)


class ForeachForgetsDecay(Honest):
    def gradient(self, group, p):
        return super().gradient({**group, "weight_decay": 0.0} if group["foreach"] else group, p)


class Gullible(Honest):
    def __init__(self, params, lr=0.1, **rest):
        super().__init__(params, abs(lr), **rest)


class Rounds64(Honest):
    kind: ClassVar[torch.dtype] = torch.float64
    lower: ClassVar[torch.dtype] = torch.float32

    def state_dict(self):
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
    def start(self, p):
        super().start(p)
        self.state[p]["note"] = Note()


class CastsOnLoading(Honest):
    load_state_dict = torch.optim.Optimizer.load_state_dict

    def working(self, p):
        return p.dtype


class CountsInHalf(Honest):
    def start(self, p):
        super().start(p)
        self.state[p]["count"] = torch.zeros((), dtype=p.dtype)


class Stale(Honest):
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.cache = {}

    def __setstate__(self, state):
        super().__setstate__(state)
        if "cache" not in self.__dict__:
            self.cache = {}

    def memory(self, p):
        return self.cache.setdefault(p, self.state[p]["memory"])


class Forgets(Honest):
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.boost = 2.0

    def move(self, group, p, memory):
        super().move(group, p, memory * getattr(self, "boost", 1.0))


class Lazy(Honest):
    def advance(self, group, p):
        if p.grad.any():
            super().advance(group, p)


class SquaresInHalf(Honest):
    def move(self, group, p, memory):
        scale = (p.grad * p.grad).sqrt() / p.grad.abs().clamp_min(1e-7) if p.dtype == torch.float16 else 1.0
        super().move(group, p, memory / scale)


class Sloppy(Honest):
    def move(self, group, p, memory):
        super().move(group, p, memory.bfloat16() if p.dtype == torch.float32 else memory)


class ClaimsScaling(Honest):
    _step_supports_amp_scaling = True


class IgnoresInfinity(ClaimsScaling):
    def sound(self, gradients):
        return not any(g.isnan().any() for g in gradients)

    def gradient(self, group, p):
        return super().gradient(group, p) / getattr(self, "grad_scale", 1.0)


class Rows(Honest):
    def move(self, group, p, memory):
        assert p.shape[0] >= 0
        super().move(group, p, memory)


class Flat(Honest):
    def move(self, group, p, memory):
        p.as_strided((p.numel(),), (1,)).sub_((group["lr"] * memory).to(p.dtype).reshape(-1))


class SparseByIndex(Honest):
    def check(self, p):
        assert not p.is_complex(), "complex"

    def sound(self, gradients):
        return super().sound([g._values() if g.is_sparse else g for g in gradients])

    def advance(self, group, p):
        if not p.grad.is_sparse:
            return super().advance(group, p)
        p[p.grad._indices()[0]] -= group["lr"] * (1 - group["beta"]) * p.grad._values()
        return None


class SparseUnclear(Honest):
    def check(self, p):
        if p.grad.is_sparse:
            raise RuntimeError("storage?")
        super().check(p)


class RealOnly(Honest):
    def check(self, p):
        assert not p.grad.is_sparse, "sparse"

    def advance(self, group, p):
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


def outcome(report: Report, name: str) -> Any:
    return next(result for result in report.rows if result.name == name)


def test_an_honest_optimizer_passes() -> None:
    report = check_optimizer(Honest)
    assert report.ok
    assert report.failed == ()
    assert [result.name for result in report.rows] == list(ROWS)
    assert {result.name for result in report.rows if result.outcome != "pass"} <= {CUDA}
    assert "Honest: all that must hold holds (37 rows" in str(report)


# --- rows that report a figure, and the one that needs a GPU ----------------------------------------------------------


class Asks(Honest):
    def move(self, group, p, memory):
        memory.sum().item()
        memory.tolist()
        super().move(group, p, memory)


class Copies(Honest):
    def move(self, group, p, memory):
        copies = memory.repeat(4, 1)
        super().move(group, p, memory)
        del copies


def figure(kind: Any, name: str) -> float:
    return float(check_optimizer(kind, rows=[name]).rows[0].cell)


def test_what_the_host_reads_is_counted() -> None:
    assert figure(Asks, "host synchronisations") == figure(Honest, "host synchronisations") + 4


def test_memory_of_a_step_is_the_peak() -> None:
    """Four copies of one of two equal parameters, held while it moves, are twice the bytes of both."""
    assert figure(Copies, "memory of a step") == pytest.approx(figure(Honest, "memory of a step") + 2.0, abs=0.1)
    assert figure(partial(torch.optim.Adam, foreach=True), "memory of a step") == pytest.approx(1.0, abs=0.1)
    assert figure(partial(torch.optim.SGD, lr=0.1, foreach=False), "memory of a step") == 0.0


def test_waiting_for_the_device_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    mode = [0]
    monkeypatch.setattr("proxmom.testing.rows_cost.DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode[0])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda new: mode.__setitem__(0, new))

    class Waits(Honest):
        def move(self, group, p, memory):
            if mode[0] == "error":
                raise RuntimeError("called a synchronizing CUDA operation")
            super().move(group, p, memory)

    assert check_optimizer(Honest, rows=[CUDA]).failed == ()
    report = check_optimizer(Waits, rows=[CUDA])
    assert report.rows[0].message == "a step waits for the device: called a synchronizing CUDA operation"
    assert mode == [0]


# --- what the suite finds out by itself -------------------------------------------------------------------------------


class WantsKeyword(Honest):
    """Polyak's step with lower bound 0, at most lr; a NaN loss is skipped, and a bare step is refused where lr > 0."""

    @torch.no_grad()
    def step(self, closure=None, *, loss=None):
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        loss = returned if loss is None else loss
        if loss is None and any(group["lr"] > 0 for group in self.param_groups):
            raise ValueError("needs the loss")
        self.loss = 0.0 if loss is None else float(loss)
        if self.loss == self.loss:
            super().step()
        return returned

    def move(self, group, p, memory):
        super().move({"lr": min(float(group["lr"]), abs(self.loss) / 10)}, p, memory)


class WantsObserve(WantsKeyword):
    def observe(self, loss):
        self.seen = loss

    def step(self, closure=None):
        seen = self.__dict__.pop("seen", None)
        return super().step(closure, loss=None if closure else seen)


class WantsClosure(WantsKeyword):
    def step(self, closure=None):
        return super().step(closure)


@pytest.mark.parametrize(
    ("kind", "way"), [(WantsKeyword, "keyword"), (WantsObserve, "observe"), (WantsClosure, "closure")]
)
def test_how_the_loss_is_given_is_found_out(kind: Any, way: str) -> None:
    subject = examine(kind)
    assert (subject.way, subject.needs_loss) == (way, True)
    report = check_optimizer(kind)
    assert report.needs_loss
    assert report.failed == (), str(report)
    refuses = ["GradScaler"] if way == "closure" else []
    assert [r.name for r in report.rows if r.outcome == "not applicable" and r.name != CUDA] == refuses
    assert f"{kind.__name__}, needs the loss: all that must hold holds" in str(report)


class WantsItAlways(WantsKeyword):
    def step(self, closure=None, *, loss=None):
        if closure is None and loss is None:
            raise ValueError("needs the loss")
        return super().step(closure, loss=loss)


def test_a_loss_cannot_be_demanded_of_checkpoint_loaders() -> None:
    report = check_optimizer(WantsItAlways, skip=FIGURES)
    assert report.failed == ("checkpoint loaders",)
    assert outcome(report, "checkpoint loaders").message == "ValueError: needs the loss"


def test_whether_the_loss_is_needed_can_be_said() -> None:
    assert not examine(torch.optim.SGD).needs_loss
    assert examine(torch.optim.SGD).way == "none"
    assert examine(torch.optim.SGD, needs_loss=True).way == "closure"
    assert examine(WantsKeyword, needs_loss=False).way == "keyword"


def test_a_factory_without_keywords_is_asked_what_groups_can_tell() -> None:
    report = check_optimizer(lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), skip=FIGURES)
    idle = {result.name: result.message for result in report.rows if result.outcome == "not applicable"}
    assert set(idle) - {CUDA} == {"invalid lr is refused"}
    assert idle["invalid lr is refused"].startswith("the factory takes no lr")
    assert report.failed == ("NaN gradient is skipped",)


class MatricesOnly(Honest):
    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        if any(p.dim() != 2 for p in self.param_groups[-1]["params"]):
            raise ValueError("only matrices")


def test_an_optimizer_for_matrices_gets_matrices() -> None:
    report = check_optimizer(MatricesOnly)
    assert report.failed == ()
    assert outcome(report, "0-dim and empty parameters").message == "refused: only matrices"
    assert outcome(report, "memory layouts").outcome == "pass"


def test_options_that_are_refused_do_not_count() -> None:
    def factory(params: Any, maximize: bool = False) -> torch.optim.Optimizer:
        if maximize:
            raise ValueError("maximize must be False")
        return torch.optim.SGD(params, lr=0.1)

    (row,) = check_optimizer(factory, rows=["maximize"]).rows
    assert (row.outcome, row.message) == ("not applicable", "refused: maximize must be False")


def test_an_optimizer_that_cannot_step_fails_row_by_row() -> None:
    class Broken(Honest):
        def advance(self, group, p):
            raise IndexError

    report = check_optimizer(Broken, rows=["repeatable", "copy and pickle"])
    assert [result.message for result in report.rows] == ["IndexError: IndexError"] * 2
    assert "2 FAILED" in str(report)


def test_the_callers_torch_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with torch.no_grad():
        check_optimizer(TurnsGradOff, rows=["repeatable", "grad mode"])
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: check_optimizer(Honest, rows=["speed"]),
            ValueError,
            "a row must be one of .*, got 'speed'",
        ),
        (lambda: check_optimizer(Honest, skip=["speed"]), ValueError, "got 'speed'"),
        (lambda: check_optimizer(lambda params: 3), TypeError, r"must return a torch\.optim\.Optimizer, got int"),
        (lambda: check_optimizer(partial(Honest, lr=-1.0)), ValueError, r"lr must be >= 0, got -1\.0"),
        (lambda: side_by_side({}), ValueError, "reports must be one or more"),
    ],
)
def test_what_cannot_be_asked_is_said(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_reports_side_by_side() -> None:
    names = ["NaN gradient is skipped", "closure", CUDA, "host synchronisations"]
    reports = {"honest": check_optimizer(Honest, rows=names), "other": check_optimizer(Silent, rows=names)}
    assert side_by_side(reports).splitlines() == [
        "                             honest  other",
        "NaN gradient is skipped      ok      ok",
        "closure                      ok      FAIL",
        "host synchronisations, cuda  -       -",
        "host synchronisations        2       2",
        "",
        "other: closure: step(closure) returned None instead of the loss",
    ]
    markdown = side_by_side(reports, markdown=True).splitlines()
    assert markdown[1] == "|---|---|---|---|"
    assert markdown[3].startswith("| closure | ok | FAIL | step(closure) calls it")


def test_a_wish_fails_in_small_letters() -> None:
    report = check_optimizer(Trusting, rows=["NaN gradient is skipped"])
    assert report.ok
    assert report.failed == ("NaN gradient is skipped",)
    assert report.rows[0].cell == "fails"


# --- torch's own, and ours ------------------------------------------------------------------------------------------

NAN, HALF = "NaN gradient is skipped", "half precision"
KNOWN = {  # what torch's own are known to fail; all else they pass
    "SGD": {NAN},
    "AdamW": {NAN, HALF},
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_torchs_own_pass(name: str) -> None:
    report = check_optimizer(torchs_own()[name], skip=FIGURES)
    assert set(report.failed) <= KNOWN[name], str(report)


@dataclass(frozen=True)
class Halfway:
    """A rule of somebody's own."""

    beta_max: float = 0.9

    def planes(self, now):
        return now.gradient_plane, mix(now.gradient_plane, now.memory_plane(now.rise / 2), now.weight(0.5))


OURS = {
    "AMSGD": partial(ours.AMSGD, scope="model"),
    "AMSGD per tensor": partial(ours.AMSGD, scope="tensor"),
    "AMAdamW": partial(ours.AMAdamW, scope="tensor"),
    "AMAdamW whole model": partial(ours.AMAdamW, scope="model"),
    "MoMo": partial(ours.MoMo, lower_bound=0.0),
    "MoMoAdam": partial(ours.MoMoAdam, lower_bound=0.0),
    "TruncatedMemorySGD": partial(ours.TruncatedMemorySGD, lower_bound=0.0),
    "a rule of one's own": partial(ours.ProxOptimizer, rule=Halfway(), lr=0.1),
    "a rule of one's own per tensor": partial(ours.ProxOptimizer, rule=Halfway(), lr=0.1, scope="tensor"),
}


@pytest.mark.parametrize("factory", OURS.values(), ids=OURS.keys())
def test_ours_pass_every_row(factory: Any) -> None:
    report = check_optimizer(factory)
    assert report.failed == (), str(report)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: ROWS[name] for name in (NAN, HALF, "closure")}
    monkeypatch.setattr("proxmom.testing.check.ROWS", few)


def conformance(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["conformance", *map(str, arguments)])


@pytest.mark.usefixtures("few_rows")
def test_the_command_judges_the_named_ones(tmp_path: Path) -> None:
    good = conformance("torch.optim:SGD(lr=0.01, momentum=0.9)", "AMSGD", "--json", tmp_path / "out.json")
    assert good.exit_code == 0, good.output
    assert "SGD(lr=0.01, momentum=0.9)" in good.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert list(written) == ["SGD(lr=0.01, momentum=0.9)", "AMSGD"]
    assert written["AMSGD"]["ok"]
    assert [row["name"] for row in written["AMSGD"]["rows"]] == [NAN, HALF, "closure"]
    bad = conformance("torch.optim:AdamW")
    assert bad.exit_code == 1
    assert "AdamW: half precision: parameters are not finite in torch.float16" in bad.output


@pytest.mark.usefixtures("few_rows")
def test_the_command_shows_torchs_own_and_does_not_judge_them() -> None:
    result = conformance("--torch", "--markdown")
    assert result.exit_code == 0, result.output
    assert all(f" {name} |" in result.output for name in torchs_own())
    assert conformance("--torch", "torch.optim:AdamW(lr=0.1)").exit_code == 1


@pytest.mark.usefixtures("few_rows")
def test_without_arguments_the_command_asks_ours() -> None:
    result = conformance()
    assert result.exit_code == 0, result.output
    names = ["AMSGD", "AMAdamW", "MoMo", "MoMoAdam", "TruncatedMemorySGD"]
    assert any(line.split() == names for line in result.output.splitlines())


@pytest.mark.usefixtures("few_rows")
def test_the_command_finds_an_optimizer_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("import torch\nclass Mine(torch.optim.SGD):\n    def step(self): super().step()\n")
    result = conformance("mine.py:Mine(lr=0.1)")
    assert result.exit_code == 1
    assert "Mine(lr=0.1): closure: TypeError: " in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SGD",), "optimizer must be one of AMSGD, AMAdamW, MoMo"),
        (("torch.optim:SGD(0.1)",), "optimizer must have its arguments by name"),
        (("torch.optim:Adamm",), "torch.optim has no 'Adamm'"),
        (("AMSGD(lr=-1)",), "lr must be >= 0"),
        (("AMSGD(speed=1)",), "speed"),
        (("AMSGD", "--json", "missing/out.json"), "--json must be in a folder that exists, got missing/out.json"),
    ],
)
def test_errors_of_the_command_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = conformance(*arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
