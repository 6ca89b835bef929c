"""What pages say of the comparison stands in its tables, and the tables are those of the committed counts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rivals.support import compare, summaries

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "tuning_free"
TABLE = (FOLDER / "table.txt").read_text()
PAGE = "experiments/tuning_free/README.md"


@dataclass(frozen=True)
class Figure:
    """A mean; as {x} alone, as {x.span} with its interval."""

    mean: str
    span: str
    worst: str
    missed: str

    def __str__(self) -> str:
        return self.mean


def _claims() -> dict[str, Figure]:
    """The lines of table.txt that the claim is about, by their label."""
    found = {}
    for line in TABLE.splitlines():
        line = re.match(r"(.+ over .+?) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +(\d+)$", line)
        if line:
            label, mean, low, high, worst, missed = line.groups()
            found[label] = Figure(mean, f"{mean} ({low} to {high})", worst, missed)
    return found


CLAIMS = _claims()
CASES = {"s": "in-sample, gap", "h": "held-out, gap", "g": "non-convex, gradient", "f": "non-convex, gap"}
NAMES = {
    "own": "minimize(fun, x0) over L-BFGS",
    "larger": "minimize(fun, x0) over L-BFGS, maxcor 20",
    "cg": "minimize(fun, x0) over nonlinear CG",
    "low": 'minimize(fun, x0, memory="low") over L-BFGS',
    "ten": "minimize(..., metric=QuasiNewton(10)) over L-BFGS",
    "forty": "minimize(..., metric=QuasiNewton(40)) over L-BFGS",
    "firsts": "GradientDescent, QuasiNewton(20) over L-BFGS",
    "lowcg": 'minimize(fun, x0, memory="low") over nonlinear CG',
    "lowfirsts": "ConjugateMemory x Secant over L-BFGS",
}
FIGURES = {f"{name}_{case}": CLAIMS[f"{CASES[case]}, {NAMES[name]}"] for name in NAMES for case in CASES}
ROWS = {  # of the page's table: what the row says of each case
    "over L-BFGS": "own",
    "over L-BFGS with as many pairs": "larger",
    "over nonlinear CG": "cg",
    "10 pairs, over L-BFGS": "ten",
    "40 pairs, over L-BFGS": "forty",
    "from all first steps, over L-BFGS": "firsts",
    '`memory="low"`, over L-BFGS': "low",
    "... from all first steps": "lowfirsts",
}
OVERHEAD = {  # by n, method and pairs: over SciPy's
    row[:3]: float(row[3])
    for row in re.findall(
        r"^ *(\d+)  (\S.*?) {2,}(\d*) +[\d.]+ +([\d.]+) \[.*\]$", (FOLDER / "overhead.txt").read_text(), re.MULTILINE
    )
}
LARGE = [OVERHEAD[key] for key in (("100000", "minimize", "20"), *(("1000000", "minimize", p) for p in ("10", "20")))]
QUOTES = [
    *((PAGE, f"| {label} | " + " | ".join(f"{{{row}_{c}.span}}" for c in CASES) + " |") for label, row in ROWS.items()),
    (PAGE, "| worst instance over L-BFGS | " + " | ".join(f"{{own_{c}.worst}}" for c in CASES) + " |"),
    (PAGE, f"at 20 pairs and at 1e6 ours takes {min(LARGE):.2f} to {max(LARGE):.2f} times as long"),
    (
        "README.md",
        "{own_s.span} times the evaluations on 28 convex instances (in brackets 95% intervals), {own_h.span} times on",
    ),
    ("README.md", "and {own_g.span} times on 45 problems of the literature"),
    ("README.md", "both sides it is {larger_s.span}, {larger_h.span} and {larger_g.span}"),
    ("README.md", "{low_s.span} times the evaluations of L-BFGS and {lowcg_s.span} times those of nonlinear CG on"),
    ("README.md", "on the first 28, but {low_g.span} times those of L-BFGS where convexity is lost"),
    ("docs/which.md", "{own_s.span} times the evaluations of L-BFGS-B at its default of 10 pairs on small"),
    ("docs/which.md", "{own_g.span} times on those of the literature, {larger_s.span} and {larger_g.span} at"),
    ("docs/which.md", "{low_s.span} times the evaluations of L-BFGS on small convex problems"),
    (PAGE, "| missed where L-BFGS did not | " + " | ".join(f"{{own_{c}.missed}}" for c in CASES) + " |"),
]


def _words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(("page", "words"), QUOTES)
def test_a_quoted_figure_is_that_of_the_table(page: str, words: str) -> None:
    assert words.format(**FIGURES) in _words((ROOT / page).read_text())


def test_rows_shown_on_the_page_are_those_of_the_tables() -> None:
    [*blocks] = re.findall(r"^```text\n(.*?)^```", (FOLDER / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = {*TABLE.splitlines(), *(FOLDER / "overhead.txt").read_text().splitlines()}
    shown = [line for block in blocks for line in block.splitlines() if line]
    assert len(shown) > 10
    assert not [line for line in shown if line not in lines]


def test_committed_counts_give_the_committed_table() -> None:
    assert summaries.table(compare.read()) == TABLE
