"""Plants single changes in the core, one at a time, in copies of the project, and reports which no test notices.

`python tests/mutants.py` takes a sample (150 changes, always the same ones for a seed), runs for each the tests that
cover the changed line, quickest first, and stops at the first that fails. What is known is kept in results/mutants/, so
that a run can be stopped and goes on where it was: a change is judged again if its file has changed, or if no test
noticed it and the tests have changed. The exit status is 1 if a change goes unnoticed that tests/mutants.toml does not
list with a reason, or if a reason there belongs to no change any more.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORE = ("planes.py", "solve.py", "rules.py", "stepsize.py", "step/*.py", "metrics.py", "numpy/guard.py")
TESTS = ("tests/core", "tests/numpy", "tests/verify")
RESULTS = ROOT / "results" / "mutants"
REASONS = ROOT / "tests" / "mutants.toml"
PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-n",
    "0",
    "-p",
    "tests.mutants_plugin",
    "-p",
    "no:cacheprovider",
    "--durations=0",
    "--hypothesis-seed=0",
    "--no-header",
    "--tb=no",
)
TOO_LONG = 77  # exit status of tests/mutants_plugin.py

SWAPS: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
}
TWINS = {"minimum": "maximum", "min": "max", "any": "all", "argmin": "argmax"}
TWINS |= {right: left for left, right in TWINS.items()}
UNTOUCHED = (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Assert)  # what is said, not what is computed


@dataclass(frozen=True)
class Mutant:
    """A change: in a file of the package, the bytes from start to end become the text."""

    file: str
    line: int
    start: int
    end: int
    text: str
    code: str  # the line, stripped
    change: str
    number: int  # of equal changes on equal lines

    @property
    def key(self) -> str:
        """What it changes, wherever in the file that stands."""
        return f"{self.file}: {self.code}: {self.change}: {self.number}"

    def planted(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


# --- the changes -----------------------------------------------------------------------------------------------------


def _with(node: Any, **fields: Any) -> Any:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def changes(node: ast.AST) -> Iterator[tuple[Any, ast.AST]]:
    """Single changes of this node, those of its parts left out: what is replaced, and by what."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                for other in SWAPS[type(op)]:
                    yield node, _with(node, ops=[*ops[:i], other(), *ops[i + 1 :]])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op):
            for other in SWAPS.get(type(op), []):
                yield node, _with(node, op=other())
        case ast.UnaryOp(operand=operand):
            yield node, operand
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from ((node, ast.Constant(value + by)) for by in (1, -1))
        case ast.Constant(value=float(value)):
            yield node, ast.Constant(2 * value if value else 1.0)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield node, ast.IfExp(test, orelse, body)
        case ast.If(test=test) | ast.While(test=test) if not isinstance(test, ast.UnaryOp):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Call(func=ast.Attribute(attr="where") as func, args=[condition, one, two]):
            yield node, ast.Call(func, [condition, two, one], node.keywords)
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in TWINS:
            yield node, _with(node, **{"attr" if isinstance(node, ast.Attribute) else "id": TWINS[name]})
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield value, ast.Constant(None)
        case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, ast.Pass()
    if isinstance(node, ast.AugAssign):
        yield node, ast.Pass()


def visit(node: ast.AST) -> Iterator[tuple[Any, ast.AST]]:
    """Changes of this node and of its parts; types, decorators and messages are left alone."""
    if isinstance(node, UNTOUCHED):
        return
    yield from changes(node)
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for part in field if isinstance(field, list) else [field]:
            if isinstance(part, ast.AST):
                yield from visit(part)


def mutants(path: Path, package: Path) -> Iterator[Mutant]:
    """All changes of a file."""
    source = path.read_bytes()
    lines = source.splitlines(keepends=True)
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line))
    seen: Counter[tuple[str, str]] = Counter()
    for old, new in visit(ast.parse(source)):
        start, end = begins[old.lineno - 1] + old.col_offset, begins[old.end_lineno - 1] + old.end_col_offset
        code, text = lines[old.lineno - 1].decode().strip(), ast.unparse(new)
        change = f"{ast.unparse(old)} -> {text}"
        seen[code, change] += 1
        spliced = f"({text})" if isinstance(new, ast.expr) else text
        name = path.relative_to(package).as_posix()
        yield Mutant(name, old.lineno, start, end, spliced, code, change, seen[code, change])


def everything() -> list[Mutant]:
    package = ROOT / "proxmom"
    return [mutant for glob in CORE for path in sorted(package.glob(glob)) for mutant in mutants(path, package)]


# --- what covers a line ----------------------------------------------------------------------------------------------


