"""The engine for clusters: runs as jobs of SLURM through submitit, or as jobs of this computer to try it out.

Jobs outlive the process that submitted them. Which ones there are stands in `jobs/submitted.jsonl`, and a later start
waits for those that are still there instead of submitting their runs again. A start that was killed before it wrote
that has left what each of its jobs reads to begin, which holds the job's runs as well. Should two jobs have the same
run after all, the lock of its directory makes one of them wait, and it then finds the run done.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxmom.study.plan.cells import StudyCell
from proxmom.study.plan.config import Study
from proxmom.study.problems.collection import Problem
from proxmom.study.record import store
from proxmom.study.record.faults import ABORTED
from proxmom.study.run.engines import CHUNK, Problems, checked, chunks, require_device
from proxmom.study.run.progress import Progress
from proxmom.study.run.work import Worker

EVERY = 1.0  # seconds between looks
PATIENCE = 120.0  # seconds until a file that was written on another computer must be seen here
CLOSING = 5.0  # seconds that a job may take to end after its last run
LARGEST_ARRAY = 1000  # tasks in a job array: SLURM's own limit is 1001 unless it is set otherwise
REQUEUED = 100  # times that a job whose time is up goes on: each time from its run's checkpoint
_BEGIN = "_submitted.pkl"  # after a job's id: what it reads to begin, and waits for until submitit has put it there
_THERE = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "SUSPENDED", "PREEMPTED")
_NO_FAULT = ("CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REVOKED", "INTERRUPTED")


@dataclass(frozen=True)
class _Submitted:
    """A job, and the runs it was handed; earlier: submitted by an earlier start."""

    job: Any
    keys: tuple[str, ...]
    earlier: bool = False


@dataclass(frozen=True)
class _Task:
    """What a job does; submitit calls `checkpoint` when its time is nearly up, and submits what that returns."""

    worker: Worker
    problem: Problem | None
    cells: Sequence[StudyCell]

    def __call__(self) -> int:
        return self.worker(self.problem, self.cells)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Cluster:
    """Runs cells as jobs.

    Args:
        kind: "slurm", or "local" for processes of this computer that submitit starts and watches like jobs.
        jobs: the most at a time; -1 is all at once or, for "local", one per core.
        options: of sbatch, by the names that submitit has for them: partition, time (in minutes), gpus_per_node, ...

    Raises:
        ValueError: for an unknown kind or option, no time, no SLURM here, and jobs = 0 or below -1.
    """

    def __init__(self, kind: str, jobs: int = -1, options: Mapping[str, str] | None = None) -> None:
        if kind not in ("slurm", "local"):
            raise ValueError(f"kind must be one of slurm, local, got {kind!r}.")
        self._kind, self._jobs, self._here = kind, checked(jobs), kind == "local"
        self._parameters = _of_this_computer() if self._here else _of_sbatch(options or {}, jobs)
        if not self._here:
            self._executor(Path("jobs"))  # it says what is wrong with the options

    def check(self, study: Study) -> None:
        """Raises StudyError if jobs of this computer would need a GPU that it has not."""
        if self._here:
            require_device(study)

    def run(self, worker: Worker, problems: Problems, todo: Sequence[StudyCell], progress: Progress) -> None:
        """Runs the cells as jobs, and waits for them and for those of earlier starts.

        Raises:
            ChildProcessError: if jobs did not begin their runs, or were ended from outside; the study can go on.
        """
        folder = worker.folder / "jobs"
        folder.mkdir(exist_ok=True)
        while todo:
            self._round(worker, problems, todo, progress, folder)
            missing = set(store.pending(worker.folder, (cell.key for cell in todo)))
            todo = [cell for cell in todo if cell.key in missing]
        _tidy(folder)

    def _round(
        self, worker: Worker, problems: Problems, todo: Sequence[StudyCell], progress: Progress, folder: Path
    ) -> None:
        """Submits each cell that no job has, and waits until no job is left."""
        executor, ended = self._executor(folder), list[str]()
        waiting = self._earlier(folder, [cell.key for cell in todo])
        missing = set(store.pending(worker.folder, (cell.key for cell in todo)))  # looked at after those jobs
        missing -= {key for submitted in waiting for key in submitted.keys}
        queue = deque(self._tasks(worker, problems, [cell for cell in todo if cell.key in missing]))
        try:
            while queue or waiting:
                waiting += self._submit(executor, folder, queue, len(waiting))
                time.sleep(EVERY)
                for submitted in [each for each in waiting if self._over(each, worker.folder)]:
                    waiting.remove(submitted)
                    ended += _settle(submitted, worker.folder)
                    progress.advance(len(submitted.keys) - len(store.pending(worker.folder, submitted.keys)))
        except KeyboardInterrupt:
            if not self._here:
                ids = " ".join(dict.fromkeys(each.job.job_id.partition("_")[0] for each in waiting))
                print(f"Jobs go on: scancel {ids} ends them; otherwise the next start waits for them.", file=sys.stderr)
            raise
        if ended:
            raise ChildProcessError(f"{'; '.join(ended)}. What is done is kept; the same command does the rest.")

    def _executor(self, folder: Path) -> Any:
        import submitit

        kind = submitit.LocalExecutor if self._here else submitit.SlurmExecutor
        executor = kind(folder, max_num_timeout=REQUEUED)
        executor.update_parameters(**self._parameters)
        return executor

    def _tasks(self, worker: Worker, problems: Problems, cells: Sequence[StudyCell]) -> Iterator[_Task]:
        jobs = os.cpu_count() or 1 if self._jobs == -1 else self._jobs
        for chunk in chunks(worker, cells, jobs, max(CHUNK, math.ceil(len(cells) / LARGEST_ARRAY))):
            yield _Task(worker, problems.get(chunk[0].problem), chunk)

    def _submit(self, executor: Any, folder: Path, queue: deque[_Task], there: int) -> list[_Submitted]:
        """Submits tasks of the queue: to SLURM all, as an array that looks after their number, else what has room."""
        room = (os.cpu_count() or 1 if self._jobs == -1 else self._jobs) - there if self._here else LARGEST_ARRAY
        tasks = [queue.popleft() for _ in range(min(room, len(queue)))]
        if not tasks:
            return []
        try:
            with executor.batch():
                jobs = [executor.submit(task) for task in tasks]
        except RuntimeError as error:
            raise ChildProcessError(f"jobs cannot be submitted: {error}") from error
        submitted = [
            _Submitted(job, tuple(cell.key for cell in task.cells)) for job, task in zip(jobs, tasks, strict=True)
        ]
        self._write_down(folder, submitted)
        return submitted

    def _write_down(self, folder: Path, submitted: Iterable[_Submitted]) -> None:
        with (folder / "submitted.jsonl").open("a", encoding="utf-8") as file:
            for each in submitted:
                file.write(json.dumps({"kind": self._kind, "job": each.job.job_id, "keys": each.keys}) + "\n")

    def _earlier(self, folder: Path, wanted: Iterable[str]) -> list[_Submitted]:
        """The jobs of earlier starts that are still there and have runs among the wanted ones."""
        import submitit

        kind: Any = submitit.LocalJob if self._here else submitit.SlurmJob
        keys, listed = set(wanted), dict[str, tuple[str, ...]]()
        for line in _lines(folder / "submitted.jsonl"):
            # The last line of a start that was killed may be cut, and what is no job is none.
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                entry = json.loads(line)
                if entry["kind"] == self._kind:
                    listed[str(entry["job"])] = tuple(dict.fromkeys(entry["keys"]))
        found = [kind(folder, job) for job, own in listed.items() if keys & set(own)]
        there = [_Submitted(job, listed[job.job_id], earlier=True) for job in found if self._there(job)]
        for name in sorted({file.name.removesuffix(_BEGIN) for file in folder.glob(f"*{_BEGIN}")} - set(listed)):
            if self._there(job := kind(folder, name)) and keys & set(own := _handed(job)):
                there.append(_Submitted(job, own, earlier=True))
        return there

    def _there(self, job: Any) -> bool:
        """Whether the job of an earlier start waits or runs."""
        if self._here:
            # ps cuts lines at COLUMNS, also those that no terminal sees, unless it is told -ww.
            line = subprocess.run(["ps", "-ww", "-p", job.job_id, "-o", "command="], capture_output=True, text=True)
            return "submitit" in line.stdout
        return not job.done(force_check=True) and job.state.startswith(_THERE)

    def _over(self, submitted: _Submitted, folder: Path) -> bool:
        if not store.pending(folder, submitted.keys):
            return True
        return not self._there(submitted.job) if submitted.earlier and self._here else bool(submitted.job.done())


def _of_this_computer() -> dict[str, Any]:
    """Time without end, and the GPUs, if torch is there to count them."""
    with contextlib.suppress(ModuleNotFoundError):
        import torch

        return {"timeout_min": 60 * 24 * 365, "gpus_per_node": torch.cuda.device_count()}
    return {"timeout_min": 60 * 24 * 365}


def _of_sbatch(options: Mapping[str, str], jobs: int) -> dict[str, Any]:
    if shutil.which("sbatch") is None:
        raise ValueError(
            "there is no SLURM here, that is no sbatch on the PATH: start the study where jobs are sent off."
        )
    if not options.get("time", "").isdigit():
        raise ValueError(f"SLURM must be told a job's time in minutes, as in time=240, got {options.get('time')!r}.")
    values: dict[str, Any] = {key: int(text) if text.isdigit() else text for key, text in options.items()}
    if "setup" in values:
        values["setup"] = [values["setup"]]
    return {"job_name": "proxmom", "array_parallelism": LARGEST_ARRAY if jobs == -1 else jobs, **values}


def _handed(job: Any) -> tuple[str, ...]:
    """The keys of the runs that a job was handed, from the file it reads to begin; none if that cannot be read."""
    from submitit.helpers import DelayedSubmission

    with contextlib.suppress(Exception):  # of another version of this package, or gone meanwhile
        task: Any = DelayedSubmission.load(job.paths.submitted_pickle).function
        return tuple(cell.key for cell in task.cells)
    return ()


def _settle(submitted: _Submitted, folder: Path) -> list[str]:
    """Looks at what a job that is over left undone: nothing, or the run that ended it, which was aborted.

    Returns why, if it was ended from outside. Raises ChildProcessError if no run is to blame.
    """
    job = submitted.job
    if not store.pending(folder, submitted.keys):
        _wait(job.paths.result_pickle.exists, CLOSING)
    if job.paths.result_pickle.exists() and job.exception() is None:
        _wait(lambda: _seen(folder, submitted.keys), PATIENCE)
        _remove_files(job)
    left = store.pending(folder, submitted.keys)
    if not left or submitted.earlier:  # what an earlier job left is submitted again
        return []
    if job.state.startswith(_NO_FAULT):
        return [f"job {job.job_id} is {job.state}"]
    begun = [key for key in left if store.run_directory(folder, key).is_dir()]
    if job.paths.result_pickle.exists() or not begun:
        lines = _lines(job.paths.stderr) or [f"it is {job.state}"]
        raise ChildProcessError(f"job {job.job_id} could not do its runs: {lines[-1].strip()} ({job.paths.stderr}).")
    cause = f"the job is {job.state}, and its process ended: killed, or out of memory"
    store.mark_ended(store.run_directory(folder, begun[0]), ABORTED, cause)
    return []


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)


def _seen(folder: Path, keys: Sequence[str]) -> bool:
    """Whether the end markers of runs are there; shared file systems show what another computer wrote after a while."""
    left = store.pending(folder, keys)
    for key in left:
        list(store.run_directory(folder, key).iterdir())  # makes the system look again
    return not left


def _remove_files(job: Any) -> None:
    paths = job.paths
    for file in (paths.submitted_pickle, paths.result_pickle, paths.stdout, paths.stderr, paths.submission_file):
        file.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Once nothing is missing: the list of jobs goes, logs of those that failed stay."""
    for file in (folder / "submitted.jsonl", *folder.glob(".submission_file_*.sh")):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
