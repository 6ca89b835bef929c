"""What the key of a training run depends on, and methods of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.record.run import Ending, Planned
from proxmom.study.record.store import RunWriter, load_run
from tests.study.training.studies.conftest import MINE, NETWORK, RULES, SMALL, by_row, run, touched

OPTIMIZERS = """
import torch
class Mine(torch.optim.SGD):
    pass
"""


def keys(file: Any, *arguments: Any, name: str | None = None) -> Any:
    return {cell.key for cell in plan(load_study(file), *arguments) if name in (None, cell.method.name)}


def test_other_data_under_the_same_path_is_another_run(study: Any, tmp_path: Path) -> None:
    file = study(SMALL.replace("batch = 16", 'batch = 16\ndata = "my.libsvm"'))
    seen = set()
    for content in ("1 1:2\n-1 1:3\n", "1 1:2\n-1 1:4\n"):
        (tmp_path / "my.libsvm").write_text(content)
        seen |= {cell.key for cell in plan(load_study(file), tmp_path) if cell.ready}
    assert len(seen) == 2 * 8


def test_code_in_a_file_beside_the_study_is_part_of_the_key(study: Any, tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text(RULES)
    (tmp_path / "my_optimizers.py").write_text(OPTIMIZERS)
    text = (
        SMALL
        + MINE.format("Mine")
        + MINE.format("Mine")
        .replace("my_rules", "my_optimizers")
        .replace('name = "mine"\nrule', 'name = "theirs"\ntorch')
    )
    runs = by_row(run(study(text), tmp_path / "out"))
    assert {run.status for run in (*runs["mine", "final"], *runs["theirs", "final"])} == {"finished"}
    before = keys(study(text), name="mine"), keys(study(text), name="theirs"), keys(study(text), name="SGD")
    (tmp_path / "my_rules.py").write_text(RULES + "# changed")
    (tmp_path / "my_optimizers.py").write_text(OPTIMIZERS + "# changed")
    after = keys(study(text), name="mine"), keys(study(text), name="theirs"), keys(study(text), name="SGD")
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True]
    assert "source" not in load_study(study()).methods[1].configuration  # torch's own code is no part of it


def test_a_rule_can_join_without_a_line_in_the_file(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    out = run(study(), tmp_path / "out")
    before = touched(out)
    run(study(), out, rules=["my_rules.py:Mine", "Polyak"])
    assert {key: touched(out)[key] for key in before} == before
    rows = by_row(out)
    assert [set(run.point) for run in rows["my_rules.py:Mine", "search"]] == [{"lr"}] * 3
    assert all(1e-4 <= run.point["lr"] <= 10 for run in rows["Polyak", "search"])
    assert rows["Polyak", "final"][0].configuration["method"]["arguments"] == {"lower_bound": "optimum"}
    network = load_study(study(SMALL.replace("[[problem]]", NETWORK + "[[problem]]", 1)), ["Polyak"])
    assert network.methods[-1].configuration["arguments"] == {"lower_bound": 0.0}  # its optimum is not known


def test_old_results_are_read_as_they_are(tmp_path: Path) -> None:
    directory = tmp_path / "runs/k"
    configuration = {"problem": {}, "method": {}, "point": {}}
    description = {"key": "k", "configuration": configuration, "provenance": {}, "seed": 3, "problem": "p"}
    with RunWriter(directory, {**description, "method": "m", "point_index": 0}) as writer:
        writer.finish(Ending("missed", 1, 0.5, 0.1, ""))
    done = json.loads((directory / "done.json").read_text())
    del done["final"]
    (directory / "done.json").write_text(json.dumps(done))
    old = load_run(tmp_path, Planned(**{"key": "k", "problem": "p", "method": "m", "point_index": 0}))
    assert (old.seed, old.stage, old.final, old.trained) == (3, "", {}, False)
