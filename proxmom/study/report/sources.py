"""Results directories as the input of a report: read, checked, and merged into one set of runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxmom.study.plan.decisions import Decision, read_decisions
from proxmom.study.plan.specs import Evaluations, Training
from proxmom.study.plan.toml import Table, of_length, parse_toml, read_toml
from proxmom.study.record.run import STATUSES, Run
from proxmom.study.record.store import aborted_runs, causes, load_runs, read_plan
from proxmom.study.report.compare import log_ratios
from proxmom.study.report.results import Counts, Losses, Pair, Results
from proxmom.study.report.rows import ROWS, read_origin, read_rows

_VERSIONS = ("proxmom", "commit", "python", "numpy", "scipy", "processor", "cores")
_TRAINING_VERSIONS = ("torch", "accelerator")
_ENDS = ("finished", *STATUSES)
_TREES = {False: "as committed", True: "with uncommitted changes", None: "not a checkout"}


@dataclass(frozen=True)
class Source:
    """One results directory: what its study asked for, and its finished runs.

    planned: how many runs the study has, finished or not. aborted: those among the unfinished that the machine ended.
    origin: where the runs come from: versions, machine, dates. decisions: what the claim says, part by part. lacking:
    by problem and method, how many of its runs are not finished.
    """

    folder: str
    name: str
    claim: str
    reference: str
    asked: Evaluations | Training
    text: str
    planned: int
    runs: tuple[Run, ...]
    origin: Mapping[str, str]
    aborted: tuple[Run, ...] = ()
    decisions: tuple[Decision, ...] = ()
    lacking: Mapping[Pair, int] = field(default_factory=dict)


def read_source(directory: str | Path) -> Source:
    """What a results directory holds, or a folder NAME with rows of runs, whose study file is NAME.toml beside it.

    A folder NAME-STEPS has rows of that study with other steps, if it has no file of its own.

    Raises ValueError if it is neither, or holds no finished run.
    """
    folder = Path(directory).resolve()
    exported = not (folder / "study.toml").is_file() and (folder / ROWS).is_file()
    file, steps = _file_of(folder) if exported else (folder / "study.toml", None)
    if not file.is_file():
        raise ValueError(f"{str(directory)!r} is no results directory: it has no study.toml. Run a study first.")
    text, document = read_toml(file)
    if steps is not None:
        text = of_length(text, document, steps)
        document = parse_toml(text, file)
    head = document.table("study", "[study]")
    runs = read_rows(folder, document) if exported else tuple(load_runs(folder))
    aborted = () if exported else tuple(aborted_runs(folder))
    if not runs:
        why = "".join(f" {line}." for line in causes(aborted))
        raise ValueError(f"{str(directory)!r} has no finished runs.{why} Run the study again.")
    plan, finished = read_plan(folder), {run.key for run in runs}
    return Source(
        folder=folder.name,
        name=head.text("name"),
        claim=head.text("claim"),
        reference=head.text("reference"),
        asked=_asked(head),
        text=text,
        planned=len(plan) or len(runs) + len(aborted),
        runs=runs,
        origin=read_origin(folder, head.text("name")) if exported else _origin(runs),
        aborted=aborted,
        decisions=read_decisions(document, "steps" in head),
        lacking=Counter((planned.problem, planned.method) for planned in plan if planned.key not in finished),
    )


def _file_of(folder: Path) -> tuple[Path, int | None]:
    """The study file of a folder of rows, and the steps that its runs have instead of the file's."""
    name, _, steps = folder.name.rpartition("-")
    own, whole = folder.with_name(f"{folder.name}.toml"), folder.with_name(f"{name}.toml")
    return (whole, int(steps)) if not own.is_file() and steps.isdecimal() and whole.is_file() else (own, None)


def unfinished(source: Source) -> Iterator[str]:
    """What is missing of a study: how many runs, and why the machine ended those that it did."""
    if missing := source.planned - len(source.runs):
        yield f"{missing} of the {source.planned} runs of {source.name} are not finished; run it again."
    yield from causes(source.aborted)


