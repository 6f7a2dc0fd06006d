from __future__ import annotations

from pathlib import Path

import pytest
from twisted.logger import capturedLogs

from twisted_ws.exposure import isOpenToOthers, warnIfExposed

OTHERS, GROUP = "is open to other users of this machine: chmod 600 ", "is open to its group: chmod 600 "


@pytest.mark.parametrize(
    ("mode", "others", "warning"),
    [
        *[(mode, False, "") for mode in (0o600, 0o400, 0o700)],
        *[(mode, False, GROUP) for mode in (0o640, 0o440)],
        *[(mode, True, OTHERS) for mode in (0o604, 0o644, 0o660, 0o610, 0o601, 0o777)],
    ],
)
def test_modes(mode: int, others: bool, warning: str) -> None:
    """The warning about a secret that its group may read is not that about one that anybody may read, or others write."""
    with capturedLogs() as events:
        warnIfExposed("/k", 0o100000 | mode)
    assert isOpenToOthers(0o100000 | mode) is others
    assert [each["log_format"].format(**each).startswith(f"The secret in /k {warning}/k") for each in events] == [True] * bool(
        warning
    )


def test_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below $CREDENTIALS_DIRECTORY there is no warning: the group bits there come from an access control list of systemd."""
    (tmp_path / "link").symlink_to(tmp_path / "own", target_is_directory=True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "link"))
    monkeypatch.chdir(tmp_path)
    for path, mode, count in (
        (tmp_path / "own" / "key", 0o440, 0),
        (Path("link/key"), 0o440, 0),
        (tmp_path / "own" / "key", 0o444, 1),
        (tmp_path / "owner" / "key", 0o440, 1),
        (tmp_path / "own" / ".." / "key", 0o440, 1),
    ):
        with capturedLogs() as events:
            warnIfExposed(str(path), mode)
        assert len(events) == count, path
