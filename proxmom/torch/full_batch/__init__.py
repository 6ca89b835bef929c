"""Full-batch minimisation: `minimize`, for one problem or for many at once."""

from proxmom.torch.full_batch.minimize import minimize

__all__ = ["minimize"]
