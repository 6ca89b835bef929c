"""Reports and checkpoints run no code of others."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from proxmom.lookup import find_rule
from proxmom.study.plan.config import load_study
from proxmom.study.record.store import load_runs
from proxmom.study.training import checkpoint
from tests.study.record.conftest import COUNTS, TRAINING, proxmom, run

TRAP = "from pathlib import Path\nPath(__file__).with_name('was run').touch()\n"


class Touches:
    """Runs code where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("kind", [COUNTS, TRAINING], ids=["counts", "training"])
@pytest.mark.parametrize("arguments", [(), ("--csv", "runs.csv"), ("--reference", "mine", "--out", "page.html")])
def test_a_report_runs_nothing(
    study: Any, kind: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = study("pass", kind)
    out, traced = run(file), file.parent / "was run"
    for place in (file.parent, out, file.parent / "elsewhere"):  # where a rule is looked for: beside, and where we are
        place.mkdir(exist_ok=True)
        (place / "my_rules.py").write_text(TRAP + (file.parent / "my_rules.py").read_text())
    (out / "jobs").mkdir()
    for pickled in (out / "jobs/1_0_result.pkl", load_runs(out)[0].directory / "checkpoint.pt"):
        pickled.write_bytes(pickle.dumps(Touches(traced)))
    monkeypatch.chdir(file.parent / "elsewhere")
    result = proxmom("report", out, *arguments)
    assert result.exit_code == 0, result.output
    assert "mine" in result.output
    assert not list(file.parent.rglob("was run"))
    load_study(file)
    assert traced.exists()  # the trap is one: a start imports the rule


@pytest.mark.parametrize("save", [pickle.dumps, "torch"], ids=["pickle", "torch.save"])
def test_a_checkpoint_runs_nothing(save: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"format": checkpoint.FORMAT, "rows": 0, "step": Touches(tmp_path / "was run")}
    if save == "torch":
        torch.save(state, tmp_path / "checkpoint.pt")
    else:
        (tmp_path / "checkpoint.pt").write_bytes(save(state))
    assert checkpoint.load(tmp_path) is None
    assert not (tmp_path / "was run").exists()
    assert "it cannot be read (UnpicklingError)" in capsys.readouterr().err
    pickle.loads(pickle.dumps(Touches(tmp_path / "was run")))
    assert (tmp_path / "was run").exists()  # the trap is one


@pytest.mark.parametrize("text", ["GradientDescent(__import__('os'))", "MoMo(lower_bound=1+f())", "MoMo(*[0])"])
def test_arguments_run_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="with literals only"):
        find_rule(text)
