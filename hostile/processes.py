"""Processes that a run starts, and that end with it."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["endWithParent", "pinned", "start"]


def start(command: Sequence[str], descriptors: int = 0, **options: Any) -> subprocess.Popen[Any]:
    """Start a process that ends with this one, in whatever way.

    Args:
        command: its words.
        descriptors: how many it may have open; 0: as many as this one.
        options: those of `subprocess.Popen`.
    """

    def begin() -> None:
        endWithParent()
        if descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    return subprocess.Popen(command, preexec_fn=begin, **options)


def pinned(core: int | None, command: list[str]) -> list[str]:
    """Return the command, pinned to one core; not pinned if `core` is None or there is only one core."""
    if core is None or not shutil.which("taskset") or len(os.sched_getaffinity(0)) < 2:
        return command
    return ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[core]), *command]


def endWithParent() -> None:
    """Make the kernel kill this process when its parent ends, in whatever way; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
