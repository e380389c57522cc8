"""Every mutant of a C file, made from its lines as this project writes them (GNU style).

    drop        a call, an assignment, a break or continue
    swap        two statements that follow each other, one of them a call
    negate      the condition of an if or while
    operand     one operand of && or || in such a condition left out; `+ 1`, `- 1` left out
    bound       < and <=, > and >=, == and != exchanged
    logic       && and || exchanged elsewhere
    first only  a counting loop for its first turn alone, without it, or without the last
    return      0 for what is returned, which ignores an error
    flag        true and false exchanged
    order       the two ways of a conditional expression exchanged

Left out: declarations, asserts, locks (the thread sanitizer's work), and what only frees memory.
No parser: a mutant that does not compile is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from mutantslib.mutant import Change

_MASKED = re.compile(
    rb'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^\#(?:\\\n|[^\n])*',
    re.DOTALL | re.MULTILINE,
)
_STATEMENT = re.compile(rb"(?<=\n)( +)([^\s{}#;][^;{}]*;)(?=[ \t]*(?:\n|$))")
_DECLARATION = re.compile(
    rb"(?:const|static|struct|enum|unsigned|signed|int|bool|char|void|long|double|size_t|ssize_t"
    rb"|off_t|nfds_t|ptrdiff_t|_Atomic|_Thread_local|pthread_\w+_t|\w+_t)\b[^=(]*[\w*]\s*[=;,\[(]"
)
_LEFT_ALONE = re.compile(
    rb"(?:assert|free|pthread_mutex_\w+|pthread_cond_destroy|munmap|madvise|close|return|goto|case"
    rb"|default|do|else|for|while|if|switch)\b|\(void\)"
)
_HEADER = re.compile(rb"\b(if|while) \(")
_COUNTING = re.compile(rb"for \(([^;()]*=) 0; (?:([^;&|()]*)( && ))?(\w+) < ([^;&|]+); \w+\+\+\)")
_RELATION = re.compile(rb"(?<= )(<=|>=|==|!=|<|>)(?= )")
_OTHER = {b"<": b"<=", b"<=": b"<", b">": b">=", b">=": b">", b"==": b"!=", b"!=": b"=="}
_LOGIC = re.compile(rb"(?<=\s)(&&|\|\|)(?=\s)")
_ONE = re.compile(rb" [+-] 1\b")
_FLAG = re.compile(rb"\b(true|false)\b")
_RETURN = re.compile(rb"\breturn ([^;]+);")
_TERNARY = re.compile(rb"([^?:;=(){}]+) \? ([^?:;(){}]+) : ([^?:;(){},]+)(?=[;,)])")


def mask(source: bytes) -> bytes:
    """The same length, with blanks for comments, texts and the preprocessor's lines."""
    return _MASKED.sub(lambda m: re.sub(rb"[^\n]", b" ", m[0]), source)


def changes(source: bytes) -> Iterator[Change]:
    masked = mask(source)
    for start, end in _bodies(masked):
        yield from _statements(source, masked, start, end)
        for rule in (_conditions, _loops, _returns, _words):
            yield from rule(source, masked, start, end)


def _bodies(masked: bytes) -> Iterator[tuple[int, int]]:
    """Of functions: a brace that opens a line, and the one that closes it."""
    for found in re.finditer(rb"\)\n\{\n(.*?\n)\}\n", masked, re.DOTALL):
        yield found.start(1) - 1, found.end(1)


def _closing(masked: bytes, at: int) -> int:
    """Behind the parenthesis that closes the one at `at`."""
    depth = 0
    while True:
        depth += {b"(": 1, b")": -1}.get(masked[at : at + 1], 0)
        at += 1
        if depth == 0:
            return at


def _begins(masked: bytes, at: int) -> bool:
    """Whether a statement begins here: behind another, a brace, or a header."""
    before = masked[:at].rstrip()
    if before.endswith((b";", b"{", b"}", b":")) or re.search(rb"\b(else|do)$", before):
        return True
    if not before.endswith(b")"):
        return False
    depth, place = 0, len(before)
    while place:
        place -= 1
        depth += {b")": 1, b"(": -1}.get(before[place : place + 1], 0)
        if depth == 0:
            break
    return bool(re.search(rb"\b(if|for|while) $", before[:place]))


