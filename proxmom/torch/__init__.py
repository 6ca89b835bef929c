"""The torch backend: any rule as a `torch.optim.Optimizer`, and the paper's algorithms by name."""

from proxmom.torch.named import AMSGD, AMAdamW, MoMo, MoMoAdam, TruncatedMemorySGD
from proxmom.torch.optimizer import Options, ProxOptimizer

__all__ = ["AMSGD", "AMAdamW", "MoMo", "MoMoAdam", "Options", "ProxOptimizer", "TruncatedMemorySGD"]