def merge(sources: Sequence[Source], reference: str | None = None) -> Results:
    """All runs of all sources, each once; reference: as for `write_report`.

    Raises ValueError if there is no source, or the sources cannot stand in one table: training studies beside others,
    another target or budget, another version of the code that decides numbers, another number of steps or of search
    seeds, another schedule, one name for two methods or problems, no finished run of a best point, or none of the
    reference.
    """
    if not sources:
        raise ValueError("a report needs at least one results directory, got none.")
    kinds = {isinstance(source.asked, Training): source.folder for source in sources}
    if len(kinds) > 1:
        raise ValueError(
            f"{kinds[True]!r} holds a training study, which compares losses, and {kinds[False]!r} one that counts "
            "evaluations: they cannot stand in one table. Report them one by one."
        )
    asked = sources[0].asked
    shared = ("steps", "schedule", "warmup", "search_seeds") if kinds.get(True) else ("target", "max_evaluations")
    for key in shared:
        _refuse_different(key, ((getattr(source.asked, key), source.folder) for source in sources))
    _refuse_different("numerics", ((source.origin.get("numerics", "1"), source.folder) for source in sources))
    results = results_of(asked, _all_runs(sources))
    log_ratios(results, reference or sources[0].reference)  # raises if that one has no runs
    return results


def results_of(asked: Evaluations | Training, runs: Iterable[Run]) -> Results:
    """The runs of a study that asked for this; ValueError if it trains and no run of a best point is finished."""
    if isinstance(asked, Training):
        return Losses.of(runs, asked.steps)
    return Counts.of(runs, asked.max_evaluations, asked.target)


def _origin(runs: Sequence[Run]) -> dict[str, str]:
    """Where runs come from, for people; where they differ, every value."""
    records = [run.provenance for run in runs]
    trained = any(run.trained for run in runs)
    known = [name for name in _TRAINING_VERSIONS if any(record.get(name) for record in records)]
    versions = (*_VERSIONS, *(known if trained else ()))
    values = {name: dict.fromkeys(str(record.get(name) or "unknown") for record in records) for name in versions}
    dates = sorted(str(r.get("started")) for r in records)
    statuses = Counter(run.status for run in runs)
    devices = dict.fromkeys(str(run.configuration.get("device", "cpu")) for run in runs)
    dirty = {r.get("dirty") for r in records}
    numerics = dict.fromkeys(str(run.configuration.get("numerics", 1)) for run in runs)
    return {
        **{name: ", ".join(found) for name, found in values.items()},
        "numerics": ", ".join(numerics),
        "working tree": " and ".join(text for flag, text in _TREES.items() if flag in dirty) or "unknown",
        "runs": ", ".join(f"{statuses[status]} {status}" for status in _ENDS if statuses[status]),
        "seeds": ", ".join(dict.fromkeys(str(run.seed) for run in runs)),
        **({"device": ", ".join(devices)} if trained else {}),
        "started": dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
        "seconds": f"{sum(run.seconds for run in runs):.0f} in all runs together",
    }


def _asked(head: Table) -> Evaluations | Training:
    if "steps" not in head:
        return Evaluations(head.whole("max_evaluations", least=1), head.number("target"))
    return Training(
        steps=head.whole("steps", least=1),
        seeds=head.whole("seeds", 1, least=1),
        search_seeds=head.whole("search_seeds", 1, least=1),
        schedule=head.text("schedule", "constant"),
        warmup=head.number("warmup", 0.0),
        device=head.text("device", "cpu"),
        targets=tuple(float(target) for target in head.get("targets", list, [])),
    )


def _all_runs(sources: Sequence[Source]) -> list[Run]:
    """The runs of all sources, each once."""
    runs = list({(run.key, run.problem, run.method): run for source in sources for run in source.runs}.values())
    known = [run for run in runs if run.directory]  # rows have no configuration
    _refuse_two_meanings("problem", ((r.problem, r.problem, r.configuration["problem"]) for r in known))
    methods = (((r.problem, r.method), r.method, r.configuration["method"]) for r in known)
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
