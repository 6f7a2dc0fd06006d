"""A service with a mistake in it, to see what happens then."""

from twisted.logger import Logger
from twisted_ws import WebSocketService


class Divider(WebSocketService):
    """Divides 100 by the number that it gets."""

    _log = Logger()

    def onTextMessage(self, caller, text):
        """Divide, without a look at what came: 0 and "tea" raise."""
        return str(100 / int(text))

    def onError(self, caller, error):
        """Hear why the connection is about to be closed."""
        self._log.info("sorry for caller {id}: {error}", id=caller.connectionId, error=str(error))
