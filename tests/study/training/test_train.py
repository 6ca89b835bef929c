"""Training runs: what they record, and how they end."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from proxmom.study.problems.collection import build_problem
from proxmom.study.training import (
    factor,
    make_optimizer,
)
from tests.study.training.conftest import AMADAMW, SGD, Watched, run, settings, tiny


@pytest.mark.parametrize("kind", ["mlp", "logistic"])
def test_heavy_ball_is_sgd_with_dampening(kind: str, tmp_path: Path) -> None:
    rule = {"rule": "HeavyBall", "arguments": {"beta": 0.8}, "lr": 0.2}
    sgd = {"torch": "torch.optim:SGD", "arguments": {"momentum": 0.8, "dampening": 0.8}, "lr": 0.2}
    one, two = (run(method, tiny(kind), tmp_path / str(i), steps=80)[1] for i, method in enumerate((rule, sgd)))
    tolerance = 1e-10 if kind == "logistic" else 1e-4
    for name in ("step", "train", "validation"):
        assert [row[name] for row in one] == pytest.approx([row[name] for row in two], rel=tolerance)
    assert one[-1]["validation"] < 0.9 * one[0]["validation"]


def test_rows_and_finals(tmp_path: Path) -> None:
    task = tiny("mlp")
    initial = task.evaluate("validation")["loss"]
    found, rows = run(AMADAMW, task, tmp_path, steps=90, test=True)
    assert (found.status, found.evaluations, found.message) == ("finished", 90, "")
    assert len(rows) == 40
    assert rows[-1]["step"] == 90
    assert {b["step"] - a["step"] for a, b in itertools.pairwise(rows)} == {2, 3}
    assert found.best_gap == min(row["validation"] for row in rows)
    assert found.final["initial loss"] == initial
    assert found.final["validation loss"] == rows[-1]["validation"] == task.evaluate("validation")["loss"]
    assert found.final["validation accuracy"] == task.evaluate("validation")["accuracy"] > 0.5
    assert found.final["test loss"] == task.evaluate("test")["loss"]
    assert found.final["test accuracy"] == task.evaluate("test")["accuracy"]
    assert all(len(row["beta"]) == 6 for row in rows)  # one for each tensor
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert found.seconds == rows[-1]["seconds"]


def test_training_losses_are_means_since_the_last_row_at_the_scheduled_lr(tmp_path: Path) -> None:
    """A run beside one by hand: 80 steps, so two for each row."""
    rows = run({**SGD, "warmup": 0.25}, tiny("mlp"), tmp_path, steps=80, schedule="linear", warmup=0.0)[1]
    task, losses = tiny("mlp"), []
    optimizer = torch.optim.SGD(task.parameters.values(), lr=1.0)
    for step in range(80):
        optimizer.param_groups[0]["lr"] = 0.1 * ((step + 1) / 20 if step < 20 else 1 - (step - 20) / 60)
        losses.append(float(task.gradient(step)))
        optimizer.step()
    means = np.reshape(losses, (40, 2)).mean(axis=1)
    assert [row["train"] for row in rows] == pytest.approx(list(means), rel=1e-5)
    assert rows[-1]["beta"] is None


def test_the_test_split_is_looked_at_only_if_asked_for_and_once(tmp_path: Path) -> None:
    task = Watched(tiny("mlp"))
    found = run(SGD, task, tmp_path / "a")[0]
    assert set(task.splits) == {"validation"}
    assert set(found.final) == {"initial loss", "validation loss", "validation accuracy"}
    task = Watched(tiny("mlp"))
    run(SGD, task, tmp_path / "b", test=True)
    assert task.splits.count("test") == 1
    assert task.splits[-1] == "test"


def test_evaluations_and_checkpoints_are_not_on_the_clock(tmp_path: Path) -> None:
    task, started = Watched(tiny("mlp"), pause=0.05), time.perf_counter()
    found = run(SGD, task, tmp_path, checkpoint_every=0.0)[0]
    assert 0 < found.seconds < time.perf_counter() - started - 1


def test_diverged_runs_are_flagged(tmp_path: Path) -> None:
    for i, method in enumerate(({**SGD, "lr": 1e4}, {"torch": "AMSGD", "lr": 1e30}, {**AMADAMW, "lr": 1e5})):
        found, rows = run(method, tiny("mlp"), tmp_path / str(i), steps=400, test=True)
        assert found.status == "diverged"
        assert found.evaluations == rows[-1]["step"] < 400
        assert found.message
        assert "initial loss" in found.final
    found = run({**SGD, "lr": 1e6}, tiny("least_squares"), tmp_path / "convex", steps=400)[0]
    assert found.status == "diverged"


class Loses(Watched):
    """A task with a NaN in one batch."""

    def gradient(self, step: int) -> Tensor:
        return self.task.gradient(step) * (math.nan if step == 7 else 1.0)


def test_a_single_loss_that_is_not_finite_ends_a_run(tmp_path: Path) -> None:
    found, rows = run(SGD, Loses(tiny("mlp")), tmp_path, steps=40)
    assert (found.status, found.message, len(rows)) == ("diverged", "a batch loss is not finite, by step 8", 8)
    assert rows[-1]["train"] is None


def test_a_method_that_raises_has_failed(tmp_path: Path) -> None:
    momo = {"rule": "MoMo", "arguments": {"lower_bound": "optimum"}, "lr": 1.0}
    assert run(momo, tiny("logistic"), tmp_path / "a")[0].status == "finished"
    found = run(momo, tiny("mlp"), tmp_path / "b")[0]
    assert (found.status, found.evaluations) == ("failed", 0)
    assert found.message.startswith("ValueError: lower_bound = 'optimum' needs")
    assert run(SGD, tiny("mlp"), tmp_path / "c", schedule="steps")[0].message.startswith("ValueError: schedule must be")


def test_means_over_the_steps(tmp_path: Path) -> None:
    heavy = run({"rule": "HeavyBall", "arguments": {"beta": 0.7}, "lr": 0.2}, tiny("mlp"), tmp_path / "a", steps=30)[0]
    assert (heavy.mean_beta, heavy.mean_step, heavy.capped) == pytest.approx((0.7, 0.2, 1.0))
    momo = {"rule": "MoMo", "arguments": {"lower_bound": 0.0}, "lr": 30.0}
    adaptive = {"rule": "AdaptiveMemory", "arguments": {"beta_max": 0.9}, "lr": 0.2, "scope": "tensor"}
    for i, method in enumerate((momo, adaptive)):
        found = run(method, tiny("mlp"), tmp_path / str(i), steps=30)[0]
        task = tiny("mlp")
        optimizer = make_optimizer(settings(method), {}, task.parameters.values())
        betas, kept = [], []
        for step in range(30):
            optimizer.param_groups[0]["lr"] = method["lr"] * factor("cosine", 0.0, step, 30)
            loss = task.gradient(step)
            optimizer.step(lambda loss=loss: loss)
            last = optimizer.diagnostics()
            betas.append(last["beta"].tolist())
            kept.append(1 - float(last["weights"][0, -1]) if method is momo else 1.0)
        assert found.mean_beta == pytest.approx(np.mean(betas), rel=1e-6)
        assert found.mean_step == pytest.approx(method["lr"] * np.mean(kept), rel=1e-5)
        assert found.capped == pytest.approx(np.mean(np.array(betas) >= 0.9 * (1 - 1e-6)))
        assert found.mean_step < method["lr"] or method is adaptive
    sgd = run(SGD, tiny("mlp"), tmp_path / "c")[0]
    assert (sgd.mean_beta, sgd.mean_step, sgd.capped) == (None, None, None)


class TwoFaced(torch.optim.SGD):
    """Evaluates other weights than it trains, as schedule-free methods do."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.mode = "train"

    def step(self, closure: Any = None) -> Any:
        assert self.mode == "train"
        return super().step(closure)

    def _move(self, mode: str, by: float) -> None:
        if mode != self.mode:
            self.mode = mode
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.add_(by)

    def train(self) -> None:
        self._move("train", -1.0)

    def eval(self) -> None:
        self._move("eval", 1.0)


def test_optimizers_with_modes_are_evaluated_in_theirs(tmp_path: Path) -> None:
    task = tiny("logistic")
    found = run({"torch": f"{__name__}:TwoFaced", "lr": 1e-12}, task, tmp_path, test=True)[0]
    assert found.status == "finished"
    assert float(task.parameters["x"].detach().abs().max()) < 1e-9
    problem = build_problem("logistic", None)
    one = (problem.fun(np.ones(problem.x0.size))[0] - problem.optimum) / (problem.fun(problem.x0)[0] - problem.optimum)
    assert found.final["validation loss"] == pytest.approx(one)
    assert found.final["test loss"] == pytest.approx(one)


def test_torch_is_left_as_it_was(tmp_path: Path) -> None:
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    seen = []

    class Looks(Watched):
        def gradient(self, step: int) -> Tensor:
            seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
            return super().gradient(step)

    try:
        run(SGD, Looks(tiny("mlp")), tmp_path)
        assert set(seen) == {(1, True)}
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.equal(torch.get_rng_state(), random)
    finally:
        torch.set_num_threads(threads)
