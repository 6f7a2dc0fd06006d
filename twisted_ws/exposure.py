"""Who can use a secret's file besides its owner."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.logger import Logger

_log = Logger()


def isOpenToOthers(mode: int) -> bool:
    """Return whether this mode allows anything except access by the owner and reading by the group.

    Sharing a secret with a group is deliberate: a Kubernetes Secret with an ``fsGroup`` is owned by root, with mode 0440.
    """
    return bool(mode & 0o037)


def warnIfExposed(path: str, mode: int) -> None:
    """Warn if a secret is open to anybody but its owner.

    Below ``$CREDENTIALS_DIRECTORY`` the group's rights mean nothing: systemd lets one user read there by an access control list,
    whose mask is shown in their place (mode 0440).

    Args:
        path: the file.
        mode: that of the file that was opened, not of the one that has the name now.
    """
    if isOpenToOthers(mode):
        _log.warn(
            "The secret in {file} is open to other users of this machine: chmod 600 {file}", file=path, event="secret.exposed"
        )
    elif mode & 0o040 and not _isCredential(path):
        _log.warn(
            "The secret in {file} is open to its group: chmod 600 {file}, unless that is intended",
            file=path,
            event="secret.exposed",
        )


def _isCredential(path: str) -> bool:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and Path(path).resolve().is_relative_to(Path(directory or "").resolve())
