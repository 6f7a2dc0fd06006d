"""Who can use the file of a secret beside its owner."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.logger import Logger

__all__ = ["isOpenToOthers", "warnIfExposed"]

_log = Logger()


def isOpenToOthers(mode: int) -> bool:
    """Say whether more can be done with a file of this mode than its owner, and its group by reading, can do.

    Who shares a secret by a group means it: so does a Kubernetes Secret with an ``fsGroup``, which is root's with mode 0440.
    """
    return bool(mode & 0o037)


def warnIfExposed(path: str, mode: int) -> None:
    """Warn of a secret that is not its owner's alone.

    Below ``$CREDENTIALS_DIRECTORY`` the rights of the group tell nothing: systemd lets one user read there by an access control
    list, whose mask is shown in their place (mode 0440).

    Args:
        path: of the file.
        mode: of what was opened, not of what has the name now.
    """
    if isOpenToOthers(mode):
        _log.warn("The secret in {path} is open to other users of this machine: chmod 600 {path}", path=path)
    elif mode & 0o040 and not _isCredential(path):
        _log.warn("The secret in {path} is open to its group: chmod 600 {path}, unless that is intended", path=path)


def _isCredential(path: str) -> bool:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and Path(path).resolve().is_relative_to(Path(directory or "").resolve())
