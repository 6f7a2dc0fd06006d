from twisted.application.service import ServiceMaker

wsservice = ServiceMaker(
    "twisted_ws", "twisted_ws.daemon.tap", "A WebSocket service server with an HTTP broadcast site.", "wsservice"
)
