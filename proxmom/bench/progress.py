"""A progress bar where tqdm is installed and somebody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def watched(items: Sequence[T], describe: Callable[[T], str]) -> Iterator[T]:
    """The items, with a bar on standard error that says which is at work; without a terminal just the items."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield from items
        return
    with tqdm(total=len(items), disable=None, leave=False, file=sys.stderr) as bar:
        for item in items:
            bar.set_description(describe(item))
            yield item
            bar.update()
