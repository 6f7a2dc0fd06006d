"""What a server tells whoever watches it, over all servers with the same engine: who is connected, what they do, and why."""
