"""The channels of the demo page, open to everybody."""

from __future__ import annotations

from typing import Any

from twisted_ws.channels.service import ChannelService
from twisted_ws.upgrade import Reject


class Playground(ChannelService):
    """The service ``channels``, except that pages may publish to channels that begin with ``playground``, and see who is there.

    To every other channel only the back end publishes.
    """

    def __init__(self) -> None:
        super().__init__(publish=True, presence=True)

    def onPublish(self, caller: Any, channel: str, message: Any) -> Any:
        """Refuse to publish outside the playground."""
        if channel.partition(".")[0] != "playground":
            raise Reject(403, "From this page, publish to playground, or to a channel whose name begins with playground.")
