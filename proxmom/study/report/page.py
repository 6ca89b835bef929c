"""The page about runs: every number as text, every picture with how to read it, warnings and where they come from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from proxmom.study.plan.specs import Training
from proxmom.study.record.ranking import lost
from proxmom.study.record.run import STATUSES, TRAINING_STATUSES, Run
from proxmom.study.report import panels, pictures, tuning
from proxmom.study.report.compare import Comparison, comparisons, mean_ratios, means, memory_weights, signs, variants
from proxmom.study.report.curves import first_below
from proxmom.study.report.panels import Style
from proxmom.study.report.results import Counts, Losses, Results, Runs
from proxmom.study.report.sources import Source
from proxmom.study.report.statistics import Array, Interval, geometric_mean, last_median, least, t_mean
from proxmom.study.report.text import (
    comparison_text,
    count_text,
    few_text,
    interval_text,
    loss_text,
    number_text,
    ratio_text,
)
from proxmom.study.report.verdict_text import asked_text, found_text, problem_text, told
from proxmom.study.report.verdicts import verdicts
from proxmom.study.report.warnings import edge_text, warnings

_OPEN = 3  # tables of more problems than this are folded


def render(sources: Sequence[Source], results: Results, reference: str) -> str:
    """The page as HTML, differences and ratios to `reference`; everything that comes from a study is escaped."""
    environment = Environment(
        loader=PackageLoader("proxmom.study", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number_text, interval=interval_text, comparison=comparison_text)
    environment.globals.update(asked_text=asked_text, found_text=found_text, problem_text=problem_text)
    environment.globals.update(loss=loss_text, ratio=lambda mean: ratio_text(mean, results.exact))
    edges = tuning.edges(results)
    measured: dict[str, Any]
    if isinstance(results, Losses):
        template, measured = "losses.html.jinja", _losses(results, reference, sources)
    else:
        assert isinstance(results, Counts)
        template, measured = "counts.html.jinja", _counts(results, reference)
    return environment.get_template(template).render(
        title=" + ".join(dict.fromkeys(source.name for source in sources)),
        sources=sources,
        asked=sources[0].asked,
        decided=[(source.name, told(found), found) for source in sources if (found := verdicts(source))],
        reference=reference,
        problems=results.problems,
        methods=results.methods,
        warnings=list(warnings(results, sources, edges)),
        plateaus=[edge_text(edge) for edge in edges if edge.plateau],
        settings=_settings(results),
        few=few_text(results),
        variants=variants(results),
        memory=memory_weights(results),
        sensitivity=sorted(tuning.lr_sensitivity(results).items(), key=lambda item: item[1].mean),
        **_so_far(results, reference),
        **_pictures(results, reference),
        **measured,
    )


def _so_far(results: Results, reference: str) -> dict[str, Any]:
    budgets, table = tuning.best_so_far(results, results.points[:, results.methods.index(reference)])
    searched = {pair[1] for pair, runs in results.tried.items() if len(runs) > 1 or not results.exact}
    rows = zip(results.methods, table, strict=True)
    return {"budgets": budgets, "so_far": [(m, row) for m, row in rows if m in searched and np.isfinite(row).any()]}


def _pictures(results: Results, reference: str) -> dict[str, Any]:
    """Of the methods themselves: with their variants, no line could be told from another."""
    shown = results.without_variants()
    styles = [Style(index, method) for index, method in enumerate(shown.methods)]
    goal = results.points[:, results.methods.index(reference)]
    found = {
        "palette": {name: Markup(panels.palette_css(name == "dark")) for name in ("light", "dark")},
        "legend": [(style.name, Markup(panels.swatch(style))) for style in styles],
        "lr_pictures": pictures.lr_sensitivity(shown, styles),
        "momentum": pictures.momentum(shown, styles),
        "profile": [pictures.profile(shown, styles, wide=True)] if results.exact or len(shown.problems) > 2 else [],
        "tuning": pictures.tuning_budget(shown, styles, goal),
    }
    if isinstance(shown, Counts):
        return found | {"convergence": pictures.convergence(shown, styles)}
    assert isinstance(shown, Losses)
    curves = {f"{name}_pictures": pictures.losses(shown, styles, name) for name in ("validation", "train")}
    return found | curves | {"units": pictures.units(shown, styles), "maps": pictures.MAPS}


def _counts(results: Counts, reference: str) -> dict[str, Any]:
    """What a page about evaluations has of its own."""
    against = {other: mean_ratios(results, other) for other in results.methods}
    counted = results.counted[..., 0]
    ratios = counted / counted[:, [results.methods.index(reference)]]
    return {
        "answer": _bars(against[reference]),
        "missed": bool(np.isinf(results.counts).any()),
        "penalty": results.penalty,
        "counts": [
            (method, _count_cells(results, method), geometric_mean(column).mean)
            for method, column in zip(results.methods, counted.T, strict=True)
        ],
        "ratios": [(m, list(row), against[reference][m]) for m, row in zip(results.methods, ratios.T, strict=True)],
        "matrix": [(m, [against[other][m] for other in results.methods]) for m in results.methods],
        "statuses": _statuses(results.methods, results.tried, STATUSES),
    }


def _count_cells(results: Counts, method: str) -> list[dict[str, Any]]:
    column, fewest = results.counts[:, results.methods.index(method)], least(results.counts)
    cells = []
    for problem, count, smallest in zip(results.problems, column, fewest, strict=True):
        run = results.best.get((problem, method))
        title, note = "no finished run", ""
        if run is not None:
            title = f"{run.status}; smallest relative gap {run.best_gap:.2g}; {run.seconds:.2g} s"
            note = {"reached": "", "failed": "failed"}.get(run.status, f"gap {run.best_gap:.1g}")
        cells.append({"text": count_text(count), "best": count == smallest < np.inf, "title": title, "note": note})
    return cells


def _losses(results: Losses, reference: str, sources: Sequence[Source]) -> dict[str, Any]:
    """What a page about training has of its own."""
    pairs = comparisons(results, reference)
    ratios = mean_ratios(results, reference)
    statuses = [_statuses(results.methods, runs, TRAINING_STATUSES) for runs in (results.tried, results.final)]
    return {
        "answer": _bars(ratios, close=True),
        "seed_names": [f"seed {seed}" for seed in results.seeds],
        "infinity": np.inf,
        "search_seeds": results.search_seeds,
        "points_tried": _points_tried(results),
        "own_schedules": _own_schedules(results),
        "measure": results.measure,
        "gaps": any(results.by_ratio),
        "differences": not all(results.by_ratio),
        "lost": any(diverged + failed for diverged, failed, _ in results.lost_seeds.values()),
        "alone": dict(zip(results.methods, pairs[0], strict=True)) if len(pairs) == 1 else {},
        "signs": signs(results, reference),
        "tables": _tables(results, pairs),
        "folded": len(results.problems) > _OPEN,
        "ratios": [ratios[method] for method in results.methods],
        "targets": _targets(results, sources),
        "statuses": [(method, [*tried, *final]) for (method, tried), (_, final) in zip(*statuses, strict=True)],
    }


def _bars(ratios: Mapping[str, Interval], close: bool = False) -> list[dict[str, Any]]:
    """Means in ascending order, each with its place and its interval's on a common log scale, in percent.

    close: they may differ by little, and the scale shows that.
    """
    known = {method: mean for method, mean in ratios.items() if not np.isnan(mean.mean)}
    bounds = [b for m in known.values() for b in (m.mean, m.low, m.high, 1.0) if not np.isnan(b)] or [1.0]
    margin = 0.05 * np.log(max(bounds) / min(bounds)) + 1e-4 if close else 0.1
    low, high = np.log(min(bounds)) - margin, np.log(max(bounds)) + margin

    def place(value: float) -> float:
        return round(float(100 * (np.log(value) - low) / (high - low)), 2)

    ranked = sorted(known.items(), key=lambda item: item[1].mean)
    spans = [(m.mean, m.mean) if np.isnan(m.low) else (m.low, m.high) for _, m in ranked]
    return [
        {"method": method, "mean": mean, "dot": place(mean.mean), "one": place(1.0)}
        | {"start": place(start), "length": round(place(end) - place(start), 2)}
        for (method, mean), (start, end) in zip(ranked, spans, strict=True)
    ]


def _own_schedules(results: Losses) -> list[str]:
    """The methods that have their own schedule or warm-up, and which."""
    asked = {method: runs[0].configuration["method"] for (_, method), runs in results.final.items()}
    own = {m: [f"{k} {asked[m][k]}" for k in ("schedule", "warmup") if k in asked[m]] for m in results.ran}
    return [f"{method} has its own: {', '.join(texts)}" for method, texts in own.items() if texts]


def _points_tried(results: Losses) -> str:
    """How many points each method was tried at, as text."""
    sizes = [len(runs) for runs in results.searched.values()] or [0]
    return f"{min(sizes)} points" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)} points"


def _targets(results: Losses, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """By target of the studies and method, for each problem: median steps and seconds over seeds, and who got there."""
    if not any(curve["step"].size for curve in results.curves.values()):
        return []
    asked = [source.asked for source in sources if isinstance(source.asked, Training)]
    values = dict.fromkeys(target for each in asked for target in each.targets)
    return [{"target": target, "rows": _target_rows(results, target)} for target in values]


def _target_rows(results: Losses, target: float) -> list[tuple[str, list[dict[str, Any]]]]:
    by_seed = first_below(results, target)
    steps, seconds = (last_median(values) for values in by_seed)
    hits, known = np.isfinite(by_seed[0]).sum(axis=-1), (~np.isnan(by_seed[0])).sum(axis=-1)

    def cell(row: int, column: int) -> dict[str, Any]:
        at = row, column
        best = bool(steps[at] == least(steps)[row] < np.inf)
        return {"steps": steps[at], "seconds": seconds[at], "hits": f"{hits[at]} of {known[at]} seeds", "best": best}

    rows = range(len(results.problems))
    return [(method, [cell(row, column) for row in rows]) for column, method in enumerate(results.methods)]


def _tables(results: Losses, pairs: Sequence[Sequence[Comparison]]) -> list[dict[str, Any]]:
    """The table of each problem: what each method came to, and every seed of it."""
    losses, validation = (means(results, values) for values in (results.values, results.validation))
    columns = zip(losses, pairs, validation, results.accuracy, results.values, strict=True)
    return [
        {
            "problem": problem,
            "name": results.names[row],
            "split": results.splits[problem],
            "pair": "ratio" if results.by_ratio[row] else "difference",
            "accurate": not np.isnan(results.accuracy[row]).all(),
            "checked": not np.array_equal(results.values[row], results.validation[row], equal_nan=True),
            "rows": [
                {
                    "method": method,
                    "loss": loss,
                    "best": loss.mean == _least(losses[row]),
                    "pair": pair,
                    "validation": checked,
                    "accuracy": t_mean(right),
                    "seeds": _seeds(results, results.final.get((problem, method), ()), values),
                    **_of_runs(results.final.get((problem, method), ())),
                }
                for method, loss, pair, checked, right, values in zip(results.methods, *table, strict=True)
            ],
        }
        for row, (problem, table) in enumerate(zip(results.problems, columns, strict=True))
    ]


def _least(found: Sequence[Interval]) -> float:
    return min((mean.mean for mean in found if not np.isnan(mean.mean)), default=np.nan)


def _seeds(results: Losses, runs: Sequence[Run], values: Array) -> list[tuple[float, str]]:
    """Each seed's loss, and how its run ended if it was lost."""
    ends = {run.seed: run.status for run in runs if lost(run)}
    return [(value, ends.get(seed, "")) for seed, value in zip(results.seeds, values, strict=True)]


