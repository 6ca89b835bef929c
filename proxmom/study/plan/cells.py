"""The cells of a study: which runs it has, and the key of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxmom.study.plan import numerics
from proxmom.study.plan.config import Evaluations, MethodSpec, ProblemSpec, Study, StudyError
from proxmom.study.plan.points import Point
from proxmom.study.plan.specs import Control
from proxmom.study.plan.toml import read_toml
from proxmom.study.problems import data as datasets
from proxmom.study.problems.own import is_own
from proxmom.study.record import ranking, store
from proxmom.study.record.faults import ABORTED
from proxmom.study.record.run import Planned, Run

SEARCH, FINAL = "search", "final"


@dataclass(frozen=True)
class StudyCell:
    """One run of a study: a method, at one of its points, on a problem (by its index in the study).

    ready: not before the runs that this one depends on are done; until then the key is a placeholder.
    seed, stage: in a training study, as in `Planned`.
    """

    problem: int
    method: MethodSpec
    point: Point
    point_index: int
    configuration: Mapping[str, Any]
    key: str
    ready: bool = True
    seed: int = 0
    stage: str = ""


def plan(study: Study, data_dir: Path | None = None, folder: Path | None = None) -> Iterator[StudyCell]:
    """The runs of a study, problem by problem, method by method, point by point, then seed by seed.

    folder: where finished runs are. The runs of a method's points say which of them is run with other seeds, and what
    its controls are; before they are done those runs are placeholders.
    """
    for index, problem in enumerate(study.problems):
        planner = _Planner(study, index, problem.configuration | _digest(study, problem, data_dir), folder)
        for method in study.methods:
            cells = planner.cells(method)
            yield from cells
            for control in method.controls:
                yield from planner.control_cells(control, [cell for cell in cells if cell.stage == SEARCH] or cells)


def require_own(folder: Path, study: Study, keys: Iterable[str]) -> None:
    """StudyError where a folder holds another study: its plan and its page would be replaced.

    A study that was renamed, or of which only the name stayed, may go on where it was; so may one whose file there is
    damaged, which is written again.
    """
    there = {run.name for run in (folder / "runs").glob("*")}
    try:
        name = read_toml(folder / "study.toml")[1].table("study", "[study]").text("name")
    except ValueError:
        return
    if name != study.name and there and there.isdisjoint(keys):
        raise StudyError(
            f"{folder} must be a folder of {study.name!r} or a new one, got that of {name!r} with {len(there)} runs, "
            "whose plan and page would be replaced. Choose another (--out)."
        )


def planned(cell: StudyCell, problem: str) -> Planned:
    """The cell's line in `plan.json`; problem: its display name."""
    names = {"problem": problem, "method": cell.method.name, "variant_of": cell.method.variant_of}
    return Planned(cell.key, point_index=cell.point_index, seed=cell.seed, stage=cell.stage, **names)


@dataclass(frozen=True)
class _Planner:
    """Plans the runs on one problem; description: what their keys hold of it."""

    study: Study
    problem: int
    description: Mapping[str, Any]
    folder: Path | None

    def cells(self, method: MethodSpec, after: str = "") -> list[StudyCell]:
        """The runs of a method; placeholders if they wait for the run with the key `after`."""
        points = list(enumerate(method.points(self.study.points, self.study.seed)))
        if self.study.training is None:
            return [self._cell(method, point, number, after=after) for number, point in points]
        if not method.search:
            return self._finals(method, {}, 0, after)
        searched = [
            self._cell(method, point, number, seed, SEARCH, after)
            for number, point in points
            for seed in self.study.training.tried_seeds
        ]
        best = None if after else self._best(searched)
        if best is None:
            return searched + self._finals(method, {}, 0, after or searched[0].key)
        return searched + self._finals(method, best.point, best.point_index)

    def control_cells(self, control: Control, cells: Sequence[StudyCell]) -> list[StudyCell]:
        """The runs of a control if those it depends on, `cells`, are finished; placeholders of them if not."""
        best = self._best(cells)
        if best is None:
            return self.cells(control.waiting, after=cells[0].key)
        method = control.method(best)
        return self.cells(method) if method else []

    def _best(self, cells: Sequence[StudyCell]) -> Run | None:
        """The best point of these runs, once all are done; none if the machine aborted every one of them."""
        if self.folder is None or store.pending(self.folder, (cell.key for cell in cells)):
            return None
        ended = [store.load_run(self.folder, planned(cell, "")) for cell in cells]
        runs = [run for run in ended if run.status != ABORTED]
        return ranking.best_run(runs) if runs else None

    def _finals(self, method: MethodSpec, point: Point, number: int, after: str = "") -> list[StudyCell]:
        seeds = self.study.training.seeds if self.study.training else 0
        return [self._cell(method, point, number, seed, FINAL, after) for seed in range(1, seeds + 1)]

    def _cell(
        self, method: MethodSpec, point: Point, number: int, seed: int = 0, stage: str = "", after: str = ""
    ) -> StudyCell:
        if after:
            wanted = {"waiting": method.name, "number": number, "seed": seed, "stage": stage, "after": after}
            return StudyCell(self.problem, method, {}, number, {}, store.key_of(wanted), False, seed, stage)
        configuration = {"problem": self.description, "method": method.configuration, "point": point}
        configuration |= self._of_the_run(method, seed, stage)
        return StudyCell(
            self.problem, method, point, number, configuration, store.key_of(configuration), True, seed, stage
        )

    def _of_the_run(self, method: MethodSpec, seed: int, stage: str) -> dict[str, Any]:
        own = method.configuration
        metric = str(own.get("metric", ""))
        if isinstance(self.study.runs, Evaluations):
            return asdict(self.study.runs) | numerics.in_key(numerics.EVALUATIONS, metric)
        training = self.study.runs
        return {
            "steps": training.steps,
            "schedule": own.get("schedule", training.schedule),
            "warmup": own.get("warmup", training.warmup),
            "seed": seed,
            "test": stage == FINAL,
            "device": training.device,
            **numerics.in_key(numerics.TRAINING, metric),
        }


def _digest(study: Study, problem: ProblemSpec, data_dir: Path | None) -> dict[str, str]:
    """The digest of a problem's data file: other data under the same path is another run."""
    if study.training and not is_own(problem.kind):
        from proxmom.study import training

        try:
            digest = training.data_digest(problem.kind, data_dir, **problem.arguments)
        except (ValueError, TypeError) as error:
            raise StudyError(f"{problem.where}: {error}") from error
    else:
        data = str(problem.arguments.get("data", ""))
        digest = _file_digest(data, datasets.directory_of(data, data_dir, problem.folder))
    return {"data_digest": digest} if digest else {}


def _file_digest(data: str, data_dir: Path | None) -> str:
    file = (datasets.directory(data_dir) or Path()) / datasets.parts_of(data)[0]
    if data in datasets.DATA_NAMES or not file.is_file():
        return ""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
