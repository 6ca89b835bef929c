"""A researcher's day with the wheel, in an environment of its own, far from this tree; the day is `desk/day.py`.

Slow, and needs a package index, from which pip fetches torch too, as `test_bounds.py` does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DESK = Path(__file__).parent / "desk"
NOTEBOOK = ("nbclient", "nbconvert", "nbformat", "ipykernel")
OFFLINE = "NewConnectionError|ConnectTimeout|Could not find a version|No matching distribution"


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Far from this tree: neither its modules nor its environment are seen."""
    strange = ("PYTHON", "PYTEST", "VIRTUAL_", "PROXMOM", "MPL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    environment = {**kept, "OMP_NUM_THREADS": "1", "HOME": str(cwd)}  # Jupyter and Matplotlib write there
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, env=environment)


def pip(python: Path, *words: object) -> None:
    done = run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words, cwd=python.parents[2])
    if done.returncode and re.search(OFFLINE, done.stderr):
        pytest.skip("no package index")
    assert done.returncode == 0, done.stderr


def wheel(folder: Path, python: Path) -> Path:
    """The wheel of a copy of the tree, so that nothing is written into this one."""
    names = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", cwd=folder).stdout
    for name in filter(lambda name: (ROOT / name).is_file(), names.splitlines()):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "source" / name)
    pip(python, "wheel", "--no-deps", "--wheel-dir", folder / "dist", folder / "source")
    shutil.rmtree(folder / "source")
    (found,) = (folder / "dist").glob("*.whl")
    return found


def steps() -> Iterator[str]:
    """The steps of the day, as it prints them."""
    names = re.search(r"^STEPS = \((.*?)^\)", (DESK / "day.py").read_text(), re.MULTILINE | re.DOTALL)
    assert names
    yield from (name.replace("_", " ") for name in re.findall(r"\w+", names[1]))


@pytest.mark.slow
def test_a_day(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    chosen = f"{wheel(tmp_path, python)}[torch,study,verify]"
    pip(python, "install", "--constraint", ROOT / "constraints.txt", chosen, *NOTEBOOK)
    desk = tmp_path / "desk"
    shutil.copytree(DESK, desk)
    done = run(python, "day.py", cwd=desk)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-20_000:]
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == list(steps())


def test_the_day_has_a_step_for_each_file() -> None:
    """Nothing lies on the desk that the day does not use, and no step is left out."""
    text = "".join((DESK / name).read_text() for name in ("day.py", "own.toml", "training.toml"))
    for file in DESK.iterdir():
        assert file.name == "day.py" or file.name in text, file
    written = set(re.findall(r"^def (\w+)\(\):", text, re.MULTILINE))
    assert {name.replace("_", " ") for name in written} == set(steps())
