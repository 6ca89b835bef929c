"""Plants mistakes in the package, one at a time, in a temporary copy of the project, and prints what catches each.

`python theory/mutations.py` runs the derivations of the step and the fast property tests on every mutant (minutes),
and exits with 1 unless each mutant fails at least one claim and one test; `--write` also puts the table into README.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "theory" / "README.md"
DERIVATIONS = ("01", "02", "03", "05", "09")
TESTS = ("tests/core/test_solve.py", "tests/core/test_step.py", "tests/core/test_identities.py")
MARKS = ("<!-- mutations -->\n", "<!-- end of mutations -->\n")
SHOWN = 2


class Mutation(NamedTuple):
    """A mistake: `right` occurs exactly once in the file, and is replaced by `wrong`."""

    what: str
    file: str
    right: str
    wrong: str


MUTATIONS = (
    Mutation(
        "sign of inertia and decay in the dual's linear term",
        "proxmom/step/model.py",
        "linear = linear - (slopes @",
        "linear = linear + (slopes @",
    ),
    Mutation(
        "factor 2 of the cross term in ‖s₂ - s₁‖²",
        "proxmom/solve.py",
        "distance = first + second - 2 * cross",
        "distance = first + second - cross",
    ),
    Mutation(
        "bias correction of Adam's second moment",
        "proxmom/metrics/diagonal.py",
        '(1 - self.beta2 ** state["count"])',
        '(1 + self.beta2 ** state["count"])',
    ),
    Mutation(
        "sign of the linearised height",
        "proxmom/now.py",
        "return -self.dot_last_move(self.gradient)",
        "return self.dot_last_move(self.gradient)",
    ),
    Mutation(
        "factor (I + λP)⁻¹ of the pull of inertia",
        "proxmom/numpy/optimizer.py",
        "dual[:, MEMORY] / (1 + inertia)",
        "dual[:, MEMORY]",
    ),
)


class Verdict(NamedTuple):
    """What failed on a copy of the project."""

    claims: list[str]
    tests: list[str]


def copy_project(target: Path) -> None:
    """The package, the derivations and the tests, and nothing else."""
    for folder in ("proxmom", "theory", "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)


def plant(mutation: Mutation, project: Path) -> None:
    """Replace the right text by the wrong one; ValueError if the right one is not there exactly once."""
    path = project / mutation.file
    text = path.read_text(encoding="utf-8")
    count = text.count(mutation.right)
    if count != 1:
        raise ValueError(f"{mutation.file} must contain {mutation.right!r} exactly once, found {count} times.")
    path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")


def judge(project: Path) -> Verdict:
    """Run derivations and tests in a copy of the project."""
    derivations = _run(project, "theory/claims.py", *DERIVATIONS)
    options = ("-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "--durations=0")
    tests = _run(project, "-m", "pytest", *options, *TESTS)
    claims = []
    for line in derivations.splitlines():
        if heading := re.match(r"(\d\w*)  ", line):
            name = heading[1]
        elif line.startswith("  ! "):
            claims.append(f"{name[:2]}: {line[45:].strip()}")
    return Verdict(claims, re.findall(r"^(?:FAILED|ERROR) tests/core/(\S+?)(?: - .*)?$", tests, re.MULTILINE))


def _run(project: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(project), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(arguments)} could not run:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def examine(mutation: Mutation | None) -> Verdict:
    """What fails with this mutation, or with none."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        copy_project(project)
        if mutation is not None:
            plant(mutation, project)
        return judge(project)


def _some(names: Sequence[str]) -> str:
    """The first few, by the part that tells them apart, and how many more."""
    distinct = list(dict.fromkeys(name.split("[")[0] for name in names))
    more = len(distinct) - SHOWN
    return "; ".join(distinct[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def table(verdicts: Sequence[tuple[Mutation, Verdict]]) -> str:
    """Markdown: mutation, claims that fail, tests that fail."""
    rows = ["| mistake | file | caught by the claims | caught by the tests |", "|---|---|---|---|"]
    for mutation, verdict in verdicts:
        claims, tests = _some(verdict.claims).replace("|", "\\|"), _some(verdict.tests)
        rows.append(f"| {mutation.what} | `{mutation.file}` | {claims} | {tests} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Plant five mistakes and see what catches them.")
    parser.add_argument("--write", action="store_true", help="put the table into theory/README.md")
    write = parser.parse_args().write
    untouched = examine(None)
    if untouched.claims or untouched.tests:
        print("Without any mutation these fail:", *untouched.claims, *untouched.tests, sep="\n  ")
        return 1
    verdicts = []
    for mutation in MUTATIONS:
        verdicts.append((mutation, examine(mutation)))
        print(table(verdicts[-1:]).splitlines()[-1], flush=True)
    if write:
        before, rest = README.read_text(encoding="utf-8").split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        README.write_text(before + MARKS[0] + table(verdicts) + MARKS[1] + after, encoding="utf-8")
    return 0 if all(verdict.claims and verdict.tests for _, verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
