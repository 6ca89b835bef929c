"""Prints the tables of the README from the runs of small.toml: the committed rows, or a results directory.

python experiments/ablation/tables.py [results/ablation]
"""

from __future__ import annotations

import sys
from pathlib import Path

from proxmom.study.report.results import Results
from proxmom.study.report.sources import merge, read_source
from proxmom.study.report.terminal import text_table

HEIGHTS = ("linearised", "previous value", "cutting plane", "aggregated")
PAPER = "linearised, 0.9"
TABLES = {
    "Heights at beta_max 0.9": [f"{height}, 0.9" for height in HEIGHTS],
    "Heights at beta_max 0.99": [f"{height}, 0.99" for height in HEIGHTS],
    "Inertia, at beta_max 0.9": [PAPER, "inertia 0.1", "inertia 0.5", "inertia 1"],
    "beta_max, at inertia 0": [PAPER, "beta_max 0.95", "linearised, 0.99", "beta_max 1"],
}


def edges(results: Results) -> list[str]:
    """The pairs whose best lr is the smallest or the largest that was tried."""
    found = []
    for (problem, method), best in results.best.items():
        tried = [run.point["lr"] for run in results.tried[problem, method]]
        if best.point["lr"] in (min(tried), max(tried)):
            found.append(f"{method} on {problem}: lr = {best.point['lr']:.3g}/L, {best.status}")
    return found


def main(folder: str) -> None:
    results = merge([read_source(folder)])
    for title, methods in TABLES.items():
        print(title, *text_table(results.only(methods), methods[0]), "", sep="\n")
    print("Best lr at an edge of those tried:", *(edges(results) or ["nowhere"]), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent / "small"))
