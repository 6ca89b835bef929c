"""What the tests of studies that count evaluations share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxmom.study.record.store import load_runs

SMALL = """\
[study]
name = "small"
claim = "for tests"
points = 3
max_evaluations = 60
target = 1e-3
reference = "heavy ball"

[[problem]]
kind = "quadratic"
condition = 10
n = 8

[[problem]]
kind = "least_squares"
name = "diabetes"
data = "diabetes"

[[method]]
name = "heavy ball"
rule = "HeavyBall"
search = {lr = {low = 0.5, high = 20, scale = "log"}, beta = {low = 0.5, high = 0.99, scale = "log1m"}}

[[method]]
name = "truncated"
rule = "TruncatedMemory"
arguments = {lower_bound = "optimum"}
lr = 100

[[method]]
name = "NAG"
solver = "nag-restart"
lr = 1

[[method]]
name = "L-BFGS"
scipy = "L-BFGS-B"
"""
SMALL_TRAINED = """\
[study]
name = "trained"
claim = "for tests"
points = 1
steps = 2
seeds = 1
reference = "HB"

[[problem]]
kind = "least_squares"

[[method]]
name = "HB"
rule = "HeavyBall"
lr = 1
"""
CONTROLLED = """
[[method]]
name = "adaptive"
rule = "AdaptiveMemory"
inertia = 0.1
search = {lr = {low = 0.5, high = 20, scale = "log"}}
defaults = {lr = 10, beta_max = 0.8}
freeze = ["momentum"]
"""


@pytest.fixture
def study(tmp_path: Path) -> Any:
    def write(text: Any = SMALL, name: str = "study.toml") -> Any:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def outcomes(folder: Any) -> Any:
    """All that must not depend on order, processes or time."""
    return {
        run.key: (run.problem, run.method, run.point, run.status, run.evaluations, run.best_gap, run.message)
        for run in load_runs(folder)
    }


def touched(folder: Any) -> Any:
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("runs/*/done.json")}


def by_name(folder: Any, problem: Any = "diabetes") -> Any:
    named = {}
    for run in load_runs(folder):
        if run.problem == problem:
            named.setdefault(run.method, []).append(run)
    return named


RULE = """
from dataclasses import dataclass
@dataclass(frozen=True)
class Mine:
    scale: float = 1.0
    def planes(self, now):
        return (now.gradient_plane,)
class Late:
    def planes(self, now):
        if now.step > 3:
            raise RuntimeError("no fourth step")
        return (now.gradient_plane,)
class Broken:
    def planes(self, now):
        return now.gradientplane
"""
MINE = '\n[[method]]\nname = "mine"\nrule = "my_rules.py:{}"\nlr = 1\n'
BOUND = 'arguments = {lower_bound = "optimum"}'
