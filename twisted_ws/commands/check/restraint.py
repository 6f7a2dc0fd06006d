"""While settings are checked: nothing that services or settings do may change a file, open a port or start anything."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Events of Python's audit hooks (PEP 578) that change something, and what is said of them; {} is the first argument.
_CHANGES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "shutil.rmtree"), "remove {}"),
    **dict.fromkeys(("os.rename", "shutil.move"), "rename {}"),
    **dict.fromkeys(("os.mkdir", "os.link", "os.symlink", "shutil.copytree"), "make {}"),
    **dict.fromkeys(("os.chmod", "os.chown", "os.truncate", "os.utime", "os.setxattr", "os.removexattr"), "change {}"),
    "sqlite3.connect": "open the database {}",
}
_STARTS = {
    **dict.fromkeys(("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"), "run {}"),
    **dict.fromkeys(("os.system",), "run {}"),
    **dict.fromkeys(("os.fork", "os.forkpty"), "fork"),
    "os.kill": "send a signal",
    "os.killpg": "send a signal",
    "socket.bind": "open a port",
}
_ASKS = dict.fromkeys(("socket.connect", "socket.sendto", "socket.sendmsg"), "connect to another program")
_active: Restraint | None = None
_isInstalled = False


class Withheld(PermissionError):
    """Something was about to be changed or started."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EPERM, f"twisted-ws check does not let anything {what}")


class Restraint:
    """Refuses, within ``with``, what would change something: whoever tries gets a `PermissionError`.

    It holds back honest code that does its work too early; code in C, or code that means harm, is not held back.

    Attributes:
        refused: what was tried, in words such as ``write /tmp/x``.
        count: how often something was tried.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.count = 0
        self._isQuiet = False
        self._before: tuple[Restraint | None, bool] = None, False

    def __enter__(self) -> Self:
        global _active, _isInstalled
        if not _isInstalled:
            _isInstalled = True
            sys.addaudithook(_hook)  # which cannot be taken away again
        # Compiled modules would be written beside each source.
        self._before = _active, sys.dont_write_bytecode
        sys.dont_write_bytecode = True
        _active = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        global _active
        _active, sys.dont_write_bytecode = self._before

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Refuse as before, but note nothing: for what only looks whether it could, and what is known to try in vain."""
        self._isQuiet = True
        try:
            yield
        finally:
            self._isQuiet = False

    def refuse(self, what: str) -> Withheld:
        """Note what was tried, and return the error for it."""
        if not self._isQuiet:
            self.count += 1
            if what not in self.refused:
                self.refused.append(what)
        return Withheld(what)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    restraint = _active
    if restraint is None:
        return
    judge = _JUDGES.get(event)
    if judge is not None and (what := judge(arguments)):
        raise restraint.refuse(what)


def _opening(arguments: tuple[Any, ...]) -> str:
    path, _, flags = arguments
    if isinstance(path, int) or not flags & _WRITING:
        return ""
    name = os.fsdecode(path)
    return "" if name == os.devnull else f"write {name}"


def _signalling(arguments: tuple[Any, ...]) -> str:
    return "send a signal" if arguments[1] else ""  # 0 only looks


def _saying(text: str) -> Callable[[tuple[Any, ...]], str]:
    def said(arguments: tuple[Any, ...]) -> str:
        if "{}" not in text:
            return text
        first = arguments[0] if arguments else ""
        return text.format(os.fsdecode(first) if isinstance(first, (str, bytes, os.PathLike)) else "something")

    return said


_JUDGES: dict[str, Callable[[tuple[Any, ...]], str]] = {
    **{event: _saying(text) for event, text in {**_CHANGES, **_STARTS, **_ASKS}.items()},
    "open": _opening,
    "os.kill": _signalling,
}
