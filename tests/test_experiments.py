"""The smoke tier of every experiment runs, from its file to its report."""

from __future__ import annotations

import csv
import functools
import re
import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxmom.study.plan import numerics
from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.record.store import load_runs
from proxmom.study.report.export import write_csv
from proxmom.study.report.sources import read_source
from proxmom.study.report.speedrun import speed_table
from proxmom.study.report.write import terminal_table, write_report
from proxmom.study.run.runner import run_study

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
STUDIES = sorted(EXPERIMENTS.rglob("*.toml"))
OTHERS = {"field": ("schedulefree", "pytorch_optimizer"), "field/momo.toml": ("momo",)}  # packages that a study names
SMOKE = [path for path in STUDIES if path.name == "smoke.toml"]


def _id(path: Path) -> str:
    return str(path.relative_to(EXPERIMENTS))


@pytest.mark.parametrize("path", STUDIES, ids=_id)
def test_a_study_file_is_valid_and_names_its_claim(path: Path) -> None:
    for package in (*OTHERS.get(path.parent.name, ()), *OTHERS.get(_id(path), ())):
        pytest.importorskip(package)
    study = load_study(path)
    assert study.claim
    assert path.read_text().startswith("# "), "the first line says what the study is"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The folder of a study that is run once; nobody writes runs into it."""

    @functools.cache
    def of(study: Path) -> Path:
        return run_study(study, tmp_path_factory.mktemp("smoke") / "results", jobs=1, quiet=True)

    return of


@pytest.mark.parametrize("path", SMOKE, ids=_id)
def test_the_smoke_tier_runs(path: Path, results: Callable[[Path], Path]) -> None:
    folder = results(path)
    runs = load_runs(folder)
    assert runs
    assert not [run.message for run in runs if run.status == "failed"]
    table, page = terminal_table([folder]), write_report([folder]).read_text(encoding="utf-8")
    for method in tomllib.loads(path.read_text())["method"]:
        assert method["name"] in table
        assert method["name"].replace("'", "&#39;") in page


@pytest.mark.parametrize("folder", [rows.parent for rows in sorted(EXPERIMENTS.glob("*/*/runs.csv"))], ids=_id)
def test_committed_rows_give_the_committed_table(folder: Path) -> None:
    """And say where they come from; `proxmom report` makes the page in the same way."""
    assert terminal_table([folder]) == (folder / "table.txt").read_text().rstrip("\n")
    assert read_source(folder).origin["commit"]


def test_committed_speed_runs_give_the_committed_tables() -> None:
    folders = [EXPERIMENTS / f"speedrun/small-{length}" for length in (500, 650, 850)]
    tables = [speed_table(folders), speed_table(folders, "AdamW, tuned", 1.98238)]
    assert "\n\n".join(tables) == (EXPERIMENTS / "speedrun/small.txt").read_text().rstrip("\n")


@pytest.mark.parametrize("search_seeds", [1, 3])
def test_committed_runs_keep_their_keys(search_seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what was run before is used again, with more search seeds too."""
    made_by = read_source(EXPERIMENTS / "convex/minibatch").origin.get("numerics", "1")
    monkeypatch.setattr(numerics, "TRAINING", int(made_by))
    text = (EXPERIMENTS / "convex/minibatch.toml").read_text()
    (tmp_path / "study.toml").write_text(text.replace("\nseeds = 5", f"\nseeds = 5\nsearch_seeds = {search_seeds}"))
    cells = [cell for cell in plan(load_study(tmp_path / "study.toml")) if cell.ready and cell.stage == "search"]
    with (EXPERIMENTS / "convex/minibatch/runs.csv").open(newline="") as stream:
        committed = {row["key"] for row in csv.DictReader(stream)}
    assert len({cell.seed for cell in cells}) == search_seeds
    assert {cell.key for cell in cells if cell.seed == 0} <= committed


def test_a_report_is_made_of_rows_as_of_runs_but_for_curves(tmp_path: Path, results: Callable[[Path], Path]) -> None:
    directory = results(SMOKE[0])
    (tmp_path / "study.toml").write_text(SMOKE[0].read_text())  # rows lie beside their study
    (tmp_path / "study").mkdir()
    write_csv([directory], tmp_path / "study" / "runs.csv")
    assert terminal_table([tmp_path / "study"]) == terminal_table([directory])
    made, again = (write_report([folder]).read_text(encoding="utf-8") for folder in (directory, tmp_path / "study"))
    sections = [re.findall("<h[23].*", page) for page in (made, again)]
    assert [line for line in sections[0] if line not in sections[1]] == [
        '<h3 id="convergence">Convergence</h3>',
        '<h3 id="momentum">Weight on memory</h3>',
    ]


def test_the_overhead_of_a_step_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = runpy.run_path(str(EXPERIMENTS / "overhead/overhead.py"))["main"]
    quickly = ["--tier", "smoke", "--rounds", "1", "--threads", "1", "--json", str(file)]
    measured, shown = (CliRunner().invoke(command, given) for given in (quickly, ["--from", str(file)]))
    assert measured.exit_code == shown.exit_code == 0, measured.output
    assert measured.stdout == shown.stdout
    assert "AMSGD" in shown.stdout
