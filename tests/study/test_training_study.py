"""Training studies: their file, their cells, what a kill leaves behind, and what runs are repeated when."""

from __future__ import annotations

import json
import math
import multiprocessing
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("torch")

from proxmom.study import training
from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.record import store
from proxmom.study.record.ranking import best_run
from proxmom.study.record.store import Outcome, Planned, RunWriter, load_run, load_runs
from proxmom.study.run import progress, runner
from proxmom.study.run.runner import run_study

SMALL = """\
[study]
name = "small"
claim = "for tests"
points = 3
steps = 20
seeds = 2
schedule = "cosine"
warmup = 0.1
reference = "SGD"

[[problem]]
kind = "logistic"
batch = 16

[[method]]
name = "adaptive"
rule = "AdaptiveMemory"
metric = "Adam"
inertia = 0.1
scope = "tensor"
search = {lr = {low = 1e-3, high = 1e-1, scale = "log"}}

[[method]]
name = "SGD"
torch = "torch.optim:SGD"
arguments = {momentum = 0.9}
search = {lr = {low = 1e-3, high = 1, scale = "log"}}

[[method]]
name = "Adam"
torch = "torch.optim:AdamW"
arguments = {beta1 = 0.8, weight_decay = 0.0}
lr = 1e-2
schedule = "constant"
warmup = 0
"""
SEARCH = 'search = {lr = {low = 1e-3, high = 1e-1, scale = "log"}}'
CONTROLLED = SMALL.replace(SEARCH, SEARCH + '\nfreeze = ["momentum"]\ndefaults = {lr = 1e-3, beta_max = 0.8}')
NETWORK = '[[problem]]\nkind = "mlp"\nhidden = 8\n\n'
WILD = '\n[[method]]\nname = "wild"\ntorch = "torch.optim:SGD"\nlr = 1e9\n'
MINE = '\n[[method]]\nname = "mine"\nrule = "my_rules.py:{}"\nlr = 1e-2\n'
RULES = """
from pathlib import Path
class Mine:
    def planes(self, now):
        return (now.gradient_plane,)
class Fragile:
    calls = 0
    def planes(self, now):
        self.calls += 1
        if self.calls > 5 and Path(__file__).with_name("broken").exists():
            raise RuntimeError("no sixth step")
        return (now.gradient_plane,)
"""
OPTIMIZERS = """
import torch
class Mine(torch.optim.SGD):
    pass
"""


@pytest.fixture
def study(tmp_path):
    def write(text=SMALL, name="study.toml"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def run(file, out, jobs=1, **settings):
    return run_study(file, out, jobs=jobs, quiet=True, **settings)


def outcomes(folder):
    """All that must not depend on order, processes or time."""
    return {
        run.key: (
            *(run.problem, run.method, run.stage, run.seed, run.point, run.status, run.evaluations, run.best_gap),
            *(run.message, run.mean_beta, run.mean_step, run.capped, run.final, recorded(run)),
        )
        for run in load_runs(folder)
    }


def recorded(run):
    rows = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def touched(folder):
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("runs/*/done.json")}


def by_row(folder, problem=None):
    rows = {}
    for run in load_runs(folder):
        if problem is None or run.problem == problem:
            rows.setdefault((run.method, run.stage), []).append(run)
    return rows


# --- end to end -----------------------------------------------------------------------------------------------


def test_points_are_compared_with_one_seed_and_the_best_is_trained_with_all(study, tmp_path):
    out = run(study(), tmp_path / "out")
    rows = by_row(out)
    assert {row: [(run.seed, run.point_index) for run in runs] for row, runs in rows.items() if row[1] == "search"} == {
        ("adaptive", "search"): [(0, 0), (0, 1), (0, 2)],
        ("SGD", "search"): [(0, 0), (0, 1), (0, 2)],
    }
    for method in ("adaptive", "SGD"):
        best = min(rows[method, "search"], key=lambda run: run.final["validation loss"])
        assert [(run.seed, run.point_index) for run in rows[method, "final"]] == [(s, best.point_index) for s in (1, 2)]
        assert all(run.point == best.point for run in rows[method, "final"])
    assert [run.seed for run in rows["Adam", "final"]] == [1, 2]  # nothing is searched
    assert json.loads((out / "plan.json").read_text())[3].items() >= {"seed": 1, "stage": "final"}.items()


