"""How far a study is, below a notebook's cell and on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxmom.study.run.progress import Progress
from proxmom.study.run.runner import run_study
from tests.study.conftest import SMALL


def test_a_notebook_shows_the_bar_and_keeps_its_end(cell: list[str], tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(SMALL, encoding="utf-8")
    study = run_study(tmp_path / "study.toml", tmp_path / "out", jobs=1)
    runs = len(study.runs)
    assert f"0/{runs}" in cell[1]
    assert "100%|" in cell[-1]
    assert f"{runs}/{runs}" in cell[-1]
    assert "\r" not in "".join(cell)


@pytest.mark.parametrize(("keys", "quiet"), [(["a"], True), ([], None)])
def test_nothing_is_shown_where_nothing_is_done_or_all_is_quiet(
    cell: list[str], tmp_path: Path, keys: list[str], quiet: bool | None
) -> None:
    with Progress(tmp_path, keys, 0, quiet) as progress:
        progress.advance(len(keys))
    assert not cell


def test_elsewhere_the_bar_is_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(tmp_path, ["a", "b"], 0, quiet=False) as progress:
        progress.advance(2)
    assert "0/2" in capsys.readouterr().err
