"""Adaptive memory where the field takes sign and spectral steps, by names that say so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Unpack

from torch import Tensor

from proxmom.metrics import Adam, LInf, Spectral
from proxmom.rules import AdaptiveMemory
from proxmom.torch.arguments import Options, check_rate, explicit, number
from proxmom.torch.optimizer import ProxOptimizer


class AMSign(ProxOptimizer):
    """Sign descent with adaptive memory: what Signum and Lion keep constant is derived at every step.

    Every element moves by lr, against the sign of (1 - β)·gradient + β·memory, but for those few whose sign is on the
    edge. State is as large as that of SGD with momentum. Weight decay is decoupled, as in Lion.

    Args:
        params: as in torch.
        lr: as for Lion and Signum, a tenth of AdamW's and less.
        beta_max: largest weight on memory, in [0, 1).
        weight_decay: μ >= 0, decoupled; as for Lion, three to ten times AdamW's.
        scope: "tensor", "group" or "model".
        step_size, maximize, foreach, stochastic_rounding, process_group: see `proxmom.torch.Options`. capturable must
            be False.

    Source: this project; derived in `theory/17_norms.py`, tried in `experiments/norms`. Signum: J. Bernstein et al.,
    ICML 2018. Lion: X. Chen et al., NeurIPS 2023, arXiv 2302.06675.
    """

    @explicit
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        beta_max: float = 0.8,
        weight_decay: float = 0.0,
        *,
        scope: str = "tensor",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            AdaptiveMemory(number("beta_max", beta_max)),
            lr,
            metric=LInf(),
            weight_decay=weight_decay,
            decay="decoupled",
            scope=scope,
            **options,
        )


class AMMuon(ProxOptimizer):
    """Muon with adaptive memory: the momentum that Muon keeps constant is derived at every step.

    Tensors of two and more dimensions move in the spectral norm, as Muon's; everything else goes to a second parameter
    group in Adam's metric, and so does a group that says `use_muon=False`: give embeddings and output layers so, as
    Muon's users do. Weight decay is decoupled. At the same memory as AdamW: where the last step started is kept.

    Args:
        params: as in torch; each group is split in two where it must be.
        lr: as for torch.optim.Muon.
        beta_max: largest weight on memory, in [0, 1).
        weight_decay: μ >= 0, decoupled.
        polar: "newton-schulz", Muon's five rounds, in the dtype of the state (Muon's run in bfloat16), or "exact".
        scale: None, "original" or "match_rms_adamw", torch.optim.Muon's `adjust_lr_fn`; see `proxmom.metrics.Spectral`.
        adam_lr: lr of what is in Adam's metric, as for AdamW; default None: lr.
        adam_beta2, adam_eps: as for AdamW, in [0, 1) and > 0.
        scope: "tensor", "group" or "model".
        step_size, maximize, foreach, stochastic_rounding, process_group: see `proxmom.torch.Options`. capturable must
            be False.

    Source: this project; derived in `theory/17_norms.py`, tried in `experiments/norms`. Muon: K. Jordan et al., 2024.
    """

    @explicit
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        beta_max: float = 0.9,
        weight_decay: float = 0.1,
        *,
        polar: str = "newton-schulz",
        scale: str | None = "original",
        adam_lr: float | Tensor | None = None,
        adam_beta2: float = 0.999,
        adam_eps: float = 1e-8,
        scope: str = "tensor",
        **options: Unpack[Options],
    ) -> None:
        if adam_lr is not None:
            check_rate("adam_lr", adam_lr)
        self._adam, self._adam_lr = Adam(number("adam_beta2", adam_beta2), number("adam_eps", adam_eps)), adam_lr
        super().__init__(
            params,
            AdaptiveMemory(number("beta_max", beta_max)),
            lr,
            metric=Spectral(polar=polar, scale=scale),
            weight_decay=weight_decay,
            decay="decoupled",
            scope=scope,
            **options,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_adam": self._adam, "_adam_lr": self._adam_lr}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; a group with other tensors than matrices becomes two, see the class."""
        if not isinstance(param_group, dict) or param_group.get("metric") is not None:
            super().add_param_group(param_group)
            return
        for group in self._split(param_group):
            super().add_param_group(group)

    def _split(self, group: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The group's matrices, and the rest in Adam's metric; a group without parameters stays one."""
        given = group.get("params")
        entries = [given] if isinstance(given, Tensor) or not isinstance(given, Iterable) else list(given)
        if isinstance(given, set):  # torch refuses it
            entries = [given]
        muon = bool(group.get("use_muon", True))
        matrices = [entry for entry in entries if muon and getattr(_tensor(entry), "ndim", 2) >= 2]
        others = [entry for entry in entries if not any(entry is matrix for matrix in matrices)]
        if matrices or not others:
            yield {**group, "params": matrices if others else given if isinstance(given, (Tensor, set)) else entries}
        if others:
            own = {} if self._adam_lr is None or (not muon and "lr" in group) else {"lr": self._adam_lr}
            yield {**group, **own, "params": others, "metric": self._adam}


def _tensor(entry: Any) -> Any:
    """Of a parameter, or of a name and a parameter."""
    return entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
