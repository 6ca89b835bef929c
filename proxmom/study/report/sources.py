"""Results directories as the input of a report: read, checked, and merged into one set of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxmom.study.plan.toml import Table, read_toml
from proxmom.study.record.store import Run, aborted_runs, causes, load_runs, read_plan
from proxmom.study.report import finals, finals_compare, summary
from proxmom.study.report.finals import Trained
from proxmom.study.report.summary import Results


@dataclass(frozen=True)
class Training:
    """What a training study asks for besides its methods.

    warmup: share of the steps. targets: validation losses whose first crossing is reported.
    """

    steps: int
    schedule: str
    warmup: float
    targets: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """One results directory: what its study asked for, and its finished runs.

    target, max_evaluations: of a deterministic study, else nan and 0. training: of a training study, else None.
    planned: how many runs the study has, finished or not. aborted: those among the unfinished that the machine ended.
    """

    folder: str
    name: str
    claim: str
    reference: str
    points: int
    target: float
    max_evaluations: int
    training: Training | None
    text: str
    planned: int
    runs: tuple[Run, ...]
    aborted: tuple[Run, ...] = ()


def read_source(directory: str | Path) -> Source:
    """What a results directory holds.

    Raises ValueError if it is none, or holds no finished run.
    """
    folder = Path(directory)
    if not (folder / "study.toml").is_file():
        raise ValueError(f"{str(folder)!r} is no results directory: it has no study.toml. Run a study first.")
    text, document = read_toml(folder / "study.toml")
    head = document.table("study", "[study]")
    runs, aborted = tuple(load_runs(folder)), tuple(aborted_runs(folder))
    if not runs:
        why = "".join(f" {line}." for line in causes(aborted))
        raise ValueError(f"{str(folder)!r} has no finished runs.{why} Run the study again.")
    training = _training(head) if "steps" in head else None
    return Source(
        folder=folder.resolve().name,
        name=head.text("name"),
        claim=head.text("claim"),
        reference=head.text("reference"),
        points=head.whole("points", least=1),
        target=head.number("target") if training is None else math.nan,
        max_evaluations=head.whole("max_evaluations", least=1) if training is None else 0,
        training=training,
        text=text,
        planned=len(read_plan(folder)) or len(runs) + len(aborted),
        runs=runs,
        aborted=aborted,
    )


def unfinished(source: Source) -> Iterator[str]:
    """What is missing of a study: how many runs, and why the machine ended those that it did."""
    if missing := source.planned - len(source.runs):
        yield f"{missing} of the {source.planned} runs of {source.name} are not finished; run it again."
    yield from causes(source.aborted)


def trained(sources: Sequence[Source]) -> bool:
    """Whether these are training studies.

    Raises ValueError if there is no source, or some are and some are not.
    """
    if not sources:
        raise ValueError("a report needs at least one results directory, got none.")
    kinds = {source.training is not None: source.folder for source in sources}
    if len(kinds) > 1:
        raise ValueError(
            f"{kinds[True]!r} holds a training study, which compares losses, and {kinds[False]!r} one that counts "
            "evaluations: they cannot stand in one table. Report them one by one."
        )
    return True in kinds


def merge(sources: Sequence[Source], reference: str | None = None) -> Results:
    """All runs of all sources, deterministic studies, each once; reference: as for `write_report`.

    Raises ValueError if there is no source, or the sources cannot stand in one table: another target or
    budget, one name for two methods or problems, or no finished run of the reference.
    """
    if trained(sources):
        raise ValueError(f"{sources[0].folder!r} holds a training study, which has no evaluations to count.")
    for key in ("target", "max_evaluations"):
        _refuse_different(key, ((getattr(source, key), source.folder) for source in sources))
    results = summary.collect(_all_runs(sources), sources[0].max_evaluations)
    summary.ratios(results, reference or sources[0].reference)  # raises if that one has no runs
    return results


def merge_trained(sources: Sequence[Source], reference: str | None = None) -> Trained:
    """All runs of all sources, training studies, each once; reference: as for `write_report`.

    Raises ValueError if there is no source, or the sources cannot stand in one table: another number of steps or
    schedule, one name for two methods or problems, or no finished run of a best point, or of the reference's.
    """
    if not trained(sources):
        raise ValueError(f"{sources[0].folder!r} holds no training study.")
    for key in ("steps", "schedule", "warmup"):
        _refuse_different(key, ((getattr(source.training, key), source.folder) for source in sources))
    results = finals.collect(_all_runs(sources), sources[0].training.steps if sources[0].training else 0)
    finals_compare.log_ratios(results, reference or sources[0].reference)  # raises if that one has no runs
    return results


def _training(head: Table) -> Training:
    return Training(
        steps=head.whole("steps", least=1),
        schedule=head.text("schedule", "constant"),
        warmup=head.number("warmup", 0.0),
        targets=tuple(float(target) for target in head.get("targets", list, [])),
    )


def _all_runs(sources: Sequence[Source]) -> list[Run]:
    """The runs of all sources, each once."""
    runs = list({(run.key, run.problem, run.method): run for source in sources for run in source.runs}.values())
    _refuse_two_meanings("problem", ((r.problem, r.problem, r.configuration["problem"]) for r in runs))
    methods = (((r.problem, r.method), r.method, r.configuration["method"]) for r in runs)
    _refuse_two_meanings("method", methods)
    return runs


def _refuse_different(key: str, entries: Iterable[tuple[Any, str]]) -> None:
    values = dict(entries)
    if len(values) > 1:
        texts = {value: value if isinstance(value, str) else f"{value:g}" for value in values}
        got = " and ".join(f"{texts[value]} in {folder!r}" for value, folder in values.items())
        raise ValueError(f"results in one report must share {key}, got {got}. Report them one by one.")


def _refuse_two_meanings(kind: str, entries: Iterable[tuple[Any, str, Any]]) -> None:
    meanings: dict[Any, str] = {}
    for key, name, configuration in entries:
        meaning = json.dumps(configuration, sort_keys=True)
        first = meanings.setdefault(key, meaning)
        if first != meaning:
            raise ValueError(f"{kind} {name!r} has two meanings, {first} and {meaning}. Rename one of them.")
