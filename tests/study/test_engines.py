"""Engines: jobs of a cluster, and processes that train together, make the runs that one process makes."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from proxmom.cli import main
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.record.store import aborted_runs, load_runs
from proxmom.study.run import cluster, engines
from proxmom.study.run.cluster import Cluster
from proxmom.study.run.runner import run_study

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
here = Path(__file__).parent
class Mine:
    def planes(self, now):
        if (here / "slow").exists():
            time.sleep(0.2)
        if now.step > 2 and (here / "deadly").exists():
            (here / "deadly").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return (now.gradient_plane,)
"""
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


@pytest.fixture
def study(tmp_path):
    """A file of 2 x `points` runs; a file "slow" beside it makes their rule so, "deadly" the first to see it."""

    def write(points=1):
        (tmp_path / "my_rules.py").write_text(RULES)
        file = tmp_path / "study.toml"
        file.write_text(STUDY.format(points=points))
        return file

    return write


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(cluster, "EVERY", 0.05)
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)


def outcomes(folder):
    return {run.key: (run.status, run.evaluations, run.best_gap, run.message) for run in load_runs(folder)}


def started(folder):
    return {run.key: run.provenance["started"] for run in load_runs(folder)}


def proxmom(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- jobs of this computer ------------------------------------------------------------------------------------


def test_jobs_make_the_runs_that_processes_make(study, tmp_path):
    here = run_study(study(), tmp_path / "here", jobs=1, quiet=True)
    result = proxmom("run", study(), "--out", tmp_path / "jobs", "--executor", "local", "--jobs", 2)
    assert result.exit_code == 0, result.output
    assert outcomes(tmp_path / "jobs") == outcomes(here)
    assert not (tmp_path / "jobs/jobs").exists()  # nothing went wrong, so nothing is left to look at


def test_jobs_of_a_start_that_was_killed_are_waited_for(study, tmp_path):
    (tmp_path / "slow").touch()
    file, out = study(), tmp_path / "out"
    command = [sys.executable, "-m", "proxmom", "run", str(file), "--out", str(out), "--executor", "local"]
    first = subprocess.Popen([*command, "--jobs", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: len(list(out.glob("runs/*/metrics.jsonl"))) == 2)
    first.kill()
    first.wait()
    assert not list(out.glob("runs/*/done.json"))
    before = (out / "jobs/submitted.jsonl").read_text()
    began = {
        file.parent.name: json.loads(file.read_text())["provenance"]["started"] for file in out.glob("runs/*/run.json")
    }
    (tmp_path / "slow").unlink()
    (out / "jobs/submitted.jsonl").write_text(before + '{"kind": "lo')  # as a kill may leave it
    submitted = []
    engine = Cluster("local", 2)
    submit = engine._submit
    engine._submit = lambda *arguments: submitted.extend(more := submit(*arguments)) or more
    run_study(file, out, quiet=True, engine=engine)
    assert not submitted
    assert started(out) == began
    assert {run.status for run in load_runs(out)} == {"missed"}


def test_a_job_that_is_gone_is_replaced(study, tmp_path):
    file, out = study(), tmp_path / "out"
    keys = list(outcomes(run_study(file, tmp_path / "here", jobs=1, quiet=True)))
    (out / "jobs").mkdir(parents=True)
    (out / "jobs/submitted.jsonl").write_text(json.dumps({"kind": "local", "job": "999999999", "keys": keys}) + "\n")
    run_study(file, out, quiet=True, engine=Cluster("local", 2))
    assert set(outcomes(out)) == set(keys)


def test_a_run_that_ends_its_job_is_no_result_and_the_others_go_on(study, tmp_path):
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


def test_a_job_that_cannot_begin_says_why(study, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/runs").write_text("in the way")
    with pytest.raises(ChildProcessError, match=r"job \d+ could not do its runs: .*Error.* \(.*_log.err\)"):
        run_study(study(), tmp_path / "out", quiet=True, engine=Cluster("local", 1))


# --- SLURM, as far as commands of its names can play it --------------------------------------------------------

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
def slurm(tmp_path, monkeypatch):
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


def test_slurm_makes_the_runs_that_processes_make(study, tmp_path, slurm):
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


def test_jobs_that_are_cancelled_are_no_results(study, tmp_path, slurm):
    (tmp_path / "slow").touch()
    file, out = study(), tmp_path / "out"

    def cancel():
        until(lambda: len(list(out.glob("runs/*/metrics.jsonl"))) == 2)
        [script] = slurm.glob("*.sh")
        subprocess.run(["scancel", script.stem], check=True)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(ChildProcessError, match=r"job \d+_0 is CANCELLED.*; job \d+_1 is .*the same command does the"):
        run_study(file, out, quiet=True, engine=Cluster("slurm", options={"time": "10"}))
    canceller.join()
    assert not list(out.glob("runs/*/done.json"))
    (tmp_path / "slow").unlink()
    run_study(file, out, quiet=True, engine=Cluster("slurm", options={"time": "10"}))
    assert len(load_runs(out)) == 2


def test_ctrl_c_leaves_jobs_and_the_next_start_waits_for_them(study, tmp_path, slurm, monkeypatch, capsys):
    (tmp_path / "slow").touch()
    file, out = study(), tmp_path / "out"
    engine = Cluster("slurm", options={"time": "10"})

    def interrupted(*_):
        until(lambda: len(list(out.glob("runs/*/run.json"))) == 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_over", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_study(file, out, quiet=True, engine=engine)
    assert "Jobs go on: scancel" in capsys.readouterr().err
    (tmp_path / "slow").unlink()
    run_study(file, out, quiet=True, engine=engine)
    assert len(list(slurm.glob("*.sh"))) == 1  # nothing was submitted again
    assert len(load_runs(out)) == 2


def test_a_job_whose_time_is_up_goes_on_with_the_same_runs():
    task = cluster._Task(worker=None, problem=None, cells=["cell"])
    assert task.checkpoint().function == task


# --- torchrun -------------------------------------------------------------------------------------------------


def torchrun(*command):
    """Two processes; torch finds each other through a file's worth of environment, as torchrun sets it."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(_free_port())]
    return subprocess.run([*start, *map(str, command)], capture_output=True, text=True, timeout=300)


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_train_together_as_one_does(tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "study.toml"
    file.write_text(TRAINING.format(batch=64))
    done = torchrun("-m", "proxmom", "run", file, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1  # one of them writes and prints
    two = {run.key: run for run in load_runs(tmp_path / "two")}
    one = {run.key: run for run in load_runs(run_study(file, tmp_path / "one", jobs=1, quiet=True))}
    assert two.keys() == one.keys()
    for key, run in one.items():
        assert (run.status, two[key].status) == ("finished", "finished")
        assert two[key].final == pytest.approx(run.final, rel=1e-6)
        assert two[key].curve()["validation"] == pytest.approx(run.curve()["validation"], rel=1e-6)
        assert two[key].provenance["processes"] == 2


THREADS_LEFT = """\
import sys
from pathlib import Path
from proxmom.cli import main

main(sys.argv[1:], standalone_mode=False)
print("left:", [name for task in Path("/proc/self/task").iterdir() if "gloo" in (name := (task / "comm").read_text())])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are looked up in /proc")
def test_no_thread_of_the_connection_is_left_that_could_abort_while_python_shuts_down(tmp_path):
    pytest.importorskip("torch")
    (file := tmp_path / "study.toml").write_text(TRAINING.format(batch=64))
    (script := tmp_path / "threads_left.py").write_text(THREADS_LEFT)
    done = torchrun(script, "run", file, "--out", tmp_path / "out")
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


def test_a_process_that_fails_alone_ends_the_others_and_the_run_has_no_result(tmp_path):
    pytest.importorskip("torch")
    (file := tmp_path / "study.toml").write_text(TRAINING.format(batch=64))
    (script := tmp_path / "one_fails.py").write_text(ONE_FAILS)
    done = torchrun(script, 1, "run", file, "--out", tmp_path / "out")
    assert done.returncode != 0
    assert (
        "AdamW: this run failed in some of the processes, not in all: "
        "process 1: MemoryError: no room for the fifth step. It has no result" in done.stderr
    )
    assert not load_runs(tmp_path / "out")


def test_what_torchrun_refuses_is_said_once_before_anything_is_written(tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "study.toml"
    file.write_text(TRAINING.format(batch=63))
    done = torchrun("-m", "proxmom", "run", file, "--out", tmp_path / "out")
    assert done.returncode != 0
    assert done.stderr.count("line 10: batch must be a multiple of the 2 processes, got 63") == 1
    assert not (tmp_path / "out").exists()


def test_what_torchrun_cannot_spread(study, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from proxmom.study.run.torchrun import Together

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(StudyError, match="this study does not train: start it without torchrun, where --jobs"):
        Together().check(load_study(study()))
    file = tmp_path / "training.toml"
    file.write_text(TRAINING.format(batch=64).replace('"mlp"\nhidden = 8', '"logistic"'))
    with pytest.raises(StudyError, match="line 10: a logistic problem is trained by one process: leave torchrun out"):
        Together().check(load_study(file))


# --- which engine ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--executor", "joblib", "--slurm", "time=10"], "--slurm goes with --executor slurm, got joblib"),
        (["--executor", "slurm", "--slurm", "time"], "--slurm must read KEY=VALUE, got time"),
        (["--executor", "slurm"], "SLURM must be told a job's time in minutes, as in time=240, got None"),
        (["--executor", "slurm", "--slurm", "time=1:00"], "got '1:00'"),
        (["--executor", "slurm", "--slurm", "time=10", "--slurm", "colour=red"], r"['colour']"),
        (["--executor", "slurm", "--slurm", "time=10", "--jobs", "0"], "jobs must be >= 1"),
    ],
)
def test_bad_options_are_named(study, tmp_path, slurm, arguments, message):
    result = proxmom("run", study(), "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_no_slurm_is_a_clear_error(study, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = proxmom("run", study(), "--executor", "slurm", "--slurm", "time=10")
    assert "there is no SLURM here, that is no sbatch on the PATH" in result.output


def test_torchrun_starts_the_processes_itself(study, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    result = proxmom("run", study(), "--executor", "local")
    assert "torchrun starts the processes itself: leave --executor local out" in result.output


def test_submitit_is_asked_for_when_it_is_needed(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = proxmom("run", study(), "--executor", "local")
    assert "needs the cluster extra: pip install 'proxmom[cluster]'" in result.output


# --- GPUs -----------------------------------------------------------------------------------------------------


def test_each_process_takes_a_gpu_of_its_own(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    code = "import sys; from pathlib import Path; from proxmom.study.record import store; "
    code += f"print(store.taken(Path({str(tmp_path / 'gpu-0.lock')!r})), flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n"
    engines._choose_gpu.cache_clear()
    engines._choose_gpu(tmp_path)
    engines._choose_gpu(tmp_path)
    other.communicate("")
    assert chosen == [1]
    assert engines._per_gpu(-1) == 2
    assert engines._per_gpu(5) == 5
