"""The table of metrics: who is in it, what they keep, and how figures are shown."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from proxmom.bench import Plan, measure, render, sets
from proxmom.bench.devices import Cpu
from proxmom.bench.metrics import contenders, steps, vector
from proxmom.bench.metrics.contenders import VECTOR, Contender
from proxmom.cli import main
from proxmom.metrics import METRICS, Adam, Shampoo

SHAPES = [(40, 30), (50,), (7, 11)]
N = sets.count(SHAPES)
NORMS = {"LInf", "Spectral"}  # of which nothing is kept but memory: AMSign is in the other tables
FILE = Path(__file__).parents[2] / "docs" / "benchmarks" / "metrics.json"


def bench(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sets.METRIC_SETS:
        monkeypatch.setitem(sets.METRIC_SETS, name, lambda: [(5, 3), (4,)])
    monkeypatch.setattr("proxmom.bench.run.vector.Cell", partial(vector.Cell, size=200))
    monkeypatch.setattr(Cpu, "peak", lambda self, task: task() or task() or 0)  # the gauge has tests of its own
    monkeypatch.setattr("gc.collect", lambda: 0)  # half of the time, among all that tests keep


def runner(contender: Contender) -> steps.Runner:
    return steps.Runner(lambda params: steps.proximal(params, contender), SHAPES, Cpu())


def test_the_block() -> None:
    assert (len(sets.block()), sets.count(sets.block())) == (12, 789_760)  # as torch.nn.TransformerEncoderLayer(256, 4)
    torchs = torch.nn.TransformerEncoderLayer(256, 4, dim_feedforward=1024).parameters()
    assert sorted(tuple(p.shape) for p in torchs) == sorted(sets.block())
    assert set(sets.METRIC_SETS) == {"block", "many-small"}
    assert "block" not in Plan().chosen  # the other tables take no longer


@dataclass(frozen=True)
class Twice(Adam):
    """A metric that was added."""

    every: int = 3


def test_every_metric_has_a_row(tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(METRICS, "Twice", Twice)
    file = tmp_path / "metrics.json"
    result = bench("--metrics", "--threads", 1, "--rounds", 2, "--json", file)
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text())
    assert (figures["torch"], figures["numpy"]) == ([], {})  # nothing else was measured
    cells = figures["metrics"]
    assert [(cell["library"], cell["set"]) for cell in cells] == [
        ("torch", "block"),
        ("torch", "many-small"),
        ("NumPy", VECTOR),
    ]
    for cell in cells:
        rows = {row["label"]: row for row in cell["rows"]}
        assert {row["metric"] for row in rows.values()} - {None} == set(METRICS) - NORMS
        assert {"Twice()", "SOAP()", "Shampoo()", "Shampoo(every=1)", "QuasiNewton(pairs=10)"} <= set(rows)
        for label, row in rows.items():
            if row["reason"] is None:
                cycle = {"Twice()": 3}.get(
                    label, 10 if row["metric"] in ("Shampoo", "SOAP") and "=1" not in label else 1
                )
                alike = row["metric"] == "SOAP" and cell["set"] != "block"
                assert [len(turn) for turn in row["seconds"]] == 2 * [1 if alike else cycle], label
                assert min(map(min, row["seconds"])) > 0
        left_out = {label for label, row in rows.items() if row["reason"] is not None}
        assert left_out == (set() if cell["set"] == "block" else {"Shampoo()", "Shampoo(every=1)"})
    assert bench("--from", file).output == bench("--metrics", "--from", file).output == result.output
    tables = [line for line in bench("--from", file, "--markdown").output.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {8}


def test_the_committed_figures_have_every_metric() -> None:
    for cell in json.loads(FILE.read_text())["metrics"]:
        assert {row["label"] for row in cell["rows"]} == {
            *({steps.UNIT} if cell["library"] == "torch" else ()),
            *(one.label for one in contenders.contenders(cell["set"])),
        }
        assert {row["metric"] for row in cell["rows"]} - {None} == set(METRICS) - NORMS


@pytest.mark.parametrize(
    ("contender", "tensors"),
    [
        (Contender("Euclidean"), 1),
        (Contender("Adam"), 2),
        (Contender("AdaGrad"), 2),
        (Contender("QuasiNewton", {"pairs": 2}), 2 * 2 + 3),  # memory, where the last step started, its gradient
        (Contender("QuasiNewton", {"pairs": 5}), 2 * 5 + 3),
        (Contender("Shampoo"), 2 + 2 * (40**2 + 30**2 + 50**2 + 7**2 + 11**2) / N),  # a vector's factor is full
        (Contender("SOAP"), 3 + 2 * (40**2 + 30**2 + 7**2 + 11**2) / N),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_tensors_of_state(contender: Contender, tensors: float) -> None:
    one = runner(contender)
    one.turn(3)
    scalars = len(SHAPES) * 10 * 8  # at most ten 0-dim tensors for each parameter
    assert 4 * N * tensors < one.state_bytes() <= 4 * N * tensors + scalars


def test_torchs_own_optimizer_counts_in_the_same_way() -> None:
    one = steps.Runner(lambda params: torch.optim.AdamW(params, lr=0.1, fused=True), SHAPES, Cpu())
    one.turn(1)
    assert one.state_bytes() == 4 * (2 * N + len(SHAPES))  # two averages, and a count for each


@pytest.mark.parametrize(
    ("contender", "tensors"),
    [(Contender("Euclidean"), 4), (Contender("Adam"), 6), (Contender("QuasiNewton", {"pairs": 10}), 28)],
)
def test_vectors_of_state_in_numpy(contender: Contender, tensors: int) -> None:
    """Besides memory it keeps the gradient, the last move and where it started; Adam v and its diagonal."""
    figures = vector.Runner(contender, 50_000).figures
    assert figures["state_bytes"] / (8 * 50_000) == pytest.approx(tensors, abs=0.1)


def test_a_refresh_is_seen_by_the_gauge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the parity of the step at which it falls."""
    for every in (2, 3, 10):
        for first in range(every):
            one, count, seen = runner(Contender("Euclidean")), [first], []

            def step(count: list[int] = count) -> None:
                count[0] += 1

            def peak(self: Any, task: Any, count: list[int] = count, seen: list[int] = seen) -> int:
                task()
                task()
                seen.append(count[0])
                return count[0]

            monkeypatch.setattr(one, "_step", step)
            monkeypatch.setattr(Cpu, "peak", peak)
            assert one._most(every) == max(seen)
            assert {number % every for number in seen} == set(range(every))


