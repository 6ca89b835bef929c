"""What leaves a report: panels as SVG files of their own, and curves as rows."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from click.testing import CliRunner

from proxmom.cli import main
from proxmom.study.report import export, panels
from proxmom.study.report.sources import read_source
from tests.study.report.counts.conftest import study_runs, write_study
from tests.study.report.losses import conftest as losses

SVG = "{http://www.w3.org/2000/svg}"


def test_a_panel_stands_alone_with_a_legend_of_what_it_shows() -> None:
    styles = [panels.Style(index, name) for index, name in enumerate(("a < b", "absent", "c"))]
    figure, axes = panels.panel("x", "y")
    for style in (styles[0], styles[2]):
        panels.plot_line(axes, style, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    found = panels.picture(figure, "gap0", "problem", "what", styles)
    kind, _, content = found.link.partition(",")
    assert (kind, found.file) == ("data:image/svg+xml", "gap0.svg")
    assert not set('"<>#') & set(content)
    text = unquote(content)
    root = ElementTree.fromstring(text)
    words = ["".join(each.itertext()).strip() for each in root.iter(f"{SVG}text")]
    assert words[-2:] == ["a < b", "c"]
    assert "x" in words
    assert "absent" not in text
    assert not any(word in text for word in ("var(--", "currentColor", panels.INK))
    assert all(panels._LIGHT[index] in text for index in (0, 2))
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    assert float(root.get("height", "")[:-2]) == pytest.approx(2.8 * 72 + 38)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("counted") / "s", study_runs())


def test_every_panel_of_a_page_can_be_saved(counted: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(counted), "--curves", str(counted / "curves.csv")])
    assert result.exit_code == 0, result.output
    html = (counted / "report.html").read_text(encoding="utf-8")
    assert html.count('<a class="save" download="') == html.count("<figure") > 5
    assert html.count('<figure class="wide">') == 2, "the profile and the tuning budget"


def test_curves_have_a_row_for_each_record(counted: Path) -> None:
    export.write_curves([counted], file := counted / "curves.csv")
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    run = next(run for run in read_source(counted).runs if run.curve()["gap"].size > 1)
    own = [row for row in rows if row["key"] == run.key]
    gaps = [float(row["gap"] or np.nan) for row in own]
    assert gaps == pytest.approx(run.curve()["gap"].tolist(), nan_ok=True)
    assert [float(row["evaluations"]) for row in own] == run.curve()["evaluations"].tolist()
    assert {row["method"] for row in own} == {run.method}


def test_curves_of_training_have_the_mean_weight(tmp_path: Path) -> None:
    folder = losses.write_study(tmp_path / "trained")
    runs = {run.key: run for run in read_source(folder).runs}
    rows = export.curves([folder])
    key = next(row["key"] for row in rows if row["beta"] is not None)
    own = [row for row in rows if row["key"] == key]
    assert [row["beta"] for row in own] == pytest.approx(runs[key].curve()["beta"].mean(axis=1))
    assert own[0]["step"] == runs[key].curve()["step"][0]
    assert own[0]["stage"] == runs[key].stage


@pytest.mark.parametrize(("name", "message"), [("a.xlsx", r"ending in .csv or .parquet, got 'a.xlsx'")])
def test_curves_elsewhere_are_refused_before_anything_is_written(
    name: str, message: str, counted: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        main, ["report", str(counted), "--out", str(tmp_path / "r.html"), "--curves", str(tmp_path / name)]
    )
    assert result.exit_code == 1
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


def test_curves_as_parquet(counted: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    export.write_curves([counted], file := tmp_path / "curves.parquet")
    assert len(pandas.read_parquet(file)) == len(export.curves([counted]))


def test_rows_without_curves_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = type("Source", (), {"name": "s", "runs": ()})
    monkeypatch.setattr(export, "read_source", lambda directory: source)
    with pytest.raises(ValueError, match="directories must hold runs with curves, got none in s"):
        export.curves(["s"])
