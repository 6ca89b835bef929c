"""`proxmom conformance`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxmom.cli import main
from proxmom.testing import ROWS
from proxmom.testing.known import torchs_own
from tests.testing.optimizers import HALF, NAN


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: ROWS[name] for name in (NAN, HALF, "closure")}
    monkeypatch.setattr("proxmom.testing.check.ROWS", few)


def conformance(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["conformance", *map(str, arguments)])


@pytest.mark.usefixtures("few_rows")
def test_the_command_judges_the_named_ones(tmp_path: Path) -> None:
    good = conformance("torch.optim:SGD(lr=0.01, momentum=0.9)", "AMSGD", "--json", tmp_path / "out.json")
    assert good.exit_code == 0, good.output
    assert "SGD(lr=0.01, momentum=0.9)" in good.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert list(written) == ["SGD(lr=0.01, momentum=0.9)", "AMSGD"]
    assert written["AMSGD"]["ok"]
    assert [row["name"] for row in written["AMSGD"]["rows"]] == [NAN, HALF, "closure"]
    bad = conformance("torch.optim:AdamW")
    assert bad.exit_code == 1
    assert "AdamW: half precision: parameters are not finite in torch.float16" in bad.output


@pytest.mark.usefixtures("few_rows")
def test_the_command_shows_torchs_own_and_does_not_judge_them() -> None:
    result = conformance("--torch", "--markdown")
    assert result.exit_code == 0, result.output
    assert all(f" {name} |" in result.output for name in torchs_own())
    assert conformance("--torch", "torch.optim:AdamW(lr=0.1)").exit_code == 1


@pytest.mark.usefixtures("few_rows")
def test_without_arguments_the_command_asks_ours() -> None:
    result = conformance()
    assert result.exit_code == 0, result.output
    names = ["AMSGD", "AMAdamW", "MoMo", "MoMoAdam", "TruncatedMemorySGD"]
    assert any(line.split() == names for line in result.output.splitlines())


@pytest.mark.usefixtures("few_rows")
def test_the_command_finds_an_optimizer_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("import torch\nclass Mine(torch.optim.SGD):\n    def step(self): super().step()\n")
    result = conformance("mine.py:Mine(lr=0.1)")
    assert result.exit_code == 1
    assert "Mine(lr=0.1): closure: TypeError: " in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SGD",), "optimizer must be one of AMSGD, AMAdamW, MoMo"),
        (("torch.optim:SGD(0.1)",), "optimizer must have its arguments by name"),
        (("torch.optim:Adamm",), "torch.optim has no 'Adamm'"),
        (("AMSGD(lr=-1)",), "lr must be >= 0"),
        (("AMSGD(speed=1)",), "speed"),
    ],
)
def test_errors_of_the_command_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = conformance(*arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
