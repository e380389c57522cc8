"""Every mutant of a Python file, made from its syntax tree: only bodies of functions are changed.

    drop        a call, an assignment to an attribute or element, a `raise`, a `del`
    swap        two statements that follow each other, one of them a call
    negate      the condition of an if, a while, a conditional expression
    operand     one operand of `and`, `or`, `|`, `-`, `+ 1`, `max`, `min` left out
    bound       < and <=, > and >=, == and != exchanged
    first only  a loop, or a comprehension, over its first element alone, or over all but it
    flag        True and False exchanged
    constant    what a function that returns bool returns

Left out: texts and types; locks, whose loss no test shows for certain; what is only said
(`say`), closed, or printed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from mutantslib.mutant import Change

_SAID = re.compile(r"(\.|^)(say|close|print_exc|__init__|refused|missed_freeze)$")
_NO_MATTER = re.compile(rb"\.errno or |\bos\.O_")  # an error has a number; flags of open
_COMPARISONS = {
    ast.Lt: b"<=",
    ast.LtE: b"<",
    ast.Gt: b">=",
    ast.GtE: b">",
    ast.Eq: b"!=",
    ast.NotEq: b"==",
    ast.In: b"not in",
    ast.NotIn: b"in",
    ast.Is: b"is not",
    ast.IsNot: b"is",
}


class _Source:
    """Where the nodes of a tree stand in the bytes."""

    def __init__(self, source: bytes) -> None:
        self.bytes = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> bytes:
        start, end = self.span(node)
        return self.bytes[start:end]

    def put(self, rule: str, node: ast.expr | ast.stmt, new: bytes) -> Change:
        return Change(rule, *self.span(node), new)


def changes(source: bytes) -> Iterator[Change]:
    at = _Source(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            for statement in node.body:
                yield from _inside(at, statement)
            yield from _blocks(at, node)
            if isinstance(node.returns, ast.Name) and node.returns.id == "bool":
                yield from _constants(at, node)


def _inside(at: _Source, node: ast.AST) -> Iterator[Change]:
    """Of one statement and what is in it, but for other functions' and annotations."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.JoinedStr):
        return
    if isinstance(node, ast.stmt):
        yield from _blocks(at, node)
    if isinstance(node, ast.expr):
        yield from _expression(at, node)
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield at.put("negate", node.test, b"not (" + at.text(node.test) + b")")
    if isinstance(node, ast.For | ast.comprehension):
        text = at.text(node.iter)
        yield at.put("first only", node.iter, b"list(" + text + b")[:1]")
        yield at.put("all but the first", node.iter, b"list(" + text + b")[1:]")
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield at.put("negate", test, b"not (" + at.text(test) + b")")
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _inside(at, child)


def _expression(at: _Source, node: ast.expr) -> Iterator[Change]:
    if _NO_MATTER.search(at.text(node)):
        return
    match node:
        case ast.BoolOp(values=values):
            word = b" and " if isinstance(node.op, ast.And) else b" or "
            for left_out in values:
                rest = [b"(" + at.text(v) + b")" for v in values if v is not left_out]
                yield at.put("operand", node, b"(" + word.join(rest) + b")")
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            if other := _COMPARISONS.get(type(operator)):
                fresh = at.text(left) + b" " + other + b" " + at.text(right)
                yield at.put("bound", node, fresh)
        case ast.BinOp(left=left, op=ast.BitOr() | ast.Sub(), right=right):
            yield at.put("operand", node, b"(" + at.text(left) + b")")
            if isinstance(node.op, ast.BitOr):
                yield at.put("operand", node, b"(" + at.text(right) + b")")
        case ast.BinOp(left=left, op=ast.Add(), right=ast.Constant(value=int())):
            yield at.put("operand", node, b"(" + at.text(left) + b")")
        case ast.Call(func=ast.Name(id="max" | "min"), args=[first, second], keywords=[]):
            for kept in (first, second):
                yield at.put("operand", node, b"(" + at.text(kept) + b")")
        case ast.Constant(value=bool()):
            yield at.put("flag", node, b"False" if node.value else b"True")


def _is_said(at: _Source, statement: ast.Expr) -> bool:
    call = statement.value
    return isinstance(call, ast.Call) and bool(_SAID.search(at.text(call.func).decode()))


def _may_go(at: _Source, statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call()):
            return not _is_said(at, statement)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.AugAssign():
            return True
    return isinstance(statement, ast.Raise | ast.Delete)


def _blocks(at: _Source, node: ast.AST) -> Iterator[Change]:
    for field in ("body", "orelse", "finalbody", "handlers"):
        block = getattr(node, field, [])
        if not isinstance(block, list):
            continue
        for handler in block if field == "handlers" else ():
            yield from _blocks(at, handler)
        for statement in block:
            if isinstance(statement, ast.stmt) and _may_go(at, statement):
                yield at.put("drop", statement, b"pass")
        for first, second in pairwise(block):
            if _may_swap(at, first, second):
                (start, middle), (again, end) = at.span(first), at.span(second)
                between = at.bytes[middle:again]
                fresh = at.text(second) + between + at.text(first)
                if b"#" not in between:
                    yield Change("swap", start, end, fresh)


def _may_swap(at: _Source, first: ast.AST, second: ast.AST) -> bool:
    """Not where the one names what the other uses: that fails at once."""
    both = [first, second]
    if not all(isinstance(s, ast.Expr | ast.Assign | ast.AugAssign) for s in both):
        return False
    if any(isinstance(s, ast.Expr) and (_is_said(at, s) or not _may_go(at, s)) for s in both):
        return False
    if not any(isinstance(n, ast.Call) for s in both for n in ast.walk(s)):
        return False
    stored = [_names(s, ast.Store) for s in both]
    loaded = [_names(s, ast.Load) for s in both]
    return not (stored[0] & (loaded[1] | stored[1]) or stored[1] & loaded[0])


def _names(node: ast.AST, kind: type[ast.expr_context]) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)}


def _constants(at: _Source, node: ast.FunctionDef) -> Iterator[Change]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Return) and inner.value is not None:
            known = isinstance(inner.value, ast.Constant)
            for word in () if known else (b"True", b"False"):
                yield at.put("constant", inner.value, word)
