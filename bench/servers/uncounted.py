"""twisted_ws without what it counts: what metrics cost is the difference. Takes the options of ``twisted-ws``.

Each module is compiled without the statements that add to `twisted_ws.telemetry.counts.Counts`: a scrape then reads 0.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import Any

# How the counts are called where something is added to them, and the methods that only do that.
NAMES = frozenset({"counts", "_counts"})
METHODS = frozenset({"_countPublication", "countRequest", "_countResume", "countHandshake"})
# A reading of the clock that only the counts need.
CLOCK = "countedFrom"


def _isOfCounts(node: ast.AST) -> bool:
    """Return whether an expression is an attribute of the counts, at any depth."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            return True
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id in NAMES


class _Strip(ast.NodeTransformer):
    """Leaves out statements that count.

    Attributes:
        count: how many.
    """

    def __init__(self) -> None:
        self.count = 0

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        """Leave out ``counts.x += 1``."""
        return self._without(node) if _isOfCounts(node.target) else node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        """Let what is counted from a reading of the clock be 0."""
        target = node.targets[0]
        if (target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")) != CLOCK:
            return node
        self.count += 1
        return ast.copy_location(ast.Assign(node.targets, ast.Constant(0.0)), node)

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        """Leave out ``counts.x.add(...)`` and ``self._count(...)``."""
        call = node.value
        if not isinstance(call, ast.Call):
            return node
        named = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        return self._without(node) if named in METHODS or _isOfCounts(call.func) else node

    def _without(self, node: ast.stmt) -> ast.stmt:
        self.count += 1
        return ast.copy_location(ast.Pass(), node)


def strip(source: bytes | str) -> tuple[ast.AST, int]:
    """Return a module without the statements that count, and how many those were."""
    stripper = _Strip()
    return ast.fix_missing_locations(stripper.visit(ast.parse(source))), stripper.count


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module without them, and keeps no compiled file."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:
        """Compile."""
        code: CodeType = compile(strip(data)[0], path, "exec", dont_inherit=True, optimize=_optimize)
        return code

    def get_code(self, fullname: str) -> CodeType:
        """Compile anew: the file beside the source has the whole module."""
        return self.source_to_code(self.get_data(self.path), self.path)


class _Finder:
    """Finds the modules of twisted_ws."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how a module is loaded."""
        if (
            name.partition(".")[0] != "twisted_ws"
            or name == "twisted_ws.telemetry.counts"
            or name.startswith("twisted_ws.engines")
        ):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(name, spec.origin)
        return spec


if __name__ == "__main__":
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
    from twisted_ws.daemon.main import main

    sys.exit(main())
