"""Numbers of a tiny study of each kind, as they were recorded: when they change, the version in their keys must, too.

`python -m tests.study.run.test_numerics` records those of a version that was raised. What was recorded stays.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from proxmom.study.plan import numerics
from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.record.store import load_runs
from proxmom.study.report.sources import merge, read_source
from proxmom.study.run.runner import run_study

RECORDED = Path(__file__).with_name("numerics.json")
NEAR = {"EVALUATIONS": 1e-6, "TRAINING": 1e-3}  # rounding differs between machines; training is in float32
PROBLEMS = {
    "quadratic": "n = 8",
    "logistic": "",
    "softmax": 'data = "breast_cancer"',
    "least_squares": 'data = "synthetic"\nn = 5\nsamples = 40',
    "huber": 'data = "synthetic"\nn = 5\nsamples = 40',
    "smoothed_hinge": "",
    "smoothed_l1": 'data = "synthetic"\nn = 5\nsamples = 40',
    "log_sum_exp": "n = 5\nsamples = 20",
    "rosenbrock": "",
    "robust_regression": "n = 4\nsamples = 20",
    "factorisation": "rows = 8\ncolumns = 6",
    "literature": 'function = "Beale"',
}
METHODS = [
    'rule = "GradientDescent"\nsearch = {lr = {low = 0.5, high = 1.5, scale = "log"}}',
    'rule = "HeavyBall"\nlr = 5\nweight_decay = 1e-3\ndecay = "coupled"',
    'rule = "AdaptiveMemory"\ninertia = 0.1\nfreeze = ["momentum"]\ndefaults = {lr = 2}\n'
    'search = {lr = {low = 2, high = 8, scale = "log"}}',
    'rule = "AdaptiveMemory"\nlr = 0.1\nmetric = "Adam"\nweight_decay = 1e-3\ndecay = "proximal"',
    'rule = "TruncatedMemory"\nlr = 5\narguments = {lower_bound = "optimum"}\nmetric = "AdaGrad"\nweight_decay = 1e-3',
    'rule = "MoMo"\nlr = 5\narguments = {lower_bound = "optimum"}\nfreeze = ["lr"]',
    'rule = "Polyak"\nlr = 5\narguments = {lower_bound = "optimum"}',
    'rule = "SteadyMemory"\nlr = 5',
    'rule = "AdaptiveMemory"\nmetric = "QuasiNewton"\nlr = 1',
    'rule = "ConjugateMemory"\nstep_size = "Secant"',
    'solver = "nag-restart"\nlr = 1',
    'solver = "heavy-ball"\nlr = 1\nsearch = {beta = {low = 0.1, high = 0.9, scale = "log1m"}}',
]
TASKS = {
    "mlp": "hidden = 8\nbatch = 16",
    "least_squares": "batch = 16",
    "logistic": "batch = 16",
}
TRAINED = [
    'rule = "AdaptiveMemory"\nmetric = "Adam"\ninertia = 0.1\nsearch = {lr = {low = 1e-3, high = 1e-2, scale = "log"}}',
    'rule = "HeavyBall"\nlr = 1e-2\nweight_decay = 1e-2',
    'rule = "SteadyMemory"\nlr = 1e-2\nscope = "tensor"\nschedule = "linear"\narguments = {horizon = 4}',
]
LIMITS = {
    "EVALUATIONS": "points = 2\nmax_evaluations = 12\ntarget = 1e-12",
    "TRAINING": 'points = 2\nsteps = 16\nseeds = 1\nschedule = "cosine"\nwarmup = 0.1',
}


def text_of(kind: str) -> str:
    """The study of a kind, "EVALUATIONS" or "TRAINING"."""
    problems, methods = (PROBLEMS, METHODS) if kind == "EVALUATIONS" else (TASKS, TRAINED)
    parts = [f'[study]\nname = "numerics"\nclaim = "for tests"\nreference = "0"\n{LIMITS[kind]}']
    parts += [f'[[problem]]\nkind = "{name}"\n{arguments}' for name, arguments in problems.items()]
    parts += [f'[[method]]\nname = "{number}"\n{method}' for number, method in enumerate(methods)]
    return "\n\n".join(parts) + "\n"


def numbers_of(kind: str, folder: Path) -> dict[str, list[Any]]:
    """How each run ended: status, evaluations, and numbers to 9 digits."""
    (folder / "study.toml").write_text(text_of(kind))
    found = {}
    for run in load_runs(run_study(folder / "study.toml", folder / kind, jobs=1, quiet=True)):
        ends = [run.best_gap, run.mean_beta, run.mean_step, *dict(sorted(run.final.items())).values()]
        name = f"{run.problem} | {run.method} | {run.stage}{run.point_index}"
        found[name] = [run.status, run.evaluations, *(None if end is None else float(f"{end:.9g}") for end in ends)]
    return found


def differences(recorded: dict[str, Any], found: dict[str, Any], near: float) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, float) and isinstance(b, float):
            return math.isclose(a, b, rel_tol=near, abs_tol=near / 1000)
        return bool(a == b)

    return [
        f"{name}: {recorded.get(name)} is now {found.get(name)}"
        for name in recorded | found
        if len(recorded.get(name, [])) != len(found.get(name, [])) or not all(map(same, recorded[name], found[name]))
    ]


@pytest.mark.parametrize("kind", ["EVALUATIONS", "TRAINING"])
def test_numbers_change_only_with_their_version(kind: str, tmp_path: Path) -> None:
    version, known = getattr(numerics, kind), json.loads(RECORDED.read_text())
    recorded = known[kind]
    assert list(recorded) == [str(number + 1) for number in range(version)], f"record the numbers of {kind} {version}"
    expected = recorded[str(version)]
    for metric, number in numerics.METRICS.items():
        assert str(number) in known[metric], f"record the numbers of {metric} {number}"
        expected |= {name: row for name, row in known[metric][str(number)].items() if name in expected}
    changed = differences(expected, numbers_of(kind, tmp_path), NEAR[kind])
    assert not changed, f"raise {kind} in {numerics.__file__}, if that is meant: " + "\n".join(changed)


@pytest.mark.parametrize("kind", ["EVALUATIONS", "TRAINING"])
def test_another_version_is_another_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study.toml").write_text(text_of(kind))
    study = load_study(tmp_path / "study.toml")
    seen = []
    for version in (1, 2, 3):
        monkeypatch.setattr(numerics, kind, version)
        cells = [cell for cell in plan(study) if cell.ready]
        assert {cell.configuration.get("numerics", 1) for cell in cells} == {version}
        seen += [cell.key for cell in cells]
    assert len(set(seen)) == 3 * len(set(seen[: len(cells)]))
    monkeypatch.setattr(numerics, "TRAINING" if kind == "EVALUATIONS" else "EVALUATIONS", 2)
    assert [cell.key for cell in plan(study) if cell.ready] == seen[-len(cells) :]


def test_a_metric_has_a_version_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no other run has to be made again."""
    (tmp_path / "study.toml").write_text(text_of("EVALUATIONS"))
    study = load_study(tmp_path / "study.toml")
    keys = []
    for version in (1, 2):
        monkeypatch.setattr(numerics, "METRICS", {"QuasiNewton": version})
        keys.append({cell.key: cell.method.name for cell in plan(study) if cell.ready})
    own = {str(number) for number, text in enumerate(METHODS) if "QuasiNewton" in text}
    assert {keys[0][key] for key in keys[0].keys() - keys[1].keys()} == own
    assert not own & {keys[1][key] for key in keys[1].keys() & keys[0].keys()}


