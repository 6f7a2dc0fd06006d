"""Send text and bytes to the echo service, and show what comes back."""

from websockets.sync.client import connect

with connect("ws://localhost:8080/echo") as websocket:
    print(websocket.recv())
    websocket.send("tea")
    print(websocket.recv())
    websocket.send(b"\x00\x01\xfe\xff")
    print(websocket.recv())
