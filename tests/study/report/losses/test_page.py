"""The page about training studies."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from proxmom.study.record.run import Run
from proxmom.study.record.store import run_directory, write_plan
from proxmom.study.report import compare
from proxmom.study.report.sources import merge, read_source
from proxmom.study.report.text import comparison_text, loss_text, ratio_text
from proxmom.study.report.write import terminal_table, write_report
from tests.study.report.losses.conftest import (
    ADAPTIVE,
    CONVEX,
    DEFAULTS,
    METHODS,
    NETWORK,
    make_run,
    write_run,
    write_study,
)


class Page(HTMLParser):
    """Everything a test asks about a page: ids, tags, attributes that could load something, rows, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.heads: list[str] = []
        self.text = self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.links.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("h2", "h3", "h4"):
            self.heads.append("")
            self._inside = "heading"
        if tag in ("td", "th"):
            self._inside = "cell"

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag in ("td", "th", "h2", "h3", "h4") else self._inside

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._inside == "cell":
            self.rows[-1][-1] += f"{data.strip()} " if data.strip() else ""
        if self._inside == "heading":
            self.heads[-1] += data.strip()

    def row(self, *starts: str) -> list[str]:
        """The first row whose cells begin with these."""
        return next(r for r in self.rows if all(c.startswith(s) for c, s in zip(r, starts, strict=False)))


@pytest.fixture(scope="module")
def html(directory: Any) -> str:
    return write_report([directory]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: Any) -> Page:
    return Page(html)


def test_the_page_refers_to_nothing_outside_itself(html: Any, page: Any) -> None:
    assert all(link.startswith(("#", "data:image/svg+xml,")) for link in page.links)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == page.tags["img"] == 0
    assert not re.search(r"@import|url\((?!#)|https?://", html)
    assert len(html) < 1_000_000


def test_ids_are_unique_and_every_reference_has_its_target(html: Any, page: Any) -> None:
    assert [name for name, times in page.ids.items() if times > 1] == []
    used = {first or second for first, second in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html)}
    assert used <= set(page.ids)
    assert len(used) > 5


def test_names_are_escaped_and_all_there(html: Any, page: Any) -> None:
    assert all(name in page.text for name in (*METHODS, NETWORK, CONVEX, "A <i>claim</i> & more."))
    assert not re.search(r"<b>small|<i>claim|<u>boom", html)
    assert "RuntimeError: <u>boom</u>" in page.text
    assert "#010203" not in html


def test_the_page_shows_the_answer_the_differences_and_the_lost_seeds(page: Any, trained: Any) -> None:
    row = page.row(ADAPTIVE, ratio_text(compare.mean_ratios(trained, METHODS[0])[ADAPTIVE]))
    assert [cell.strip() for cell in row[-3:]] == ["2", "0", "2"]
    network = page.row(ADAPTIVE, "1.4", "-0.")
    assert network[2].startswith(comparison_text(compare.comparisons(trained, METHODS[0])[0][1]))
    assert network[2].endswith("lower ")
    convex = page.row(ADAPTIVE, "6.", "×0.")
    assert convex[2].startswith(comparison_text(compare.comparisons(trained, METHODS[0])[1][1]))
    assert [cell.strip() for cell in network[-3:]] == ["0.60", "0.80", "0 of 5"]
    assert page.row("SGD", "3.2", "+1.")[-1] == "1 diverged, 1 failed of 5 "
    seeds = page.row("SGD", loss_text(trained.values[0, 4, 0]))
    assert [cell.strip() for cell in seeds[2:5:2]] == ["4.100 diverged", "4.300 failed"]
    assert page.row(DEFAULTS, ratio_text(compare.variants(trained)[1].ratio))[-1].endswith("higher ")
    assert "2 of 5 seeds of SGD count as the initial loss" in page.text
    assert "Test loss or relative gap at the end over that of" in page.text


def test_the_page_has_every_section_and_picture(page: Any) -> None:
    sections = ("Results", NETWORK, "Defaults only, and controls", "Steps and seconds to a loss", "Validation loss 1.5")
    pictures = ("Validation loss", "Training loss", "Weight on memory", "Weight on memory by unit")
    tuning = ("Sensitivity to lr", "Tuning budget", "Warnings", "Settings of the best runs", "Provenance", "first")
    assert set(sections) | set(pictures) | set(tuning) <= set(page.heads)
    assert "Performance profile" not in page.heads  # two problems only
    assert f"{ADAPTIVE}, {NETWORK}" in page.heads  # the map of the units
    assert f"{ADAPTIVE}, {CONVEX}" not in page.heads  # one unit has no map
    assert page.row("torch")[1].strip() == "2.9"
    assert page.row("device")[1].strip() == "cpu"
    assert page.tags["svg"] == 3 + 2 + 2 + 2 + 1 + 2 + 1  # legend, losses, weights, map, lr, tuning


def test_pictures_show_the_methods_themselves_and_name_them(html: Any) -> None:
    named = Counter(re.findall(r'<g class="method"><title>([^<]*)</title>', html))
    assert set(named) == {METHODS[0], ADAPTIVE, "SGD"}


