"""Time and memory of a whole training step (batch, gradient, optimizer) for every optimizer, beside torch's own.

python experiments/overhead/overhead.py --json experiments/overhead/cpu.json        measure, on an idle machine: minutes
python experiments/overhead/overhead.py --from experiments/overhead/cpu.json        the tables again
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from tqdm import tqdm

from proxmom.bench.devices import find_device
from proxmom.bench.ratios import ratio
from proxmom.bench.rounds import take_turns
from proxmom.study.record.provenance import provenance
from proxmom.study.training import build_task
from proxmom.study.training.optimizers import take_step
from proxmom.torch import AMSGD, AMAdamW, MoMo, MoMoAdam, TruncatedMemorySGD

WARM = 3  # steps before the clock starts: state is created, the layout of memory arranged
STEPS = 5  # timed together: one step of a small network is too short for the clock
SGD, ADAMW = "SGD(momentum=0.9)", "AdamW"  # everybody is compared with torch's own of the same family

FAMILIES: dict[str, dict[str, Callable[[Any], torch.optim.Optimizer]]] = {
    SGD: {
        SGD: lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
        "SGD(momentum=0.9, fused=True)": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, fused=True),
        "AMSGD": lambda p: AMSGD(p, 1e-3),
        "AMSGD(scope='tensor')": lambda p: AMSGD(p, 1e-3, scope="tensor"),
        "AMSGD(foreach=True)": lambda p: AMSGD(p, 1e-3, foreach=True),
        "MoMo": lambda p: MoMo(p, 1e-3, lower_bound=0.0),
        "TruncatedMemorySGD": lambda p: TruncatedMemorySGD(p, 1e-3, lower_bound=0.0),
    },
    ADAMW: {
        ADAMW: lambda p: torch.optim.AdamW(p, 1e-4),
        "AdamW(fused=True)": lambda p: torch.optim.AdamW(p, 1e-4, fused=True),
        "AMAdamW": lambda p: AMAdamW(p, 1e-4),
        "AMAdamW(scope='model')": lambda p: AMAdamW(p, 1e-4, scope="model"),
        "AMAdamW(foreach=True)": lambda p: AMAdamW(p, 1e-4, foreach=True),
        "MoMoAdam": lambda p: MoMoAdam(p, 1e-4, lower_bound=0.0),
    },
}

Arguments = Mapping[str, Any]
TIERS: dict[str, dict[str, tuple[str, Arguments]]] = {
    "smoke": {"MLP 8-8, digits": ("mlp", {"data": "digits", "hidden": 8, "batch": 8})},
    "small": {
        "MLP 64-64, digits, batch 64": ("mlp", {"data": "digits"}),
        "CNN, digits, batch 64": ("cnn", {"data": "digits"}),
        "GPT 0.1M, stdlib, batch 16": ("language", {"data": "stdlib"}),
        "GPT 3M, stdlib, batch 4": ("language", {"data": "stdlib", "layers": 4, "width": 256, "batch": 4}),
    },
    "full": {
        "GPT 25M, stdlib, batch 16": ("language", {"data": "stdlib", "preset": "25M"}),
        "GPT 85M, stdlib, batch 8": ("language", {"data": "stdlib", "preset": "85M", "batch": 8}),
    },
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--tier", default="small", type=click.Choice(list(TIERS)), help="Which tasks; full is for a GPU.")
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]))
@click.option("--threads", default=2, type=click.IntRange(min=1), help="Of torch, on the CPU.")
@click.option("--rounds", type=click.IntRange(min=1), help="Timed; without it 7 to 60, within about 20 seconds a row.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Also write raw figures there.")
@click.option("--from", "source", type=click.Path(exists=True, path_type=Path), help="Only show a file of --json.")
def main(tier: str, device: str, threads: int, rounds: int | None, file: Path | None, source: Path | None) -> None:
    """Time and memory of a training step for every optimizer, beside torch's own."""
    if source is not None:
        figures = json.loads(source.read_text())
    else:
        torch.set_num_threads(threads)
        figures = {"device": find_device(device).name, "threads": threads, "provenance": provenance(), "tasks": []}
        cells = [(name, family) for name in TIERS[tier] for family in FAMILIES]
        for name, family in tqdm(cells, disable=None, leave=False, file=sys.stderr):
            figures["tasks"].append(measure(name, family, TIERS[tier][name], device, rounds))
            if file is not None:  # what is measured is not lost when the rest is interrupted
                file.write_text(json.dumps(figures) + "\n")
    for cell in figures["tasks"]:
        click.echo(table(cell) + "\n")
    origin = figures["provenance"]
    click.echo(f"{figures['device']}, {figures['threads']} threads, {origin['processor']}, commit {origin['commit']}")


def measure(name: str, family: str, task: tuple[str, Arguments], kind: str, rounds: int | None) -> dict[str, Any]:
    """Raw seconds of a step for each optimizer of a family, in turns, and the bytes of state and of the step itself."""
    device, steps, rows = find_device(kind), {}, {}
    for label, make in FAMILIES[family].items():
        trained = build_task(task[0], seed=0, device=kind, **task[1])
        parameters = list(trained.parameters.values())
        steps[label] = stepper(trained, make(parameters))
        for _ in range(WARM):
            steps[label](1)
        state = held(steps[label].__closure__)  # type: ignore[attr-defined]
        rows[label] = {"state": state, "peak": device.peak(lambda step=steps[label]: step(1))}
    size = sum(p.numel() * p.element_size() for p in parameters)
    gradient = build_task(task[0], seed=0, device=kind, **task[1])
    clocked = {label: lambda step=step: device.seconds(lambda: step(STEPS)) / STEPS for label, step in steps.items()}
    clocked["gradient alone"] = lambda: device.seconds(lambda: [gradient.gradient(i) for i in range(STEPS)]) / STEPS
    times = take_turns(clocked, rounds=rounds)
    found = [{"label": label, **rows.get(label, {}), "seconds": seconds} for label, seconds in times.items()]
    return {"task": name, "reference": family, "bytes": size, "rows": found}


def stepper(task: Any, optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
    """Takes so many training steps, one batch after another."""
    done = 0

    def step(count: int) -> None:
        nonlocal done
        for _ in range(count):
            take_step(optimizer, task.gradient(done))
            done += 1

    return step


def held(cells: Any) -> int:
    """Bytes of the optimizer's state, tensors that share memory counted once."""
    [optimizer] = [c.cell_contents for c in cells if isinstance(c.cell_contents, torch.optim.Optimizer)]
    tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def table(cell: Mapping[str, Any]) -> str:
    """One task and family: milliseconds, ratio to the reference with its interval, what is not the gradient, memory."""
    times = {row["label"]: row["seconds"] for row in cell["rows"]}
    alone = median(times["gradient alone"])
    width = max(map(len, times))
    head = f"{'':<{width}}  {'ms':>7}  {'ratio':>18}  {'optimizer ms':>12}  {'state':>6}  {'step':>6}"
    lines = [f"{cell['task']}, {cell['bytes'] / 4:,.0f} parameters", head, "-" * len(head)]
    for row in cell["rows"]:
        found = ratio(row["seconds"], times[cell["reference"]])
        spread = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
        cost = f"{1e3 * (median(row['seconds']) - alone):12.2f}" if row["label"] != "gradient alone" else " " * 12
        memory = [f"{row[key] / cell['bytes']:6.2f}" if key in row else " " * 6 for key in ("state", "peak")]
        time = f"{1e3 * median(row['seconds']):7.2f}"
        lines.append(f"{row['label']:<{width}}  {time}  {spread:>18}  {cost}  {memory[0]}  {memory[1]}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    main()
