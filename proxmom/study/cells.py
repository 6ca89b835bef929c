"""The cells of a study: which runs it has, and the key of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proxmom.study import data as datasets
from proxmom.study import store, summary
from proxmom.study.config import MethodSpec, ProblemSpec, Study
from proxmom.study.points import Point
from proxmom.study.specs import Control


@dataclass(frozen=True)
class Cell:
    """One run of a study: a method, at one of its points, on a problem (by its index in the study).

    ready: not before the runs that a control depends on are done; until then the key is a placeholder.
    """

    problem: int
    method: MethodSpec
    point: Point
    point_index: int
    configuration: Mapping[str, Any]
    key: str
    ready: bool = True


def plan(study: Study, data_dir: Path | None = None, folder: Path | None = None) -> Iterator[Cell]:
    """The runs of a study, problem by problem, method by method, point by point.

    folder: where finished runs are; a control is known when those of its method are.
    """
    for index, problem in enumerate(study.problems):
        description = problem.configuration | _digest(problem, data_dir)
        for method in study.methods:
            cells = list(_cells(study, index, description, method))
            yield from cells
            for control in method.controls:
                yield from _control_cells(study, index, description, control, cells, folder)


def _cells(study: Study, problem: int, description: Mapping[str, Any], method: MethodSpec) -> Iterator[Cell]:
    for number, point in enumerate(method.points(study.points, study.seed)):
        configuration = {
            "problem": description,
            "method": method.configuration,
            "point": point,
            "max_evaluations": study.max_evaluations,
            "target": study.target,
        }
        yield Cell(problem, method, point, number, configuration, store.key_of(configuration))


def _control_cells(
    study: Study,
    problem: int,
    description: Mapping[str, Any],
    control: Control,
    cells: Sequence[Cell],
    folder: Path | None,
) -> Iterator[Cell]:
    """The runs of a control if those it depends on, `cells`, are finished; placeholders of them if not."""
    if folder is not None and not store.pending(folder, (cell.key for cell in cells)):
        best = summary.best_run([store.load_run(folder, planned(cell, "")) for cell in cells])
        if method := control.method(best):
            yield from _cells(study, problem, description, method)
        return
    waiting = replace(control.of, name=control.name, variant_of=control.of.name, frozen=())
    for number in range(control.points(study.points)):
        wanted = {"control": control.name, "number": number, "of": cells[0].key}
        yield Cell(problem, waiting, {}, number, {}, store.key_of(wanted), ready=False)


def planned(cell: Cell, problem: str) -> store.Planned:
    """The cell's line in `plan.json`; problem: its display name."""
    return store.Planned(cell.key, problem, cell.method.name, cell.point_index, cell.method.variant_of)


def _digest(problem: ProblemSpec, data_dir: Path | None) -> dict[str, str]:
    """The digest of a problem's data file: other data under the same path is another run."""
    data = str(problem.arguments.get("data", ""))
    file = (datasets.directory(data_dir) or Path()) / data
    if data in datasets.DATA_NAMES or not file.is_file():
        return {}
    with file.open("rb") as stream:
        return {"data_digest": hashlib.file_digest(stream, "sha256").hexdigest()[:16]}
