"""Uploads with progress: a file comes in binary messages, and each answer says how much of it is on the disk."""

import uuid
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from twisted.internet.threads import deferToThread
from twisted_ws import CloseFrame, WebSocketService

MIB = 1024 * 1024


@dataclass
class Start:
    """What comes, before it comes: ``{"type": "start", "name": "cat.jpg", "size": 48213}``."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    size: Annotated[int, Meta(ge=1, le=100 * MIB)]


class Upload(WebSocketService):
    """Keep the files that callers send, one at a time each.

    Args:
        folder: where they are kept, under names of our own: never one that a caller chose.
    """

    dispatcherKey = "type"

    def __init__(self, folder="uploads"):
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)

    def onStart(self, caller, start: Start):
        """Begin a file."""
        if "file" in caller.attributes:
            return CloseFrame(4000, "one at a time")
        path = self.folder / f"{uuid.uuid4().hex}.part"
        caller.attributes.update(path=path, file=path.open("xb"), hash=sha256(), left=start.size, start=start)
        return {"received": 0, "size": start.size}

    def onStartError(self, caller, error):
        """Refuse what is too large, or malformed."""
        return {"error": str(error)}

    async def onBinaryMessage(self, caller, data):
        """Write a part, in a thread. Until it is written, the next ones wait: what comes too fast stays in the network."""
        upload = caller.attributes
        if len(data) > upload.get("left", 0):
            return CloseFrame(4001, "more than was announced")
        await deferToThread(self.write, upload, data)
        upload["left"] -= len(data)
        size = upload["start"].size
        if upload["left"]:
            return {"received": size - upload["left"], "size": size}
        path = upload["path"].with_suffix("")
        upload["file"].close()
        upload["path"].rename(path)
        digest = upload["hash"].hexdigest()
        upload.clear()
        return {"received": size, "size": size, "id": path.name, "sha256": digest}

    @staticmethod
    def write(upload, data):
        """Write a part, and count it for the hash."""
        upload["file"].write(data)
        upload["hash"].update(data)

    def onClose(self, caller, statusCode, reason):
        """Remove what is not whole."""
        if "file" in caller.attributes:
            caller.attributes["file"].close()
            caller.attributes["path"].unlink()
