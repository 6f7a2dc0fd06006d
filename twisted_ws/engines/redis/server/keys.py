"""The names of keys, and of the channels of pub/sub."""

from __future__ import annotations

from twisted_ws.engines.redis.server.url import RedisURL


class Keys:
    """All names, behind the prefix of one application.

    Args:
        url: has the prefix and the database.
        node: the id of this node.

    Attributes:
        prefix: what the name of each key begins with.
        messages: what the name of the pub/sub channel of a channel begins with.
        control: the pub/sub channel of all nodes.
        node: the pub/sub channel of this node.
        gate, open, names, leases, nodes, leaving, revocations: see `twisted_ws.engines.redis.server.scripts`.
    """

    def __init__(self, url: RedisURL, node: str) -> None:
        application = f"{url.prefix}:" if url.prefix else ""
        self.prefix = f"{application}tw1:".encode("ascii")
        # Databases share their pub/sub.
        self._shared = f"{application}tw1:{f'{url.database}:' if url.database else ''}".encode("ascii")
        self.messages = self._shared + b"ch:"
        self.control = self._shared + b"ctl"
        self.node = self.nodeOf(node)
        self.gate = self.prefix + b"gate"
        self.open = self.prefix + b"open"
        self.names = self.prefix + b"names"
        self.leases = self.prefix + b"leases"
        self.nodes = self.prefix + b"nodes"
        self.leaving = self.prefix + b"lv"
        self.revocations = self.prefix + b"rv"

    def of(self, letter: bytes, channel: str) -> bytes:
        """Return the key of a channel."""
        return self.prefix + letter + channel.encode("ascii")

    def topic(self, channel: str) -> bytes:
        """Return the pub/sub channel of a channel, or the pattern of a pattern."""
        return self.messages + channel.encode("ascii")

    def nodeOf(self, node: str) -> bytes:
        """Return the pub/sub channel of a node."""
        return self._shared + b"node:" + node.encode()
