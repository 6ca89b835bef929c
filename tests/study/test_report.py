"""Reports: numbers whose answers are known by hand, and a page that stands alone, escaped, with unique ids."""

from __future__ import annotations

import csv
import importlib
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from proxmom.cli import main
from proxmom.study.record.store import Outcome, Planned, Run, RunWriter, key_of, run_directory, write_plan
from proxmom.study.report import export, panels, pictures, summary, tuning
from proxmom.study.report.terminal import interval_text, number_text
from proxmom.study.report.write import terminal_table, write_report
from proxmom.study.run.runner import run_study

BUDGET = 1000
PROVENANCE = {"proxmom": "0.1.0", "python": "3.11", "numpy": "2.0", "scipy": "1.15", "commit": "abc1234"}
PROVENANCE |= {"dirty": True, "processor": "Z80", "cores": 2, "started": "2026-01-02T03:04:05+00:00"}


SMOKE = Path(__file__).parents[2] / "experiments/convex/smoke.toml"


def make_run(problem="p", method="m", count=100, point=None, index=0, gap=1e-7, status=None, message="", **more):
    """A run that reached the target after `count` evaluations, or missed it if `count` is None."""
    return Run(
        problem=problem,
        method=method,
        point=point or {},
        point_index=index,
        status=status or ("missed" if count is None else "reached"),
        evaluations=BUDGET if count is None else count,
        best_gap=gap,
        seconds=0.5,
        provenance=PROVENANCE,
        configuration={"problem": {"kind": problem}, "method": {"rule": method}, "point": point or {}},
        message=message,
        **more,
    )


def results_of(counts: dict[str, list[int | None]]) -> summary.Results:
    """One run of each method (keys) on the problems p0, p1, ..."""
    runs = [make_run(f"p{row}", m, c) for m, column in counts.items() for row, c in enumerate(column)]
    return summary.collect(runs, BUDGET)


def sweep(counts, name="lr", values=None, method="m", **others):
    """Runs of one method over values of a hyper-parameter, 1e-2, 1e-1, ... unless given."""
    values = 10.0 ** np.arange(-2, len(counts) - 2) if values is None else values
    points = [{name: float(v), **{k: float(o[i]) for k, o in others.items()}} for i, v in enumerate(values)]
    return [
        make_run(method=method, count=c, point=p, index=i) for i, (c, p) in enumerate(zip(counts, points, strict=True))
    ]


# ------------------------------------------------------------------------------------------------ numbers


def test_best_run_is_fewest_evaluations_then_smallest_gap():
    runs = [make_run(count=None, gap=1e-9, index=0), make_run(count=50, gap=1e-7, index=1)]
    runs += [make_run(count=50, gap=5e-8, index=2), make_run(count=51, gap=1e-12, index=3)]
    assert summary.collect(runs, BUDGET).best["p", "m"].point_index == 2
    missed = [make_run(count=None, gap=np.nan, index=0), make_run(count=None, gap=0.1, index=1)]
    assert summary.collect(missed, BUDGET).best["p", "m"].point_index == 1


def test_counts_are_infinite_for_misses_and_nan_without_runs():
    runs = [make_run("a", "x", 10), make_run("a", "y", None), make_run("b", "x", 20)]
    results = summary.collect(runs, BUDGET)
    assert (results.problems, results.methods) == (("a", "b"), ("x", "y"))
    np.testing.assert_array_equal(results.counts, [[10, np.inf], [20, np.nan]])


def test_ratio_counts_a_miss_as_ten_times_the_budget_and_leaves_out_what_was_not_run():
    results = results_of({"reference": [100, 100, 400], "m": [50, None, 200], "short": [200]})
    means = summary.mean_ratios(results, "reference")
    assert means["m"].mean == pytest.approx((0.5 * 100 * 0.5) ** (1 / 3))
    assert means["m"].low == pytest.approx(0.5)
    assert means["m"].high == pytest.approx(100.0)
    assert means["reference"] == summary.Interval(1.0, 1.0, 1.0, 3)
    assert (means["short"].mean, means["short"].size) == (pytest.approx(2.0), 1)
    assert np.isnan(means["short"].low)
    assert summary.mean_ratios(results, "m")["reference"].mean == pytest.approx(1 / means["m"].mean)


def test_ratio_to_an_unknown_method_names_the_known_ones():
    with pytest.raises(ValueError, match=r"reference must be .*'a', 'b'.*got 'c'"):
        summary.ratios(results_of({"a": [1], "b": [2]}), "c")


