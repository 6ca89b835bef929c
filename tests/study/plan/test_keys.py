"""What the key of a run and its points depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.plan.points import Dimension, sample
from proxmom.study.record import store
from proxmom.study.record.store import load_runs
from proxmom.study.run.runner import run_study
from tests.study.conftest import MINE, RULE, SMALL, by_name, touched


def test_points_are_a_prefix_of_more_points() -> None:
    dimensions = [Dimension("lr", 0.1, 10, "log"), Dimension("beta", 0.5, 0.99, "log1m")]
    assert sample(dimensions, 8, seed=0) == sample(dimensions, 16, seed=0)[:8]
    assert sample(dimensions, 8, seed=0) == sample(dimensions[::-1], 8, seed=0)
    assert sample(dimensions, 8, seed=0) != sample(dimensions, 8, seed=1)
    alone, other = (sample([Dimension(name, 0.1, 10, "log")], 8, seed=0) for name in ("lr", "inertia"))
    assert [point["lr"] for point in alone] != [point["inertia"] for point in other]


@pytest.mark.parametrize(
    ("dimension", "middle"),
    [
        (Dimension("x", 1, 3, "linear"), 2.0),
        (Dimension("x", 1e-2, 1e2, "log"), 1.0),
        (Dimension("x", 0.9, 0.999, "log1m"), 0.99),
    ],
)
def test_scales_keep_their_ends_and_their_middle(dimension: Any, middle: Any) -> None:
    assert dimension.value(0.0) == dimension.low
    assert dimension.value(1.0) == dimension.high
    assert dimension.value(0.5) == pytest.approx(middle, rel=1e-8)


def test_points_fill_the_range_evenly() -> None:
    values = [point["lr"] for point in sample([Dimension("lr", 1e-3, 1e3, "log")], 32, seed=0)]
    slots = np.floor((np.log10(values) + 3) / 6 * 32)
    assert sorted(slots) == list(range(32))


def test_keys_depend_on_what_results_depend_on(study: Any, tmp_path: Path) -> None:
    def keys(text: Any, **arguments: Any) -> Any:
        return [cell.key for cell in plan(load_study(study(text)), **arguments)]

    assert keys(SMALL) == keys(SMALL.replace('name = "truncated"', 'name = "other"'))
    assert keys(SMALL) == keys(SMALL.replace("lr = 100", "lr = 1e2\ninertia = 0"))
    assert not set(keys(SMALL)) & set(keys(SMALL.replace("target = 1e-3", "target = 1e-4")))
    changed = set(keys(SMALL)) ^ set(keys(SMALL.replace("n = 8", "n = 9")))
    assert len(changed) == 12
    assert store.key_of({"a": 1, "b": {"c": 2, "d": 3}}) == store.key_of({"b": {"d": 3, "c": 2}, "a": 1})


def test_other_data_under_the_same_path_is_another_run(study: Any, tmp_path: Path) -> None:
    text = SMALL.replace('data = "diabetes"', 'data = "my.libsvm"')
    study_file = load_study(study(text))
    seen = set()
    for content in ("1 1:2\n-1 1:3\n", "1 1:2\n-1 1:4\n"):
        (tmp_path / "my.libsvm").write_text(content)
        seen |= {cell.key for cell in plan(study_file, tmp_path) if cell.problem == 1}
    assert len(seen) == 12


def test_a_rule_in_a_file_beside_the_study_is_run_and_its_code_is_part_of_the_key(study: Any, tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text(RULE)
    text = SMALL + MINE.format("Mine")
    runs = load_runs(run_study(study(text), tmp_path / "out", jobs=2, quiet=True))
    mine = [run for run in runs if run.method == "mine"]
    assert [run.status for run in mine if run.problem != "diabetes"] == ["reached"]
    key = {cell.key for cell in plan(load_study(study(text))) if cell.method.name == "mine"}
    assert key == {run.key for run in mine}
    (tmp_path / "my_rules.py").write_text(RULE + "\n# changed")
    assert not key & {cell.key for cell in plan(load_study(study(text)))}


def test_a_rule_can_join_a_study_without_a_line_in_its_file(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rules.py").write_text(RULE)
    monkeypatch.chdir(tmp_path)
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before = touched(out)
    run_study(study(), out, jobs=1, quiet=True, rules=["my_rules.py:Mine(scale=2.0)", "Polyak"])
    assert {key: touched(out)[key] for key in before} == before
    runs = by_name(out)
    assert [set(run.point) for run in runs["my_rules.py:Mine(scale=2.0)"]] == [{"lr"}] * 3
    assert runs["Polyak"][0].configuration["method"]["arguments"] == {"lower_bound": "optimum"}
    with pytest.raises(StudyError, match=r"--rule: .* no file 'none.py'"):
        load_study(study(), ["none.py:Mine"])


OWN = """\
from proxmom import Adam
from proxmom.stepsize import Alignment


class Metric(Adam):
    pass


class Step(Alignment):
    pass
"""


@pytest.mark.parametrize("line", ['metric = "mine.py:Metric"', 'step_size = "mine.py:Step"'])
def test_a_metric_and_a_step_size_beside_the_study_are_found_and_their_code_is_part_of_the_run(
    line: str, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "mine.py").write_text(OWN)
    text = SMALL.replace('rule = "HeavyBall"', f'rule = "HeavyBall"\n{line}', 1)
    assert text != SMALL
    (folder / "study.toml").write_text(text)
    monkeypatch.chdir(tmp_path)  # where no such file is
    first = [cell.key for cell in plan(load_study(folder / "study.toml"))]
    found = run_study(folder / "study.toml", tmp_path / "out", jobs=1, quiet=True)
    assert all(run.status != "failed" for run in load_runs(found))
    (folder / "mine.py").write_text(OWN + "\n# changed\n")
    assert [cell.key for cell in plan(load_study(folder / "study.toml"))] != first
