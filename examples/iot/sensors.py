"""Sensors: devices with a certificate send binary readings, and everybody else watches them as JSON."""

import struct

from twisted_ws import CloseFrame, WebSocketService, channelToken

# A reading: seconds (Unix time), hundredths of a degree, per cent of a full battery. Seven bytes, big-endian.
READING = struct.Struct(">IhB")
ANSWER = struct.Struct(">I")


class Sensors(WebSocketService):
    """Publish what devices measure. The authenticator has read who a device is from its certificate."""

    def onBinaryMessage(self, caller, data):
        """Publish one reading or several, and answer with the time of the last: the device need not keep those any more."""
        if not data or len(data) % READING.size:
            return CloseFrame(1003, "a reading has 7 bytes")
        for seconds, hundredths, battery in READING.iter_unpack(data):
            reading = {"device": caller.user, "time": seconds, "celsius": hundredths / 100, "battery": battery}
            self.server.publish(f"sensors.{channelToken(caller.user)}", reading)
        return ANSWER.pack(seconds)
