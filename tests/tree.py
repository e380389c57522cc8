"""A digest of what decides how a schedule goes: a record of schedules counts for that only.

It is of the simulator, of the modules of production that it imports, also by way of others, and of
the core.  Comments, docstrings and layout decide nothing.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|/\*.*?\*/', re.DOTALL)  # or a string, which stays
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def digest(root: Path, production: Path) -> str:
    """Of the simulator in the checkout at `root`, and of these sources of production."""
    whole = hashlib.sha256()
    todo, found = set((root / "tests/sim").glob("*.py")), set[Path]()
    while todo:
        found |= todo
        modules = [_module(path) for path in sorted(todo)]
        for module in modules:
            whole.update(ast.dump(module).encode())
        named = {production / name for module in modules for name in _imported(module)}
        todo = {path for path in named if path.exists()} - found
    core = [*production.glob("native/*.[ch]"), *(root / "tests/sim/native").iterdir()]
    for path in sorted(core, key=lambda path: path.name):
        if path.name != "_native.c":
            words = _COMMENT.sub(r"\1", path.read_text()).split()
            whole.update(" ".join([path.name, *words]).encode())
    return whole.hexdigest()[:16]


def _module(path: Path) -> ast.Module:
    """Without docstrings."""
    module = ast.parse(path.read_text())
    for node in ast.walk(module):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
            del node.body[0]
    return module


def _imported(module: ast.Module) -> Iterator[str]:
    """Files of mirror_core that it may import; there need not be any."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{one.name}" for one in node.names] + [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "mirror_core":
                path = name.replace(".", "/")
                yield from (f"{path}.py", f"{path}/__init__.py")
