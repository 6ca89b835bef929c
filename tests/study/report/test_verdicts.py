"""What becomes of a claim: each verdict, each measure, ends of bounds, missing runs, and where it stands."""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxmom.study.plan.decisions import FAILS, HOLDS, LEVEL, OPEN, Bound, Decision
from proxmom.study.report.compare import comparisons, mean_ratios
from proxmom.study.report.results import Counts, Losses
from proxmom.study.report.sources import read_source
from proxmom.study.report.statistics import size_needed, t_mean
from proxmom.study.report.tuning import lr_sensitivity, lr_sensitivity_ratio
from proxmom.study.report.verdict_text import asked_text, found_text, told, verdict_lines
from proxmom.study.report.verdicts import UNDECIDED, Verdict, decide, verdicts
from proxmom.study.report.write import terminal_table, write_report
from proxmom.study.run.finished import StudyFolder
from tests.study.report.counts import conftest as counting
from tests.study.report.losses import conftest as training

AT_MOST, AT_LEAST, BELOW, ABOVE, WITHIN = "at most", "at least", "below", "above", "within"


def bound(kind: str, value: Any) -> Bound:
    low, high = value if kind == WITHIN else (-inf, value) if kind in (AT_MOST, BELOW) else (value, inf)
    return Bound(low, high, kind in (BELOW, ABOVE), f"{kind} {value}")


def asked(measure: str, kind: str, value: Any, by: str = "interval", **more: Any) -> Decision:
    values = {"part": "", "method": "ours", "over": "theirs", "problems": ()} | more
    return Decision(measure=measure, bound=bound(kind, value), by=by, **values)


def counts_of(ours: Any, theirs: Any) -> Counts:
    """A count for each problem p0, p1, ...; None is a miss."""
    runs = [
        counting.make_run(f"p{i}", method, count)
        for i, pair in enumerate(zip(ours, theirs, strict=True))
        for method, count in zip(("ours", "theirs"), pair, strict=True)
        if count != "none"
    ]
    return Counts.of(runs, counting.BUDGET, 1e-6)


def losses_of(**tables: Any) -> Losses:
    """Losses by method, as lists of problems of seeds; None is a seed that diverged."""
    runs = []
    for method, problems in tables.items():
        for i, row in enumerate(problems):
            for seed, loss in enumerate(row, start=1):
                lost = {"status": "diverged", "loss": None} if loss is None else {"loss": loss}
                runs.append(training.make_run(f"p{i}", method, seed=seed, **lost))
    return Losses.of(runs, training.STEPS)


FEWER = counts_of([50, 60, 55, 45], [100, 100, 100, 100])  # ratio 0.52, its interval about 0.47 to 0.58


@pytest.mark.parametrize(
    ("kind", "value", "by", "word"),
    [
        (AT_MOST, 0.6, "interval", HOLDS),
        (AT_MOST, 0.53, "interval", OPEN),
        (AT_MOST, 0.53, "mean", HOLDS),
        (AT_MOST, 0.5, "mean", FAILS),
        (AT_MOST, 0.5, "overlap", HOLDS),
        (AT_MOST, 0.4, "interval", FAILS),
        (AT_MOST, 0.4, "overlap", FAILS),
        (AT_LEAST, 0.4, "interval", HOLDS),
        (AT_LEAST, 0.53, "interval", OPEN),
        (AT_LEAST, 0.6, "interval", FAILS),
        (BELOW, 0.6, "interval", HOLDS),
        (ABOVE, 0.6, "interval", FAILS),
        (WITHIN, (0.4, 0.6), "interval", HOLDS),
        (WITHIN, (0.5, 0.6), "interval", OPEN),
        (WITHIN, (0.7, 0.8), "interval", FAILS),
        (WITHIN, (0.2, 0.3), "interval", FAILS),
        (WITHIN, (0.5, 0.5), "overlap", HOLDS),
        (WITHIN, (0.7, 0.7), "overlap", FAILS),
    ],
)
def test_each_bound_each_way(kind: str, value: Any, by: str, word: str) -> None:
    verdict = decide(FEWER, asked("evaluations", kind, value, by))
    assert verdict.word == word
    assert verdict.figure is not None
    assert verdict.figure.interval == mean_ratios(FEWER, "theirs")["ours"], "the interval of the tables"
    assert bool(verdict.reasons) == (word == OPEN)


