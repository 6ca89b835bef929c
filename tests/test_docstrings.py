"""Public names say what they take: every argument by name, arrays with their shape, numbers with their range, errors.

What counts as said is generous (a word for a range, a bracket for a shape), so that what fails is really missing.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

MODULES = (
    *(
        "proxmom",
        "proxmom.numpy",
        "proxmom.torch",
        "proxmom.verify",
        "proxmom.testing",
        "proxmom.draw",
        "proxmom.bench",
    ),
    *("proxmom.planes", "proxmom.now", "proxmom.rules", "proxmom.metrics", "proxmom.stepsize", "proxmom.step"),
    *("proxmom.lookup", "proxmom.solve", "proxmom.certify", "proxmom.reference", "proxmom.kernels"),
    "proxmom.numpy.optimizer",
)
REFERENCE = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
WHOLE = set(re.findall(r"automodule:: (\S+)\n +:members:$", REFERENCE, flags=re.MULTILINE))  # documented without a list
RANGE = re.compile(r"[<>≥≤\[]|\bin\b|\bfinite\b|\bany\b|\bdefault\b|\bas (?:for|in|above)\b|\bone of\b|\bnumbers?\b")
SHAPE = re.compile(r"\([^)]*[A-Z.,n][^)]*\)|\bshape[ds]?\b|\b0-dim\b|\bas (?:for|in)\b|\bcoefficients\b")


def public() -> Iterator[tuple[str, Any]]:
    """(name, class or function) of all that a module offers, and the methods of those classes; each thing once."""
    seen: set[int] = set()
    for module in map(importlib.import_module, MODULES):
        for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
            thing = getattr(module, name)
            home = getattr(thing, "__module__", "")
            own = home in WHOLE or (home.startswith("proxmom") and re.search(rf"\b{name}\b", REFERENCE))
            if own and (inspect.isclass(thing) or inspect.isfunction(thing)) and id(thing) not in seen:
                seen.add(id(thing))
                yield f"{thing.__module__}.{name}", thing
                yield from methods(thing)


def methods(kind: Any) -> Iterator[tuple[str, Any]]:
    if not inspect.isclass(kind):
        return
    for name, method in vars(kind).items():
        plain = method.__func__ if isinstance(method, classmethod | staticmethod) else method
        if not name.startswith("_") and inspect.isfunction(plain) and plain.__doc__:
            yield f"{kind.__module__}.{kind.__name__}.{name}", plain


def missing(thing: Any) -> list[str]:
    """What the docstring of a class or function does not say."""
    text = inspect.cleandoc(thing.__doc__ or "")
    if not text or text.startswith(f"{thing.__name__}("):
        return ["a docstring of its own"]
    found = []
    record = dataclasses.is_dataclass(thing) and "__post_init__" not in vars(thing)  # what comes out, not what goes in
    for argument in arguments(thing):
        said = entry(text, argument.name)
        if record and (beside := comment(thing, argument.name)):
            said = f"{said} {beside}"
        annotation = str(argument.annotation)
        if said is None:
            found.append(f"the argument {argument.name}")
        elif (
            not record
            and argument.name != "loss"
            and re.search(r"\b(?:float|int)\b", annotation)
            and not RANGE.search(said)
        ):
            found.append(f"the range of {argument.name}")
        elif re.fullmatch(r"Array|Tensor|NDArray.*|Vector", annotation) and not SHAPE.search(said):
            found.append(f"the shape of {argument.name}")
    found += [f"{error}, which it raises" for error in sorted(raised(thing)) if error not in text]
    return found


def arguments(thing: Any) -> list[inspect.Parameter]:
    """The arguments that a caller gives; of classes those of the constructor, if it is their own."""
    if inspect.isclass(thing):
        if issubclass(thing, tuple) or getattr(thing, "_is_protocol", False):
            return []
        if not (dataclasses.is_dataclass(thing) or "__init__" in vars(thing)):
            return []
        parameters = list(inspect.signature(thing.__init__).parameters.values())[1:]
    else:
        parameters = [p for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "cls")]
        if len(parameters) <= 1 and "." in thing.__qualname__:
            return []  # a method of one argument says it in its sentence
    return parameters


def entry(text: str, name: str) -> str | None:
    """What is said of an argument: its line in Args with those below that are further in, or any sentence with it."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        head = re.match(r"^( *)(\**\w+(?:, \**\w+)*):", line)
        if head and name in re.split(r"[,* ]+", head[2]):
            rest = lines[number + 1 :]
            deeper = [n for n in rest if n.strip()]
            below = []
            for following in deeper:
                if len(following) - len(following.lstrip()) <= len(head[1]):
                    break
                below.append(following)
            return "\n".join([line, *below])
    sentences = [line for line in re.split(r"(?<=[.;])\s", text) if re.search(rf"\b{re.escape(name)}\b", line)]
    return " ".join(sentences) or None


def comment(kind: Any, name: str) -> str | None:
    """What stands behind a field of a record, or that its name is its type's: `rule: Rule`."""
    said = re.search(rf"^    {name}: (.*)$", inspect.getsource(kind), flags=re.MULTILINE)
    return said[1] if said and ("#" in said[1] or said[1].lower().startswith(name)) else None


def raised(thing: Any) -> set[str]:
    """The errors that a function, or a class on construction, raises in its own lines."""
    function = thing
    if getattr(thing, "_is_protocol", False):
        return set()
    if inspect.isclass(thing):
        function = vars(thing).get("__post_init__") or vars(thing).get("__init__")
    if function is None or not inspect.isfunction(function):
        return set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:
        return set()
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    return {name for name in names if name.endswith("Error") and name != "AssertionError"}


ALL = dict(public())


@pytest.mark.parametrize("name", ALL)
def test_a_public_name_says_what_it_takes(name: str) -> None:
    left = missing(ALL[name])
    assert not left, f"{name} does not say: {'; '.join(left)}"


def silent(width: float, height: float = 1.0) -> None:
    """Does something with its width."""


def unbounded(width: float) -> None:
    """Does something.

    Args:
        width: how wide.
    """


def shapeless(weights: Array, count: int) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Does something.

    Args:
        weights: of the planes.
        count: in [1, 4].
    """


def refusing(count: int) -> None:
    """Does something.

    Args:
        count: in [1, 4].
    """
    if count > 4:
        raise ValueError("too many")


def speaking(weights: Array, count: int) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Does something.

    Args:
        weights: of the planes, (..., K).
        count: in [1, 4].

    Raises:
        ValueError: for more.
    """
    if count > 4:
        raise ValueError("too many")


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (silent, ["the range of width", "the argument height"]),
        (unbounded, ["the range of width"]),
        (shapeless, ["the shape of weights"]),
        (refusing, ["ValueError, which it raises"]),
        (speaking, []),
    ],
)
def test_the_check_can_fail(thing: Callable[..., None], expected: list[str]) -> None:
    assert missing(thing) == expected
