"""Jobs of this computer, submitted as to a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Never

import pytest

from proxmom.study.record.store import aborted_runs, load_runs
from proxmom.study.run.cluster import Cluster
from proxmom.study.run.runner import run_study
from tests.study.run.engines.conftest import outcomes, proxmom, until


def started(folder: Any) -> Any:
    return {run.key: run.provenance["started"] for run in load_runs(folder)}


def watched(engine: Any, held: Path) -> list[Any]:
    """What the engine submits from now on; runs are held up until it has looked for the jobs of earlier starts."""
    submit, submitted = engine._submit, list[Any]()

    def after_a_look(*arguments: Any) -> Any:
        held.unlink(missing_ok=True)
        submitted.extend(more := submit(*arguments))
        return more

    engine._submit = after_a_look
    return submitted


def test_jobs_make_the_runs_that_processes_make(study: Any, tmp_path: Path) -> None:
    here = run_study(study(), tmp_path / "here", jobs=1, quiet=True)
    result = proxmom("run", study(), "--out", tmp_path / "jobs", "--executor", "local", "--jobs", 2)
    assert result.exit_code == 0, result.output
    assert outcomes(tmp_path / "jobs") == outcomes(here)
    assert not (tmp_path / "jobs/jobs").exists()  # nothing went wrong, so nothing is left to look at


def test_jobs_of_a_start_that_was_killed_are_waited_for(study: Any, tmp_path: Path) -> None:
    (tmp_path / "held").touch()
    file, out = study(), tmp_path / "out"
    command = [sys.executable, "-m", "proxmom", "run", str(file), "--out", str(out), "--executor", "local"]
    first = subprocess.Popen([*command, "--jobs", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: len(list(out.glob("runs/*/run.json"))) == 2)
    first.kill()
    first.wait()
    assert not list(out.glob("runs/*/done.json"))
    began = {
        file.parent.name: json.loads(file.read_text())["provenance"]["started"] for file in out.glob("runs/*/run.json")
    }
    with (out / "jobs/submitted.jsonl").open("a") as file_of_jobs:
        file_of_jobs.write('{"kind": "lo')  # as a kill may leave it
    engine = Cluster("local", 2)
    submitted = watched(engine, tmp_path / "held")
    run_study(file, out, quiet=True, engine=engine)
    assert not submitted
    assert started(out) == began
    assert {run.status for run in load_runs(out)} == {"missed"}


@pytest.mark.parametrize("left", ["", '{"kind": "lo'])
def test_jobs_of_a_start_that_was_killed_before_it_wrote_them_down_are_waited_for(
    study: Any, tmp_path: Path, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "held").touch()
    file, out = study(), tmp_path / "out"

    def killed(_: Any, folder: Path, submitted: Any) -> Never:
        if left:
            (folder / "submitted.jsonl").write_text(left)
        raise SystemExit  # nothing catches it on its way, as nothing runs after a kill

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "_write_down", killed)
        with pytest.raises(SystemExit):
            run_study(file, out, quiet=True, engine=Cluster("local", 2))
    engine = Cluster("local", 2)
    submitted = watched(engine, tmp_path / "held")
    run_study(file, out, quiet=True, engine=engine)
    assert not submitted
    assert [run.status for run in load_runs(out)] == ["missed"] * 2


def test_a_job_of_an_earlier_start_is_seen_where_lines_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")  # fewer than an interpreter's path may have
    command = [sys.executable, "-c", "import time; time.sleep(60)", "submitit"]
    with subprocess.Popen(command) as process:
        assert Cluster("local")._there(SimpleNamespace(job_id=str(process.pid)))
        process.kill()
    assert not Cluster("local")._there(SimpleNamespace(job_id=str(process.pid)))


def test_a_job_that_is_gone_is_replaced(study: Any, tmp_path: Path) -> None:
    file, out = study(), tmp_path / "out"
    keys = list(outcomes(run_study(file, tmp_path / "here", jobs=1, quiet=True)))
    (out / "jobs").mkdir(parents=True)
    (out / "jobs/submitted.jsonl").write_text(json.dumps({"kind": "local", "job": "999999999", "keys": keys}) + "\n")
    run_study(file, out, quiet=True, engine=Cluster("local", 2))
    assert set(outcomes(out)) == set(keys)


def test_a_run_that_ends_its_job_is_no_result_and_the_others_go_on(study: Any, tmp_path: Path) -> None:
    (tmp_path / "deadly").touch()
    file, out = study(points=4), tmp_path / "out"
    engine = Cluster("local", 1)
    run_study(file, out, quiet=True, engine=engine)  # two runs a job: one dies, and the other is submitted again
    [dead] = aborted_runs(out)
    assert [run.status for run in load_runs(out)] == ["missed"] * 7
    assert dead.message == "the job is FINISHED, and its process ended: killed, or out of memory"
    assert list((out / "jobs").glob("*_log.err"))  # what it said is kept
    run_study(file, out, quiet=True, engine=engine)
    assert [run.status for run in load_runs(out)] == ["missed"] * 8


def test_a_job_that_cannot_begin_says_why(study: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/runs").write_text("in the way")
    with pytest.raises(ChildProcessError, match=r"job \d+ could not do its runs: .*Error.* \(.*_log.err\)"):
        run_study(study(), tmp_path / "out", quiet=True, engine=Cluster("local", 1))
