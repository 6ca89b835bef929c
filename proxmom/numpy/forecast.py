"""`Forecast`: the last step finished before the next, on top of the ordinary step of an `Optimizer`.

x goes on along the last move to where the slopes forecast its minimum, the gradient there is taken from the line
through the last two, and the optimizer takes its step from that point; then that step gets its length.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from proxmom.numpy.optimizer import Bookmark, Optimizer
from proxmom.numpy.rows import Vector
from proxmom.secant import Direction, Lengths, Line, Secant


class Place(NamedTuple):
    """What `Forecast.undo` returns to."""

    optimizer: Bookmark
    gradient: Vector | None


class Forecast:
    """Steps of `optimizer` at the lengths that `secant` forecasts; lr is that of the first step alone."""

    def __init__(self, optimizer: Optimizer, secant: Secant) -> None:
        self.optimizer, self.secant = optimizer, secant
        self._gradient: Vector | None = None  # where the last step started
        self._lengths = Lengths()

    @property
    def last_lr(self) -> float:
        """lr of the last step, as it was in the end."""
        return self._lengths.last * self.optimizer.lr

    @property
    def steepest_lr(self) -> float:
        """What the lr of a step along the gradient alone should be."""
        return self._lengths.steepest * self.optimizer.lr

    def step(self, gradient: Any, loss: float) -> Any:
        """The next x to look at; arguments and result as for `Optimizer.step`."""
        optimizer, before, last = self.optimizer, self._gradient, self.optimizer.last_step
        g = self._with_decay(np.ravel(gradient))
        if not (np.isfinite(g).all() and np.isfinite(loss)):
            return optimizer.step(gradient, loss)  # counts as skipped
        if before is None:
            self._gradient = g
            self._take(g, loss, np.shape(gradient))
            return optimizer.x
        with np.errstate(over="ignore", invalid="ignore"):
            reach, again, self._lengths = self.secant.finish(self._line(before, g, last), self._lengths)
            forecast = (1 - reach) * before + reach * g
            loss += (reach - 1) * float((g + forecast) @ last) / 2
        optimizer.stretch(reach)
        if again:
            return optimizer.x
        memory, last, lengths = np.ravel(optimizer.memory), optimizer.last_step, self._lengths
        self._gradient = forecast
        if self._take(forecast, loss, np.shape(gradient)):
            with np.errstate(over="ignore", invalid="ignore"):
                length = self.secant.length(lengths, self._direction(forecast, memory, forecast - before, last))
            optimizer.stretch(length / lengths.steepest)
            self._lengths = replace(lengths, last=length)
        return optimizer.x

    def bookmark(self) -> Place:
        """All that a step changes, for `undo`."""
        return Place(self.optimizer.bookmark(), self._gradient)

    def undo(self, place: Place, lr: float) -> None:
        """Back to where `place` was taken, with empty memory; the step from there has this lr."""
        base = self.optimizer.lr
        self.optimizer.undo(place.optimizer, lr)
        self.optimizer.lr, self._gradient = base, None
        length = lr / base
        self._lengths = Lengths(last=length, steepest=length, curved=self._lengths.curved)

    @property
    def _coupled(self) -> float:
        return self.optimizer.weight_decay if self.optimizer.decay == "coupled" else 0.0

    def _with_decay(self, gradient: Vector) -> Vector:
        """The gradient with the weight decay that is coupled to it, here."""
        return gradient + self._coupled * np.ravel(self.optimizer.x) if self._coupled else gradient

    def _take(self, g: Vector, loss: float, shape: tuple[int, ...]) -> bool:
        """The optimizer's step as if along the gradient; whether it was taken. g: with coupled weight decay."""
        optimizer, lr, skipped = self.optimizer, self.optimizer.lr, self.optimizer.diagnostics()["skipped"]
        plain = g - self._coupled * np.ravel(optimizer.x) if self._coupled else g
        optimizer.lr = min(lr * self._lengths.steepest, sys.float_info.max)  # where f falls forever it overflows
        optimizer.step(plain.reshape(shape), loss)
        optimizer.lr = lr
        self._lengths = replace(self._lengths, last=self._lengths.steepest)
        return bool(optimizer.diagnostics()["skipped"] == skipped)

    def _line(self, before: Vector, after: Vector, last: Vector) -> Line:
        image, lr = self.optimizer.image, self.optimizer.lr
        return Line(
            before=-float(before @ last),
            after=-float(after @ last),
            gg=lr * float(after @ image(after)),
            gp=lr * float(after @ image(before)),
            pp=lr * float(before @ image(before)),
        )

    def _direction(self, g: Vector, memory: Vector, turn: Vector, last: Vector) -> Direction:
        """The direction just taken; memory, last: as they were before it; turn: the change of g along `last`."""
        image, lr, share = self.optimizer.image, self.optimizer.lr, self.optimizer.diagnostics()["beta"]
        d = np.ravel(self.optimizer.memory)
        rest = d - share * memory
        pd, pr = image(d), image(rest)
        return Direction(
            share=share,
            slope=lr * float(g @ pd),
            gg=lr * float(g @ image(g)),
            dd=lr * float(d @ pd),
            rr=lr * float(rest @ pr),
            ry=lr * float(turn @ pr),
            bend=float(turn @ last),
        )
