"""Loading a checkpoint: what it must be, looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from proxmom.step import Step
from proxmom.torch.entries import Entries

ALGORITHM = "algorithm"  # in a state_dict, beside state and param_groups
OTHERS = {
    "exp_avg": "torch's Adam or AdamW",
    "momentum_buffer": "torch's SGD",
    "square_avg": "torch's RMSprop",
    "exp_inf": "torch's Adamax",
    "sum": "torch's Adagrad",
}


def algorithm(name: str, step: Step) -> dict[str, str]:
    """What a checkpoint says of the optimizer that it is of."""
    return {"optimizer": name, "rule": step.method.name, "metric": type(step.method.metric).__name__}


def check_algorithm(saved: Mapping[str, Any], own: Mapping[str, str], step: Step) -> None:
    """ValueError for the checkpoint of another optimizer."""
    told = saved.get(ALGORITHM)
    if isinstance(told, Mapping):
        if any(told.get(key) != own[key] for key in ("rule", "metric")):
            raise ValueError(
                f"the checkpoint is of {told.get('optimizer')} ({told.get('rule')} with {told.get('metric')}), this "
                f"optimizer is {own['optimizer']} ({own['rule']} with {own['metric']}): load it into one of its kind."
            )
        return
    names = Entries.of(step).names
    for entry in saved["state"].values():
        if isinstance(entry, Mapping) and entry and not set(names) <= set(entry):
            other = next((kind for key, kind in OTHERS.items() if key in entry), "another optimizer")
            raise ValueError(
                f"the checkpoint is of {other}, with {', '.join(map(str, entry))} for a parameter; this optimizer, "
                f"{own['optimizer']}, needs {', '.join(names)}. Start it afresh."
            )


def by_name(saved: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The checkpoint with its parameters in the order of ours, where both have names, and the same in each group."""
    ordered = []
    for theirs, ours in zip(saved["param_groups"], groups, strict=False):
        names, wanted = theirs.get("param_names"), ours.get("param_names")
        if not names or not wanted or sorted(names) != sorted(wanted) or len(set(names)) < len(names):
            return saved
        places = dict(zip(names, theirs["params"], strict=True))
        ordered.append({**theirs, "params": [places[name] for name in wanted], "param_names": list(wanted)})
    return {**saved, "param_groups": ordered}


def check_states(saved: Mapping[str, Any], params: list[list[tuple[str, Tensor]]], step: Step) -> None:
    """Raise for state that does not fit the parameter it is for; names and parameters are given for each group."""
    entries = Entries.of(step)
    for theirs, ours in zip(saved["param_groups"], params, strict=False):
        for key, (name, p) in zip(theirs["params"], ours, strict=False):
            entry = saved["state"].get(key)
            if entry:
                entries.check(entry, p, name)