def test_a_profile_is_shown_from_three_problems_on_and_tables_are_folded_from_four(tmp_path: Path) -> None:
    for count, folded in ((3, 0), (4, 4)):
        losses = {"AdamW, tuned": 1.0, "m": 0.9}
        runs = [
            make_run(f"p{row}", method, loss + 0.01 * seed, seed, index=0)
            for row in range(count) for method, loss in losses.items() for seed in (1, 2)
        ]  # fmt: skip
        page = Page(write_report([write_study(tmp_path / f"s{count}", runs)]).read_text(encoding="utf-8"))
        assert "Performance profile" in page.heads
        assert page.tags["details"] == 1 + count + folded  # the study's text, every seed, every problem
        assert "Tuning budget" not in page.heads  # nothing was searched


def test_a_study_where_everything_is_lost_has_a_report(tmp_path: Path) -> None:
    failed = {"status": "failed", "loss": None, "start": None, "message": "ValueError: no"}
    runs = [make_run(method="AdamW, tuned", seed=0, stage="search", point={"lr": lr}, index=i, **failed)
            for i, lr in enumerate([0.1, 0.2, 0.3])]  # fmt: skip
    runs += [make_run(method="AdamW, tuned", seed=seed, point={"lr": 0.1}, **failed) for seed in (1, 2)]
    folder = write_study(tmp_path / "s", runs)
    for metrics in folder.glob("runs/*/metrics.jsonl"):
        metrics.write_text("")
    text = Page(write_report([folder]).read_text(encoding="utf-8")).text
    assert "no point of AdamW, tuned finished" in text
    assert "2 of 2 seeds of AdamW, tuned count as the initial loss" in text
    assert "AdamW, tuned" in terminal_table([folder])


def test_a_method_with_its_own_schedule_is_named(tmp_path: Path) -> None:
    run = make_run(method="AdamW, tuned")
    run.configuration["method"]["schedule"] = "constant"
    folder = write_study(tmp_path / "own", [run, make_run(method="m")])
    text = Page(write_report([folder]).read_text(encoding="utf-8")).text
    assert "AdamW, tuned has its own: schedule constant;" in text
    assert text.count("has its own") == 1


def test_unfinished_runs_are_counted_and_missing_seeds_named(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "cut")
    runs = merge([read_source(folder)]).final[CONVEX, ADAPTIVE]
    (run_directory(folder, runs[-1].key) / "done.json").unlink()
    text = Page(write_report([folder]).read_text(encoding="utf-8")).text
    assert "1 of the 98 runs of cut are not finished" in text
    assert f"On {CONVEX}, {ADAPTIVE} has 4 of 5 seeds" in text


def test_the_page_does_not_change_when_written_again(directory: Any, html: Any, tmp_path: Path) -> None:
    assert write_report([directory], tmp_path / "other.html").read_text(encoding="utf-8") == html


def test_another_reference_can_be_chosen(directory: Any, tmp_path: Path) -> None:
    page = Page(write_report([directory], tmp_path / "r.html", reference="SGD").read_text(encoding="utf-8"))
    assert page.row("SGD", "1.000")
    assert "over the one of 'SGD'" in " ".join(terminal_table([directory], "SGD").split())
    with pytest.raises(ValueError, match=r"reference must be a method with finished runs .* got 'none'"):
        terminal_table([directory], "none")


def test_directories_merge(directory: Any, tmp_path: Path) -> None:
    mine = [make_run(problem, "mine", 0.2, seed, test=0.2) for problem in (NETWORK, CONVEX) for seed in range(1, 6)]
    runs = [(replace(run, configuration=_same_problem(run)), 4.0) for run in mine]
    other = write_study(tmp_path / "second", [run for run, _ in runs])
    trained = merge([read_source(directory), read_source(other)])
    assert trained.methods == (*METHODS, "mine")
    assert trained.values.shape == (2, 6, 5)
    page = Page(write_report([directory, other], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.row("mine", "0.2")
    assert page.heads[-2:] == ["first", "second"]


def _same_problem(run: Run) -> dict[str, Any]:
    return {**run.configuration, "problem": {"kind": run.problem}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 200}, "must share steps, got 400 in 'first' and 200 in 'other'. Report them one by one."),
        ({"schedule": "constant"}, "must share schedule, got cosine in 'first' and constant in 'other'"),
    ],
)
def test_studies_with_other_schedules_are_refused(directory: Any, tmp_path: Path, changes: Any, message: str) -> None:
    other = write_study(tmp_path / "other", [make_run(method=METHODS[0])], **changes)
    for report in (write_report, terminal_table):
        with pytest.raises(ValueError, match=re.escape(message)):
            report([directory, other])


def test_training_studies_and_those_that_count_are_not_mixed(directory: Any, tmp_path: Path) -> None:
    other = write_study(tmp_path / "counts", [])
    text = '[study]\nname = "counts"\nclaim = "c"\npoints = 1\nreference = "m"\nmax_evaluations = 9\ntarget = 1e-6\n'
    (other / "study.toml").write_text(text, encoding="utf-8")
    run = replace(make_run(), stage="", status="reached")
    write_plan(other, [write_run(other, run, 4.0)])
    message = r"'first' holds a training study.* 'counts' one that counts evaluations.* Report them one by one"
    for folders in ([directory, other], [other, directory]):
        with pytest.raises(ValueError, match=message):
            write_report(folders, tmp_path / "r.html")


def test_one_name_for_two_methods_is_refused(directory: Any, tmp_path: Path) -> None:
    run = make_run(NETWORK, ADAPTIVE)
    run.configuration["method"]["inertia"] = 0.5
    other = write_study(tmp_path / "other", [run])
    with pytest.raises(ValueError, match=rf"method '{ADAPTIVE}' has two meanings.*inertia.*Rename one"):
        write_report([directory, other], tmp_path / "r.html")
