"""experiments/full_batch: a tiny version runs and goes on, and the committed table is what the committed rows give."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
FOLDER = Path(__file__).parents[1] / "experiments" / "full_batch"
NAMES = ("rows", "problems", "methods", "summaries", "picture", "compare")
TINY = ["--only", "matrix factorisation", "--seeds", "1", "--budget", "12", "--out"]


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """The scripts of the folder; others have scripts of the same names, so these are known during the test alone."""
    before, threads = {name: sys.modules.pop(name, None) for name in NAMES}, torch.get_num_threads()
    sys.path.insert(0, str(FOLDER))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    sys.path.remove(str(FOLDER))
    torch.set_num_threads(threads)
    for name, module in before.items():
        del sys.modules[name]
        if module is not None:
            sys.modules[name] = module


@pytest.fixture(scope="module")
def tiny(scripts: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    made = CliRunner().invoke(scripts.compare.main, [*TINY, str(folder)])
    assert made.exit_code == 0, made.output
    assert made.output.endswith((folder / "table.txt").read_text())
    return folder


def row(scripts: Any, method: str, **changes: Any) -> Any:
    """A row of a run from one start."""
    base = scripts.rows.Row("image", method, None, 0, 2.0, 1.0, 100, 1.0, 50, 0.5, None, None, "budget", None)
    return base._replace(**changes)


def test_a_tiny_version_runs(scripts: Any, tiny: Path) -> None:
    rows = scripts.rows.read(tiny)
    ran = [r.method for r in rows if r.seed == 0]
    assert ran[:2] == list(scripts.summaries.MODES), "they say what the others are to reach"
    assert sorted(ran) == sorted([*scripts.methods.METHODS, scripts.methods.AGAIN])
    assert len([r for r in rows if r.seed == scripts.rows.SEARCH]) == 8
    assert all(r.evaluations == 12 and 0 <= r.loss <= r.first for r in rows)
    assert (tiny / "full_batch.png").stat().st_size > 10_000


def test_curves_end_at_the_loss_of_the_row(scripts: Any, tiny: Path) -> None:
    points = scripts.rows.read_curves(tiny)
    for r in scripts.rows.read(tiny):
        curve = [p.loss for p in points if (p.method, p.seed) == (r.method, r.seed)]
        drawn = r.seed != scripts.rows.SEARCH and r.method != scripts.methods.AGAIN
        assert (curve[0], curve[-1]) == (r.first, r.loss) if drawn else not curve
        assert curve == sorted(curve, reverse=True)


def test_what_is_there_is_not_run_again(scripts: Any, tiny: Path, tmp_path: Path) -> None:
    for name in ("runs.csv", "curves.csv"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    lines = (tmp_path / "runs.csv").read_text().splitlines(keepends=True)
    (tmp_path / "runs.csv").write_text("".join(lines[:-1]))
    assert CliRunner().invoke(scripts.compare.main, [*TINY, str(tmp_path)]).exit_code == 0
    again = (tmp_path / "runs.csv").read_text().splitlines(keepends=True)
    assert again[:-1] == lines[:-1], "rows that were there stay"
    assert again[-1].split(",")[:6] == lines[-1].split(",")[:6], "the missing run is made, with the same loss"
    assert len(scripts.rows.read_curves(tmp_path)) == len(scripts.rows.read_curves(tiny))


def test_the_committed_table_is_that_of_the_committed_rows(scripts: Any) -> None:
    rows = scripts.rows.read(FOLDER)
    table = scripts.summaries.table(rows)
    assert table == (FOLDER / "table.txt").read_text()
    told = (FOLDER / "README.md").read_text()
    verdicts = [line for line in table.splitlines() if line.startswith("(")]
    assert len(verdicts) == 10
    assert all(line in told for line in verdicts), "the README gives the verdicts of the table"
    assert {(r.problem, r.method, r.seed) for r in rows if r.seed < scripts.rows.SEARCH} == {
        (problem, method, seed)
        for problem in scripts.problems.PROBLEMS
        for method in (*scripts.methods.METHODS, scripts.methods.AGAIN)
        for seed in range(15)
    }


def test_committed_losses_are_possible(scripts: Any) -> None:
    """No cluster lies below the icosahedron, no square below 0, and nobody used more than the budget."""
    floors = scripts.picture.FLOORS
    for r in scripts.rows.read(FOLDER):
        assert r.loss >= floors.get(r.problem, 0.0) - 1e-6
        assert r.evaluations <= scripts.problems.PROBLEMS[r.problem].budget


@pytest.mark.parametrize(
    "name", ["Poisson PINN", "Burgers PINN", "image", "softmax regression", "matrix factorisation"]
)
def test_a_seed_draws_the_start_and_nothing_else(name: str, scripts: Any) -> None:
    start = scripts.problems.PROBLEMS[name].start
    (loss, first), (other, second), (_, third) = start(0), start(0), start(1)
    assert loss().item() == other().item()
    assert start(scripts.rows.SEARCH)[0]().item() > 0.1 * loss().item(), "Adam's search begins where the others do"
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])
    with torch.no_grad():
        for a, b in zip(third, first, strict=True):
            b.copy_(a)
    assert loss().item() == start(1)[0]().item(), "the same data from another start"


@pytest.mark.parametrize(
    "method", ["L-BFGS, strong Wolfe", "L-BFGS, no line search", "minimize, 100 pairs", "nonlinear CG"]
)
def test_every_call_counts(method: str, scripts: Any) -> None:
    calls, x = [], torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)

    def loss() -> Any:
        calls.append(1)
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    watch = scripts.methods.Watch(loss, [x], 17)
    assert scripts.methods.run(watch, scripts.methods.METHODS[method]) == "budget"
    assert len(calls) == len(watch.values) == len(watch.seconds) == 17
    assert watch.best == min(watch.values)
    watch.place(watch.point)
    assert loss().item() == watch.best


@pytest.mark.parametrize("method", ["L-BFGS, strong Wolfe", "minimize, 100 pairs"])
def test_how_a_run_ended_early(method: str, scripts: Any) -> None:
    x = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    watch = scripts.methods.Watch(lambda: (x**2).sum(), [x], 1000)
    ended = scripts.methods.run(watch, scripts.methods.METHODS[method])
    assert ended == ("converged" if method == scripts.methods.OURS else "stuck")
    assert abs(scripts.methods.left(watch)) < 1e-12


@pytest.mark.parametrize(("values", "ended"), [((math.nan,) * 10, "NaN"), ((9.0,) * 10, "rose"), ((3.0,), "stuck")])
def test_the_end_of_a_bad_run(values: tuple[float, ...], ended: str, scripts: Any) -> None:
    told = iter((4.0, *values))
    watch = scripts.methods.Watch(lambda: torch.tensor(next(told), dtype=torch.float64), [], 100)

    def method(watch: Any) -> str:
        for _ in range(1 + len(values)):
            watch()
        return "stuck"

    assert scripts.methods.run(watch, method) == ended


def test_a_ratio_is_over_the_better_mode_of_that_start(scripts: Any) -> None:
    wolfe, plain, own = scripts.methods.WOLFE, scripts.methods.PLAIN, scripts.methods.OURS
    rows = [row(scripts, wolfe, loss=1.1, settled=80), row(scripts, plain, settled=40), row(scripts, own, reached=60)]
    assert scripts.summaries.ratios(rows, "image", own) == [1.5]
    assert scripts.summaries.ratios(rows, "image", plain) == [1.0]
    assert scripts.summaries.ratios(rows, "image", wolfe) == [10.0], "a miss counts four budgets"
    rows[2] = rows[2]._replace(reached=None, evaluations=30)
    assert scripts.summaries.ratios(rows, "image", own) == [10.0], "of the rival's evaluations, not of its own"


def test_silently_far_is_told_from_near_and_from_honest(scripts: Any) -> None:
    far = scripts.summaries.far
    assert far(row(scripts, "minimize", ended="converged", left=0.01))
    assert not far(row(scripts, "minimize", ended="converged", left=1e-4))
    assert not far(row(scripts, "minimize", ended="told", left=0.01))
    assert not far(row(scripts, "minimize", ended="budget"))


def test_verdicts_can_be_bad(scripts: Any) -> None:
    first, second, third = scripts.summaries.ROUNDS
    again = row(scripts, scripts.methods.AGAIN, typical=50)
    rows = [again, *(row(scripts, method, settled=50, reached=50, typical=40) for method in scripts.methods.METHODS)]

    def verdicts(rows: Any, made: Any) -> list[str]:
        return [line[:9] for line in scripts.summaries.claims(rows, ["image"], made)]

    assert verdicts(rows, first) == ["(a) holds", "(b) fails", "(c) holds"]
    assert verdicts(rows, second) == ["(d) holds", "(e) holds", "(f) holds"]
    assert verdicts(rows, third) == ["(g) holds", "(h) fails", "(i) holds", "(j) holds"]
    late = [r._replace(typical=46) if r.method == third.method else r for r in rows]
    assert verdicts(late, third)[-1] == "(j) fails"
    worse = {"loss": 1.1, "ended": "converged", "left": 0.5, "reached": 20}
    rows = [r._replace(**worse) if r.method == first.method else r for r in rows]
    assert verdicts(rows, first) == ["(a) fails", "(b) holds", "(c) fails"]
    assert verdicts(rows, second) == ["(d) holds", "(e) holds", "(f) holds"], "of another method"


def test_expected_evaluations_until_the_usual_loss(scripts: Any) -> None:
    wolfe, plain, own = scripts.methods.WOLFE, scripts.methods.PLAIN, scripts.methods.OURS
    losses = {wolfe: (1.0, 2.0, 9.0), plain: (0.5, 3.0, 4.0)}
    rows = [row(scripts, m, seed=k, loss=v, settled=70) for m, values in losses.items() for k, v in enumerate(values)]
    usual = scripts.summaries.typical(rows, "image", range(3))
    assert usual == (wolfe, 2.0), "the lower of the medians, of one mode"
    assert scripts.summaries.typical(rows, "image", range(1)) == (plain, 0.5), "of these starts alone"
    level = [r._replace(loss=1.0, settled=60 if r.method == plain else 70) for r in rows]
    assert scripts.summaries.typical(level, "image", range(3)).mode == plain, "of equal ones the faster"
    runs = [row(scripts, own, seed=k, typical=n) for k, n in enumerate((30, None, 50))]
    assert scripts.summaries.expected(runs, "image", own) == (30 + 100 + 50) / 2
    assert scripts.summaries.expected(runs[1:2], "image", own) == math.inf


def test_a_round_has_starts_of_its_own(scripts: Any) -> None:
    """The second is told when its first problem was run by every method, from its own runs."""
    methods = (*scripts.methods.METHODS, scripts.methods.AGAIN)
    rows = [row(scripts, method, settled=50, reached=50, typical=40) for method in methods]
    search = row(scripts, scripts.methods.ADAM, lr=0.1, seed=scripts.rows.SEARCH)
    later = [r._replace(seed=5, loss=0.25) for r in rows]
    table = scripts.summaries.table([search, *rows, *later])
    one, two = table.split("Starts 5 to 9")
    assert "Starts 0 to 4" in one
    assert "0.25" in two
    assert "0.25" not in one
    assert "Starts 5" not in scripts.summaries.table([search, *rows])
