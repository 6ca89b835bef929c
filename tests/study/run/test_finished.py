"""What `run_study` returns: a path that shows its table, runs, curves and pictures."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from proxmom.study.record.store import load_runs
from proxmom.study.report.write import terminal_table
from proxmom.study.run.finished import StudyFolder
from proxmom.study.run.runner import run_study
from tests.study.conftest import SMALL


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.toml").write_text(SMALL, encoding="utf-8")
    return run_study(folder / "study.toml", folder / "out", jobs=1, quiet=True)


def test_it_is_still_a_path(done: Any) -> None:
    assert done == Path(done)
    assert os.fspath(done) == str(done)
    assert (done / "study.toml").is_file()
    assert type(done / "study.toml") is type(Path())
    assert repr(done).startswith("StudyFolder(")


def test_table_and_page_are_those_of_the_command(done: Any, tmp_path: Path) -> None:
    assert done.table == terminal_table([done])
    assert repr(done.table) == done.table
    assert "heavy ball" in done._repr_html_()
    assert done._repr_html_().startswith("<pre>")
    assert done.report(tmp_path / "page.html").is_file()


def test_runs_and_curves_are_rows(done: Any) -> None:
    runs, curves = done.runs, done.curves
    assert len(runs) == len(load_runs(done))
    assert {"method", "evaluations", "point.lr"} <= set(runs.columns if hasattr(runs, "columns") else runs[0])
    assert len(curves) > len(runs)


def test_runs_without_pandas_are_dicts(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert {type(row) for row in done.runs} == {dict}


@pytest.mark.parametrize("kind", [None, "convergence", "lr", "profile"])
def test_figures_have_a_legend_of_what_they_show(done: Any, kind: Any) -> None:
    figure = done.figure(kind)
    [axes] = figure.axes
    names = {text.get_text() for text in axes.get_legend().get_texts()}
    assert names == {"heavy ball"} if kind == "lr" else names == {"heavy ball", "truncated", "NAG", "L-BFGS"}
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_problem_can_be_chosen(done: Any) -> None:
    assert done.figure(problem="diabetes").axes[0].get_title() == "diabetes"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "validation"}, r"kind must be one of 'convergence', 'lr', 'momentum', 'profile', got 'validation'\."),
        ({"problem": "moon"}, r"problem must be one of .*'diabetes', got 'moon'\."),
    ],
)
def test_what_is_not_there_is_named(done: Any, asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        done.figure(**asked)


def test_a_picture_of_nothing_is_refused(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxmom.study.report.pictures.momentum", lambda results, styles: [])
    with pytest.raises(ValueError, match="kind 'momentum' has nothing to show of diabetes: take another one"):
        done.figure("momentum", "diabetes")


def test_a_folder_without_runs_says_so(tmp_path: Path) -> None:
    assert "study" in StudyFolder(tmp_path)._repr_html_()
