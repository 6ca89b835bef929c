"""The conformance suite: an honest optimizer passes, figures are measured, and what it finds out by itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from proxmom.testing import ROWS, check_optimizer, side_by_side
from proxmom.testing.subject import examine
from tests.testing.optimizers import CUDA, FIGURES, Honest, outcome
from tests.testing.test_flaws import Silent, Trusting, TurnsGradOff


def test_an_honest_optimizer_passes() -> None:
    report = check_optimizer(Honest)
    assert report.ok
    assert report.failed == ()
    assert [result.name for result in report.rows] == list(ROWS)
    assert {result.name for result in report.rows if result.outcome != "pass"} <= {CUDA}
    assert "Honest: all that must hold holds (37 rows" in str(report)


class Asks(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        memory.sum().item()
        memory.tolist()
        super().move(group, p, memory)


class Copies(Honest):
    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
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
        def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
            if mode[0] == "error":
                raise RuntimeError("called a synchronizing CUDA operation")
            super().move(group, p, memory)

    assert check_optimizer(Honest, rows=[CUDA]).failed == ()
    report = check_optimizer(Waits, rows=[CUDA])
    assert report.rows[0].message == "a step waits for the device: called a synchronizing CUDA operation"
    assert mode == [0]


class WantsKeyword(Honest):
    """Polyak's step with lower bound 0, at most lr; a NaN loss is skipped, and a bare step is refused where lr > 0."""

    @torch.no_grad()
    def step(self, closure: Any = None, *, loss: Any = None) -> Any:
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

    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        super().move({"lr": min(float(group["lr"]), abs(self.loss) / 10)}, p, memory)


class WantsObserve(WantsKeyword):
    def observe(self, loss: Any) -> None:
        self.seen = loss

    def step(self, closure: Any = None) -> Any:
        seen = self.__dict__.pop("seen", None)
        return super().step(closure, loss=None if closure else seen)


class WantsClosure(WantsKeyword):
    def step(self, closure: Any = None) -> Any:
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
    def step(self, closure: Any = None, *, loss: Any = None) -> Any:
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
    def add_param_group(self, param_group: dict[str, Any]) -> None:
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
        def advance(self, group: dict[str, Any], p: Any) -> None:
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
