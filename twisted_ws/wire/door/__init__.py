"""The door: from the first byte of a connection to the decision on its opening handshake."""