@pytest.mark.parametrize(
    ("kind", "word"), [(AT_MOST, HOLDS), (AT_LEAST, HOLDS), (BELOW, FAILS), (ABOVE, FAILS), (WITHIN, HOLDS)]
)
@pytest.mark.parametrize("by", ["interval", "mean"])
def test_a_figure_on_its_bound_satisfies_what_is_not_strict(kind: str, word: str, by: str) -> None:
    """Equal counts: ratio 1, and so both ends of its interval."""
    equal = counts_of([70, 80, 90], [70, 80, 90])
    assert decide(equal, asked("evaluations", kind, (1, 1) if kind == WITHIN else 1.0, by)).word == word


def test_two_problems_have_no_interval() -> None:
    two = counts_of([50, 60], [100, 100])
    verdict = decide(two, asked("evaluations", AT_MOST, 0.9))
    assert (verdict.word, verdict.reasons) == (OPEN, ("fewer than 3 problems give no interval",))
    assert decide(two, asked("evaluations", AT_MOST, 0.9, "mean")).word == HOLDS


@pytest.mark.parametrize("by", ["interval", "mean", "overlap"])
def test_a_run_that_is_missing_leaves_it_open(by: str) -> None:
    decision = asked("evaluations", AT_MOST, 0.9, by)
    verdict = decide(FEWER, decision, {("p1", "theirs"): 3, ("p2", "other"): 5})
    assert (verdict.word, verdict.reasons) == (OPEN, ("3 runs of theirs missing",))
    assert verdict.figure is not None
    without = counts_of([50, 60, "none", 45], [100, 100, 100, 100])
    assert decide(without, decision).reasons == ("1 run of ours missing",)
    nowhere = decide(FEWER, replace(decision, method="other"))
    assert (nowhere.word, nowhere.figure, nowhere.reasons) == (OPEN, None, ("4 runs of other missing",))
    unknown = decide(FEWER, decision, {("p9", "ours"): 1})
    assert unknown.word == OPEN, "a problem of which nothing has run"


def test_problems_are_chosen_by_their_names() -> None:
    results = counts_of([50, 60, 55, 400], [100, 100, 100, 100])
    decision = asked("evaluations", AT_MOST, 0.7)
    assert decide(results, decision).word == OPEN
    assert decide(results, replace(decision, problems=("p0", "p1", "p2"))).word == HOLDS
    assert decide(results, replace(decision, problems=("*3",), by="mean")).word == FAILS
    assert decide(results, replace(decision, problems=("p0", "p1", "p2")), {("p3", "ours"): 1}).word == HOLDS
    nothing = decide(results, replace(decision, problems=("q*",)))
    assert (nothing.word, nothing.figure) == (OPEN, None)
    assert "p0, p1, p2, p3" in nothing.reasons[0]


def test_misses_are_counted() -> None:
    results = counts_of([50, None, None, 45], [100, None, 100, 100])
    alone = asked("misses", AT_MOST, 2, over="")
    assert decide(results, alone).word == HOLDS
    assert decide(results, replace(alone, bound=bound(AT_MOST, 1))).word == FAILS
    against = decide(results, asked("misses", AT_MOST, 0))
    assert against.figure is not None
    assert (against.word, against.figure.interval.mean, found_text(against)) == (FAILS, 1.0, "1")


def test_counts_are_certain_problem_by_problem() -> None:
    results = counts_of([50, 100, 103, 200], [100, 100, 100, 100])
    decision = asked("evaluations", BELOW, 1, share=0.25, level=LEVEL)
    verdict = decide(results, decision)
    assert [each.word for each in verdict.problems] == [HOLDS, FAILS, FAILS, FAILS]
    assert verdict.word == HOLDS
    assert decide(results, replace(decision, share=0.26)).word == FAILS
    level = asked("evaluations", WITHIN, (0.95, 1.05), share=0.5)
    assert decide(results, level).word == HOLDS


SHIFTS = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])


def shifted(*centres: float, spread: float = 1.0) -> Losses:
    """Losses of five seeds, ours by so much off theirs, which are 1."""
    ours = [list(1 + centre + spread * SHIFTS) for centre in centres]
    return losses_of(ours=ours, theirs=[[1.0] * 5 for _ in centres])


@pytest.mark.parametrize(
    ("centres", "share", "word"),
    [
        ((-0.1, -0.1, 0.1, 0.1), 0.5, HOLDS),
        ((-0.1, -0.1, 0.1, 0.1), 0.51, FAILS),
        ((-0.1, 0.1, 0.1, 0.1), 0.5, FAILS),
        ((-0.1, 0.0, 0.1, 0.1), 0.5, FAILS),  # level on one
        ((0.0, 0.0), 1, FAILS),
    ],
)
def test_a_share_of_problems(centres: Any, share: float, word: str) -> None:
    for measure, equal in (("loss", 1), ("loss difference", 0)):
        verdict = decide(shifted(*centres), asked(measure, BELOW, equal, share=share, level=LEVEL), seeds=5)
        expected = {-0.1: HOLDS, 0.0: "level", 0.1: FAILS}
        assert [each.word for each in verdict.problems] == [expected[centre] for centre in centres]
        assert verdict.word == word


