"""One WebSocket connection: frames, messages, closing, and what waits for the peer."""