def digest(*paths: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


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

    def __init__(self, lines: dict[str, dict[str, list[str]]], seconds: dict[str, float]) -> None:
        self.lines, self.seconds = lines, seconds

    def tests(self, mutant: Mutant) -> list[str]:
        """Quickest first. A line that runs on import, as in the body of a class, is covered by what uses its file."""
        of_file = self.lines.get(mutant.file, {})
        names = of_file.get(str(mutant.line)) or {name for names in of_file.values() for name in names}
        return sorted(names, key=lambda name: (self.seconds[name], name))


def coverage(stamp: str, project: Path) -> Coverage:
    """The map, made once for a state of package and tests (minutes)."""
    path = RESULTS / f"map-{stamp}.json"
    if not path.exists():
        print("Which test runs which line ...", flush=True)
        path.write_text(json.dumps(_measure(project)), encoding="utf-8")
    return Coverage(**json.loads(path.read_text(encoding="utf-8")))


def _measure(project: Path) -> dict[str, Any]:
    from coverage import CoverageData

    data, times = project / "coverage.data", project / "seconds.json"
    run = ("-m", "coverage", "run", f"--data-file={data}", f"--include={project}/proxmom/*")
    done = python(project, *run, *PYTEST, *TESTS, PROXMOM_SECONDS=str(times))
    if done.returncode:
        sys.exit(f"The tests must pass without any change:\n{done.stdout[-5000:]}\n{done.stderr[-2000:]}")
    contexts = CoverageData(str(data))
    contexts.read()
    lines: dict[str, dict[str, list[str]]] = {}
    for file in contexts.measured_files():
        of_line = {str(line): [n for n in names if n] for line, names in contexts.contexts_by_lineno(file).items()}
        lines[Path(file).relative_to(project / "proxmom").as_posix()] = of_line
    return {"lines": lines, "seconds": json.loads(times.read_text())}


# --- a change is judged ----------------------------------------------------------------------------------------------


def judge(mutant: Mutant, project: Path, covering: Coverage) -> dict[str, Any]:
    """Run the tests that cover the line on a copy with the change; what noticed it, or None."""
    tests = covering.tests(mutant)
    if not tests:
        return {"by": None, "tests": 0}
    path = project / "proxmom" / mutant.file
    source = path.read_bytes()
    chosen = project / "chosen.json"
    chosen.write_text(json.dumps({name: covering.seconds[name] for name in tests}))
    path.write_bytes(mutant.planted(source))
    files = sorted({name.split("::")[0] for name in tests})
    limit = 60 + 5 * sum(covering.seconds[name] for name in tests)
    try:
        done = python(project, *PYTEST, "-x", "-rfE", *files, timeout=limit, PROXMOM_CHOSEN=str(chosen))
    except subprocess.TimeoutExpired:
        return {"by": "the time limit", "tests": len(tests)}
    finally:
        path.write_bytes(source)
    if done.returncode == 0:
        return {"by": None, "tests": len(tests)}
    if done.returncode == TOO_LONG:
        return {"by": "a test that takes too long", "tests": len(tests)}
    first = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not first and "Error" not in done.stdout + done.stderr:
        raise RuntimeError(f"{mutant.key}\n{done.stdout}\n{done.stderr}")
    return {"by": first[0] if first else "the import", "tests": len(tests)}


class Known:
    """What earlier runs found, one line each, appended as it comes."""

    def __init__(self, tests: str) -> None:
        self.path, self.tests, self.found = RESULTS / "found.jsonl", tests, dict[str, dict[str, Any]]()
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                one = json.loads(line)
                self.found[one["key"] + one["file"]] = one

    def get(self, mutant: Mutant, file: str) -> dict[str, Any] | None:
        one = self.found.get(mutant.key + file)
        return one if one and (one["by"] or one["at"] == self.tests) else None

    def add(self, mutant: Mutant, file: str, outcome: dict[str, Any]) -> dict[str, Any]:
        one = {"key": mutant.key, "file": file, "at": self.tests, **outcome}
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(one, ensure_ascii=False) + "\n")
        return one


def judge_all(sample: list[Mutant], jobs: int) -> dict[Mutant, dict[str, Any]]:
    from tqdm import tqdm

    package, tests = ROOT / "proxmom", ROOT / "tests"
    known = Known(digest(package, tests))
    stamps = {mutant.file: digest(package / mutant.file) for mutant in sample}
    outcomes = {m: one for m in sample if (one := known.get(m, stamps[m.file]))}
    todo = [m for m in sample if m not in outcomes]
    if not todo:
        return outcomes
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        projects: queue.Queue[Path] = queue.Queue()
        for job in range(jobs):
            projects.put(copy_project(Path(folder) / str(job)))
        covering = coverage(known.tests, Path(folder) / "0")

        def work(mutant: Mutant) -> dict[str, Any]:
            project = projects.get()
            try:
                return judge(mutant, project, covering)
            finally:
                projects.put(project)

        futures = {pool.submit(work, mutant): mutant for mutant in todo}
        try:
            for future in tqdm(as_completed(futures), total=len(sample), initial=len(outcomes), unit="change"):
                mutant = futures[future]
                outcomes[mutant] = known.add(mutant, stamps[mutant.file], future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return outcomes


# --- the command -----------------------------------------------------------------------------------------------------


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Plant single changes in the core and report which no test notices.")
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

    alive = [mutant for mutant in sample if not outcomes[mutant]["by"]]
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
    sys.exit(main())
