"""What stands on the page about training studies: every number as text, every picture with how to read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from proxmom.study.record.ranking import lost
from proxmom.study.record.store import TRAINING_STATUSES, Run
from proxmom.study.report import finals, finals_compare, finals_curves, finals_pictures, finals_tuning, page
from proxmom.study.report.finals import Trained
from proxmom.study.report.finals_compare import Comparison
from proxmom.study.report.finals_terminal import comparison_text
from proxmom.study.report.panels import Style
from proxmom.study.report.sources import Source
from proxmom.study.report.summary import Interval
from proxmom.study.report.tuning import Edge

_OPEN = 3  # tables of more problems than this are folded


def render(sources: Sequence[Source], trained: Trained, reference: str) -> str:
    """The page as HTML, differences and ratios to `reference`."""
    edges = finals_tuning.edges(trained)
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
        own_schedules=_own_schedules(trained),
        reference=reference,
        problems=trained.problems,
        methods=trained.methods,
        measure=trained.measure,
        gaps=any(trained.gaps),
        differences=not all(trained.gaps),
        comparison=comparison_text,
        lost=any(lost(run) for found in trained.final.runs.values() for run in found),
        warnings=list(_warnings(trained, sources, edges)),
        statuses=_statuses(trained),
        settings=page.settings_of(trained.final, runs),
        **_numbers(trained, reference, sources),
        **_pictures(trained, reference),
    )


def targets(trained: Trained, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """By target of the studies and method, for each problem: median steps and seconds over seeds, and who got there."""
    if not any(curve["step"].size for curve in trained.curves.values()):
        return []
    values = dict.fromkeys(t for source in sources if source.training for t in source.training.targets)
    return [{"target": target, "rows": _target_rows(trained, target)} for target in values]


def _own_schedules(trained: Trained) -> list[str]:
    """The methods that have their own schedule or warm-up, and which."""
    found: dict[str, str] = {}
    for (_, method), runs in trained.final.runs.items():
        own = runs[0].configuration["method"]
        texts = [f"{key} {own[key]}" for key in ("schedule", "warmup") if key in own]
        found |= {method: f"{method} has its own: {', '.join(texts)}"} if texts else {}
    return [found[method] for method in trained.methods if method in found]


def _target_rows(trained: Trained, target: float) -> list[tuple[str, list[dict[str, Any]]]]:
    by_seed = finals_curves.first_below(trained, target)
    steps, seconds = (finals_curves.median(values) for values in by_seed)
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
    ratios = finals_compare.mean_ratios(trained, reference)
    pairs = finals_compare.comparisons(trained, reference)
    budgets, so_far = finals_tuning.best_so_far(trained, trained.points_losses[:, trained.methods.index(reference)])
    searched = {method for _, method in trained.search.runs}
    return {
        "answer": page.bars(ratios, close=True),
        "alone": dict(zip(trained.methods, pairs[0], strict=True)) if len(pairs) == 1 else {},
        "signs": _signs(trained, pairs),
        "tables": _tables(trained, pairs),
        "folded": len(trained.problems) > _OPEN,
        "raw": _raw(trained, ratios),
        "variants": finals_compare.variants(trained),
        "memory": finals_compare.memory(trained),
        "targets": targets(trained, sources),
        "budgets": budgets,
        "so_far": [
            (m, row) for m, row in zip(trained.methods, so_far, strict=True) if m in searched and np.isfinite(row).any()
        ],
        "sensitivity": sorted(finals_tuning.lr_sensitivity(trained).items(), key=lambda item: item[1].mean),
    }


def _signs(trained: Trained, pairs: Sequence[Sequence[Comparison]]) -> dict[str, tuple[int, int]]:
    """By method, on how many problems its interval says lower, and higher."""
    columns = [[pair.sign for pair in column] for column in zip(*pairs, strict=True)]
    return {method: (signs.count(-1), signs.count(1)) for method, signs in zip(trained.methods, columns, strict=True)}


def _tables(trained: Trained, pairs: Sequence[Sequence[Comparison]]) -> list[dict[str, Any]]:
    """The table of each problem: what each method came to, and every seed of it."""
    losses, validation = (finals_compare.means(trained, each) for each in (trained.losses, trained.validation))
    accuracy = finals_compare.over_seeds(trained.accuracy)
    return [
        {
            "problem": problem,
            "name": trained.names[row],
            "split": trained.splits[row],
            "pair": "ratio" if trained.gaps[row] else "difference",
            "accurate": not np.isnan(trained.accuracy[row]).all(),
            "checked": not np.array_equal(trained.losses[row], trained.validation[row], equal_nan=True),
            "rows": _rows(trained, row, losses[row], pairs[row], validation[row], accuracy[row]),
        }
        for row, problem in enumerate(trained.problems)
    ]


def _rows(trained: Trained, row: int, losses: Sequence[Interval], *others: Sequence[Any]) -> list[dict[str, Any]]:
    problem, least = trained.problems[row], _least(losses)
    columns = zip(trained.methods, losses, *others, trained.losses[row], strict=True)
    return [
        {
            "method": method,
            "loss": loss,
            "pair": pair,
            "validation": checked,
            "accuracy": right,
            "best": loss.mean == least,
            "seeds": _seeds(trained, problem, method, values),
            **_of_runs(trained.final.runs.get((problem, method), ())),
        }
        for method, loss, pair, checked, right, values in columns
    ]


def _least(means: Sequence[Interval]) -> float:
    return min((mean.mean for mean in means if not np.isnan(mean.mean)), default=np.nan)


def _seeds(trained: Trained, problem: str, method: str, values: Sequence[float]) -> list[tuple[float, str]]:
    """Each seed's loss, and how its run ended if it was lost."""
    ends = {run.seed: run.status for run in trained.final.runs.get((problem, method), ()) if lost(run)}
    return [(value, ends.get(seed, "")) for seed, value in zip(trained.seeds, values, strict=True)]


