"""What a reader of results must be warned of: what is missing, failed, not committed, or at the edge of its range."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from proxmom.study.record.faults import FAILED
from proxmom.study.record.ranking import lost
from proxmom.study.record.store import causes
from proxmom.study.report.results import Losses, Results
from proxmom.study.report.sources import Source, unfinished
from proxmom.study.report.tuning import Edge


def warnings(results: Results, sources: Sequence[Source], edges: Sequence[Edge]) -> Iterator[str]:
    """A sentence for each."""
    for source in sources:
        yield from unfinished(source)
        if "uncommitted" in source.origin.get("working tree", ""):
            yield f"Some runs of {source.name} were made from a working tree with uncommitted changes."
        if not any(run.directory for run in source.runs):
            yield f"{source.name} is read from rows, which have no curves: there are no pictures of them."
    yield from (f"{edge_text(edge)}: widen that range and run again." for edge in edges if not edge.plateau)
    if isinstance(results, Losses):
        yield from _of_seeds(results)
    else:
        for problem, row in zip(results.problems, results.values[..., 0], strict=True):
            if missed := [method for method, count in zip(results.methods, row, strict=True) if np.isinf(count)]:
                yield f"On {problem}, no run reached the target with {_listed(missed)}."
    yield from _unequal_budgets(results)
    yield from causes(run for run in results.runs if run.status == FAILED)


def edge_text(edge: Edge) -> str:
    """Which best run has which extreme value."""
    where = f"the {edge.side} {edge.name} tried ({edge.value:.3g})"
    return f"On {edge.problem}, the best run of {edge.method} has {where}"


def _of_seeds(results: Losses) -> Iterator[str]:
    """What the final runs lack."""
    for problem in results.problems:
        for method in results.methods:
            pair = (problem, method)
            if pair in results.best and lost(results.best[pair]):
                yield f"On {problem}, no point of {method} finished: its final runs are of the first one."
            if pair not in results.final:
                yield f"On {problem}, {method} has no final runs."
    for (problem, method), (diverged, failed, size) in results.lost_seeds.items():
        if diverged + failed:
            yield f"On {problem}, {diverged + failed} of {size} seeds of {method} count as the initial loss."
        if size < len(results.seeds):
            yield f"On {problem}, {method} has {size} of {len(results.seeds)} seeds; it is compared on these alone."


def _unequal_budgets(results: Results) -> Iterator[str]:
    """Methods that were tuned with more or fewer runs than most."""
    sizes: dict[int, list[str]] = defaultdict(list)
    for (problem, method), runs in results.tried.items():
        if runs[0].point:
            sizes[len(runs)].append(f"{method} on {problem}")
    usual = max(sizes, key=lambda size: len(sizes[size]), default=0)
    for size, cells in sizes.items():
        if size != usual:
            yield f"Unequal tuning: {size} runs instead of {usual} for {_listed(cells)}."


def _listed(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
