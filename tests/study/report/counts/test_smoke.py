"""The report of a study that was run, from end to end."""

from __future__ import annotations

import csv
import importlib
import re
from pathlib import Path
from typing import Any, Never

import pytest
from click.testing import CliRunner

from proxmom.cli import main
from proxmom.study.report import export
from proxmom.study.report.write import terminal_table, write_report
from proxmom.study.run.runner import run_study
from tests.study.report.counts.conftest import Page

SMOKE = Path(__file__).parents[4] / "experiments/convex/smoke.toml"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest tier of the convex study, with every kind of method, defaults and controls."""
    return run_study(SMOKE, tmp_path_factory.mktemp("smoke") / "out", jobs=1, quiet=True)


def test_the_page_of_a_study_with_controls(smoke: Any) -> None:
    html = write_report([smoke]).read_text(encoding="utf-8")
    text = (page := Page(html)).text
    assert "Defaults only, and controls" in text
    assert "share of steps at the cap" in text
    assert "Performance profile" in text
    assert "points tried" in text
    rows = ("adaptive memory, defaults", "adaptive memory, momentum frozen", "truncated memory, lr frozen")
    assert all(row in text for row in rows)
    assert all(link.startswith(("#", "data:image/svg+xml,")) for link in page.links)
    assert [name for name, times in page.ids.items() if times > 1] == []
    named = re.findall(r'<g class="method"><title>([^<]*)</title>', html)
    assert "adaptive memory" in named  # pictures show the methods themselves
    assert not any(name.endswith(("frozen", "defaults")) for name in named)


def test_the_terminal_shows_controls_and_the_cap(smoke: Any) -> None:
    table = terminal_table([smoke])
    assert re.search(r"^adaptive memory, momentum frozen +\d.* +\d +\d +3$", table, re.MULTILINE)
    assert re.search(r"^truncated memory +0\.\d+ .* +0\.\d+", table, re.MULTILINE)
    assert max(map(len, table.splitlines())) <= 100


def test_csv_has_a_row_for_each_run(smoke: Any, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(smoke), "--csv", str(tmp_path / "runs.csv")])
    assert result.exit_code == 0, result.output
    with (tmp_path / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(list(smoke.glob("runs/*/done.json")))
    assert {"study", "problem", "method", "point.lr", "point.beta", "status", "evaluations", "capped"} <= set(rows[0])
    [frozen] = [r for r in rows if r["method"] == "truncated memory, lr frozen" and r["problem"].startswith("log")]
    assert (frozen["variant_of"], frozen["point.lr"], frozen["study"]) == ("truncated memory", "", "convex-smoke")
    assert float(frozen["mean_step"]) > 0


def test_parquet_says_what_it_needs(smoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Never:
        raise ModuleNotFoundError("no", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install pandas pyarrow \(no module 'pandas'\)"):
        export.write_parquet([smoke], tmp_path / "runs.parquet")


def test_parquet_holds_the_same_table(smoke: Any, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    export.write_parquet([smoke], tmp_path / "runs.parquet")
    read = pandas.read_parquet(tmp_path / "runs.parquet")
    rows = export.table([smoke])
    assert list(read.columns) == list(rows[0])
    assert read["evaluations"].tolist() == [row["evaluations"] for row in rows]