def _of_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Means over a method's final runs of the weight on memory, and of the share of steps below its cap; lost seeds."""
    betas = [run.mean_beta for run in runs if run.mean_beta is not None]
    capped = [run.capped for run in runs if run.capped is not None]
    ends = [run.status if run.status != "finished" else "diverged" for run in runs if lost(run)]
    return {
        "beta": float(np.mean(betas)) if betas else np.nan,
        "below": 1 - float(np.mean(capped)) if capped else np.nan,
        "runs": len(runs),
        "lost": ", ".join(f"{ends.count(end)} {end}" for end in ("diverged", "failed") if end in ends),
    }


def _raw(trained: Trained, ratios: Mapping[str, Interval]) -> list[tuple[str, list[dict[str, Any]], Interval]]:
    """Mean losses of methods by problem, the smallest marked, with their ratio to the reference."""
    table = finals_compare.means(trained, trained.losses)
    least = [_least(row) for row in table]
    lost = {pair: failed + diverged for pair, (diverged, failed, _) in finals.lost_seeds(trained).items()}
    rows = []
    for column, method in enumerate(trained.methods):
        cells = [
            {"loss": row[column], "best": row[column].mean == smallest, "lost": lost.get((problem, method), 0)}
            for problem, row, smallest in zip(trained.problems, table, least, strict=True)
        ]
        rows.append((method, cells, ratios[method]))
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
            if pair in trained.search.runs and lost(trained.search.best[pair]):
                yield f"On {problem}, no point of {method} finished: its final runs are of the first one."
            if pair not in trained.final.runs:
                yield f"On {problem}, {method} has no final runs."
    for (problem, method), (diverged, failed, size) in finals.lost_seeds(trained).items():
        if diverged + failed:
            yield f"On {problem}, {diverged + failed} of {size} seeds of {method} count as the initial loss."
        if size < len(trained.seeds):
            yield f"On {problem}, {method} has {size} of {len(trained.seeds)} seeds; it is compared on these alone."
    yield from page.unequal_budgets(trained.search)
    yield from page.failures(trained.runs)


def _statuses(trained: Trained) -> list[tuple[str, list[int]]]:
    search, final = (dict(page.statuses(group, TRAINING_STATUSES)) for group in (trained.search, trained.final))
    return [(method, [*search[method], *final[method]]) for method in trained.methods]
