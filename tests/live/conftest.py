from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hostile import processes
from tests.live import nursery


@pytest.fixture
def hostileForked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the processes of `hostile` forked from the nursery."""
    plain = processes.start

    def start(command: Sequence[str], descriptors: int = 0, **options: Any) -> Any:
        return (nursery.start if nursery.mayFork(command, options) else plain)(command, descriptors, **options)

    monkeypatch.setattr(processes, "start", start)
