"""Loading a checkpoint: what it must be, looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proxmom.step import Step
from proxmom.torch.arrange import names_of
from proxmom.torch.entries import Entries

ALGORITHM = "algorithm"  # in a state_dict, beside state and param_groups
OTHERS = {
    "exp_avg": "torch's Adam or AdamW",
    "momentum_buffer": "torch's SGD",
    "square_avg": "torch's RMSprop",
    "exp_inf": "torch's Adamax",
    "sum": "torch's Adagrad",
}


def algorithm(name: str, steps: Sequence[Step]) -> dict[str, str]:
    """What a checkpoint says of the optimizer that it is of, from the step of each parameter group."""
    metrics = dict.fromkeys(type(step.method.metric).__name__ for step in steps)
    return {"optimizer": name, "rule": steps[0].method.name, "metric": ", ".join(metrics)}


def check_algorithm(saved: Mapping[str, Any], own: Mapping[str, str], everybody: Sequence[Entries]) -> None:
    """ValueError for the checkpoint of another optimizer."""
    told = saved.get(ALGORITHM)
    if isinstance(told, Mapping):
        if any(told.get(key) != own[key] for key in ("rule", "metric")):
            raise ValueError(
                f"the checkpoint is of {told.get('optimizer')} ({told.get('rule')} with {told.get('metric')}), this "
                f"optimizer is {own['optimizer']} ({own['rule']} with {own['metric']}): load it into one of its kind."
            )
        return
    names = [name for name in everybody[0].names if all(name in entries.names for entries in everybody)]
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


def checked(
    saved: dict[str, Any], groups: list[dict[str, Any]], own: Mapping[str, str], steps: Sequence[Step], *, named: bool
) -> dict[str, Any]:
    """A checkpoint that can be loaded, its parameters in our order; named: whether their names say which is which.

    Raises:
        ValueError, TypeError: for the checkpoint of another optimizer, or state that does not fit its parameter.
    """
    saved = by_name(saved, groups) if named else saved
    everybody = [
        Entries.of(step, next(iter(group["params"]), torch.zeros(1))) for step, group in zip(steps, groups, strict=True)
    ]
    check_algorithm(saved, own, everybody)
    names = iter(names_of(groups))
    ours = [[(next(names), p) for p in group["params"]] for group in groups]
    for theirs, here, entries in zip(saved["param_groups"], ours, everybody, strict=False):
        for key, (name, p) in zip(theirs["params"], here, strict=False):
            if entry := saved["state"].get(key):
                entries.check(entry, p, name)
    return saved


def keep_dtypes(saved: Mapping[str, Any], groups: list[dict[str, Any]], state: Mapping[Any, dict[str, Any]]) -> None:
    """torch has cast state to its parameter's dtype: take it from the checkpoint as it was."""
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    for key, p in zip(keys, (p for group in groups for p in group["params"]), strict=True):
        for name, value in saved["state"].get(key, {}).items():
            if isinstance(value, Tensor):
                state[p][name] = value.detach().to(device=p.device, copy=True)
