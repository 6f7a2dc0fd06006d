"""The daemon: options, settings, ports, drain, reload and logs. A `.tac` file uses the names below."""

from twisted_ws.daemon.settings import Mount, Settings
from twisted_ws.daemon.tap import makeService

__all__ = ["Mount", "Settings", "makeService"]