def test_a_run_says_everything(study, tmp_path):
    for run_ in load_runs(run(study(), tmp_path / "out")):
        assert (run_.status, run_.evaluations, run_.trained) == ("finished", 20, True)
        assert {"torch", "accelerator", "processor", "commit", "started"} <= set(run_.provenance)
        assert run_.configuration.keys() == {
            *("problem", "method", "point", "steps", "schedule", "warmup", "seed", "test", "device")
        }
        assert run_.configuration["seed"] == run_.seed
        assert run_.configuration["test"] == (run_.stage == "final")
        constant = run_.method == "Adam"
        assert run_.configuration["schedule"] == ("constant" if constant else "cosine")
        assert run_.configuration["warmup"] == (0.0 if constant else 0.1)
        curve = run_.curve()
        assert curve["step"][-1] == 20
        assert all(curve[name].shape == curve["step"].shape for name in ("seconds", "train", "validation"))
        assert curve["validation"][-1] == run_.final["validation loss"]
        assert curve["validation"].min() == run_.best_gap
        assert len(curve["beta"]) == len(curve["step"])
        assert (curve["beta"].size > 0) == (run_.method == "adaptive") == (run_.mean_beta is not None)
        assert {file.name for file in run_.directory.iterdir()} == {"run.json", "metrics.jsonl", "done.json"}


def test_the_test_split_is_read_at_the_end_of_final_runs_alone(study, tmp_path, monkeypatch):
    build, read = training.build_task, []

    def watched(*arguments, seed, **settings):
        task = build(*arguments, seed=seed, **settings)
        evaluate = task.evaluate

        def note(split):
            read.append((seed, split))
            return evaluate(split)

        task.evaluate = note
        return task

    monkeypatch.setattr(training, "build_task", watched)
    out = run(study(), tmp_path / "out")
    assert {seed for seed, split in read if split == "test"} == {1, 2}
    assert len([split for _, split in read if split == "test"]) == 3 * 2
    for run_ in load_runs(out):
        assert ("test loss" in run_.final) == (run_.stage == "final")


def test_results_depend_neither_on_processes_nor_on_order_nor_on_what_else_is_there(study, tmp_path):
    text = CONTROLLED.replace("[[problem]]", NETWORK + "[[problem]]", 1)
    text = text.replace("points = 3", "points = 2").replace("seeds = 2", "seeds = 1")
    one = outcomes(run(study(text), tmp_path / "one"))
    assert outcomes(run(study(text), tmp_path / "two", jobs=2)) == one
    head, *methods = text.split("[[method]]")
    top, *problems = head.split("[[problem]]")
    swapped = "[[problem]]".join([top, *(part.rstrip() + "\n\n" for part in reversed(problems))])
    reverse = "[[method]]".join([swapped, *(part.rstrip() + "\n\n" for part in reversed(methods[:2]))])
    few = outcomes(run(study(reverse), tmp_path / "few"))
    assert few.items() < one.items()


# --- resuming -------------------------------------------------------------------------------------------------


def test_nothing_is_run_twice(study, tmp_path, monkeypatch):
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
def test_what_is_new_runs_its_own_cells_only(study, tmp_path, old, new, more):
    out = run(study(), tmp_path / "out")
    before, known = touched(out), outcomes(out)
    run(study(SMALL.replace(old, new, 1)), out)
    after = touched(out)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + more
    run(study(), out)
    assert touched(out) == after
    assert outcomes(out) == known


