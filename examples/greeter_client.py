"""Offer subprotocols to the greeter, and show which one it chooses."""

from websockets.sync.client import connect

for offer in (["plain", "json"], ["mqtt", "json"], ["mqtt"]):
    with connect("ws://localhost:8080/greeter", subprotocols=offer) as websocket:
        print(offer, "->", websocket.subprotocol, websocket.recv())
