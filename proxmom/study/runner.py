"""Running a study: only what is missing, over the cores, and killed at any time without harm.

The main process builds each problem that has runs to do, once, before anything is written: it takes seconds,
missing or broken data is found at once, and workers get the finished problem instead of certifying it again.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from proxmom.study import store
from proxmom.study.cells import Cell, plan, planned
from proxmom.study.config import ProblemSpec, Study, StudyError, load_study
from proxmom.study.methods import Oracle, run_method
from proxmom.study.problems import Problem, build_problem
from proxmom.study.provenance import provenance

CHUNK = 4  # most runs handed to a worker at once: more saves overhead, fewer keep all workers busy to the end


def run_study(
    path: str | Path,
    out: str | Path | None = None,
    jobs: int = -1,
    data: str | Path | None = None,
    quiet: bool | None = None,
    retry_failed: bool = False,
    rules: Sequence[str] = (),
) -> Path:
    """Runs what is missing of a study and returns the folder of its results.

    Args:
        path: the study file.
        out: the folder of the results; default `results/<name of the study>` under the current directory.
        jobs: processes; -1 for one per core. Results do not depend on it.
        data: where relative paths of data files start.
        quiet: whether to hide the progress bar; default: shown if stderr is a terminal.
        retry_failed: whether runs whose method raised are run again; those that diverged are results and stay.
        rules: further methods, by name or import path, with lr searched on as many points as the others have.

    Raises:
        StudyError: for anything wrong with the study or its data, before anything is written.
        ValueError: for jobs = 0 or below -1.
        KeyboardInterrupt: on Ctrl-C, after one line that says how to go on; finished runs are kept.
    """
    if jobs == 0 or jobs < -1:
        raise ValueError(f"jobs must be >= 1, or -1 for one per core, got {jobs}.")
    study, data_dir = load_study(path, rules), None if data is None else Path(data)
    folder = Path(out) if out is not None else Path("results") / study.name
    if retry_failed:
        store.forget_failed(folder, (cell.key for cell in plan(study, data_dir, folder)))
    while _run_what_is_ready(study, data_dir, folder, jobs, quiet):
        pass  # controls become ready when what they depend on is done
    return folder


def _run_what_is_ready(study: Study, data_dir: Path | None, folder: Path, jobs: int, quiet: bool | None) -> bool:
    """Runs what is missing and can be run; whether cells remain that had to wait for it."""
    cells = list(plan(study, data_dir, folder))
    missing = set(store.pending(folder, (cell.key for cell in cells)))
    todo = list({cell.key: cell for cell in cells if cell.ready and cell.key in missing}.values())
    problems = {index: _build(study.problems[index], data_dir) for index in dict.fromkeys(c.problem for c in todo)}
    names = _names(study, problems, cells, folder)
    folder.mkdir(parents=True, exist_ok=True)
    store.write_atomically(folder / "study.toml", study.text)
    store.write_plan(folder, [planned(cell, names[cell.problem]) for cell in cells])
    try:
        _run_all(_Worker(folder.resolve(), study, names, provenance()), problems, todo, jobs, quiet)
    except KeyboardInterrupt:
        kept = len(cells) - len(store.pending(folder, (cell.key for cell in cells)))
        print(f"Interrupted. {kept} of {len(cells)} runs are kept; the same command does the rest.", file=sys.stderr)
        raise
    return not all(cell.ready for cell in cells)


def _build(problem: ProblemSpec, data_dir: Path | None) -> Problem:
    name = {"name": problem.name} if problem.name else {}
    try:
        with threadpool_limits(1):  # as in the runs: more threads would round differently
            return build_problem(problem.kind, data_dir, **problem.arguments, **name)
    except (ValueError, TypeError) as error:
        raise StudyError(f"{problem.where}: {error}") from error


def _names(study: Study, built: Mapping[int, Problem], cells: Iterable[Cell], folder: Path) -> list[str]:
    """The display name of each problem; those that need not be built were named by their finished runs."""
    first = {cell.problem: cell.key for cell in reversed(list(cells))}
    names = []
    for index, problem in enumerate(study.problems):
        found = built[index].name if index in built else store.stored_problem(folder, first[index])
        names.append(problem.name or found)
        if names.count(names[-1]) > 1:
            raise StudyError(f"{problem.where}: two problems are called {names[-1]!r}; give one a name.")
    return names


def _run_all(
    worker: _Worker, problems: Mapping[int, Problem], todo: Sequence[Cell], jobs: int, quiet: bool | None
) -> None:
    """Runs the cells; one that takes its process with it has failed, and the others go on."""
    while todo:
        try:
            return _run_parallel(worker, problems, todo, jobs, quiet)
        except TerminatedWorkerError:
            suspects = _under_way(worker.folder, todo)
            if not suspects:
                raise  # no run is to blame, so trying again would not help
            for cell in suspects:
                _run_apart(worker, problems[cell.problem], cell)
            missing = set(store.pending(worker.folder, (cell.key for cell in todo)))
            todo = [cell for cell in todo if cell.key in missing]


def _run_parallel(
    worker: _Worker, problems: Mapping[int, Problem], todo: Sequence[Cell], jobs: int, quiet: bool | None
) -> None:
    tasks = (delayed(worker)(problems[chunk[0].problem], chunk) for chunk in _chunks(todo, effective_n_jobs(jobs)))
    with (
        tqdm(total=len(todo), unit="run", disable=quiet, leave=False, file=sys.stderr) as bar,
        parallel_config(backend="loky", inner_max_num_threads=1),
    ):
        for finished in Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks):
            bar.update(finished)


def _under_way(folder: Path, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that were begun and not finished: one of them ended its process."""
    missing = set(store.pending(folder, (cell.key for cell in cells)))
    return [cell for cell in cells if cell.key in missing and store.run_directory(folder, cell.key).is_dir()]


