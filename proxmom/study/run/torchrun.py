"""The engine for training that is spread over processes by torchrun: run after run, each by all of them together.

The first process reads the study, decides what is missing, writes and prints; before each run it tells the others
which one comes. They know nothing else of the study. A process that fails alone ends them all: the others wait for it
in the middle of a step.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed.nn  # imported after the processes are connected it would keep their connection for good
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from proxmom.study.plan.cells import StudyCell
from proxmom.study.plan.config import Study, StudyError
from proxmom.study.problems.own import is_own
from proxmom.study.record.faults import ABORTED, FAILED
from proxmom.study.record.run import Ending
from proxmom.study.run.engines import Problems, require_device
from proxmom.study.run.progress import Progress
from proxmom.study.run.work import Worker
from proxmom.study.training.convex import KINDS

PATIENCE = timedelta(minutes=30)  # with a process that fell behind: an evaluation, a slow disk
GRACE = timedelta(minutes=1)  # for the others to fail as well, as they do where the method or the data is at fault
ALONE = "proxmom alone"  # written by a process that leaves: what the others meet then is its end, no failure of theirs


class Torchrun:
    """All processes that torchrun started; a context manager, inside which they are connected.

    leads: whether this is the first process, which alone may call `run_study`; the others call `follow`.
    """

    def __init__(self) -> None:
        self.leads = os.environ["RANK"] == "0"
        self._in_step = True  # whether all are between two runs, where the others wait for the next one

    def __enter__(self) -> Torchrun:
        gpus = torch.cuda.is_available()
        if gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        self._store, rank, size = next(rendezvous("env://"))  # also reached while others are in the middle of a step
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        distributed.init_process_group(backend, store=self._store, rank=rank, world_size=size, timeout=PATIENCE)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if not self._in_step or (kind is not None and not issubclass(kind, Exception)):
            return  # the others cannot listen; torchrun ends them with this process
        if self.leads:
            _tell(None)
        gc.collect()  # networks that refer to the connection; its threads must be gone before Python shuts down
        distributed.destroy_process_group()

    def check(self, study: Study) -> None:
        """Raises StudyError for a study that does not train, a missing GPU, or batches that cannot be shared out."""
        if study.training is None:
            raise StudyError(
                "torchrun spreads training over processes, and this study does not train: start it without torchrun, "
                "where --jobs says how many runs go on at a time."
            )
        require_device(study)
        size = distributed.get_world_size()
        for problem in study.problems:
            if problem.kind in KINDS or is_own(problem.kind):
                raise StudyError(
                    f"{problem.where}: a {problem.kind} problem is trained by one process: leave torchrun out."
                )
            if (batch := problem.arguments.get("batch", size)) % size:
                raise StudyError(f"{problem.where}: batch must be a multiple of the {size} processes, got {batch}.")

    def run(self, worker: Worker, problems: Problems, todo: Sequence[StudyCell], progress: Progress) -> None:
        """Runs the cells one after another."""
        for cell in todo:
            with worker.writing(cell) as writer:
                if writer is not None:
                    self._in_step = False
                    _tell((worker, cell))
                    writer.finish(self._train(worker, cell, writer.record))
                    self._in_step = True
            progress.advance(1)

    def follow(self) -> None:
        """What the other processes do until the first one has no more runs."""
        while (told := _tell(None)) is not None:
            worker, cell = told
            self._in_step = False
            self._train(worker, cell, lambda row: None)
            self._in_step = True

    def _train(self, worker: Worker, cell: StudyCell, record: Callable[[Mapping[str, Any]], None]) -> Ending:
        """One run by all; StudyError if it failed in some of the processes, not in all."""
        outcome = worker.train(cell, record)
        rank, size, store = distributed.get_rank(), distributed.get_world_size(), self._store
        mine = f"process {rank}: {outcome.message}" if outcome.status in (FAILED, ABORTED) else ""
        keys = [f"proxmom {cell.key} {number}" for number in range(size)]
        store.set(keys[rank], mine)
        try:
            store.wait(keys, GRACE if mine else PATIENCE)
        except RuntimeError:
            store.set(ALONE, mine or f"process {rank}: the others are silent for {PATIENCE}")
        failures = [said for key in keys if store.check([key]) and (said := store.get(key).decode())]
        if store.check([ALONE]):
            failures = [store.get(ALONE).decode()]
        elif len(failures) in (0, size):
            return outcome
        raise StudyError(
            f"{worker.names[cell.problem]}, {cell.method.name}: this run failed in some of the processes, not in all: "
            f"{'; '.join(failures)}. It has no result; the same command tries it again."
        )


def _tell(what: Any) -> Any:
    """What the first process says, in all of them."""
    box = [what]
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]
