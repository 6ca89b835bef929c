"""A study that counts evaluations in a folder, for the tests of its report."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxmom.study.record.run import Ending, Planned, Run
from proxmom.study.record.store import RunWriter, key_of, run_directory, write_plan
from proxmom.study.report.write import write_report

BUDGET = 1000
PROVENANCE = {"proxmom": "0.1.0", "python": "3.11", "numpy": "2.0", "scipy": "1.15", "commit": "abc1234"}
PROVENANCE |= {"dirty": True, "processor": "Z80", "cores": 2, "started": "2026-01-02T03:04:05+00:00"}


def make_run(
    problem: Any = "p",
    method: Any = "m",
    count: Any = 100,
    point: Any = None,
    index: Any = 0,
    gap: Any = 1e-7,
    status: Any = None,
    message: str = "",
    **more: Any,
) -> Any:
    """A run that reached the target after `count` evaluations, or missed it if `count` is None."""
    return Run(
        problem=problem,
        method=method,
        point=point or {},
        point_index=index,
        status=status or ("missed" if count is None else "reached"),
        evaluations=BUDGET if count is None else count,
        best_gap=gap,
        seconds=0.5,
        provenance=PROVENANCE,
        configuration={"problem": {"kind": problem}, "method": {"rule": method}, "point": point or {}},
        message=message,
        **more,
    )


NASTY = "<b>bold</b> & \"$x_{\" 'quoted'"
PROBLEMS = ("quadratic, cond 1e2", "logistic <i>breast</i>")


def write_run(folder: Path, run: Run) -> Planned:
    configuration = {**run.configuration, "max_evaluations": BUDGET, "target": 1e-6}
    key = key_of(configuration)
    description = {"key": key, "configuration": configuration, "problem": run.problem, "method": run.method}
    description |= {"point_index": run.point_index, "seed": 0, "provenance": dict(run.provenance)}
    with RunWriter(run_directory(folder, key), description) as writer:
        for evaluations in range(1, 30):
            beta = None if run.method == "fixed" else 0.5 + 0.4 * np.sin(evaluations)
            writer.append(evaluations, 0.5**evaluations if evaluations != 7 else np.inf, beta)
        writer.finish(Ending(run.status, run.evaluations, run.best_gap, run.seconds, run.message))
    return Planned(key, run.problem, run.method, run.point_index)


def write_study(
    folder: Path, runs: list[Run], reference: Any = "reference", target: Any = "1e-6", budget: Any = BUDGET
) -> Path:
    folder.mkdir(parents=True)
    write_plan(folder, [write_run(folder, run) for run in runs])
    head = f'name = "{folder.name}"\nclaim = "A <script>claim</script>."\npoints = 6\nreference = "{reference}"\n'
    text = f"[study]\n{head}max_evaluations = {budget}\ntarget = {target}\n"
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return folder


def study_runs() -> list[Run]:
    runs = []
    for shift, problem in enumerate(PROBLEMS):
        for index in range(6):
            point = {"lr": 10.0 ** (index - 2)}
            runs.append(make_run(problem, "reference", 100 + 40 * abs(index - 3), point, index))
            runs.append(make_run(problem, NASTY, 500 - 80 * index + shift, point, index))
            runs.append(make_run(problem, "never", None, {**point, "beta": 0.1 * index}, index, gap=0.3))
        runs.append(make_run(problem, "fixed", 321))
    boom = make_run(PROBLEMS[0], "broken", 3, {"lr": 1.0}, status="failed", message="ValueError: <u>no</u>")
    return [*runs, boom]


class Page(HTMLParser):
    """Everything a test asks about a page: ids, tags, attributes that could load something, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.labels: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.links.append(value or "")
            if tag == "svg" and name == "aria-label":
                self.labels.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="package")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies") / "first", study_runs())


@pytest.fixture(scope="package")
def html(directory: Any) -> str:
    file = write_report([directory])
    assert file == directory / "report.html"
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="package")
def page(html: Any) -> Page:
    return Page(html)
