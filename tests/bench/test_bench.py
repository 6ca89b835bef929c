"""The benchmark: its numbers on made-up times, its gauge on known optimizers, and small runs from end to end."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from proxmom.bench import Plan, devices, measure, rounds, sets
from proxmom.bench.contenders import FAMILIES, Contender
from proxmom.bench.page import render
from proxmom.bench.ratios import ratio
from proxmom.bench.words import beside
from proxmom.cli import main

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
BROKEN = (
    Contender("SGD", 8, {"nothing": 1}, {"lr": 0.1}),  # no such keyword
    Contender("SGD", 8, {}, {"lr": 0.0}),  # does not move
    Contender("Nobody", 8),
)


def bench(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sets.SETS:
        monkeypatch.setitem(sets.SETS, name, lambda: [(20, 3), (7,), (1,)])
    monkeypatch.setattr("proxmom.bench.devices.Cpu.triad", 1000)


def test_ratio_of_paired_rounds() -> None:
    peer = np.random.default_rng(0).lognormal(size=15).tolist()
    twice = ratio([2 * time for time in peer], peer)
    assert (twice.value, twice.low, twice.high) == (2, 2, 2)  # a slow round slows both
    apart = ratio([1.0, 2.0, 3.0, 4.0, 5.0], [2.0] * 5)
    assert apart.value == 1.5
    assert 0.5 <= apart.low < 1.5 < apart.high <= 2.5
    assert ratio([1.0, 2.0, 4.0], [1.0] * 3) == ratio([1.0, 2.0, 4.0], [1.0] * 3)
    assert beside([1.0, 2.0], [1.0, 1.0]) == "1.50"  # two rounds make no interval


def test_intervals_hold_what_they_promise() -> None:
    random = np.random.default_rng(0)
    found = [ratio(*np.exp(0.2 * random.normal(size=(2, 25))) * [[1.5], [1.0]]) for _ in range(200)]
    covered = np.mean([one.low <= 1.5 <= one.high for one in found])
    assert 0.9 <= covered <= 0.995


def test_ratio_refuses_rounds_that_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="same rounds, got 2 and 1"):
        ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="got 0 and 0"):
        ratio([], [])


def test_everybody_steps_once_in_a_round_in_random_order() -> None:
    calls: list[str] = []
    tasks = {name: lambda name=name: calls.append(name) or float(len(calls)) for name in "abc"}  # type: ignore[misc]
    times = rounds.take_turns(tasks, rounds=20, seed=1)
    turns = ["".join(calls[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len(set(turns)) > 3
    assert sorted(time for one in times.values() for time in one) == list(range(1, 61))


def test_number_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"a": lambda: 0.0}
    assert len(rounds.take_turns(task)["a"]) == rounds.MOST
    monkeypatch.setattr(rounds, "SECONDS", 0.0)
    assert len(rounds.take_turns(task)["a"]) == rounds.LEAST
    assert len(rounds.take_turns(task, rounds=3)["a"]) == 3


@pytest.mark.parametrize(
    ("shapes", "tensors", "parameters"),
    [  # ResNet-18 as torchvision counts it, GPT-2 small and Llama 3.2 1B as Transformers does
        (sets.resnet18, 62, 11_689_512),
        (sets.gpt2, 148, 124_439_808),
        (sets.llama1b, 146, 1_235_814_400),
        (sets.many_small, 2000, 2_000_000),
        (sets.one_large, 1, 32_000_000),
    ],
)
def test_sets(shapes: Any, tensors: int, parameters: int) -> None:
    assert (len(shapes()), sets.count(shapes())) == (tensors, parameters)


def test_accesses() -> None:
    ours = [c for family in FAMILIES for c in family.contenders(compiled=True)]
    assert {(c.label, c.accesses) for c in ours if "True" in c.label} == {
        ("SGD(fused=True)", 5),
        ("SGD(foreach=True)", 8),
        ("AMSGD(foreach=True)", 7),
        ("compile(SGD(foreach=True))", 5),
        ("compile(AMSGD(foreach=True))", 7),
        ("AdamW(fused=True)", 7),
        ("AdamW(foreach=True)", 20),
        ("AMAdamW(foreach=True)", 11),
        ("compile(AdamW(foreach=True))", 7),
        ("compile(AMAdamW(foreach=True))", 11),
    }
    assert {c.accesses for c in ours if c.optimizer == "AMSGD"} == {7}
    assert {c.accesses for c in ours if c.optimizer == "AMSign"} == {9}
    assert {c.accesses for c in ours if c.optimizer == "AMAdamW"} == {11}


N = 50_000  # numbers in a toy's parameters


class Toy(torch.optim.SGD):
    """SGD that wastes memory in a known way."""

    def __init__(self, params: Any, waste: str) -> None:
        super().__init__(params, lr=0.1)
        self.waste, self.kept = waste, None

    def step(self, closure: Any = None) -> None:
        p = self.param_groups[0]["params"][0]
        if self.waste == "at once":
            torch.empty(3 * N, device=p.device)
        elif self.waste == "one after another":
            for _ in range(3):
                torch.empty(3 * N, device=p.device)
        elif self.waste == "together":
            _ = [torch.empty_like(p) for _ in range(3)]
        elif self.waste == "new state":
            self.kept = torch.empty_like(p)
        elif self.waste == "new state, the old one freed before":
            self.kept = None
            self.kept = torch.empty_like(p)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("waste", "times"),
    [
        ("nothing", 0),
        ("at once", 3),
        ("one after another", 3),
        ("together", 3),
        ("new state", 1),
        ("new state, the old one freed before", 0),
    ],
)
def test_extra_memory_of_known_optimizers(device: str, waste: str, times: int) -> None:
    p = torch.zeros(N, device=device, requires_grad=True)
    p.grad = torch.ones_like(p)
    toy = Toy([p], waste)
    toy.step()
    assert devices.find_device(device).peak(toy.step) == pytest.approx(times * 4 * N, abs=1024)  # CUDA rounds up


def test_extra_memory_inside_a_foreach_operation() -> None:
    p = torch.zeros(N, requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = torch.optim.AdamW([p], foreach=True)
    optimizer.step()
    assert devices.Cpu().peak(optimizer.step) == pytest.approx(4 * N, abs=64)  # the square root of v


def test_memory_gauge_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    devices.Cpu().peak(lambda: torch.empty(10))
    assert capfd.readouterr() == ("", "")


def test_every_contender_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    families = [replace(family, others=(*family.others, *BROKEN)) for family in FAMILIES]
    monkeypatch.setattr("proxmom.bench.steps.FAMILIES", families)
    result = bench("--only", "torch", "--set", "gpt2", "--threads", 1, "--rounds", 3, "--json", tmp_path / "b.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "b.json").read_text())
    assert [cell["family"] for cell in figures["torch"]] == ["SGD", "AdamW"]
    for cell in figures["torch"]:
        family = next(one for one in families if one.name == cell["family"])
        rows = {row["label"]: row for row in cell["contenders"]}
        assert list(rows) == [one.label for one in family.contenders(compiled=False)]
        measured = [row for row in rows.values() if row["reason"] is None]
        assert all(len(row["seconds"]) == 3 and min(row["seconds"]) > 0 for row in measured)
        assert {family.fused.label, family.foreach.label} <= {row["label"] for row in measured}
        assert "'nothing'" in rows["SGD(nothing=1)"]["reason"]
        assert rows["SGD()"]["reason"] == "RuntimeError: two steps did not move the parameters."
        assert all(label in result.output for label in rows)
    assert "SGD(nothing=1)" in result.output
    assert "not available: AttributeError" in result.output


def test_numbers_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr("proxmom.bench.steps._race", lambda *_: seen.append(torch.get_num_threads()) or [])
    plan = Plan(sets=("resnet18", "gpt2"), threads=(before, before + 1), only="torch")
    *_, figures = measure(plan)
    assert seen == [cell["threads"] for cell in figures["torch"]] == 4 * [before] + 4 * [before + 1]
    assert torch.get_num_threads() == before
    assert [cell["set"] for cell in figures["torch"]] == 2 * ["resnet18", "resnet18", "gpt2", "gpt2"]


def test_a_file_shows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxmom.bench.steps.FAMILIES", [replace(each, others=each.others[1:2]) for each in FAMILIES])
    file = tmp_path / "bench.json"
    measured = bench("--set", "gpt2", "--set", "gpt2", "--rounds", 2, "--json", file)
    assert measured.exit_code == 0, measured.output
    assert bench("--from", file).output == measured.output
    assert measured.output.count("gpt2 (3 tensors, 68 parameters)") == 2  # families
    lines = bench("--from", file, "--markdown").output.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.count("|") in (3, 8) for line in tables)
    assert any(line.startswith("| AMSGD() |") for line in tables)
    found = json.loads(file.read_text())["provenance"]
    assert found["torch"] == torch.__version__
    assert {"commit", "dirty", "processor", "cores", "kernels", "date"} <= set(found)


def test_figures_of_the_table() -> None:
    def row(label: str, accesses: int, seconds: list[float]) -> dict[str, Any]:
        return {"label": label, "accesses": accesses, "reason": None, "extra_bytes": 2000, "seconds": seconds}

    cell = {
        **{"set": "toy", "family": "SGD", "title": "", "device": "cpu", "threads": 1, "tensors": 1},
        **{"parameters": 1000, "bytes": 4000, "triad": {"bytes": 40_000, "seconds": [1e-6, 2e-6, 3e-6]}},  # 20 GB/s
        **{"fused": "F", "foreach": "E"},
        "contenders": [row("F", 5, [2e-6] * 3), row("E", 8, [4e-6] * 3), row("ours", 7, [3e-6] * 3)],
    }
    where = dict.fromkeys(("commit", "dirty", "python", "numpy", "torch", "triton", "kernels", "processor", "cores"))
    provenance = {**where, "proxmom": "0", "date": ""}
    page = render({"torch": [cell], "numpy": {}, "notes": [], "provenance": provenance})
    lines = {line.split()[0]: line.split() for line in page.splitlines() if line}
    assert "triad 20 GB/s" in page
    assert lines["ours"] == [
        "ours",
        "0.00300",
        "1.50",
        "[1.50,",
        "1.50]",
        "0.75",
        "[0.75,",
        "0.75]",
        "3.00",
        "9.33",
        "0.50",
    ]
    assert lines["F"] == ["F", "0.00200", "1", "0.50", "[0.50,", "0.50]", "2.00", "10.0", "0.50"]


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"format": 0}'])
def test_a_file_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    result = bench("--from", tmp_path / "x.json")
    assert result.exit_code == 1
    assert "must be a file that proxmom bench --json wrote" in result.output


def test_a_set_that_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxmom.bench.devices.Cpu.free", lambda self: 1000)
    result = bench("--only", "torch", "--set", "llama1b")
    assert result.exit_code == 0, result.output
    assert result.output.count("not available: needs") == sum(len(f.contenders(compiled=False)) for f in FAMILIES)


WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class NoTorch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
if sys.argv[1] == "import":
    import proxmom.torch
from proxmom.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("only", [[], ["--only", "torch"]], ids=["all", "only torch"])
def test_without_torch(only: list[str]) -> None:
    """In a process of its own: other packages remember whether torch was there."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "bench", "--rounds", "1", *only]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "pip install 'proxmom[torch]'" in run.stdout + run.stderr
    assert run.returncode == bool(only)
    assert ("solve 1000 models of 4 planes" in run.stdout) == (not only)


