"""The guide to the outbox, followed with a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from tests.outbox.postgres import Postgres
from tests.transcript import ROOT, Reader, blocks


def test_follow(tmp_path: Path) -> None:
    """A reader who types what the page says sees what it says."""
    with Postgres() as postgres, Reader(tmp_path) as reader:
        reader.environment |= {"PGHOST": postgres.directory, "PGUSER": "test", "PGDATABASE": "postgres"}
        for block in blocks(ROOT / "docs/howto/outbox.md"):
            reader.follow(block)
