"""A service with a bug in it, to see what happens."""

from twisted.logger import Logger
from twisted_ws import WebSocketService


class Divider(WebSocketService):
    """Divide 100 by the number that a caller sends."""

    _log = Logger()

    def onTextMessage(self, caller, text):
        """Divide without checking the text: 0 and "tea" raise."""
        return str(100 / int(text))

    def onError(self, caller, error):
        """Log why the connection is about to be closed."""
        self._log.info("sorry for caller {id}: {error}", id=caller.connectionId, error=str(error))