def test_bootstrap_interval_covers_a_known_mean_and_is_reproducible():
    rng = np.random.default_rng(1)
    intervals = [summary.bootstrap_mean(rng.normal(3.0, 1.0, 40)) for _ in range(100)]
    assert 85 <= sum(i.low <= 3.0 <= i.high for i in intervals) <= 100
    assert np.mean([i.high - i.low for i in intervals]) == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.1)
    values = np.arange(5.0)
    assert summary.bootstrap_mean(values, seed=3) == summary.bootstrap_mean(values, seed=3)


def test_performance_profile_by_hand():
    results = results_of({"a": [10, 40, None, None], "b": [20, 10, 30, None], "c": [10]})
    shares = summary.shares_within(results.counts, np.array([1.0, 1.9, 2.0, 4.0, 1e9]))
    np.testing.assert_allclose(shares, [[0.25, 0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.75, 0.75, 0.75], [1.0] * 5])
    np.testing.assert_allclose(summary.steps_of(results.counts), [1, 2, 4])


def test_lr_sensitivity_is_the_mean_capped_gap_within_a_decade_of_the_best():
    gaps = {0.5: 9.0, 1.0: 1e9, 3.0: 0.25, 10.0: 1e-7, 30.0: 1e-3, 100.0: 0.55, 200.0: 9.0}
    runs = [make_run("p", "m", None, {"lr": lr}, k, gap=gap) for k, (lr, gap) in enumerate(gaps.items())]
    runs[3] = make_run("p", "m", 10, {"lr": 10.0}, 3, gap=1e-7)
    runs[4] = make_run("p", "m", None, {"lr": 30.0}, 4, gap=1e-3, status="diverged")
    three = [make_run("p", "three", 10, {"lr": lr}, k) for k, lr in enumerate([1.0, 2.0, 3.0, 1e3])]
    fixed = [make_run("p", "fixed", 10, {"beta": 0.1 * k}, k) for k in range(1, 6)]
    numbers = tuning.lr_sensitivity(summary.collect([*runs, *three, *fixed], BUDGET))
    assert set(numbers) == {"m"}
    assert numbers["m"].mean == pytest.approx((1.0 + 0.25 + 1e-7 + 1.0 + 0.55) / 5)


def test_best_so_far_by_hand():
    reference = [
        make_run(method="reference", count=c, index=i, point={"lr": i + 1.0}) for i, c in enumerate([400, 200, 100])
    ]
    tuned = [make_run(method="m", count=c, index=i, point={"lr": i + 1.0}) for i, c in enumerate([None, 50, 300])]
    results = summary.collect([*reference, *tuned, make_run(method="fixed", count=300)], BUDGET)
    budgets, means = tuning.best_so_far(results, "reference")
    assert budgets == (1, 2, 3)
    np.testing.assert_allclose(means, [[4, 2, 1], [100, 0.5, 0.5], [3, 3, 3]])


def test_variants_are_compared_with_their_own_method():
    runs = [make_run(f"p{i}", "m", c) for i, c in enumerate([100, 100, 100])]
    runs += [make_run(f"p{i}", "m, defaults", c, variant_of="m") for i, c in enumerate([400, 100, 25])]
    runs += [make_run(f"p{i}", "other", 1000) for i in range(3)]
    results = summary.collect(runs, BUDGET)
    [variant] = summary.variants(results)
    assert (variant.name, variant.of, variant.fewer, variant.more) == ("m, defaults", "m", 1, 1)
    assert variant.ratio.mean == pytest.approx(1.0)
    assert results.without_variants().methods == ("m", "other")
    alone = summary.collect([run for run in runs if run.variant_of], BUDGET)
    assert alone.without_variants().methods == ("m, defaults",)
    assert summary.variants(alone) == []


