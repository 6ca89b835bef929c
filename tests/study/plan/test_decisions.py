"""[[decide]] tables: what they may say, what becomes of lists, and that no run depends on them."""

from __future__ import annotations

import csv
import re
from math import inf
from pathlib import Path
from typing import Any

import pytest

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.plan.decisions import BOUNDS, COUNTING, LEVEL, PAIRED, TRAINED, WAYS, Bound, check_problems
from proxmom.study.plan.toml import find_lines
from proxmom.study.run.runner import run_study
from tests.study.conftest import CONTROLLED, SMALL, SMALL_TRAINED

DECIDE = """
[[decide]]
measure = "evaluations"
method = "NAG"
over = "heavy ball"
at_most = 0.6
"""
TRAINED_STUDY = f"""{SMALL_TRAINED}
[[method]]
name = "GD"
rule = "GradientDescent"
lr = 1

[[decide]]
measure = "loss"
method = "HB"
over = "GD"
below = 1
share = 0.5
"""
BAD = [  # what is replaced, by what, and the message
    ("at_most = 0.6", "at_mots = 0.6", r"unknown key 'at_mots' in \[\[decide\]\]; valid keys: part, measure, method"),
    ("at_most = 0.6", "", r"needs exactly one of at_most, at_least, below, above, within, got none of them"),
    ("at_most = 0.6", "at_most = 1\nbelow = 2", r"needs exactly one of .*, got at_most and below"),
    ("at_most = 0.6", 'at_most = "much"', r"at_most must be a number, got 'much'"),
    ("at_most = 0.6", "at_most = nan", r"at_most must be finite, got nan"),
    ("at_most = 0.6", "within = 1", r"within must be a list, got 1"),
    ("at_most = 0.6", "within = [1]", r"within must be two finite numbers, \[low, high\], got \[1\]"),
    ("at_most = 0.6", "within = [1, inf]", r"within must be two finite numbers"),
    ("at_most = 0.6", "within = [true, 2]", r"within must be two finite numbers"),
    ("at_most = 0.6", "within = [2, 1]", r"within must have low <= high, got \[2, 1\]"),
    ('"evaluations"', '"count"', r"measure must be one of evaluations, misses, lr-sensitivity, got 'count'\."),
    ('"evaluations"', '"loss"', r"got 'loss': that is a measure of the other kind of study, and this is a study that"),
    ('"evaluations"', "3", r"measure must be a text, got 3"),
    ('method = "NAG"\nover', "over", r"\[\[decide\]\] lacks the key 'method'"),
    ('over = "heavy ball"', "", r"evaluations is compared with that of another method: name it as over"),
    ('over = "heavy ball"', 'over = "NAG"', r"over must be another method than method, got 'NAG' for both"),
    ('over = "heavy ball"', "over = []", r"over must be a text or a list of some, got \[\]"),
    ('over = "heavy ball"', "over = [1]", r"over must be a text or a list of some, got \[1\]"),
    (
        'over = "heavy ball"',
        'over = "heavyball"',
        r"over must name .* got 'heavyball'; did you mean 'heavy ball'\? Meth",
    ),
    (
        'method = "NAG"',
        'method = "zzz"',
        r"method must name a method of this study, got 'zzz'\. Methods: heavy ball, t",
    ),
    ("at_most = 0.6", 'at_most = 0.6\nby = "eye"', r"by must be one of interval, mean, overlap, got 'eye'"),
    ("at_most = 0.6", "at_most = 0.6\nshare = 0", r"share must be a part of the problems, > 0 and <= 1, got 0"),
    ("at_most = 0.6", "at_most = 0.6\nshare = 1.1", r"share must be a part of the problems, > 0 and <= 1, got 1.1"),
    (
        "at_most = 0.6",
        "at_most = 0.6\nlevel = [0.9, 1.1]",
        r"level goes with share, by = 'interval', and below or above",
    ),
    ("at_most = 0.6", "below = 1\nshare = 1\nlevel = [1.1, 1.2]", r"level must be two ratios, 0 < low <= 1 <= high"),
    ("at_most = 0.6", "at_most = 0.6\nproblems = []", r"problems must be a text or a list of some, got \[\]"),
    ("at_most = 0.6", 'at_most = 0.6\npart = " "', r"part must not be empty"),
    (
        '"evaluations"',
        '"misses"\nshare = 0.5',
        r"share goes with evaluations, loss, loss difference, got measure 'misses'",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new.replace("\n", " ") or "nothing" for _, new, _ in BAD])
def test_every_key_is_checked_and_the_line_named(study: Any, old: str, new: str, message: str) -> None:
    file = study(SMALL + DECIDE.replace(old, new))
    first = file.read_text().splitlines().index("[[decide]]") + 1
    with pytest.raises(StudyError, match=message) as caught:
        load_study(file)
    line = re.search(r"line (\d+)", str(caught.value))
    assert line is not None
    assert int(line[1]) >= first


@pytest.mark.parametrize("text", ["decide = 3\n", "decide = []\n", "[decide]\nby = 1\n"])
def test_only_tables_decide(study: Any, text: str) -> None:
    with pytest.raises(StudyError, match=r"decide must be (a list|\[\[decide\]\] tables), got"):
        load_study(study(text + SMALL if "[decide]" not in text else SMALL + text))


