"""Pages that are made by commands from committed figures show those figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxmom.cli import main

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
pytest.importorskip("torch")


@pytest.mark.parametrize("figures", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_benchmark_tables_are_those_of_their_figures(figures: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "--from", str(figures), "--markdown"])
    assert result.exit_code == 0, result.output
    assert figures.with_suffix(".md").read_text() == result.output


@pytest.mark.parametrize("page", sorted(FOLDER.parent.glob("*.md")), ids=lambda path: path.name)
def test_python_in_the_pages_runs(page: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    for text in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(compile(text, str(page), "exec"), names)


def test_pages_name_files_that_exist() -> None:
    links = [link for page in FOLDER.parent.glob("*.md") for link in re.findall(r"\{include\} (\S+)", page.read_text())]
    assert links
    for link in links:
        assert (FOLDER.parent / link).exists(), link
