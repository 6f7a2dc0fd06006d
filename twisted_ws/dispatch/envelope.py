"""The fields of a dispatched message that are read before it is decoded."""

from __future__ import annotations

from typing import Any

import msgspec

_NONE = msgspec.Raw()


class Envelope:
    """Reads two fields of a message that is a JSON object: the one that names the event, and the one that replies repeat.

    No object is made of any other field or value: a megabyte may have half a million.

    Args:
        key: the name of the first field.
        streamId: the name of the second; "" if there is none.

    Raises:
        ValueError: a name cannot be that of a JSON field.
    """

    __slots__ = ("_decoder", "_hasId", "_isOne")

    def __init__(self, key: str, streamId: str = "") -> None:
        fields: list[Any] = [("key", str | None, msgspec.field(name=key, default=None))]
        self._isOne = streamId == key
        if streamId and not self._isOne:
            fields.append(("streamId", msgspec.Raw, msgspec.field(name=streamId, default=_NONE)))
        self._hasId = len(fields) > 1
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("Fields", fields))

    def read(self, message: str | bytes) -> tuple[str, msgspec.Raw | None] | None:
        """Return the event, and the other field as the peer wrote it; None if no string in the message names an event.

        A message that is nested too deeply for JSON is not an object either.
        """
        try:
            if isinstance(message, bytes) and not message.isascii():
                message.decode()  # msgspec checks UTF-8 only where it makes a str
            found: Any = self._decoder.decode(message)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        key = found.key
        if key is None:
            return None
        if self._hasId:
            # A copy: otherwise it would keep the whole message alive.
            return key, None if found.streamId is _NONE else found.streamId.copy()
        return key, msgspec.Raw(msgspec.json.encode(key)) if self._isOne else None