def test_the_torch_backend_says_what_it_needs() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "import"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "proxmom.torch needs the torch extra: pip install 'proxmom[torch]'" in run.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device() -> None:
    result = bench("--device", "cuda")
    assert result.exit_code == 1
    assert "torch sees no CUDA device" in result.output


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_on_a_cuda_device() -> None:
    result = bench("--device", "cuda", "--only", "torch", "--rounds", 2)
    assert result.exit_code == 0, result.output
    assert torch.cuda.get_device_name() in result.output


def test_progress_needs_no_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    from proxmom.bench.progress import watched

    assert list(watched([1, 2], str)) == [1, 2]
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(watched([1, 2], str)) == [1, 2]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("torch._inductor"), reason="no compiler")
def test_compiled_steps(tmp_path: Path) -> None:
    result = bench("--only", "torch", "--set", "gpt2", "--compile", "--rounds", 2, "--json", tmp_path / "b.json")
    assert result.exit_code == 0, result.output
    rows = [row for cell in json.loads((tmp_path / "b.json").read_text())["torch"] for row in cell["contenders"]]
    compiled = {row["label"]: row["reason"] for row in rows if "compile" in row["label"]}
    assert compiled["compile(SGD(foreach=True))"] is None
    assert compiled["compile(AdamW(foreach=True))"] is None
