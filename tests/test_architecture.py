from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "twisted_ws"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# From the top down: a module may import from its own room and from rooms below it, for annotations too. Rooms on one level do not
# know each other. A module belongs to the longest of these names that its own begins with.
LEVELS = (
    ("__main__",),
    ("commands", "testing"),
    ("daemon",),
    ("web.admin",),
    ("client", "outbox", "web.api", "web.pages"),
    ("client.websocket", "web.channels"),
    ("client.http",),
    ("client.credentials",),
    ("client.errors",),
    ("web.folder", "web.http", "web.scripts"),
    ("services",),
    ("inspection",),
    ("metrics",),
    ("server",),
    ("channels",),
    ("access",),
    ("engines.redis",),
    ("engines.redis.server",),
    ("engines",),
    ("dispatch",),
    ("wire.frontdoor",),
    ("wire.websocket",),
    ("wire.lane",),
    ("wire.tls",),
    ("wire.door",),
    ("wire.loop",),
    ("wire.speedups",),
    ("caller",),
    ("connection", "upgrade"),
    ("frames", "identity", "service"),
    ("message",),
    ("telemetry",),
    ("closecodes", "exposure", "limits", "logs", "names", "spelling", "usage"),
    ("errors",),
)
# These name in annotations what is above them, each for the reason beside it.
EXCEPTIONS = {
    # The attribute `server` of a service is the whole server.
    "service": ("server",),
}
# Read by nobody below the top: their names are those of the whole package.
EVERYWHERE = ("twisted_ws.__version__",)


def name(path):
    """Return the dotted name of a module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def parsed(path):
    """Return a module as Python reads it."""
    return ast.parse(path.read_text())


@functools.cache
def room(dotted):
    """Return the room of a module, "" for the package itself."""
    below = dotted.removeprefix("twisted_ws").lstrip(".")
    rooms = [each for rooms in LEVELS for each in rooms if below == each or below.startswith(each + ".")]
    return max(rooms, key=len, default="")


@functools.cache
def level(of):
    """Return how far up a room is: 0 is the lowest."""
    (found,) = [n for n, rooms in enumerate(reversed(LEVELS)) if of in rooms]
    return found


def isTypeChecking(node):
    """Say whether an `if` is for type checkers only."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree, annotations=False):
    """Yield the names of all modules that a module imports, at its head or later; those for type checkers with `annotations`."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isTypeChecking(node) and not annotations:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def goesUp(mine, imported, atRuntime):
    """Say whether an import of a room leads to one that it must not know."""
    if not imported.startswith("twisted_ws.") or imported in EVERYWHERE:
        return False
    theirs = room(imported)
    excused = imported not in atRuntime and theirs in EXCEPTIONS.get(mine, ())
    return not (theirs == mine or level(theirs) < level(mine) or excused)


def test_importsPointDown():
    """A module imports from its own room and from those below: what is below can be read, tested and used without it."""
    wrong = []
    for path in MODULES:
        mine = room(name(path))
        if not mine:
            continue  # the package gathers the public names of all rooms
        atRuntime = {*imports(parsed(path))}
        wrong += [
            f"{name(path)} imports {each}" for each in imports(parsed(path), annotations=True) if goesUp(mine, each, atRuntime)
        ]
    assert wrong == []


def test_described():
    """A module says in its first line what it is for, and so does each public class and function in it."""
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    silent = []
    for path in MODULES:
        tree = parsed(path)
        public = [each for each in tree.body if isinstance(each, definitions) and not each.name.startswith("_")]
        silent += [f"{name(path)}: {getattr(each, 'name', '')}" for each in (tree, *public) if not ast.get_docstring(each)]
    assert silent == []


def test_onlyTheWireKnowsAutobahn():
    """Autobahn is one room's business, and of the client only one module's."""
    for path in MODULES:
        known = [imported for imported in imports(parsed(path)) if imported.split(".")[0] in ("autobahn", "txaio")]
        assert not known or room(name(path)) == "wire.websocket" or name(path) == "twisted_ws.client.websocket.autobahn"


def inFreshPython(code):
    """Run code in a Python of its own and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_noDefaultsInDictionaries():
    """Where connections are kept, no dictionary is asked to `setdefault`.

    Where memory is short for it, CPython 3.13 and later count an entry that is not there, and crash with the next one that comes.
    """
    paths = [path for path in MODULES if room(name(path)).startswith(("wire.", "dispatch", "channels"))]
    assert paths
    for path in paths:
        called = [node.attr for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)]
        assert "setdefault" not in called, path


@pytest.mark.exhaustive
def test_noReactor():
    """No module installs a reactor when it is imported: that is the choice of whoever runs it."""
    names = [name(path) for path in MODULES if path.stem not in ("__main__", "tap")]
    code = f"import importlib, sys\nfor name in {names!r}:\n importlib.import_module(name)\n"
    code += " assert 'twisted.internet.reactor' not in sys.modules, name\nprint('none')"
    assert inFreshPython(code) == "none"


def test_serviceAuthors():
    """Whoever only writes a service does not wait for Autobahn to load."""
    code = "import sys, twisted_ws; from twisted_ws import WebSocketService, Reject, dispatches; print('autobahn' in sys.modules)"
    assert inFreshPython(code) == "False"


def test_thePlugin():
    """The drop-in that every twistd on the machine imports imports nothing of this package itself."""
    drops = sorted((PACKAGE.parent / "twisted" / "plugins").glob("*.py"))
    assert [path.name for path in drops] == ["wsservice_plugin.py"]
    assert not [i for i in imports(parsed(drops[0])) if not i.startswith("twisted.")]
    # With one of these, ours would shadow the real package, or not be found at all.
    assert not list((PACKAGE.parent / "twisted").rglob("__init__.py"))
