"""CSV and NPZ files with a named target: read, scaled, found beside the study, and part of the key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.problems import data as datasets
from proxmom.study.problems.collection import build_problem
from proxmom.study.record.store import load_runs
from proxmom.study.run.runner import run_study
from tests.study.conftest import SMALL

HOUSES = "rooms,price, age\n3,100.5,20\n4,200,10\n\n5,150,30\n2,90,5\n7,300,1\n"
FEATURES = np.array([[3, 20], [4, 10], [5, 30], [2, 5], [7, 1.0]])
PRICES = np.array([100.5, 200, 150, 90, 300])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "houses.csv").write_text(HOUSES)
    np.savez(tmp_path / "houses.npz", X=FEATURES, price=PRICES)
    return tmp_path


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_both_hold_the_same(folder: Path, kind: str) -> None:
    loaded = datasets.load_data(f"houses.{kind}:price", folder)
    assert np.allclose(loaded.features, (FEATURES - FEATURES.mean(0)) / FEATURES.std(0))
    assert np.array_equal(loaded.target, PRICES)
    assert loaded.name == "houses:price"


def test_a_problem_of_it_is_certified(folder: Path) -> None:
    problem = build_problem("least_squares", data="houses.csv:price", l2=0.1, data_dir=folder)
    assert problem.name == "least squares, houses:price, l2 0.1"
    assert build_problem("least_squares", data=str(folder / "houses.npz:price"), l2=0.1).optimum == problem.optimum
    rooms = build_problem("least_squares", data="houses.csv:rooms", l2=0.1, data_dir=folder)
    assert rooms.optimum != problem.optimum


def test_a_file_beside_the_study_is_found_and_decides_the_key(folder: Path, tmp_path: Path) -> None:
    text = SMALL.replace('name = "diabetes"\ndata = "diabetes"', 'l2 = 0.1\ndata = "houses.csv:price"')
    (folder / "study.toml").write_text(text)
    out = run_study(folder / "study.toml", tmp_path / "out", jobs=1, quiet=True)
    assert "least squares, houses:price, l2 0.1" in {run.problem for run in load_runs(out)}
    before = {cell.key for cell in plan(load_study(folder / "study.toml"))}
    (folder / "houses.csv").write_text(HOUSES + "1,50,50\n")
    after = {cell.key for cell in plan(load_study(folder / "study.toml"))}
    assert len(before & after) == len(before) // 2  # the other problem's
    other = tmp_path / "other"
    other.mkdir()
    (other / "houses.csv").write_text(HOUSES)
    assert {cell.key for cell in plan(load_study(folder / "study.toml"), other)} == before  # --data goes first


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        (HOUSES, "cost", "the target must be one column of rooms, price, age, got 'cost'"),
        (HOUSES, "", "the target must be one column of rooms, price, age, got none"),
        (
            HOUSES.replace("200", "cheap"),
            "price",
            r"row 3, column 'price' must be a number, got 'cheap'. Write classes",
        ),
        (HOUSES.replace("4,200,10", "4,200"), "price", "row 3 must have 3 entries like the header, got 2"),
        (HOUSES.replace("200", "nan"), "price", "target must be finite, got NaN or infinity in sample 2"),
        (HOUSES.replace("4,200", "inf,200"), "price", "features must be finite, got NaN or infinity in sample 2"),
        ("", "price", "must be a CSV file"),
        ("rooms,price\n", "price", r"features must be \(samples, p\)"),
        ("price\n3\n4\n", "price", r"features must be \(samples, p\)"),
        (b"\xff\xfe\x00", "price", "must be a CSV file"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: str | bytes, target: str, message: str) -> None:
    file = tmp_path / "houses.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=message):
        datasets.load_data(f"houses.csv:{target}", tmp_path)


def test_what_is_no_archive(folder: Path) -> None:
    with pytest.raises(ValueError, match="the target must be one array of X, price, got 'y'"):
        datasets.load_data("houses.npz:y", folder)
    np.savez(folder / "three.npz", X=FEATURES, Z=FEATURES, y=PRICES)
    with pytest.raises(ValueError, match="must have one array of features beside 'y', got X, Z"):
        datasets.load_data("three.npz:y", folder)
    np.savez(folder / "objects.npz", X=np.array([{}]), y=PRICES)
    with pytest.raises(ValueError, match="must be an NPZ file of arrays of numbers"):
        datasets.load_data("objects.npz:y", folder)
    (folder / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="must be an NPZ file of arrays of numbers"):
        datasets.load_data("text.npz:y", folder)
    with pytest.raises(ValueError, match=r"there is no file .*none.csv"):
        datasets.load_data("none.csv:y", folder)
    with pytest.raises(ValueError, match=r"the target must be one column of .*got none"):
        datasets.load_data("houses.csv", folder)
