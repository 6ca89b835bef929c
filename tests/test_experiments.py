"""The smoke tier of every experiment runs, from its file to its report."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from proxmom.study.plan.config import load_study
from proxmom.study.record.store import load_runs
from proxmom.study.report.write import terminal_table, write_report
from proxmom.study.run.runner import run_study

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
STUDIES = sorted(EXPERIMENTS.rglob("*.toml"))
SMOKE = [path for path in STUDIES if path.name == "smoke.toml"]


def _id(path: Path) -> str:
    return str(path.relative_to(EXPERIMENTS))


@pytest.mark.parametrize("path", STUDIES, ids=_id)
def test_a_study_file_is_valid_and_names_its_claim(path: Path) -> None:
    study = load_study(path)
    assert study.claim
    assert path.read_text().startswith("# "), "the first line says what the study is"


@pytest.mark.parametrize("path", SMOKE, ids=_id)
def test_the_smoke_tier_runs(path: Path, tmp_path: Path) -> None:
    folder = run_study(path, tmp_path / "results", jobs=1, quiet=True)
    runs = load_runs(folder)
    assert runs
    assert not [run.message for run in runs if run.status == "failed"]
    table, page = terminal_table([folder]), write_report([folder]).read_text(encoding="utf-8")
    for method in tomllib.loads(path.read_text())["method"]:
        assert method["name"] in table
        assert method["name"].replace("'", "&#39;") in page


def test_the_overhead_of_a_step_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(EXPERIMENTS / "overhead/overhead.py")]
    quickly = ["--tier", "smoke", "--rounds", "2", "--threads", "1", "--json", str(file)]
    measured = subprocess.run([*command, *quickly], capture_output=True, text=True, check=True)
    shown = subprocess.run([*command, "--from", str(file)], capture_output=True, text=True, check=True)
    assert measured.stdout == shown.stdout
    assert "AMSGD" in shown.stdout
