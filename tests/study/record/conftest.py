"""What the tests of faults share: a study whose method fails in a chosen way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxmom.cli import main
from proxmom.study.run.runner import run_study

HEAD = '[study]\nname = "s"\nclaim = "for tests"\nreference = "gradient"\n'
COUNTS = 'points = 3\nmax_evaluations = 60\ntarget = 1e-3\n\n[[problem]]\nkind = "quadratic"\ncondition = 10\nn = 4\n'
TRAINING = 'points = 3\nsteps = 12\nseeds = 2\n\n[[problem]]\nkind = "logistic"\nbatch = 16\n'
GRADIENT = '\n[[method]]\nname = "gradient"\nrule = "GradientDescent"\nlr = 0.5\n'
MINE = '\n[[method]]\nname = "mine"\nrule = "my_rules.py:Mine"\n'
FIXED, SEARCHED = "lr = 0.5\n", 'search = {lr = {low = 0.1, high = 1.0, scale = "log"}}\n'
RULES = """
import errno
from pathlib import Path
import torch
class Mine:
    def planes(self, now):
        if now.step > 1 and Path(__file__).with_name("broken").exists():
            {}
        return (now.gradient_plane,)
"""


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """Writes a study, and a rule that raises while a file "broken" lies beside it."""

    def write(raises: str, kind: str = TRAINING, more: str = FIXED) -> Path:
        (tmp_path / "my_rules.py").write_text(RULES.format(raises))
        (tmp_path / "broken").touch()
        file = tmp_path / "study.toml"
        file.write_text(HEAD + kind + GRADIENT + MINE + more)
        return file

    return write


def run(file: Path, **more: Any) -> Path:
    return run_study(file, file.parent / "out", jobs=1, quiet=True, **more)


def proxmom(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])
