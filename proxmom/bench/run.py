"""From a plan to figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from proxmom import kernels
from proxmom.bench.metrics import vector
from proxmom.bench.page import FORMAT
from proxmom.bench.plan import Plan
from proxmom.bench.progress import watched
from proxmom.bench.solver import measure_solver
from proxmom.study.record.provenance import provenance


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Figures that grow, after every part: empty at first, so that a file that cannot be written is known at once.

    Args:
        plan: what to measure. The dictionary that grows is one and the same.

    Raises:
        ValueError: where the device does not exist.
        ModuleNotFoundError: where only torch is asked for and missing.
    """
    figures: dict[str, Any] = {"format": FORMAT, "plan": asdict(plan), "provenance": _provenance()}
    figures |= {"numpy": {}, "torch": [], "notes": []}
    cells = _cells(plan, figures["notes"])
    yield figures
    if plan.metrics:
        figures["metrics"] = []
        for cell in watched([*cells, vector.Cell(plan.rounds)], str):
            figures["metrics"].append(cell.measure())
            yield figures
        return
    if plan.only != "torch":
        figures["numpy"] = measure_solver(plan.rounds)
        yield figures
    for cell in watched(cells, str):
        figures["torch"].append(cell.measure())
        yield figures


def _cells(plan: Plan, notes: list[str]) -> list[Any]:
    if plan.only == "numpy":
        return []
    try:
        if plan.metrics:
            from proxmom.bench.metrics import steps as metric_steps

            return [*metric_steps.cells(plan)]
        from proxmom.bench import steps
    except ModuleNotFoundError as error:
        if plan.only == "torch" or error.name != "torch":
            raise
        notes.append("torch steps were not measured: they need the torch extra, pip install 'proxmom[torch]'.")
        return []
    return [*steps.cells(plan)]


def _provenance() -> dict[str, Any]:
    """What every run stores, and what decides the speed of a step."""
    return {
        **provenance(),
        "torch": _version("torch"),
        "triton": _version("triton"),
        "kernels": _kernels(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _kernels() -> str:
    """Which compiled kernels serve the CPU, or why none does."""
    return "C++" if kernels.available() else f"none ({kernels.why_not()})"
