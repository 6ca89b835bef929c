"""Faults of the machine are told from those of the method."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.record import faults, store
from proxmom.study.record.store import aborted_runs, load_runs
from proxmom.study.report.results import Losses
from proxmom.study.report.write import terminal_table, write_report
from proxmom.study.run.runner import run_study
from tests.study.record.conftest import COUNTS, FIXED, GRADIENT, SEARCHED, TRAINING, proxmom, run

BY_THE_MACHINE = {
    "disk": 'raise OSError(errno.ENOSPC, "No space left on device")',
    "memory": 'raise MemoryError("too large")',
    "GPU memory": 'raise torch.OutOfMemoryError("CUDA out of memory")',
    "a wrapped cause": 'raise ValueError("no data") from ConnectionResetError("gone")',
}
BY_THE_METHOD = {
    "a bug": 'raise RuntimeError("no third step")',
    "a value": 'raise ValueError("no")',
    "arithmetic": "1 / 0",
}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "aborted"),
        (FileNotFoundError("gone"), "aborted"),
        (MemoryError(), "aborted"),
        (torch.OutOfMemoryError("CUDA out of memory"), "aborted"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "aborted"),
        (RuntimeError("shapes do not fit"), "failed"),
        (ValueError("out of memory is a word"), "failed"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_whose_fault_an_error_is(error: Exception, status: str) -> None:
    assert faults.status_of(error) == status


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ("{SIGKILL(-9)}", "aborted"),
        ("{SIGTERM(-15)}", "aborted"),
        ("", "aborted"),
        ("{SIGSEGV(-11)}", "failed"),
        ("{SIGABRT(-6)}", "failed"),
        ("{EXIT(3)}", "failed"),
    ],
)
def test_whose_fault_the_end_of_a_process_is(codes: str, status: str) -> None:
    assert faults.status_of_process(codes) == status


@pytest.mark.parametrize("kind", [COUNTS, TRAINING], ids=["counts", "training"])
@pytest.mark.parametrize("fault", BY_THE_MACHINE)
def test_what_the_machine_ends_is_in_no_table_and_is_run_again(study: Any, kind: str, fault: str) -> None:
    file = study(BY_THE_MACHINE[fault], kind)
    out = run(file)
    others = {run.key: run.directory.joinpath("done.json").stat().st_mtime_ns for run in load_runs(out)}
    lost = aborted_runs(out)
    assert {run.method for run in lost} == {"mine"}
    assert {run.method for run in load_runs(out)} == {"gradient"}
    planned = len(list(plan(load_study(file), folder=out)))
    text = f"{len(lost)} of the {planned} runs of s are not finished; run it again."
    for shown in (terminal_table([out]), write_report([out]).read_text()):
        assert text in shown
        assert "mine on" in shown
    (file.parent / "broken").unlink()
    run(file)
    assert not aborted_runs(out)
    assert len(load_runs(out)) == planned
    assert {run.key: run.directory.joinpath("done.json").stat().st_mtime_ns for run in load_runs(out)}.items() >= (
        others.items()
    )


def test_a_seed_that_the_machine_ended_is_missing_and_one_that_the_method_ended_is_the_initial_loss(study: Any) -> None:
    tables = {}
    for name, raises in {"aborted": BY_THE_MACHINE["disk"], "failed": BY_THE_METHOD["a bug"]}.items():
        file = study(raises)
        out = run_study(file, file.parent / name, jobs=1, quiet=True)
        keys = [run.key for run in load_runs(out) + aborted_runs(out) if run.method == "mine"]
        done = store.run_directory(out, keys[0]) / "done.json"
        whole = next(run for run in load_runs(out) if run.method == "gradient")
        done.write_text((whole.directory / "done.json").read_text())  # one seed is whole
        tables[name] = Losses.of(load_runs(out), 12)
    column = tables["failed"].values[0, tables["failed"].methods.index("mine")]
    assert column[1] == pytest.approx(1.0)  # the relative gap at the start
    missing = tables["aborted"].values[0, tables["aborted"].methods.index("mine")]
    assert math.isnan(missing[1])
    assert missing[0] == column[0]
    assert tables["aborted"].lost_seeds[tables["aborted"].problems[0], "mine"] == (0, 0, 1)


def test_points_that_the_machine_ended_do_not_stop_a_study(study: Any) -> None:
    file = study(BY_THE_MACHINE["memory"], more=SEARCHED)
    out = run(file)  # it ends, though no best point can be told
    assert [run.stage for run in aborted_runs(out)] == ["search"] * 3
    assert not [run for run in load_runs(out) if run.method == "mine"]
    (file.parent / "broken").unlink()
    assert [run.stage for run in load_runs(run(file)) if run.method == "mine"] == ["search"] * 3 + ["final"] * 2


def test_the_best_point_is_told_from_those_that_ended(study: Any) -> None:
    file = study(BY_THE_METHOD["a bug"], more=SEARCHED)
    (file.parent / "broken").unlink()
    out = run(file)
    first = next(run for run in load_runs(out) if run.method == "mine")
    store.mark_ended(first.directory, "aborted", "OSError: gone")
    cells = [cell for cell in plan(load_study(file), folder=out) if cell.method.name == "mine"]
    assert all(cell.ready for cell in cells)
    assert {cell.point_index for cell in cells if cell.stage == "final"} <= {1, 2}


@pytest.mark.parametrize(
    ("raises", "more", "status", "said"),
    [
        (BY_THE_MACHINE["disk"], FIXED, 1, "aborted by the machine, to be run again: OSError: [Errno 28] No space"),
        (BY_THE_METHOD["a bug"], FIXED, 1, "failed: RuntimeError: no third step"),
        (BY_THE_MACHINE["memory"], SEARCHED, 1, "2 runs are not finished."),
        ("pass", FIXED, 0, ""),
        ("pass", "lr = 1e9\n", 0, ""),  # what diverges is a result
    ],
)
def test_the_exit_status_says_that_something_failed(
    study: Any, raises: str, more: str, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = study(raises, more=more)
    monkeypatch.chdir(file.parent)
    result = proxmom("run", file, "--out", "out", "--jobs", 1)
    assert result.exit_code == status, result.output
    assert said in result.output
    assert "report: out/report.html" in result.output  # it is written all the same


def test_a_study_of_which_nothing_is_left_says_why(study: Any) -> None:
    file = study(BY_THE_MACHINE["disk"])
    file.write_text(file.read_text().replace(GRADIENT, "").replace('"gradient"', '"mine"'))
    result = proxmom("run", file, "--out", file.parent / "out", "--jobs", 1)
    assert result.exit_code == 1
    assert "has no finished runs. 2 runs of mine on" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["done.json", "run.json", "plan.json"])
def test_a_disk_that_stays_full_ends_the_start_in_one_line_and_the_next_one_does_the_rest(
    study: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write, left = study("pass"), store.write_atomically, [3 if name != "plan.json" else 1]

    def full(target: Path, content: Any) -> None:
        left[0] -= target.name == name
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomically", full)
        result = proxmom("run", file, "--out", file.parent / "out", "--jobs", 1)
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert f"results cannot be written to {file.parent / 'out'} (No space left on device)" in result.output
    kept = set((file.parent / "out").glob("runs/*/done.json"))
    assert proxmom("run", file, "--out", file.parent / "out", "--jobs", 1).exit_code == 0
    assert len(kept) == (2 if name != "plan.json" else 0)
