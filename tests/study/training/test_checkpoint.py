"""Runs that are killed go on from their checkpoint as if they had not been."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from proxmom.study.record.run import METRICS
from proxmom.study.record.store import CHECKPOINT
from tests.started import context
from tests.study.training.conftest import AMADAMW, SGD, Watched, check_that_it_goes_on, flat, run, stop, tiny

METHODS: dict[str, dict[str, Any]] = {
    "AMSGD": {"torch": "AMSGD", "lr": 0.3},
    "AMAdamW": AMADAMW,
    "SGD": {**SGD, "arguments": {"momentum": 0.9}},
    "AdamW": {"torch": "torch.optim:AdamW", "lr": 0.01},
    "MoMo": {"rule": "MoMo", "arguments": {"lower_bound": 0.0}, "lr": 1.0},
}
SAVED, KILLED = 12, 27


class Dies(Watched):
    """Waits once, so that a checkpoint is due, and some steps later its process is killed."""

    def gradient(self, step: int) -> Tensor:
        if step == SAVED:
            time.sleep(0.5)
        if step == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().gradient(step)


def dies(directory: Path) -> None:
    """All methods, each in a process of its own; what they import is there already."""
    run(AMADAMW, tiny("mlp"), directory / "imports", steps=1)
    for name, method in METHODS.items():
        if child := os.fork():
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        else:
            run(method, Dies(tiny("mlp")), directory / name, steps=60, checkpoint_every=0.5)


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    process = context().Process(target=dies, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    for name, method in METHODS.items():
        left = (tmp_path / name / METRICS).read_text().splitlines()
        known = torch.load(tmp_path / name / CHECKPOINT)
        assert known["step"] > SAVED
        assert known["rows"] <= len(left) == 18
        task, whole = Watched(tiny("mlp")), tiny("mlp")
        found, rows = run(method, task, tmp_path / name, steps=60, test=True)
        expected, all_rows = run(method, whole, tmp_path / f"{name}, whole", steps=60, test=True)
        assert len(task.splits) < 41  # the rows before the checkpoint were not made again
        assert without_seconds(rows) == without_seconds(all_rows)
        assert torch.equal(flat(task), flat(whole))
        assert found.final == expected.final
        assert (found.mean_beta, found.mean_step, found.capped) == (
            expected.mean_beta,
            expected.mean_step,
            expected.capped,
        )
        assert (found.evaluations, found.best_gap) == (60, expected.best_gap)
        assert rows[0]["seconds"] == json.loads(left[0])["seconds"]
        assert found.seconds > 0.5  # what passed before the checkpoint counts


@pytest.mark.parametrize("harm", ["truncated", "halved", "of one byte", "no checkpoint", "rows missing"])
def test_what_is_left_of_a_run_without_its_checkpoint_is_not_used(harm: str, tmp_path: Path) -> None:
    stop(SGD, tmp_path / "a")
    file, metrics = tmp_path / "a" / CHECKPOINT, tmp_path / "a" / METRICS
    assert file.is_file()
    if harm in (cuts := {"truncated": -100, "halved": file.stat().st_size // 2, "of one byte": 1}):
        file.write_bytes(file.read_bytes()[: cuts[harm]])
    elif harm == "rows missing":
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    else:
        file.unlink()
    rows = run(SGD, tiny("mlp"), tmp_path / "a")[1]
    assert without_seconds(rows) == without_seconds(run(SGD, tiny("mlp"), tmp_path / "b")[1])


class Noisy(torch.optim.SGD):
    """Adds noise."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.add_(1e-3 * torch.randn_like(p))
        return found


@pytest.mark.parametrize("path", [f"{__name__}:Noisy", "schedulefree:AdamWScheduleFree"])
def test_an_optimizers_random_numbers_and_modes_go_on_where_they_were(path: str, tmp_path: Path) -> None:
    if path.startswith("schedulefree"):
        pytest.importorskip("schedulefree")
    method = {"torch": path, "lr": 0.01}
    check_that_it_goes_on(method, tmp_path)
