"""Runs as directories: `run.json`, an append-only `metrics.jsonl`, and an end marker written last, by rename.

Killing anything at any time loses at most the run that was under way: a directory without `done.json` is
started afresh or, where it holds a checkpoint, continued. `plan.json` beside them says which runs belong to the
study as it now stands, and under which names, so that renaming a method repeats nothing and a removed method leaves
the tables. Who writes to a run's directory holds a lock on its `metrics.jsonl`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.study.record import kinds
from proxmom.study.record.faults import ABORTED, FAILED, described

try:
    import fcntl
except ImportError:  # Windows: no lock, and no cluster either
    fcntl = None  # type: ignore[assignment]

STATUSES = ("reached", "missed", "diverged", "failed")
TRAINING_STATUSES = ("finished", "diverged", "failed")
_KEPT: list[Any] = []  # files whose locks this process keeps
METRICS, CHECKPOINT, DONE = "metrics.jsonl", "checkpoint.pt", "done.json"
_BROKEN = (OSError, ValueError, KeyError, TypeError, RecursionError)  # what reading a damaged file can raise
_HOW = {ABORTED: "aborted by the machine, to be run again"}


@dataclass(frozen=True)
class Planned:
    """A cell of a study: which run, and what people call it.

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
class Outcome:
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
    """A finished run: what `Planned` and `Outcome` say of it.

    seed: of the points or, in a training study, the training seed.
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
            columns = {name: np.array([kinds.number(row[name]) for row in rows], dtype=np.float64) for name in names}
            return columns | ({"beta": _units([row["beta"] for row in rows])} if self.trained else {})
        except _BROKEN as error:
            raise _unreadable(file or Path(), error) from error


class RunWriter:
    """One run while it is being written; a context manager, so that its file is closed whatever happens."""

    def __init__(self, directory: Path, description: Mapping[str, Any]) -> None:
        """Starts the run afresh, unless a checkpoint is there: what a killed one left behind is removed.

        Records stay beside a checkpoint; who reads it keeps those that it knows, by `keep_records`.
        """
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / DONE).unlink(missing_ok=True)  # first: whatever happens from here on, the run is not done
        for left_behind in directory.glob("*.tmp"):
            left_behind.unlink(missing_ok=True)
        write_atomically(directory / "run.json", description)
        self._metrics = (directory / METRICS).open("a", encoding="utf-8", buffering=1)
        if not (directory / CHECKPOINT).is_file():
            self._metrics.truncate(0)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.close()

    def append(self, evaluations: int, gap: float, beta: float | None) -> None:
        """Records one evaluation."""
        self.record({"evaluations": evaluations, "gap": gap, "beta": beta})

    def record(self, row: Mapping[str, Any]) -> None:
        """Records one row, one line of JSON that reaches the file at once; what is not finite becomes null."""
        self._metrics.write(json.dumps(_finite(dict(row))) + "\n")

    def finish(self, outcome: Outcome) -> None:
        """Writes the end marker, after the records are safely on disk.

        Then a checkpoint is of no more use, unless the run was aborted: the next start goes on from it.
        """
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        write_atomically(self.directory / DONE, _finite(asdict(outcome)))
        if outcome.status != ABORTED:
            (self.directory / CHECKPOINT).unlink(missing_ok=True)


@contextlib.contextmanager
def named_if_unwritable(folder: Path) -> Iterator[None]:
    """Gives an OSError inside, which often names no file, the folder of the results and the remedy."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise OSError(
            f"results cannot be written to {folder} ({reason}). What is done is kept: make room there, and the "
            "same command does the rest."
        ) from error


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Holds the lock of a run's directory, and waits for it first: nobody else writes there.

    The system releases it when its holder dies, however that happens. Where files cannot be locked there is no lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / METRICS).open("a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def taken(file: Path) -> bool:
    """Whether this process could take the lock of a file; it keeps it until it ends."""
    stream = file.open("a")
    try:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        return False
    _KEPT.append(stream)
    return True


def keep_records(directory: Path, count: int) -> bool:
    """Cuts a run's records to the first `count`, >= 0; False if there are fewer, and then none is kept."""
    file = directory / METRICS
    lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    whole = len(lines) >= count and all(line.endswith(b"\n") for line in lines[:count])
    if lines:
        os.truncate(file, sum(map(len, lines[:count])) if whole else 0)
    return whole


def key_of(configuration: Mapping[str, Any]) -> str:
    """16 hex digits that depend on the configuration's content alone, not on the order of its keys."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_directory(directory: Path, key: str) -> Path:
    """Where the run with this key lives."""
    return directory / "runs" / key


def pending(directory: Path, keys: Iterable[str]) -> list[str]:
    """The keys without a finished run, each once, in the order given."""
    return [key for key in dict.fromkeys(keys) if not (run_directory(directory, key) / DONE).is_file()]


def load_run(directory: Path, planned: Planned) -> Run:
    """One finished run; ValueError as `load_runs` raises it."""
    return _load(run_directory(directory, planned.key), planned)


def mark_ended(run: Path, status: str, message: str) -> None:
    """Writes the end marker of a run that could not write it itself."""
    write_atomically(run / DONE, _finite(asdict(Outcome(status, 0, np.inf, 0.0, message))))


def forget(directory: Path, keys: Iterable[str], statuses: Container[str]) -> int:
    """Takes the end marker from runs that ended in one of these ways: they are pending again; returns their number."""
    markers = [run_directory(directory, key) / DONE for key in dict.fromkeys(keys)]
    found = [marker for marker in markers if marker.is_file() and _outcome(marker).status in statuses]
    for marker in found:
        marker.unlink()
    return len(found)


def write_plan(directory: Path, plan: Sequence[Planned]) -> None:
    """Writes which runs belong to the study, `plan.json`, in the order of its tables."""
    write_atomically(directory / "plan.json", [asdict(planned) for planned in plan])


def stored_problem(directory: Path, key: str) -> str:
    """The display name of a finished run's problem."""
    return str(_description(run_directory(directory, key) / "run.json")["problem"])


def load_runs(directory: str | Path) -> list[Run]:
    """The finished runs of a study, in its order; without a `plan.json` every finished run there is.

    Runs that the machine aborted are not among them: no table counts them. See `aborted_runs`.

    Raises:
        ValueError: if there are no results, or a file is truncated or unreadable; it names file and remedy.
    """
    return [run for run in _ended_runs(Path(directory)) if run.status != ABORTED]


def aborted_runs(directory: str | Path) -> list[Run]:
    """The runs of a study that the machine aborted, and that the next start does again; raises as `load_runs`."""
    return [run for run in _ended_runs(Path(directory)) if run.status == ABORTED]


def shortfall(directory: str | Path) -> list[str]:
    """What a study lacks, a line for each cause: runs that failed, that were aborted, that were not begun or ended."""
    folder = Path(directory)
    lines = causes(run for run in _ended_runs(folder) if run.status in (FAILED, ABORTED))
    missing = len(pending(folder, (planned.key for planned in read_plan(folder))))
    return [*lines, *([f"{_count(missing)} not finished."] if missing else [])]


def causes(runs: Iterable[Run]) -> list[str]:
    """How many of these runs ended as they did, by method, problem and cause."""
    counts = Counter((run.method, run.problem, run.status, run.message) for run in runs)
    return [
        f"{count} {'run' if count == 1 else 'runs'} of {method} on {problem} {_HOW.get(status, status)}: {message}"
        for (method, problem, status, message), count in counts.items()
    ]


def read_plan(directory: str | Path) -> list[Planned]:
    """What `write_plan` wrote; nothing if it is not there. Raises ValueError if it is no plan."""
    file = Path(directory) / "plan.json"
    return _plan(file) if file.is_file() else []


def write_atomically(file: Path, content: Any) -> None:
    """Writes JSON, or a text as it is, so that the file is complete or not there, even after a power cut."""
    text = content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False) + "\n"
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def _ended_runs(folder: Path) -> list[Run]:
    if not (folder / "runs").is_dir():
        raise ValueError(f"{str(folder)!r} holds no results: it has no folder 'runs'. Run the study first.")
    if not (folder / "plan.json").is_file():
        finished = sorted(marker.parent for marker in (folder / "runs").glob(f"*/{DONE}"))
        return [_load(run, None) for run in finished]
    plan = read_plan(folder)
    missing = set(pending(folder, (planned.key for planned in plan)))
    return [_load(run_directory(folder, planned.key), planned) for planned in plan if planned.key not in missing]


