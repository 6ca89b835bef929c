"""The page and the tables about studies that count."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxmom.study.report import panels, pictures
from proxmom.study.report.write import terminal_table, write_report
from tests.study.report.counts.conftest import NASTY, PROBLEMS, Page, make_run, study_runs, write_study


def test_the_page_refers_to_nothing_outside_itself(html: Any, page: Any) -> None:
    assert all(link.startswith(("#", "data:image/svg+xml,")) for link in page.links)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == page.tags["img"] == 0
    assert not re.search(r"@import|url\((?!#)|https?://", html)
    assert len(html) < 3_000_000


def test_ids_are_unique_and_every_reference_has_its_target(html: Any, page: Any) -> None:
    assert [name for name, times in page.ids.items() if times > 1] == []
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html))
    assert {first or second for first, second in used} <= set(page.ids)
    assert len(used) > 5


def test_names_are_escaped_and_all_there(html: Any, page: Any) -> None:
    assert NASTY in page.text
    assert all(name in page.text for name in (*PROBLEMS, "reference", "never", "fixed", "broken"))
    assert "<b>bold" not in html
    assert "<script>" not in html
    assert "<i>breast" not in html
    assert "<u>no" not in html
    assert page.tags["b"] == 2  # the reference's name in two sentences


def test_every_picture_has_a_label_and_no_sentinel_colour_is_left(html: Any, page: Any) -> None:
    assert len(page.labels) == page.tags["svg"] == 5 + 2 + 2 + 2 + 2  # legend, gaps, lr, weights, overall
    assert all(page.labels)
    assert page.tags["title"] > page.tags["svg"]
    assert "#010203" not in html
    assert "currentColor" in html


def test_numbers_and_warnings_stand_on_the_page(page: Any) -> None:
    assert "reference: geometric mean over problems" in page.text
    assert "A <script>claim</script>." in page.text
    assert "ValueError: <u>no</u>" in page.text
    assert f"best run of {NASTY} has the largest lr tried (1e+03): widen that range" in page.text
    assert "no run reached the target with never" in page.text
    assert "uncommitted changes" in page.text
    assert "abc1234" in page.text
    assert "Z80" in page.text
    assert "proxmom run study.toml --out first" in page.text


def test_the_page_does_not_change_when_written_again(directory: Any, html: Any, tmp_path: Path) -> None:
    again = write_report([directory], tmp_path / "deep" / "other.html")
    assert again.read_text(encoding="utf-8") == html


def test_unfinished_runs_are_counted(tmp_path: Path) -> None:
    runs = study_runs()
    folder = write_study(tmp_path / "cut", runs)
    next((folder / "runs").glob("*/done.json")).unlink()
    assert f"1 of the {len(runs)} runs of cut are not finished" in Page(write_report([folder]).read_text()).text


def test_a_study_where_everything_failed_at_once_has_a_report(tmp_path: Path) -> None:
    points = [{"lr": 1.0}, {"lr": 2.0}]
    runs = [make_run("p", "reference", 0, x, i, np.inf, "failed", "no") for i, x in enumerate(points)]
    folder = write_study(tmp_path / "s", runs)
    for metrics in (folder / "runs").glob("*/metrics.jsonl"):
        metrics.write_text("")
    assert "2 runs of reference on p failed: no" in Page(write_report([folder]).read_text()).text
    assert re.search(r"^reference +miss +1.00$", terminal_table([folder]), re.MULTILINE)


def test_directories_merge(directory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = [make_run(problem, "mine", 77, {"lr": 10.0**k}, k) for problem in PROBLEMS for k in range(6)]
    other = write_study(tmp_path / "second", [*mine, *study_runs()])
    monkeypatch.chdir(tmp_path)
    file = write_report([directory, other])
    assert file.resolve() == tmp_path / "report.html"
    table = terminal_table([directory, other])
    assert re.search(r"^mine +77\* +77\* ", table, re.MULTILINE)
    assert table.count("never") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "1e-4"}, "must share target, got 1e-06 in 'first' and 0.0001 in 'other'"),
        ({"budget": 2000}, "must share max_evaluations, got 1000 in 'first' and 2000 in 'other'"),
    ],
)
def test_directories_that_cannot_be_compared_are_refused(
    directory: Any, tmp_path: Path, changes: Any, message: str
) -> None:
    other = write_study(tmp_path / "other", study_runs(), **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        terminal_table([directory, other])


def test_one_name_for_two_methods_is_refused(directory: Any, tmp_path: Path) -> None:
    run = make_run(PROBLEMS[0], "fixed", 3)
    run.configuration["method"]["inertia"] = 0.5
    other = write_study(tmp_path / "other", [run])
    with pytest.raises(ValueError, match=r"method 'fixed' has two meanings.*inertia.*Rename one"):
        write_report([directory, other], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_what_is_no_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere' is no results directory: it has no study.toml"):
        write_report([tmp_path / "nowhere"])
    empty = write_study(tmp_path / "empty", [])
    (empty / "runs").mkdir()
    with pytest.raises(ValueError, match=r"empty' has no finished runs"):
        terminal_table([empty])
    with pytest.raises(ValueError, match="at least one results directory"):
        write_report([])
    partial = write_study(tmp_path / "partial", [make_run()], reference="not yet")
    with pytest.raises(ValueError, match=r"reference must be a method with finished runs \('m'\), got 'not yet'"):
        write_report([partial])


def test_another_reference_can_be_chosen(directory: Any, tmp_path: Path) -> None:
    file = write_report([directory], tmp_path / "r.html", reference="fixed")
    assert "fixed: geometric mean over problems" in Page(file.read_text(encoding="utf-8")).text
    assert re.search(r"^fixed +321 +321 +1.00$", terminal_table([directory], "fixed"), re.MULTILINE)
    with pytest.raises(ValueError, match=r"reference must be a method with finished runs .* got 'none'"):
        terminal_table([directory], "none")


def test_terminal_table_marks_the_fewest_and_the_misses(directory: Any) -> None:
    table = terminal_table([directory])
    assert re.search(r"^reference +100\* +100\* +1.00$", table, re.MULTILINE)
    assert re.search(r"^never +miss +miss +100$", table, re.MULTILINE)
    assert re.search(r"^broken +miss +100$", table, re.MULTILINE)
    assert "miss: not within 1000, in means 10000" in " ".join(table.split())
    assert "\033" not in table
    assert max(map(len, table.splitlines())) <= 100


def test_terminal_table_is_bold_on_a_terminal_only(directory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[1m100*\033[0m" in terminal_table([directory])
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in terminal_table([directory])


@pytest.mark.parametrize(("problems", "methods", "first"), [(3, 12, "method"), (12, 3, "problem"), (14, 14, "method")])
def test_terminal_table_turns_or_breaks_to_fit(tmp_path: Path, problems: Any, methods: Any, first: Any) -> None:
    runs = [make_run(f"problem {p}", f"reference {m}", 10 + m) for p in range(problems) for m in range(methods)]
    lines = terminal_table([write_study(tmp_path / "s", runs, reference="reference 0")]).splitlines()
    assert max(map(len, lines)) <= 100
    assert next(line for line in lines if line.startswith(("method", "problem"))).startswith(first)
    words = " ".join(lines).split()
    assert all(str(10 + m) in [word.rstrip("*") for word in words] for m in range(methods))


def test_styles_do_not_repeat_and_do_not_depend_on_what_is_shown() -> None:
    styles = [pictures.Style(index, f"m{index}") for index in range(28)]
    assert len({(style.line["color"], str(style.line["linestyle"])) for style in styles}) == 28


@pytest.mark.parametrize("index", range(5))
def test_a_line_of_no_width_has_no_dashes(index: Any) -> None:
    figure, axes = panels.panel("x", "y")
    style, ends = panels.Style(index, "m"), np.array([1.0, 2.0])
    assert panels.plot_line(axes, style, ends, ends, marker="o", linewidth=0).get_linestyle() == "None"
    assert panels.plot_line(axes, style, ends, ends).get_linestyle() != "None"
    figure.canvas.draw()


def test_curves_are_thinned_but_keep_their_ends(
    directory: Any, html: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin = pictures._thin(np.arange(1000.0), 30)
    assert (thin.size, thin[0], thin[-1]) == (30, 0, 999)
    monkeypatch.setattr(pictures, "_CURVE_POINTS", 40)
    assert len(write_report([directory], tmp_path / "thin.html").read_text(encoding="utf-8")) < len(html) - 500
