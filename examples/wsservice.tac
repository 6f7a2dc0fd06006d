"""The demo service without options: ``twistd -ny examples/wsservice.tac``."""

from twisted.application.service import Application

from twisted_ws.daemon.service import Daemon
from twisted_ws.daemon.settings import Settings

application = Application("twisted_ws")
Daemon(Settings(port="8080")).setServiceParent(application)
