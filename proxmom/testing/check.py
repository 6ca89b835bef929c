"""`check_optimizer`: all rows of the table, one after another."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from proxmom.testing.report import FAIL, NOT_APPLICABLE, PASS, Report, Result
from proxmom.testing.row import Failure, Row
from proxmom.testing.subject import Factory, NotApplicable, Subject, examine, first_line
from proxmom.testing.table import ROWS


def check_optimizer(
    factory: Factory,
    *,
    needs_loss: bool | None = None,
    rows: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    progress: Callable[[], Any] | None = None,
) -> Report:
    """Ask every question of the table of one optimizer. Runs on the CPU, in a few seconds.

    Args:
        factory: factory(params) -> torch.optim.Optimizer, where params is a list of parameters or of groups (dicts). A
            class or `functools.partial(Class, lr=0.1)` is best: options such as lr, maximize and foreach, where the
            factory takes them, are tried too. The lr should be one with which a quadratic of curvature 1 falls.
        needs_loss: whether a step needs the loss; by default the suite finds out. Where step() takes `loss`, or the
            optimizer has observe(loss), the loss is always given. All losses are >= 0.
        rows: names from `ROWS` to check; default all. skip: names to leave out.
        progress: called after each row.

    Returns:
        a `Report`. A row is "not applicable" where the optimizer does not offer, or refuses, what the row asks for.

    Raises:
        ValueError: for a name that is no row; TypeError: if the factory returns something else. What the factory raises
            for plain matrices goes through.
    """
    chosen = _names(ROWS if rows is None else rows)
    left = [ROWS[name] for name in chosen if name not in _names(skip)]
    results = []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        subject = examine(factory, needs_loss)
        for row in left:
            results.append(_ask(row, subject))
            if progress is not None:
                progress()
    return Report(subject.name, subject.needs_loss, tuple(results))


def _names(names: Iterable[str]) -> list[str]:
    names = list(names)
    for name in names:
        if name not in ROWS:
            raise ValueError(f"a row must be one of {', '.join(map(repr, ROWS))}, got {name!r}.")
    return names


def _ask(row: Row, subject: Subject) -> Result:
    start = time.perf_counter()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome, message = _outcome(row, subject)
    return Result(row.name, outcome, message, time.perf_counter() - start)


def _outcome(row: Row, subject: Subject) -> tuple[str, str]:
    try:
        return PASS, row.check(subject) or ""
    except NotApplicable as reason:
        return NOT_APPLICABLE, str(reason)
    except Failure as failure:
        return FAIL, str(failure)
    except Exception as error:  # whatever the optimizer raises is an answer
        return FAIL, f"{type(error).__name__}: {first_line(error)}"
