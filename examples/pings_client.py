"""Ping the service, and be pinged by it."""

from websockets.sync.client import connect

with connect("ws://localhost:8080/pings") as websocket:
    print(websocket.recv())
    pong = websocket.ping(b"are you there?")
    pong.wait()
    websocket.send("how many?")
    print(websocket.recv())