def _of_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Means over a method's final runs of the weight on memory, and of the share of steps below its cap; lost seeds."""
    betas = [run.mean_beta for run in runs if run.mean_beta is not None]
    capped = [run.capped for run in runs if run.capped is not None]
    ends = [run.status if run.status != "finished" else "diverged" for run in runs if lost(run)]
    return {
        "beta": float(np.mean(betas)) if betas else np.nan,
        "below": 1 - float(np.mean(capped)) if capped else np.nan,
        "runs": len(runs),
        "gone": len(ends),
        "lost": ", ".join(f"{ends.count(end)} {end}" for end in ("diverged", "failed") if end in ends),
    }


def _statuses(methods: Sequence[str], runs: Runs, names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """By method, how many of these runs ended in each of these ways."""
    counts = Counter((method, run.status) for (_, method), found in runs.items() for run in found)
    return [(method, [counts[method, name] for name in names]) for method in methods]


def _settings(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """By method and problem: what was searched, as lines, and the whole configuration of the best point."""
    first = {pair: _setting(runs[0]) for pair, runs in results.final.items()}
    return [(m, [first.get((problem, m), ("", "")) for problem in results.problems]) for m in results.methods]


def _setting(run: Run) -> tuple[str, str]:
    lines = [f"{name} {run.point[name]:.4g}" for name in sorted(run.point, key=lambda name: (name != "lr", name))]
    fixed = run.configuration["method"]
    if not lines:
        lines = [f"{name} {fixed[name]:.4g}" for name in ("lr",) if name in fixed] or ["as given"]
    return "\n".join(lines), json.dumps(fixed, ensure_ascii=False)
