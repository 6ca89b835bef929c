"""A network of one's own: which batch is number n depends on the training seed and n alone."""

import torch
from torch import nn


class Waves:
    """Learn a product of two waves from 400 points; 100 validate, 100 test."""

    def __init__(self, seed, hidden=16, batch=32):
        self.seed, self.batch = seed, batch
        random = torch.Generator().manual_seed(0)
        self.x = 4 * torch.rand(600, 2, generator=random) - 2
        self.y = (self.x[:, :1].sin() * self.x[:, 1:].cos()) + 0.05 * torch.randn(600, 1, generator=random)
        self.parts = {"validation": slice(400, 500), "test": slice(500, 600)}
        self.model = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.name = f"waves, hidden {hidden}"

    def loss(self, n):
        random = torch.Generator().manual_seed(1_000_000 * self.seed + n)
        return self._loss(torch.randint(400, (self.batch,), generator=random))

    def evaluate(self, split):
        return self._loss(self.parts[split]).item()

    def _loss(self, rows):
        return nn.functional.mse_loss(self.model(self.x[rows]), self.y[rows])
