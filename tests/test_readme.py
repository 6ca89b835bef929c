"""The README does what it says: its Python runs, its commands work, in the order in which a reader meets them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxmom.cli import main

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
FEWER = {"points = 16 ": "points = 3 ", "--trials 20": "--trials 2"}  # the same runs, but not as many


def test_the_readme_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands: list[str] = []
    for many in FEWER:
        assert sum(many in text for _, text in BLOCKS) == 1, many
    for language, text in BLOCKS:  # files first: a reader writes them all before trying the commands below them
        named = re.match(r"# (\w+\.\w+)\n", text)
        for many, few in FEWER.items():
            text = text.replace(many, few)
        if named:
            (tmp_path / named[1]).write_text(text)
        elif language == "python":
            exec(compile(text, str(README), "exec"), {})
        elif language == "console":
            commands += [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("proxmom")]
    assert len(commands) >= 3
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"


def test_the_example_rule_is_short() -> None:
    rule = next(text for _, text in BLOCKS if text.startswith("# my_rules.py"))
    body: Any = [line for line in rule.split("class ")[1].splitlines() if line.strip()]
    assert len(body) <= 10


def test_links_to_files_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text())
    assert links
    for link in links:
        assert (README.parent / link).exists(), link
