"""Single changes of a file of the package: where they are, and what stands there afterwards."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2] / "proxmom"
CORE = (
    "planes.py",
    "solve.py",
    "active_set.py",
    "rules.py",
    "stepsize.py",
    "secant.py",
    "step/*.py",
    "metrics/*.py",
    "numpy/guard.py",
)

SWAPS: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
}
TWINS = {"minimum": "maximum", "min": "max", "any": "all", "argmin": "argmax"}
TWINS |= {right: left for left, right in TWINS.items()}
UNTOUCHED = (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Assert)  # what is said, not what is computed


@dataclass(frozen=True)
class Mutant:
    """A change: in a file of the package, the bytes from start to end become the text."""

    file: str
    line: int
    start: int
    end: int
    text: str
    code: str  # the line, stripped
    change: str
    number: int  # of equal changes on equal lines

    @property
    def key(self) -> str:
        """What it changes, wherever in the file that stands."""
        return f"{self.file}: {self.code}: {self.change}: {self.number}"

    def planted(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


# --- the changes -----------------------------------------------------------------------------------------------------


def _with(node: Any, **fields: Any) -> Any:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def changes(node: ast.AST) -> Iterator[tuple[Any, ast.AST]]:
    """Single changes of this node, those of its parts left out: what is replaced, and by what."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                for other in SWAPS[type(op)]:
                    yield node, _with(node, ops=[*ops[:i], other(), *ops[i + 1 :]])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op):
            for other in SWAPS.get(type(op), []):
                yield node, _with(node, op=other())
        case ast.UnaryOp(operand=operand):
            yield node, operand
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from ((node, ast.Constant(value + by)) for by in (1, -1))
        case ast.Constant(value=float(value)):
            yield node, ast.Constant(2 * value if value else 1.0)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield node, ast.IfExp(test, orelse, body)
        case ast.If(test=test) | ast.While(test=test) if not isinstance(test, ast.UnaryOp):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Call(func=ast.Attribute(attr="where") as func, args=[condition, one, two]):
            yield node, ast.Call(func, [condition, two, one], node.keywords)
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in TWINS:
            yield node, _with(node, **{"attr" if isinstance(node, ast.Attribute) else "id": TWINS[name]})
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield value, ast.Constant(None)
        case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, ast.Pass()
    if isinstance(node, ast.AugAssign):
        yield node, ast.Pass()


def visit(node: ast.AST) -> Iterator[tuple[Any, ast.AST]]:
    """Changes of this node and of its parts; types, decorators and messages are left alone."""
    if isinstance(node, UNTOUCHED):
        return
    yield from changes(node)
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for part in field if isinstance(field, list) else [field]:
            if isinstance(part, ast.AST):
                yield from visit(part)


def mutants(path: Path, package: Path) -> Iterator[Mutant]:
    """All changes of a file."""
    source = path.read_bytes()
    lines = source.splitlines(keepends=True)
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line))
    seen: Counter[tuple[str, str]] = Counter()
    for old, new in visit(ast.parse(source)):
        start, end = begins[old.lineno - 1] + old.col_offset, begins[old.end_lineno - 1] + old.end_col_offset
        code, text = lines[old.lineno - 1].decode().strip(), ast.unparse(new)
        change = f"{ast.unparse(old)} -> {text}"
        seen[code, change] += 1
        spliced = f"({text})" if isinstance(new, ast.expr) else text
        name = path.relative_to(package).as_posix()
        yield Mutant(name, old.lineno, start, end, spliced, code, change, seen[code, change])


def everything() -> list[Mutant]:
    """All changes of the core."""
    return [mutant for glob in CORE for path in sorted(PACKAGE.glob(glob)) for mutant in mutants(path, PACKAGE)]
