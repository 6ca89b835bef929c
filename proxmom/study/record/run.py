"""A run: planned, ended, and read again with its curve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.study.record import schema
from proxmom.study.record.schema import BROKEN, unreadable

STATUSES = ("reached", "missed", "diverged", "failed")
TRAINING_STATUSES = ("finished", "diverged", "failed")
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Planned:
    """A run of a study: which one, and what people call it.

    variant_of: the method whose defaults or control this is; else empty.
    seed, stage: in training studies the training seed, and "search" (points are compared) or "final".
    """

    key: str
    problem: str
    method: str
    point_index: int
    variant_of: str = ""
    seed: int = 0
    stage: str = ""


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    status: "reached" (the target), "missed" (the budget was spent, or the method stopped), "diverged", "failed" (the
        method raised; `message` has the cause), or "aborted" (by the machine: no result, run again by the next start);
        of a training run "finished" instead of the first two.
    evaluations: the count at which the target was first reached, else all that were spent; in training, steps.
    best_gap: the smallest relative gap seen; in training the smallest validation loss.
    mean_beta, mean_step: means over the steps of the weight on memory, and of the step size in units of 1/L (in
        training: of lr); None if the method is no rule, or took no step.
    capped: share of the steps with the largest weight that the rule allows.
    final: of a training run "initial loss", "validation loss", "test loss" and accuracies likewise, as far as known;
        NaN where not finite.
    """

    status: str
    evaluations: int
    best_gap: float
    seconds: float
    message: str
    mean_beta: float | None = None
    mean_step: float | None = None
    capped: float | None = None
    final: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A finished run: what `Planned` and `Ending` say of it.

    seed: of the points or, in a training study, the training seed. seeds: of the mean of a point's runs with several
        training seeds, see `ranking.points`, those seeds; else none.
    """

    problem: str
    method: str
    point: Mapping[str, float]
    point_index: int
    status: str
    evaluations: int
    best_gap: float
    seconds: float
    provenance: Mapping[str, Any]
    configuration: Mapping[str, Any]
    key: str = ""
    seed: int = 0
    message: str = ""
    mean_beta: float | None = None
    mean_step: float | None = None
    capped: float | None = None
    final: Mapping[str, float] = field(default_factory=dict)
    variant_of: str = ""
    stage: str = ""
    directory: Path | None = field(default=None, repr=False)
    seeds: tuple[int, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether this is a run of a training study."""
        return "steps" in self.configuration

    def curve(self) -> dict[str, NDArray[np.float64]]:
        """What was recorded, read now: arrays "evaluations", "gap", "beta" (NaN where none).

        Of a training run "step", "seconds", "train", "validation", each (rows,), and "beta" (rows, units): NaN where
        none, and no units if the method is no rule. Without a directory nothing was recorded.
        """
        names = ("step", "seconds", "train", "validation") if self.trained else ("evaluations", "gap", "beta")
        file = self.directory and self.directory / METRICS
        try:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file else []
            columns = {name: np.array([schema.number(row[name]) for row in rows], dtype=np.float64) for name in names}
            return columns | ({"beta": _units([row["beta"] for row in rows])} if self.trained else {})
        except BROKEN as error:
            raise unreadable(file or Path(), error) from error


def _units(betas: Sequence[Any]) -> NDArray[np.float64]:
    """(rows, units); NaN where there is none."""
    rows = [None if row is None else [schema.number(beta) for beta in row] for row in betas]
    units = max((len(row) for row in rows if row is not None), default=0)
    return np.array([row or [np.nan] * units for row in rows], dtype=np.float64).reshape(len(rows), units)
