"""A history without an engine."""

from __future__ import annotations

from twisted_ws.engines.replay import HistoryReplay
from twisted_ws.message import Kind, Publication


class Kept:
    """The history of one channel, with so many messages in the beginning."""

    def __init__(self, count: int, channel: str = "a") -> None:
        self.channel = channel
        self.entries: list[Publication] = []
        self.top = 0
        for _ in range(count):
            self.publish()

    @property
    def oldest(self) -> int:
        return self.top - len(self.entries) + 1

    def publish(self, key: str | None = None, size: int = 10) -> Publication:
        self.top += 1
        self.entries.append(Publication(self.channel, "e", self.top, Kind.TEXT, b"x" * size, key, 0))
        return self.entries[-1]

    def forget(self, offset: int) -> None:
        """Forget the messages up to this one."""
        del self.entries[: max(offset - self.oldest + 1, 0)]

    def since(self, offset: int) -> HistoryReplay:
        return HistoryReplay(self, offset + 1, self.top)
