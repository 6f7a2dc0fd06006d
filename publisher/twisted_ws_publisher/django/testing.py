"""Tests that look at what would be published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from twisted_ws_publisher.django import publishing


class Captured(NamedTuple):
    """A message that would have been published.

    Attributes:
        channel: the channel.
        data: as it was given.
        key: the key; None without one.
    """

    channel: str
    data: Any
    key: str | None


@contextmanager
def capture() -> Iterator[list[Captured]]:
    """Collect what `publish_on_commit` would publish, and publish nothing.

    In a ``TestCase``, whose transaction never ends, put it outside ``captureOnCommitCallbacks(execute=True)``.
    """
    captured: list[Captured] = []
    before, publishing.sink = publishing.sink, lambda messages: captured.extend(Captured(*each) for each in messages)
    try:
        yield captured
    finally:
        publishing.sink = before
