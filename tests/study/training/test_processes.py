"""Two processes train as one."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch import distributed

from proxmom.study.record.run import METRICS
from proxmom.study.record.store import CHECKPOINT
from proxmom.study.training import (
    build_task,
    describe_task,
    train,
)
from tests.started import start
from tests.study.training.conftest import TINY, flat, run, settings, tiny

SHARED = {
    "mlp": ({"torch": "AMAdamW", "lr": 0.01}, {"shift": 1}),
    "cnn": ({"torch": "AMSGD", "lr": 0.1}, {}),
    "language": ({"rule": "MoMo", "arguments": {"lower_bound": 0.0}, "lr": 1.0}, {}),
}


def shares(rank: int, size: int, store: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    for kind, (method, arguments) in SHARED.items():
        tasks, directory = [tiny(kind, **arguments) for _ in range(2)], Path(folder) / f"{kind}, {rank}"
        directory.mkdir()
        metrics = (directory / METRICS).open("a", buffering=1)
        given = {"schedule": "cosine", "warmup": 0.0, "test": True, "directory": directory}
        for task in tasks:  # the second one goes on from the last checkpoint, which the first process alone has
            found = train(
                settings(method),
                task,
                {},
                steps=6,
                checkpoint_every=0.0 if task is tasks[0] else math.inf,
                record=lambda row, file=metrics: print(json.dumps(row), file=file),
                **given,
            )
            assert (found.status, found.evaluations) == ("finished", 6), found.message
        assert {file.name for file in directory.iterdir()} == {METRICS, CHECKPOINT} if rank == 0 else {METRICS}
        rows = [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]
        assert len(rows) == (6 if rank == 0 else 0)
        assert torch.equal(flat(tasks[0]), flat(tasks[1]))
        torch.save({"flat": flat(task), "rows": rows, "final": dict(found.final)}, directory / "found.pt")
    if rank == 0:  # the others do not take part
        assert describe_task("cnn", None, **TINY["cnn"]).startswith("CNN 2x4, digits")
        assert describe_task("logistic", None, batch=15).endswith("batch 15")
    for kind in ("logistic", "mlp"):
        with pytest.raises(ValueError, match=r"trains in one process, got 2|batch must be a multiple of .* 2, got 15"):
            build_task(kind, seed=0, batch=15)
    distributed.barrier()
    os._exit(0)


@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    start(shares, (2, str(tmp_path / "store"), str(tmp_path)), 2)
    for kind, (method, arguments) in SHARED.items():
        task = tiny(kind, **arguments)
        alone, rows = run(method, task, tmp_path / f"{kind}, alone", steps=6, test=True)
        found, other = (torch.load(tmp_path / f"{kind}, {rank}" / "found.pt") for rank in range(2))
        assert torch.equal(found["flat"], other["flat"])
        torch.testing.assert_close(found["flat"], flat(task), rtol=1e-4, atol=1e-5)
        assert found["final"] == other["final"] == pytest.approx(alone.final, rel=1e-4)
        for name in ("train", "validation"):
            assert [row[name] for row in found["rows"]] == pytest.approx([row[name] for row in rows], rel=1e-4)