def test_extra_memory_of_steps() -> None:
    """Kernels allocate nothing; an operator holds its new factors until the step is taken."""
    figures = [runner(Contender(name)).figures(1) for name in ("Euclidean", "Shampoo")]
    assert figures[0]["extra_bytes"] < 4 * N
    assert figures[1]["extra_bytes"] > figures[1]["state_bytes"] - 4 * 2 * N


def test_every_step_has_a_new_gradient() -> None:
    one = runner(Contender("Euclidean"))
    seen = []
    for _ in range(3):
        before = one._params[0].detach().clone()
        one.step()
        noise = one._params[0].grad - before  # type: ignore[operator]
        assert abs(float((noise * before).mean() / before.square().mean())) < 0.1  # the rest is x
        seen.append(one._params[0].grad.clone())  # type: ignore[union-attr]
    assert all(0.01 < float((a - b).std()) < 0.02 for a, b in pairwise(seen))


def test_pairs_of_curvature_are_kept() -> None:
    """Else the time of a step would be that of the identity."""
    one = runner(Contender("QuasiNewton", {"pairs": 3}))
    one.turn(20)
    assert all(float(state["pairs"]) >= 3 for state in one.optimizer.state.values())


def test_reasons_say_what_a_vector_costs() -> None:
    states = Shampoo().start(torch.empty(1000, device="meta")).values()
    kept = sum(value.numel() for value in states if isinstance(value, torch.Tensor)) / 1000 + 2
    reasons = next(one.left_out for one in contenders.contenders(VECTOR) if one.label == "Shampoo()")
    assert f"{kept:.0f} tensors of state" in reasons["many-small"]
    assert f"{kept * 4 * 2_000_000 / 1e9:.0f} GB" in reasons["many-small"]
    sides = [len(part) for part in np.array_split(np.arange(vector.SIZE), -(-vector.SIZE // Shampoo().largest_side))]
    numbers = 2 * sum(side**2 for side in sides)
    assert 2040 < numbers / vector.SIZE + 7 < 2060
    assert f"{8 * numbers / 1e9:.1f} GB" in reasons[VECTOR]


def test_one_metric_that_fails_leaves_the_others(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Adam):
        def update(self, state: Any, gradient: Any) -> Any:
            raise RuntimeError("nothing works.\nMore.")

    monkeypatch.setitem(METRICS, "Broken", Broken)
    *_, figures = measure(Plan(metrics=True, rounds=1, threads=(1,)))
    for cell in figures["metrics"]:
        reasons = {row["label"]: row["reason"] for row in cell["rows"]}
        assert reasons["Broken()"] == "RuntimeError: nothing works."
        assert reasons["Euclidean()"] is None
    assert "not available: RuntimeError: nothing works." in render(figures)


def test_steps_that_do_not_move_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    one = runner(Contender("Euclidean"))
    monkeypatch.setattr(one, "_step", lambda: None)
    with pytest.raises(RuntimeError, match="did not move"):
        one.figures(1)


def test_figures_of_the_table() -> None:
    def row(label: str, seconds: list[list[float]], **more: Any) -> dict[str, Any]:
        sizes = {"state_bytes": 8000, "extra_bytes": 2000}
        return {"label": label, "reason": None, "path": "whole tensors", "seconds": seconds, **sizes, **more}

    cell = {
        **{"library": "torch", "set": "toy", "device": "cpu", "threads": 1, "tensors": 1, "parameters": 1000},
        **{"bytes": 4000, "unit": "U"},
        "rows": [
            row("U", [[1e-3]] * 3, path="fused"),
            row("ours", [[1e-3, 9e-3, 2e-3], [1e-3, 2e-3, 6e-3], [1e-3, 1e-3, 7e-3]], state_bytes=12_000),
            {"label": "none", "reason": "too large."},
        ],
    }
    where = dict.fromkeys(("commit", "dirty", "python", "numpy", "torch", "triton", "kernels", "processor", "cores"))
    page = render(
        {"torch": [], "metrics": [cell], "numpy": {}, "notes": [], "provenance": {**where, "proxmom": "0", "date": ""}}
    )
    lines = {line.split()[0]: re.split(r"\s{2,}", line) for line in page.splitlines() if line}
    assert "toy (1 tensor, 1k parameters), metrics in torch, rule AdaptiveMemory; cpu, threads 1, rounds 3" in page
    assert lines["ours"] == ["ours", "3.00", "0.50", "3.00", "7.00", "3.00 [3.00, 4.00]", "whole tensors"]
    assert lines["U"] == ["U", "2.00", "0.50", "1.00", "1", "fused"]
    assert lines["none"] == ["none", "not available: too large."]
    assert "the mean over a" in page


@pytest.mark.parametrize("other", [("--set", "gpt2"), ("--only", "numpy"), ("--compile",)])
def test_metrics_go_with_no_other_choice(other: tuple[str, ...]) -> None:
    result = bench("--metrics", *other)
    assert result.exit_code == 1
    assert "metrics are measured on sets of their own" in result.output
