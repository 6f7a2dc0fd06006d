from __future__ import annotations

import os
from pathlib import Path

import pytest

from twisted_ws.daemon.workers.cores import cores


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 16 cores on which this process is in the group /a/b."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    (tmp_path / "sys/fs/cgroup/a/b").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:name=x:/y\n0::/a/b\n")
    return tmp_path


def test_affinity(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a quota the cores are those that the process may run on."""
    assert cores(str(root)) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert cores(str(root)) == 2
    assert cores(str(root / "nowhere")) == 2


@pytest.mark.parametrize(
    ("quota", "count"),
    [("max 100000", 16), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("", 16), ("1 0", 16)],
)
def test_quota(root: Path, quota: str, count: int) -> None:
    """A quota of the group counts, rounded up; one that cannot be read is none."""
    (root / "sys/fs/cgroup/a/b/cpu.max").write_text(quota)
    assert cores(str(root)) == count


def test_quotaOfAGroupAbove(root: Path) -> None:
    """The quota of a group counts for those below it, as that of a container does for what runs in it."""
    (root / "sys/fs/cgroup/a/b/cpu.max").write_text("800000 100000")
    (root / "sys/fs/cgroup/a/cpu.max").write_text("400000 100000")
    assert cores(str(root)) == 4
    (root / "sys/fs/cgroup/cpu.max").write_text("300000 100000")
    assert cores(str(root)) == 3
