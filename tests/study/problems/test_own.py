"""A user's own problem by import path: what it says is taken, what it does not say is estimated, mistakes are named."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.problems.own import build_own, check_own
from proxmom.study.record.store import load_runs
from proxmom.study.run.runner import run_study
from tests.study.conftest import SMALL

BOWL = """\
import numpy as np


class Bowl:
    x0 = np.ones(6)

    def __init__(self, steep=4.0, known=True, data=None):
        self.scale = np.linspace(1, steep, 6)
        if data is not None:
            self.scale = self.scale * np.loadtxt(data)
        if known:
            self.optimum, self.smoothness, self.name = 2.0, steep, f"bowl {steep:g}"

    def fun(self, x):
        return x @ (self.scale * x) / 2 + 2.0, self.scale * x


def flat(n=3):
    return type("Made", (), {"x0": np.ones(n), "fun": staticmethod(lambda x: (0.0, 0 * x))})()
"""
LATE = """\
import numpy as np
import sklearn.cluster  # with its OpenMP, which nothing before it needs
from threadpoolctl import threadpool_info


def threads():
    return float(max(library["num_threads"] for library in threadpool_info()))


class Late:
    x0, smoothness = np.ones(1), 1.0

    def __init__(self):
        self.optimum = -threads()

    def fun(self, x):
        return threads(), x
"""
FRESH = """\
import contextlib, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from proxmom.study.problems.own import Own, build_own
from proxmom.study.problems.problem import Problem
from proxmom.study.run.work import Worker

class Probe(Worker):
    @contextlib.contextmanager
    def writing(self, cell):
        print(problem.fun(problem.x0)[0])
        yield None

if sys.argv[1] == "built":
    print(-build_own("late.py:Late", Path(), "").optimum)
else:
    problem = Problem("", Own("late.py:Late", ".", (), ""), np.ones(1), 1.0, 0.0, 0.0)
    cell = SimpleNamespace(method=SimpleNamespace(settings={}))
    Probe(Path(), SimpleNamespace(training=None), None, (), {})(problem, [cell])
