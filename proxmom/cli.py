"""The command line: `proxmom rules | verify | run | report | draw | bench`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxmom import __version__
from proxmom.lookup import find_metric, find_rule
from proxmom.rules import RULES

if TYPE_CHECKING:
    from proxmom.verify import Report

EXTRAS = {"cvxpy": "verify", "clarabel": "verify"}  # which extra brings a missing package; any other is of the study extra
BOUNDED = {"Polyak", "MoMo", "TruncatedMemory"}  # rules that cannot be made without a lower bound


@contextmanager
def _clear_errors(command: str) -> Iterator[None]:
    """Errors of the user's making become one line; anything else keeps its traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("proxmom"):
            raise
        extra = EXTRAS.get(error.name or "", "study")
        raise click.ClickException(
            f"proxmom {command} needs the {extra} extra: pip install 'proxmom[{extra}]' ({error})."
        ) from error
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise click.ClickException(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="proxmom")
def main() -> None:
    """Momentum optimizers as exact proximal steps on a model of planes.

    A rule says which planes model the loss. RULE is a name from `proxmom rules`, with arguments if wanted, or an import
    path: AdaptiveMemory, "MoMo(lower_bound=0.1)", my_rules.py:MyRule, "package.module:MyRule(beta=0.5)".
    """


@main.command()
def rules() -> None:
    """List the rules, one line each."""
    width = max(map(len, RULES))
    for name, rule in RULES.items():
        click.echo(f"{name:<{width}}  {(rule.__doc__ or '').strip().splitlines()[0]}")


@main.command()
@click.argument("rule", nargs=-1)
@click.option("--trials", default=200, show_default=True, type=click.IntRange(min=1), help="States for each setting.")
@click.option("--metric", multiple=True, help="Metrics to check, repeatable.  [default: Euclidean, Adam]")
@click.option("--inertia", multiple=True, type=float, help="Inertias to check, repeatable.  [default: 0, 0.1]")
@click.option("--weight-decay", multiple=True, type=float, help="Weight decays, repeatable.  [default: 0, 0.05]")
@click.option("--decay", multiple=True, help="Forms of decay, repeatable.  [default: proximal, decoupled, coupled]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Processes.")
def verify(
    rule: tuple[str, ...],
    trials: int,
    metric: tuple[str, ...],
    inertia: tuple[float, ...],
    weight_decay: tuple[float, ...],
    decay: tuple[str, ...],
    seed: int,
    jobs: int,
) -> None:
    """Compare every step of RULE (default: all rules, all heights) with an independent convex solver.

    Random and degenerate states; the table names the worst trial, which is reproduced by its seed and number. Rules
    with a lower bound must refuse inertia and coupled decay: that is checked instead. Exits with 1 if a step is wrong.
    """
    settings = list(
        itertools.product(
            rule or _all_rules(),
            metric or ("Euclidean", "Adam"),
            inertia or (0.0, 0.1),
            _decays(weight_decay or (0.0, 0.05), decay or ("proximal", "decoupled", "coupled")),
        )
    )
    with _clear_errors("verify"):
        import cvxpy  # noqa: F401  (missing: said before anything starts)

        for one in rule:
            find_rule(one, **_bound_if_needed(one))
        reports = _check_all([(*setting, trials, seed) for setting in settings], jobs)
    click.echo(_verify_table(reports))
    if not all(report.ok for report in reports):
        sys.exit(1)


def _all_rules() -> list[str]:
    heights = ("previous value", "cutting plane", "aggregated")
    return [*RULES, *(f"AdaptiveMemory(height={height!r})" for height in heights)]


def _bound_if_needed(rule: str) -> dict[str, float]:
    """A lower bound for the built-in rules that have no default for it: any is as good as another here."""
    return {"lower_bound": 0.0} if rule in BOUNDED else {}


def _decays(sizes: tuple[float, ...], forms: tuple[str, ...]) -> list[tuple[float, str]]:
    """Each size in each form; without decay the form makes no difference."""
    return [(size, form) for size in sizes for form in (forms if size else forms[:1])]


def _check_one(setting: tuple[str, str, float, tuple[float, str], int, int]) -> Report:
    from proxmom.rules import Facts
    from proxmom.verify import check_rule

    name, metric, inertia, (size, form), trials, seed = setting
    rule = find_rule(name, **_bound_if_needed(name))
    if form == "coupled" and Facts.of(rule).needs_loss and not size:
        form = "proximal"
    return check_rule(
        rule,
        metric=find_metric(metric),
        inertia=inertia,
        weight_decay=size,
        decay=form,
        trials=trials,
        seed=seed,
    )


def _check_all(settings: list[Any], jobs: int) -> list[Report]:
    hidden = None if sys.stderr.isatty() else lambda _: None
    with click.progressbar(length=len(settings), label="verify", file=sys.stderr, show_pos=True) as bar:
        done = []
        if jobs == 1:
            for setting in settings:
                done.append(_check_one(setting))
                bar.update(1)
            return done
        with ProcessPoolExecutor(jobs) as pool:
            for report in pool.map(_check_one, settings):
                done.append(report)
                bar.update(1)
    del hidden
    return done


def _verify_table(reports: list[Report]) -> str:
    head = ("rule", "metric", "inertia", "decay", "trials", "error", "gap", "excess", "worst case (trial)", "")
    rows = [head, *(_verify_row(report) for report in reports)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    done = [report for report in reports if report.trials]
    if done:
        error, gap = (max(getattr(r.worst(f), f) for r in done) for f in ("error", "gap"))
        count = sum(len(report.trials) for report in done)
        lines.append(f"{count} steps compared, seed {done[0].seed}: worst error {error:.1e}, worst gap {gap:.1e}")
    return "\n".join(lines)


def _verify_row(report: Report) -> tuple[str, ...]:
    decay = f"{report.weight_decay:g} {report.decay}" if report.weight_decay else "0"
    setting = (report.rule, report.metric.partition("(")[0], f"{report.inertia:g}", decay)
    if report.refused is not None:
        return (*setting, "", "", "", "", "refused, as it must be", "ok")
    worst = report.worst("error")
    figures = (f"{report.worst(figure) and getattr(report.worst(figure), figure):.1e}" for figure in ("error", "gap", "excess"))
    return (*setting, str(len(report.trials)), *figures, f"{worst.case} ({worst.number})", "ok" if report.ok else "FAILED")