def test_an_undecided_problem_leaves_a_share_open_only_if_it_matters() -> None:
    wide = losses_of(ours=[[0.9, 0.9, 0.9], [0.5, 1.6, 0.8], [1.1, 1.1, 1.1]], theirs=[[1.0] * 3] * 3)
    decision = asked("loss difference", BELOW, 0, share=1 / 3, level=LEVEL)
    assert [each.word for each in decide(wide, decision, seeds=3).problems] == [HOLDS, UNDECIDED, FAILS]
    assert decide(wide, decision, seeds=3).word == HOLDS
    assert decide(wide, replace(decision, share=2 / 3), seeds=3).word == OPEN
    assert decide(wide, replace(decision, share=1), seeds=3).word == FAILS
    lacking = {("p0", "ours"): 1}
    assert decide(wide, decision, lacking, seeds=3).word == OPEN
    assert decide(wide, decision, lacking, seeds=3).problems[0].word == UNDECIDED
    assert decide(wide, replace(decision, share=1), lacking, seeds=3).word == FAILS


def test_seeds_that_are_missing() -> None:
    results = losses_of(ours=[[0.9, 0.91, 0.92]], theirs=[[1.0, 1.0, 1.0]])
    decision = asked("loss difference", BELOW, 0)
    assert decide(results, decision, seeds=3).word == HOLDS
    assert decide(results, decision, seeds=5).reasons == ("2 runs of ours missing", "2 runs of theirs missing")
    two = losses_of(ours=[[0.9, 0.91]], theirs=[[1.0, 1.0]])
    few = decide(two, decision, seeds=2)
    assert few.reasons == ("fewer than 3 seeds give no interval", "about 1 seed more would decide it")


def test_differences_are_those_of_the_table() -> None:
    results = losses_of(ours=[[0.9, 0.8, 1.05]], theirs=[[1.0, 0.9, 1.0]])
    verdict = decide(results, asked("loss difference", BELOW, 0), seeds=3)
    assert verdict.word == OPEN
    assert verdict.figure is not None
    table = comparisons(results, "theirs")[0][results.methods.index("ours")].interval
    assert (verdict.figure.interval.mean, verdict.figure.interval.high) == (table.mean, table.high)
    ratio = decide(results, asked("loss", BELOW, 1), seeds=3).figure
    assert ratio is not None
    assert ratio.interval == mean_ratios(results, "theirs")["ours"]
    gaps = Losses.of(
        [
            training.make_run("p", m, v, seed=s, start=1.0)
            for m, v in (("ours", 0.1), ("theirs", 0.3))
            for s in (1, 2, 3)
        ],
        training.STEPS,
    )
    difference = decide(gaps, asked("loss difference", AT_MOST, -0.19, "mean"), seeds=3)
    assert difference.word == HOLDS, "of relative gaps too, which tables compare by ratios"


@pytest.mark.parametrize(("kind", "value"), [(BELOW, 0.0), (WITHIN, (-0.6, 0.0)), (BELOW, 1.0)])
def test_as_many_seeds_as_are_said_to_be_missing_would_decide(kind: str, value: Any) -> None:
    """Seeds of the same mean and spread, as many more as it says, and one fewer."""
    measure = "loss" if value == 1.0 else "loss difference"
    ours = np.array([0.7, 1.0, 0.85, 1.02])
    verdict = decide(losses_of(ours=[ours], theirs=[[1.0] * 4]), asked(measure, kind, value), seeds=4)
    assert verdict.word == OPEN
    [more] = [int(n) for n in re.findall(r"about (\d+) seeds? more", found_text(verdict))]
    assert more > 1
    values = np.log(ours) if measure == "loss" else ours - 1
    for size, decided in ((4 + more, True), (4 + more - 1, False)):
        base = np.linspace(-1, 1, size)
        again = values.mean() + base / base.std(ddof=1) * values.std(ddof=1)
        assert (t_mean(again).high < 0) is decided


