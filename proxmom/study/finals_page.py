"""What stands on the page about training studies: every number as text, every picture with how to read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from proxmom.study import finals, finals_pictures, page
from proxmom.study.finals import Trained
from proxmom.study.panels import Style
from proxmom.study.sources import Source
from proxmom.study.store import TRAINING_STATUSES, Run
from proxmom.study.tuning import Edge

_OPEN = 3  # tables of more problems than this are folded


def render(sources: Sequence[Source], trained: Trained, reference: str) -> str:
    """The page as HTML, differences and ratios to `reference`."""
    edges = finals.edges(trained)
    runs = {pair: found[0] for pair, found in trained.final.runs.items()}
    return page.render_page(
        "finals.html.jinja",
        sources,
        edges,
        study=sources[0],
        training=sources[0].training,
        seeds=len(trained.seeds),
        seed_names=[f"seed {seed}" for seed in trained.seeds],
        infinity=np.inf,
        reference=reference,
        problems=trained.problems,
        methods=trained.methods,
        measure=trained.measure,
        lost=any(finals.lost(run) for found in trained.final.runs.values() for run in found),
        warnings=list(_warnings(trained, sources, edges)),
        statuses=_statuses(trained),
        settings=page.settings_of(trained.final, runs),
        **_numbers(trained, reference, sources),
        **_pictures(trained, reference),
    )


def targets(trained: Trained, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """By target of the studies and method, for each problem: median steps and seconds over seeds, and who got there."""
    values = dict.fromkeys(t for source in sources if source.training for t in source.training.targets)
    return [{"target": target, "rows": _target_rows(trained, target)} for target in values]


def _target_rows(trained: Trained, target: float) -> list[tuple[str, list[dict[str, Any]]]]:
    by_seed = finals.first_below(trained, target)
    steps, seconds = (finals.median(values) for values in by_seed)
    hits, known = np.isfinite(by_seed[0]).sum(axis=-1), (~np.isnan(by_seed[0])).sum(axis=-1)
    least = np.where(np.isnan(steps), np.inf, steps).min(axis=1)
    return [
        (
            method,
            [
                {
                    "steps": steps[row, column],
                    "seconds": seconds[row, column],
                    "hits": f"{hits[row, column]} of {known[row, column]} seeds",
                    "best": steps[row, column] == least[row] < np.inf,
                }
                for row in range(len(trained.problems))
            ],
        )
        for column, method in enumerate(trained.methods)
    ]


def _numbers(trained: Trained, reference: str, sources: Sequence[Source]) -> dict[str, Any]:
    means = finals.mean_ratios(trained, reference)
    differences = finals.differences(trained, reference)
    budgets, so_far = finals.best_so_far(trained, trained.points_losses[:, trained.methods.index(reference)])
    searched = {method for _, method in trained.search.runs}
    return {
        "answer": page.bars(means, close=True),
        "alone": dict(zip(trained.methods, differences[0], strict=True)) if len(differences) == 1 else {},
        "signs": _signs(trained, differences),
        "tables": [_table(trained, row, differences[row]) for row in range(len(trained.problems))],
        "folded": len(trained.problems) > _OPEN,
        "raw": _raw(trained, means),
        "variants": finals.variants(trained),
        "memory": finals.memory(trained),
        "targets": targets(trained, sources),
        "budgets": budgets,
        "so_far": [
            (m, row) for m, row in zip(trained.methods, so_far, strict=True) if m in searched and np.isfinite(row).any()
        ],
        "sensitivity": sorted(finals.lr_sensitivity(trained).items(), key=lambda item: item[1].mean),
    }


def _signs(trained: Trained, differences: Sequence[Sequence[Any]]) -> dict[str, tuple[int, int]]:
    """By method, on how many problems the interval of its difference is below and above 0."""
    columns = [[interval.sign for interval in column] for column in zip(*differences, strict=True)]
    return {method: (signs.count(-1), signs.count(1)) for method, signs in zip(trained.methods, columns, strict=True)}


def _table(trained: Trained, row: int, differences: Sequence[Any]) -> dict[str, Any]:
    """The table of a problem: what each method came to, and every seed of it."""
    losses = finals.over_seeds(trained.losses[[row]])[0]
    validation = finals.over_seeds(trained.validation[[row]])[0]
    accuracy = finals.over_seeds(trained.accuracy[[row]])[0]
    means = np.array([loss.mean for loss in losses])
    least = np.nanmin(means) if np.isfinite(means).any() else np.nan
    columns = zip(trained.methods, losses, differences, validation, accuracy, trained.losses[row], strict=True)
    return {
        "problem": trained.problems[row],
        "split": trained.splits[row],
        "accurate": not np.isnan(trained.accuracy[row]).all(),
        "checked": not np.array_equal(trained.losses[row], trained.validation[row], equal_nan=True),
        "rows": [
            {
                "method": method,
                "loss": loss,
                "difference": difference,
                "validation": checked,
                "accuracy": right,
                "best": loss.mean == least,
                "seeds": _seeds(trained, trained.problems[row], method, values),
                **_of_runs(trained.final.runs.get((trained.problems[row], method), ())),
            }
            for method, loss, difference, checked, right, values in columns
        ],
    }


def _seeds(trained: Trained, problem: str, method: str, values: Sequence[float]) -> list[tuple[float, str]]:
    """Each seed's loss, and how its run ended if it was lost."""
    ends = {run.seed: run.status for run in trained.final.runs.get((problem, method), ()) if finals.lost(run)}
    return [(value, ends.get(seed, "")) for seed, value in zip(trained.seeds, values, strict=True)]


