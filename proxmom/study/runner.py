"""Running a study: only what is missing, through one of the engines, and killed at any time without harm.

The main process builds each problem that has runs to do, once, before anything is written: it takes seconds,
missing or broken data is found at once, and workers get the finished problem instead of certifying it again. Training
tasks are only checked; each run builds its own, with its seed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from threadpoolctl import threadpool_limits

from proxmom.study import store
from proxmom.study.cells import Cell, plan, planned
from proxmom.study.config import ProblemSpec, Study, StudyError, load_study
from proxmom.study.engines import Engine, Processes
from proxmom.study.problems import Problem, build_problem
from proxmom.study.progress import Progress
from proxmom.study.provenance import provenance
from proxmom.study.work import Worker


def run_study(
    path: str | Path,
    out: str | Path | None = None,
    jobs: int = -1,
    data: str | Path | None = None,
    quiet: bool | None = None,
    retry_failed: bool = False,
    rules: Sequence[str] = (),
    engine: Engine | None = None,
) -> Path:
    """Runs what is missing of a study and returns the folder of its results.

    Args:
        path: the study file.
        out: the folder of the results; default `results/<name of the study>` under the current directory.
        jobs: processes; -1 for one per core, or per GPU of a study on "cuda". Results do not depend on it.
        data: where relative paths of data files start.
        quiet: whether to hide the progress bar; default: shown if stderr is a terminal.
        retry_failed: whether runs whose method raised are run again; those that diverged are results and stay.
        rules: further methods, by name or import path, with lr searched on as many points as the others have.
        engine: what runs the cells, instead of so many processes of this computer.

    Raises:
        StudyError: for anything wrong with the study or its data, before anything is written.
        ValueError: for jobs = 0 or below -1.
        KeyboardInterrupt: on Ctrl-C, after one line that says how to go on; finished runs are kept.
    """
    engine = engine or Processes(jobs)
    study, data_dir = load_study(path, rules), None if data is None else Path(data).resolve()
    if engine.here:
        _check_device(study, path)
    folder = Path(out) if out is not None else Path("results") / study.name
    if retry_failed:
        store.forget_failed(folder, (cell.key for cell in plan(study, data_dir, folder)))
    while _run_what_is_ready(study, data_dir, folder, engine, quiet):
        pass  # more becomes ready when what it depends on is done
    return folder


def _run_what_is_ready(study: Study, data_dir: Path | None, folder: Path, engine: Engine, quiet: bool | None) -> bool:
    """Runs what is missing and can be run; whether cells remain that had to wait for it."""
    cells = list(plan(study, data_dir, folder))
    missing = set(store.pending(folder, (cell.key for cell in cells)))
    todo = list({cell.key: cell for cell in cells if cell.ready and cell.key in missing}.values())
    problems, found = _prepare(study, data_dir, list(dict.fromkeys(cell.problem for cell in todo)))
    names = _names(study, found, cells, folder)
    folder.mkdir(parents=True, exist_ok=True)
    store.write_atomically(folder / "study.toml", study.text)
    store.write_plan(folder, [planned(cell, names[cell.problem]) for cell in cells])
    worker = Worker(folder.resolve(), study, data_dir, names, provenance())
    steps = study.training.steps if study.training else 0
    try:
        with Progress(folder, [cell.key for cell in todo], steps, quiet) as progress:
            engine.run(worker, problems, todo, progress)
    except KeyboardInterrupt:
        kept = len(cells) - len(store.pending(folder, (cell.key for cell in cells)))
        print(f"Interrupted. {kept} of {len(cells)} runs are kept; the same command does the rest.", file=sys.stderr)
        raise
    return not all(cell.ready for cell in cells)


def _check_device(study: Study, path: str | Path) -> None:
    if study.training and study.training.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise StudyError(f"{path}: device 'cuda' needs a GPU, and torch {torch.__version__} sees none here.")


def _prepare(study: Study, data_dir: Path | None, wanted: Sequence[int]) -> tuple[dict[int, Problem], dict[int, str]]:
    """The problems with these indices, of a deterministic study, and their names; training tasks are only checked."""
    if study.training:
        return {}, {index: _describe(study.problems[index], data_dir) for index in wanted}
    problems = {index: _build(study.problems[index], data_dir) for index in wanted}
    return problems, {index: problem.name for index, problem in problems.items()}


def _describe(problem: ProblemSpec, data_dir: Path | None) -> str:
    from proxmom.study import training

    try:
        return training.describe_task(problem.kind, data_dir, **problem.arguments)
    except (ValueError, TypeError) as error:
        raise StudyError(f"{problem.where}: {error}") from error


def _build(problem: ProblemSpec, data_dir: Path | None) -> Problem:
    name = {"name": problem.name} if problem.name else {}
    try:
        with threadpool_limits(1):  # as in the runs: more threads would round differently
            return build_problem(problem.kind, data_dir, **problem.arguments, **name)
    except (ValueError, TypeError) as error:
        raise StudyError(f"{problem.where}: {error}") from error


def _names(study: Study, found: Mapping[int, str], cells: Iterable[Cell], folder: Path) -> list[str]:
    """The display name of each problem; those that have nothing to do were named by their finished runs."""
    first = {cell.problem: cell.key for cell in reversed(list(cells))}
    names = []
    for index, problem in enumerate(study.problems):
        names.append(problem.name or found.get(index) or store.stored_problem(folder, first[index]))
        if names.count(names[-1]) > 1:
            raise StudyError(f"{problem.where}: two problems are called {names[-1]!r}; give one a name.")
    return names
