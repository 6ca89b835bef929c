"""What the tests of training studies share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from proxmom.study.record.store import load_runs
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


@pytest.fixture
def study(tmp_path: Path) -> Any:
    def write(text: Any = SMALL, name: str = "study.toml") -> Any:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def run(file: Any, out: Any, jobs: Any = 1, **settings: Any) -> Any:
    return run_study(file, out, jobs=jobs, quiet=True, **settings)


def outcomes(folder: Any) -> Any:
    """All that must not depend on order, processes or time."""
    return {
        run.key: (
            *(run.problem, run.method, run.stage, run.seed, run.point, run.status, run.evaluations, run.best_gap),
            *(run.message, run.mean_beta, run.mean_step, run.capped, run.final, recorded(run)),
        )
        for run in load_runs(folder)
    }


def recorded(run: Any) -> Any:
    rows = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def touched(folder: Any) -> Any:
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("runs/*/done.json")}


def by_row(folder: Any, problem: Any = None) -> Any:
    rows = {}
    for run in load_runs(folder):
        if problem is None or run.problem == problem:
            rows.setdefault((run.method, run.stage), []).append(run)
    return rows
