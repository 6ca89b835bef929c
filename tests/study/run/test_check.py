"""`proxmom run --check`: counts what a run would do, guesses its time from what is done, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxmom.cli import main
from proxmom.study.plan.config import StudyError
from proxmom.study.record.store import load_runs
from proxmom.study.run.check import _duration, check_study
from proxmom.study.run.runner import run_study
from tests.study.conftest import CONTROLLED, SMALL

BUDGET = "max_evaluations = 60"
TODAY = "small: 12 runs on 2 problems, 12 to do. How long that takes is known once some are done."


def test_before_anything_is_run(study: Any, tmp_path: Path) -> None:
    file, out = study(), tmp_path / "out"
    before = set(tmp_path.rglob("*"))
    said = check_study(file, out)
    assert said.splitlines()[-1] == TODAY
    assert [line.split() for line in said.splitlines() if line.startswith(("heavy", "NAG"))] == [
        ["heavy", "ball", "6", "0"],
        ["NAG", "2", "0"],
    ]
    assert set(tmp_path.rglob("*")) == before


def test_afterwards_nothing_is_left_and_more_points_are_timed(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(study(), out, jobs=1, quiet=True)
    assert check_study(study(), out).splitlines()[-1] == "small: 12 runs on 2 problems, 0 to do."
    for run in load_runs(out):
        assert run.directory is not None
        ending = run.directory / "done.json"
        seconds = {"diabetes": 30.0}.get(run.problem, 10.0) if run.method == "heavy ball" else 1000.0
        ending.write_text(json.dumps({**json.loads(ending.read_text()), "seconds": seconds}))
    said = check_study(study(SMALL.replace("points = 3", "points = 5")), out).splitlines()[-1]
    assert said.startswith(
        "small: 16 runs on 2 problems, 4 to do. By the time of the 12 that are done they take about "
    )
    assert said.endswith("about 80 s, one after the other.")


def test_controls_wait_for_their_method(study: Any, tmp_path: Path) -> None:
    row = next(
        line for line in check_study(study(SMALL + CONTROLLED), tmp_path).splitlines() if "momentum frozen" in line
    )
    assert row.split()[-3:] == ["6", "0", "6"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.123, "0.12 s"), (40.4, "40 s"), (89, "89 s"), (700, "12 min"), (12_600, "3.5 h"), (200_000, "2.3 days")],
)
def test_durations(seconds: float, said: str) -> None:
    assert _duration(seconds) == said


def test_the_command(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["run", "--check", str(study())])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == TODAY
    assert not (tmp_path / "results").exists()
    broken = CliRunner().invoke(main, ["run", "--check", str(study(SMALL.replace("points = 3", "points = 0")))])
    assert broken.exit_code == 1
    assert "points must be >= 1, got 0" in broken.output


def test_a_folder_of_another_study_is_left_alone(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(study(), out, jobs=1, quiet=True)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    other = study(SMALL.replace('name = "small"', 'name = "other"').replace(BUDGET, f"{BUDGET}0"))
    for start in (run_study, check_study):
        with pytest.raises(
            StudyError, match=r"out must be a folder of 'other' or a new one, got that of 'small' with 12"
        ):
            start(other, out)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    "change", [('name = "small"', 'name = "renamed"'), (BUDGET, f"{BUDGET}0")], ids=["name", "runs"]
)
def test_a_study_that_was_renamed_or_changed_goes_on_where_it_was(change: Any, study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(study(), out, jobs=1, quiet=True)
    run_study(study(SMALL.replace(*change)), out, jobs=1, quiet=True)
    assert len(load_runs(out)) == 12


@pytest.mark.parametrize("plan", ["", None, '[{"key": tr'], ids=["empty", "gone", "cut off"])
def test_a_folder_whose_plan_is_damaged_is_known_by_its_runs(plan: str | None, study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(study(), out, jobs=1, quiet=True)
    (out / "plan.json").unlink() if plan is None else (out / "plan.json").write_text(plan)
    other = study(SMALL.replace('name = "small"', 'name = "other"').replace(BUDGET, f"{BUDGET}0"))
    with pytest.raises(StudyError, match="got that of 'small' with 12 runs"):
        run_study(other, out)
    run_study(study(), out, jobs=1, quiet=True)
    assert len(load_runs(out)) == 12


@pytest.mark.parametrize("text", [b"", b"not toml [", b"\xff\xfe\x00", b"[study]\nname = 3"])
def test_a_damaged_study_in_the_folder_is_written_again(text: bytes, study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(study(), out, jobs=1, quiet=True)
    (out / "study.toml").write_bytes(text)
    run_study(study(), out, jobs=1, quiet=True)
    assert (out / "study.toml").read_text() == SMALL
