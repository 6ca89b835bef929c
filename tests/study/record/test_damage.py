"""Damaged files are one line that names them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.record.run import METRICS
from proxmom.study.record.store import load_runs
from proxmom.study.report import export
from proxmom.study.report.write import terminal_table
from proxmom.study.run.runner import run_study
from tests.study.record.conftest import COUNTS, GRADIENT, HEAD, TRAINING, proxmom, run

DEEP = "[" * 100_000 + "]" * 100_000
DAMAGE = {
    "done.json": ["null", "[]", "3", '"text"', DEEP, "{", "\xff"],
    "run.json": ["null", "[1]", "3", DEEP, '{"a": ' * 500 + "1" + "}" * 500, "NaN"],
    "plan.json": ["null", "{}", "3", "[null]", "[[]]", DEEP, "[{}]"],
}
WRONG = {  # a value of another kind under a key
    "done.json": {"seconds": "long", "evaluations": None, "best_gap": "small", "status": [], "mean_beta": {}}
    | {"message": 3, "final": [1], "capped": True},
    "run.json": {"seed": "one", "point_index": None, "configuration": [], "provenance": "here", "key": 3}
    | {"provenance ": {"dirty": ["yes"]}, "configuration ": {"problem": {}, "method": {}, "point": {"lr": "large"}}},
    "plan.json": {"seed": "one", "point_index": 1.5, "problem": None, "key": 7, "method": {}},
}
CASES = [(name, text) for name, texts in DAMAGE.items() for text in texts]
CASES += [(name, (key, value)) for name, values in WRONG.items() for key, value in values.items()]


@pytest.fixture(scope="module", params=[COUNTS, TRAINING], ids=["counts", "training"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.toml").write_text(HEAD + request.param + GRADIENT)
    yield run_study(folder / "study.toml", folder / "out", jobs=1, quiet=True)
    assert proxmom("report", folder / "out").exit_code == 0  # so it was the damage that was refused


@pytest.mark.parametrize(("name", "damage"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_a_damaged_file_is_one_line_with_its_name(finished: Path, name: str, damage: Any) -> None:
    file = finished / name if name == "plan.json" else load_runs(finished)[0].directory / name
    before = file.read_bytes()
    if isinstance(damage, str):
        file.write_bytes(damage.encode("latin-1"))
    else:
        content = json.loads(before)
        (content[0] if name == "plan.json" else content)[damage[0].strip()] = damage[1]
        file.write_text(json.dumps(content))
    try:
        result = proxmom("report", finished)
    finally:
        file.write_bytes(before)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.output.startswith("Error: ")
    assert str(file) in result.output
    assert "run the study again" in result.output.lower()
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "line", ["null", "3", '"text"', DEEP, '{"step": 1}', '{"evaluations": "9", "gap": "8", "beta": "7"}']
)
def test_damaged_records_are_one_line_with_the_files_name(finished: Path, line: str) -> None:
    file = load_runs(finished)[0].directory / METRICS
    before = file.read_bytes()
    file.write_text(line + "\n")
    try:
        with pytest.raises(ValueError, match=f"{METRICS} is truncated or unreadable"):
            load_runs(finished)[0].curve()
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("line", ["null", "3", "[]", DEEP, "{", '{"kind": "local", "job": "1", "keys": 3}'])
def test_a_damaged_list_of_jobs_is_skipped(tmp_path: Path, line: str) -> None:
    pytest.importorskip("submitit")
    from proxmom.study.run.cluster import Cluster

    (tmp_path / "submitted.jsonl").write_text(line + "\n")
    assert Cluster("local", 1)._earlier(tmp_path, ["key"]) == []


def test_a_study_with_a_byte_order_mark_reads(tmp_path: Path) -> None:
    file, text = tmp_path / "study.toml", HEAD + COUNTS + GRADIENT
    file.write_text(text, encoding="utf-8-sig")
    assert load_study(file).text == text
    out = run(file)
    assert (out / "study.toml").read_bytes() == text.encode()
    (out / "study.toml").write_text(text, encoding="utf-8-sig")  # what another editor made of it
    assert "gradient" in terminal_table([out])
    file.write_text(text.replace('"s"', "3"), encoding="utf-8-sig")
    with pytest.raises(StudyError, match="line 2: name must be a text"):
        load_study(file)


@pytest.mark.parametrize("values", ["[" * 100_000, "[" * 5000 + "]" * 5000, "{a = " * 3000 + "1" + "}" * 3000])
def test_a_study_that_is_nested_too_deep_is_one_line(tmp_path: Path, values: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f"a = {values}")
    with pytest.raises(StudyError, match=r"study.toml is no study: its values are nested too deep"):
        load_study(file)


FORMULAS = ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=HYPERLINK('x')"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_of_a_table_is_a_formula(finished: Path, text: str, tmp_path: Path) -> None:
    before = {file: file.read_text() for file in [finished / "plan.json", *finished.glob("runs/*/done.json")]}
    plan = json.loads(before[finished / "plan.json"])
    (finished / "plan.json").write_text(json.dumps([{**entry, "method": text} for entry in plan]))
    for file in finished.glob("runs/*/done.json"):
        content = json.loads(before[file])
        content |= {"message": text, "best_gap": -0.5, "final": {text: 1.0, **content.get("final", {})}}
        file.write_text(json.dumps(content))
    try:
        export.write_csv([finished], tmp_path / "runs.csv")
        assert [row["method"] for row in export.table([finished])] == [text] * len(load_runs(finished))  # as it is
    finally:
        for file, content in before.items():
            file.write_text(content)
    with (tmp_path / "runs.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert not [cell for cell in header if cell.startswith(tuple("=+-@\t\r\n"))]
    for row in rows:
        named = dict(zip(header, row, strict=True))
        assert (named["method"], named["message"]) == 2 * ("'" + text.replace("\r", "\n"),)
        assert float(named["best_gap"]) == -0.5  # a number stays one
