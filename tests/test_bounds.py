"""The versions that pyproject.toml declares: exactly the lowest of everything work, and so do the newest.

Slow, and needs a package index, from which pip fetches torch too: where the index has builds for GPUs alone these are
several gigabytes. `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` asks for those for the CPU first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOWEST_PYTHON = re.findall(r"\d+", DECLARED["project"]["requires-python"])
FREE = {"furo", "sphinx-mathjax-offline"}  # they only dress the documentation
STUDY = ("problems", "methods", "plan", "report/counts/test_page.py", "report/losses/test_page.py", "training")
ENGINES = ("run/test_numerics.py", "run/engines/test_slurm.py")  # the recorded numbers; submitit
CORE = ("core", "numpy", "verify", "draw", "torch", *(f"study/{name}" for name in (*STUDY, *ENGINES)), "test_cli.py")
LEFT_OUT = (
    "test_*distributed.py",  # these two look into parts of torch that differ between its versions
    "test_fsdp1.py",
    "test_triton_*.py",  # what Triton compiles, and its interpreter: of the version that constraints.txt has
    "test_in_the_interpreter",
    "test_fuzz.py",  # what takes long and asks no more of a library than the tests beside it
    "test_resum*.py",
    "studies/test_*.py",
)
OFFLINE = "NewConnectionError|ConnectTimeout|Could not find a version|No matching distribution"


def declared() -> Iterator[Requirement]:
    """Every requirement of the package, its extras and its build, as far as its marker holds here."""
    project = DECLARED["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), DECLARED["build-system"]["requires"]]
    for text in dict.fromkeys(text for texts in lists for text in texts):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def lowest(requirement: Requirement) -> str:
    """The requirement at exactly its lower bound, `name==version`; as it is where it has none."""
    bounds = [each.version for each in requirement.specifier if each.operator == ">="]
    return f"{requirement.name}=={bounds[0]}" if bounds else requirement.name


def test_everything_declared_has_one_lower_bound() -> None:
    for requirement in declared():
        operators = [each.operator for each in requirement.specifier]
        assert operators == ([] if requirement.name in FREE else [">="]), str(requirement)
    assert len({requirement.name for requirement in declared()}) == len(list(map(str, declared())))


@pytest.mark.parametrize(
    ("text", "pinned"),
    [("a>=1.5", "a==1.5"), ("b-c >= 2", "b-c==2"), ("d>=3.2; python_version > '3'", "d==3.2"), ("e", "e")],
)
def test_the_lowest_version_of_a_requirement(text: str, pinned: str) -> None:
    assert lowest(Requirement(text)) == pinned


def test_what_is_run_and_what_is_left_out_is_there() -> None:
    tests = ROOT / "tests"
    assert [name for name in CORE if not (tests / name).exists()] == []
    code = "".join(file.read_text(encoding="utf-8") for file in tests.rglob("test_*.py"))
    assert [name for name in LEFT_OUT if not (any(tests.rglob(name)) or f"def {name}(" in code)] == []


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL_"))}
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, cwd=cwd, env={**kept, "OMP_NUM_THREADS": "1"}
    )


def environment(folder: Path, requirements: list[str]) -> Path:
    """The python of a new environment with these requirements and with a copy of the package, which lies beside it."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    index = run(*pip, "wheel")
    if index.returncode and re.search(OFFLINE, index.stderr):
        pytest.skip("no package index")
    installed = run(*pip, *requirements)
    assert installed.returncode == 0, installed.stderr  # a version that is not there, or goes with no other, is wrong
    listed = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "source" / name)
    built = run(*pip, "--no-deps", "--no-build-isolation", folder / "source")
    assert built.returncode == 0, built.stderr
    checked = run(python, "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout
    return python


def versions(python: Path) -> dict[str, str]:
    rows = json.loads(run(python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check").stdout)
    return {row["name"].lower().replace("_", "-"): row["version"] for row in rows}


def core_tests_pass(python: Path) -> None:
    source = python.parents[2] / "source"
    files = [f"--ignore-glob=*/{name}" for name in LEFT_OUT if name.endswith(".py")]
    tests = ["-k", " and ".join(f"not {name}" for name in LEFT_OUT if not name.endswith(".py"))]
    chosen = [*(source / "tests" / name for name in CORE), *files, *tests]
    done = run(python, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *chosen, cwd=source)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]


@pytest.mark.slow
@pytest.mark.skipif(
    [*map(str, sys.version_info[:2])] != LOWEST_PYTHON[:2],
    reason=f"the lowest versions have wheels for the lowest Python, {'.'.join(LOWEST_PYTHON)}",
)
def test_exactly_the_lowest_versions_work(tmp_path: Path) -> None:
    python = environment(tmp_path, [lowest(requirement) for requirement in declared()])
    found = versions(python)
    for requirement in declared():
        if requirement.name not in FREE:
            wanted = Version(lowest(requirement).partition("==")[2])
            name = requirement.name.lower().replace("_", "-")
            assert Version(Version(found[name]).public) == wanted, requirement  # +cpu is no version
    core_tests_pass(python)


@pytest.mark.slow
def test_the_newest_versions_work(tmp_path: Path) -> None:
    python = environment(tmp_path, ["--upgrade", *(requirement.name for requirement in declared())])
    core_tests_pass(python)
