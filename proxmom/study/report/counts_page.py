"""What stands on the page about deterministic studies: every number as text, every picture with how to read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from proxmom.study.record.store import STATUSES, Run
from proxmom.study.report import page, pictures, summary, tuning
from proxmom.study.report.panels import Style
from proxmom.study.report.sources import Source
from proxmom.study.report.summary import Results
from proxmom.study.report.terminal import count_text
from proxmom.study.report.tuning import Edge


def render(sources: Sequence[Source], results: Results, reference: str) -> str:
    """The page as HTML, ratios to `reference`."""
    edges = tuning.edges(results)
    return page.render_page(
        "report.html.jinja",
        sources,
        edges,
        study=sources[0],
        reference=reference,
        problems=results.problems,
        methods=results.methods,
        missed=bool(np.isinf(results.counts).any()),
        penalty=summary.MISS_FACTOR * results.budget,
        warnings=list(_warnings(results, sources, edges)),
        statuses=page.statuses(results, STATUSES),
        settings=page.settings_of(results, results.best),
        **_numbers(results, reference),
        **_pictures(results, sources[0], reference),
    )


def _numbers(results: Results, reference: str) -> dict[str, Any]:
    means = summary.mean_ratios(results, reference)
    ratios = dict(zip(results.methods, summary.ratios(results, reference).T, strict=True))
    counts = dict(zip(results.methods, summary.penalised(results).T, strict=True))
    against = {other: summary.mean_ratios(results, other) for other in results.methods}
    sensitivity = tuning.lr_sensitivity(results)
    budgets, so_far = tuning.best_so_far(results, reference)
    searched = {method for (_, method), runs in results.runs.items() if len(runs) > 1}
    return {
        "answer": page.bars(means),
        "counts": [(m, _cells(results, m), summary.geometric_mean(counts[m]).mean) for m in results.methods],
        "ratios": [(m, list(ratios[m]), means[m]) for m in results.methods],
        "matrix": [(m, [against[other][m] for other in results.methods]) for m in results.methods],
        "variants": summary.variants(results),
        "memory": summary.memory(results),
        "budgets": budgets,
        "so_far": [(m, row) for m, row in zip(results.methods, so_far, strict=True) if m in searched],
        "sensitivity": sorted(sensitivity.items(), key=lambda item: item[1].mean),
    }


def _cells(results: Results, method: str) -> list[dict[str, Any]]:
    column = results.counts[:, results.methods.index(method)]
    fewest = np.where(np.isnan(results.counts), np.inf, results.counts).min(axis=1)
    runs = [results.best.get((problem, method)) for problem in results.problems]
    cells = zip(column, fewest, runs, strict=True)
    return [{"text": count_text(c), "best": c == least < np.inf, **_details(run)} for c, least, run in cells]


def _details(run: Run | None) -> dict[str, Any]:
    if run is None:
        return {"title": "no finished run", "note": ""}
    tooltip = f"{run.status}; smallest relative gap {run.best_gap:.2g}; {run.seconds:.2g} s"
    notes = {"reached": "", "failed": "failed"}
    return {"title": tooltip, "note": notes.get(run.status, f"gap {run.best_gap:.1g}")}


def _pictures(results: Results, study: Source, reference: str) -> dict[str, Any]:
    """Of the methods themselves: with their variants, no line could be told from another."""
    shown = results.without_variants()
    styles = [Style(index, method) for index, method in enumerate(shown.methods)]
    goal = summary.penalised(results)[:, results.methods.index(reference)]
    return {
        **page.look(styles),
        "convergence": pictures.convergence(shown, styles, study.target),
        "lr_pictures": pictures.lr_sensitivity(shown, styles),
        "momentum": pictures.momentum(shown, styles),
        "profile": [pictures.profile(shown, styles)],
        "tuning": [pictures.tuning_budget(shown, styles, goal)],
    }


def _warnings(results: Results, sources: Sequence[Source], edges: Sequence[Edge]) -> Iterator[str]:
    yield from page.warnings_of(sources, edges)
    for problem, row in zip(results.problems, results.counts, strict=True):
        if missed := [method for method, count in zip(results.methods, row, strict=True) if np.isinf(count)]:
            yield f"On {problem}, no run reached the target with {page.listed(missed)}."
    yield from page.unequal_budgets(results)
    yield from page.failures(run for runs in results.runs.values() for run in runs)
