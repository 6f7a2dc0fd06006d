"""The channels of the demo page, which anybody may try out."""

from __future__ import annotations

from typing import Any

from twisted_ws.channels.service import ChannelService
from twisted_ws.upgrade import Reject

__all__ = ["Playground"]


class Playground(ChannelService):
    """Like the service ``channels``, but pages publish to what begins with ``playground``, and see how many are there.

    Every other channel is for what the back end publishes, here as well.
    """

    def __init__(self) -> None:
        super().__init__(publish=True, presence=True)

    def onPublish(self, caller: Any, channel: str, message: Any) -> Any:
        """Refuse what is not for playing."""
        if channel.partition(".")[0] != "playground":
            raise Reject(403, "From this page, publish to playground, or to a channel whose name begins with playground.")
