"""What the pages of all reports share: the page itself, warnings, settings and provenance."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from proxmom.study.record.faults import FAILED
from proxmom.study.record.store import Run, causes
from proxmom.study.report import panels
from proxmom.study.report.panels import Style
from proxmom.study.report.sources import Source, unfinished
from proxmom.study.report.summary import Interval, Results
from proxmom.study.report.terminal import interval_text, loss_text, number_text, ratio_text
from proxmom.study.report.tuning import Edge


def render_page(template: str, sources: Sequence[Source], edges: Sequence[Edge], **values: Any) -> str:
    """A template of this folder as HTML; everything that comes from a study is escaped."""
    environment = Environment(
        loader=PackageLoader("proxmom.study", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number_text, interval=interval_text)
    environment.globals.update(loss=loss_text, ratio=ratio_text)
    return environment.get_template(template).render(
        title=" + ".join(dict.fromkeys(source.name for source in sources)),
        sources=sources,
        plateaus=[edge_text(edge) for edge in edges if edge.plateau],
        provenance=[source.origin for source in sources],
        **values,
    )


def look(styles: Sequence[Style]) -> dict[str, Any]:
    """Colours and the legend."""
    return {
        "palette": {name: Markup(panels.palette_css(name == "dark")) for name in ("light", "dark")},
        "legend": [(style.name, Markup(panels.swatch(style))) for style in styles],
    }


def bars(means: Mapping[str, Interval], close: bool = False) -> list[dict[str, Any]]:
    """Means in ascending order, each with its place and its interval's on a common log scale, in percent.

    close: they may differ by little, and the scale shows that.
    """
    known = {method: mean for method, mean in means.items() if not np.isnan(mean.mean)}
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


def warnings_of(sources: Sequence[Source], edges: Sequence[Edge]) -> Iterator[str]:
    """What is not finished, not committed, or at the edge of its range."""
    for source in sources:
        yield from unfinished(source)
        if "uncommitted" in source.origin.get("working tree", ""):
            yield f"Some runs of {source.name} were made from a working tree with uncommitted changes."
    yield from (f"{edge_text(edge)}: widen that range and run again." for edge in edges if not edge.plateau)


def edge_text(edge: Edge) -> str:
    """Which best run has which extreme value."""
    where = f"the {edge.side} {edge.name} tried ({edge.value:.3g})"
    return f"On {edge.problem}, the best run of {edge.method} has {where}"


def unequal_budgets(results: Results) -> Iterator[str]:
    """Methods that were tuned with more or fewer runs than most."""
    sizes: dict[int, list[str]] = defaultdict(list)
    for (problem, method), runs in results.runs.items():
        if runs[0].point:
            sizes[len(runs)].append(f"{method} on {problem}")
    usual = max(sizes, key=lambda size: len(sizes[size]), default=0)
    for size, cells in sizes.items():
        if size != usual:
            yield f"Unequal tuning: {size} runs instead of {usual} for {listed(cells)}."


def failures(runs: Iterable[Run]) -> Iterator[str]:
    """Runs that raised, and what."""
    yield from causes(run for run in runs if run.status == FAILED)


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def statuses(results: Results, names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """By method, how many of its runs ended in each of these ways."""
    counts: dict[str, Counter[str]] = {method: Counter() for method in results.methods}
    for (_, method), runs in results.runs.items():
        counts[method].update(run.status for run in runs)
    return [(method, [count[name] for name in names]) for method, count in counts.items()]


def settings_of(results: Results, best: Mapping[tuple[str, str], Run]) -> list[tuple[str, list[tuple[str, str]]]]:
    """By method and problem: what was searched, as lines, and the whole configuration."""
    rows = []
    for method in results.methods:
        row = [best.get((problem, method)) for problem in results.problems]
        rows.append((method, [_setting(run) if run else ("", "") for run in row]))
    return rows


def _setting(run: Run) -> tuple[str, str]:
    lines = [f"{name} {run.point[name]:.4g}" for name in sorted(run.point, key=lambda name: (name != "lr", name))]
    fixed = run.configuration["method"]
    if not lines:
        lines = [f"{name} {fixed[name]:.4g}" for name in ("lr",) if name in fixed] or ["as given"]
    return "\n".join(lines), json.dumps(fixed, ensure_ascii=False)