def test_more_points_repeat_the_final_runs_only_of_another_best_one(study, tmp_path):
    out = run(study(), tmp_path / "out")
    before = touched(out)
    run(study(SMALL.replace("points = 3", "points = 4")), out)
    changed = [m for m in ("adaptive", "SGD") if by_row(out)[m, "final"][0].point_index == 3]
    assert len(touched(out)) == len(before) + 2 + 2 * len(changed)


KILLED = """
import functools, json, os, random, signal, sys, time
import torch._dynamo  # which training needs: here, and not in every start
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
def test_a_study_that_is_killed_again_and_again_ends_as_one_that_is_not(study, tmp_path):
    head, *_ = CONTROLLED.split('[[method]]\nname = "SGD"')
    text = head.replace('"logistic"\nbatch = 16', '"mlp"\nhidden = 8').replace("steps = 20", "steps = 300")
    text = text.replace("points = 3", "points = 2").replace("seeds = 2", "seeds = 1")
    file = study(text.replace('reference = "SGD"', 'reference = "adaptive"'))
    out = tmp_path / "killed"
    code = KILLED.format(out=str(out), file=str(file))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert outcomes(out) == outcomes(run(file, tmp_path / "whole"))
    assert all(seen.items() <= touched(out).items() for seen in told["seen"])  # no finished run was repeated
    assert len(told["seen"][-1]) > 0
    assert told["checkpoints"] > 0
    assert not list(out.glob("runs/*/checkpoint.pt"))


def test_a_writer_goes_on_where_there_is_a_checkpoint_and_starts_afresh_where_there_is_none(tmp_path):
    directory = tmp_path / "run"
    with RunWriter(directory, {"key": "k"}) as writer:
        writer.record({"step": 1, "validation": math.inf, "beta": [0.5, math.nan]})
        writer.record({"step": 2, "validation": 1.0, "beta": None})
    (directory / "checkpoint.pt").write_text("x")
    (directory / "checkpoint.pt.1.tmp").write_text("x")
    with RunWriter(directory, {"key": "k"}) as writer:
        assert len((directory / "metrics.jsonl").read_text().splitlines()) == 2
        assert store.keep_records(directory, 1)
        writer.record({"step": 3})
        writer.finish(Outcome("finished", 3, 1.0, 0.1, "", final={"validation loss": math.nan}))
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "validation": None, "beta": [0.5, None]}, {"step": 3}]
    assert {file.name for file in directory.iterdir()} == {"run.json", "metrics.jsonl", "done.json"}
    with RunWriter(directory, {"key": "k"}):
        assert (directory / "metrics.jsonl").read_text() == ""


def test_records_that_a_checkpoint_knows_may_be_lost(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert store.keep_records(tmp_path, 2)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert not store.keep_records(tmp_path, 3)
    assert file.read_text() == ""
    assert store.keep_records(tmp_path, 0)
    assert store.keep_records(tmp_path / "none", 0)


def _hold(directory, held, release):
    with store.claimed(directory):
        held.set()
        release.wait(30)
        (directory / "done.json").write_text("{}")


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_a_run_that_another_process_has_is_waited_for_and_not_repeated(study, tmp_path):
    cell = next(plan(load_study(study())))
    worker = runner.Worker(tmp_path, load_study(study()), None, ["logistic"], {})
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(store.run_directory(tmp_path, cell.key), held, release))
    other.start()
    assert held.wait(60)
    release.set()
    with worker.writing(cell) as writer:
        assert writer is None
    other.join()
    assert (store.run_directory(tmp_path, cell.key) / "done.json").read_text() == "{}"


def test_the_bar_counts_steps(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    build = training.build_task
    monkeypatch.setattr(training, "build_task", lambda *a, **k: time.sleep(0.05) or build(*a, **k))
    run_study(study(), tmp_path / "out", jobs=1, quiet=False)
    errors = capsys.readouterr().err
    assert "step/s" in errors or "s/step" in errors
    assert " of 8 runs" in errors  # those that are ready: 3 points of two methods, and two seeds of the third
    assert "/160 " in errors


# --- controls and defaults ------------------------------------------------------------------------------------


def test_momentum_frozen_and_defaults_only(study, tmp_path):
    rows = by_row(run(study(CONTROLLED), tmp_path / "out"))
    best = best_run(rows["adaptive", "search"])
    frozen, trained = rows["adaptive, momentum frozen", "search"], rows["adaptive, momentum frozen", "final"]
    assert [run.point for run in frozen] == [run.point for run in rows["adaptive", "search"]]  # lr is searched again
    assert [run.point for run in trained] == [best_run(frozen).point] * 2
    for each in (*frozen, *trained):
        method = each.configuration["method"]
        assert (method["rule"], method["metric"], method["inertia"]) == ("HeavyBall", "Adam", 0.1)
        assert method["scope"] == "tensor"
        assert method["arguments"] == {"beta": pytest.approx(best.mean_beta, rel=1e-8)}
        assert each.mean_beta == pytest.approx(best.mean_beta, rel=1e-6)
        assert each.variant_of == "adaptive"
    assert ("adaptive, defaults", "search") not in rows
    for each in rows["adaptive, defaults", "final"]:
        assert each.configuration["method"].items() >= {"lr": 1e-3, "arguments": {"beta_max": 0.8}}.items()
        assert (each.point, each.variant_of) == ({}, "adaptive")


def test_defaults_of_an_optimizer_are_its_arguments(study):
    text = SMALL.replace(
        '"log"}}\n\n[[method]]\nname = "Adam"',
        '"log"}}\ndefaults = {lr = 0.1, nesterov = true, weight_decay = 0.1}\n\n[[method]]\nname = "Adam"',
    )
    [method] = [m for m in load_study(study(text)).methods if m.name == "SGD, defaults"]
    assert method.configuration["lr"] == 0.1
    assert method.configuration["arguments"] == {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}


def test_lr_frozen_at_the_mean_step(study, tmp_path):
    text = SMALL.replace(SEARCH, 'lr = 1\nfreeze = ["lr"]\narguments = {lower_bound = "optimum"}')
    text = text.replace("AdaptiveMemory", "TruncatedMemory").replace('inertia = 0.1\nscope = "tensor"\n', "")
    rows = by_row(run(study(text), tmp_path / "out"))
    of, frozen = rows["adaptive", "final"], rows["adaptive, lr frozen", "final"]
    best = best_run(of)
    assert best.mean_step < 1  # the floor shortens the steps
    assert [run.seed for run in frozen] == [1, 2]
    for each in frozen:
        assert each.configuration["method"]["rule"] == "AdaptiveMemory"
        assert each.configuration["method"]["lr"] == pytest.approx(best.mean_step, rel=1e-8)


def test_what_waits_is_planned_before(study, tmp_path):
    file, out = load_study(study(CONTROLLED)), tmp_path / "out"
    cells = list(plan(file, folder=out))
    waiting = [cell for cell in cells if not cell.ready]
    assert len(waiting) == len({cell.key for cell in waiting}) == 2 + (3 + 2) + 2
    assert {(cell.method.name, cell.stage) for cell in cells if cell.ready} == {
        *(("adaptive", "search"), ("adaptive, defaults", "final"), ("SGD", "search"), ("Adam", "final"))
    }
    run(study(CONTROLLED), out)
    done = list(plan(file, folder=out))
    assert all(cell.ready for cell in done)
    order = [[(cell.method.name, cell.stage, cell.seed) for cell in each] for each in (cells, done)]
    assert order[0] == order[1]
    assert len(load_runs(out)) == len(done)


# --- failures are results -------------------------------------------------------------------------------------


def test_divergence_and_failure_are_kept_and_retry_failed_repeats_what_raised(study, tmp_path):
    (tmp_path / "my_rules.py").write_text(RULES)
    (tmp_path / "broken").touch()
    text = SMALL.replace('[[problem]]\nkind = "logistic"\nbatch = 16\n', NETWORK) + MINE.format("Fragile") + WILD
    out = run(study(text), tmp_path / "out")
    before, rows = touched(out), by_row(out)
    assert [(run.status, run.message) for run in rows["mine", "final"]] == [
        ("failed", "RuntimeError: no sixth step")
    ] * 2
    for wild in rows["wild", "final"]:
        assert wild.status == "diverged"
        assert wild.evaluations < 20
        assert "not finite" in wild.message or "the validation loss is" in wild.message
        assert wild.final["initial loss"] > 0
    (tmp_path / "broken").unlink()
    run(study(text), out)
    assert touched(out) == before  # finished runs, too
    run(study(text), out, retry_failed=True)
    after = touched(out)
    assert {key for key in before if after[key] != before[key]} == {run.key for run in rows["mine", "final"]}
    assert {run.status for run in by_row(out)["mine", "final"]} == {"finished"}


def test_a_method_none_of_whose_points_finishes_has_final_runs_all_the_same(study, tmp_path):
    search = 'search = {lr = {low = 1e9, high = 1e10, scale = "log"}}'
    text = SMALL.replace('[[problem]]\nkind = "logistic"\nbatch = 16\n', NETWORK)
    rows = by_row(run(study(text + WILD.replace("lr = 1e9", search)), tmp_path / "out"))
    assert {run.status for run in (*rows["wild", "search"], *rows["wild", "final"])} == {"diverged"}
    assert [run.point_index for run in rows["wild", "final"]] == [0, 0]


def test_a_task_that_cannot_be_built_where_it_runs_has_failed(study, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise TypeError("too odd")

    monkeypatch.setattr(training, "build_task", broken)
    monkeypatch.setattr(training, "describe_task", lambda *_, **__: "a task")
    runs = load_runs(run(study(), tmp_path / "out"))
    assert {(run.status, run.message, run.problem) for run in runs} == {("failed", "TypeError: too odd", "a task")}
    assert all(run.curve()["beta"].shape == (0, 0) for run in runs)


# --- what keys depend on, and methods of one's own -------------------------------------------------------------


def keys(file, *arguments, name=None):
    return {cell.key for cell in plan(load_study(file), *arguments) if name in (None, cell.method.name)}


def test_other_data_under_the_same_path_is_another_run(study, tmp_path):
    file = study(SMALL.replace("batch = 16", 'batch = 16\ndata = "my.libsvm"'))
    seen = set()
    for content in ("1 1:2\n-1 1:3\n", "1 1:2\n-1 1:4\n"):
        (tmp_path / "my.libsvm").write_text(content)
        seen |= {cell.key for cell in plan(load_study(file), tmp_path) if cell.ready}
    assert len(seen) == 2 * 8


def test_code_in_a_file_beside_the_study_is_part_of_the_key(study, tmp_path):
    (tmp_path / "my_rules.py").write_text(RULES)
    (tmp_path / "my_optimizers.py").write_text(OPTIMIZERS)
    text = (
        SMALL
        + MINE.format("Mine")
        + MINE.format("Mine")
        .replace("my_rules", "my_optimizers")
        .replace('name = "mine"\nrule', 'name = "theirs"\ntorch')
    )
    runs = by_row(run(study(text), tmp_path / "out"))
    assert {run.status for run in (*runs["mine", "final"], *runs["theirs", "final"])} == {"finished"}
    before = keys(study(text), name="mine"), keys(study(text), name="theirs"), keys(study(text), name="SGD")
    (tmp_path / "my_rules.py").write_text(RULES + "# changed")
    (tmp_path / "my_optimizers.py").write_text(OPTIMIZERS + "# changed")
    after = keys(study(text), name="mine"), keys(study(text), name="theirs"), keys(study(text), name="SGD")
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True]
    assert "source" not in load_study(study()).methods[1].configuration  # torch's own code is no part of it


def test_a_rule_can_join_without_a_line_in_the_file(study, tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    out = run(study(), tmp_path / "out")
    before = touched(out)
    run(study(), out, rules=["my_rules.py:Mine", "Polyak"])
    assert {key: touched(out)[key] for key in before} == before
    rows = by_row(out)
    assert [set(run.point) for run in rows["my_rules.py:Mine", "search"]] == [{"lr"}] * 3
    assert all(1e-4 <= run.point["lr"] <= 10 for run in rows["Polyak", "search"])
    assert rows["Polyak", "final"][0].configuration["method"]["arguments"] == {"lower_bound": "optimum"}
    network = load_study(study(SMALL.replace("[[problem]]", NETWORK + "[[problem]]", 1)), ["Polyak"])
    assert network.methods[-1].configuration["arguments"] == {"lower_bound": 0.0}  # its optimum is not known


def test_old_results_are_read_as_they_are(tmp_path):
    directory = tmp_path / "runs/k"
    configuration = {"problem": {}, "method": {}, "point": {}}
    description = {"key": "k", "configuration": configuration, "provenance": {}, "seed": 3, "problem": "p"}
    with RunWriter(directory, {**description, "method": "m", "point_index": 0}) as writer:
        writer.finish(Outcome("missed", 1, 0.5, 0.1, ""))
    done = json.loads((directory / "done.json").read_text())
    del done["final"]
    (directory / "done.json").write_text(json.dumps(done))
    old = load_run(tmp_path, Planned(**{"key": "k", "problem": "p", "method": "m", "point_index": 0}))
    assert (old.seed, old.stage, old.final, old.trained) == (3, "", {}, False)


# --- messages -------------------------------------------------------------------------------------------------

LR = "lr = {low = 1e-3, high = 1,"
BAD = [  # what is replaced, by what, and the message; its line is that of the last line put in
    ("steps = 20", "steps = 20\nmax_evaluations = 9", r"max_evaluations does not go with steps: .* keep one"),
    ("steps = 20", "steps = 20\ntarget = 0.1", r"target does not go with steps"),
    ("steps = 20", "steps = 0", r"steps must be >= 1, got 0"),
    ("seeds = 2", "seeds = 0", r"seeds must be >= 1, got 0"),
    ("seeds = 2", "seeds = 2.5", r"seeds must be a whole number, got 2.5"),
    ("seeds = 2", "sedes = 2", r"unknown key 'sedes' in \[study\]; valid keys: name, .* steps, seeds, schedule"),
    ('"cosine"', '"cosinus"', r"schedule must be one of constant, linear, cosine, inverse-sqrt, got 'cosinus'"),
    ("warmup = 0.1", "warmup = 1", r"warmup must be a share of the steps, >= 0 and < 1, got 1"),
    ("warmup = 0.1", 'device = "tpu"', r"device must be one of cpu, cuda, got 'tpu'"),
    ("warmup = 0.1", "targets = [0.1, -1]", r"targets must be validation losses > 0, got \[0.1, -1\]"),
    ('kind = "logistic"', 'kind = "logit"', r"unknown kind of problem 'logit'; valid kinds: mlp, cnn, language, log"),
    ('"logistic"\nbatch = 16', '"quadratic"', r"'quadratic'; valid kinds: .*leave steps out for a deterministic"),
    ("batch = 16", "btach = 16", r"unknown key 'btach' in \[\[problem\]\]; valid keys: kind, name, data, l2"),
    ("batch = 16", "seed = 3", r"unknown key 'seed' in \[\[problem\]\]"),
    ('scope = "tensor"', 'scope = "layer"', r"scope must be one of 'model', 'group', 'tensor', got 'layer'"),
    ('metric = "Adam"', 'metric = "Adams"', r"metric must be one of Euclidean, Adam.* got 'Adams'"),
    ('rule = "AdaptiveMemory"', 'rule = "AdaptivMemory"', r"rule must be one of .* got 'AdaptivMemory'"),
    ('rule = "AdaptiveMemory"', 'solver = "nag-restart"', r"a solver counts evaluations .*: in a training study give"),
    ('rule = "AdaptiveMemory"', 'scipy = "CG"', r"scipy counts evaluations of one function"),
    ('"torch.optim:SGD"', '"torch.optim:SDG"', r"'SGD' cannot run: .* torch.optim has no 'SDG'"),
    ('"torch.optim:SGD"', '"Adam"', r"optimizer must be one of AMSGD, AMAdamW"),
    (
        'torch = "torch.optim:SGD"',
        'rule = "HeavyBall"\ntorch = "torch.optim:SGD"',
        r"exactly one of rule, torch, got rule and torch",
    ),
    ('"torch.optim:SGD"', '"torch.optim:SGD"\nscope = "model"', r"unknown key 'scope' in a \[\[method\]\] with torch"),
    (
        '"torch.optim:SGD"',
        '"AMSGD"\nfreeze = ["momentum"]',
        r"freeze needs a rule, got torch = 'AMSGD': write it as rule",
    ),
    ('"torch.optim:SGD"', '"torch.optim:SGD"\nfreeze = ["lr"]', r"freeze needs a rule, got torch = 'torch.optim:SGD'"),
    ("momentum = 0.9", "momemtum = 0.9", r"'SGD' cannot run: .*'momemtum'"),
    ("{beta1 = 0.8, weight_decay = 0.0}", "{beta1 = 0.8, lr = 1}", r"lr is given twice; keep one"),
    ("{beta1 = 0.8, weight_decay = 0.0}", "{beta1 = 1.8}", r"'Adam' cannot run: .*1.8"),
    (LR, LR.replace("1e-3", "2"), r"search.lr must have low < high, got 2 and 1"),
    ('lr = 1e-2\nschedule = "constant"', 'lr = 1e-2\nschedule = "none"', r"schedule must be one of .*, got 'none'"),
    ("warmup = 0\n", "warmup = -0.1\n", r"warmup must be a share of the steps"),
    ("lr = 1e-2", "lr = -1", r"'Adam' cannot run: .*-1"),
    (SEARCH, SEARCH + "\ndefaults = {beta_max = 0.8}", r"defaults must give lr, as it is searched"),
    ('reference = "SGD"', 'reference = "sgd"', r"got 'sgd'; methods: adaptive, SGD, Adam"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new.splitlines()[-1] for _, new, _ in BAD])
def test_every_mistake_is_named_with_file_and_line(study, tmp_path, old, new, message):
    assert old in SMALL
    text = SMALL.replace(old, new, 1)
    line = text[: SMALL.index(old) + len(new.rstrip())].count("\n") + 1
    with pytest.raises(StudyError, match=rf"study.toml, line {line}: .*{message}"):
        run(study(text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("seeds = 2\n", "", 1, r"\[study\] lacks the key 'seeds': it must be a whole number"),
        ("steps = 20\n", "", 5, r"seeds belongs to training studies, which give steps instead of a target"),
        ("momentum = 0.9", "lr = 0.1", 27, r"lr is both fixed and searched; keep one"),
        ("lr = 1e-2\n", "", 29, r"method 'Adam' has no lr: set lr or search.lr\.$"),
        ("batch = 16", "batch = 0", 11, r"batch must be >= 1"),
        ("batch = 16", 'data = "none.libsvm"', 11, r"none.libsvm.* not found"),
        ("batch = 16", 'name = "twice"\n\n[[problem]]\nkind = "mlp"\nname = "twice"', 17, r"'twice' stands for two"),
        (SEARCH, 'lr = 1\narguments = {lower_bound = "optimum"}', 22, r"'adaptive' cannot run: .*'lower_bound'"),
    ],
    ids=lambda value: str(value).splitlines()[0] if value else "nothing",
)
def test_what_is_wrong_elsewhere_is_named_where_it_belongs(study, tmp_path, old, new, line, message):
    with pytest.raises(StudyError, match=f"study.toml, line {line}: .*{message}"):
        run(study(SMALL.replace(old, new, 1)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_optimum_that_nobody_knows_is_refused(study):
    text = SMALL.replace("AdaptiveMemory", "MoMo").replace('inertia = 0.1\nscope = "tensor"\n', "")
    text = text.replace(SEARCH, SEARCH + '\narguments = {lower_bound = "optimum"}')
    assert load_study(study(text)).methods[0].configuration["arguments"] == {"lower_bound": "optimum"}
    with pytest.raises(StudyError, match=r"line 24: 'optimum' needs problems whose optimum is known, .*'mlp' is not"):
        load_study(study(text.replace("[[problem]]", NETWORK + "[[problem]]", 1)))


def test_a_gpu_that_is_not_there_is_missed_before_anything_is_written(study, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    text = SMALL.replace("warmup = 0.1", 'device = "cuda"')
    with pytest.raises(StudyError, match="line 11: a logistic problem is trained on the CPU: device must be 'cpu'"):
        load_study(study(text))
    network = text.replace('[[problem]]\nkind = "logistic"\nbatch = 16\n', NETWORK)
    with pytest.raises(StudyError, match=r"device 'cuda' in \[study\] needs a GPU, and torch .* sees none here"):
        run(study(network), tmp_path / "out")
    assert not (tmp_path / "out").exists()


DETERMINISTIC = """\
[study]
name = "small"
claim = "for tests"
points = 3
max_evaluations = 60
target = 1e-3
reference = "HB"