def _load(directory: Path, planned: Planned | None) -> Run:
    description, outcome = _description(directory / "run.json"), _outcome(directory / DONE)
    configuration = description["configuration"]
    return Run(
        problem=planned.problem if planned else description["problem"],
        method=planned.method if planned else description["method"],
        point=configuration["point"],
        point_index=planned.point_index if planned else description["point_index"],
        **vars(outcome),
        provenance=description["provenance"],
        configuration=configuration,
        key=description["key"],
        seed=description["seed"],
        variant_of=planned.variant_of if planned else description.get("variant_of", ""),
        stage=planned.stage if planned else description.get("stage", ""),
        directory=directory,
    )


def _description(file: Path) -> dict[str, Any]:
    """What `run.json` holds, of the kinds that `Run` says."""
    try:
        return kinds.description(_json(file))
    except _BROKEN as error:
        raise _unreadable(file, error) from error


def _outcome(file: Path) -> Outcome:
    try:
        fields = kinds.outcome(_json(file))
        final = {name: np.nan if value is None else value for name, value in fields.get("final", {}).items()}
        gap = np.inf if fields["best_gap"] is None else fields["best_gap"]
        return Outcome(**{**fields, "best_gap": gap, "final": final})
    except _BROKEN as error:
        raise _unreadable(file, error) from error


def _plan(file: Path) -> list[Planned]:
    try:
        return [Planned(**entry) for entry in kinds.plan(_json(file))]
    except _BROKEN as error:
        reason = described(error)
        raise ValueError(f"{file} is no plan ({reason}). Run the study again: it writes a new one.") from error


def _json(file: Path) -> Any:
    return kinds.shallow(json.loads(file.read_text(encoding="utf-8")))


def _unreadable(file: Path, error: Exception) -> ValueError:
    reason = described(error)
    return ValueError(f"{file} is truncated or unreadable ({reason}). Delete {file.parent} and run the study again.")


def _count(runs: int) -> str:
    return "1 run is" if runs == 1 else f"{runs} runs are"


def _units(betas: Sequence[Any]) -> NDArray[np.float64]:
    """(rows, units); NaN where there is none."""
    rows = [None if row is None else [kinds.number(beta) for beta in row] for row in betas]
    units = max((len(row) for row in rows if row is not None), default=0)
    return np.array([row or [np.nan] * units for row in rows], dtype=np.float64).reshape(len(rows), units)


def _finite(value: Any) -> Any:
    """`value` as JSON can hold it: numbers in it that are not finite become None."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
