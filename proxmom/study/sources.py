"""Results directories as the input of a report: read, checked, and merged into one set of runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxmom.study import summary
from proxmom.study.store import Run, load_runs
from proxmom.study.summary import Results
from proxmom.study.tables import read_toml


@dataclass(frozen=True)
class Source:
    """One results directory: what its study asked for, and its finished runs.

    planned: how many runs the study has, finished or not.
    """

    folder: str
    name: str
    claim: str
    reference: str
    points: int
    target: float
    max_evaluations: int
    text: str
    planned: int
    runs: tuple[Run, ...]


def read_source(directory: str | Path) -> Source:
    """What a results directory holds.

    Raises ValueError if it is none, or holds no finished run.
    """
    folder = Path(directory)
    if not (folder / "study.toml").is_file():
        raise ValueError(f"{str(folder)!r} is no results directory: it has no study.toml. Run a study first.")
    text, document = read_toml(folder / "study.toml")
    head = document.table("study", "[study]")
    runs = tuple(load_runs(folder))
    if not runs:
        raise ValueError(f"{str(folder)!r} has no finished runs. Run the study again.")
    plan = folder / "plan.json"
    return Source(
        folder=folder.resolve().name,
        name=head.text("name"),
        claim=head.text("claim"),
        reference=head.text("reference"),
        points=head.whole("points", least=1),
        target=head.number("target"),
        max_evaluations=head.whole("max_evaluations", least=1),
        text=text,
        planned=len(json.loads(plan.read_text(encoding="utf-8"))) if plan.is_file() else len(runs),
        runs=runs,
    )


def merge(sources: Sequence[Source], reference: str | None = None) -> Results:
    """All runs of all sources, each once; reference: as for `write_report`.

    Raises ValueError if there is no source, or the sources cannot stand in one table: another target or
    budget, one name for two methods or problems, or no finished run of the reference.
    """
    if not sources:
        raise ValueError("a report needs at least one results directory, got none.")
    for key in ("target", "max_evaluations"):
        values = {getattr(source, key): source.folder for source in sources}
        if len(values) > 1:
            got = " and ".join(f"{value:g} in {folder!r}" for value, folder in values.items())
            raise ValueError(f"results in one report must share {key}, got {got}. Report them one by one.")
    runs = {(run.key, run.problem, run.method): run for source in sources for run in source.runs}.values()
    _refuse_two_meanings("problem", ((r.problem, r.problem, r.configuration["problem"]) for r in runs))
    methods = (((r.problem, r.method), r.method, r.configuration["method"]) for r in runs)
    _refuse_two_meanings("method", methods)
    results = summary.collect(runs, sources[0].max_evaluations)
    summary.ratios(results, reference or sources[0].reference)  # raises if that one has no runs
    return results


def _refuse_two_meanings(kind: str, entries: Iterable[tuple[Any, str, Any]]) -> None:
    meanings: dict[Any, str] = {}
    for key, name, configuration in entries:
        meaning = json.dumps(configuration, sort_keys=True)
        first = meanings.setdefault(key, meaning)
        if first != meaning:
            raise ValueError(f"{kind} {name!r} has two meanings, {first} and {meaning}. Rename one of them.")
