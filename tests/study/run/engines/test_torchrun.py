"""Training that torchrun spreads over processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.record.store import load_runs
from proxmom.study.run.runner import run_study
from tests.started import as_torchrun, commands

TRAINING = """\
[study]
name = "together"
claim = "for tests"
points = 1
steps = 12
seeds = 1
schedule = "linear"
reference = "AdamW"

[[problem]]
kind = "mlp"
hidden = 8
batch = {batch}

[[method]]
name = "AdamW"
torch = "torch.optim:AdamW"
lr = 0.01

[[method]]
name = "adaptive"
rule = "AdaptiveMemory"
metric = "Adam"
lr = 0.01
"""


THREADS_LEFT = """\
import sys
from pathlib import Path
from proxmom.cli import main

main(sys.argv[1:], standalone_mode=False)
if sys.platform.startswith("linux"):
    tasks = Path("/proc/self/task").iterdir()
    print("left:", [name for task in tasks if "gloo" in (name := (task / "comm").read_text())])
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What torchrun says of a study trained by two processes, and where that study is."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("together")
    (folder / "study.toml").write_text(TRAINING.format(batch=64))
    (folder / "threads_left.py").write_text(THREADS_LEFT)
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [folder / "threads_left.py", "run", folder / "study.toml", "--out", folder / "two"]
    return subprocess.run([*start, *map(str, command)], capture_output=True, text=True, timeout=300), folder


def test_two_processes_train_together_as_one_does(together: Any, tmp_path: Path) -> None:
    done, folder = together
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1  # one of them writes and prints
    two = {run.key: run for run in load_runs(folder / "two")}
    one = {run.key: run for run in load_runs(run_study(folder / "study.toml", tmp_path / "one", jobs=1, quiet=True))}
    assert two.keys() == one.keys()
    for key, run in one.items():
        assert (run.status, two[key].status) == ("finished", "finished")
        assert two[key].final == pytest.approx(run.final, rel=1e-6)
        assert two[key].curve()["validation"] == pytest.approx(run.curve()["validation"], rel=1e-6)
        assert two[key].provenance["processes"] == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are looked up in /proc")
def test_no_thread_of_the_connection_is_left_that_could_abort_while_python_shuts_down(together: Any) -> None:
    done, _ = together
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("left: []") == 2


ONE_FAILS = """\
import importlib
import os
import sys
from datetime import timedelta
from proxmom.cli import main
from proxmom.study.run import torchrun

train = importlib.import_module("proxmom.study.training.train")
torchrun.GRACE = timedelta(seconds=1)
step = train.take_step
taken = []

def fail(optimizer, loss):
    taken.append(step(optimizer, loss))
    if len(taken) == 5 and os.environ["RANK"] == sys.argv[1]:
        raise MemoryError("no room for the fifth step")

train.take_step = fail
main(sys.argv[2:])
"""


def test_a_process_that_fails_alone_ends_the_others_and_the_run_has_no_result(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (file := tmp_path / "study.toml").write_text(TRAINING.format(batch=64))
    (script := tmp_path / "one_fails.py").write_text(ONE_FAILS)
    for done in commands([script, 1, "run", file, "--out", tmp_path / "out"], as_torchrun(2), tmp_path):
        assert done.returncode == 1, done.stderr
        assert (
            "AdamW: this run failed in some of the processes, not in all: "
            "process 1: MemoryError: no room for the fifth step. It has no result" in done.stderr
        )
    assert not load_runs(tmp_path / "out")


def test_what_torchrun_refuses_is_said_once_before_anything_is_written(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "study.toml"
    file.write_text(TRAINING.format(batch=63))
    done = commands(["-m", "proxmom", "run", file, "--out", tmp_path / "out"], as_torchrun(2), tmp_path)
    assert done[0].returncode == 1
    assert (
        "".join(one.stderr for one in done).count("line 10: batch must be a multiple of the 2 processes, got 63") == 1
    )
    assert not (tmp_path / "out").exists()


def test_what_torchrun_cannot_spread(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from proxmom.study.run.torchrun import Torchrun

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(StudyError, match="this study does not train: start it without torchrun, where --jobs"):
        Torchrun().check(load_study(study()))
    file = tmp_path / "training.toml"
    file.write_text(TRAINING.format(batch=64).replace('"mlp"\nhidden = 8', '"logistic"'))
    with pytest.raises(StudyError, match="line 10: a logistic problem is trained by one process: leave torchrun out"):
        Torchrun().check(load_study(file))
