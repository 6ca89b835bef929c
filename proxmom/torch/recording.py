"""Runs the scalars of a step: recorded once and played in one call where that can be, else as `decision` stands.

What is recorded is the very code of `decision`, with rule, metric and step size in it, a user's own included; the
numbers are the same to rounding. Code that branches on a value, or that changes something, runs as it is. Where what
the code reads is changed later, attributes, globals or what a closure holds, it runs as it is for as long.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom.kernels.tape import Player
from proxmom.planes import Array
from proxmom.step import Method, Scope, Step
from proxmom.tape import Tape, Untraceable, play, record
from proxmom.tape.record import Given
from proxmom.tape.trace import SCOPE
from proxmom.tape.watch import Watch
from proxmom.torch.decision import (
    PER_SCOPE,
    SKIPPED,
    STEP,
    Arrays,
    Kind,
    Measured,
    decide,
    numbers,
    spread_vectors,
)
from proxmom.torch.memory import as_tensor

Last = tuple[Array, Array]  # weights (S, K) and beta (S,)
CHANGED = "a change in what rule, metric or step size read"


class Decision:
    """`numbers` and `decide` for the units of one layout, and what becomes of their scalars.

    Args:
        scope: which units share a model; membership: the same as a 0/1 matrix (S, U), or None where each has its own;
            sizes: how many parameters each unit has, (U,), or None; records: whether to record at all; on_host,
            device: where scalars are, and whether that is here.
    """

    def __init__(self, scope: Scope, membership: Any, sizes: Any, *, records: bool, on_host: bool, device: Any) -> None:
        self._scope, self._sizes, self._records = scope, sizes, records
        self._on_host, self._device = on_host, device
        self._scope_of = None if membership is None else np.argmax(membership, axis=0)
        self._scopes = None if membership is None else len(membership)
        self._players: dict[Any, Any] = {}
        self.note = ""  # for users, where nothing can be recorded

    def numbers(self, kind: Kind, rows: Array) -> Arrays:
        """See `decision.numbers`."""
        player = self._player("numbers", kind, rows, None)
        if player is not None:
            found: Arrays = player.play({"rows": rows})
            return found
        with np.errstate(all="ignore"):  # what is not finite is seen when all is decided
            return numbers(kind, self._scope, rows if isinstance(rows, np.ndarray) else rows.double())

    def decide(
        self,
        kind: Kind,
        rows: Array,
        sums: Array,
        lr: Array,
        decay: Array,
        loss: Array | None,
        more: Measured | None,
        observed: Array | None = None,
    ) -> tuple[Arrays, Sequence[tuple[Array, Array]]]:
        """See `decision.decide`; beside it the atoms of a step in a norm, as in `Motion`."""
        player = self._player("decide", kind, rows, sums.shape[1]) if more is None else None
        if player is not None:
            given = {"rows": rows, "sums": sums, "lr": lr, "decay": decay, "sizes": self._sizes}
            return player.play({**given, "loss": loss, "observed": observed}), ()
        with np.errstate(all="ignore"):
            found, solution = decide(kind, self._scope, rows, sums, lr, decay, loss, more or Measured(), observed)
        spread = self._scope.spread
        return found, [(spread_vectors(self._scope, atom.slope), spread(atom.share)) for atom in solution.atoms]

    def settle(self, rows: Array, last: Last | None, decided: Arrays, sound: Tensor | None) -> Last:
        """Write down the scalars after a step, where it is sound; returns the weights and beta of the last such step.

        sound: a flag on the device; None where it is known to be.
        """
        if sound is None:
            rows[:] = decided["rows"]
            return decided["weights"], decided["beta"]
        new = (as_tensor(decided["weights"]).contiguous(), as_tensor(decided["beta"]).contiguous())  # read by address
        if last is None or not _alike(last[0], new[0]):
            last = (new[0].clone(), new[1].clone())
        if any(self._players.values()):
            self._triton().settle(sound, rows, decided["rows"], last, new, SKIPPED)
            return last
        kept = torch.where(sound, decided["rows"], rows)
        kept[:, SKIPPED].add_(~sound)  # += would copy it once more
        rows[:] = kept
        return torch.where(sound, new[0], last[0]), torch.where(sound, new[1], last[1])

    def _player(self, name: str, kind: Kind, rows: Array, sums: int | None) -> Any:
        """What plays a function; None where it is not recorded."""
        if not self._records:
            return None
        key, method = (name, kind, sums), kind.step.method
        if key not in self._players:
            self._players[key] = self._made(_tape(name, kind, sums, rows.dtype, shared=self._scope.shared), len(rows))
        why = method.not_recorded if self._players[key] is None else "" if _unchanged(method.recorded_with) else CHANGED
        self.note = f" (not recorded, because of {why})" if why else self.note
        return None if why else self._players[key]

    def _made(self, tape: Tape | None, units: int) -> Any:
        scopes = self._scopes or units
        if tape is None:
            return None
        if self._on_host:
            return Player(tape, units, scopes, self._scope_of)
        return self._triton().TritonPlayer(tape, units, scopes, self._scope_of, self._device)

    @staticmethod
    def _triton() -> Any:
        """Late, as Triton takes a while to load."""
        return import_module("proxmom.torch.passes.triton_tape")


def _alike(last: Array, new: Tensor) -> bool:
    """Whether what was kept is still of these models, and where they are: it may be the host's, as an array."""
    return isinstance(last, Tensor) and last.shape == new.shape and last.device == new.device


