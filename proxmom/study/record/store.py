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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from proxmom.study.record import schema
from proxmom.study.record.faults import ABORTED, FAILED, described
from proxmom.study.record.run import METRICS, Ending, Planned, Run
from proxmom.study.record.schema import BROKEN, unreadable

try:
    import fcntl
except ImportError:  # Windows: no lock, and no cluster either
    fcntl = None  # type: ignore[assignment]

_LOCKS: list[Any] = []  # open files whose locks this process holds until it ends
CHECKPOINT, DONE = "checkpoint.pt", "done.json"
_WORDS = {ABORTED: "aborted by the machine, to be run again"}


class RunWriter:
    """One run while it is being written; a context manager, so that its file is closed whatever happens."""

    def __init__(self, directory: Path, description: Mapping[str, Any]) -> None:
        """Starts the run afresh, unless a checkpoint is there: what a killed one left behind is removed.

        Records stay beside a checkpoint; whoever loads it cuts them to those it knows, by `cut_records`.
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

    def __exit__(self, *error: object) -> None:
        self._metrics.close()

    def append(self, evaluations: int, gap: float, beta: float | None) -> None:
        """Records one evaluation."""
        self.record({"evaluations": evaluations, "gap": gap, "beta": beta})

    def record(self, row: Mapping[str, Any]) -> None:
        """Records one row, one line of JSON that reaches the file at once; what is not finite becomes null."""
        self._metrics.write(json.dumps(_finite(dict(row))) + "\n")

    def finish(self, ending: Ending) -> None:
        """Writes the end marker, after the records are safely on disk.

        Then a checkpoint is of no more use, unless the run was aborted: the next start goes on from it.
        """
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        write_atomically(self.directory / DONE, _finite(asdict(ending)))
        if ending.status != ABORTED:
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
def locked(directory: Path) -> Iterator[None]:
    """Waits for the lock of a run's directory and holds it: nobody else writes there.

    The system releases it when its holder dies, however that happens. Where files cannot be locked there is no lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / METRICS).open("a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(file: Path) -> bool:
    """Takes the lock of a file if nobody has it, and holds it until this process ends; returns whether it did."""
    stream = file.open("a")
    try:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        return False
    _LOCKS.append(stream)
    return True


def cut_records(directory: Path, count: int) -> bool:
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
    write_atomically(run / DONE, _finite(asdict(Ending(status, 0, np.inf, 0.0, message))))


def reopen(directory: Path, keys: Iterable[str], statuses: Container[str]) -> int:
    """Removes the end markers of runs with one of these statuses: they are pending again. Returns their number."""
    markers = [run_directory(directory, key) / DONE for key in dict.fromkeys(keys)]
    found = [marker for marker in markers if marker.is_file() and _ending(marker).status in statuses]
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
    """What a study lacks, a line for each cause: runs that failed, were aborted, or are not finished."""
    folder = Path(directory)
    lines = causes(run for run in _ended_runs(folder) if run.status in (FAILED, ABORTED))
    missing = len(pending(folder, (planned.key for planned in read_plan(folder))))
    return [*lines, *([f"{_count(missing)} not finished."] if missing else [])]


def causes(runs: Iterable[Run]) -> list[str]:
    """How many of these runs ended as they did, by method, problem and cause."""
    counts = Counter((run.method, run.problem, run.status, run.message) for run in runs)
    return [
        f"{count} {'run' if count == 1 else 'runs'} of {method} on {problem} {_WORDS.get(status, status)}: {message}"
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
    description, ending = _description(directory / "run.json"), _ending(directory / DONE)
    configuration = description["configuration"]
    return Run(
        problem=planned.problem if planned else description["problem"],
        method=planned.method if planned else description["method"],
        point=configuration["point"],
        point_index=planned.point_index if planned else description["point_index"],
        **vars(ending),
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
        return schema.description(_json(file))
    except BROKEN as error:
        raise unreadable(file, error) from error


def _ending(file: Path) -> Ending:
    try:
        fields = schema.fields_of(_json(file), Ending, best_gap=schema.NUMBER_OR_NULL)
        final = {name: np.nan if value is None else value for name, value in fields.get("final", {}).items()}
        gap = np.inf if fields["best_gap"] is None else fields["best_gap"]
        return Ending(**{**fields, "best_gap": gap, "final": final})
    except BROKEN as error:
        raise unreadable(file, error) from error


def _plan(file: Path) -> list[Planned]:
    try:
        return [Planned(**schema.fields_of(entry, Planned)) for entry in schema.entries(_json(file))]
    except BROKEN as error:
        reason = described(error)
        raise ValueError(f"{file} is no plan ({reason}). Run the study again: it writes a new one.") from error


def _json(file: Path) -> Any:
    return schema.shallow(json.loads(file.read_text(encoding="utf-8")))


def _count(runs: int) -> str:
    return "1 run is" if runs == 1 else f"{runs} runs are"


def _finite(value: Any) -> Any:
    """`value` as JSON can hold it: numbers in it that are not finite become None."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
