"""Engines: who runs the cells of a study. The processes of this machine here; a cluster and torchrun beside it."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from proxmom.study.plan.cells import StudyCell
from proxmom.study.plan.config import Study, StudyError
from proxmom.study.problems.collection import Problem
from proxmom.study.record import store
from proxmom.study.record.faults import ABORTED, status_of_process
from proxmom.study.run.progress import Progress
from proxmom.study.run.work import Worker

Problems = Mapping[int, Problem]  # of deterministic studies, by their index; training tasks are built where they run
CHUNK = 4  # most runs handed to a worker at once: more saves overhead, fewer keep all workers busy to the end


class Engine(Protocol):
    """Runs cells; returns when all are done. A run that ended its process is marked as such."""

    def check(self, study: Study) -> None:
        """Raises StudyError for a study that it cannot run; called before anything is written."""
        ...

    def run(self, worker: Worker, problems: Problems, todo: Sequence[StudyCell], progress: Progress) -> None:
        """Runs the cells, telling `progress` how many more are done."""
        ...


class Processes:
    """Processes of this computer, through joblib.

    Args:
        jobs: how many; -1 is one per core or, in a training study on "cuda", per GPU.

    Raises:
        ValueError: for jobs = 0 or below -1.
    """

    def __init__(self, jobs: int = -1) -> None:
        self._jobs = checked(jobs)

    def check(self, study: Study) -> None:
        """Raises StudyError if the study wants a GPU and there is none."""
        require_device(study)

    def run(self, worker: Worker, problems: Problems, todo: Sequence[StudyCell], progress: Progress) -> None:
        """Runs the cells; when a process dies its runs are tried apart, and the others go on."""
        while todo:
            try:
                return self._parallel(worker, problems, todo, progress)
            except TerminatedWorkerError:
                suspects = _under_way(worker.folder, todo)
                if not suspects:
                    raise  # no run is to blame, so trying again would not help
                print(
                    f"A process was killed, or ran out of memory. Runs under way: {len(suspects)}. Each is tried again "
                    "in a process of its own, and is given up for now if it ends that one, too.",
                    file=sys.stderr,
                )
                for cell in suspects:
                    _run_apart(worker, problems.get(cell.problem), cell)
                missing = set(store.pending(worker.folder, (cell.key for cell in todo)))
                todo = [cell for cell in todo if cell.key in missing]

    def _parallel(self, worker: Worker, problems: Problems, todo: Sequence[StudyCell], progress: Progress) -> None:
        jobs = _per_gpu(self._jobs) if _device(worker) == "cuda" else effective_n_jobs(self._jobs)
        tasks = (_task(worker, problems.get(chunk[0].problem), chunk) for chunk in chunks(worker, todo, jobs))
        with parallel_config(backend="loky", inner_max_num_threads=1):
            for finished in Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks):
                progress.advance(finished)


def require_device(study: Study) -> None:
    """Raises StudyError if the study trains on a device that this computer has not."""
    if study.training and study.training.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise StudyError(f"device 'cuda' in [study] needs a GPU, and torch {torch.__version__} sees none here.")


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def checked(jobs: int) -> int:
    """`jobs`; ValueError for 0 or below -1."""
    if jobs == 0 or jobs < -1:
        raise ValueError(f"jobs must be >= 1, or -1 for one per core, got {jobs}.")
    return jobs


def chunks(worker: Worker, todo: Sequence[StudyCell], jobs: int, most: int = CHUNK) -> list[list[StudyCell]]:
    """Runs of one problem in each chunk, one alone in training; problems take turns, so that time is guessed well."""
    by_problem: dict[int, list[StudyCell]] = defaultdict(list)
    for cell in todo:
        by_problem[cell.problem].append(cell)
    size = 1 if worker.study.training else max(1, min(most, len(todo) // (4 * jobs)))
    columns = [[cells[i : i + size] for i in range(0, len(cells), size)] for cells in by_problem.values()]
    return [chunk for row in zip_longest(*columns) for chunk in row if chunk]


def _task(worker: Worker, problem: Problem | None, cells: Sequence[StudyCell]) -> Any:
    return delayed(_in_worker)(os.getpid(), worker, problem, cells)


def _in_worker(main_process: int, worker: Worker, problem: Problem | None, cells: Sequence[StudyCell]) -> int:
    if os.getpid() != main_process:
        _follow(main_process)
    if _device(worker) == "cuda":
        _choose_gpu(worker.folder)
    return worker(problem, cells)


def _under_way(folder: Path, cells: Sequence[StudyCell]) -> list[StudyCell]:
    """The cells that were begun and not finished: one of them ended its process."""
    missing = set(store.pending(folder, (cell.key for cell in cells)))
    return [cell for cell in cells if cell.key in missing and store.run_directory(folder, cell.key).is_dir()]


def _run_apart(worker: Worker, problem: Problem | None, cell: StudyCell) -> None:
    """One run in a process of its own, so that it is known which one ends its process."""
    try:
        with parallel_config(backend="loky", inner_max_num_threads=1):
            Parallel(n_jobs=2)([_task(worker, problem, [cell])])
    except TerminatedWorkerError as error:
        codes = re.search(r"exit codes of the workers are (\{.*?\})", str(error))
        cause = f"the process ended with {codes[1]}" if codes else "the process ended"
        status = status_of_process(codes[1] if codes else "")
        ended = f"{cause}: killed, or out of memory" if status == ABORTED else cause
        store.mark_ended(store.run_directory(worker.folder, cell.key), status, ended)


def _device(worker: Worker) -> str:
    return worker.study.training.device if worker.study.training else "cpu"


def _per_gpu(jobs: int) -> int:
    import torch

    return torch.cuda.device_count() if jobs == -1 else jobs


@cache
def _choose_gpu(folder: Path) -> None:
    """Takes the first GPU that no other process of this study has, and keeps it until this one ends."""
    import torch

    for number in range(torch.cuda.device_count()):
        if store.try_lock(folder / f"gpu-{number}.lock"):
            return torch.cuda.set_device(number)


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
