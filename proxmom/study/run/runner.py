"""Running a study: only what is missing, through one of the engines, and killed at any time without harm.

The main process builds each problem that has runs to do, once, before anything is written: it takes seconds,
missing or broken data is found at once, and workers get the finished problem instead of certifying it again. Training
tasks are only checked; each run builds its own, with its seed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from proxmom.study.plan.cells import StudyCell, plan, planned, require_own
from proxmom.study.plan.config import ProblemSpec, Study, StudyError, load_study
from proxmom.study.plan.decisions import check_problems
from proxmom.study.problems import data as datasets
from proxmom.study.problems.collection import Problem, build_problem
from proxmom.study.problems.own import build_own, is_own
from proxmom.study.record import store
from proxmom.study.record.faults import ABORTED, FAILED
from proxmom.study.record.provenance import provenance
from proxmom.study.run.engines import Engine, Processes
from proxmom.study.run.finished import StudyFolder
from proxmom.study.run.progress import Progress
from proxmom.study.run.work import Worker


def run_study(
    path: str | Path,
    out: str | Path | None = None,
    jobs: int = -1,
    data: str | Path | None = None,
    quiet: bool | None = None,
    retry_failed: bool = False,
    rules: Sequence[str] = (),
    engine: Engine | None = None,
    steps: int | None = None,
) -> StudyFolder:
    """Runs what is missing of a study and returns the folder of its results, which shows what is in it.

    Args:
        path: the study file.
        out: the folder of the results; default `results/<name of the study>` under the current directory.
        jobs: processes; -1 for one per core, or per GPU of a study on "cuda". Results do not depend on it.
        data: where relative paths of data files start.
        quiet: whether to hide the progress bar; default: shown in a notebook, and if stderr is a terminal.
        retry_failed: whether runs whose method raised are run again; those that diverged are results and stay. Runs
            that the machine aborted (disk, memory, device, killed) are no results, and are always run again.
        rules: further methods, by name or import path, with lr searched on as many points as the others have.
        engine: what runs the cells, instead of so many processes of this computer.
        steps: of each run, >= 1, instead of those of a training study, whose name they become a part of.

    Raises:
        StudyError: for anything wrong with the study or its data, before anything is written.
        ValueError: for jobs = 0 or below -1.
        KeyboardInterrupt: on Ctrl-C, after one line that says how to go on; finished runs are kept.
    """
    engine = engine or Processes(jobs)
    study, data_dir = load_study(path, rules, steps), None if data is None else Path(data).resolve()
    engine.check(study)
    folder = Path(out) if out is not None else Path("results") / study.name
    keys = [cell.key for cell in plan(study, data_dir, folder)]
    require_own(folder, study, keys)
    store.reopen(folder, keys, (ABORTED, FAILED) if retry_failed else (ABORTED,))
    start = _Start(study, data_dir, folder, engine, quiet)
    while start.run_what_is_ready():
        pass  # more becomes ready when what it depends on is done
    return StudyFolder(folder)


@dataclass(frozen=True)
class _Start:
    """One start of a study. problems, names: of those that were needed so far, by the index of the problem."""

    study: Study
    data_dir: Path | None
    folder: Path
    engine: Engine
    quiet: bool | None
    problems: dict[int, Problem] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def run_what_is_ready(self) -> bool:
        """Runs what is missing and can be run; whether cells remain that had to wait for it."""
        cells = list(plan(self.study, self.data_dir, self.folder))
        missing = set(store.pending(self.folder, (cell.key for cell in cells)))
        todo = list({cell.key: cell for cell in cells if cell.ready and cell.key in missing}.values())
        for index in dict.fromkeys(cell.problem for cell in todo):
            self._prepare(index)
        names = self._all_names(cells)
        check_problems(self.study.decisions, names)
        with store.named_if_unwritable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            store.write_atomically(self.folder / "study.toml", self.study.text)
            store.write_plan(self.folder, [planned(cell, names[cell.problem]) for cell in cells])
        worker = Worker(self.folder.resolve(), self.study, self.data_dir, names, provenance())
        steps = self.study.training.steps if self.study.training else 0
        try:
            with Progress(self.folder, [cell.key for cell in todo], steps, self.quiet) as progress:
                self.engine.run(worker, self.problems, todo, progress)
        except KeyboardInterrupt:
            kept = len(cells) - len(store.pending(self.folder, (cell.key for cell in cells)))
            print(
                f"Interrupted. {kept} of {len(cells)} runs are kept; the same command does the rest.", file=sys.stderr
            )
            raise
        # Where nothing could be done, nothing more becomes ready: what it waits for was aborted.
        return bool(todo) and not all(cell.ready for cell in cells)

    def _prepare(self, index: int) -> None:
        """Builds a problem and, of a training study, only checks it; raises StudyError for what is wrong with it."""
        if index in self.names:
            return
        problem = self.study.problems[index]
        try:
            if self.study.training:
                self.names[index] = _described(problem, self.data_dir)
            else:
                self.problems[index] = _built(problem, self.data_dir)
                self.names[index] = self.problems[index].name
        except (ValueError, TypeError) as error:
            raise StudyError(f"{problem.where}: {error}") from error

    def _all_names(self, cells: Iterable[StudyCell]) -> list[str]:
        """The display name of each problem; those that have nothing to do were named by their finished runs."""
        first = {cell.problem: cell.key for cell in reversed(list(cells))}
        names: list[str] = []
        for index, problem in enumerate(self.study.problems):
            found = problem.name or self.names.get(index) or store.stored_problem(self.folder, first[index])
            if found in names:
                raise StudyError(f"{problem.where}: two problems are called {found!r}; give one a name.")
            names.append(found)
        return names


def _described(problem: ProblemSpec, data_dir: Path | None) -> str:
    from proxmom.study import training

    return training.describe_task(problem.kind, data_dir, problem.folder, **problem.arguments)


def _built(problem: ProblemSpec, data_dir: Path | None) -> Problem:
    name: dict[str, Any] = {"name": problem.name} if problem.name else {}
    if is_own(problem.kind):
        built = build_own(problem.kind, Path(problem.folder), problem.source, **problem.arguments)
        return replace(built, **name)
    place = datasets.directory_of(str(problem.arguments.get("data", "")), data_dir, problem.folder)
    return build_problem(problem.kind, place, **problem.arguments, **name)
