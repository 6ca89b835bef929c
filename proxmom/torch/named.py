"""The paper's two algorithms, and other rules by the names under which torch users look for them."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from proxmom import rules
from proxmom.metrics import Adam
from proxmom.torch.arguments import Options, explicit, number, pair
from proxmom.torch.optimizer import ProxOptimizer


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
            (rules.SteadyMemory if steady else rules.AdaptiveMemory)(number("beta_max", beta_max)),
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
            (rules.SteadyMemory if steady else rules.AdaptiveMemory)(beta_max),
            lr,
            metric=Adam(beta2, number("eps", eps)),
            inertia=number("inertia", inertia),
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
