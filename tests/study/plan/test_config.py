"""A study file is checked in full, and every complaint names its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.plan.toml import find_lines
from proxmom.study.problems.collection import build_problem
from proxmom.study.record.store import load_runs
from proxmom.study.run.runner import run_study
from tests.study.conftest import BOUND, MINE, RULE, SMALL

LR = "lr = {low = 0.5, high = 20, scale"
BETA = 'beta = {low = 0.5, high = 0.99, scale = "log1m"}'
BAD = [  # what is replaced, by what, and the message; its line is that of the last line put in
    ("points = 3", "pionts = 3", r"unknown key 'pionts' in \[study\]; valid keys: name, claim, seed, points"),
    ("points = 3", "points = 0", r"points must be >= 1, got 0"),
    ("points = 3", 'points = "many"', r"points must be a whole number, got 'many'"),
    ("points = 3", "points = true", r"points must be a whole number, got True"),
    ("points = 3", "points = = 3", r"not valid TOML"),
    ("max_evaluations = 60", "max_evaluations = 0", r"max_evaluations must be >= 1, got 0"),
    ("target = 1e-3", "target = 1", r"target must be > 0 and < 1, got 1.0"),
    ("target = 1e-3", "target = 0.0", r"target must be > 0 and < 1, got 0.0"),
    ("target = 1e-3", "target = nan", r"target must be finite"),
    ('name = "small"', 'name = "../small"', r"name must be letters"),
    ('claim = "for tests"', 'claim = " "', r"claim must not be empty"),
    ('reference = "heavy ball"', 'reference = "HB"', r"got 'HB'; methods: heavy ball, truncated, NAG"),
    ('kind = "quadratic"', 'kind = "quad"', r"unknown kind of problem 'quad'; valid kinds: quadratic, logistic"),
    ("n = 8", "m = 8", r"unknown key 'm' in \[\[problem\]\]; valid keys: kind, name, condition, n, seed, spectrum"),
    ("n = 8", "n = inf", r"n must be a text or a finite number"),
    ('name = "truncated"', 'name = "heavy ball"', r"'heavy ball' stands for two of the \[\[method\]\] tables"),
    ('"HeavyBall"', '"HeavyBalls"', r"rule must be one of GradientDescent, HeavyBall, .* got 'HeavyBalls'"),
    ('"HeavyBall"', '"none.py:Mine"', r"no file 'none.py'"),
    ('"HeavyBall"', '"none.such:Mine"', r"cannot import 'none.such'"),
    ('"HeavyBall"', '"HeavyBall"\nscipy = "CG"', r"exactly one of rule, solver, scipy, torch, got rule and scipy"),
    ('"HeavyBall"', '"HeavyBall"\ninertia = -1', r"inertia must be .* got -1"),
    ('solver = "nag-restart"', 'solver = "nag"', r"solver must be one of nag-restart, heavy-ball, got 'nag'"),
    ('scipy = "L-BFGS-B"', 'scipy = "Powell"', r"scipy must be one of L-BFGS-B, CG, BFGS, .* got 'Powell'"),
    ('scipy = "L-BFGS-B"', 'lr = 1\ntorch = "SGD"', r"torch must be an import path, torch.optim:Adam or .* got 'SGD'"),
    ('scipy = "L-BFGS-B"', 'lr = 1\ntorch = "torch.optim:SDG"', r"torch.optim has no 'SDG'"),
    ('scipy = "L-BFGS-B"', 'scipy = "CG"\nlr = 1', r"unknown key 'lr' in .* with scipy; valid keys: name, scipy"),
    (LR, LR.replace("0.5", "30"), r"search.lr must have low < high, got 30 and 20"),
    (LR, LR.replace("0.5", "0"), r"search.lr with scale 'log' must have low > 0, got 0"),
    (BETA, BETA.replace("0.99", "1"), r"search.beta with scale 'log1m' must have high < 1, got 1"),
    (BETA, BETA.replace("0.5", "-0.5"), r"beta must be in \[0, 1\], got -0.5"),
    (BETA, BETA.replace("0.99", "1.5").replace("log1m", "linear"), r"beta must be in \[0, 1\], got 1.5"),
    (BETA, BETA.replace("log1m", "logit"), r"scale must be one of linear, log, log1m, got 'logit'"),
    (BETA, BETA.replace("beta", "gamma"), r"'heavy ball' cannot run: .*HeavyBall.*'gamma'"),
    (BETA, BETA.replace("high", "hihg"), r"unknown key 'hihg' in search.beta; valid keys: low, high, scale"),
    (BETA, "beta = 0.9", r"beta must be a table, got 0.9"),
    ("lr = 100", "lr = -1", r"lr must be > 0 and finite, got -1"),
    ("lr = 100", 'lr = "high"', r"lr must be a number, got 'high'"),
    ("lr = 100", 'lr = 100\nsearch = {lr = {low = 1, high = 2, scale = "log"}}', r"lr is both fixed and searched"),
    ("lr = 100", "lr = 100\ninertia = 0.1", r"inertia"),
    ("lr = 100", "lr = 100\nmetric = 'Eukl'", r"metric must be one of Euclidean, Adam.* got 'Eukl'"),
    ("lr = 100", "lr = 100\ndecay = 'soft'", r"decay must be .* got 'soft'"),
    ("lr = 100", "lr = 100\nrate = 3", r"unknown key 'rate' in \[\[method\]\]; valid keys: name, lr, inertia"),
    (BOUND, BOUND + "\ndefaults = {lr = 1}", r"method 'truncated' searches nothing: its defaults are what it is"),
    ("}}", "}}\ndefaults = {beta = 0.9}", r"defaults must give lr, in units of 1/L, as it is searched"),
    ("}}", "}}\ndefaults = {lr = 1, gamma = 2}", r"'heavy ball, defaults' cannot run: .*'gamma'"),
    (BOUND, BOUND + '\nfreeze = ["beta"]', r"freeze must list some of momentum, lr, got 'beta'"),
    ('"HeavyBall"', '"HeavyBall"\nfreeze = ["lr"]', r"freeze 'lr' needs a rule whose step size adapts \(Trunc.*HeavyB"),
    ('"HeavyBall"', '"HeavyBall()"\nfreeze = ["momentum"]', r"freeze needs the rule's arguments in the key arguments"),
    ('"NAG"\nsolver = "nag-restart"', '"NAG"\nsolver = "heavy-ball"\nfreeze = ["lr"]', r"unknown key 'freeze' in"),
    ('"HeavyBall"', '"HeavyBall"\npoints = 0', r"points must be >= 1, got 0"),
    ("n = 8", "n = []", r"n must be a value or a list of some, got \[\]"),
    ('name = "diabetes"', 'l2 = [0.1, 0.2]\nname = "diabetes"', r"'diabetes' cannot name 2 problems"),
    (BOUND, "arguments = 3", r"arguments must be a table, got 3"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new.splitlines()[-1] for _, new, _ in BAD])
def test_every_mistake_is_named_with_file_and_line(
    study: Any, tmp_path: Path, old: Any, new: Any, message: str
) -> None:
    assert old in SMALL
    text = SMALL.replace(old, new, 1)
    line = text[: SMALL.index(old) + len(new)].count("\n") + 1
    with pytest.raises(StudyError, match=rf"study.toml, line {line}: .*{message}"):
        run_study(study(text), tmp_path / "out", jobs=1, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "line", "message"),
    [
        ("points = 3\n", 1, r"\[study\] lacks the key 'points': it must be a whole number"),
        (
            'rule = "HeavyBall"\n',
            19,
            r"a \[\[method\]\] needs exactly one of rule, solver, scipy, torch, got none of them",
        ),
        ("lr = 100\n", 24, r"method 'truncated' has no lr: set lr or search.lr, in units of 1/L"),
        (BOUND + "\n", 26, r"method 'truncated' cannot run: .*'lower_bound'"),
        ('kind = "quadratic"\n', 9, r"\[\[problem\]\] lacks the key 'kind'"),
        ("[study]\n", 1, r"unknown key 'name' in the study file; valid keys: study, problem, method"),
        (SMALL[: SMALL.index("[[problem]]")], 1, r"a study needs a \[study\] table"),
        (SMALL[SMALL.index("[[method]]") :], 1, r"a study needs at least one \[\[method\]\] table"),
    ],
)
def test_what_is_missing_is_named_where_it_belongs(study: Any, old: Any, line: Any, message: str) -> None:
    with pytest.raises(StudyError, match=f"study.toml, line {line}: {message}"):
        load_study(study(SMALL.replace(old, "", 1)))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("condition = 10", "condition = 0.5", 9, r"condition must be >= 1"),
        ("n = 8", 'n = "eight"', 9, r"n must be a whole number, got 'eight'"),
        ('data = "diabetes"', 'data = "diabetis"', 14, r"data must be one of breast_cancer.* got 'diabetis'"),
        (
            'data = "diabetes"',
            'data = "sub/a8a.txt"',
            14,
            r"got 'sub/a8a.txt': there is no file",
        ),
        ('name = "diabetes"', 'name = "quadratic, condition 10, n 8"', 14, r"two problems are called"),
    ],
)
def test_bad_problems_fail_before_anything_is_written(
    study: Any, tmp_path: Path, old: Any, new: Any, line: Any, message: str
) -> None:
    with pytest.raises(StudyError, match=f"study.toml, line {line}: .*{message}"):
        run_study(study(SMALL.replace(old, new)), tmp_path / "out", jobs=1, data=tmp_path, quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_rule_that_cannot_take_a_step_is_refused_before_the_study(study: Any, tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text(RULE)
    text = SMALL + MINE.format("Broken")
    line = text[: text.index("my_rules")].count("\n") + 1
    with pytest.raises(StudyError, match=f"line {line}: method 'mine' cannot run: AttributeError: .*gradientplane"):
        load_study(study(text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe\x00")
    for file, message in [("latin.toml", "latin.toml is not a TOML file"), ("none.toml", "cannot read .*none.toml")]:
        with pytest.raises(StudyError, match=message):
            load_study(tmp_path / file)


@pytest.mark.parametrize("jobs", [0, -2])
def test_jobs_out_of_range(study: Any, tmp_path: Path, jobs: Any) -> None:
    with pytest.raises(ValueError, match=f"jobs must be >= 1, or -1 for one per core, got {jobs}"):
        run_study(study(), tmp_path / "out", jobs=jobs)


def test_lines_are_found_in_all_spellings() -> None:
    text = """\
