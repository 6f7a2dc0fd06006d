"""A WebSocket server inside your own Twisted program, without the daemon."""

import sys

from twisted.internet import reactor, task
from twisted.internet.endpoints import serverFromString
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted_ws import Limits, WebSocketServer

from echo import Echo


def giveUp(failure):
    """Say why the server cannot listen, and stop."""
    print(failure.getErrorMessage(), file=sys.stderr)
    reactor.callWhenRunning(reactor.stop)


def main():
    """Listen on port 8080, and send everybody the time every second."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
    server = WebSocketServer(limits=Limits(maxMessageSize=64 * 1024))
    server.mount("/echo", Echo())
    listening = serverFromString(reactor, "tcp:8080:interface=127.0.0.1").listen(server.factory())
    listening.addCallbacks(server.adopt, giveUp)
    clock = task.LoopingCall(lambda: server.broadcast({"seconds": int(reactor.seconds())}))
    clock.start(1)
    # Drain: every caller gets Close 1001, and the program ends when the last one has answered, or after 5 seconds.
    reactor.addSystemEventTrigger("before", "shutdown", server.stop, 5)
    reactor.run()


main()