def test_no_number_of_seeds_tells_equal_means_apart() -> None:
    assert size_needed(t_mean(np.array([-1.0, 0.0, 1.0])), 0.0) == inf
    wide = losses_of(ours=[[0.5, 1.0, 1.5]], theirs=[[1.0] * 3])
    verdict = decide(wide, asked("loss difference", BELOW, 0), seeds=3)
    assert verdict.reasons == ("more than a thousand seeds would be needed",)
    levelled = decide(wide, asked("loss difference", BELOW, 0, share=1, level=(0.5, 2)), seeds=3)
    assert 0 < levelled.problems[0].more < inf, "it could turn out to be level"


def test_lost_seeds_are_counted() -> None:
    results = losses_of(ours=[[1.0, None, 1.0, 1.0], [1.0] * 4], theirs=[[1.0] * 4, [None, None, 1.0, 1.0]])
    assert decide(results, asked("lost seeds", AT_MOST, 0.125, over=""), seeds=4).word == HOLDS
    assert decide(results, asked("lost seeds", AT_MOST, 0.124, over=""), seeds=4).word == FAILS
    against = decide(results, asked("lost seeds", AT_MOST, 0), seeds=4)
    assert against.figure is not None
    assert (against.word, against.figure.interval.mean) == (HOLDS, -0.125)


def test_lr_sensitivity_is_that_of_the_table() -> None:
    finals = [training.make_run(method=m, seed=s) for m in ("ours", "theirs") for s in (1, 2, 3)]
    tried = {"ours": [1.1, 1.0, 1.0, 1.0, 1.2], "theirs": [3.0, 2.0, 1.0, 2.0, 3.5]}
    runs = [run for name, row in tried.items() for run in training.sweep(row, values=[0.1, 0.3, 1, 3, 9], method=name)]
    results = Losses.of([*runs, *finals], training.STEPS)
    table = lr_sensitivity(results)
    alone = decide(results, asked("lr-sensitivity", AT_MOST, table["theirs"].high, method="theirs", over=""), seeds=3)
    assert alone.figure is not None
    assert (alone.word, alone.figure.interval) == (HOLDS, table["theirs"])
    ratio = table["ours"].mean / table["theirs"].mean
    assert decide(results, asked("lr-sensitivity", AT_MOST, ratio, "mean"), seeds=3).word == HOLDS
    assert decide(results, asked("lr-sensitivity", BELOW, ratio, "mean"), seeds=3).word == FAILS
    judged = [decide(results, asked("lr-sensitivity", BELOW, bound), seeds=3) for bound in (1, ratio)]
    assert [verdict.word for verdict in judged] == [HOLDS, OPEN]
    assert judged[0].figure is not None
    assert judged[0].figure.interval == lr_sensitivity_ratio(results, "ours", "theirs")
    assert judged[1].reasons == (f"its interval contains {ratio:g}",)
    nothing = decide(losses_of(ours=[[1.0]], theirs=[[1.0]]), asked("lr-sensitivity", AT_MOST, 1, "mean"))
    assert nothing.reasons == ("there is no such figure of these runs",)


def test_texts() -> None:
    verdict = decide(FEWER, asked("evaluations", AT_MOST, 0.6, part="(1)"))
    assert asked_text(verdict) == "evaluations of ours over those of theirs: at most 0.6 by the whole interval"
    assert re.fullmatch(r"0\.52 \[0\.4\d, 0\.5\d\]", found_text(verdict))
    every = replace(verdict, decision=asked("loss", BELOW, 1, share=1, problems=("a *", "b")), loss="test loss")
    assert asked_text(every).startswith("test loss of ours over that of theirs on a * or b: below 1 by the whole inter")
    assert asked_text(every).endswith("on every problem")
    found = [Verdict(verdict.decision, word) for word in (HOLDS, HOLDS, FAILS, OPEN)]
    assert told(found).endswith("parts of the claim that are decided here 2 hold, 1 fails, 1 has not enough runs.")
    assert told(found[-1:]) == "The part of the claim that is decided here has not enough runs."
    plain, coloured = (verdict_lines(found, 60, colours) for colours in (False, True))
    assert max(map(len, plain)) <= 60
    assert [re.sub(r"\033\[\d+m", "", line) for line in coloured] == plain
    assert {line[:5] for line in coloured if line.startswith("\033")} == {"\033[32m", "\033[31m", "\033[33m"}