"""
STUDY = SMALL[: SMALL.index("[[problem]]")] + '[[problem]]\nkind = "bowl.py:Bowl"\nsteep = [4, 9]\n\n'
STUDY += SMALL[SMALL.index("[[method]]") :]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bowl.py").write_text(BOWL)
    return tmp_path


def test_what_it_says_is_taken(folder: Path) -> None:
    problem = build_own("bowl.py:Bowl", folder, "", steep=9.0)
    assert (problem.name, problem.optimum, problem.smoothness, problem.certificate) == ("bowl 9", 2.0, 9.0, 0.0)
    value, gradient = problem.fun(problem.x0)
    assert value == pytest.approx(2 + np.linspace(1, 9, 6).sum() / 2)
    assert np.array_equal(gradient, np.linspace(1, 9, 6))


def test_what_it_does_not_say_is_estimated_and_the_name_says_so(folder: Path) -> None:
    problem = build_own("bowl.py:Bowl", folder, "", steep=9.0, known=False)
    assert problem.optimum == pytest.approx(2.0, abs=1e-12)
    assert problem.smoothness == pytest.approx(9.0, rel=1e-2)
    assert problem.smoothness <= 9.0 * (1 + 1e-6)
    assert problem.name == "Bowl, steep 9.0, known False, optimum estimated"
    assert np.isnan(problem.certificate)


def test_it_travels_to_another_process(folder: Path) -> None:
    problem = build_own("bowl.py:Bowl", folder, "a", steep=9.0)
    again = pickle.loads(pickle.dumps(problem))
    assert again.fun(again.x0)[0] == problem.fun(problem.x0)[0]
    assert len(pickle.dumps(problem.fun)) < 1000  # a description, and no code


@pytest.mark.parametrize("when", ["built", "evaluated"])
def test_libraries_that_only_its_file_imports_compute_with_one_thread(tmp_path: Path, when: str) -> None:
    (tmp_path / "late.py").write_text(LATE)
    two = {**os.environ, "OMP_NUM_THREADS": "2"}
    asked = [sys.executable, "-c", FRESH, when]  # a process of its own, that has not loaded them
    assert float(subprocess.run(asked, cwd=tmp_path, env=two, check=True, capture_output=True).stdout) == 1


def test_neither_x_nor_the_gradient_is_shared_with_its_code(folder: Path) -> None:
    (folder / "rude.py").write_text(
        "import numpy as np\nclass Rude:\n    x0, optimum, smoothness, buffer = np.ones(2), 0.0, 1.0, np.zeros(2)\n"
        "    def fun(self, x):\n        self.buffer[:] = x\n        f = x @ x / 2\n        x[:] = 7\n"
        "        return f, self.buffer\n"
    )
    problem = build_own("rude.py:Rude", folder, "")
    x = np.array([1.0, 2.0])
    first = problem.fun(x)[1]
    problem.fun(np.zeros(2))
    assert np.array_equal(x, [1.0, 2.0])
    assert np.array_equal(first, [1.0, 2.0])


def test_a_study_of_it_runs_in_processes_and_tells_arguments_apart(folder: Path, tmp_path: Path) -> None:
    (folder / "study.toml").write_text(STUDY)
    runs = load_runs(run_study(folder / "study.toml", tmp_path / "out", jobs=2, quiet=True))
    assert {run.problem for run in runs} == {"bowl 4", "bowl 9"}
    assert {run.status for run in runs if run.method == "L-BFGS"} == {"reached"}
    assert len({run.key for run in runs}) == len(runs)


def keys(file: Path) -> set[str]:
    return {cell.key for cell in plan(load_study(file))}


def test_the_key_holds_the_files_content_and_the_data(folder: Path) -> None:
    file = folder / "study.toml"
    np.savetxt(folder / "scale.txt", np.ones(6))
    file.write_text(STUDY.replace("steep = [4, 9]", 'data = "scale.txt"'))
    first = keys(file)
    assert first == keys(file)
    np.savetxt(folder / "scale.txt", 2 * np.ones(6))
    other_data = keys(file)
    (folder / "bowl.py").write_text(BOWL + "# changed\n")
    changed = keys(file)
    assert not first & other_data
    assert not other_data & changed
    problem = build_own("bowl.py:Bowl", folder, "", steep=4.0, data="scale.txt")
    assert problem.fun(problem.x0)[1][0] == 2.0


def test_the_key_does_not_hold_where_it_lies(folder: Path, tmp_path: Path) -> None:
    (folder / "study.toml").write_text(STUDY)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("study.toml", "bowl.py"):
        (elsewhere / name).write_bytes((folder / name).read_bytes())
    assert keys(folder / "study.toml") == keys(elsewhere / "study.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bowl.py:Bowl", "none.py:Bowl", r"problem: no file 'none.py'"),
        ("bowl.py:Bowl", "bowl.py:Bowls", r"bowl.py has no 'Bowls'. It has Bowl"),
        ("steep = [4, 9]", "stoop = 4", r"problem 'bowl.py:Bowl' takes .*steep=4.0.*got stoop"),
        (
            "max_evaluations = 60\ntarget = 1e-3",
            "steps = 3\nseeds = 1",
            r"takes .*'seed'.*makes a network and must take seed",
        ),
    ],
)
def test_mistakes_in_the_study_are_named_with_their_line(folder: Path, old: str, new: str, message: str) -> None:
    pytest.importorskip("torch")
    (folder / "study.toml").write_text(STUDY.replace(old, new))
    with pytest.raises(StudyError, match=f"study.toml, line 1[0-9]: .*{message}"):
        load_study(folder / "study.toml")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x0 = np.ones(2)", "must make an object with fun"),
        ("fun = None", "must make an object with x0"),
        ("x0 = np.ones((2, 2))\n    def fun(self, x): return 1.0, x", r"x0 must be finite and shaped \(n,\)"),
        ("x0 = np.ones(2)\n    def fun(self, x): return 1.0", "it raised TypeError"),
        ("x0 = np.ones(2)\n    def fun(self, x): return 1.0, x[:1]", r"gradient shaped \(2,\) like x0, .* \(1,\)"),
        ("x0 = np.ones(2)\n    def fun(self, x): return np.nan, x", "a finite f"),
        ("x0, optimum = np.ones(2), 5.0\n    def fun(self, x): return x @ x, 2 * x", "must be below f.x0. = 2, got 5"),
        ("x0, smoothness = np.ones(2), -1.0\n    def fun(self, x): return x @ x, 2 * x", "smoothness must be > 0"),
        ("x0, optimum = np.ones(2), -3.0\n    def fun(self, x): return x.sum(), 0 * x + 1", "curvature at x0 is 0"),
        ("x0 = np.ones(2)\n    def __init__(self): 1 / 0", "cannot be made: ZeroDivisionError"),
    ],
)
def test_mistakes_of_its_code_are_named(tmp_path: Path, body: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(f"import numpy as np\nclass Bad:\n    {body}\n")
    with pytest.raises(ValueError, match=f"problem 'bad.py:Bad'.*{message}"):
        build_own("bad.py:Bad", tmp_path, body)


def test_one_that_starts_at_its_minimum_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="its optimum must be below"):
        build_own("bowl.py:flat", folder, "")
    check_own("bowl.py:flat", folder, {"n": 4})


def test_only_a_network_is_told_to_take_a_seed(folder: Path) -> None:
    for trains in (True, False):
        with pytest.raises(ValueError, match=r"takes .*, got stoop, seed") as told:
            check_own("bowl.py:Bowl", folder, {"stoop": 1, **({} if trains else {"seed": 2})}, trains)
        assert ("makes a network" in str(told.value)) == trains


def test_a_fresh_digest_means_fresh_code(folder: Path) -> None:
    assert build_own("bowl.py:Bowl", folder, "1").optimum == 2.0
    (folder / "bowl.py").write_text(BOWL.replace("2.0, steep", "1.0, steep"))
    assert build_own("bowl.py:Bowl", folder, "2").optimum == 1.0
