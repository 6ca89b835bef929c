"""The tasks of training studies by kind: a new one is a builder, its name, and a line in each table here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from proxmom.study.problems import data as datasets
from proxmom.study.problems.own import is_own
from proxmom.study.training import convex, ranks
from proxmom.study.training.files import digest
from proxmom.study.training.images import images_digest
from proxmom.study.training.language import language
from proxmom.study.training.own import build_own_task, rehearse_own
from proxmom.study.training.text import text_digest
from proxmom.study.training.vision import cnn, mlp


class Task(Protocol):
    """What is trained: a function of (arguments, training seed, step), so that a run can go on from any step.

    The seed changes initial weights, the order of the data and, where asked for, their augmentation; splits are fixed.

    Attributes:
        name: for people.
        parameters: by name, in a fixed order.
        optimum: the least loss, if it is known.
    """

    name: str
    parameters: Mapping[str, torch.nn.Parameter]
    optimum: float | None

    def gradient(self, step: int) -> Tensor:
        """Sets the gradient of every parameter from batch number `step`; returns its loss, 0-dim, detached."""
        ...

    def evaluate(self, split: str) -> dict[str, float]:
        """ "loss" and, for images, "accuracy" of the split "validation" or "test"; of convex tasks the relative gap."""
        ...


TASKS: dict[str, Callable[..., Task]] = {
    "mlp": mlp,
    "cnn": cnn,
    "language": language,
    **{kind: convex.builder(kind) for kind in convex.KINDS},
}
OF_THE_RUN = ("seed", "data_dir", "device")  # arguments of builders that no study file holds


def build_task(
    kind: str, *, seed: int, data_dir: Path | None = None, device: str = "cpu", folder: str = "", **arguments: Any
) -> Task:
    """A fresh task, for one run.

    Args:
        kind: a key of `TASKS`, or an import path.
        seed: the training seed, >= 0.
        data_dir: where relative paths of data files start; default: the environment variable PROXMOM_DATA.
        device: "cpu", or "cuda" for networks.
        folder: where the file of an import path is looked for.
        arguments: those of the builder, and `name` to replace the display name.

    Raises:
        ValueError: for an unknown kind or argument, values out of range, data that are missing or unusable.
        TypeError: for arguments of the wrong type.
    """
    name = arguments.pop("name", None)
    task: Task
    if is_own(kind):
        task = build_own_task(kind, Path(folder), seed=seed, device=device, arguments=arguments)
    else:
        _check(kind, arguments)
        task = TASKS[kind](seed=seed, data_dir=data_dir, device=device, **arguments)
    task.name = name or task.name
    return task


def arguments_of(kind: str) -> dict[str, Any]:
    """The arguments of a kind that a study file may hold, with their defaults; ValueError for an unknown kind."""
    if kind not in TASKS:
        raise ValueError(f"kind must be one of {', '.join(TASKS)}, got {kind!r}.")
    signature = inspect.signature(TASKS[kind]).parameters
    return {name: argument.default for name, argument in signature.items() if name not in OF_THE_RUN}


def describe_task(kind: str, data_dir: Path | None = None, folder: str = "", **arguments: Any) -> str:
    """The display name of a task; raises what `build_task` does in one process, for it builds one, without weights.

    One of a user's own is built with its weights, and rehearsed.
    """
    if is_own(kind):
        with ranks.apart():
            own = build_own_task(kind, Path(folder), seed=0, arguments=arguments)
            rehearse_own(own, kind)
        return own.name
    device = "cpu" if kind in convex.KINDS else "meta"
    with ranks.apart(), torch.device(device):
        return build_task(kind, seed=0, data_dir=data_dir, device=device, **arguments).name


def data_digest(kind: str, data_dir: Path | None = None, **arguments: Any) -> str:
    """16 hex digits for the data that a task reads from files, and so belong to a run's configuration; else empty.

    Raises:
        ValueError: if they cannot be read.
    """
    _check(kind, {key: value for key, value in arguments.items() if key != "name"})
    full = {**arguments_of(kind), **arguments}
    if kind == "language":
        return text_digest(full["data"], data_dir, full["megabytes"])
    if kind in ("mlp", "cnn"):
        return images_digest(full["data"], data_dir)
    data = str(full.get("data", ""))
    file = (datasets.directory(data_dir) or Path()) / datasets.parts_of(data)[0]
    return "" if data in datasets.DATA_NAMES or not file.is_file() else digest(file.read_bytes())


def _check(kind: str, arguments: Mapping[str, Any]) -> None:
    takes = arguments_of(kind)
    for key, value in arguments.items():
        if key not in takes:
            raise ValueError(f"{kind} takes {', '.join(takes)} and name, got {key!r}.")
        if not isinstance(value, str | int | float | None):
            raise TypeError(f"{key} must be a number or a text, got {value!r} ({type(value).__name__}).")
        if isinstance(takes[key], str) and not isinstance(value, str):
            raise TypeError(f"{key} must be a text, got {value!r} ({type(value).__name__}).")