def test_the_share_of_steps_at_the_cap_is_that_of_the_best_runs():
    def runs(method, betas, caps):
        rows = zip(betas, caps, strict=True)
        return [make_run(f"p{i}", method, 10, mean_beta=b, capped=c, mean_step=1.0) for i, (b, c) in enumerate(rows)]

    worse = make_run("p0", "derived", 99, index=1, mean_beta=0.0, capped=0.0)
    fixed, none = runs("fixed", [0.9, 0.9], [1.0, 1 - 1e-15]), runs("gradient", [0.0, 0.0], [0.0, 0.0])
    scipy = [make_run("p0", "scipy", 10)]
    results = summary.collect([*runs("derived", [0.6, 0.8], [0.5, 0.1]), worse, *fixed, *none, *scipy], BUDGET)
    [row] = summary.memory(results)
    assert (row.method, row.beta.mean, row.capped.mean) == ("derived", pytest.approx(0.7), pytest.approx(0.3))
    assert (row.capped.low, row.capped.high) == (pytest.approx(0.1), pytest.approx(0.5))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([None, 50, 20, 30, None], []),
        ([None, 90, 70, 50, 20], [("largest", False)]),
        ([20, 50, 70, 90, None], [("smallest", False)]),
        ([None, 90, 24, 23, 20], [("largest", True)]),
        ([None, 90, 23, 25, 20], [("largest", False)]),  # 25 is more than 20% above 20
        ([20, 20, 20, 20, 20], [("smallest", True)]),
        ([None, None, None, None, None], [("smallest", True)]),  # equal gaps: as flat as a plateau
    ],
)
def test_edges_and_plateaus_of_one_dimension(counts, expected):
    edges = tuning.edges(summary.collect(sweep(counts), BUDGET))
    assert [(edge.side, edge.plateau) for edge in edges] == expected


def test_a_plateau_must_reach_a_decade_from_the_edge():
    short = summary.collect(sweep([90, 80, 21, 20], values=[0.01, 1.0, 20.0, 100.0]), BUDGET)
    long = summary.collect(sweep([90, 80, 21, 20], values=[0.01, 1.0, 10.0, 100.0]), BUDGET)
    assert [edge.plateau for edge in (*tuning.edges(short), *tuning.edges(long))] == [False, True]


def test_edges_in_two_dimensions_step_over_points_that_are_bad_for_another_reason():
    lr, beta = [0.01, 0.1, 1.0, 10.0, 100.0], [0.9, 0.5, 0.8, 0.99, 0.7]
    runs = sweep([90, 80, 21, None, 20], values=lr, beta=beta)
    assert [(e.name, e.side, e.plateau) for e in tuning.edges(summary.collect(runs, BUDGET))] == [
        ("lr", "largest", True)
    ]
    on_beta = sweep([20, None, 70, 60, 50], values=[1.0, 0.01, 10.0, 0.1, 100.0], beta=[0.999, 0.5, 0.9, 0.8, 0.99])
    [edge] = tuning.edges(summary.collect(on_beta, BUDGET))
    assert (edge.name, edge.side, edge.value, edge.plateau) == ("beta", "largest", 0.999, False)


@pytest.mark.parametrize(("values", "plateau"), [([0.5, 0.8, 0.93, 0.995], True), ([0.5, 0.8, 0.96, 0.995], False)])
def test_decades_of_a_weight_are_those_of_one_minus_it(values, plateau):
    [edge] = tuning.edges(summary.collect(sweep([90, 80, 21, 20], "beta", values), BUDGET))
    assert (edge.name, edge.plateau) == ("beta", plateau)


@pytest.mark.parametrize(("values", "plateau"), [([0.0, 0.5, 0.7, 1.0], True), ([0.0, 0.5, 0.9, 1.0], False)])
def test_on_a_linear_scale_a_fifth_of_the_range_is_a_decade(values, plateau):
    [edge] = tuning.edges(summary.collect(sweep([90, 80, 21, 20], "inertia", values), BUDGET))
    assert edge.plateau == plateau


@pytest.mark.parametrize(
    ("value", "text"),
    [(np.nan, ""), (0.0, "0"), (0.00123, "0.0012"), (0.456, "0.46"), (9.996, "10.0"), (99.96, "100"), (20000, "20000")],
)
def test_numbers_as_text(value, text):
    assert number_text(value) == text


def test_an_interval_without_spread_is_its_mean():
    assert interval_text(summary.Interval(0.5, 0.25, 0.75, 4)) == "0.50 [0.25, 0.75]"
    assert interval_text(summary.Interval(1.0, 1.0, 1.0, 4)) == "1.00"
    assert interval_text(summary.Interval(2.0, np.nan, np.nan, 1)) == "2.00"


# ------------------------------------------------------------------------------------------------- reports

NASTY = "<b>bold</b> & \"$x_{\" 'quoted'"
PROBLEMS = ("quadratic, cond 1e2", "logistic <i>breast</i>")