def _run_apart(worker: _Worker, problem: Problem, cell: Cell) -> None:
    """One run in a process of its own, so that it is known which one ends its process."""
    try:
        with parallel_config(backend="loky", inner_max_num_threads=1):
            Parallel(n_jobs=2)([delayed(worker)(problem, [cell])])
    except TerminatedWorkerError as error:
        codes = re.search(r"exit codes of the workers are (\{.*?\})", str(error))
        cause = f"the process ended with {codes[1]}" if codes else "the process ended"
        store.mark_failed(store.run_directory(worker.folder, cell.key), f"{cause}: killed, or out of memory")


def _chunks(todo: Sequence[Cell], jobs: int) -> list[list[Cell]]:
    """Runs of one problem in each chunk; problems take turns, so that the time left is guessed well."""
    by_problem: dict[int, list[Cell]] = defaultdict(list)
    for cell in todo:
        by_problem[cell.problem].append(cell)
    size = max(1, min(CHUNK, len(todo) // (4 * jobs)))
    columns = [[cells[i : i + size] for i in range(0, len(cells), size)] for cells in by_problem.values()]
    return [chunk for row in zip_longest(*columns) for chunk in row if chunk]


@dataclass(frozen=True)
class _Worker:
    """What a worker process knows of the study; called with a problem and runs on it."""

    folder: Path
    study: Study
    names: Sequence[str]
    provenance: Mapping[str, Any]
    main_process: int = field(default_factory=os.getpid)

    def __call__(self, problem: Problem, cells: Sequence[Cell]) -> int:
        if os.getpid() != self.main_process:
            _follow(self.main_process)
        with threadpool_limits(1):  # also without workers: more threads would round differently
            for cell in cells:
                self._run(problem, cell)
        return len(cells)

    def _run(self, problem: Problem, cell: Cell) -> None:
        limit, target = self.study.max_evaluations, self.study.target
        with store.RunWriter(store.run_directory(self.folder, cell.key), self._describe(cell)) as writer:
            oracle = Oracle(problem, max_evaluations=limit, target=target, record=writer.append)
            writer.finish(run_method(cell.method.settings, problem, cell.point, oracle))

    def _describe(self, cell: Cell) -> dict[str, Any]:
        return {
            "key": cell.key,
            "configuration": cell.configuration,
            "problem": self.names[cell.problem],
            "method": cell.method.name,
            "variant_of": cell.method.variant_of,
            "point_index": cell.point_index,
            "seed": self.study.seed,
            "provenance": {**self.provenance, "started": datetime.now(UTC).isoformat(timespec="seconds")},
        }


@cache
def _follow(main_process: int) -> None:
    """Ties a worker to its main process: that one ends it on Ctrl-C, and if that one is killed it leaves, too.

    Otherwise the worker would go on with the runs it was handed, beside those of the next start.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave_with_it() -> None:
        while os.getppid() == main_process:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=leave_with_it, daemon=True).start()
