"""Optimizers by name: ours, torch's own, and those of others by import path."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch

from proxmom.lookup import find_factory
from proxmom.testing.subject import Factory
from proxmom.torch import AMSGD, AMAdamW, MoMo, MoMoAdam, TruncatedMemorySGD

OURS: dict[str, Factory] = {
    "AMSGD": AMSGD,
    "AMAdamW": AMAdamW,
    "MoMo": partial(MoMo, lower_bound=0.0),
    "MoMoAdam": partial(MoMoAdam, lower_bound=0.0),
    "TruncatedMemorySGD": partial(TruncatedMemorySGD, lower_bound=0.0),
}
SETTINGS = {"SGD": {"lr": 0.01, "momentum": 0.9}}
NAMES = (
    *("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Rprop", "ASGD", "Adadelta"),
    *("Muon", "Adafactor"),
)


def torchs_own() -> dict[str, Factory]:
    """torch's optimizers that take dense gradients and no closure, those that this version has."""
    classes = {name: getattr(torch.optim, name) for name in NAMES if hasattr(torch.optim, name)}
    return {name: partial(kind, **SETTINGS.get(name, {})) for name, kind in classes.items()}


def named(texts: Iterable[str]) -> dict[str, Factory]:
    """Factories by name of ours or import path, e.g. "torch.optim:AdamW(lr=0.01)"; keys are as short as they may be.

    Raises:
        ValueError: for what cannot be found.
    """
    found: dict[str, Factory] = {}
    for text in texts:
        path, bracket, arguments = text.partition("(")
        short = path.rpartition(":")[2] + bracket + arguments
        found[text if short in found else short] = find_factory("optimizer", text, OURS)
    return found
