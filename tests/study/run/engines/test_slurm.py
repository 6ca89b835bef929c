"""SLURM, as far as commands of its names can play it."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any, Never

import pytest

from proxmom.study.record.store import load_runs
from proxmom.study.run import cluster
from proxmom.study.run.cluster import Cluster
from proxmom.study.run.runner import run_study
from tests.study.run.engines.conftest import outcomes, proxmom, until


def test_slurm_makes_the_runs_that_processes_make(study: Any, tmp_path: Path, slurm: Any) -> None:
    here = run_study(study(points=2), tmp_path / "here", jobs=1, quiet=True)
    options = ("--slurm", "time=10", "--slurm", "partition=night", "--slurm", "setup=export A=1")
    result = proxmom("run", study(points=2), "--out", tmp_path / "out", "--executor", "slurm", "--jobs", 2, *options)
    assert result.exit_code == 0, result.output
    assert outcomes(tmp_path / "out") == outcomes(here)
    [script] = [file.read_text() for file in slurm.glob("*.sh")]
    for line in ("--array=0-3%2", "--time=10", "--partition=night", "--job-name=proxmom"):
        assert f"#SBATCH {line}\n" in script
    assert "export A=1\n" in script
    assert not list((tmp_path / "out").glob("jobs/*"))


def test_jobs_that_are_cancelled_are_no_results(study: Any, tmp_path: Path, slurm: Any) -> None:
    (tmp_path / "held").touch()
    file, out = study(), tmp_path / "out"

    def cancel() -> None:
        until(lambda: len(list(out.glob("runs/*/metrics.jsonl"))) == 2)
        [script] = slurm.glob("*.sh")
        subprocess.run(["scancel", script.stem], check=True)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(ChildProcessError, match=r"job \d+_0 is CANCELLED.*; job \d+_1 is .*the same command does the"):
        run_study(file, out, quiet=True, engine=Cluster("slurm", options={"time": "10"}))
    canceller.join()
    assert not list(out.glob("runs/*/done.json"))
    (tmp_path / "held").unlink()
    run_study(file, out, quiet=True, engine=Cluster("slurm", options={"time": "10"}))
    assert len(load_runs(out)) == 2


@pytest.mark.parametrize("written", [True, False], ids=["written down", "not written down"])
def test_ctrl_c_leaves_jobs_and_the_next_start_waits_for_them(
    study: Any,
    tmp_path: Path,
    slurm: Any,
    written: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "held").touch()
    file, out = study(), tmp_path / "out"
    engine = Cluster("slurm", options={"time": "10"})

    def interrupted(*_: Any) -> Never:
        until(lambda: len(list(out.glob("runs/*/run.json"))) == 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_over", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_study(file, out, quiet=True, engine=engine)
    assert "Jobs go on: scancel" in capsys.readouterr().err
    if not written:  # as a kill just after the submission leaves it
        (out / "jobs/submitted.jsonl").unlink()
    (tmp_path / "held").unlink()
    run_study(file, out, quiet=True, engine=engine)
    assert len(list(slurm.glob("*.sh"))) == 1  # nothing was submitted again
    assert len(load_runs(out)) == 2


def test_a_job_whose_time_is_up_goes_on_with_the_same_runs() -> None:
    task = cluster._Task(worker=None, problem=None, cells=["cell"])
    assert task.checkpoint().function == task