def test_what_a_table_says(study: Any) -> None:
    [decision] = load_study(study(SMALL + DECIDE)).decisions
    assert (decision.measure, decision.method, decision.over) == ("evaluations", "NAG", "heavy ball")
    assert (decision.part, decision.problems, decision.by, decision.share) == ("", (), WAYS[0], None)
    assert decision.bound == Bound(-inf, 0.6, False, "at most 0.6")
    assert load_study(study(SMALL)).decisions == ()


@pytest.mark.parametrize(
    ("given", "low", "high", "strict"),
    [
        ("at_most = 2", -inf, 2, False),
        ("at_least = 2", 2, inf, False),
        ("below = 2", -inf, 2, True),
        ("above = 2", 2, inf, True),
        ("within = [1, 2]", 1, 2, False),
    ],
)
def test_bounds(study: Any, given: str, low: float, high: float, strict: bool) -> None:
    [decision] = load_study(study(SMALL + DECIDE.replace("at_most = 0.6", given))).decisions
    assert (decision.bound.low, decision.bound.high, decision.bound.strict) == (low, high, strict)
    assert given.split(" ")[0] in BOUNDS


def test_a_list_is_one_decision_for_each(study: Any) -> None:
    text = DECIDE.replace('"NAG"', '["NAG", "L-BFGS"]').replace('"heavy ball"', '["heavy ball", "truncated"]')
    found = [(each.method, each.over) for each in load_study(study(SMALL + text)).decisions]
    assert found == [(m, o) for m in ("NAG", "L-BFGS") for o in ("heavy ball", "truncated")]


def test_variants_are_named_as_tables_name_them(study: Any) -> None:
    for name in ("adaptive, defaults", "adaptive, momentum frozen"):
        text = SMALL + CONTROLLED + DECIDE.replace("heavy ball", name)
        assert load_study(study(text)).decisions[0].over == name


def test_values_are_level_only_beside_equality_problem_by_problem(study: Any) -> None:
    def level(text: str) -> Any:
        return load_study(study(TRAINED_STUDY.replace("below = 1\nshare = 0.5", text))).decisions[0].level

    assert level("below = 1\nshare = 0.5") == LEVEL
    assert level("above = 1\nshare = 0.5\nlevel = [0.9, 1.1]") == (0.9, 1.1)
    for text in ("below = 1", "below = 0.9\nshare = 1", "at_most = 1\nshare = 1", 'below = 1\nshare = 1\nby = "mean"'):
        assert level(text) is None


def test_measures_are_those_of_the_kind_of_study(study: Any) -> None:
    for measure in {*COUNTING, *TRAINED}:
        text = TRAINED_STUDY.replace('"loss"', f'"{measure}"').replace("share = 0.5", 'by = "mean"')
        if measure in TRAINED:
            assert load_study(study(text)).decisions[0].measure == measure
        else:
            with pytest.raises(StudyError, match=r"measure must be one of loss, .* this is a training study"):
                load_study(study(text))
        if measure not in PAIRED and measure in TRAINED:
            assert load_study(study(text.replace('over = "GD"\n', ""))).decisions[0].over == ""


def test_patterns_of_problems_must_fit_one(study: Any, tmp_path: Path) -> None:
    text = DECIDE + 'problems = ["quad*, n 8", "diabetes"]\n'
    [decision] = load_study(study(SMALL + text)).decisions
    check_problems([decision], ["quadratic, condition 10, n 8", "diabetes"])
    for names in (["quadratic, condition 10, n 80", "diabetes"], ["quadratic, n 8", "diabetes, more"]):
        with pytest.raises(StudyError, match=r"line \d+: problems must fit a problem, got '.*'; names: quadratic"):
            check_problems([decision], names)
    with pytest.raises(StudyError, match=r"problems must fit a problem, got 'diabetes .*'"):
        run_study(study(SMALL + DECIDE + 'problems = "diabetes *"\n'), tmp_path / "out", jobs=1, quiet=True)
    assert not (tmp_path / "out").exists()


def test_no_key_depends_on_a_decision(study: Any) -> None:
    text = SMALL + CONTROLLED
    assert [cell.key for cell in plan(load_study(study(text)))] == [
        cell.key for cell in plan(load_study(study(text + DECIDE + DECIDE)))
    ]


def test_committed_runs_keep_their_keys_beside_decisions() -> None:
    """Of two studies whose data are embedded: every run that is not a control, whose key waits for other runs."""
    folder = Path(__file__).parents[3] / "experiments"
    for name in ("convex/small", "ablation/small"):
        study = load_study(folder / f"{name}.toml")
        assert study.decisions
        with (folder / name / "runs.csv").open(newline="") as stream:
            committed = {row["key"] for row in csv.DictReader(stream)}
        assert {cell.key for cell in plan(study) if cell.ready} <= committed


def test_lines_of_decisions_are_found() -> None:
    lines = find_lines(SMALL + DECIDE + DECIDE)
    assert lines["decide", 1, "over"] - lines["decide", 0, "over"] == DECIDE.count("\n")
