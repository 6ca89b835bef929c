"""Tables of training studies in the terminal and as CSV."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from proxmom.cli import main
from proxmom.study.report import compare, export, statistics, tuning
from proxmom.study.report.text import difference_text, loss_text, ratio_text
from proxmom.study.report.write import terminal_table
from tests.study.report.losses.conftest import (
    ADAPTIVE,
    FROZEN,
    METHODS,
    NETWORK,
    START,
    stored,
    study_runs,
    write_study,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.500"),
        (0.0012345, "0.001234"),
        (1.234e-5, "1.23e-5"),
        (1234.5, "1234"),
        (np.nan, ""),
        (0.0, "0.000"),
        (-0.0, "0.000"),
    ],
)
def test_losses_as_text(value: Any, text: Any) -> None:
    assert loss_text(value) == text


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((-0.0112, -0.0203, -0.0021), "-0.0112 [-0.0203, -0.0021]"),
        ((0.5, 0.25, 0.75), "+0.50 [+0.25, +0.75]"),
        ((1e-7, -2e-7, 4e-7), "+1.0e-7 [-2.0e-7, +4.0e-7]"),
        ((0.25, np.nan, np.nan), "+0.25"),
        ((-0.02, -2.7, 2.7), "0.0 [-2.7, +2.7]"),
        ((-0.3, -27.0, 27.0), "0 [-27, +27]"),
        ((2.0, -0.004, 4.0), "+2.0 [0.0, +4.0]"),
        ((0.0, 0.0, 0.0), "0"),
        ((np.nan, np.nan, np.nan), ""),
    ],
)
def test_differences_as_text(ends: Any, text: Any) -> None:
    assert difference_text(statistics.Interval(*ends, 5)) == text


def test_the_terminal_table_of_several_problems(directory: Any, trained: Any) -> None:
    table = terminal_table([directory])
    assert max(map(len, table.splitlines())) <= 100
    ratio = re.escape(ratio_text(compare.mean_ratios(trained, METHODS[0])[ADAPTIVE]))
    assert re.search(rf"^{ADAPTIVE} +1\.4\d+\* +[\d.e-]+\* +{ratio}$", table, re.MULTILINE)
    assert re.search(r"^SGD +0 +2 +2 +2 of 10$", table, re.MULTILINE)
    assert re.search(rf"^{FROZEN} +1\.\d+ +0 +2$", table, re.MULTILINE)
    assert re.search(rf"^{ADAPTIVE} +0\.60 +0\.20$", table, re.MULTILINE)
    sensitivities = tuning.lr_sensitivity(trained)
    assert ADAPTIVE in sensitivities
    for method, value in sensitivities.items():
        assert re.search(rf"^{method} +{re.escape(ratio_text(value))}$", table, re.MULTILINE)
    assert "Test loss or relative gap after 400 steps" in table
    assert "Means over fewer than 3 problems have no interval." in " ".join(table.split())
    assert "\033" not in table


def test_the_terminal_table_of_one_problem_has_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run for run, _ in study_runs() if run.problem == NETWORK]
    folder = write_study(tmp_path / "one", runs)
    table = terminal_table([folder])
    assert max(map(len, table.splitlines())) <= 100
    difference = r"-0\.\d+ \[-0\.\d+, -0\.\d+\]!"
    assert re.search(rf"^{ADAPTIVE} +1\.4\d+\* +1\.\d+ +1\.\d+ +{difference} +1\.\d+ +0 of 5$", table, re.M)
    assert re.search(r"^SGD .*! +3\.\d+ +2 of 5$", table, re.MULTILINE)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert re.search(r"\033\[1m1\.4\d+\*\033\[0m", terminal_table([folder]))


def test_csv_has_a_row_for_each_run_with_seed_stage_and_measures(directory: Any, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(directory), "--csv", str(tmp_path / "runs.csv"),
                                       "--out", str(tmp_path / "r.html")])  # fmt: skip
    assert result.exit_code == 0, result.output
    with (tmp_path / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 98
    [row] = [r for r in rows if (r["problem"], r["method"], r["seed"]) == (NETWORK, ADAPTIVE, "3")]
    assert (row["stage"], row["point_index"], row["variant_of"], row["evaluations"]) == ("final", "0", "", "400")
    assert float(row["test_loss"]) == pytest.approx(stored(directory, "test loss")[NETWORK, ADAPTIVE, 3])
    assert float(row["initial_loss"]) == START[3]
    assert {"validation_loss", "test_accuracy", "point.beta1"} <= set(row)
    [lost] = [r for r in rows if r["status"] == "diverged" and r["stage"] == "final"]
    assert (lost["method"], lost["validation_loss"]) == ("SGD", "")
    assert Counter(r["stage"] for r in rows) == {"search": 48, "final": 50}


def test_exported_values_are_those_of_the_runs(directory: Any) -> None:
    rows = export.table([directory])
    assert len({tuple(row) for row in rows}) == 1
    assert sum(row["test_accuracy"] is not None for row in rows) == 23
