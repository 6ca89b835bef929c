"""What the tests of engines share: a study, and commands that play SLURM."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxmom.cli import main
from proxmom.study.record.store import load_runs
from proxmom.study.run import cluster

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="neither SLURM nor locks there")
STUDY = """\
[study]
name = "jobs"
claim = "for tests"
points = {points}
max_evaluations = 40
target = 1e-12
reference = "gradient"

[[problem]]
kind = "quadratic"
condition = [10, 100]
n = 8

[[method]]
name = "gradient"
rule = "my_rules.py:Mine"
search = {{lr = {{low = 0.5, high = 1.5, scale = "log"}}}}
"""
RULES = """
import os, signal, time
from pathlib import Path
here, until = Path(__file__).parent, time.monotonic() + 60
class Mine:
    def planes(self, now):
        while now.step > 2 and (here / "held").exists() and time.monotonic() < until:
            time.sleep(0.05)
        if now.step > 2 and (here / "deadly").exists():
            (here / "deadly").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return (now.gradient_plane,)
"""


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """A file of 2 x `points` runs; a file "held" beside it holds them up, "deadly" the first to see it."""

    def write(points: Any = 1) -> Any:
        (tmp_path / "my_rules.py").write_text(RULES)
        file = tmp_path / "study.toml"
        file.write_text(STUDY.format(points=points))
        return file

    return write


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "EVERY", 0.05)
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)


def outcomes(folder: Any) -> Any:
    return {run.key: (run.status, run.evaluations, run.best_gap, run.message) for run in load_runs(folder)}


def proxmom(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def until(condition: Any, seconds: Any = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


SLURM = r"""
import json, os, re, signal, subprocess, sys, threading, time
from pathlib import Path
home, name, arguments = Path(os.environ["FAKE_SLURM"]), Path(sys.argv[0]).name, sys.argv[1:]
def say(job, state):
    (home / f"{job}.state").write_text(state)
if name == "sbatch":
    script = Path(arguments[-1]).read_text()
    number = str(int(time.time() * 100) % 10**9)
    (home / f"{number}.sh").write_text(script)
    array = re.search(r"--array=0-(\d+)%(\d+)", script)
    tasks = [f"{number}_{index}" for index in range(int(array[1]) + 1)] if array else [number]
    for task in tasks:
        say(task, "PENDING")
    home_and_tasks = [str(number), array[2] if array else "1", *tasks]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    subprocess.Popen([sys.executable, str(home / "slurmd"), *home_and_tasks], **quiet)
    print(f"Submitted batch job {number}")
elif name == "slurmd":
    number, most, *tasks = arguments
    room = threading.Semaphore(int(most))
    def run(task):
        with room:
            index = task.partition("_")[2]
            array = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index} if index else {}
            one = {key: "0" for key in ("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID")}
            one |= {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
            say(task, "RUNNING")
            command = ["bash", str(home / f"{number}.sh")]
            process = subprocess.Popen(command, env={**os.environ, **one, **array}, start_new_session=True)
            (home / f"{task}.pid").write_text(str(process.pid))
            code = process.wait()
            if "CANCELLED" not in (home / f"{task}.state").read_text():
                say(task, "FAILED" if code else "COMPLETED")
    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
elif name == "srun":
    files = dict(zip(arguments[1:5:2], arguments[2:5:2]))
    values = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID", "%t": "SLURM_PROCID"}
    def opened(path):
        for key, variable in values.items():
            path = path.replace(key, os.environ.get(variable, ""))
        return open(path, "a")
    sys.exit(subprocess.call(arguments[5:], stdout=opened(files["--output"]), stderr=opened(files["--error"])))
elif name == "sacct":
    print("JobID|State|NodeList")
    for file in home.glob("*.state"):
        print(f"{file.stem}|{file.read_text()}|here")
elif name == "scancel":
    for file in home.glob(f"{arguments[0]}*.state"):
        file.write_text("CANCELLED by 0")
        if (pid := file.with_suffix(".pid")).exists():
            os.killpg(int(pid.read_text()), signal.SIGKILL)
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder with the commands of SLURM on the PATH."""
    home = tmp_path / "slurm"
    home.mkdir()
    for name in ("sbatch", "slurmd", "srun", "sacct", "scancel"):
        command = home / name
        command.write_text(f"#!{sys.executable}\n{SLURM}")
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    return home