def _statements(source: bytes, masked: bytes, start: int, end: int) -> Iterator[Change]:
    found = [m for m in _STATEMENT.finditer(masked, start, end) if _begins(masked, m.start(2))]
    plain = [m for m in found if not _DECLARATION.match(m[2]) and not _LEFT_ALONE.match(m[2])]
    for one in plain:
        yield Change("drop", *one.span(2), b";")
    for first, second in pairwise(plain):
        adjacent = not masked[first.end(2) : second.start(2)].strip()
        header = masked[: first.start(2)].rstrip().endswith((b")", b"else"))
        ordered = b" (" in first[2] + second[2] and second[2] not in (b"break;", b"continue;")
        if adjacent and first[1] == second[1] and not header and ordered:
            between = source[first.end(2) : second.start(2)]
            fresh = source[slice(*second.span(2))] + between + source[slice(*first.span(2))]
            yield Change("swap", first.start(2), second.end(2), fresh)


def _conditions(source: bytes, masked: bytes, start: int, end: int) -> Iterator[Change]:
    for found in _HEADER.finditer(masked, start, end):
        begin, close = found.end(), _closing(masked, found.end() - 1) - 1
        text = source[begin:close]
        yield Change("negate", begin, close, b"!(" + text + b")")
        parts = list(_operands(masked, begin, close))
        for left_out in parts if len(parts) > 1 else ():
            rest = [p for p in parts if p is not left_out]
            words = [b"(" + source[a:b] + b")" for a, b in rest]
            yield Change("operand", begin, close, _operator(masked, parts).join(words))


def _operands(masked: bytes, begin: int, close: int) -> Iterator[tuple[int, int]]:
    """What && or || joins at the outermost level, if it is one of the two."""
    depth, cuts = 0, []
    for at in range(begin, close):
        depth += {b"(": 1, b")": -1}.get(masked[at : at + 1], 0)
        if depth == 0 and masked[at : at + 2] in (b"&&", b"||"):
            cuts.append(at)
    if len({masked[at : at + 2] for at in cuts}) != 1:
        return
    edges = [begin - 2, *cuts, close]
    for one, other in pairwise(edges):
        yield one + 2, other


def _operator(masked: bytes, parts: list[tuple[int, int]]) -> bytes:
    return b" " + masked[parts[0][1] : parts[0][1] + 2] + b" "


def _loops(source: bytes, masked: bytes, start: int, end: int) -> Iterator[Change]:
    for found in _COUNTING.finditer(masked, start, end):
        at, bound = found.end(1), found.span(5)
        yield Change("all but the first", at, at + 2, b" 1")
        yield Change("first only", *bound, b"1")
        yield Change("all but the last", *bound, source[slice(*bound)] + b" - 1")


def _returns(source: bytes, masked: bytes, start: int, end: int) -> Iterator[Change]:
    del source
    for found in _RETURN.finditer(masked, start, end):
        if found[1] not in (b"0", b"NULL", b"true", b"false"):
            yield Change("return", *found.span(1), b"0")


def _words(source: bytes, masked: bytes, start: int, end: int) -> Iterator[Change]:
    for found in _RELATION.finditer(masked, start, end):
        yield Change("bound", *found.span(), _OTHER[found[0]])
    for found in _LOGIC.finditer(masked, start, end):
        yield Change("logic", *found.span(), b"||" if found[0] == b"&&" else b"&&")
    for found in _ONE.finditer(masked, start, end):
        yield Change("operand", *found.span(), b"")
    for found in _FLAG.finditer(masked, start, end):
        yield Change("flag", *found.span(), b"false" if found[0] == b"true" else b"true")
    for found in _TERNARY.finditer(masked, start, end):
        yes, no = source[slice(*found.span(2))], source[slice(*found.span(3))]
        yield Change("order", found.start(2), found.end(3), no + b" : " + yes)
