"""What a study would do: how many runs it has, how many of them are done, and how long the rest may take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from proxmom.columns import columns
from proxmom.study.plan.cells import StudyCell, plan, require_own
from proxmom.study.plan.config import Study, load_study
from proxmom.study.record import store
from proxmom.study.record.run import Run


def check_study(
    path: str | Path,
    out: str | Path | None = None,
    data: str | Path | None = None,
    rules: Sequence[str] = (),
    steps: int | None = None,
) -> str:
    """A table of the runs of a study, method by method, and one line on all of them; nothing is run or written.

    Its methods are rehearsed, as before a run; its data are looked at for their digests alone.

    Args:
        path, out, data, rules, steps: as for `run_study`.

    Raises:
        StudyError: for anything wrong with the study.
    """
    study, data_dir = load_study(path, rules, steps), None if data is None else Path(data).resolve()
    folder = Path(out) if out is not None else Path("results") / study.name
    cells = list({cell.key: cell for cell in plan(study, data_dir, folder)}.values())
    require_own(folder, study, (cell.key for cell in cells))
    left = set(store.pending(folder, (cell.key for cell in cells)))
    done = store.load_runs(folder) if len(left) < len(cells) else []
    rows = [("method", "runs", "done", "wait for others")]
    for name in dict.fromkeys(cell.method.name for cell in cells):
        own = [cell for cell in cells if cell.method.name == name]
        waiting = sum(not cell.ready for cell in own)
        rows.append((name, str(len(own)), str(sum(cell.key not in left for cell in own)), str(waiting or "")))
    return "\n".join([*columns(rows), "", _sum(study, cells, left, done)])


def _sum(study: Study, cells: Sequence[StudyCell], left: set[str], done: Sequence[Run]) -> str:
    size = f"{_counted(len(cells), 'run')} on {_counted(len(study.problems), 'problem')}"
    count = f"{study.name}: {size}, {len(left)} to do."
    todo = [cell for cell in cells if cell.key in left]
    if not todo:
        return count
    if not done:
        return f"{count} How long that takes is known once some are done."
    seconds = _expected(todo, done, {cell.key: cell.problem for cell in cells})
    runs = f"the {len(done)} that are done" if len(done) > 1 else "the one that is done"
    return f"{count} By the time of {runs} they take about {_duration(seconds)}, one after the other."


def _expected(todo: Iterable[StudyCell], done: Sequence[Run], problems: Mapping[str, int]) -> float:
    """Seconds, each run as the mean of the same method on the same problem; else of the problem, the method, or all."""
    known = defaultdict(list)
    for run in done:
        where = problems.get(run.key)
        for group in {(run.method, where), (None, where), (run.method, None), (None, None)}:
            known[group].append(run.seconds)

    def guess(cell: StudyCell) -> float:
        name, where = cell.method.name, cell.problem
        found = next(k for k in ((name, where), (None, where), (name, None), (None, None)) if k in known)
        return mean(known[found])

    return sum(map(guess, todo))


def _duration(seconds: float) -> str:
    """Two digits, in the unit that suits: "40 s", "12 min", "3.5 h", "2.1 days"."""
    units = (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 129_600), ("days", 86_400, float("inf")))
    unit, size = next((unit, size) for unit, size, most in units if seconds < most)
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
