"""Rules and metrics by name and by import path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxmom import Adam, AdaptiveMemory, HeavyBall, MoMo, TruncatedMemory
from proxmom.lookup import find_metric, find_rule

RULE = """
from dataclasses import dataclass
from proxmom import HeavyBall

@dataclass(frozen=True)
class Mine(HeavyBall):
    beta: float = 0.3
"""


def test_names_with_and_without_arguments() -> None:
    assert find_rule("AdaptiveMemory") == AdaptiveMemory()
    assert find_rule(" AdaptiveMemory(beta_max=0.5, height='aggregated') ") == AdaptiveMemory(0.5, "aggregated")
    assert find_rule("MoMo(lower_bound=-0.1)") == MoMo(-0.1)
    assert find_rule("TruncatedMemory(1)", beta_max=0.99) == TruncatedMemory(1, beta_max=0.99)
    assert find_metric("Adam(beta2=0.99)") == Adam(beta2=0.99)


def test_a_rule_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules.py").write_text(RULE)
    for text in (f"{tmp_path}/my_rules.py:Mine", f"{tmp_path}/my_rules.py:Mine(beta=0.3)"):
        assert find_rule(text).beta == 0.3
    assert find_rule("my_rules.py:Mine", folders=[tmp_path]) == find_rule(f"{tmp_path}/my_rules.py:Mine")
    monkeypatch.chdir(tmp_path)
    assert find_rule("my_rules.py:Mine(beta=0.2)").beta == 0.2


def test_a_rule_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_rule("proxmom.rules:HeavyBall(0.5)") == HeavyBall(0.5)
    (tmp_path / "rules_for_a_test.py").write_text(RULE)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_rule("rules_for_a_test:Mine").beta == 0.3
    del sys.modules["rules_for_a_test"]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "my_rules.py"
    file.write_text(RULE)
    assert find_rule(f"{file}:Mine").beta == 0.3
    file.write_text(RULE.replace("0.3", "0.25 + 0"))
    assert find_rule(f"{file}:Mine").beta == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Momentum", r"rule must be one of GradientDescent, .* path like my_rules\.py:MyRule, got 'Momentum'"),
        ("HeavyBall(beta)", r"with literals only, got 'HeavyBall\(beta\)'"),
        ("HeavyBall(0.5", r"with literals only, got 'HeavyBall\(0\.5'"),
        ("HeavyBall(0.5) + 1", r"must look like Name or Name\(argument=1\.0\)"),
        ("HeavyBall(**{'beta': 0.1})", r"must look like Name or Name\(argument=1\.0\)"),
        ("HeavyBall(decay=1)", r"rule 'HeavyBall\(decay=1\)' cannot be made: .*decay"),
        ("Polyak", r"rule 'Polyak' cannot be made: .*lower_bound"),
        ("AdaptiveMemory(beta=1)", r"It takes \(beta_max=0\.9, height='linearised'\)\."),
        ("rules.py", r"rule must name the class in the file too, as in rules\.py:MyRule, got 'rules\.py'"),
        ("HeavyBall(beta=2)", r"beta must be in \[0, 1\], got 2"),
        ("missing.py:Mine", r"rule: no file 'missing\.py'; looked for .*missing\.py"),
        ("missing_module:Mine", r"cannot import 'missing_module': .* For a file write its path, ending in \.py"),
        ("proxmom.rules:Heavy", r"proxmom\.rules has no 'Heavy'\. It has .*HeavyBall"),
    ],
)
def test_what_cannot_be_found(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_rule(text)


def test_a_file_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ValueError, match=r"broken\.py cannot be run: ZeroDivisionError"):
        find_rule(f"{tmp_path}/broken.py:Mine")


def test_metrics_are_told_from_rules() -> None:
    with pytest.raises(ValueError, match=r"metric must be one of Euclidean, Adam, .* got 'HeavyBall'"):
        find_metric("HeavyBall")
