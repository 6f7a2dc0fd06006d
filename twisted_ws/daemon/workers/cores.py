"""How many cores there are for this process: one worker for each is what ``--workers 0`` asks for."""

from __future__ import annotations

import os
from math import ceil, inf
from pathlib import Path


def cores(root: str = "/") -> int:
    """Return how many cores this process may use, at least one: by its affinity, and by what its control groups (v2) allow.

    A container that may use two cores of a machine still sees all of them.

    Args:
        root: the directory that has ``proc`` and ``sys``.
    """
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, ceil(min(seen, *map(_quota, _groups(Path(root))))))


def _groups(root: Path) -> list[Path]:
    """Return the directories of the control groups that this process is in, the whole machine's last."""
    machine = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [machine]
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    group = machine / path
    return [group, *(each for each in group.parents if each.is_relative_to(machine)), machine]


def _quota(group: Path) -> float:
    """Return how many cores a group may use."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return inf
