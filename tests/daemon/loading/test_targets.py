from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from twisted_ws.daemon.loading import targets
from twisted_ws.daemon.loading.targets import describeInstalled, loadService
from twisted_ws.errors import ConfigurationError
from twisted_ws.services.demo import Demo

_SOURCE = '''
class Room:
    """A room.

    More about it.
    """

    def __init__(self, name="hall", *, size=1):
        if size < 0:
            raise ValueError("a negative size")
        self.name, self.size = name, size + 0

    class Inner:
        pass

class Bare:
    def __init__(self):
        len(5)

lobby = Room("lobby")
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A present directory with modules, which are forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    (tmp_path / "targetrooms.py").write_text(_SOURCE)
    yield tmp_path  # type: ignore[misc]
    for name in set(sys.modules) - before:
        if name.startswith("target"):
            del sys.modules[name]


def _refused(target: str, **options: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loadService(target, options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_installed() -> None:
    """An installed service is found by its name."""
    assert isinstance(loadService("demo", {}), Demo)


def test_aClassIsMade(place: Path) -> None:
    """A class in a module of the current directory is called with the options; a dotted name reaches into it."""
    room = loadService("targetrooms:Room", {"name": "attic", "size": 3})
    assert (room.name, room.size) == ("attic", 3)  # type: ignore[attr-defined]
    assert type(loadService("targetrooms:Room.Inner", {})).__name__ == "Inner"
    assert sys.path[0] == str(place)
    loadService("targetrooms:Room", {})
    assert sys.path.count(str(place)) == 1


def test_anObjectIsTaken(place: Path) -> None:
    """An object of a module is taken as it is, and takes no options."""
    assert loadService("targetrooms:lobby", {}) is sys.modules["targetrooms"].lobby
    assert _refused("targetrooms:lobby", size=1) == "The service targetrooms:lobby is not a class, so it takes no options: size."


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("targetrooms:Rom", "The module targetrooms has no Rom: did you mean Room?"),
        ("targetrooms:Xyzzy", "The module targetrooms has no Xyzzy."),
        (
            "targetnone:Room",
            (
                "The service targetnone:Room cannot be imported: ModuleNotFoundError: No module named 'targetnone' "
                "(searched the working directory, {}, and Python's package directories)."
            ),
        ),
        (
            "targetrooms.py:Room",
            "The service targetrooms.py:Room must be written as package.module:Name: write targetrooms:Room.",
        ),
        (
            "a/targetrooms.py:Room",
            "The service a/targetrooms.py:Room must be written as package.module:Name: write targetrooms:Room.",
        ),
        ("targetrooms:", "The service targetrooms: must be written as package.module:Name."),
        (":Room", "The service :Room must be written as package.module:Name."),
        ("dmo", "There is no installed service dmo: did you mean demo? Write package.module:Name, or see --help-services."),
        (
            "targetrooms",
            (
                "There is no installed service targetrooms: did you mean targetrooms:NAME? Write package.module:Name, "
                "or see --help-services."
            ),
        ),
        ("xyzzy", "There is no installed service xyzzy. Write package.module:Name, or see --help-services."),
    ],
)
def test_notFound(place: Path, target: str, line: str) -> None:
    """A name that is not found is reported with the nearest one, or with the correct form."""
    assert _refused(target) == line.format(place)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("x = 1\nimport targetmissing\n", "ModuleNotFoundError: No module named 'targetmissing' ({}:2)."),
        ("def f():\n    raise RuntimeError('no database')\nf()\n", "RuntimeError: no database ({}:2)."),
        ("def (:\n", "SyntaxError: invalid syntax (targetbroken.py, line 1)."),
        ("raise SystemExit(0)\n", "SystemExit: 0 ({}:1)."),
        (
            "from pathlib import Path\n\nPath('target.key').read_text()\n",
            "FileNotFoundError: [Errno 2] No such file or directory: 'target.key' ({}:3).",
        ),
    ],
)
def test_aModuleThatFails(place: Path, source: str, why: str) -> None:
    """A module that cannot be imported is reported with its error and line, even one that exits."""
    path = place / "targetbroken.py"
    path.write_text(source)
    assert _refused("targetbroken:Room") == "The service targetbroken:Room cannot be imported: " + why.format(path)


def test_aClassThatFails(place: Path) -> None:
    """A constructor that raises is reported with its error and line, and wrong options with what is wrong about them."""
    path = place / "targetrooms.py"
    cannot = "The service targetrooms:Room cannot be made"
    assert _refused("targetrooms:Room", size=-1) == f"{cannot}: ValueError: a negative size ({path}:10)."
    assert _refused("targetrooms:Room", colour="red") == "The service targetrooms:Room has no option colour."
    assert _refused("targetrooms:Room", sise=1) == "The service targetrooms:Room has no option sise: did you mean size?"
    assert _refused("channels", policy="newest") == (
        "The service channels cannot be made: policy must be close, drop-oldest or latest, not 'newest'."
    )
    assert _refused("targetrooms:Room", size="big") == (
        f"{cannot}: TypeError: '<' not supported between instances of 'str' and 'int' ({path}:9)."
    )
    assert "TypeError: object of type 'int' has no len()" in _refused("targetrooms:Bare")


def _installed(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [EntryPoint(name, value, targets.GROUP) for name, value in values.items()]
    monkeypatch.setattr(targets, "entry_points", lambda group: points)


def test_anInstalledOneThatFails(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed service that cannot be imported is reported by its name, and does not hide others in the list."""
    _installed(monkeypatch, room="targetrooms:Room", gone="targetgone:Room", bare="targetrooms:Bare")
    assert _refused("gone") == (
        "The installed service gone (targetgone:Room) cannot be imported: ModuleNotFoundError: No module named 'targetgone'."
    )
    monkeypatch.syspath_prepend(str(place))
    lines = describeInstalled().splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["bare", "targetrooms:Bare"],
        ["gone", "targetgone:Room"],
        ["room", "targetrooms:Room"],
    ]
    assert lines[1].endswith("targetrooms:Bare")
    assert "cannot be imported: ModuleNotFoundError" in lines[2]
    assert lines[3].endswith("A room.")
