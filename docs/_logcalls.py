"""All log calls of the package, read from its source: which event, with which level and fields."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The methods of a logger. `Throttle.info` has the same keywords.
_METHODS = ("debug", "info", "warn", "error", "critical", "failure")
# What these return is the fields that they are named for.
_FIELDS_OF = {
    "ofRequest": ("peer", "path", "origin"),
    "ofCaller": ("connection", "peer", "path", "origin", "user"),
    "ofError": ("trace", "span"),
    "ofSpan": ("trace", "span"),
    "facts": ("connection", "service", "peer", "path", "origin", "user"),
}


@dataclass(frozen=True)
class LogCall:
    """One call.

    Attributes:
        place: file and line.
        level: its level.
        event: its word; None without one.
        names: of all its keywords.
        text: its text; "" if that is not a literal.
    """

    place: str
    level: str
    event: str | None
    names: tuple[str, ...]
    text: str


def logCalls(package: Path) -> Iterator[LogCall]:
    """Yield the log calls below a directory."""
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        dicts = {
            node.targets[0].id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _isLog(node.func, node):
                yield _read(node, node.func.attr, f"{path.relative_to(package)}:{node.lineno}", dicts)


def _isLog(function: ast.Attribute, call: ast.Call) -> bool:
    if function.attr not in (*_METHODS, "emit"):
        return False  # without `unparse`, which takes its time
    on = ast.unparse(function.value).rpartition(".")[2]
    if on == "throttle" or on == "_throttle":
        return function.attr == "info"
    return on in ("log", "_log", "logger", "Logger()")


def _read(call: ast.Call, method: str, place: str, dicts: dict[str, ast.Dict]) -> LogCall:
    event, names = None, []
    level = "critical" if method == "failure" else method
    for each in call.keywords:
        if each.arg == "event":
            assert isinstance(each.value, ast.Constant), f"{place}: the event is not a literal"
            event = each.value.value
        elif each.arg is not None:
            names.append(each.arg)
        elif isinstance(each.value, ast.Call):
            names += _FIELDS_OF[ast.unparse(each.value.func).rpartition(".")[2]]
        elif isinstance(each.value, ast.Name) and each.value.id in dicts:
            names += [key.value for key in dicts[each.value.id].keys if isinstance(key, ast.Constant)]
        else:
            raise AssertionError(f"{place}: the fields in {ast.unparse(each.value)} are not known")
    if method == "failure":
        names.append("traceback")
    if method == "info" and "hrottle" in ast.unparse(call.func):
        names.append("suppressed")
    texts = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return LogCall(place, level, event, tuple(names), texts[-1] if texts else "")
