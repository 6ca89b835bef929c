"""The paper's two algorithms, and other rules by the names under which torch users look for them."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from proxmom import rules
from proxmom.metrics import SOAP, Adam, Shampoo
from proxmom.torch.arguments import Options, explicit, number, pair
from proxmom.torch.optimizer import ProxOptimizer


def _memory(beta_max: float, steady: bool) -> rules.Rule:
    return (rules.SteadyMemory if steady else rules.AdaptiveMemory)(beta_max)


class AMSGD(ProxOptimizer):
    """SGD with adaptive memory (AM-MSGD): the momentum that torch.optim.SGD keeps constant is derived at every step.

    Memory is an average of gradients, so lr corresponds to about a tenth of the lr of torch.optim.SGD(momentum=0.9),
    whose direction is a sum (dampening 0): multiply that lr by ten. Memory starts as the first gradient, so the first
    step then is ten times SGD's. Weight decay is coupled, as in torch.optim.SGD.

    At small batches the rule, as reconstructed here, is biased; see `proxmom.AdaptiveMemory` for the figures.

    Args:
        params, lr: as in torch.
        beta_max: largest weight on memory, in [0, 1].
        inertia: λ >= 0; 0.1 is the paper's.
        weight_decay: μ >= 0, coupled.
        scope: "model", "group" or "tensor".
        steady: whether the rule is `proxmom.SteadyMemory`, which is without that bias.
        step_size, maximize, foreach, capturable, stochastic_rounding, process_group: see `proxmom.torch.Options`.

    Source: Topollai and Choromanska, AISTATS 2026; derived in `theory/02_two_planes.py`.
    """

    @explicit
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        beta_max: float = 0.9,
        inertia: float = 0.1,
        weight_decay: float = 0.0,
        *,
        scope: str = "model",
        steady: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            _memory(number("beta_max", beta_max), steady),
            lr,
            inertia=number("inertia", inertia),
            weight_decay=weight_decay,
            decay="coupled",
            scope=scope,
            **options,
        )


class AMAdamW(ProxOptimizer):
    """AdamW with adaptive memory (AM-AdamW): betas[0] is the largest weight on memory, the weight itself is derived.

    One momentum for each tensor by default, as in the paper's main experiments; weight decay is decoupled, as in
    torch.optim.AdamW. At inertia 0.1 the cap is betas[0] itself: with Adam's metric so small an inertia hardly acts.
    At small batches the rule, as reconstructed here, is biased; see `proxmom.AdaptiveMemory` for the figures.

    Args:
        params, lr, eps, weight_decay: as for torch.optim.AdamW.
        betas: largest weight on memory, in [0, 1), and averaging coefficient of squared gradients, in [0, 1).
        inertia: λ >= 0; 0.1 is the paper's.
        scope: "tensor", "group" or "model".
        steady: whether the rule is `proxmom.SteadyMemory`, which is without that bias.
        step_size, maximize, foreach, capturable, stochastic_rounding, process_group: see `proxmom.torch.Options`.

    Source: Topollai and Choromanska, AISTATS 2026; derived in `theory/02_two_planes.py`.
    """

    @explicit
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.89, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        inertia: float = 0.1,
        scope: str = "tensor",
        steady: bool = False,
        **options: Unpack[Options],
    ) -> None:
        beta_max, beta2 = pair(betas)
        super().__init__(
            params,
            _memory(beta_max, steady),
            lr,
            metric=Adam(beta2, number("eps", eps)),
            inertia=number("inertia", inertia),
            weight_decay=weight_decay,
            decay="decoupled",
            scope=scope,
            **options,
        )


class AMShampoo(ProxOptimizer):
    """Shampoo with adaptive memory: betas[0] is the largest weight on memory, the weight itself is derived.

    Every tensor is measured by one small matrix for each of its sides, see `proxmom.metrics.Shampoo`, which also says
    how large P⁻¹ may be between two roots: the default here is `every=1`. There is no inertia: that needs (I + λP)⁻¹.

    Args:
        params, lr: as in torch; a step is as long as Shampoo's without grafting.
        betas: largest weight on memory, in [0, 1), and averaging coefficient of the factors, in [0, 1).
        eps: > 0, share of a factor's largest eigenvalue that is added to all.
        weight_decay: μ >= 0, decoupled.
        every: a whole number >= 1, steps from one computation of the roots to the next (precondition_frequency).
        largest_side: a whole number >= 1, longest side of a block; each block has factors of its own.
        scope: "tensor", "group" or "model".
        steady: whether the rule is `proxmom.SteadyMemory`, without the bias of `proxmom.AdaptiveMemory`.
        step_size, maximize, foreach, stochastic_rounding, process_group: see `proxmom.torch.Options`. capturable must
            be False.

    Source: Gupta, Koren and Singer, ICML 2018; the rule is derived in `theory/02_two_planes.py`.
    """

    @explicit
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        every: int = 1,
        largest_side: int = 1024,
        scope: str = "tensor",
        steady: bool = False,
        **options: Unpack[Options],
    ) -> None:
        beta_max, beta2 = pair(betas)
        super().__init__(
            params,
            _memory(beta_max, steady),
            lr,
            metric=Shampoo(beta2, number("eps", eps), every, largest_side),
            weight_decay=weight_decay,
            decay="decoupled",
            scope=scope,
            **options,
        )


class AMSOAP(ProxOptimizer):
    """SOAP with adaptive memory: betas[0] is the largest weight on memory, the weight itself is derived.

    Adam's metric in the eigenbasis of Shampoo's factors, see `proxmom.metrics.SOAP`. There is no inertia: that needs
    (I + λP)⁻¹, which a rotated metric does not give.

    Args:
        params, lr: as in torch; a step is as long as AdamW's.
        betas: largest weight on memory, and averaging coefficient of squared gradients and factors, both in [0, 1).
        eps: > 0, keeps P positive.
        weight_decay: μ >= 0, decoupled.
        every: a whole number >= 1, steps from one refresh of the basis to the next (precondition_frequency).
        largest_side: a whole number >= 1, longest side that is rotated.
        scope: "tensor", "group" or "model".
        steady: whether the rule is `proxmom.SteadyMemory`, without the bias of `proxmom.AdaptiveMemory`.
        step_size, maximize, foreach, stochastic_rounding, process_group: see `proxmom.torch.Options`. capturable must
            be False.

    Source: Vyas et al., ICLR 2025, whose published defaults these are; derived in `theory/02_two_planes.py`.
    """

    @explicit
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        every: int = 10,
        largest_side: int = 10000,
        scope: str = "tensor",
        steady: bool = False,
        **options: Unpack[Options],
    ) -> None:
        beta_max, beta2 = pair(betas)
        super().__init__(
            params,
            _memory(beta_max, steady),
            lr,
            metric=SOAP(beta2, number("eps", eps), every, largest_side),
            weight_decay=weight_decay,
            decay="decoupled",
            scope=scope,
            **options,
        )


class MoMo(ProxOptimizer):
    """MoMo: fixed weight beta on memory, and a step size from the model and a lower bound of the loss, at most lr.

    Needs the loss: step(closure), step(loss=...) or observe(loss). Gradients must belong to that loss: no clipping, no
    loss scaling in between, and the mean over accumulated batches.

    Args:
        params, lr: as in torch; lr may be large, the model shortens steps.
        lower_bound: a finite number that the loss never falls below.
        beta: weight on memory, in [0, 1].
        weight_decay: μ >= 0, proximal, as published.
        step_size, maximize, foreach, capturable, stochastic_rounding, process_group: see `proxmom.torch.Options`.

    Source: Schaipp et al., ICML 2024; the identity stands in `theory/05_reductions.py`.
    """

    @explicit
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        *,
        lower_bound: float,
        beta: float = 0.9,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            rules.MoMo(number("lower_bound", lower_bound), number("beta", beta)),
            lr,
            weight_decay=weight_decay,
            decay="proximal",
            **options,
        )


class MoMoAdam(ProxOptimizer):
    """MoMo-Adam: `MoMo` in Adam's metric.

    Args:
        params, lr, lower_bound, weight_decay: as for `MoMo`.
        betas, eps: as for torch.optim.AdamW.
        step_size, maximize, foreach, capturable, stochastic_rounding, process_group: see `proxmom.torch.Options`.

    Source: Schaipp et al., ICML 2024; the identity stands in `theory/05_reductions.py`.
    """

    @explicit
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        *,
        lower_bound: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        beta, beta2 = pair(betas)
        super().__init__(
            params,
            rules.MoMo(number("lower_bound", lower_bound), beta),
            lr,
            metric=Adam(beta2, number("eps", eps)),
            weight_decay=weight_decay,
            decay="proximal",
            **options,
        )


class TruncatedMemorySGD(ProxOptimizer):
    """Adaptive memory with a lower bound of the loss: momentum and step size adapt together; lr only caps the step.

    Needs the loss, and gradients that belong to it, as `MoMo` does. The memory plane stands at the aggregated height;
    for another give `ProxOptimizer` the rule `TruncatedMemory`.

    Args:
        params, lr: as in torch; lr may be large.
        lower_bound: a finite number that the loss never falls below.
        beta_max: largest weight on memory, in [0, 1].
        weight_decay: μ >= 0, decoupled.
        step_size, maximize, foreach, capturable, stochastic_rounding, process_group: see `proxmom.torch.Options`.

    Source: this project; derived in `theory/10_truncated_memory.py`.
    """

    @explicit
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        *,
        lower_bound: float,
        beta_max: float = 0.9,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        rule = rules.TruncatedMemory(number("lower_bound", lower_bound), number("beta_max", beta_max))
        super().__init__(params, rule, lr, weight_decay=weight_decay, **options)
