"""What stands on the page of a report: every number as text, every picture with how to read it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from proxmom.study import pictures, summary, tuning
from proxmom.study.pictures import Style
from proxmom.study.sources import Source
from proxmom.study.store import STATUSES, Run
from proxmom.study.summary import Interval, Results
from proxmom.study.terminal import count_text, interval_text, number_text
from proxmom.study.tuning import Edge

_VERSIONS = ("proxmom", "commit", "python", "numpy", "scipy", "processor", "cores")
_TREES = {False: "as committed", True: "with uncommitted changes", None: "not a checkout"}


def render(sources: Sequence[Source], results: Results, reference: str) -> str:
    """The page as HTML, ratios to `reference`; everything that comes from a study is escaped."""
    environment = Environment(
        loader=PackageLoader("proxmom", "study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number_text, interval=interval_text)
    edges = tuning.edges(results)
    return environment.get_template("report.html.jinja").render(
        title=" + ".join(dict.fromkeys(source.name for source in sources)),
        sources=sources,
        study=sources[0],
        reference=reference,
        problems=results.problems,
        methods=results.methods,
        missed=bool(np.isinf(results.counts).any()),
        penalty=summary.MISS_FACTOR * results.budget,
        warnings=list(_warnings(results, sources, edges)),
        plateaus=[_edge_text(edge) for edge in edges if edge.plateau],
        statuses=_statuses(results),
        settings=_settings(results),
        provenance=[_provenance(source) for source in sources],
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
        "answer": _bars(means),
        "counts": [(m, _cells(results, m), summary.geometric_mean(counts[m]).mean) for m in results.methods],
        "ratios": [(m, list(ratios[m]), means[m]) for m in results.methods],
        "matrix": [(m, [against[other][m] for other in results.methods]) for m in results.methods],
        "variants": summary.variants(results),
        "memory": summary.memory(results),
        "budgets": budgets,
        "so_far": [(m, row) for m, row in zip(results.methods, so_far, strict=True) if m in searched],
        "sensitivity": sorted(sensitivity.items(), key=lambda item: item[1].mean),
    }


def _bars(means: Mapping[str, Interval]) -> list[dict[str, Any]]:
    """Means in ascending order, each with its place and its interval's on a common log scale, in percent."""
    known = {method: mean for method, mean in means.items() if not np.isnan(mean.mean)}
    bounds = [b for m in known.values() for b in (m.mean, m.low, m.high, 1.0) if not np.isnan(b)]
    low, high = np.log(min(bounds)) - 0.1, np.log(max(bounds)) + 0.1

    def place(value: float) -> float:
        return round(float(100 * (np.log(value) - low) / (high - low)), 2)

    ranked = sorted(known.items(), key=lambda item: item[1].mean)
    spans = [(m.mean, m.mean) if np.isnan(m.low) else (m.low, m.high) for _, m in ranked]
    return [
        {"method": method, "mean": mean, "dot": place(mean.mean), "one": place(1.0)}
        | {"start": place(start), "length": round(place(end) - place(start), 2)}
        for (method, mean), (start, end) in zip(ranked, spans, strict=True)
    ]


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
        "palette": {name: Markup(pictures.palette_css(name == "dark")) for name in ("light", "dark")},
        "legend": [(style.name, Markup(pictures.swatch(style))) for style in styles],
        "convergence": pictures.convergence(shown, styles, study.target),
        "lr_pictures": pictures.lr_sensitivity(shown, styles),
        "momentum": pictures.momentum(shown, styles),
        "profile": [pictures.profile(shown, styles)],
        "tuning": [pictures.tuning_budget(shown, styles, goal)],
    }


def _warnings(results: Results, sources: Sequence[Source], edges: Sequence[Edge]) -> Iterator[str]:
    for source in sources:
        if missing := source.planned - len(source.runs):
            yield f"{missing} of the {source.planned} runs of {source.name} are not finished; run it again."
        if any(run.provenance.get("dirty") for run in source.runs):
            yield f"Some runs of {source.name} were made from a working tree with uncommitted changes."
    yield from (f"{_edge_text(edge)}: widen that range and run again." for edge in edges if not edge.plateau)
    for problem, row in zip(results.problems, results.counts, strict=True):
        if missed := [method for method, count in zip(results.methods, row, strict=True) if np.isinf(count)]:
            yield f"On {problem}, no run reached the target with {_listed(missed)}."
    yield from _unequal_budgets(results)
    yield from _failures(results)


def _edge_text(edge: Edge) -> str:
    where = f"the {edge.side} {edge.name} tried ({edge.value:.3g})"
    return f"On {edge.problem}, the best run of {edge.method} has {where}"


def _unequal_budgets(results: Results) -> Iterator[str]:
    sizes: dict[int, list[str]] = defaultdict(list)
    for (problem, method), runs in results.runs.items():
        if runs[0].point:
            sizes[len(runs)].append(f"{method} on {problem}")
    usual = max(sizes, key=lambda size: len(sizes[size]), default=0)
    for size, cells in sizes.items():
        if size != usual:
            yield f"Unequal tuning: {size} runs instead of {usual} for {_listed(cells)}."


def _failures(results: Results) -> Iterator[str]:
    runs = [run for runs in results.runs.values() for run in runs if run.status == "failed"]
    causes = Counter((run.method, run.problem, run.message) for run in runs)
    for (method, problem, message), count in causes.items():
        yield f"{count} {'run' if count == 1 else 'runs'} of {method} on {problem} failed: {message}"


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _statuses(results: Results) -> list[tuple[str, list[int]]]:
    counts: dict[str, Counter[str]] = {method: Counter() for method in results.methods}
    for (_, method), runs in results.runs.items():
        counts[method].update(run.status for run in runs)
    return [(method, [count[status] for status in STATUSES]) for method, count in counts.items()]


def _settings(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """By method and problem: what was searched, as lines, and the whole configuration."""
    rows = []
    for method in results.methods:
        best = [results.best.get((problem, method)) for problem in results.problems]
        rows.append((method, [_setting(run) if run else ("", "") for run in best]))
    return rows


def _setting(run: Run) -> tuple[str, str]:
    lines = [f"{name} {run.point[name]:.4g}" for name in sorted(run.point, key=lambda name: (name != "lr", name))]
    fixed = run.configuration["method"]
    if not lines:
        lines = [f"{name} {fixed[name]:.4g}" for name in ("lr",) if name in fixed] or ["as given"]
    return "\n".join(lines), json.dumps(fixed, ensure_ascii=False)


def _provenance(source: Source) -> dict[str, Any]:
    """Facts about a source's runs; where runs differ, every value."""
    records = [run.provenance for run in source.runs]
    values = {name: dict.fromkeys(str(record.get(name) or "unknown") for record in records) for name in _VERSIONS}
    dates = sorted(str(r.get("started")) for r in records)
    statuses = Counter(run.status for run in source.runs)
    dirty = {r.get("dirty") for r in records}
    return {
        **{name: ", ".join(found) for name, found in values.items()},
        "working tree": " and ".join(text for flag, text in _TREES.items() if flag in dirty) or "unknown",
        "runs": ", ".join(f"{statuses[status]} {status}" for status in STATUSES if statuses[status]),
        "seeds": ", ".join(dict.fromkeys(str(run.seed) for run in source.runs)),
        "started": dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
        "seconds": f"{sum(run.seconds for run in source.runs):.0f} in all runs together",
    }