a.b = 1
text = '''
not = "a key"
[nor.a.table]
'''
[[method]]
"quoted key" = 1
[method.search]
lr = {low = 1}
[[method]]
search.lr.low = 1   # [comment]
[ other . table ]
x = [
  1,
]
y = 1
"""
    lines = find_lines(text)
    assert lines["a", "b"] == 1
    assert lines["text",] == 2
    assert lines["method", 0] == 6
    assert lines["method", 0, "quoted key"] == 7
    assert lines["method", 0, "search", "lr"] == 9
    assert lines["method", 1, "search", "lr", "low"] == 11
    assert lines["other", "table", "y"] == 16
    assert ("not",) not in lines
    assert ("nor", "a", "table") not in lines


def test_a_step_size_without_lr_is_minimize_without_lr(tmp_path: Path) -> None:
    from proxmom.numpy import minimize

    file = tmp_path / "free.toml"
    file.write_text(
        '[study]\nname = "free"\nclaim = "none"\npoints = 2\nmax_evaluations = 200\ntarget = 1e-6\nreference = "free"\n'
        '[[problem]]\nkind = "quadratic"\nn = 20\n'
        '[[method]]\nname = "free"\nrule = "ConjugateMemory"\nstep_size = "Secant"\n'
    )
    [run] = load_runs(run_study(file, tmp_path / "out", jobs=1, quiet=True))
    problem, gaps = build_problem("quadratic", n=20), []
    first = problem.fun(problem.x0)[0] - problem.optimum

    def fun(x: Any) -> Any:
        value, gradient = problem.fun(x)
        gaps.append((value - problem.optimum) / first)
        return value, gradient

    minimize(fun, problem.x0, memory="low", gtol=0, max_iter=199)
    assert run.status == "reached"
    assert run.evaluations == 1 + next(i for i, gap in enumerate(gaps) if gap <= 1e-6)
    assert run.mean_step is None


def test_an_unknown_step_size_is_refused_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "free.toml"
    file.write_text(
        '[study]\nname = "free"\nclaim = "none"\npoints = 2\nmax_evaluations = 200\ntarget = 1e-6\nreference = "free"\n'
        '[[problem]]\nkind = "quadratic"\nn = 20\n'
        '[[method]]\nname = "free"\nrule = "ConjugateMemory"\nstep_size = "Secent"\n'
    )
    with pytest.raises(StudyError, match="Secent"):
        run_study(file, tmp_path / "out", jobs=1, quiet=True)
    assert not (tmp_path / "out").exists()
