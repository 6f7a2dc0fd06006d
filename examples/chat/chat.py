"""A chat: a room is a channel, who is in it is its presence, and what was said is its history."""

import re

from twisted_ws import ChannelService, Reject

NAME = re.compile(r"[\w .'-]{1,20}")
ROOM = re.compile(r"rooms\.[\w-]{1,30}")
LONGEST = 500


class Chat(ChannelService):
    """Let visitors talk in any room, under the name that is in their URL."""

    def __init__(self):
        super().__init__(publish=True, presence=True)

    def onUpgrade(self, request):
        """Learn who comes. Here, visitors are who they say they are; an authenticator would know."""
        name = request.query.get("name", [""])[0].strip()
        if not NAME.fullmatch(name):
            raise Reject(400, "A name has 1 to 20 letters.")
        request.user = name
        return super().onUpgrade(request)

    def onSubscribe(self, caller, channel):
        """Let visitors into rooms only."""
        if not ROOM.fullmatch(channel):
            raise Reject(404, "There is no such room.")

    def onPublish(self, caller, channel, message):
        """Publish what somebody says, together with who it is: nobody can speak for another."""
        self.onSubscribe(caller, channel)
        if not isinstance(message, str) or not 0 < len(message.strip()) <= LONGEST:
            raise Reject(400, f"Say something, in at most {LONGEST} characters.")
        return {"from": caller.user, "text": message.strip()}
