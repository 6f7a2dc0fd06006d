"""Where things are."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUILD", "HERE", "ROOT"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Everything that is made here: programs, logs, the last results.
BUILD = HERE / "build"
