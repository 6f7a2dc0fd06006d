"""The lines typed earlier, kept in a private file."""

from __future__ import annotations

import os
from pathlib import Path

# The number of lines that are kept, and the bytes of one.
MOST = 1000
LONGEST = 4096


def place() -> Path | None:
    """Return the path of the history, by the XDG Base Directory Specification; None if there is no home directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification says to ignore a relative one.
    try:
        base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:
        return None  # a user unknown to the system, for example in a container
    return base / "twisted-ws" / "history"


class History:
    """The last lines; a file that cannot be read or written is ignored.

    Args:
        path: the file; None: nothing is kept after the process ends.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.lines: list[str] = []
        if path is not None:
            try:
                self._load(path)
            except OSError:
                pass

    def _load(self, path: Path) -> None:
        with open(path, "rb") as file:
            # Several sessions may have added to it; the next one cuts it.
            data = file.read(2 * MOST * LONGEST + 1)
        found = data.decode(errors="replace").splitlines()
        self.lines = found[-MOST:]
        if len(found) > MOST:
            cut = path.with_name(f"{path.name}.{os.getpid()}")
            with os.fdopen(os.open(cut, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write("".join(f"{line}\n" for line in self.lines).encode())
            cut.replace(path)

    def add(self, line: str) -> None:
        """Keep a line, unless it is blank, begins with a space (to keep a secret out) or repeats the last one."""
        if not line.strip() or line.startswith(" ") or len(line.encode()) > LONGEST or self.lines[-1:] == [line]:
            return
        self.lines.append(line)
        del self.lines[:-MOST]
        if self._path is not None:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.write(f"{line}\n".encode())
            except OSError:
                self._path = None