def test_runs_of_two_versions_do_not_stand_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study.toml").write_text(
        f'[study]\nname = "two"\nclaim = "for tests"\nreference = "0"\n{LIMITS["EVALUATIONS"]}\n\n'
        f'[[problem]]\nkind = "rosenbrock"\n\n[[method]]\nname = "0"\n{METHODS[0]}\n'
    )
    first = run_study(tmp_path / "study.toml", tmp_path / "first", jobs=1, quiet=True)
    monkeypatch.setattr(numerics, "EVALUATIONS", 2)
    second = run_study(tmp_path / "study.toml", tmp_path / "second", jobs=1, quiet=True)
    sources = [read_source(first), read_source(second)]
    assert [source.origin["numerics"] for source in sources] == ["1", "2"]
    with pytest.raises(ValueError, match="must share numerics, got 1 in 'first' and 2 in 'second'"):
        merge(sources)
    again = run_study(tmp_path / "study.toml", first, jobs=1, quiet=True)
    assert read_source(again).origin["numerics"] == "2"  # the same command has done all of them again


def record() -> None:
    """Writes down the numbers of versions that have none."""
    recorded = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {kind: {} for kind in LIMITS}
    for kind in LIMITS:
        version = str(getattr(numerics, kind))
        with tempfile.TemporaryDirectory() as folder:
            found = numbers_of(kind, Path(folder))
        recorded[kind].setdefault(version, found)
        for metric, number in numerics.METRICS.items() if kind == "EVALUATIONS" else ():
            own = {str(place) for place, text in enumerate(METHODS) if f'"{metric}' in text}
            of_metric = {name: row for name, row in found.items() if name.split(" | ")[1] in own}
            recorded.setdefault(metric, {}).setdefault(str(number), of_metric)
    text = json.dumps(recorded, indent=1)
    RECORDED.write_text(re.sub(r"\[[^]]*\]", lambda row: json.dumps(json.loads(row[0])), text) + "\n")  # a line a run


if __name__ == "__main__":
    record()
