"""Each method of the studies beside the field: ten steps lower the loss, and a killed run goes on as if it was not."""

from __future__ import annotations

import functools
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxmom.study.plan.cells import StudyCell, plan
from proxmom.study.plan.config import load_study
from proxmom.study.training import train
from tests.study.training.conftest import Watched, flat, tiny

FIELD = Path(__file__).parents[1] / "experiments" / "field"
NEEDED = {"language": ("schedulefree", "pytorch_optimizer"), "vision": ("schedulefree", "pytorch_optimizer")}
NEEDED |= {"momo": ("momo",)}
STEPS = 10


def cases() -> list[Any]:
    """Each method on each problem of each study."""
    found = []
    for name in NEEDED:
        tables = tomllib.loads((FIELD / f"{name}.toml").read_text())
        for number, problem in enumerate(tables["problem"]):
            found += [(name, number, problem["kind"], method["name"]) for method in tables["method"]]
    return found


@functools.cache
def planned(name: str) -> list[StudyCell]:
    """The points of a study, as its first search seed tries them."""
    for package in NEEDED[name]:
        pytest.importorskip(package)
    study = load_study(FIELD / f"{name}.toml")
    return [cell for cell in plan(study) if cell.stage == "search" and cell.seed == 0]


def trained(cell: StudyCell, task: Any, folder: Path, every: float = 60.0) -> Any:
    folder.mkdir(exist_ok=True)
    return train(
        cell.method.settings,
        task,
        cell.point,
        steps=STEPS,
        schedule="constant",
        warmup=0.0,
        test=False,
        directory=folder,
        record=lambda row: (folder / "metrics.jsonl").open("a").write("{}\n"),
        checkpoint_every=every,
    )


class Stops(Watched):
    def gradient(self, step: int) -> Tensor:
        if step == STEPS // 2:
            raise KeyboardInterrupt
        return super().gradient(step)


@pytest.mark.parametrize(("name", "problem", "kind", "method"), cases())
def test_ten_steps_lower_the_loss_and_are_the_same_if_they_are_interrupted(
    name: str, problem: int, kind: str, method: str, tmp_path: Path
) -> None:
    points = [cell for cell in planned(name) if (cell.problem, cell.method.name) == (problem, method)]
    cell = sorted(points, key=lambda cell: list(cell.point.values()))[
        len(points) // 3
    ]  # below the middle: no diverging
    whole, halves = tiny(kind, seed=1), tiny(kind, seed=1)
    ending = trained(cell, whole, tmp_path / "whole")
    assert ending.status == "finished", ending.message
    assert ending.final["validation loss"] < ending.final["initial loss"]
    with pytest.raises(KeyboardInterrupt):
        trained(cell, Stops(halves), tmp_path / "halves", every=0.0)
    again = tiny(kind, seed=1)
    assert trained(cell, again, tmp_path / "halves").final == ending.final
    assert torch.equal(flat(again), flat(whole))


def muon(*shapes: tuple[int, ...], **arguments: Any) -> tuple[list[nn.Parameter], Any]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    return parameters, runpy.run_path(str(FIELD / "methods.py"))["muon"](parameters, 0.1, weight_decay=0.0, **arguments)


def test_muon_has_the_hidden_matrices_and_adamw_the_rest() -> None:
    parameters, optimizer = muon((5, 3), (4, 3), (4,), (2, 4), (2,), embeddings=1, head=2)
    hidden, others = (group["params"] for group in optimizer.param_groups)
    assert [tuple(p.shape) for p in hidden] == [(4, 3)]
    assert [p is q for p, q in zip(others, [parameters[i] for i in (0, 2, 3, 4)], strict=True)] == [True] * 4


def test_muons_step_of_filters_is_that_of_their_rows() -> None:
    [filters], of_filters = muon((4, 3, 2, 2))
    rows = nn.Parameter(filters.detach().flatten(1).clone())
    of_rows = torch.optim.Muon([rows], 0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    before = filters.detach().clone()
    for _ in range(2):
        gradient = torch.randn(4, 3, 2, 2)
        filters.grad, rows.grad = gradient.clone(), gradient.flatten(1)
        of_filters.step()
        of_rows.step()
    assert torch.equal(filters.detach().flatten(1), rows.detach())
    assert not torch.equal(filters, before)
