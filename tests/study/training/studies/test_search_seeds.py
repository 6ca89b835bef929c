"""Points that are tried with several training seeds: which runs there are, what waits for them, and which is best."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.record.run import Ending
from proxmom.study.record.store import RunWriter, run_directory
from proxmom.study.report.export import write_csv
from proxmom.study.report.write import terminal_table, write_report
from tests.study.training.studies.conftest import CONTROLLED, SMALL, by_row, outcomes, run, touched

START = 4.0
TABLE = [[0.1, math.nan, math.nan], [1.0, 1.0, 5.0], [2.2, 2.1, 2.2]]  # in the mean 2.7, 2 and 2.17: of points by seeds


def with_seeds(count: int, text: str = SMALL) -> str:
    return text.replace("seeds = 2", f"seeds = 2\nsearch_seeds = {count}", 1)


def write(folder: Path, cell: Any, loss: float, beta: float | None = None, status: str = "") -> None:
    """A finished run of this cell, with this loss; nan: it diverged."""
    known = {"key": cell.key, "configuration": cell.configuration, "problem": "p", "method": cell.method.name}
    known |= {"point_index": cell.point_index, "seed": cell.seed, "stage": cell.stage, "provenance": {}}
    status = status or ("diverged" if math.isnan(loss) else "finished")
    with RunWriter(run_directory(folder, cell.key), known) as writer:
        final = {"initial loss": START, "validation loss": loss}
        writer.finish(Ending(status, 20, loss, 0.1, "", beta, 1e-2, None, final))


def cells_of(file: Any, name: str, folder: Any = None) -> list[Any]:
    return [cell for cell in plan(load_study(file), folder=folder) if cell.method.name == name]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_further_seeds_are_fixed_numbers_and_change_no_key(study: Any, count: int) -> None:
    one, some = (list(plan(load_study(study(text)))) for text in (SMALL, with_seeds(count)))
    searched = [cell for cell in some if cell.stage == "search" and cell.method.name == "SGD"]
    seeds = [0, 101, 102][:count]
    assert [(cell.point_index, cell.seed) for cell in searched] == [(i, seed) for i in range(3) for seed in seeds]
    assert len({cell.key for cell in some}) == len(some) == len(one) + 2 * 3 * (count - 1)
    assert [cell.key for cell in some if cell.seed < 101] == [cell.key for cell in one]  # what waits included
    more = {cell.key for cell in plan(load_study(study(with_seeds(4).replace("seeds = 2", "seeds = 100"))))}
    assert {cell.key for cell in some if cell.ready} <= more


def test_what_depends_on_the_search_waits_for_all_its_seeds(study: Any, tmp_path: Path) -> None:
    file = study(with_seeds(3, CONTROLLED))
    searched = [cell for cell in cells_of(file, "adaptive") if cell.stage == "search"]
    assert len(searched) == 9
    last = searched.pop(5)
    for cell in searched:
        write(tmp_path, cell, TABLE[cell.point_index][0], beta=0.5)
    for name in ("adaptive", "adaptive, momentum frozen"):
        assert not any(
            cell.ready for cell in cells_of(file, name, tmp_path) if (cell.stage, name) != ("search", "adaptive")
        )
    write(tmp_path, last, 1.0, beta=0.5)
    assert all(cell.ready for cell in cells_of(file, "adaptive", tmp_path))
    frozen = cells_of(file, "adaptive, momentum frozen", tmp_path)
    assert [cell.ready for cell in frozen if cell.stage == "search"] == [True] * 9
    assert [cell.ready for cell in frozen if cell.stage == "final"] == [False] * 2


def test_the_best_point_is_that_of_the_mean_and_a_control_has_its_mean_momentum(study: Any, tmp_path: Path) -> None:
    file = study(with_seeds(3, CONTROLLED))
    for cell in cells_of(file, "adaptive"):
        if cell.stage == "search":
            place = [0, 101, 102].index(cell.seed)
            write(tmp_path, cell, TABLE[cell.point_index][place], beta=[0.2, 0.4, 0.9][place] - 0.1 * cell.point_index)
    final = [cell for cell in cells_of(file, "adaptive", tmp_path) if cell.stage == "final"]
    assert [(cell.seed, cell.point_index, cell.ready) for cell in final] == [(1, 1, True), (2, 1, True)]
    for cell in cells_of(file, "adaptive, momentum frozen", tmp_path):
        assert cell.method.configuration["arguments"] == {"beta": pytest.approx(0.4, rel=1e-8)}


def test_a_point_whose_seed_the_machine_aborted_is_not_the_best(study: Any, tmp_path: Path) -> None:
    file = study(with_seeds(3))
    for cell in cells_of(file, "SGD"):
        if cell.stage == "search":
            gone = (cell.point_index, cell.seed) == (0, 102)
            write(tmp_path, cell, 1.0 + cell.point_index, status="aborted" if gone else "")
    assert {cell.point_index for cell in cells_of(file, "SGD", tmp_path) if cell.stage == "final"} == {1}


def test_a_study_goes_on_with_more_search_seeds_and_says_so(study: Any, tmp_path: Path) -> None:
    out = run(study(), tmp_path / "out")
    before, known = touched(out), outcomes(out)
    run(study(with_seeds(2)), out)
    after, rows = touched(out), by_row(out)
    assert {key: after[key] for key in before} == before
    assert outcomes(out).items() >= {key: found for key, found in known.items() if found[2] == "search"}.items()
    for method in ("adaptive", "SGD"):
        assert [run.seed for run in rows[method, "search"]] == [0, 101] * 3
        losses = [min(run.final["validation loss"], run.final["initial loss"]) for run in rows[method, "search"]]
        best = int(np.argmin(np.reshape(losses, (3, 2)).mean(axis=1)))
        assert [(run.seed, run.point_index) for run in rows[method, "final"]] == [(1, best), (2, best)]
        assert all("test loss" not in run.final for run in rows[method, "search"])
    run(study(with_seeds(2)), out)
    assert touched(out) == after
    assert "by the mean validation loss of 2 seeds" in " ".join(terminal_table([out]).split())
    assert "at its best of 3 points by the mean validation loss of 2 seeds" in write_report([out]).read_text("utf-8")
    write_csv([out], tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(newline="") as stream:
        seeds = [row["seed"] for row in csv.DictReader(stream) if row["stage"] == "search"]
    assert seeds == ["0", "101"] * 6
    run(study(), out)  # and back again
    assert outcomes(out) == known
