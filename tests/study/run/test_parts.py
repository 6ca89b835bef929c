"""A script of many parts goes on where it was stopped, and only with results of the code as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, pathlib
from concurrent.futures import ProcessPoolExecutor
from factor import FACTOR
from proxmom.study.run.parts import kept

def part(number):
    if os.environ.get("DIES_AT") == str(number):
        os._exit(1)
    with open("log", "a") as log:
        log.write(f"{number} ")
    return FACTOR * number

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        print(*pool.map(kept(part, pathlib.Path("parts"), pathlib.Path("list.toml")), range(4)))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "factor.py").write_text("FACTOR = 2\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "list.toml").touch()
    return tmp_path


def run(folder: Path, **environment: str) -> tuple[int, str, str]:
    """Its exit status, what it prints, and which parts it has computed since it was first run."""
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.strip(), (folder / "log").read_text().strip()


def test_a_script_goes_on_where_it_was_stopped(script: Path) -> None:
    status, _, computed = run(script, DIES_AT="2")
    assert (status != 0, computed) == (True, "0 1")
    assert run(script) == (0, "0 2 4 6", "0 1 2 3")
    assert run(script) == (0, "0 2 4 6", "0 1 2 3")


@pytest.mark.parametrize(
    ("file", "text", "found"), [("factor.py", "FACTOR = 3", "0 3 6 9"), ("list.toml", "#", "0 2 4 6")]
)
def test_other_code_computes_everything_again(script: Path, file: str, text: str, found: str) -> None:
    assert run(script)[1] == "0 2 4 6"
    (script / file).write_text(text)
    assert run(script) == (0, found, "0 1 2 3 0 1 2 3")
