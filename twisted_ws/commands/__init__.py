"""What ``twisted-ws`` does beside running the server: ``connect`` talks to a WebSocket, ``broadcast`` publishes a message."""
