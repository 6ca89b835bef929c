"""The command line, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from proxmom import __version__
from proxmom.cli import main
from proxmom.rules import RULES

STUDY = """
[study]
name = "tiny"
claim = "None."
points = 2
max_evaluations = 40
target = 1e-3
reference = "heavy ball"

[[problem]]
kind = "quadratic"
condition = 10
n = 5

[[method]]
name = "heavy ball"
rule = "HeavyBall"
search = {lr = {low = 0.5, high = 2.0, scale = "log"}}
"""


def proxmom(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_says_what_each_command_does() -> None:
    text = proxmom("--help").output
    assert "..." not in text.partition("Commands:")[2]  # no summary is cut off
    for name in ("rules", "verify", "same", "run", "report", "draw", "bench"):
        assert name in text
        assert len(proxmom(name, "--help").output) > 100
    assert __version__ in proxmom("--version").output
    module = subprocess.run([sys.executable, "-m", "proxmom", "--version"], capture_output=True, text=True)
    assert __version__ in module.stdout


def test_every_option_has_a_help_text() -> None:
    for command in main.commands.values():
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{command.name} {option.name}"


def test_rules_are_listed_one_line_each() -> None:
    lines = proxmom("rules").output.splitlines()
    assert [line.split()[0] for line in lines] == list(RULES)
    assert all(len(line.split()) > 4 for line in lines)


def test_verify_prints_a_table_and_judges() -> None:
    result = proxmom("verify", "AdaptiveMemory", "MoMo", "--trials", 3, "--metric", "Euclidean", "--inertia", 0.1)
    assert result.exit_code == 0, result.output
    assert "AdaptiveMemory(beta_max=0.9" in result.output
    assert "refused, as it must be" in result.output
    assert "12 steps compared, seed 0" in result.output


def test_verify_in_two_processes_says_the_same() -> None:
    arguments = ("verify", "Polyak", "--trials", 4, "--inertia", 0)
    assert proxmom(*arguments, "--jobs", 2).output == proxmom(*arguments).output


def test_verify_fails_where_a_step_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxmom.verify.cases.ERROR", 1e-300)
    result = proxmom("verify", "HeavyBall", "--trials", 2)
    assert result.exit_code == 1
    assert "FAILED" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "Momentum"), "rule must be one of GradientDescent"),
        (("verify", "HeavyBall", "--metric", "Taxi"), "metric must be one of Euclidean, Adam"),
        (("verify", "HeavyBall", "--weight-decay", 0.1, "--decay", "odd"), "decay must be one of"),
        (("verify", "HeavyBall", "--weight-decay", -0.1), "weight_decay must be >= 0"),
        (("verify", "HeavyBall", "--inertia", -0.1), "inertia must be >= 0"),
        (("verify", "HeavyBall", "--trials", 0), "0 is not in the range"),
        (("run", "missing.toml"), "missing.toml"),
        (("report", "missing"), "missing"),
        (("draw", "HeavyBall", "--on", "sphere"), "rosenbrock, himmelblau, model, or an import path"),
        (("draw", "Polyak"), "lower_bound"),
        (("draw", "HeavyBall", "--lr", -1, "--out", "x.png"), "lr must be > 0"),
        (("draw", "HeavyBall", "--out", "x.doc"), ".png"),
        (("bench", "--set", "vgg"), "set must be one of resnet18, gpt2, many-small, one-large, llama1b, got 'vgg'"),
        (("bench", "--device", "tpu"), "device must be one of cpu, cuda, got 'tpu'"),
        (("bench", "--only", "jax"), "only must be one of torch, numpy, got 'jax'"),
        (("bench", "--threads", 0), "threads must be >= 1, got 0"),
        (("bench", "--rounds", -1), "rounds must be >= 1, got -1"),
        (("bench", "--device", "cuda", "--threads", 2), "threads are of the cpu"),
        (("bench", "--from", "missing.json"), "missing.json"),
        (("bench", "--from", "any.json", "--set", "gpt2"), "--from measures nothing"),
        (("bench", "--only", "numpy", "--json", "missing/bench.json"), "missing/bench.json"),
        (
            ("conformance", "AMSGD", "--json", "missing/out.json"),
            "must be in a folder that exists, got missing/out.json",
        ),
        (
            ("report", ".", "--csv", "no/runs.csv"),
            "'--csv': must be in a folder that exists, got no/runs.csv: make the folder first.",
        ),
        (("speedrun", ".", "--picture", "no/speed.png"), "'--picture': must be in a folder that exists"),
    ],
)
def test_errors_are_one_line(arguments: tuple[Any, ...], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = proxmom(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())  # nothing was written


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    result = proxmom("verify", "HeavyBall")
    assert result.exit_code == 1
    assert "needs the verify extra: pip install 'proxmom[verify]'" in result.output
    monkeypatch.setitem(sys.modules, "joblib", None)
    for module in ("runner", "engines"):
        monkeypatch.delitem(sys.modules, f"proxmom.study.run.{module}", raising=False)
    result = proxmom("run", "any.toml")
    assert "needs the study extra: pip install 'proxmom[study]'" in result.output


def test_run_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(STUDY)
    result = proxmom("run", "tiny.toml", "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "report: results/tiny/report.html"
    again = proxmom("report", "results/tiny", "--out", "again.html")
    assert "heavy ball" in again.output
    assert Path("again.html").read_text().lower().startswith("<!doctype html>")


def test_ctrl_c_exits_as_shells_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("proxmom.study.run.runner.run_study", interrupted)
    assert proxmom("run", "any.toml").exit_code == 130


def test_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert proxmom("draw", "HeavyBall", "--steps", 5).output == "heavyball-rosenbrock.png\n"
    assert Path("heavyball-rosenbrock.png").stat().st_size > 1000
    assert proxmom("draw", "TruncatedMemory(0.0)", "--on", "model", "--out", "model.svg").output == "model.svg\n"
    assert "<svg" in Path("model.svg").read_text()
    Path("own.py").write_text("def bowl(x):\n    return float(x @ x), 2 * x\n")
    two = ("draw", "HeavyBall", "GradientDescent", "--on", "own.py:bowl", "--lr", 0.1, "--start", 1, 2, "--start", 0, 3)
    assert proxmom(*two, "--steps", 3, "--no-title", "--no-caption").output == "heavyball-bowl.png\n"
    refused = proxmom("draw", "HeavyBall", "--on", "model", "--start", 1, 2).output
    assert "--start and --view go with functions of two variables: leave them out with --on model." in refused


def test_bench(tmp_path: Path) -> None:
    result = proxmom("bench", "--only", "numpy", "--rounds", 2, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert all(len(times) == 2 and min(times) > 0 for times in figures["numpy"].values())
    assert "solve 1000 models of 4 planes" in result.output
