"""The commands of ``twisted-ws`` besides the server: ``connect`` talks to a WebSocket, ``broadcast`` publishes a message."""