def _of_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Means over a method's final runs of the weight on memory, and of the share of steps below its cap; lost seeds."""
    betas = [run.mean_beta for run in runs if run.mean_beta is not None]
    capped = [run.capped for run in runs if run.capped is not None]
    ends = [run.status if run.status != "finished" else "diverged" for run in runs if finals.lost(run)]
    return {
        "beta": float(np.mean(betas)) if betas else np.nan,
        "below": 1 - float(np.mean(capped)) if capped else np.nan,
        "runs": len(runs),
        "lost": ", ".join(f"{ends.count(end)} {end}" for end in ("diverged", "failed") if end in ends),
    }


def _raw(trained: Trained, means: Any) -> list[tuple[str, list[dict[str, Any]], Any]]:
    """Mean losses of methods by problem, the smallest marked, with their ratio to the reference."""
    table = finals.over_seeds(trained.losses)
    least = [min((i.mean for i in row if not np.isnan(i.mean)), default=np.nan) for row in table]
    lost = {pair: failed + diverged for pair, (diverged, failed, _) in finals.lost_seeds(trained).items()}
    rows = []
    for column, method in enumerate(trained.methods):
        cells = [
            {"loss": row[column], "best": row[column].mean == smallest, "lost": lost.get((problem, method), 0)}
            for problem, row, smallest in zip(trained.problems, table, least, strict=True)
        ]
        rows.append((method, cells, means[method]))
    return rows


def _pictures(trained: Trained, reference: str) -> dict[str, Any]:
    """Of the methods themselves: with their variants, no line could be told from another."""
    shown = trained.without_variants()
    styles = [Style(index, method) for index, method in enumerate(shown.methods)]
    goal = trained.points_losses[:, trained.methods.index(reference)]
    return {
        **page.look(styles),
        "validation": finals_pictures.losses(shown, styles, "validation"),
        "train": finals_pictures.losses(shown, styles, "train"),
        "lr_pictures": finals_pictures.lr_sensitivity(shown, styles),
        "momentum": finals_pictures.momentum(shown, styles),
        "maps": finals_pictures.MAPS,
        "units": finals_pictures.units(shown, styles),
        "profile": [finals_pictures.profile(shown, styles)] if len(shown.problems) > 2 else [],
        "tuning": finals_pictures.tuning_budget(shown, styles, goal),
    }


def _warnings(trained: Trained, sources: Sequence[Source], edges: Sequence[Edge]) -> Iterator[str]:
    yield from page.warnings_of(sources, edges)
    for problem in trained.problems:
        for method in trained.methods:
            pair = (problem, method)
            if pair in trained.search.runs and finals.lost(trained.search.best[pair]):
                yield f"On {problem}, no point of {method} finished: its final runs are of the first one."
            if pair not in trained.final.runs:
                yield f"On {problem}, {method} has no final runs."
    for (problem, method), (diverged, failed, size) in finals.lost_seeds(trained).items():
        if diverged + failed:
            yield f"On {problem}, {diverged + failed} of {size} seeds of {method} count as the initial loss."
        if size < len(trained.seeds):
            yield f"On {problem}, {method} has {size} of {len(trained.seeds)} seeds; differences are of these alone."
    yield from page.unequal_budgets(trained.search)
    yield from page.failures(trained.runs)


def _statuses(trained: Trained) -> list[tuple[str, list[int]]]:
    search, final = (dict(page.statuses(group, TRAINING_STATUSES)) for group in (trained.search, trained.final))
    return [(method, [*search[method], *final[method]]) for method in trained.methods]