def write_run(folder: Path, run: Run) -> Planned:
    configuration = {**run.configuration, "max_evaluations": BUDGET, "target": 1e-6}
    key = key_of(configuration)
    description = {"key": key, "configuration": configuration, "problem": run.problem, "method": run.method}
    description |= {"point_index": run.point_index, "seed": 0, "provenance": dict(run.provenance)}
    with RunWriter(run_directory(folder, key), description) as writer:
        for evaluations in range(1, 30):
            beta = None if run.method == "fixed" else 0.5 + 0.4 * np.sin(evaluations)
            writer.append(evaluations, 0.5**evaluations if evaluations != 7 else np.inf, beta)
        writer.finish(Outcome(run.status, run.evaluations, run.best_gap, run.seconds, run.message))
    return Planned(key, run.problem, run.method, run.point_index)


def write_study(folder: Path, runs: list[Run], reference="reference", target="1e-6", budget=BUDGET) -> Path:
    folder.mkdir(parents=True)
    write_plan(folder, [write_run(folder, run) for run in runs])
    head = f'name = "{folder.name}"\nclaim = "A <script>claim</script>."\npoints = 6\nreference = "{reference}"\n'
    text = f"[study]\n{head}max_evaluations = {budget}\ntarget = {target}\n"
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return folder


def study_runs() -> list[Run]:
    runs = []
    for shift, problem in enumerate(PROBLEMS):
        for index in range(6):
            point = {"lr": 10.0 ** (index - 2)}
            runs.append(make_run(problem, "reference", 100 + 40 * abs(index - 3), point, index))
            runs.append(make_run(problem, NASTY, 500 - 80 * index + shift, point, index))
            runs.append(make_run(problem, "never", None, {**point, "beta": 0.1 * index}, index, gap=0.3))
        runs.append(make_run(problem, "fixed", 321))
    boom = make_run(PROBLEMS[0], "broken", 3, {"lr": 1.0}, status="failed", message="ValueError: <u>no</u>")
    return [*runs, boom]