DECIDE = """
[[decide]]
part = "(1)"
measure = "evaluations"
method = "{}"
over = "{}"
at_most = 1000
by = "mean"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "results"
    counting.write_study(found, counting.study_runs())
    return found


def test_the_report_opens_with_the_verdict(folder: Path) -> None:
    before = terminal_table([folder])
    assert verdicts(read_source(folder)) == []
    assert 'id="verdict"' not in write_report([folder]).read_text()
    other = read_source(folder).reference
    method = next(run.method for run in read_source(folder).runs if run.method != other)
    file = folder / "study.toml"
    file.write_text(file.read_text() + DECIDE.format(*(n.replace('"', '\\"') for n in (method, other))))
    table, page = terminal_table([folder]), write_report([folder]).read_text()
    assert table.startswith("The part of the claim that is decided here holds.\nholds            (1) evaluations of")
    assert table.endswith(before)
    assert page.index("<h1>") < page.index('id="verdict"') < page.index('id="claim"')
    assert re.search(r'<tr class="holds"><th scope="row">holds</th><td>\(1\) evaluations of', page)
    assert StudyFolder(folder)._repr_html_().index("decided here holds") < 300
    assert terminal_table([folder, folder]).count("decided here holds") == 2


def test_an_interval_that_ends_on_the_bound() -> None:
    for kind, ends in ((AT_MOST, (1, 2)), (AT_LEAST, (0, 1)), (WITHIN, (1, 2))):
        limit = bound(kind, (0, 1) if kind == WITHIN else 1)
        assert not limit.contains(*ends)
        assert not limit.excludes(*ends)
    for kind, ends in ((BELOW, (1, 2)), (ABOVE, (0, 1))):
        assert bound(kind, 1).excludes(*ends)


def test_a_share_is_not_rounded_up_by_its_last_bit() -> None:
    """0.28 of 25 is seven, and in binary a little more."""
    results = counts_of([50] * 7 + [200] * 18, [100] * 25)
    assert decide(results, asked("evaluations", BELOW, 1, share=0.28)).word == HOLDS
    assert decide(results, asked("evaluations", BELOW, 1, share=0.3)).word == FAILS


@pytest.mark.parametrize("centre", [-0.03, 0.03])
def test_level_takes_the_whole_interval_and_counts_from_the_nearer_end(centre: float) -> None:
    """Intervals of about 0.97 and 1.03, plus or minus 0.024 and, where they are narrow, 0.012."""
    decision = asked("loss", ABOVE if centre < 0 else BELOW, 1, share=1, level=(0.95, 1.05))
    wrong = asked("loss", BELOW if centre < 0 else ABOVE, 1, share=1, level=(0.95, 1.05))
    for spread, words in ((1.2, (FAILS, HOLDS)), (2, (UNDECIDED, UNDECIDED))):
        found = [decide(shifted(centre, spread=spread), each, seeds=5).problems[0] for each in (decision, wrong)]
        assert tuple(each.word for each in found) == words
    off = shifted(0.012 if centre > 0 else -0.012, spread=4)
    [judged] = decide(off, decision, seeds=5).problems
    assert judged.word == UNDECIDED
    ratio = np.log(np.asarray(off.values[0, 0]))
    edge = np.log(1.05) - ratio.mean() if centre > 0 else ratio.mean() - np.log(0.95)
    assert judged.more == size_needed(t_mean(ratio), max(edge, abs(ratio.mean()))) - 5


def test_verdicts_of_a_folder_know_what_is_missing(tmp_path: Path) -> None:
    folder = training.write_study(tmp_path / "study")
    tables = "".join(
        f'\n[[decide]]\nmeasure = "loss difference"\nmethod = "{training.ADAPTIVE}"\nover = "AdamW, tuned"\n'
        f'below = 0\nproblems = "{name}*"\n'
        for name in ("network", "logistic")
    )
    with (folder / "study.toml").open("a") as stream:
        stream.write(tables)
    whole = verdicts(read_source(folder))
    assert [each.word for each in whole] == [HOLDS, HOLDS]
    assert "validation or test" not in asked_text(whole[0])
    gone = next(
        run
        for run in read_source(folder).runs
        if (run.problem, run.method, run.stage, run.seed) == (training.NETWORK, training.ADAPTIVE, "final", 3)
    )
    assert gone.directory is not None
    (gone.directory / "done.json").unlink()
    cut = verdicts(read_source(folder))
    assert [each.word for each in cut] == [OPEN, HOLDS]
    assert cut[0].reasons == (f"1 run of {training.ADAPTIVE} missing",)
    unplanned = replace(read_source(folder), lacking={})
    assert [each.reasons for each in verdicts(unplanned)] == [cut[0].reasons, ()], "as of rows, which have no plan"
    for run in read_source(folder).runs:
        if run.stage == "final" and run.directory is not None:
            (run.directory / "done.json").unlink()
    assert {each.reasons for each in verdicts(read_source(folder))} == {("no run of a best point is finished",)}
