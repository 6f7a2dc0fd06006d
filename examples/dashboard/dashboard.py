"""A live dashboard: this machine is measured each second, and only while somebody looks."""

import os
from time import process_time

from twisted.internet.task import LoopingCall
from twisted_ws import ChannelService, Reject

CHANNEL = "machine"


def measure():
    """Return what can be measured without waiting."""
    with open("/proc/meminfo") as file:
        memory = dict(line.split(":") for line in file)
    total, free = (int(memory[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return {
        "load": os.getloadavg()[0],
        "memory": 100 * (total - free) / total,
        "files": len(os.listdir("/proc/self/fd")),
        "processor": process_time(),
    }


class Dashboard(ChannelService):
    """Publish measurements. A viewer that is slow gets the newest of each kind, and none of the old ones."""

    def __init__(self):
        super().__init__(policy="latest")
        self.viewers = 0
        self.loop = LoopingCall(self.publishAll)

    def onSubscribe(self, caller, channel):
        """Begin to measure when the first viewer comes."""
        if channel != CHANNEL:
            raise Reject(404, "There is nothing else to look at.")
        self.viewers += 1
        if not self.loop.running:
            self.loop.start(1)

    def onUnsubscribe(self, caller, channel):
        """Stop when the last one has left."""
        self.viewers -= 1
        if self.viewers == 0:
            self.loop.stop()

    def publishAll(self):
        """Publish each measurement with its name as the key: of several with one key, the newest counts."""
        for name, value in measure().items():
            self.server.publish(CHANNEL, {"name": name, "value": value}, key=name)
