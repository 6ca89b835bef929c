"""Plants single changes in the core, one at a time, in copies of the project, and reports which no test notices.

`python -m tests.mutants` takes a sample (150 changes, always the same ones for a seed), runs for each the tests that
cover the changed line, quickest first, and stops at the first that fails. What is known is kept in results/mutants/, so
that a run can be stopped and goes on where it was: a change is judged again if its file has changed, or, if no test
noticed it, by those files of tests that have changed, by all of them if the package has. The exit status is 1 if a
change goes unnoticed that same.toml does not list with a reason, or if a reason belongs to no change any more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.mutants.changes import Mutant, everything

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/core", "tests/numpy", "tests/verify")
RESULTS = ROOT / "results" / "mutants"
REASONS = Path(__file__).with_name("same.toml")
PYTEST = ["-m", "pytest", "-q", "-p", "tests.mutants.plugin", "-p", "no:cacheprovider", "--durations=0"]
PYTEST += ["--hypothesis-seed=0", "--no-header", "--tb=no"]
TOO_LONG = 77  # exit status of plugin.py
NO_START = (3, 4)  # of pytest, where the package cannot be imported


# --- what covers a line ----------------------------------------------------------------------------------------------


def digest(*paths: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def test_files() -> dict[str, str]:
    """Each file with tests of the core, and what stands for it, what it imports, and the package as they are now."""
    folders = [ROOT / folder for folder in TESTS]
    shared = digest(*(file for folder in folders for file in folder.glob("*.py") if not file.name.startswith("test_")))
    house = digest(ROOT / "proxmom", ROOT / "tests" / "conftest.py") + shared
    files = sorted(file for folder in folders for file in folder.glob("test_*.py"))
    return {
        file.relative_to(ROOT).as_posix(): hashlib.sha256((house + digest(file)).encode()).hexdigest()[:16]
        for file in files
    }


def copy_project(target: Path) -> Path:
    """The package and its tests, so that no change is ever planted in the working tree."""
    for folder in ("proxmom", "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def python(project: Path, *arguments: str, timeout: float | None = None, **environment: str) -> Any:
    variables = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"} | environment
    variables["PYTHONPATH"] = os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, timeout=timeout)


class Coverage:
    """Which tests run which line, and how many seconds each of them takes."""

    def __init__(self, maps: dict[str, dict[str, Any]]) -> None:
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[str, list[str]]] = {}
        for one in maps.values():
            self.seconds |= one["seconds"]
            for file, of_line in one["lines"].items():
                for line, names in of_line.items():
                    self.lines.setdefault(file, {}).setdefault(line, []).extend(names)

    def tests(self, mutant: Mutant, files: set[str]) -> list[str]:
        """Quickest first. A line that runs on import, as in the body of a class, is covered by what uses its file."""
        of_file = self.lines.get(mutant.file, {})
        names = of_file.get(str(mutant.line)) or {name for names in of_file.values() for name in names}
        chosen = [name for name in names if name.split("::")[0] in files]
        return sorted(chosen, key=lambda name: (self.seconds[name], name))


def measure(file: str, stamp: str, project: Path) -> dict[str, Any]:
    """Of a file of tests, once for each state of it and of the package: the lines that each test runs, and its time."""
    path = RESULTS / "maps" / f"{stamp}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_measured(file, project)), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _measured(file: str, project: Path) -> dict[str, Any]:
    from coverage import CoverageData

    data, times = project / "coverage.data", project / "seconds.json"
    run = ("-m", "coverage", "run", f"--data-file={data}", f"--include={project}/proxmom/*")
    done = python(project, *run, *PYTEST, file, PROXMOM_SECONDS=str(times))
    if done.returncode:
        raise RuntimeError(f"The tests must pass without any change:\n{done.stdout[-5000:]}\n{done.stderr[-2000:]}")
    contexts = CoverageData(str(data))
    contexts.read()
    lines: dict[str, dict[str, list[str]]] = {}
    for path in contexts.measured_files():
        of_line = {str(line): [n for n in names if n] for line, names in contexts.contexts_by_lineno(path).items()}
        lines[Path(path).relative_to(project / "proxmom").as_posix()] = of_line
    return {"lines": lines, "seconds": json.loads(times.read_text())}


# --- a change is judged ----------------------------------------------------------------------------------------------


def judge(mutant: Mutant, project: Path, covering: Coverage, files: set[str]) -> str | None:
    """Run those tests in these files that cover the line, on a copy with the change: what noticed it, if anything."""
    tests = covering.tests(mutant, files)
    if not tests:
        return None
    path = project / "proxmom" / mutant.file
    source = path.read_bytes()
    chosen = project / "chosen.json"
    chosen.write_text(json.dumps({name: covering.seconds[name] for name in tests}))
    path.write_bytes(mutant.planted(source))
    limit = 60 + 10 * sum(covering.seconds[name] for name in tests)
    used = sorted({name.split("::")[0] for name in tests})
    try:
        done = python(project, *PYTEST, "-x", "-rfE", *used, timeout=limit, PROXMOM_CHOSEN=str(chosen))
    except subprocess.TimeoutExpired:
        return "the time limit"
    finally:
        path.write_bytes(source)
    if done.returncode == 0:
        return None
    if done.returncode == TOO_LONG:
        return "a test that takes too long"
    first = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not first and done.returncode not in NO_START:
        raise RuntimeError(f"{mutant.key}\n{done.stdout}\n{done.stderr}")
    return first[0] if first else "the import"


class Known:
    """What earlier runs found, one line each, appended as it comes."""

    def __init__(self) -> None:
        self.path, self.found = RESULTS / "found.jsonl", dict[str, dict[str, Any]]()
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                one = json.loads(line)
                self.found[one["key"] + one["file"]] = one

    def of(self, mutant: Mutant) -> dict[str, Any]:
        """by: what noticed it. passed: the states of files of tests that did not, while nothing did."""
        file = digest(ROOT / "proxmom" / mutant.file)
        return self.found.get(mutant.key + file, {"key": mutant.key, "file": file, "by": None, "passed": []})

    def add(self, one: dict[str, Any]) -> None:
        self.found[one["key"] + one["file"]] = one
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(one, ensure_ascii=False) + "\n")


def judge_all(sample: list[Mutant], jobs: int) -> dict[Mutant, str | None]:
    """What noticed each change, or None."""
    from tqdm import tqdm

    known, stamps = Known(), test_files()
    ours = {mutant: known.of(mutant) for mutant in sample}
    todo = [m for m, one in ours.items() if not one["by"] and not set(stamps.values()) <= set(one["passed"])]
    if not todo:
        return {mutant: one["by"] for mutant, one in ours.items()}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        projects: queue.Queue[Path] = queue.Queue()
        for job in range(jobs):
            projects.put(copy_project(Path(folder) / str(job)))

        def work(task: Callable[..., Any], **arguments: Any) -> Any:
            project = projects.get()
            try:
                return task(**arguments, project=project)
            finally:
                projects.put(project)

        try:
            maps = {file: pool.submit(work, measure, file=file, stamp=stamp) for file, stamp in stamps.items()}
            for done in tqdm(as_completed(maps.values()), total=len(maps), desc="coverage", unit="file"):
                done.result()
            covering = Coverage({file: future.result() for file, future in maps.items()})
            futures = {}
            for mutant in todo:
                files = {file for file, stamp in stamps.items() if stamp not in ours[mutant]["passed"]}
                futures[pool.submit(work, judge, mutant=mutant, covering=covering, files=files)] = mutant
            for future in tqdm(as_completed(futures), total=len(todo), unit="change"):
                one = ours[futures[future]]
                one |= {"by": future.result(), "passed": sorted({*one["passed"], *stamps.values()})}
                known.add(one)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {mutant: one["by"] for mutant, one in ours.items()}


# --- the command -----------------------------------------------------------------------------------------------------


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m tests.mutants", description="Plant single changes in the core and report which no test notices."
    )
    parser.add_argument("--sample", type=int, default=150, help="how many changes (150)")
    parser.add_argument("--seed", type=int, default=0, help="which ones: equal seeds take equal changes (0)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once (1)")
    parser.add_argument("--file", action="append", help="only of this file of the package, as in step/take.py; repeats")
    parser.add_argument("--list", action="store_true", help="show the sample and run nothing")
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)

    every = everything()
    missing = set(asked.file or []) - {mutant.file for mutant in every}
    if missing:
        parser.error(f"--file must be one of {', '.join(sorted({m.file for m in every}))}, got {', '.join(missing)}.")
    drawn = [mutant for mutant in every if not asked.file or mutant.file in asked.file]
    drawn.sort(key=lambda mutant: hashlib.sha256(f"{asked.seed}: {mutant.key}".encode()).digest())
    sample = sorted(drawn[: asked.sample], key=lambda mutant: (mutant.file, mutant.start))
    if asked.list:
        print(*(f"{mutant.file}:{mutant.line}  {mutant.change}" for mutant in sample), sep="\n")
        return 0

    listed = tomllib.loads(REASONS.read_text(encoding="utf-8"))["same"]
    reasons = {(one["file"], one["code"], one["change"]): one["why"] for one in listed}
    stale = set(reasons) - {(m.file, m.code, m.change) for m in every}
    outcomes = judge_all(sample, asked.jobs)

    alive = [mutant for mutant in sample if not outcomes[mutant]]
    unexplained = [mutant for mutant in alive if (mutant.file, mutant.code, mutant.change) not in reasons]
    for mutant in alive:
        why = reasons.get((mutant.file, mutant.code, mutant.change), "NO TEST NOTICES IT")
        print(f"{mutant.file}:{mutant.line}  {mutant.code}\n    {mutant.change}\n    {why}")
    for key in sorted(stale):
        print("no such change any more:", *key, sep="\n    ")
    print(f"{len(sample) - len(alive)} of {len(sample)} changes noticed, {len(every)} possible; of the others", end=" ")
    print(f"{len(alive) - len(unexplained)} change no result for the reason given, {len(unexplained)} have no reason.")
    return 1 if unexplained or stale else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    except RuntimeError as error:
        sys.exit(str(error))