def _unchanged(watch: Watch) -> bool:
    """Whether a recording holds; seldom more than one comparison."""
    try:
        now, then = watch.pairs
        return bool(now == then) or watch.holds()
    except Exception:  # of an array there is no one answer
        return False


def _watched(method: Method) -> Watch:
    return Watch((method.rule, method.metric, method.step_size))


def _tape(name: str, kind: Kind, sums: int | None, dtype: Any, *, shared: bool) -> Tape | None:
    """The tape of a function of `decision`, recorded once for each method; None where it cannot be."""
    method = kind.step.method
    dtype = np.dtype(str(dtype).removeprefix("torch."))
    key = (name, kind.columns, kind.decays, kind.diagonal, sums, dtype, shared)
    if key not in method.recorded:
        try:
            method.recorded[key] = _recorded(name, kind, sums, dtype, shared=shared)
        except Untraceable as error:
            method.recorded[key], method.not_recorded = None, str(error)
    found: Tape | None = method.recorded[key]
    return found


def _recorded(name: str, kind: Kind, sums: int | None, dtype: Any, *, shared: bool) -> Tape:
    """Recorded on a copy of rule, metric and step size, which is thrown away: nothing of theirs may hold a symbol."""
    try:
        method, kind = kind.step.method, replace(kind, step=Step(deepcopy(kind.step.method)))
    except Exception as error:
        raise Untraceable(f"a rule, metric or step size that cannot be copied ({error})") from error
    given = {"rows": Given(shape=(len(kind.columns),), finite=(STEP,))}
    if name == "decide":
        given |= {"sizes": Given()} if shared else {}
        given |= {"sums": Given(shape=(sums or 0,)), "lr": Given(), "decay": Given()}
        given |= {"loss": Given(per=SCOPE)} if kind.step.method.facts.needs_loss else {}
        seen = len(kind.step.method.observed)
        given |= {"observed": Given(per=SCOPE, shape=(seen,))} if seen else {}

    def function(scope: Scope, **arrays: Array) -> Arrays:
        return numbers(kind, scope, **arrays) if name == "numbers" else decide(kind, scope, **arrays)[0]

    method.recorded_with = method.recorded_with or _watched(method)  # after the copy, which notes slots in classes
    if not method.recorded_with.holds():
        raise Untraceable(CHANGED)
    watch = _watched(kind.step.method)
    with _chance_as_it_was():
        try:
            tape = record(function, given, shared=shared, per_scope=PER_SCOPE, dtype=dtype)
            _check(tape, function, shared=shared)
            if not watch.holds():
                raise Untraceable("a rule, metric or step size that changes something")
        finally:
            watch.restore()  # symbols may be in it
    return tape


@contextmanager
def _chance_as_it_was() -> Iterator[None]:
    """Random numbers that a recording asks for are not missing later."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=()):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def _check(tape: Tape, function: Callable[..., Arrays], *, shared: bool) -> None:
    """Play a tape beside its function, on random numbers of three units: no unit may depend on the others."""
    generator = np.random.default_rng(0)
    membership = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) if shared else np.eye(3)
    scopes = len(membership)
    given = {
        name: np.abs(generator.normal(size=(scopes if per == SCOPE else 3, *shape)))
        for name, (_, per, shape) in tape.given.items()
    }
    with np.errstate(all="ignore"):
        found = play(tape, given, np.argmax(membership, axis=0))
    scope = Scope(membership, sizes=given.pop("sizes", None)) if shared else Scope()
    try:
        with np.errstate(all="ignore"):
            right = function(scope, **given)
    except Exception as error:  # of three units: the rule may be for one
        raise Untraceable(f"{type(error).__name__} for several units: {error}") from error
    for name, value in right.items():
        if value.shape != found[name].shape or not np.allclose(value, found[name], rtol=1e-6, equal_nan=True):
            raise Untraceable(f"{name}, which depends on other units")
