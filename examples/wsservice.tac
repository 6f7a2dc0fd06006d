"""The daemon as a program: twistd -ny wsservice.tac"""

from twisted.application.service import Application

from twisted_ws.daemon import Settings, makeService

application = Application("wsservice")
makeService(Settings(port="8080")).setServiceParent(application)
