"""The torch backend: any rule as a `torch.optim.Optimizer`, the paper's algorithms by name, and `minimize`."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "proxmom.torch needs the torch extra: pip install 'proxmom[torch]' (no module 'torch').", name="torch"
    ) from error

from proxmom.torch.arguments import Options
from proxmom.torch.full_batch import minimize
from proxmom.torch.named import AMSGD, AMSOAP, AMAdamW, AMShampoo, MoMo, MoMoAdam, TruncatedMemorySGD
from proxmom.torch.named_norms import AMMuon, AMSign
from proxmom.torch.optimizer import ProxOptimizer

__all__ = [
    "AMSGD",
    "AMSOAP",
    "AMAdamW",
    "AMMuon",
    "AMShampoo",
    "AMSign",
    "MoMo",
    "MoMoAdam",
    "Options",
    "ProxOptimizer",
    "TruncatedMemorySGD",
    "minimize",
]
