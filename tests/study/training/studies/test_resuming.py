"""Training studies that were killed do the rest."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from proxmom.study import training
from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.record import store
from proxmom.study.record.run import Ending
from proxmom.study.record.store import RunWriter
from proxmom.study.run import progress, runner
from proxmom.study.run.runner import run_study
from tests.started import commands, context
from tests.study.training.studies.conftest import CONTROLLED, NETWORK, SMALL, WILD, by_row, outcomes, run, touched


def test_nothing_is_run_twice(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run(study(), tmp_path / "out")
    before = touched(out)
    monkeypatch.setattr(training, "build_task", lambda *_, **__: pytest.fail("nothing to build"))
    run(study(), out)
    renamed = SMALL.replace('"adaptive"', '"AM"').replace("SGD", "S").replace("optim:S", "optim:SGD")
    run(study(renamed), out)
    assert touched(out) == before
    assert {method for method, _ in by_row(out)} == {"AM", "S", "Adam"}


@pytest.mark.parametrize(
    ("old", "new", "more"),
    [
        ("seeds = 2", "seeds = 3", 3),
        ("[[method]]", WILD.lstrip().replace("1e9", "1e-3") + "\n[[method]]", 2),
        ("[[problem]]", NETWORK + "[[problem]]", 12),
        ("batch = 16", "batch = [16, 32]", 12),
        ("momentum = 0.9", "momentum = 0.8", 5),
        ("steps = 20", "steps = 21", 12),
        ('"cosine"', '"linear"', 10),  # Adam has a schedule of its own
        ("points = 3", "points = 3\nseed = 1", 10),
    ],
    ids=lambda value: str(value).splitlines()[0],
)
def test_what_is_new_runs_its_own_cells_only(study: Any, tmp_path: Path, old: Any, new: Any, more: Any) -> None:
    out = run(study(), tmp_path / "out")
    before, known = touched(out), outcomes(out)
    run(study(SMALL.replace(old, new, 1)), out)
    after = touched(out)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + more
    run(study(), out)
    assert touched(out) == after
    assert outcomes(out) == known


def test_more_points_repeat_the_final_runs_only_of_another_best_one(study: Any, tmp_path: Path) -> None:
    out = run(study(), tmp_path / "out")
    before = touched(out)
    run(study(SMALL.replace("points = 3", "points = 4")), out)
    changed = [m for m in ("adaptive", "SGD") if by_row(out)[m, "final"][0].point_index == 3]
    assert len(touched(out)) == len(before) + 2 + 2 * len(changed)


KILLED = """
import functools, json, os, random, signal, sys, time
from pathlib import Path
from proxmom.study.run import runner
from proxmom.study import training

runner.Worker = functools.partial(runner.Worker, checkpoint_every=0.05)
out = Path({out!r})

def start():
    if (child := os.fork()) == 0:
        runner.run_study({file!r}, out, jobs=1, quiet=True)
        os._exit(0)
    return child

def files(name):
    return list(out.glob(f"runs/*/{{name}}"))

random.seed(0)
seen, checkpoints = [], 0
for more in range(4):
    child = start()
    while (len(files("done.json")) < more or not files("checkpoint.pt")) and not os.waitid(
        os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    checkpoints += len(files("checkpoint.pt"))
    seen.append({{file.parent.name: file.stat().st_mtime_ns for file in files("done.json")}})
assert os.waitpid(start(), 0)[1] == 0
print(json.dumps({{"seen": seen, "checkpoints": checkpoints}}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_study_that_is_killed_again_and_again_ends_as_one_that_is_not(study: Any, tmp_path: Path) -> None:
    head, *_ = CONTROLLED.split('[[method]]\nname = "SGD"')
    text = head.replace('"logistic"\nbatch = 16', '"mlp"\nhidden = 8').replace("steps = 20", "steps = 300")
    text = text.replace("points = 3", "points = 2").replace("seeds = 2", "seeds = 1")
    file = study(text.replace('reference = "SGD"', 'reference = "adaptive"'))
    out = tmp_path / "killed"
    (script := tmp_path / "killed.py").write_text(KILLED.format(out=str(out), file=str(file)))
    [done] = commands([script], [{}], tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert outcomes(out) == outcomes(run(file, tmp_path / "whole"))
    assert all(seen.items() <= touched(out).items() for seen in told["seen"])  # no finished run was repeated
    assert len(told["seen"][-1]) > 0
    assert told["checkpoints"] > 0
    assert not list(out.glob("runs/*/checkpoint.pt"))


def test_a_writer_goes_on_where_there_is_a_checkpoint_and_starts_afresh_where_there_is_none(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with RunWriter(directory, {"key": "k"}) as writer:
        writer.record({"step": 1, "validation": math.inf, "beta": [0.5, math.nan]})
        writer.record({"step": 2, "validation": 1.0, "beta": None})
    (directory / "checkpoint.pt").write_text("x")
    (directory / "checkpoint.pt.1.tmp").write_text("x")
    with RunWriter(directory, {"key": "k"}) as writer:
        assert len((directory / "metrics.jsonl").read_text().splitlines()) == 2
        assert store.cut_records(directory, 1)
        writer.record({"step": 3})
        writer.finish(Ending("finished", 3, 1.0, 0.1, "", final={"validation loss": math.nan}))
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "validation": None, "beta": [0.5, None]}, {"step": 3}]
    assert {file.name for file in directory.iterdir()} == {"run.json", "metrics.jsonl", "done.json"}
    with RunWriter(directory, {"key": "k"}):
        assert (directory / "metrics.jsonl").read_text() == ""


def test_records_that_a_checkpoint_knows_may_be_lost(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert store.cut_records(tmp_path, 2)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert not store.cut_records(tmp_path, 3)
    assert file.read_text() == ""
    assert store.cut_records(tmp_path, 0)
    assert store.cut_records(tmp_path / "none", 0)


def _hold(directory: Any, held: Any, release: Any) -> None:
    with store.locked(directory):
        held.set()
        release.wait(30)
        (directory / "done.json").write_text("{}")


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_a_run_that_another_process_has_is_waited_for_and_not_repeated(study: Any, tmp_path: Path) -> None:
    cell = next(plan(load_study(study())))
    worker = runner.Worker(tmp_path, load_study(study()), None, ["logistic"], {})
    processes = context()
    held, release = processes.Event(), processes.Event()
    other = processes.Process(target=_hold, args=(store.run_directory(tmp_path, cell.key), held, release))
    other.start()
    assert held.wait(60)
    release.set()
    with worker.writing(cell) as writer:
        assert writer is None
    other.join()
    assert (store.run_directory(tmp_path, cell.key) / "done.json").read_text() == "{}"


def test_the_bar_counts_steps(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.01)
    build = training.build_task
    monkeypatch.setattr(training, "build_task", lambda *a, **k: time.sleep(0.05) or build(*a, **k))
    run_study(study(), tmp_path / "out", jobs=1, quiet=False)
    errors = capsys.readouterr().err
    assert "step/s" in errors or "s/step" in errors
    assert " of 8 runs" in errors  # those that are ready: 3 points of two methods, and two seeds of the third
    assert "/160 " in errors
