"""Random numbers of a training run: one stream for each purpose, so that none shifts another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

Indices = NDArray[np.int64]

SPLIT, WEIGHTS, ORDER, SHIFT, STARTS = range(5)


def generator(purpose: int, seed: int, number: int = 0) -> np.random.Generator:
    """A generator that depends on these three alone; number: of an epoch or a step."""
    return np.random.default_rng((seed, purpose, number))


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Inside, torch's modules are initialised from the training seed; outside, torch's state is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(WEIGHTS, seed).integers(2**62)))
        yield


class Order:
    """Batches of a training set: epoch after epoch, each a permutation of all samples, cut into equal batches.

    A batch may reach into the next epoch, so none is short and no sample is left out.
    """

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        """batch in [1, samples]."""
        if batch > samples:
            raise ValueError(f"batch must be <= {samples}, the number of training samples, got {batch}.")
        self._samples, self._batch, self._seed = samples, batch, seed
        self._known: dict[int, Indices] = {}

    def __call__(self, step: int) -> Indices:
        """Indices of batch number `step`, (batch,)."""
        epoch, start = divmod(step * self._batch, self._samples)
        rest = start + self._batch - self._samples
        first = self._epoch(epoch)[start : start + self._batch]
        return first if rest <= 0 else np.concatenate([first, self._epoch(epoch + 1)[:rest]])

    def _epoch(self, number: int) -> Indices:
        if number not in self._known:
            fresh = generator(ORDER, self._seed, number).permutation(self._samples)
            self._known = {n: order for n, order in self._known.items() if n == number - 1} | {number: fresh}
        return self._known[number]
