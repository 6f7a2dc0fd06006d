"""Test service objects with the real server and the real client, without sockets and without waiting.

Begin with `serve`. Importing this installs no reactor, and none needs to run.
"""

from twisted_ws.testing.client import MemoryClient
from twisted_ws.testing.network import Restless
from twisted_ws.testing.problems import Complaint, NoMessage, StillOpen, Unflushed
from twisted_ws.testing.server import MemoryServer, serve

__all__ = ["Complaint", "MemoryClient", "MemoryServer", "NoMessage", "Restless", "StillOpen", "Unflushed", "serve"]