[[problem]]
kind = "quadratic"

[[method]]
name = "HB"
rule = "HeavyBall"
lr = 1
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('rule = "HeavyBall"', 'torch = "torch.optim:SGD"', r"torch belongs to training studies, .*; here give a rule"),
        ("lr = 1", 'lr = 1\nscope = "tensor"', r"scope belongs to training studies"),
        ("lr = 1", 'lr = 1\nschedule = "cosine"', r"schedule belongs to training studies, .* here lr is constant"),
        ("target = 1e-3", "target = 1e-3\nseeds = 3", r"seeds belongs to training studies, which give steps"),
        ('"quadratic"', '"mlp"', r"unknown kind of problem 'mlp'"),
    ],
)
def test_what_belongs_to_training_is_refused_elsewhere(study, old, new, message):
    text = DETERMINISTIC.replace(old, new)
    line = text[: DETERMINISTIC.index(old) + len(new)].count("\n") + 1
    with pytest.raises(StudyError, match=f"study.toml, line {line}: {message}"):
        load_study(study(text))


def test_a_study_without_an_end_is_told_of_both_kinds(study):
    text = DETERMINISTIC.replace("max_evaluations = 60\ntarget = 1e-3\n", "")
    with pytest.raises(
        StudyError, match=r"line 1: \[study\] needs max_evaluations and target, or, to train, steps and"
    ):
        load_study(study(text))


def test_studies_that_do_not_train_do_not_import_torch(study):
    code = f"import sys; from proxmom.study.run.runner import load_study; load_study({str(study(DETERMINISTIC))!r}); "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_numbers_of_a_curve_that_are_missing_are_nan(tmp_path):
    configuration = {"problem": {}, "method": {}, "point": {}, "steps": 2}
    description = {"key": "k", "configuration": configuration, "provenance": {}, "seed": 0, "problem": "p"}
    with RunWriter(tmp_path / "runs/k", {**description, "method": "m", "point_index": 0}) as writer:
        writer.record({"step": 1, "seconds": 0.1, "train": math.inf, "validation": 1.0, "beta": None})
        writer.record({"step": 2, "seconds": 0.2, "train": 1.0, "validation": 2.0, "beta": [0.5, math.nan]})
        writer.finish(Outcome("diverged", 2, 1.0, 0.2, "", final={"validation loss": math.inf}))
    [run_] = load_runs(tmp_path)
    assert np.isnan(run_.curve()["beta"]).tolist() == [[True, True], [False, True]]
    assert np.isnan(run_.curve()["train"]).tolist() == [True, False]
    assert math.isnan(run_.final["validation loss"])
