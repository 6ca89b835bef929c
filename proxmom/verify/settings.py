"""Many settings at once: which ones, side by side in processes, and as a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from proxmom.columns import columns
from proxmom.lookup import find_metric, find_rule
from proxmom.metrics import METRICS, kind_of
from proxmom.rules import RULES
from proxmom.step import DECAYS
from proxmom.verify.check import Report, check_rule

NORMS = ("LInf(form='soft')", "Spectral(form='soft')")  # besides those of `METRICS`, which are hard
HEADER = ("rule", "metric", "inertia", "decay", "trials", "error", "gap", "excess", "worst case (trial)", "")


class Setting(NamedTuple):
    """One row of the table; all by name, so that it travels to another process."""

    rule: str
    metric: str
    inertia: float
    weight_decay: float
    decay: str

    def check(self, trials: int, seed: int) -> Report:
        """The report of this setting.

        Args:
            trials, seed: as for `check_rule`.
        """
        return check_rule(
            build_rule(self.rule),
            metric=find_metric(self.metric),
            inertia=self.inertia,
            weight_decay=self.weight_decay,
            decay=self.decay,
            trials=trials,
            seed=seed,
        )


def build_rule(text: str) -> Any:
    """`find_rule`, with a lower bound for the built-in rules that need one: any is as good as another here."""
    return find_rule(text, lower_bound=0.0) if hasattr(RULES.get(text), "without_floor") else find_rule(text)


def all_rules() -> list[str]:
    """Every built-in rule, adaptive memory with each height, and what Adam's metric takes of the uncapped rule."""
    heights = ("previous value", "cutting plane", "aggregated")
    return [*RULES, *(f"AdaptiveMemory(height={height!r})" for height in heights), "ConjugateMemory(beta_max=0.9)"]


def grid(
    rules: Sequence[str] = (),
    metrics: Sequence[str] = (),
    inertias: Sequence[float] = (),
    weight_decays: Sequence[float] = (),
    decays: Sequence[str] = (),
) -> list[Setting]:
    """All combinations; an empty argument means everything.

    Without weight decay its form makes no difference, and inertia is tried only in metrics that have a diagonal. That
    a norm refuses proximal decay is tried once.
    """
    named, ways = metrics or (*METRICS, *NORMS), []
    for metric in named:
        kind = kind_of(find_metric(metric))
        forms = decays or (("decoupled", "coupled") if kind == "norm" else ("proximal", "decoupled", "coupled"))
        decay = [(mu, form) for mu in weight_decays or (0.0, 0.05) for form in (forms if mu else forms[:1])]
        some = inertias or ((0.0, 0.1) if kind == "diagonal" else (0.0,))
        ways += [(metric, inertia, mu, form) for inertia in some for mu, form in decay]
    settings = [Setting(rule, *way) for rule, way in itertools.product(rules or all_rules(), ways)]
    norms = [setting for setting in settings if kind_of(find_metric(setting.metric)) == "norm" and setting.weight_decay]
    return settings if decays or not norms else [*settings, norms[0]._replace(decay="proximal")]


def check_settings(settings: Iterable[Setting], *, trials: int, seed: int, jobs: int = 1) -> Iterator[Report]:
    """The reports, in order, as they are ready.

    Args:
        settings: what to check, one report each.
        trials, seed: as for `check_rule`.
        jobs: how many processes work on them, >= 1; 1: this one does.

    Raises:
        ValueError: for fewer jobs, and as `check_rule`.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}.")
    if jobs == 1:
        yield from (setting.check(trials, seed) for setting in settings)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from (task.result() for task in [pool.submit(setting.check, trials, seed) for setting in settings])


def table(reports: Sequence[Report]) -> str:
    """One line for each report, and the worst of all at the end.

    Args:
        reports: all with one seed, which the last line names.
    """
    lines = columns([HEADER, *map(_row, reports)])
    compared = [report for report in reports if report.trials]
    if compared:
        error, gap = (max(report.worst_figure(figure) for report in compared) for figure in ("error", "gap"))
        count = sum(len(report.trials) for report in compared)
        lines.append(f"{count} steps compared, seed {compared[0].seed}: worst error {error:.1e}, worst gap {gap:.1e}")
    return "\n".join(lines)


def _row(report: Report) -> tuple[str, ...]:
    decay = f"{report.weight_decay:g} {report.decay}" if report.weight_decay else "0"
    setting = (report.rule, _short(report.metric), f"{report.inertia:g}", decay)
    if report.refused is not None:
        return (*setting, "", "", "", "", "refused, as it must be", "ok")
    figures = [f"{report.worst_figure(figure):.1e}" for figure in ("error", "gap", "excess")]
    worst = report.worst("strain")
    verdict = "ok" if report.ok else "FAILED"
    return (*setting, str(len(report.trials)), *figures, f"{worst.case} ({worst.number})", verdict)


def _short(metric: str) -> str:
    """The name alone, and the form of a norm that is not as it is without arguments."""
    return metric.partition("(")[0] + (" soft" if "form='soft'" in metric else "")


def check_names(settings: Sequence[Setting]) -> None:
    """Raise ValueError for a rule, metric or form of decay that does not exist, before anything is computed."""
    for setting in dict.fromkeys(settings):
        build_rule(setting.rule)
        find_metric(setting.metric)
        if setting.decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(map(repr, DECAYS))}, got {setting.decay!r}.")