class Page(HTMLParser):
    """Everything a test asks about a page: ids, tags, attributes that could load something, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.labels: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.links.append(value or "")
            if tag == "svg" and name == "aria-label":
                self.labels.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies") / "first", study_runs())


@pytest.fixture(scope="module")
def html(directory) -> str:
    file = write_report([directory])
    assert file == directory / "report.html"
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_the_page_refers_to_nothing_outside_itself(html, page):
    assert all(link.startswith("#") for link in page.links)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == page.tags["img"] == 0
    assert not re.search(r"@import|url\((?!#)|https?://", html)
    assert len(html) < 3_000_000


def test_ids_are_unique_and_every_reference_has_its_target(html, page):
    assert [name for name, times in page.ids.items() if times > 1] == []
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html))
    assert {first or second for first, second in used} <= set(page.ids)
    assert len(used) > 5


def test_names_are_escaped_and_all_there(html, page):
    assert NASTY in page.text
    assert all(name in page.text for name in (*PROBLEMS, "reference", "never", "fixed", "broken"))
    assert "<b>bold" not in html
    assert "<script>" not in html
    assert "<i>breast" not in html
    assert "<u>no" not in html
    assert page.tags["b"] == 2  # the reference's name in two sentences


def test_every_picture_has_a_label_and_no_sentinel_colour_is_left(html, page):
    assert len(page.labels) == page.tags["svg"] == 5 + 2 + 2 + 2 + 2  # legend, gaps, lr, weights, overall
    assert all(page.labels)
    assert page.tags["title"] > page.tags["svg"]
    assert "#010203" not in html
    assert "currentColor" in html


def test_numbers_and_warnings_stand_on_the_page(page):
    assert "reference: geometric mean over problems" in page.text
    assert "A <script>claim</script>." in page.text
    assert "ValueError: <u>no</u>" in page.text
    assert f"best run of {NASTY} has the largest lr tried (1e+03): widen that range" in page.text
    assert "no run reached the target with never" in page.text
    assert "uncommitted changes" in page.text
    assert "abc1234" in page.text
    assert "Z80" in page.text
    assert "proxmom run study.toml --out first" in page.text


def test_the_page_does_not_change_when_written_again(directory, html, tmp_path):
    again = write_report([directory], tmp_path / "deep" / "other.html")
    assert again.read_text(encoding="utf-8") == html


def test_unfinished_runs_are_counted(tmp_path):
    runs = study_runs()
    folder = write_study(tmp_path / "cut", runs)
    next((folder / "runs").glob("*/done.json")).unlink()
    assert f"1 of the {len(runs)} runs of cut are not finished" in Page(write_report([folder]).read_text()).text


def test_a_study_where_everything_failed_at_once_has_a_report(tmp_path):
    points = [{"lr": 1.0}, {"lr": 2.0}]
    runs = [make_run("p", "reference", 0, x, i, np.inf, "failed", "no") for i, x in enumerate(points)]
    folder = write_study(tmp_path / "s", runs)
    for metrics in (folder / "runs").glob("*/metrics.jsonl"):
        metrics.write_text("")
    assert "2 runs of reference on p failed: no" in Page(write_report([folder]).read_text()).text
    assert re.search(r"^reference +miss +1.00$", terminal_table([folder]), re.MULTILINE)


def test_directories_merge(directory, tmp_path, monkeypatch):
    mine = [make_run(problem, "mine", 77, {"lr": 10.0**k}, k) for problem in PROBLEMS for k in range(6)]
    other = write_study(tmp_path / "second", [*mine, *study_runs()])
    monkeypatch.chdir(tmp_path)
    file = write_report([directory, other])
    assert file.resolve() == tmp_path / "report.html"
    table = terminal_table([directory, other])
    assert re.search(r"^mine +77\* +77\* ", table, re.MULTILINE)
    assert table.count("never") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "1e-4"}, "must share target, got 1e-06 in 'first' and 0.0001 in 'other'"),
        ({"budget": 2000}, "must share max_evaluations, got 1000 in 'first' and 2000 in 'other'"),
    ],
)
def test_directories_that_cannot_be_compared_are_refused(directory, tmp_path, changes, message):
    other = write_study(tmp_path / "other", study_runs(), **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        terminal_table([directory, other])


def test_one_name_for_two_methods_is_refused(directory, tmp_path):
    run = make_run(PROBLEMS[0], "fixed", 3)
    run.configuration["method"]["inertia"] = 0.5
    other = write_study(tmp_path / "other", [run])
    with pytest.raises(ValueError, match=r"method 'fixed' has two meanings.*inertia.*Rename one"):
        write_report([directory, other], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_what_is_no_result_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere' is no results directory: it has no study.toml"):
        write_report([tmp_path / "nowhere"])
    empty = write_study(tmp_path / "empty", [])
    (empty / "runs").mkdir()
    with pytest.raises(ValueError, match=r"empty' has no finished runs"):
        terminal_table([empty])
    with pytest.raises(ValueError, match="at least one results directory"):
        write_report([])
    partial = write_study(tmp_path / "partial", [make_run()], reference="not yet")
    with pytest.raises(ValueError, match=r"reference must be a method with finished runs \('m'\), got 'not yet'"):
        write_report([partial])


def test_another_reference_can_be_chosen(directory, tmp_path):
    file = write_report([directory], tmp_path / "r.html", reference="fixed")
    assert "fixed: geometric mean over problems" in Page(file.read_text(encoding="utf-8")).text
    assert re.search(r"^fixed +321 +321 +1.00$", terminal_table([directory], "fixed"), re.MULTILINE)
    with pytest.raises(ValueError, match=r"reference must be a method with finished runs .* got 'none'"):
        terminal_table([directory], "none")


# ---------------------------------------------------------------------------------- a study from end to end


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """The smallest tier of the convex study, with every kind of method, defaults and controls."""
    return run_study(SMOKE, tmp_path_factory.mktemp("smoke") / "out", jobs=1, quiet=True)


def test_the_page_of_a_study_with_controls(smoke):
    html = write_report([smoke]).read_text(encoding="utf-8")
    text = (page := Page(html)).text
    assert "Defaults only, and controls" in text
    assert "share of steps at the cap" in text
    assert "Performance profile" in text
    assert "points tried" in text
    rows = ("adaptive memory, defaults", "adaptive memory, momentum frozen", "truncated memory, lr frozen")
    assert all(row in text for row in rows)
    assert all(link.startswith("#") for link in page.links)
    assert [name for name, times in page.ids.items() if times > 1] == []
    named = re.findall(r'<g class="method"><title>([^<]*)</title>', html)
    assert "adaptive memory" in named  # pictures show the methods themselves
    assert not any(name.endswith(("frozen", "defaults")) for name in named)


def test_the_terminal_shows_controls_and_the_cap(smoke):
    table = terminal_table([smoke])
    assert re.search(r"^adaptive memory, momentum frozen +\d.* +\d +\d +3$", table, re.MULTILINE)
    assert re.search(r"^truncated memory +0\.\d+ .* +0\.\d+", table, re.MULTILINE)
    assert max(map(len, table.splitlines())) <= 100


def test_csv_has_a_row_for_each_run(smoke, tmp_path):
    result = CliRunner().invoke(main, ["report", str(smoke), "--csv", str(tmp_path / "runs.csv")])
    assert result.exit_code == 0, result.output
    with (tmp_path / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(list(smoke.glob("runs/*/done.json")))
    assert {"study", "problem", "method", "point.lr", "point.beta", "status", "evaluations", "capped"} <= set(rows[0])
    [frozen] = [r for r in rows if r["method"] == "truncated memory, lr frozen" and r["problem"].startswith("log")]
    assert (frozen["variant_of"], frozen["point.lr"], frozen["study"]) == ("truncated memory", "", "convex-smoke")
    assert float(frozen["mean_step"]) > 0


def test_parquet_says_what_it_needs(smoke, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("no", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install pandas pyarrow \(no module 'pandas'\)"):
        export.write_parquet([smoke], tmp_path / "runs.parquet")


def test_parquet_holds_the_same_table(smoke, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    export.write_parquet([smoke], tmp_path / "runs.parquet")
    read = pandas.read_parquet(tmp_path / "runs.parquet")
    rows = export.table([smoke])
    assert list(read.columns) == list(rows[0])
    assert read["evaluations"].tolist() == [row["evaluations"] for row in rows]


# ------------------------------------------------------------------------------------------ terminal table


def test_terminal_table_marks_the_fewest_and_the_misses(directory):
    table = terminal_table([directory])
    assert re.search(r"^reference +100\* +100\* +1.00$", table, re.MULTILINE)
    assert re.search(r"^never +miss +miss +100$", table, re.MULTILINE)
    assert re.search(r"^broken +miss +100$", table, re.MULTILINE)
    assert "miss: not within 1000, in means 10000" in " ".join(table.split())
    assert "\033" not in table
    assert max(map(len, table.splitlines())) <= 100


def test_terminal_table_is_bold_on_a_terminal_only(directory, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[1m100*\033[0m" in terminal_table([directory])
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in terminal_table([directory])


@pytest.mark.parametrize(("problems", "methods", "first"), [(3, 12, "method"), (12, 3, "problem"), (14, 14, "method")])
def test_terminal_table_turns_or_breaks_to_fit(tmp_path, problems, methods, first):
    runs = [make_run(f"problem {p}", f"reference {m}", 10 + m) for p in range(problems) for m in range(methods)]
    lines = terminal_table([write_study(tmp_path / "s", runs, reference="reference 0")]).splitlines()
    assert max(map(len, lines)) <= 100
    assert next(line for line in lines if line.startswith(("method", "problem"))).startswith(first)
    words = " ".join(lines).split()
    assert all(str(10 + m) in [word.rstrip("*") for word in words] for m in range(methods))


# ----------------------------------------------------------------------------------------------- pictures


def test_styles_do_not_repeat_and_do_not_depend_on_what_is_shown():
    styles = [pictures.Style(index, f"m{index}") for index in range(28)]
    assert len({(style.line["color"], str(style.line["linestyle"])) for style in styles}) == 28


@pytest.mark.parametrize("index", range(5))
def test_a_line_of_no_width_has_no_dashes(index):
    figure, axes = panels.panel("x", "y")
    style, ends = panels.Style(index, "m"), np.array([1.0, 2.0])
    assert panels.plot_line(axes, style, ends, ends, marker="o", linewidth=0).get_linestyle() == "None"
    assert panels.plot_line(axes, style, ends, ends).get_linestyle() != "None"
    figure.canvas.draw()


def test_curves_are_thinned_but_keep_their_ends(directory, html, tmp_path, monkeypatch):
    thin = pictures._thin(np.arange(1000.0), 30)
    assert (thin.size, thin[0], thin[-1]) == (30, 0, 999)
    monkeypatch.setattr(pictures, "_CURVE_POINTS", 40)
    assert len(write_report([directory], tmp_path / "thin.html").read_text(encoding="utf-8")) < len(html) - 500
