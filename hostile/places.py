"""Paths."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUILD", "HERE", "ROOT"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# All generated files: programs, logs, the last results.
BUILD = HERE / "build"
