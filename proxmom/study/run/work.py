"""What a worker process does with the runs it is given, whichever engine started it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from proxmom.study.methods.method import Oracle, run_method
from proxmom.study.plan.cells import FINAL, StudyCell
from proxmom.study.plan.config import Study, Training
from proxmom.study.problems.collection import Problem
from proxmom.study.problems.own import Own
from proxmom.study.record import faults, store
from proxmom.study.record.provenance import accelerated, machine
from proxmom.study.record.run import Ending


@dataclass(frozen=True)
class Worker:
    """What a worker process knows of the study; called with runs, and with their problem if it is deterministic.

    names: of the problems. provenance: what is known of the start. checkpoint_every: seconds of a training run.
    """

    folder: Path
    study: Study
    data_dir: Path | None
    names: Sequence[str]
    provenance: Mapping[str, Any]
    checkpoint_every: float = 60.0

    def __call__(self, problem: Problem | None, cells: Sequence[StudyCell]) -> int:
        """Runs the cells, but for those that another process has finished meanwhile; returns their number."""
        self._load(problem, cells)
        with threadpool_limits(1):  # also without workers: more threads would round differently
            for cell in cells:
                with store.named_if_unwritable(self.folder), self.writing(cell) as writer:
                    if writer is not None:
                        writer.finish(self._run(problem, cell, writer))
        return len(cells)

    def _load(self, problem: Problem | None, cells: Sequence[StudyCell]) -> None:
        """Loads the libraries that the runs need: in those that come later, threads would not be limited."""
        if self.study.training or any("torch" in cell.method.settings for cell in cells):
            import torch  # noqa: F401
        if problem is not None and isinstance(problem.fun, Own):
            problem.fun.factory()

    @contextmanager
    def writing(self, cell: StudyCell) -> Iterator[store.RunWriter | None]:
        """The run's writer, under the run's lock; None if another process has finished the run meanwhile."""
        directory = store.run_directory(self.folder, cell.key)
        with store.locked(directory):
            if not store.pending(self.folder, [cell.key]):
                yield None
                return
            with store.RunWriter(directory, self._describe(cell)) as writer:
                yield writer

    def train(self, cell: StudyCell, record: Callable[[Mapping[str, Any]], None]) -> Ending:
        """One run of a training study, from its checkpoint if there is one; what it raises is in its outcome."""
        from proxmom.study import training

        runs, problem = self.study.runs, self.study.problems[cell.problem]
        assert isinstance(runs, Training)
        try:
            with threadpool_limits(1):
                task = training.build_task(
                    problem.kind,
                    seed=cell.seed,
                    data_dir=self.data_dir,
                    device=runs.device,
                    folder=problem.folder,
                    **problem.arguments,
                )
            return training.train(
                cell.method.settings,
                task,
                cell.point,
                steps=runs.steps,
                schedule=runs.schedule,
                warmup=runs.warmup,
                test=cell.stage == FINAL,
                directory=store.run_directory(self.folder, cell.key),
                record=record,
                device=runs.device,
                checkpoint_every=self.checkpoint_every,
            )
        except Exception as error:
            return Ending(faults.status_of(error), 0, np.inf, 0.0, faults.described(error))

    def _run(self, problem: Problem | None, cell: StudyCell, writer: store.RunWriter) -> Ending:
        runs = self.study.runs
        if isinstance(runs, Training):
            return self.train(cell, writer.record)
        assert problem is not None
        oracle = Oracle(problem, max_evaluations=runs.max_evaluations, target=runs.target, record=writer.append)
        return run_method(cell.method.settings, problem, cell.point, oracle)

    def _describe(self, cell: StudyCell) -> dict[str, Any]:
        training = self.study.training
        return {
            "key": cell.key,
            "configuration": cell.configuration,
            "problem": self.names[cell.problem],
            "method": cell.method.name,
            "variant_of": cell.method.variant_of,
            "point_index": cell.point_index,
            "seed": cell.seed if training else self.study.seed,
            "stage": cell.stage,
            "provenance": {
                **self.provenance,
                **machine(),
                **(accelerated(training.device) if training else {}),
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }
