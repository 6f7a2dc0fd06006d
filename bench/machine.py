"""The machine that the measurements were made on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["machine"]


def machine() -> Mapping[str, str]:
    """Return the facts that the figures depend on: processor, cores, memory, kernel, Python."""
    kibibytes = int(_first("/proc/meminfo", r"^MemTotal:\s+(\d+) kB") or 0)
    return {
        "processor": _first("/proc/cpuinfo", r"^model name\s*: (.+)$") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{kibibytes / 1024**2:.0f} GiB",
        "system": _first("/etc/os-release", r'^PRETTY_NAME="?([^"\n]+)') or platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _first(path: str, pattern: str) -> str:
    try:
        match = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match[1].strip() if match else ""
