"""A user's own network by import path: trained like ours, digested, and refused with a reason where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.record.store import load_runs
from proxmom.study.run.runner import run_study
from proxmom.study.training import build_task, describe_task
from proxmom.study.training.own import OwnTask
from tests.study.training.conftest import AMADAMW, flat, run

NET = """\
import torch
from torch import nn


class Net:
    def __init__(self, seed, hidden=4, data=None, what=""):
        self.seed, self.data, self.what = seed, data, what
        self.model = nn.Sequential(nn.Linear(2, hidden), nn.Dropout(0.5), nn.Linear(hidden, 1))
        if what == "normalised":
            self.model.append(nn.BatchNorm1d(1))
        if what == "no model":
            del self.model
        if what == "frozen":
            self.model.requires_grad_(False)

    def loss(self, n):
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(1000 * self.seed + n))
        losses = (self.model(x) - x[:, :1]).square()
        return losses if self.what == "many" else losses.mean()

    def evaluate(self, split):
        assert not self.model.training
        if self.what == "raises":
            raise RuntimeError("out of order")
        x = torch.randn(32, 2, generator=torch.Generator().manual_seed(("validation", "test").index(split)))
        loss = (self.model(x) - x[:, :1]).square().mean()
        return {"error": loss} if self.what == "misnamed" else {"loss": loss, "accuracy": loss < 1}
"""
STUDY = """\
[study]
name = "nets"
claim = "None."
points = 2
steps = 40
seeds = 2
reference = "SGD"

[[problem]]
kind = "net.py:Net"
hidden = 6

[[method]]
name = "SGD"
torch = "torch.optim:SGD"
lr = 0.1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "nets.toml").write_text(STUDY)
    return tmp_path


def net(folder: Path, seed: int = 0, **arguments: Any) -> OwnTask:
    task = build_task("net.py:Net", seed=seed, folder=str(folder), **arguments)
    assert isinstance(task, OwnTask)
    return task


def test_weights_come_of_the_seed_and_nothing_else(folder: Path) -> None:
    one = flat(net(folder))
    torch.rand(3)
    assert torch.equal(one, flat(net(folder)))
    assert not torch.equal(one, flat(net(folder, seed=1)))
    assert len(flat(net(folder, hidden=6))) == 6 * 3 + 7


def test_gradient_and_evaluation_are_those_of_the_object(folder: Path) -> None:
    task = net(folder)
    task.module[1].p = 0.0  # type: ignore[index, assignment]
    twin = net(folder).module
    twin[1].p = 0.0  # type: ignore[index, assignment]
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(3))
    expected = (twin(x) - x[:, :1]).square().mean()
    expected.backward()
    for _ in range(2):  # what was there is not added to
        loss = task.gradient(3)
    assert float(loss) == pytest.approx(expected.item())
    assert not loss.requires_grad
    assert task.module.training
    for p, q in zip(task.parameters.values(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad)  # type: ignore[arg-type]
    found = task.evaluate("test")
    assert set(found) == {"loss", "accuracy"}
    assert found["loss"] != task.evaluate("validation")["loss"]


def test_a_run_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path) -> None:
    """Dropout draws what it would have drawn."""
    _, whole = run(AMADAMW, net(folder), tmp_path / "whole", steps=40)
    task = net(folder)
    steps = iter(range(25))
    gradient = task.gradient

    def stopped(step: int) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return gradient(step)

    task.gradient = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(AMADAMW, task, tmp_path / "halves", steps=40, checkpoint_every=0.0)
    _, resumed = run(AMADAMW, net(folder), tmp_path / "halves", steps=40)
    assert [row["validation"] for row in resumed] == [row["validation"] for row in whole]


def test_a_study_trains_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)  # the file is looked for beside the study
    found = run_study(folder / "nets.toml", folder / "out", jobs=1, quiet=True)
    runs = load_runs(found)
    assert [(each.status, each.problem) for each in runs] == [("finished", "Net, hidden 6")] * 2
    assert all({"test loss", "test accuracy"} <= set(each.final) for each in runs)
    assert len({each.final["test loss"] for each in runs}) == 2  # of two seeds


def test_changed_code_and_changed_data_are_another_run(folder: Path) -> None:
    def keys() -> list[str]:
        return [cell.key for cell in plan(load_study(folder / "nets.toml"))]

    (folder / "numbers.csv").write_text("1")
    first = keys()
    (folder / "net.py").write_text(NET.replace("0.5", "0.25"))
    second = keys()
    (folder / "nets.toml").write_text(STUDY.replace("hidden = 6", 'data = "numbers.csv"'))
    third = keys()
    (folder / "numbers.csv").write_text("2")
    assert len({tuple(found) for found in (first, second, third, keys())}) == 4


def test_data_beside_the_study_are_handed_over_as_a_path(folder: Path) -> None:
    (folder / "numbers.csv").write_text("1")
    assert net(folder, data="numbers.csv")._made.data == str(folder / "numbers.csv")
    assert net(folder, data="elsewhere.csv")._made.data == "elsewhere.csv"
    assert describe_task("net.py:Net", None, str(folder), data="numbers.csv") == "Net, data numbers.csv"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no model", "must make an object with model, a torch.nn.Module, got Net without"),
        ("frozen", "model must have parameters that require gradients, got none"),
        ("many", r"loss\(0\) must be a 0-dim tensor that has a gradient, got shape \(8, 1\)"),
        ("misnamed", r"evaluate\('validation'\) must give loss, and perhaps accuracy, got \['error'\]"),
        ("raises", "its first batch or evaluation raised RuntimeError: out of order"),
        ("normalised", "model must not change its buffers, as BatchNorm does: .* Take GroupNorm or LayerNorm"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(folder: Path, what: str, said: str) -> None:
    (folder / "nets.toml").write_text(STUDY.replace("hidden = 6", f'what = "{what}"'))
    with pytest.raises(StudyError, match=f"line 9: problem 'net.py:Net': {said}"):
        run_study(folder / "nets.toml", folder / "out", jobs=1, quiet=True)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seed = 1", "seed is given by the run to a network of your own: leave it out here"),
        ('device = "cuda"', "device is given by the run"),
        ("width = 3", r"problem 'net.py:Net' takes \(seed, hidden=4, data=None, what=''\): .*'width'"),
        ('kind = "net.py:Nets"', "line 10: problem 'net.py:Nets': net.py has no 'Nets'"),
    ],
)
def test_mistakes_in_the_table_are_named(folder: Path, line: str, said: str) -> None:
    text = STUDY.replace('kind = "net.py:Net"', line) if line.startswith("kind") else STUDY.replace("hidden = 6", line)
    (folder / "nets.toml").write_text(text)
    with pytest.raises(StudyError, match=said):
        load_study(folder / "nets.toml")


def test_it_trains_in_one_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxmom.study.training.ranks.size", lambda: 2)
    with pytest.raises(ValueError, match=r"net.py:Net trains in one process, got 2: start it without torchrun"):
        net(folder)
